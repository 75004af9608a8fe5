"""One worker process a device: begun, begun again when it dies, ended when it hangs, and with the service.

A worker itself ends a job that takes too long, at its next step; one that comes to no step is killed.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import IO, Any

from opensama.apps.jobs.remote import RayWorker
from opensama.apps.jobs.store import JobStore
from opensama.apps.jobs.worker import WorkerSettings, took_too_long, work
from opensama.pipeline.batch import ActorShare
from opensama.values import UserError

_PATIENCE = 30.0  # seconds for workers of a service that was killed to notice it
_GRACE = 5.0  # for a worker to end by itself
_SHORT = 10.0  # seconds: a worker that dies sooner is begun again after a pause that doubles
_LONGEST = 60.0
_LOOK = 5.0  # seconds between two looks at how long jobs have taken
_LATE = 60.0  # seconds that a worker may be over a job's time before it is killed


class WorkerPool:
    """Workers for some devices; `with WorkerPool(...)` runs them.

    `start_method` is that of `multiprocessing`: a process that is to use a GPU must be spawned. With a `share` of a Ray
    cluster, which has begun, they are actors there.
    """

    def __init__(
        self,
        store: JobStore,
        settings: WorkerSettings,
        devices: Sequence[str | None],
        start_method: str = "spawn",
        share: ActorShare | None = None,
    ) -> None:
        self.store, self.settings, self.devices, self.share = store, settings, devices, share
        self._context: Any = multiprocessing.get_context(start_method)
        self._processes: dict[int, BaseProcess | RayWorker] = {}
        self._begun: dict[int, float] = {}
        self._pauses: dict[int, float] = {}
        self._seen: dict[tuple[str, int], float] = {}
        self._lock = threading.Lock()
        self._ending, self._told = self._context.Pipe(duplex=False)

    def begin(self) -> None:
        """UserError where workers of another service still work in this folder."""
        for number in range(self._known_workers()):
            self._wait_for(number)
        settings = self.settings
        self.store.release(None, settings.limits.tries, settings.keep)
        self.store.sweep()
        for number in range(len(self.devices)):
            self._start(number)
        self._watcher = threading.Thread(target=self._watch, name="workers", daemon=True)
        self._watcher.start()

    def end(self) -> None:
        """Ends the workers where they are; what they were at waits for the next service."""
        self._told.send_bytes(b"end")
        self._watcher.join()
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            process.join(_GRACE)
            process.kill()
            process.join()
            process.close()
        self._processes.clear()
        self._told.close()
        self._ending.close()

    @property
    def pids(self) -> list[int]:
        """Of the workers that live."""
        with self._lock:
            return [process.pid for process in self._processes.values() if process.pid and process.is_alive()]

    def _known_workers(self) -> int:
        numbers = [int(path.stem.partition("-")[2]) for path in self.settings.folder.glob("worker-*.lock")]
        return max([len(self.devices), *(number + 1 for number in numbers)])

    def _wait_for(self, number: int) -> None:
        """Until no worker of that number lives."""
        with self.settings.lock(number).open("w") as lock:
            if not wait_for_lock(lock, _PATIENCE):
                raise UserError(f"A worker of another service works in {self.settings.folder}; end it first.")

    def _start(self, number: int) -> None:
        settings = replace(self.settings, load=replace(self.settings.load, device=self.devices[number]))
        process: BaseProcess | RayWorker
        if self.share is None:
            process = self._context.Process(target=work, args=(settings, number), name=f"worker-{number}")
        else:
            process = RayWorker(settings, number, self.store, self.share)
        process.start()
        self._begun[number] = time.monotonic()
        with self._lock:
            self._processes[number] = process

    def _watch(self) -> None:
        due: dict[int, float] = {}
        while True:
            running = {process.sentinel: number for number, process in self._processes.items() if number not in due}
            pause = min([_LOOK, *(at - time.monotonic() for at in due.values())])
            ready = connection.wait([*running, self._ending], max(0.0, pause))
            if self._ending in ready:
                return
            if not ready:
                self._end_late(set(running.values()))
            for sentinel in ready:
                number = running[sentinel]  # type: ignore[index]
                self._processes[number].join()
                self.store.release(number, self.settings.limits.tries, self.settings.keep)
                short = time.monotonic() - self._begun[number] < _SHORT
                self._pauses[number] = min(_LONGEST, 2 * self._pauses.get(number, 0) + 0.05) if short else 0.0
                due[number] = time.monotonic() + self._pauses[number]
            for number in [number for number, at in due.items() if at <= time.monotonic()]:
                del due[number]
                self._processes[number].close()
                self._start(number)

    def _end_late(self, running: set[int]) -> None:
        """Ends workers that are at a job for too long, and the job."""
        now, limits = time.monotonic(), self.settings.limits
        jobs = {(job.id, job.crashes): job for job in self.store.running()}
        self._seen = {try_: self._seen.get(try_, now) for try_ in jobs}  # by our own clock, which stands in a sleep
        for try_, job in jobs.items():
            if job.worker is not None and job.worker in running and now - self._seen[try_] > limits.job_seconds + _LATE:
                self._processes[job.worker].kill()
                self._processes[job.worker].join()
                self.store.fail(job, "took_too_long", took_too_long(limits.job_seconds), self.settings.keep)


def wait_for_lock(file: IO[str], seconds: float) -> bool:
    """Takes the lock on a file, which a process holds until it ends; False where another has it for so long."""
    until = time.monotonic() + seconds
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
