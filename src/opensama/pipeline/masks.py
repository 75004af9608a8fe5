"""A person's mask: where an edit may change pixels, at full size, with a soft edge that lies inside it.

White may change, black may not, grey may change so far; transparent places of a mask are black. A mask of pure black
and white gets an edge of about half a percent of the picture's short side; nothing outside it ever changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from opensama.pipeline.preserve import blur
from opensama.values import EditRequest, UserError, Video

_NOISE = 8 / 255  # darker than this is black: compressed masks are not quite clean
_BLACK = "The mask is black everywhere, so nothing may change: paint white where the edit may act."

_Weights = Callable[[int, int], Iterator[Tensor | None]]


@dataclass(frozen=True)
class Limits:
    """What limits an edit: called with (start, stop), frames of the video, it streams weights [h w], or None each."""

    weights: _Weights
    covered: Callable[[], float]
    """The part of the frame that may change, 0 to 1, over all frames: a mask that is a video is read through."""

    def __call__(self, start: int, stop: int) -> Iterator[Tensor | None]:
        return self.weights(start, stop)


def limits_of(request: EditRequest, video: Video) -> Limits:
    """What limits the edit. UserError for a mask that cannot be read, holds nothing, or has another length or shape
    than the video."""
    if request.box is not None:
        return _still(*_box(request.box, video))
    if request.mask is None:
        return _still(None, 1.0)
    if isinstance(request.mask, np.ndarray):
        masks = request.mask if request.mask.ndim == 3 else request.mask[None]
        return _moving(lambda a, b: iter(masks[a:b]), len(masks), masks.shape[1:], video, white=_white(masks))

    from opensama.media.video_io import read_video

    read = read_video(Path(request.mask), background="black")
    return _moving(read.frames, read.frame_count, (read.height, read.width), video)


def _box(box: tuple[int, int, int, int], video: Video) -> tuple[Tensor, float]:
    x, y, width, height = box
    if x + width > video.width or y + height > video.height:
        raise UserError(
            f"The box {x},{y},{width},{height} reaches outside the video, which is {video.width}x{video.height}."
        )
    mask = torch.zeros(video.height, video.width)
    mask[y : y + height, x : x + width] = 1
    return soften(mask), float(mask.mean())


def _still(weight: Tensor | None, covered: float) -> Limits:
    return Limits(lambda start, stop: (weight for _ in range(start, stop)), lambda: covered)


def _moving(
    masks: Callable[[int, int], Iterator[np.ndarray]],
    count: int,
    size: tuple[int, ...],
    video: Video,
    *,
    white: float | None = None,
) -> Limits:
    """`white` is the value of full change; None: found in the one picture, the full scale for a video."""
    if count not in (1, video.frame_count):
        raise UserError(f"The mask has {count} frames where the video has {video.frame_count}: give as many, or one.")
    if abs(size[1] / size[0] - video.width / video.height) > 0.02 * video.width / video.height:
        raise UserError(
            f"The mask is {size[1]}x{size[0]} and the video {video.width}x{video.height}: make them the same shape."
        )
    if count == 1:
        mask = next(masks(0, 1))
        weight = _weight(mask, video, _white(mask) if white is None else white)
        if not weight.any():
            raise UserError(_BLACK)
        return _still(soften(weight), float(weight.mean()))

    def weights(start: int, stop: int) -> Iterator[Tensor]:
        return (_weight(mask, video, white or _full(mask.dtype)) for mask in masks(start, stop))

    def covered() -> float:
        share = sum(float(weight.mean()) for weight in weights(0, count)) / count
        if not share:
            raise UserError(_BLACK)
        return share

    return Limits(lambda start, stop: map(soften, weights(start, stop)), covered)


def _white(masks: np.ndarray) -> float:
    """The value of full change in masks of bool, integer, or float in [0, 1]. Zeros and ones mean black and white."""
    return _full(masks.dtype) if masks.max() > 1 else 1.0


def _full(dtype: np.dtype) -> float:
    return float(np.iinfo(dtype).max) if np.issubdtype(dtype, np.integer) else 1.0


def _weight(mask: np.ndarray, video: Video, white: float) -> Tensor:
    """A mask picture (h w or h w 3) as weights [h w] of the video's size, its edge as hard as it is."""
    if mask.ndim == 3:
        mask = mask.max(axis=2)
    weight = torch.from_numpy(np.asarray(mask, np.float32) / np.float32(white))
    if weight.shape != (video.height, video.width):
        weight = functional.interpolate(weight[None, None], (video.height, video.width), mode="nearest-exact")[0, 0]
    return torch.where(weight < _NOISE, 0.0, weight).clamp(0, 1)


def soften(mask: Tensor) -> Tensor:
    """A mask [h w] with its edge made soft inwards: 0 stays 0; a mask too thin to be softened stays as it is."""
    radius = max(1, round(min(mask.shape) / 200))
    if min(mask.shape) <= 2 * radius:
        return mask
    inside = (mask > 0).float()
    edge = (2 * blur(inside[None, None], radius)[0, 0] - 1).clamp(0, 1) * inside
    return mask * edge if edge.sum() > 0.5 * inside.sum() else mask
