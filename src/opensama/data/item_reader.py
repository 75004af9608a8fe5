"""Items of a data set read one by one; what cannot be read is passed over, and listed.

What a batch holds is a function of the seed and its number alone (`samples.BatchSampler`); a bad item's place is taken
by the next of its shape, the same one in every run. Threads read ahead (`prefetch.py`): decoding and scaling leave
Python's lock alone.

    reader = ItemReader(items, lambda number: layout.read(items[number]))
    sampler = BatchSampler(shapes_of(items), "video", batch, seed)
    prefetch = Prefetcher(lambda n: [reader(sampler, number) for number in sampler.numbers(n)], workers=8)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Generic, TypeVar

from opensama.data.samples import BadSample, BatchSampler, TrainingItem
from opensama.values import UserError

TRIES = 20  # bad items in a row that are passed over before it is an error
_Read = TypeVar("_Read")
Done = TypeVar("Done")


class ItemReader(Generic[_Read]):
    """Reads an item, or where it is bad the next good one of its shape; each bad one is read once, and listed."""

    def __init__(self, items: Sequence[TrainingItem], read: Callable[[int], _Read]):
        """`read` gets an item's number, and raises BadSample."""
        self.items, self.read = items, read
        self.skipped: list[tuple[str, str]] = []
        self._bad: dict[str, str] = {}
        self._lock = Lock()

    def __call__(self, sampler: BatchSampler, number: int) -> tuple[int, _Read]:
        """The number of the item that was read, and what it holds."""
        chosen, last = number, ""
        for tried in range(1, TRIES + 1):
            item = self.items[chosen]
            if item.name not in self._bad:
                try:
                    return chosen, self.read(chosen)
                except BadSample as reason:
                    self.mark_bad(chosen, reason)
            last = self._bad[item.name]
            chosen = sampler.other(number, tried)
        raise UserError(f"{TRIES} samples in a row could not be read, the last of them {last}")

    def finish(
        self, work: Callable[[_Read], Done], sampler: BatchSampler, number: int, found: tuple[int, _Read]
    ) -> Done:
        """`work` of what was found for a number; where that raises BadSample, of the next good item's."""
        while True:
            try:
                return work(found[1])
            except BadSample as reason:
                self.mark_bad(found[0], reason)
                found = self(sampler, number)

    def mark_bad(self, number: int, reason: BadSample) -> None:
        """Lists an item as bad, once."""
        item = self.items[number]
        with self._lock:
            if item.name not in self._bad:
                self._bad[item.name] = f"{item.row.target}: {reason}"
                self.skipped.append((item.name, self._bad[item.name]))
