"""`opensama serve` under many clients and under kill -9: is anything lost, mixed up or made twice, and how fast is it?

    python benchmarks/serve.py [--clients 50] [--kills 20] [--jobs 1000] [--model tiny]

Each client edits a clip that shows its own number, outside of the box that the edit may change, and reads it in the
result. Then all do so again while the service or its worker is killed at random moments; who is killed is begun again,
and clients repeat their requests with the same idempotency keys. Any wrong number ends the run with an error. With
`--jobs` so many more are edited one after another, and the memory of service and worker is looked at on the way. The
model `random` has random weights at the smallest size: what is measured then is the service.
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
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Self

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

    def memory(self, pid: int | None = None) -> float:
        """MB that the service itself holds, or another process."""
        status = Path(f"/proc/{pid or self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", status)
        return int(found[1]) / 1024 if found else 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

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
    def ask(client: httpx.Client) -> int:
        many = 0
        while time.perf_counter() < until:
            client.get(f"/v1/videos/{video_id}").raise_for_status()
            many += 1
        return many

    with ExitStack() as stack, ThreadPoolExecutor(threads) as pool:
        made = (httpx.Client(base_url=url, timeout=60, trust_env=False, verify=False) for _ in range(threads))
        clients = [stack.enter_context(client) for client in made]
        until = time.perf_counter() + seconds
        return sum(pool.map(ask, clients)) / seconds


def first_frame(url: str, folder: Path) -> tuple[float, float]:
    """Seconds from an upload to the edited frame that the page shows first, of a clip of 49 frames of 512x320, and
    those of the upload alone."""
    shades = np.linspace(0, 200, 49, dtype=np.uint8)[:, None, None, None]
    ramp = np.linspace(0, 55, 512, dtype=np.uint8)[None, None, :, None]
    write_video(Video.from_frames(np.broadcast_to(shades + ramp, (49, 320, 512, 3)), 24), folder / "clip.mp4")
    with httpx.Client(base_url=url, timeout=300, trust_env=False) as client:
        begun = time.perf_counter()
        files = {"video": (folder / "clip.mp4").read_bytes()}
        kept = client.post("/v1/videos/uploads", files=files).raise_for_status().json()["id"]
        uploaded = time.perf_counter() - begun
        job = client.post("/v1/videos/edits", json={"prompt": PROMPT, "video": {"id": kept, "frame": 0}}).json()
        while job["status"] not in ("completed", "failed"):
            time.sleep(0.05)
            job = client.get(f"/v1/videos/{job['id']}").json()
        assert job["status"] == "completed", job
        assert client.get(f"/v1/videos/{job['id']}/content").raise_for_status().content
    return time.perf_counter() - begun, uploaded


def memory_over(served: Served, jobs: int, folder: Path) -> dict[int, tuple[float, float]]:
    """MB of service and worker after so many jobs of one clip, none of which is deleted."""
    found = {}
    with httpx.Client(base_url=served.url, timeout=300, trust_env=False) as client:
        files = {"video": numbered(1, folder / "memory.mp4")}
        kept = client.post("/v1/videos/uploads", files=files).raise_for_status().json()["id"]
        for done in range(1, jobs + 1):
            asked = {"prompt": PROMPT, "video": {"id": kept}, "steps": 1, "seed": done}
            job = client.post("/v1/videos/edits", json=asked).raise_for_status().json()
            while job["status"] not in ("completed", "failed"):
                time.sleep(0.1)
                job = client.get(f"/v1/videos/{job['id']}").json()
            assert job["status"] == "completed", job
            if done in (jobs // 20, jobs // 4, jobs // 2, jobs):
                (worker,) = served.workers()
                found[done] = served.memory(), served.memory(worker)
                print(f"{done} jobs: service and worker {found[done]} MB", file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=0)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    lot, killed = random.Random(options.seed), list[str]()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        begun = time.perf_counter()
        if options.model == "random":
            sys.path.insert(0, str(Path(__file__).parents[1]))
            from tests.apps.bad_input import save_model

            save_model(folder / "random")
            options.model = str(folder / "random")
        served = stack.enter_context(Served(folder, options.model))
        with httpx.Client(base_url=served.url, trust_env=False) as client:
            patiently(lambda: client.get("/healthz"))
        answers = time.perf_counter() - begun
        first = edit(served.url, 0, "first", folder)
        key_frame = first_frame(served.url, folder)
        before = served.memory()
        times = edit_all(served.url, options.clients, "quiet", folder)
        after = served.memory()
        rate = gets_a_second(served.url, jobs_of(served.url)[0]["id"])

        held = memory_over(served, options.jobs, folder) if options.jobs else {}
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
        jobs = [job for job in jobs_of(served.url) if job["model"]]  # an upload has none
        text = httpx.get(f"{served.url}/metrics", trust_env=False).text
    figures = {found[1]: float(found[2]) for found in re.finditer(r"^opensama_(\w+)_total (\S+)$", text, re.MULTILINE)}
    assert len({job["id"] for job in jobs}) == len(jobs) == figures["submitted"] == figures["completed"]
    assert all(job["status"] == "completed" for job in jobs)
    clips = f"clips of {FRAMES} frames of {SIDE + STRIP}x{SIDE}"
    print(f"{Path(options.model).name}, {clips}; nothing lost, mixed up or made twice\n")
    print("| what | measured |\n|---|---:|")
    rows = {
        "from start to the first answer": f"{answers:.1f} s",
        "the first edit from there, the model's loading included": f"{first:.1f} s",
        f"{options.clients} clients at once, the last one's result": f"{max(times):.1f} s",
        "the middle one's": f"{statistics.median(times):.1f} s",
        "`GET` of a job, 8 clients": f"{rate:.0f} a second",
        "memory of the service before and after them": f"{before:.0f} and {after:.0f} MB",
        "from upload to the first edited frame, 49 frames of 512x320": f"{key_frame[0]:.1f} s",
        "of it the upload, decoded whole": f"{key_frame[1]:.1f} s",
        **{
            f"memory of service and worker after {done:,} jobs more": f"{service:.0f} and {worker:.0f} MB"
            for done, (service, worker) in held.items()
        },
        "kill -9 of the service, of a worker": f"{killed.count('service')}, {killed.count('worker')}",
        "edits begun again after a kill": f"{figures['requeued']:.0f}",
        "jobs taken in, and done once": f"{figures['submitted']:.0f}, {figures['completed']:.0f}",
    }
    for what, value in rows.items():
        print(f"| {what} | {value} |")


if __name__ == "__main__":
    main()
