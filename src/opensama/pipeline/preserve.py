"""From the model's small picture to the source's full size, keeping the source's own pixels where nothing changed.

    E  the edit as decoded, R  the source as the same autoencoder decodes it, S  the source itself at full size
    m = rms over channels of (E - R) / 2        what the edit changed; autoencoder loss cancels, it is in both
    M = soft mask: m over low .. high, spread a little in space and to neighbouring frames
    N = up(E) + up(a) (Y(S) - Y(up(R)))         the new picture: the edit, and the source's fine detail as guide
    a = cov(Y(R), E) / var(Y(R)), windowed,     how the edit's contrast follows the source's there: 1 where it kept it,
        times how well that line fits           0 where new things stand
    out = S + M (N - S)                         M = 0: the source's own numbers, exactly

`low` follows the clip's own background level of m (its lower quartile), within bounds. When most pixels changed, or all
of them evenly (a style), M = 1 everywhere. A user's mask multiplies M. up() is bicubic, to the source's size.

Letters: `c` channels, `t h w` frames, rows, columns at model size; S and N are full size.
"""

from __future__ import annotations

import math
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from opensama.pipeline.buckets import Placement
from opensama.runtime import DISK_FULL
from opensama.values import UserError

IN_MEMORY = 16 * 2**20  # bytes; larger clips wait in an unnamed temporary file, so that memory does not grow with them
_CHUNK = 131_072  # pixels that are computed at a time, so that what lies between stays in the processor's cache


@dataclass(frozen=True)
class PreserveSettings:
    """In parts of full scale (1 = black to white). Found on the embedded model; the same for every model."""

    floor: float = 0.1  # below this nothing counts as change, however calm the clip
    ceiling: float = 0.16  # above this everything does, however restless
    background: float = 3.0  # times the lower quartile of m
    softness: float = 2.0  # full change at this times the threshold
    whole: float = 0.7  # with more than this share of pixels changed, the whole frame is taken from the edit
    subtle: float = 0.02  # so it is when even the calm quarter changed more than this ...
    even: float = 0.15  # ... and more than this part of what changed most: a tint, not an object
    detail: float = 1.0  # how much of the source's fine detail may return


class ChangeCounter:
    """The distribution of m over a clip, gathered chunk by chunk in 1,000 bins."""

    def __init__(self) -> None:
        self.counts = torch.zeros(1000, dtype=torch.float64)

    def add(self, change: Tensor) -> None:
        bins = (change.float() * 1000).long().clamp_(0, 999).flatten().cpu()
        self.counts += torch.bincount(bins, minlength=1000)

    def quantile(self, q: float) -> float:
        share = self.counts.cumsum(0) / self.counts.sum()
        return int((share < q).sum()) / 1000

    def above(self, level: float) -> float:
        """The share of pixels that changed more than `level`."""
        return float(self.counts[math.ceil(level * 1000) :].sum() / self.counts.sum())

    def rule(self, settings: PreserveSettings) -> ChangeRule:
        calm, most = self.quantile(0.25), self.quantile(0.99)
        low = min(max(settings.background * calm, settings.floor), settings.ceiling)
        everywhere = calm > settings.subtle and calm > settings.even * most
        return ChangeRule(low, low * settings.softness, whole=everywhere or self.above(low) > settings.whole)


@dataclass(frozen=True)
class ChangeRule:
    """What counts as changed in one clip: m from `low` (not at all) to `high` (fully); `whole`: everything."""

    low: float
    high: float
    whole: bool


def change(edit: Tensor, reconstruction: Tensor) -> Tensor:
    """m [t h w] of E and R [c t h w] in [-1, 1], smoothed over 3x3 pixels."""
    m = ((edit - reconstruction) / 2).square().mean(0).sqrt()
    return blur(m[:, None], 1)[:, 0]


