"""Masks over time: how they are measured and filtered, grown for an inpainter, and used to put a picture together.

Letters: t frames, h w rows and columns. A mask is bool [t h w], true where the thing is, or where a picture may change.
Shares are of the frame's area, margins of its short side.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from opensama.runtime import whole_file


@dataclass(frozen=True)
class Measures:
    """What can be said of a mask without knowing what it shows."""

    area: float
    """Mean share of the frame, over the frames where it is seen."""
    presence: float
    """Share of the frames where it is seen (covers at least a thousandth)."""
    steadiness: float
    """Median overlap (intersection over union) of neighbouring frames where it is seen; 1 for fewer than two."""
    border: float
    """Mean share of the frame's rim that it covers: much for what is cut off."""


@dataclass(frozen=True)
class MaskRules:
    """Which masks can be edited. The papers say no figures; these are ours."""

    smallest: float = 0.01
    largest: float = 0.5
    presence: float = 0.8
    steadiness: float = 0.5
    border: float = 0.25
    background: float = 0.15
    """How much must be left for a background to be worth changing; foreground may be as small as `smallest`."""

    def refusal(self, masks: np.ndarray) -> str | None:
        """Why a thing's mask will not do, in words that count well, or None."""
        found = measure_masks(masks)
        if found.presence < self.presence:
            return "mask: not there for long enough"
        if found.area < self.smallest:
            return "mask: too small"
        if found.area > self.largest:
            return "mask: too large"
        if found.steadiness < self.steadiness:
            return "mask: jumps"
        if found.border > self.border:
            return "mask: cut off by the frame"
        return None

    def refusal_of_background(self, masks: np.ndarray) -> str | None:
        """The same for the mask of everything but the foreground."""
        left = float(masks.mean())
        if left < self.background:
            return "mask: too little background"
        if left > 1 - self.smallest:
            return "mask: nothing in front of the background"
        return None


_SEEN = 0.001


def measure_masks(masks: np.ndarray) -> Measures:
    """Area, presence, steadiness and border of a mask."""
    areas = masks.mean(axis=(1, 2))
    seen = areas >= _SEEN
    both = seen[1:] & seen[:-1]
    overlap = (masks[1:] & masks[:-1]).sum(axis=(1, 2))[both]
    union = (masks[1:] | masks[:-1]).sum(axis=(1, 2))[both]
    rim = np.concatenate([masks[:, 0], masks[:, -1], masks[:, 1:-1, 0], masks[:, 1:-1, -1]], axis=1)
    return Measures(
        area=float(areas[seen].mean()) if seen.any() else 0.0,
        presence=float(seen.mean()),
        steadiness=float(np.median(overlap / union)) if both.any() else 1.0,
        border=float(rim[seen].mean()) if seen.any() else 0.0,
    )


def grow(masks: np.ndarray, margin: float) -> np.ndarray:
    """The mask with a rim around it, `margin` of the short side wide and at least a pixel (none for 0)."""
    if margin <= 0:
        return masks
    import torch
    from torch.nn import functional

    radius = max(1, round(margin * min(masks.shape[1:])))
    size = 2 * radius + 1
    pooled = torch.from_numpy(masks)[:, None].float()
    pooled = functional.max_pool2d(pooled, (size, 1), 1, (radius, 0))
    pooled = functional.max_pool2d(pooled, (1, size), 1, (0, radius))
    return (pooled[:, 0] > 0.5).numpy()


def boxes(masks: np.ndarray) -> np.ndarray:
    """Each frame's mask filled up to its bounding box: room for something of another shape."""
    out = np.zeros_like(masks)
    for mask, filled in zip(masks, out, strict=True):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if len(rows):
            filled[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return out


def soft(masks: np.ndarray, width: float = 0.01) -> np.ndarray:
    """Weights [t h w] float32: 0 outside, rising to 1 over `width` of the short side, inside the mask.

    Nothing outside the mask gets any weight; a mask too thin for such an edge stays hard.
    """
    import torch
    from torch.nn import functional

    radius = round(width * min(masks.shape[1:]))
    hard = torch.from_numpy(masks).float()
    if radius < 1:
        return hard.numpy()
    size = 2 * radius + 1
    padded = functional.pad(hard[:, None], (radius,) * 4, mode="replicate")
    mean = functional.avg_pool2d(padded, size, 1)[:, 0]
    edge = (2 * mean - 1).clamp_(0, 1) * hard
    thin = edge.sum(dim=(1, 2)) < 0.5 * hard.sum(dim=(1, 2))
    return torch.where(thin[:, None, None], hard, edge).numpy()


def put_together(source: np.ndarray, painted: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """The painted frames inside the mask, the source's own pixels outside it: uint8 [t h w 3]."""
    out = source.copy()
    for frame, new, weight in zip(out, painted, soft(masks), strict=True):
        inside = weight > 0
        mixed = frame[inside] + weight[inside, None] * (new[inside].astype(np.float32) - frame[inside])
        frame[inside] = np.round(mixed).astype(np.uint8)
    return out


def changed(source: np.ndarray, edited: np.ndarray, masks: np.ndarray) -> tuple[float, float]:
    """Mean absolute difference (0 to 255) inside the mask, and outside it."""
    inside = outside = 0.0
    for before, after, mask in zip(source, edited, masks, strict=True):
        away = np.abs(before.astype(np.int16) - after).mean(axis=2)
        inside += float(away[mask].sum())
        outside += float(away[~mask].sum())
    return inside / max(1, int(masks.sum())), outside / max(1, int((~masks).sum()))


def save_masks(path: Path, masks: np.ndarray) -> None:
    """Bits and shape, compressed, under the name at once or not at all."""
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, bits=np.packbits(masks), shape=np.array(masks.shape, np.int64))


def load_masks(path: Path) -> np.ndarray:
    """The masks of a file that `save_masks` wrote: bool [t h w]."""
    with np.load(path, allow_pickle=False) as kept:
        shape = tuple(int(n) for n in kept["shape"])
        return np.unpackbits(kept["bits"], count=int(np.prod(shape))).reshape(shape).astype(bool)
