"""How much of a picture an edit changed, seen on the very frames that come out of it.

A frame is looked at in cells of 1/32 of its side; a cell changed where its mean colour is off by more than 8 of 255 in
some channel, so that what an autoencoder or a codec does to fine detail is no change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from torch import Tensor
from torch.nn import functional

from opensama.media.frames import evenly_spaced, picked
from opensama.pipeline.buckets import unit
from opensama.values import Video

_CELLS = 32  # a side
VISIBLE = 8 / 255
_FRAMES = 24  # of a clip that are looked at, spread evenly
HARDLY = 0.005  # a share below this is as good as nothing

Triples = Callable[[int, int], Iterator[tuple[np.ndarray, np.ndarray, Tensor | None]]]


class Changes:
    """Counts what changed in the frames start..stop of an edit: `see` each as it passes, `share` when asked.

    `triples(start, stop)` streams source, edited frame (h w 3) and weights [h w] of what may change, or None; it is
    asked only for frames that did not pass.
    """

    def __init__(self, triples: Triples, start: int, stop: int):
        self.triples = triples
        step = max(1, math.ceil((stop - start) / _FRAMES))
        self.wanted = range(start, stop, step)
        self.seen: dict[int, tuple[int, int]] = {}

    def see(self, index: int, source: np.ndarray, edited: np.ndarray, limit: Tensor | None) -> None:
        if index in self.wanted and index not in self.seen:
            self.seen[index] = changed_cells(source, edited, limit)

    def share(self) -> float:
        """Of the cells that were free to change, how many did: 0..1."""
        for index in self.wanted:
            if index not in self.seen:
                for triple in self.triples(index, index + 1):
                    self.see(index, *triple)
        changed, free = (sum(part) for part in zip(*self.seen.values(), strict=True))
        return changed / free if free else 0.0


def changed_cells(source: np.ndarray, edited: np.ndarray, limit: Tensor | None) -> tuple[int, int]:
    """How many cells of a frame changed, and how many may."""
    cell = _cell(source)
    off = _visible(unit(edited) - unit(source), cell)
    if limit is None:
        return int(off.sum()), off.numel()
    free = _means(limit[None].float(), cell)[0]
    free = free > min(0.5, float(free.max()) / 2)
    return int((off & free).sum()), int(free.sum())


def kept_part(source: Video, edited: Video) -> tuple[float, float]:
    """The share of the picture that was kept, and the PSNR of its pixels in dB: 99 where these are the source's own. A
    cell was kept where its pixels are off by at most 8 of 255, as a root mean square, in every channel: by its mean
    alone fog that takes all detail away would keep half of what it covers. `edited` may be padded below and at the
    right. Of each as many frames are looked at as of an edit."""
    pairs = zip(*(picked(one, evenly_spaced(source.frame_count, _FRAMES)) for one in (source, edited)), strict=True)
    kept = cells = pixels = 0
    error = 0.0
    for before, after in pairs:
        off = unit(after)[: before.shape[0], : before.shape[1]] - unit(before)
        cell = _cell(before)
        still = _means(off.square().permute(2, 0, 1), cell).amax(0) <= VISIBLE**2
        kept, cells = kept + int(still.sum()), cells + still.numel()
        fine = still.repeat_interleave(cell, 0).repeat_interleave(cell, 1)[: off.shape[0], : off.shape[1]]
        error, pixels = error + float(off[fine].double().square().sum()), pixels + 3 * int(fine.sum())
    psnr = 99.0 if not error else min(99.0, 10 * math.log10(pixels / error))
    return kept / cells, psnr if pixels else 0.0


def _cell(frame: np.ndarray) -> int:
    """Pixels of a cell's side."""
    return max(1, round(math.sqrt(frame.shape[0] * frame.shape[1]) / _CELLS))


def _means(x: Tensor, cell: int) -> Tensor:
    """Of c h w, cell by cell."""
    return functional.avg_pool2d(x[None], cell, ceil_mode=True)[0]


def _visible(off: Tensor, cell: int) -> Tensor:
    """Which cells a difference h w 3 is visible in."""
    return _means(off.permute(2, 0, 1), cell).abs().amax(0) > VISIBLE