def change_mask(m: Tensor, rule: ChangeRule) -> Tensor:
    """M [h w] for the middle one of the frames m [t h w]: the largest change in them, thresholded and spread a little.

    Close to full change, half the change counts: a recoloured thing has parts where its colour hardly shows.
    """
    h, w = m.shape[1:]
    largest = m.float().amax(0)[None, None]
    reach = max(1, min(h, w) // 24)
    near = functional.max_pool2d((largest > rule.high).float(), 2 * reach + 1, 1, reach)
    near = blur(near, reach)
    low = rule.low * (1 - near / 2)
    soft = ((largest - low) / (rule.high - rule.low)).clamp(0, 1)
    soft = soft * soft * (3 - 2 * soft)
    radius = min(h, w) // 256  # a small picture needs none: smoothing m has spread it by a pixel
    return functional.max_pool2d(soft, 2 * radius + 1, 1, radius)[0, 0]


def detail_gain(guide: Tensor, edit: Tensor, *, prior: float = 0.0, radius: int = 3) -> Tensor:
    """a [c h w]: how the edit [c h w] follows the source's luminance `guide` [1 h w]; `prior` where both are flat."""

    def mean(x: Tensor) -> Tensor:
        return blur(x[None], radius)[0]

    mean_g, mean_e = mean(guide), mean(edit)
    var_g = mean(guide * guide) - mean_g * mean_g
    var_e = (mean(edit * edit) - mean_e * mean_e).clamp(min=0)
    cov = mean(guide * edit) - mean_g * mean_e
    calm = 4e-4  # variance of the autoencoder's own noise, in [-1, 1]
    slope = (cov + prior * calm) / (var_g.clamp(min=0) + calm)
    fit = (cov.square() + prior * calm**2) / (var_g.clamp(min=0) * var_e + calm**2)
    return (slope * fit.clamp(0, 1)).clamp(-1.5, 1.5)


class Compositor:
    """Carries an edit to full size, one frame at a time, in any order.

    `edit` [t 3 h w] float16 in [-1, 1]; `guide` [t 2 h w] holds Y(R) and m, or is None to take the edit whole.
    `limit` gives the user's mask of a frame at full size, or None.
    """

    def __init__(
        self,
        placement: Placement,
        edit: FrameBuffer,
        guide: FrameBuffer | None = None,
        rule: ChangeRule | None = None,
        settings: PreserveSettings | None = None,
    ):
        self.placement, self.edit, self.guide, self.rule = placement, edit, guide, rule
        self.settings = settings or PreserveSettings()

    def frame(self, index: int, source: np.ndarray, limit: Tensor | None = None) -> np.ndarray:
        """Frame `index` of the edit over `source` (h w 3 integers), changed only where `limit` [h w] is not 0."""
        height, width = source.shape[:2]
        part = Region(height, width, slice(0, height), slice(0, width))
        small = self.small(index, source)
        if small is None:
            return source
        mask = None
        if small.changes is not None and self.rule is not None and not self.rule.whole:
            mask = change_mask(small.changes, self.rule)
            part = part.of_mask(mask)
        if limit is not None:
            part = part.within(*bounds(limit))
        if not part.area:
            return source
        rows_of = self._pictures(small, part)
        weight_of = None if mask is None else _Enlarged(mask[None], part, smooth=False)
        result, top = source.copy(), int(np.iinfo(source.dtype).max)
        old_part, new_part = (picture[part.rows, part.columns] for picture in (source, result))
        step = max(1, _CHUNK // old_part.shape[1])
        for rows in (slice(first, first + step) for first in range(0, len(old_part), step)):
            old = torch.from_numpy(old_part[rows].transpose(0, 2, 1).astype(np.float32, order="C"))
            new = rows_of(rows, old * (2 / top)).add_(1).mul_(top / 2)
            weight = None if weight_of is None else weight_of[rows]
            if limit is not None:
                free = limit[part.rows, part.columns][rows][:, None]
                weight = free if weight is None else weight * free
            if weight is not None:
                new = new.sub_(old).mul_(weight).add_(old)
            new_part[rows] = new.round_().clamp_(0, top).numpy().astype(source.dtype).transpose(0, 2, 1)
        return result

    def small(self, index: int, source: np.ndarray) -> SmallFrame | None:
        """The edit of frame `index` at the model's size; None where nothing of `source` (h w 3) changed."""
        edit = self.placement.leave(self.edit[index : index + 1][0].float())
        if self.guide is None:
            return SmallFrame(edit)
        near = self.placement.leave(self.guide[max(0, index - 1) : index + 2].float())
        return SmallFrame(edit, near[min(index, 1), :1], near[:, 1])

    def _pictures(self, small: SmallFrame, part: Region) -> Callable[[slice, Tensor], Tensor]:
        """N in [-1, 1] of some rows of the part, [rows 3 columns], given 2 S there."""
        edit = _Enlarged(small.edit, part)
        if small.luma is None or self.rule is None or not self.settings.detail:
            return lambda rows, source: edit[rows]
        gains = detail_gain(small.luma, small.edit, prior=0.5 if self.rule.whole else 0.0) * self.settings.detail
        luma, gain = _Enlarged(small.luma, part), _Enlarged(gains, part, smooth=False)

        def rows_of(rows: slice, source: Tensor) -> Tensor:
            fine = luminance(source, 1).sub_(1).sub_(luma[rows])
            return gain[rows].mul_(fine).add_(edit[rows])

        return rows_of


class SmallFrame(NamedTuple):
    """A frame at the model's size, the source's picture alone: E [3 h w], Y(R) [1 h w], m there and near [n h w]."""

    edit: Tensor
    luma: Tensor | None = None
    changes: Tensor | None = None


@dataclass(frozen=True)
class Region:
    """Rows and columns of a full-size picture."""

    height: int
    width: int
    rows: slice
    columns: slice

    @property
    def area(self) -> int:
        return (self.rows.stop - self.rows.start) * (self.columns.stop - self.columns.start)

    def of_mask(self, mask: Tensor) -> Region:
        """The part where a mask [h w] from 0 to 1 is not 0 once it is enlarged to full size."""
        h, w = mask.shape
        down, across = _taps(h, self.height, False), _taps(w, self.width, False)
        return self.within(_span(down @ mask.amax(1)), _span(across @ mask.amax(0)))

    def within(self, rows: slice, columns: slice) -> Region:
        """The part that also lies in these."""
        return Region(self.height, self.width, _common(self.rows, rows), _common(self.columns, columns))


class _Enlarged:
    """Pixels [c h w] at a region's full size, some of its rows at a time: [rows c columns].

    Bicubic, or bilinear for masks and gains (no overshoot).
    """

    def __init__(self, pixels: Tensor, part: Region, *, smooth: bool = True):
        self.channels, h, _ = pixels.shape
        self.down = _taps(h, part.height, smooth)[part.rows]
        wide = _resized(pixels, (h, part.width), smooth)
        self.wide = wide[..., part.columns].transpose(0, 1).reshape(h, -1)

    def __getitem__(self, rows: slice) -> Tensor:
        down = self.down[rows]
        near = _span(down.any(0))
        return (down[:, near] @ self.wide[near]).reshape(len(down), self.channels, -1)


class FrameBuffer:
    """Float16 frames [c h w] appended chunk by chunk: in memory, or in an unnamed temporary file when many.

    UserError where the disk is full.
    """

    def __init__(self, frames: int, channels: int, height: int, width: int):
        self.filled, self.row = 0, (channels, height, width)
        self.array, self.file = np.empty((0, *self.row), np.float16), None
        if 2 * frames * math.prod(self.row) <= IN_MEMORY:
            self.array = np.empty((frames, *self.row), np.float16)
        else:
            self.file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
            weakref.finalize(self, self.file.close)

    def append(self, chunk: Tensor) -> None:
        """[c n h w]"""
        n, pictures = chunk.shape[1], chunk.detach().transpose(0, 1).half().cpu().contiguous().numpy()
        if self.file is None:
            self.array[self.filled : self.filled + n] = pictures
        else:
            left = pictures.data.cast("B")
            try:
                while left:
                    left = left[self.file.write(left) :]
            except OSError as error:
                if error.errno not in DISK_FULL:
                    raise
                place = tempfile.gettempdir()
                raise UserError(
                    f"The disk is full: frames of the edit wait in {place}. Make room there, or set TMPDIR to a folder"
                    " on a larger disk."
                ) from error
        self.filled += n

    def __getitem__(self, frames: slice) -> Tensor:
        """[n c h w] float16, a copy."""
        if self.file is None:
            return torch.from_numpy(np.array(self.array[frames]))
        first, stop, _ = frames.indices(self.filled)
        shape, begin = (stop - first, *self.row), 2 * first * math.prod(self.row)
        return torch.from_numpy(np.array(np.memmap(self.file, np.float16, "r", begin, shape)))  # mapped no longer


def luminance(pixels: Tensor, axis: int = 0) -> Tensor:
    """Y [1 ...] of RGB [3 ...] (BT.709), same range; the colours lie along `axis`."""
    red, green, blue = pixels.split(1, axis)
    return (0.2126 * red).add_(green, alpha=0.7152).add_(blue, alpha=0.0722)


@lru_cache(maxsize=16)
def _taps(n: int, size: int, smooth: bool) -> Tensor:
    """Interpolation along one axis as a matrix [size n]."""
    return _resized(torch.eye(n)[None], (size, n), smooth)[0]


def _resized(pixels: Tensor, size: tuple[int, int], smooth: bool) -> Tensor:
    mode = "bicubic" if smooth else "bilinear"
    return functional.interpolate(pixels[None], size, mode=mode, align_corners=False, antialias=True)[0]


def blur(x: Tensor, radius: int) -> Tensor:
    """The mean over (2 radius + 1)^2 pixels of [b c h w], counting only those inside."""
    side = 2 * radius + 1
    across = functional.avg_pool2d(x.float(), (1, side), 1, (0, radius), count_include_pad=False)
    return functional.avg_pool2d(across, (side, 1), 1, (radius, 0), count_include_pad=False)


def bounds(weight: Tensor) -> tuple[slice, slice]:
    """Rows and columns of the smallest box that holds all of a mask [h w]; empty slices if it is all zero."""
    return _span(weight.any(1)), _span(weight.any(0))


def _span(used: Tensor) -> slice:
    """From the first to the last that is not 0; an empty slice if there is none."""
    places = used.nonzero()
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0)


def _common(a: slice, b: slice) -> slice:
    """Where both are; empty where they do not meet."""
    start = max(a.start, b.start)
    return slice(start, max(start, min(a.stop, b.stop)))
