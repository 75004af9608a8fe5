"""What is done to frames between files and models: other types, sizes and lengths, and pictures for people to look at.

Letters: `b` batch, `c` channels, `t` frames, `h w` rows and columns. Frames for people are numpy `t h w 3` RGB, uint8
or uint16 over all 16 bits; pixels for models are float tensors `1 c t h w` in [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from opensama.values import Video

if TYPE_CHECKING:
    from numpy.typing import DTypeLike
    from torch import Tensor

SEEK_FROM = 48  # frames between two wanted ones; nearer ones are reached faster by decoding


def to_pixels(frames: Iterable[np.ndarray]) -> Tensor:
    """Frames `h w 3` for a model: float32 `1 c t h w` in [-1, 1]."""
    import torch

    listed = list(frames)
    first = listed[0]
    stacked = np.empty((3, len(listed), *first.shape[:2]), np.result_type(*listed))
    for index, frame in enumerate(listed):
        stacked[:, index] = frame.transpose(2, 0, 1)
    scale = np.float32(2 / np.iinfo(stacked.dtype).max)
    pixels = stacked.astype(np.float32)
    pixels *= scale  # in place: memory costs as much as the decoding
    pixels -= 1
    return torch.from_numpy(pixels)[None]


def to_frames(pixels: Tensor, *, bit_depth: int = 8) -> np.ndarray:
    """The way back: `1 c t h w` to `t h w 3`, uint8 or (more than 8 bit) uint16, rounded and clamped."""
    if pixels.ndim != 5 or pixels.shape[:2] != (1, 3):
        raise ValueError(f"pixels are (1, 3, t, h, w), not {tuple(pixels.shape)}")
    dtype: type = np.uint8 if bit_depth <= 8 else np.uint16
    full = np.iinfo(dtype).max
    scaled = (pixels[0].detach().float().clamp(-1, 1) + 1) * (full / 2)
    return np.ascontiguousarray(scaled.round().permute(1, 2, 3, 0).cpu().numpy().astype(dtype))


def resize(pixels: Tensor, height: int, width: int) -> Tensor:
    """Every frame of `b c t h w` at another size: bicubic, smoothed first where it shrinks; stays in [-1, 1]."""
    from torch.nn import functional

    b, c, t, h, w = pixels.shape
    if (h, w) == (height, width):
        return pixels
    flat = pixels.transpose(1, 2).reshape(b * t, c, h, w)
    flat = functional.interpolate(flat, size=(height, width), mode="bicubic", antialias=True, align_corners=False)
    return flat.reshape(b, t, c, height, width).transpose(1, 2).clamp(-1, 1)


def cover(pixels: Tensor, height: int, width: int) -> Tensor:
    """Resized to fill `height` x `width` without distortion, then cut around the middle."""
    h, w = pixels.shape[-2:]
    scale = max(height / h, width / w)
    return crop_middle(resize(pixels, max(height, round(h * scale)), max(width, round(w * scale))), height, width)


def crop_middle(pixels: Tensor, height: int, width: int) -> Tensor:
    """The middle `height` x `width` of every frame."""
    h, w = pixels.shape[-2:]
    if height > h or width > w:
        raise ValueError(f"cannot cut {height}x{width} from {h}x{w}")
    top, left = (h - height) // 2, (w - width) // 2
    return pixels[..., top : top + height, left : left + width]


def resize_frame(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """One frame `h w 3` at another size, for people to look at: area averages down, bicubic up."""
    if frame.shape[:2] == (height, width):
        return frame
    return to_frames(resize(to_pixels([frame]), height, width), bit_depth=8 if frame.dtype == np.uint8 else 16)[0]


def eight_bit(frame: np.ndarray) -> np.ndarray:
    """Frames `... 3` of uint8 as they are, of uint16 with each value's upper byte (65535 becomes 255)."""
    return frame if frame.dtype == np.uint8 else (frame // 257).astype(np.uint8)


def of_depth(values: np.ndarray, dtype: DTypeLike) -> np.ndarray:
    """uint8 or uint16 as either of the two, over its whole range, to the nearest value."""
    if values.dtype == dtype:
        return values
    if dtype == np.uint8:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return values.astype(np.uint16) * np.uint16(257)


def picked(video: Video, numbers: Sequence[int]) -> Iterator[np.ndarray]:
    """These frames (rising numbers), uint8 `h w 3`: sought one by one where they lie far apart, else in one pass."""
    if numbers[-1] - numbers[0] > SEEK_FROM * (len(numbers) - 1):
        for number in numbers:
            yield from map(eight_bit, video.frames(number, number + 1))
        return
    yield from map(eight_bit, video.some(numbers))


def fitted(frame: np.ndarray, side: int) -> np.ndarray:
    """A frame uint8 `h w 3`, bicubically smaller where its longer side has more than `side` pixels."""
    from PIL import Image

    height, width = frame.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return np.ascontiguousarray(frame)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0))


def frames_for(
    video: Video, number: int = 8, side: int = 448, *, start: float | None = None, end: float | None = None
) -> tuple[np.ndarray, ...]:
    """Up to `number` frames from first to last, evenly spread, the longer side at most `side`: uint8 `h w 3`.

    `start` and `end` are seconds, see `Video.frame_range`.
    """
    first, stop = video.frame_range(start, end)
    return tuple(
        fitted(frame, side) for frame in picked(video, [first + i for i in evenly_spaced(stop - first, number)])
    )


def side_by_side(source: Video, result: Video) -> Video:
    """The source on the left, the result on the right, frame by frame, with the source's time and sound.

    The result is brought to the source's height, with its shape kept; where one is shorter its last frame stays.
    """
    height = source.height
    right_width = max(1, round(result.width * height / result.height))
    deep = max(source.bit_depth, result.bit_depth) > 8

    def frames(start: int, stop: int) -> Iterator[np.ndarray]:
        lefts = source.frames(start, stop)
        rights = _lasting(result, start, stop)
        for left, right in zip(lefts, rights, strict=True):
            pair = (left, resize_frame(right, height, right_width))
            yield np.concatenate([of_depth(frame, np.uint16) if deep else frame for frame in pair], axis=1)

    return source.with_frames(
        frames, width=source.width + right_width, bit_depth=max(source.bit_depth, result.bit_depth)
    )


def _lasting(video: Video, start: int, stop: int) -> Iterator[np.ndarray]:
    """Frames start:stop; beyond the end the last frame again."""
    count = video.frame_count
    if start < count:
        yield from video.frames(start, min(stop, count))
    if stop > count:
        (last,) = video.frames(count - 1, count)
        yield from [last] * (stop - max(start, count))


def contact_sheet(frames: Sequence[np.ndarray], *, columns: int | None = None, gap: int = 4) -> np.ndarray:
    """Frames of one size laid out in rows on white, reading order: one picture `h w 3` uint8."""
    if len(frames) == 0:
        raise ValueError("a contact sheet needs at least one frame")
    small = [eight_bit(frame) for frame in frames]
    height, width = small[0].shape[:2]
    columns = columns or math.ceil(math.sqrt(len(small) * height / width))
    columns = max(1, min(columns, len(small)))
    rows = -(-len(small) // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for index, frame in enumerate(small):
        top, left = (height + gap) * (index // columns), (width + gap) * (index % columns)
        sheet[top : top + height, left : left + width] = frame
    return sheet


def evenly_spaced(count: int, wanted: int) -> list[int]:
    """Up to `wanted` frame numbers spread evenly from the first to the last: what a contact sheet shows."""
    wanted = max(1, min(count, wanted))
    return [round(i * (count - 1) / max(1, wanted - 1)) for i in range(wanted)]
