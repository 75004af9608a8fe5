"""Damaged media files and odd requests for `opensama serve`: does it stay up, answer in its form, and leave nothing?

    python benchmarks/fuzz.py [--count 10000] [--first 0] [--seed 0] [--model tiny]

Input number N is made of the seed and N alone: `--first N --count 1` sends it again, and a run may be made in parts.
Six of ten are media files: valid ones of every kind that the service takes, made here, then damaged, mostly within
their packets, so that the demuxer goes on and the decoder gets them. The others are requests: methods, addresses,
headers, forms, JSON. An input counts as past the demuxer where a frame was decoded or one failed to be.

Every answer must have a documented status and, refused, one sentence in the error form; after all of them the service
must be the same process, with no file, and no more memory or open files than before. One in forty of the damaged files
that are taken in is edited to the end by the worker; the other jobs are deleted at once.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import httpx2 as httpx

sys.path.insert(0, str(Path(__file__).parent))
from fuzz_inputs import PROMPT, Sent, damaged_file, form_body, odd_request, valid_file
from serve import Served, patiently

STATUSES = {200, 206, 400, 401, 403, 404, 405, 413, 416, 422, 429, 503, 507}
"""Those that docs/serve.md names."""
PATIENCE = 150.0  # seconds for an answer; the service gives a file 120
_PAST = re.compile(r"frame \d+ cannot be decoded|frames that can be decoded|decoder broke down|wants more|took more|"
                   r"ends before its last|of \d+ that may be|pixels|lasts|sound|no frames")  # fmt: skip

# --- sending


@dataclass
class Fuzzer:
    """Sends inputs to a service, counts its answers, and keeps what is wrong with them."""

    url: str
    seed: int = 0
    key: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest: float = 0.0
    _kept: str = "video_none"
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, number: int) -> None:
        """One input, and what must be true of the answer."""
        lot = random.Random(f"{self.seed}-{number}")
        if lot.random() < 0.6:
            kind, sent = self._media(lot)
        else:
            kind, sent = "request", odd_request(lot, self.jobs())
        begun = time.perf_counter()
        try:
            status, headers, body = self.ask(sent)
        except (OSError, HTTPException) as error:
            status, headers, body = 0, {}, repr(error).encode()
        seconds = time.perf_counter() - begun
        fault, answer = check_answer(status, headers, body, sent)
        with self._lock:
            self.counts[kind] += 1
            self.counts[f"status {status}"] += 1
            self.slowest = max(self.slowest, seconds)
            if kind == "media":
                sentence = (answer.get("error") or {}).get("message", "")
                self.counts["taken in"] += status == 200
                self.counts["past the demuxer"] += status == 200 or bool(_PAST.search(sentence))
            if fault:
                self.faults.append(f"input {number} ({kind}): {fault}")
        if status == 200 and answer.get("object") == "video" and sent.method == "POST":
            self._end(answer["id"], lot.random() < 0.025 and kind == "media")

    def jobs(self) -> list[str]:
        """Ids that a request may name: of a clip that was kept, which is put there anew where it was deleted."""
        parts = [("video", "a.mp4", valid_file("mp4"))]
        with self._lock:
            if self.ask(Sent("GET", f"/v1/videos/{self._kept}", [], b""))[0] != 200:
                self._kept = json.loads(self.ask(_posted("/v1/videos/uploads", cast(Any, parts)))[2])["id"]
            return [self._kept]

    def _media(self, lot: random.Random) -> tuple[str, Sent]:
        name, data = damaged_file(lot)
        file = ("video", lot.choice(["a.mp4", "../../a", name]), data)
        if lot.random() < 0.5:
            return "media", _posted("/v1/videos/uploads", [file])
        fields = [("prompt", None, PROMPT.encode()), ("steps", None, b"1"), ("anyway", None, b"1")]
        if lot.random() < 0.15:
            clip = ("video", "a.mp4", valid_file("mp4"))
            return "media", _posted("/v1/videos/edits", [*fields, clip, (lot.choice(["mask", "reference"]), "b", data)])
        if lot.random() < 0.3:
            fields.append(lot.choice([("frames", None, b"1:3"), ("box", None, b"0,0,16,16"), ("alpha", None, b"keep")]))
        return "media", _posted("/v1/videos/edits", [*fields, file])

    def _end(self, job_id: str, wait: bool) -> None:
        """Deletes a job, or first has it edited."""
        until = time.monotonic() + PATIENCE
        status = ""
        while wait and status not in ("completed", "failed") and time.monotonic() < until:
            time.sleep(0.2)
            answer, _, body = self.ask(Sent("GET", f"/v1/videos/{job_id}", [], b""))
            status = json.loads(body)["status"] if answer == 200 else "failed"
        with self._lock:
            if wait:
                self.counts[f"edited: {status}"] += 1
            if wait and status not in ("completed", "failed"):
                self.faults.append(f"the job {job_id} was {status} after {PATIENCE:g} s")
        self.ask(Sent("DELETE", f"/v1/videos/{job_id}", [], b""))

    def ask(self, sent: Sent) -> tuple[int, dict[str, str], bytes]:
        """The answer to a request as it stands, whatever stands in it."""
        place = urlsplit(self.url)
        headers = list(sent.headers)
        given = {name.lower() for name, _ in headers}
        headers += [("Host", place.netloc)] if "host" not in given else []
        headers += (
            [("Content-Length", str(len(sent.body)))] if not given & {"content-length", "transfer-encoding"} else []
        )
        headers += [("Authorization", f"Bearer {self.key}")] if self.key and "authorization" not in given else []
        target = "".join(
            one if "!" <= one <= "~" else "".join(f"%{byte:02X}" for byte in one.encode("utf-8", "surrogatepass"))
            for one in sent.target
        )
        head = f"{sent.method} {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers)
        with socket.create_connection((place.hostname or "", place.port or 80), PATIENCE) as client:
            try:
                client.sendall(head.encode("latin-1", "replace") + b"Connection: close\r\n\r\n" + sent.body)
                if given & {"content-length", "transfer-encoding"}:
                    client.shutdown(socket.SHUT_WR)  # all that will come; the service takes it as the sender's leaving
            except OSError:
                pass  # refused before all of it was read: the answer says why
            answer = HTTPResponse(client, method=sent.method)
            answer.begin()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


def _posted(target: str, parts: list[tuple[str, str | None, bytes]]) -> Sent:
    boundary = "b0undary-0f-the-fuzzer"
    kind = f"multipart/form-data; boundary={boundary}"
    return Sent("POST", target, [("Content-Type", kind)], form_body(parts, boundary))


def check_answer(status: int, headers: dict[str, str], body: bytes, sent: Sent) -> tuple[str, dict[str, Any]]:
    """What is wrong with an answer, nothing where it is empty, and what it says, where that is an object."""
    given = {name.lower() for name, _ in sent.headers}
    if status == 0 and given & {"content-length", "transfer-encoding"} and b"RemoteDisconnected" in body:
        return "", {}  # a body that ended before it should have: nobody waits for an answer
    if (status, body) == (400, b"Invalid HTTP request received."):
        return "", {}  # no HTTP at all
    if status not in STATUSES:
        return f"status {status} to {sent.method} {sent.target[:60]!r}: {body[:120]!r}", {}
    said: Any = {}
    if headers.get("content-type", "").startswith("application/json"):
        try:
            said = json.loads(body or b"{}")
        except ValueError:
            return f"no JSON: {body[:80]!r}", {}
    if status < 400 or sent.method == "HEAD":
        return "", said if isinstance(said, dict) else {}
    error = said.get("error") if isinstance(said, dict) else None
    if not isinstance(error, dict) or error.keys() != {"message", "type", "param", "code"}:
        return (
            f"{status} not in the error form to {sent.method} {sent.target[:60]!r} {sent.headers}: {body[:120]!r}",
            {},
        )
    message = error["message"]
    if not message or message[-1] not in ".?)" or "\n" in message or "/tmp" in message or "Traceback" in message:
        return f"{status} with no plain sentence: {message[:300]!r}", said
    return "", said


def _held(pid: int) -> tuple[float, int]:
    """MB that a process holds, and how many files it has open."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+)", status)
    return int(found[1]) / 1024 if found else 0.0, len(list(Path(f"/proc/{pid}/fd").iterdir()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--clients", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, Served(Path(name), options.model) as served:
        folder = Path(name)
        fuzzer = Fuzzer(served.url, options.seed)
        health = f"{served.url}/healthz"
        patiently(lambda: httpx.get(health, trust_env=False))
        numbers = range(options.first, options.first + options.count)
        early: tuple[float, int] | None = None
        begun, workers = time.monotonic(), served.workers()
        with ThreadPoolExecutor(options.clients) as pool:
            with suppress(KeyboardInterrupt):  # Ctrl-C: the table so far
                for done, _ in enumerate(pool.map(fuzzer.send, numbers), 1):
                    if done == min(500, options.count // 4) or done % 1000 == 0:
                        early = early or _held(served.process.pid)
                        print(f"{done} inputs, {len(fuzzer.faults)} faults", file=sys.stderr, flush=True)
            pool.shutdown(cancel_futures=True)
        seconds = time.monotonic() - begun
        answered = httpx.get(health, trust_env=False).status_code
        after = _held(served.process.pid)
        for job in json.loads(fuzzer.ask(Sent("GET", "/v1/videos?limit=100", [], b""))[2])["data"]:
            fuzzer.ask(Sent("DELETE", f"/v1/videos/{job['id']}", [], b""))
        time.sleep(2)
        left = len(list((folder / "queue" / "files").iterdir()))
        alive, same = served.process.poll() is None, served.workers() == workers
        log = (folder / "log").read_text(errors="replace")
    _report(fuzzer, seconds, early or after, after, left, log)
    assert answered == 200, "the service is down"
    assert alive, "the service has ended"
    assert same, "a worker has ended"


def _report(
    fuzzer: Fuzzer, seconds: float, early: tuple[float, int], after: tuple[float, int], left: int, log: str
) -> None:
    counts = fuzzer.counts
    rows = {
        "inputs": f"{counts['media'] + counts['request']:,}",
        "damaged files": f"{counts['media']:,}",
        "of them past the demuxer": f"{counts['past the demuxer'] / max(1, counts['media']):.0%}",
        "of them taken in, decoded whole": f"{counts['taken in'] / max(1, counts['media']):.0%}",
        "odd requests": f"{counts['request']:,}",
        "answers by status": ", ".join(
            f"{name[7:]}: {many:,}" for name, many in sorted(counts.items()) if name.startswith("status")
        ),
        "edits that the worker made of damaged files": ", ".join(
            f"{many} {name[8:]}" for name, many in sorted(counts.items()) if name.startswith("edited")
        ),
        "answers that were not as documented": f"{len(fuzzer.faults)}",
        "errors in the service's log": f"{log.count('Traceback')}",
        "longest answer": f"{fuzzer.slowest:.1f} s",
        "memory of the service, early and at the end": f"{early[0]:.0f} and {after[0]:.0f} MB",
        "open files, early and at the end": f"{early[1]} and {after[1]}",
        "folders left when all jobs were deleted": f"{left}",
        "inputs a second": f"{(counts['media'] + counts['request']) / seconds:.1f}",
    }
    print("| what | measured |\n|---|---:|")
    for what, value in rows.items():
        print(f"| {what} | {value} |")
    for fault in fuzzer.faults[:60]:
        print(fault)
    places = re.findall(r'(File "[^"]+", line \d+, in \w+)\n(?:    .*\n)+((?:\w+\.)*\w*(?:Error|Exception)\b.*)', log)
    for (place, said), many in Counter(places).most_common(30):
        print(f"in the log, {many} times: {said[:200]} at {place}")


if __name__ == "__main__":
    main()
