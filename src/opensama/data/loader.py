"""Batches of pixels from a manifest: streamed, shuffled, of one shape each, shared out, and resumed exactly.

    loader = open_loader(path, layout, kind="video", batch=4, rank=rank, world=world, workers=8)
    for batch in loader:  # without end, or `epochs=1`
        ...batch.source, batch.target [b 3 t h w], batch.texts...
    state = loader.state_dict()  # few numbers; `load_state_dict` in a new run goes on behind the last batch given

What a batch holds is a function of the seed and its number alone (`samples.BatchSampler`), and processes take the
numbers in turn. So a loader that resumes gives what an unbroken one would, also with other `workers`, and with another
number of processes where these have together given a multiple of it. Files are opened when their turn comes, only the
frames that are needed are decoded, and at most `workers` + 1 batches lie ready. An item that cannot be read is listed
in `skipped`, and the next of its shape takes its place, the same one in every run.

Threads do the work (`prefetch.py`, as in training), because decoding and scaling leave Python's lock alone. Within a
`torch.utils.data.DataLoader` (`batch_size=None`) the worker processes share the batches among them, and they come in
the same order.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from opensama.data.prefetch import Prefetcher
from opensama.data.samples import (
    BadSample,
    BatchSampler,
    Kind,
    Layout,
    PixelPair,
    Shape,
    TrainingItem,
    TrainingRow,
    read_manifest,
    shapes_of,
)
from opensama.values import UserError

TRIES = 20  # bad items in a row that are passed over before it is an error
_Read = TypeVar("_Read")
Done = TypeVar("Done")


@dataclass(frozen=True)
class PixelBatch:
    """Samples of one shape: pixels [b 3 t h w] in [-1, 1], and what belongs to each."""

    number: int  # counted over all processes
    shape: Shape
    source: Tensor
    target: Tensor
    texts: tuple[str, ...]
    edits: tuple[bool, ...]  # whether the text is an instruction
    names: tuple[str, ...]  # LINE or LINE.VARIANT


def open_loader(
    path: Path,
    layout: Layout,
    *,
    on_bad: Callable[[TrainingRow, str], None] = lambda row, reason: None,
    **settings: Any,
) -> Loader:
    """A loader over a manifest, with `Loader`'s settings; `on_bad` hears of rows whose files cannot even be opened."""
    manifest = read_manifest(path)
    items = layout.items(manifest.rows, on_bad)
    if not items:
        raise UserError(f"No row of {path} can be read; the first: {manifest.rows[0].target}.")
    return Loader(items, layout, data=manifest.fingerprint, **settings)


class Loader(IterableDataset[PixelBatch]):
    """An endless stream of batches, or `epochs` of them; `data` names what is loaded, and stands in the state."""

    def __init__(
        self,
        items: Sequence[TrainingItem],
        layout: Layout,
        *,
        kind: Kind = "video",
        batch: int = 1,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        workers: int = 2,
        epochs: int | None = None,
        data: str = "",
    ):
        self._made: dict[str, Any] = {
            "items": items, "layout": layout, "kind": kind, "batch": batch, "seed": seed, "rank": rank, "world": world,
            "workers": workers, "epochs": epochs, "data": data,
        }  # fmt: skip
        self.layout, self.rank, self.world, self.workers, self.epochs = layout, rank, world, workers, epochs
        self.sampler = BatchSampler(shapes_of(items), kind, batch, seed)
        if not self.sampler.epoch_length:
            raise UserError(f"The data has no {kind}s: choose the other kind, or add some.")
        self.reader = ItemReader(items, lambda number: layout.read(items[number]))
        self._same: dict[str, str | int] = {
            "data": data, "items": len(items), "kind": kind, "batch": batch, "seed": seed,
        }  # fmt: skip
        self.position = 0  # batches that this process has given

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """Name of each bad item that was met, and what is wrong with it."""
        return self.reader.skipped

    def __len__(self) -> int:
        """Batches of an epoch for each process; where they do not come out even, the next epoch's first fill up."""
        return -(-self.sampler.epoch_length // self.world)

    def __iter__(self) -> Iterator[PixelBatch]:
        """From the present position on; `position` is then that behind the last batch given."""
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        began = self.position
        last = None if self.epochs is None else -(-self.epochs * self.sampler.epoch_length // self.world)
        count = None if last is None else max(0, -(-(last - began - first) // step))
        prefetch = Prefetcher(
            lambda i: self.make((began + first + i * step) * self.world + self.rank), workers=self.workers, end=count
        )
        try:
            numbers: Iterable[int] = itertools.count() if count is None else range(count)
            for i in numbers:
                batch = prefetch(i)
                self.position = began + (i + 1) * step
                yield batch
        finally:
            prefetch.close()

    def make(self, number: int) -> PixelBatch:
        """The batch of that number, whoever asks."""
        numbers = self.sampler.numbers(number)
        found = [self.reader(self.sampler, index) for index in numbers]
        items = [self.reader.items[index] for index, _ in found]
        pairs: list[PixelPair] = [pair for _, pair in found]
        return PixelBatch(
            number,
            items[0].shape,
            torch.stack([pair.source for pair in pairs]),
            torch.stack([pair.target for pair in pairs]),
            tuple(pair.text for pair in pairs),
            tuple(pair.is_edit for pair in pairs),
            tuple(item.name for item in items),
        )

    def state_dict(self) -> dict[str, str | int]:
        """What a loader needs to go on; it holds for all processes, as they give alike many batches."""
        return {"given": self.position * self.world, **self._same}

    def load_state_dict(self, state: Mapping[str, str | int]) -> None:
        """Goes on where that state was taken. UserError if it is of other data, or cannot be shared as it is now."""
        for key, now in self._same.items():
            if state.get(key) != now:
                raise UserError(
                    f"The loader's state is of a run with {key} {state.get(key)!r}, this one has {now!r}: "
                    "go on with the same."
                )
        given = int(state["given"])
        if given % self.world:
            raise UserError(
                f"The run gave {given:,} batches, which {self.world} processes cannot share: "
                "go on with as many as before, or a divisor."
            )
        self.position = given // self.world

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Loader, **self._made), (), {"position": self.position}


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
