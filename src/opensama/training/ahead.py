"""Batches made one step ahead, in a thread of their own, while the present one is trained on.

For a GPU the thread also pins them, so that they are copied while it computes.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

from opensama.training.devices import moved, pinned

Batch = TypeVar("Batch")


def one_core() -> None:
    """The calling thread's tensor operations stay on one core."""
    torch.set_num_threads(1)


class Ahead(Generic[Batch]):
    """`ahead(index)` is `make(index)` on the device; `make(index + 1)` is begun meanwhile.

    The thread computes on one core: many small tensor operations on two busy cores wait for each other longer than
    they work. What a batch holds depends on its index alone, so a run that resumes sees the same batches.
    """

    def __init__(self, make: Callable[[int], Batch], device: torch.device | str = "cpu"):
        self.make, self.device = make, torch.device(device)
        self.pool = ThreadPoolExecutor(1, initializer=one_core)
        self.next: tuple[int, Future[Batch]] | None = None

    def __call__(self, index: int) -> Batch:
        coming = self.next
        if coming is None or coming[0] != index:
            coming = (index, self.pool.submit(self._begin, index))
        batch = moved(coming[1].result(), self.device)
        self.next = (index + 1, self.pool.submit(self._begin, index + 1))
        return batch

    def _begin(self, index: int) -> Batch:
        return pinned(self.make(index), self.device)
