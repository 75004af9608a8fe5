"""Things made ahead, in threads, while the present one is worked on: what every loader and trainer here reads through.

prefetch = Prefetcher(make, workers=4)
for index in range(first, last):
    batch = prefetch(index)      # make(index); those behind it are begun meanwhile
prefetch.close()
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_all_start_methods, get_context
from typing import Generic, TypeVar

import torch

Made = TypeVar("Made")


def one_core() -> None:
    """The calling thread's tensor operations stay on one core: many small ones on busy cores wait for each other."""
    torch.set_num_threads(1)


def one_core_processes(
    count: int, preload: Sequence[str], begin: Callable[..., None] = one_core, *arguments: object
) -> ProcessPoolExecutor:
    """So many processes, each of which calls `begin(*arguments)` first.

    Where the system can, they are forked from one that has imported the modules `preload` and done nothing else.
    """
    context = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
    context.set_forkserver_preload(list(preload))
    return ProcessPoolExecutor(count, context, begin, arguments)


class Prefetcher(Generic[Made]):
    """`prefetch(index)` is `make(index)`, whatever the number of threads; at most `workers` more are begun meanwhile.

    So at most `workers` + 1 are held. Whatever `make` raises comes out of the call for that index, and the next call
    goes on. An index that is not the next one is begun then, and what was begun for others is given up. `end` is the
    first index that there is nothing for. After `close`, which waits for what is being made, no thread is left; a
    later call starts new ones.
    """

    def __init__(self, make: Callable[[int], Made], *, workers: int = 1, end: int | None = None):
        self.make, self.workers, self.end = make, workers, end
        self._threads: ThreadPoolExecutor | None = None
        self._coming: deque[Future[Made]] = deque()
        self._next = 0  # the index of the first that is coming

    def __call__(self, index: int) -> Made:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self.workers, "prefetch", initializer=one_core)
        if index != self._next:
            self._give_up()
        while len(self._coming) <= self.workers and (self.end is None or index + len(self._coming) < self.end):
            self._coming.append(self._threads.submit(self.make, index + len(self._coming)))
        self._next = index + 1
        return self._coming.popleft().result()

    def close(self) -> None:
        """Gives up what is not wanted any more, and waits for the threads to end."""
        self._give_up()
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(cancel_futures=True)

    def _give_up(self) -> None:
        for future in self._coming:
            future.cancel()
        self._coming.clear()
