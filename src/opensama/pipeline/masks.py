"""A person's mask: where an edit may change pixels, at full size, with a soft edge that lies inside it.

White may change, black may not, grey may change so far; transparent places of a mask are black. A mask of pure black
and white gets an edge of about half a percent of the picture's short side; nothing outside it ever changes.

PyTorch is imported when weights are asked for: what is wrong with a mask or a box is found without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from opensama.values import EditRequest, UserError, Video

if TYPE_CHECKING:
    from torch import Tensor

    _Weights = Callable[[int, int], Iterator[Tensor | None]]

_NOISE = 8 / 255  # darker than this is black: compressed masks are not quite clean
_BLACK = "The mask is black everywhere, so nothing may change: paint white where the edit may act."


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
    than the video. Of several edits in one pass the weights are the largest of all."""
    if request.edits:
        return _any_of([limits_of(one, video) for one in request.single_edits()], video)
    if request.box is not None:
        return _still(_box(request.box, video))
    if request.mask is None:
        return Limits(lambda start, stop: (None for _ in range(start, stop)), lambda: 1.0)
    if isinstance(request.mask, np.ndarray):
        masks = request.mask if request.mask.ndim == 3 else request.mask[None]
        return _moving(lambda a, b: iter(masks[a:b]), len(masks), masks.shape[1:], video, white=_white(masks))

    from opensama.media.video_io import read_video

    read = read_video(Path(request.mask), background="black")
    return _moving(read.frames, read.frame_count, (read.height, read.width), video)


def _any_of(several: Sequence[Limits], video: Video) -> Limits:
    def weights(start: int, stop: int) -> Iterator[Tensor | None]:
        import torch

        for each in zip(*(one(start, stop) for one in several), strict=True):
            limited = [weight for weight in each if weight is not None]
            yield torch.stack(limited).amax(0) if len(limited) == len(each) else None

    def covered() -> float:
        count = video.frame_count
        return sum(1.0 if one is None else float(one.mean()) for one in weights(0, count)) / count

    return Limits(weights, covered)


def _box(box: tuple[int, int, int, int], video: Video) -> np.ndarray:
    x, y, width, height = box
    if x + width > video.width or y + height > video.height:
        raise UserError(
            f"The box {x},{y},{width},{height} reaches outside the video, which is {video.width}x{video.height}."
        )
    weight = np.zeros((video.height, video.width), np.float32)
    weight[y : y + height, x : x + width] = 1
    return weight


def _still(weight: np.ndarray) -> Limits:
    softened = cache(lambda: soften(weight))
    return Limits(lambda start, stop: (softened() for _ in range(start, stop)), lambda: float(weight.mean()))


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
        return _still(weight)

    def weights(start: int, stop: int) -> Iterator[np.ndarray]:
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


def _weight(mask: np.ndarray, video: Video, white: float) -> np.ndarray:
    """A mask picture (h w or h w 3) as weights [h w] of the video's size, its edge as hard as it is."""
    if mask.ndim == 3:
        mask = mask.max(axis=2)
    weight = mask.astype(np.float32) / np.float32(white)
    if weight.shape != (video.height, video.width):  # the pixel that each one's middle lies in
        rows, columns = (
            ((np.arange(wanted) + 0.5) * (there / wanted)).astype(int)
            for there, wanted in zip(weight.shape, (video.height, video.width), strict=True)
        )
        weight = weight[np.ix_(rows, columns)]
    return np.where(weight < _NOISE, np.float32(0), weight).clip(0, 1)


def soften(weight: np.ndarray) -> Tensor:
    """A mask [h w] with its edge made soft inwards: 0 stays 0; a mask too thin to be softened stays as it is."""
    import torch

    from opensama.pipeline.preserve import blur

    mask, radius = torch.from_numpy(weight), max(1, round(min(weight.shape) / 200))
    if min(mask.shape) <= 2 * radius:
        return mask
    inside = (mask > 0).float()
    edge = (2 * blur(inside[None, None], radius)[0, 0] - 1).clamp(0, 1) * inside
    return mask * edge if edge.sum() > 0.5 * inside.sum() else mask
