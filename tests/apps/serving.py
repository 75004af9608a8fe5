"""The service on a free port of this machine, in this process; its workers are forked from the tests' own server."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx2 as httpx

from opensama.apps.edit_settings import LoadSettings
from opensama.apps.jobs.engine import JobEngine
from opensama.apps.jobs.limits import JobLimits
from opensama.apps.jobs.worker import WorkerSettings
from opensama.apps.service.access import Access
from opensama.apps.service.server import bound_socket, server_for
from opensama.pipeline.batch import ActorShare
from tests import ranks  # whose list of modules the server of processes imports

assert ranks
Answer = dict[str, Any]
T = TypeVar("T")


@dataclass
class Service:
    """A service that runs."""

    engine: JobEngine
    url: str
    _clients: dict[str, httpx.Client] = field(default_factory=dict)

    def of(self, name: str) -> httpx.Client:
        """Requests of the owner of that name, whose key is key-NAME; of nobody without one."""
        if name not in self._clients:
            headers = {"Authorization": f"Bearer key-{name}"} if name else {}
            self._clients[name] = httpx.Client(base_url=self.url, headers=headers, timeout=60, verify=False)
        return self._clients[name]

    def edit(self, video: bytes, owner: str = "alice", status: int = 200, **values: Any) -> Answer:
        """`POST /v1/videos/edits` as a form."""
        asked = {"prompt": "Make the ball red.", "anyway": "true"} | values
        answer = self.of(owner).post("/v1/videos/edits", data=asked, files={"video": ("../../x.mp4", video)})
        assert answer.status_code == status, answer.text
        return answer.json()

    def job(self, video_id: str, owner: str = "alice") -> Answer:
        """The job as it is now."""
        return self.of(owner).get(f"/v1/videos/{video_id}").raise_for_status().json()

    def finished(self, video_id: str, owner: str = "alice", seconds: float = 60) -> Answer:
        """The job when it is over."""
        list(self.lines(video_id, owner, seconds))
        return self.of(owner).get(f"/v1/videos/{video_id}").raise_for_status().json()

    def lines(self, video_id: str, owner: str = "alice", seconds: float = 60) -> Iterator[str]:
        """What is said of a job until it is over."""
        with self.of(owner).stream("GET", f"/v1/videos/{video_id}/events", timeout=seconds) as answer:
            yield from answer.iter_lines()

    def content(self, video_id: str, owner: str = "alice", **query: Any) -> bytes:
        return self.of(owner).get(f"/v1/videos/{video_id}/content", params=query).raise_for_status().content

    def kill_worker(self) -> None:
        for pid in self.engine.workers.pids:
            os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        for client in self._clients.values():
            client.close()


def settings_for(folder: Path, model: Path, **limits: Any) -> WorkerSettings:
    return WorkerSettings(folder, {"model": str(model)}, LoadSettings(device="cpu"), JobLimits(free_disk=1, **limits))


@contextmanager
def serving(
    settings: WorkerSettings,
    *owners: str,
    page: bool = False,
    port: int = 0,
    devices: Sequence[str] = ("cpu",),
    share: ActorShare | None = None,
) -> Iterator[Service]:
    """The service while the block runs, or the `page`; owners are lines of a file of keys without the hash: `carol
    queue=1`."""
    lines = []
    for owner in owners:
        name, *limits = owner.split()
        lines.append(" ".join([name, hashlib.sha256(f"key-{name}".encode()).hexdigest(), *limits]))
    with bound_socket("127.0.0.1", port) as bound, JobEngine(settings, devices, "forkserver", share) as engine:
        server = server_for(engine, Access.of(None, lines), page)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        service = Service(engine, f"http://127.0.0.1:{bound.getsockname()[1]}")
        try:
            yield service
        finally:
            service.close()
            server.should_exit = True
            thread.join()


def wait_for(what: Callable[[], T], seconds: float = 60) -> T:
    """What `what()` gives when it gives something."""
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until
        time.sleep(0.01)
    return found
