"""`opensama serve` under many clients and under kill -9: is anything lost, mixed up or made twice, and how fast is it?

    python benchmarks/serve.py [--clients 50] [--kills 20] [--model tiny]

Each client edits a clip that shows its own number, outside of the box that the edit may change, and reads it in the
result. Then all do so again while the service or its worker is killed at random moments; who is killed is begun again,
and clients repeat their requests with the same idempotency keys. Any wrong number ends the run with an error.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np

from opensama.media.video_io import read_video, write_video
from opensama.values import Video

PROMPT = "Make the scene look like night."
SIDE, STRIP, BITS, FRAMES = 64, 16, 8, 5


def numbered(number: int, path: Path) -> bytes:
    """A clip of noise, with a strip on its right whose blocks are the number's bits."""
    dots = np.random.default_rng(number).integers(0, 255, (FRAMES, 8, 8, 3), np.uint8)
    frames = np.repeat(np.repeat(dots, SIDE // 8, 1), SIDE // 8, 2)
    bits = np.array([number >> bit & 1 for bit in range(BITS)], np.uint8) * 255
    strip = np.broadcast_to(np.repeat(bits, SIDE // BITS)[None, :, None, None], (FRAMES, SIDE, STRIP, 3))
    write_video(Video.from_frames(np.concatenate([frames, strip], axis=2), 8), path, overwrite=True)
    return path.read_bytes()


def number_in(path: Path) -> int:
    """The number that every frame of a clip shows; -1 where they differ."""
    strips = read_video(path).array()[:, :, SIDE + 4 :].mean(axis=(2, 3)).reshape(FRAMES, BITS, -1).mean(-1) > 128
    found = {int(sum(int(bit) << place for place, bit in enumerate(strip))) for strip in strips}
    return found.pop() if len(found) == 1 else -1


class Served:
    """The command in a process of its own, that may be killed and begun again."""

    def __init__(self, folder: Path, model: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.command = [
            sys.executable, "-m", "opensama.apps.cli", "serve", "--folder", str(folder / "queue"), "--port", str(port),
            "--model", model, "--tries", "1000", "--queue-per-owner", "1000", "--queue", "1000", "--rate", "1000000",
            "--free-disk", "100",
        ]  # fmt: skip
        self.url, self.log = f"http://127.0.0.1:{port}", (folder / "log").open("ab")
        self.begin()

    def begin(self) -> None:
        self.process = subprocess.Popen(self.command, stdout=self.log, stderr=self.log)

    def workers(self) -> list[int]:
        """Process ids, as Linux tells them."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == self.process.pid and b"spawn_main" in (place / "cmdline").read_bytes():
                    found.append(int(place.name))
            except (OSError, ValueError):
                continue
        return found

    def kill(self, lot: random.Random) -> str:
        if lot.random() < 0.5 and (workers := self.workers()):
            os.kill(lot.choice(workers), signal.SIGKILL)
            return "worker"
        self.process.kill()
        self.process.wait()
        self.begin()
        return "service"

    def memory(self) -> float:
        """MB that the service itself holds."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", status)
        return int(found[1]) / 1024 if found else 0.0

    def end(self) -> None:
        self.process.terminate()
        self.process.wait()
        self.log.close()


def patiently(ask: Callable[[], httpx.Response], seconds: float = 900) -> httpx.Response:
    """An answer, however often the service is gone meanwhile."""
    until = time.monotonic() + seconds
    while True:
        try:
            answer = ask()
            if answer.status_code < 500:
                return answer.raise_for_status()
        except httpx.TransportError:
            pass
        if time.monotonic() > until:
            raise TimeoutError("the service does not answer")
        time.sleep(0.2)


def edit(url: str, number: int, run: str, folder: Path) -> float:
    """One client's edit; the seconds from the request to the result, which shows its number."""
    begun = time.perf_counter()
    path = folder / f"{run}-{number}.mp4"
    data = numbered(number, path)
    asked = {"prompt": PROMPT, "seed": str(number), "steps": "1", "box": f"0,0,{SIDE - 8},{SIDE}"}
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        job = patiently(lambda: client.post(
            "/v1/videos/edits", data=asked, files={"video": data}, headers={"Idempotency-Key": f"{run}-{number}"}
        )).json()  # fmt: skip
        while job["status"] not in ("completed", "failed"):
            time.sleep(0.3)
            job = patiently(partial(client.get, f"/v1/videos/{job['id']}")).json()
        assert job["status"] == "completed", job
        assert job["seed"] == number, "another client's job"
        path.write_bytes(patiently(lambda: client.get(f"/v1/videos/{job['id']}/content")).content)
    assert number_in(path) == number, f"client {number} was given the number {number_in(path)}"
    return time.perf_counter() - begun


def edit_all(url: str, clients: int, run: str, folder: Path) -> list[float]:
    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(lambda number: edit(url, number, run, folder), range(1, clients + 1)))


def jobs_of(url: str) -> list[dict[str, Any]]:
    """All jobs, page by page."""
    found: list[dict[str, Any]] = []
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        while True:
            after = {"after": found[-1]["id"]} if found else {}
            page = client.get("/v1/videos", params={"limit": 17} | after).raise_for_status().json()
            found += page["data"]
            if not page["has_more"]:
                return found


def is_editing(url: str) -> bool:
    """Whether a worker is at a job: a kill in between would prove little."""
    try:
        return 'opensama_jobs{status="in_progress"} 1' in httpx.get(f"{url}/metrics", trust_env=False).text
    except httpx.TransportError:
        return False


def gets_a_second(url: str, video_id: str, seconds: float = 5, threads: int = 8) -> float:
    until = time.perf_counter() + seconds

    def ask() -> int:
        many = 0
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            while time.perf_counter() < until:
                client.get(f"/v1/videos/{video_id}").raise_for_status()
                many += 1
        return many

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(lambda _: ask(), range(threads))) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    lot, killed = random.Random(options.seed), list[str]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        begun = time.perf_counter()
        served = Served(folder, options.model)
        with httpx.Client(base_url=served.url, trust_env=False) as client:
            patiently(lambda: client.get("/healthz"))
        answers = time.perf_counter() - begun
        first = edit(served.url, 0, "first", folder)
        before = served.memory()
        times = edit_all(served.url, options.clients, "quiet", folder)
        after = served.memory()
        rate = gets_a_second(served.url, jobs_of(served.url)[0]["id"])

        over = threading.Event()

        def kill() -> None:
            while len(killed) < options.kills and not over.wait(0.05):
                if is_editing(served.url) and not over.wait(lot.uniform(0, 2)):
                    killed.append(served.kill(lot))

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            edit_all(served.url, options.clients, "killed", folder)
            while len(killed) < options.kills:  # all were done before the last kill: more to do
                edit_all(served.url, options.clients, f"killed-{len(killed)}", folder)
        finally:
            over.set()
            killer.join()
        patiently(lambda: httpx.get(f"{served.url}/healthz", trust_env=False))
        jobs = jobs_of(served.url)
        text = httpx.get(f"{served.url}/metrics", trust_env=False).text
        served.end()
    figures = {found[1]: float(found[2]) for found in re.finditer(r"^opensama_(\w+)_total (\S+)$", text, re.MULTILINE)}
    assert len({job["id"] for job in jobs}) == len(jobs) == figures["submitted"] == figures["completed"]
    assert all(job["status"] == "completed" for job in jobs)
    print(f"{options.model}, clips of {FRAMES} frames of {SIDE + STRIP}x{SIDE}; nothing lost, mixed up or made twice\n")
    print("| what | measured |\n|---|---:|")
    rows = {
        "from start to the first answer": f"{answers:.1f} s",
        "the first edit from there, the model's loading included": f"{first:.1f} s",
        f"{options.clients} clients at once, the last one's result": f"{max(times):.1f} s",
        "the middle one's": f"{statistics.median(times):.1f} s",
        "`GET` of a job, 8 clients": f"{rate:.0f} a second",
        "memory of the service before and after them": f"{before:.0f} and {after:.0f} MB",
        "kill -9 of the service, of a worker": f"{killed.count('service')}, {killed.count('worker')}",
        "edits begun again after a kill": f"{figures['requeued']:.0f}",
        "jobs taken in, and done once": f"{figures['submitted']:.0f}, {figures['completed']:.0f}",
    }
    for what, value in rows.items():
        print(f"| {what} | {value} |")


if __name__ == "__main__":
    main()
