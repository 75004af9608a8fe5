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
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from opensama.pipeline.buckets import Placement, unit

IN_MEMORY = 256 * 2**20  # bytes; larger clips wait in an unnamed temporary file


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
        part = Region.whole(height, width)
        weight = limit
        small = self.small(index, source)
        if small is None:
            return source
        if small.changes is not None and self.rule is not None and not self.rule.whole:
            mask = change_mask(small.changes, self.rule)
            if not mask.any():
                return source
            mask = enlarge(mask[None], part, smooth=False)[0]
            weight = mask if limit is None else mask * limit
        if weight is not None:
            part = Region(height, width, *bounds(weight))
            if not part.area:
                return source
        old = unit(source[part.rows, part.columns]).permute(2, 0, 1)
        new = self._picture(small, old, part)
        if weight is not None:
            new = torch.lerp(old, new, weight[part.rows, part.columns])
        top = int(np.iinfo(source.dtype).max)
        result = source.copy()
        result[part.rows, part.columns] = (
            new.permute(1, 2, 0).mul(top).round_().clamp_(0, top).numpy().astype(source.dtype)
        )
        return result

    def small(self, index: int, source: np.ndarray) -> SmallFrame | None:
        """The edit of frame `index` at the model's size; None where nothing of `source` (h w 3) changed."""
        edit = self.placement.leave(self.edit[index : index + 1][0].float())
        if self.guide is None:
            return SmallFrame(edit)
        near = self.placement.leave(self.guide[max(0, index - 1) : index + 2].float())
        return SmallFrame(edit, near[min(index, 1), :1], near[:, 1])

    def _picture(self, small: SmallFrame, source: Tensor, part: Region) -> Tensor:
        """N [3 rows columns] in [0, 1] for the part; `source` is S there."""
        new = enlarge(small.edit, part)
        if small.luma is not None and self.rule is not None and self.settings.detail:
            gain = detail_gain(small.luma, small.edit, prior=0.5 if self.rule.whole else 0.0) * self.settings.detail
            fine = luminance(source) * 2 - 1 - enlarge(small.luma, part)
            new = new + enlarge(gain, part, smooth=False) * fine
        return (new + 1) / 2


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

    @classmethod
    def whole(cls, height: int, width: int) -> Region:
        return cls(height, width, slice(0, height), slice(0, width))

    @property
    def area(self) -> int:
        return (self.rows.stop - self.rows.start) * (self.columns.stop - self.columns.start)


class FrameBuffer:
    """Float16 frames [c h w] appended chunk by chunk: in memory, or in an unnamed temporary file when many."""

    def __init__(self, frames: int, channels: int, height: int, width: int):
        shape = (frames, channels, height, width)
        self.filled = 0
        self.array: np.ndarray
        if 2 * math.prod(shape) <= IN_MEMORY:
            self.array = np.empty(shape, np.float16)
        else:
            with tempfile.TemporaryFile() as file:  # the mapping keeps it until it is let go
                self.array = np.memmap(file, np.float16, "w+", shape=shape)

    def append(self, chunk: Tensor) -> None:
        """[c n h w]"""
        n = chunk.shape[1]
        self.array[self.filled : self.filled + n] = chunk.detach().transpose(0, 1).half().cpu().numpy()
        self.filled += n

    def __getitem__(self, frames: slice) -> Tensor:
        """[n c h w] float16, a copy."""
        return torch.from_numpy(np.array(self.array[frames]))


def luminance(pixels: Tensor) -> Tensor:
    """Y [1 ...] of RGB [3 ...] (BT.709), same range."""
    return 0.2126 * pixels[0:1] + 0.7152 * pixels[1:2] + 0.0722 * pixels[2:3]


def enlarge(pixels: Tensor, part: Region, *, smooth: bool = True) -> Tensor:
    """[c h w] at the part's full size, only the part: bicubic, or bilinear for masks and gains (no overshoot)."""
    if 4 * part.area > part.height * part.width:
        whole = functional.interpolate(pixels[None], (part.height, part.width), **_interpolation(smooth))[0]
        return whole[:, part.rows, part.columns]
    down = _taps(pixels.shape[1], part.height, smooth)[part.rows]
    across = _taps(pixels.shape[2], part.width, smooth)[part.columns]
    near, wide = bounds(down.T @ torch.ones(len(down), 1)), bounds(across.T @ torch.ones(len(across), 1))
    return down[:, near[0]] @ pixels[:, near[0], wide[0]] @ across[:, wide[0]].T


@lru_cache(maxsize=16)
def _taps(n: int, size: int, smooth: bool) -> Tensor:
    """Interpolation along one axis as a matrix [size n]."""
    return functional.interpolate(torch.eye(n)[None, None], (size, n), **_interpolation(smooth))[0, 0]


def _interpolation(smooth: bool) -> dict[str, Any]:
    return {"mode": "bicubic" if smooth else "bilinear", "align_corners": False, "antialias": True}


def blur(x: Tensor, radius: int) -> Tensor:
    """The mean over (2 radius + 1)^2 pixels of [b c h w], counting only those inside."""
    return functional.avg_pool2d(x.float(), 2 * radius + 1, 1, radius, count_include_pad=False)


def bounds(weight: Tensor) -> tuple[slice, slice]:
    """Rows and columns of the smallest box that holds all of a mask [h w]; empty slices if it is all zero."""

    def span(used: Tensor) -> slice:
        places = used.nonzero()
        return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0)

    return span(weight.any(1)), span(weight.any(0))
