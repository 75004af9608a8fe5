"""What decides how a file's pictures become upright RGB: found on the first decoded frame."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from opensama.media.video_io.alpha import RGB, WHITE, alpha_beside
from opensama.media.video_io.color import (
    Orientation,
    ToRGB,
    bit_depth_of,
    color_of,
    grey_is_full,
    has_alpha,
    orientation_of,
)
from opensama.media.video_io.pyav import as_fraction
from opensama.values import ColorInfo, UserError

Size = tuple[int, int]  # width, height
MAX_SIDE = 8192
"""Pixels; H.264 players go no further."""


@dataclass(frozen=True)
class FrameFormat:
    """Square-pixel size before turning, and what else decides the conversion to RGB."""

    width: int
    height: int
    orientation: Orientation
    color: ColorInfo
    bit_depth: int
    grey_full: bool = False
    alpha: bool = False
    stored: Size = (0, 0)
    """Width and height of the pictures that fill it, as they are coded."""
    pixel_shape: Fraction = Fraction(1)

    @property
    def shown(self) -> tuple[int, int]:
        """Width and height as people see them."""
        return (self.height, self.width) if self.orientation.turns % 2 else (self.width, self.height)

    def converter(self, cover: Size | None = None, background: RGB = WHITE) -> ToRGB:
        deep = self.bit_depth > 8
        return ToRGB(self.width, self.height, self.color, deep, self.orientation, cover, self.grey_full, background)


def frame_format_of(
    frame: av.VideoFrame,
    pixel_shape: Fraction | None,
    path: Path,
    orientation: Orientation | None = None,
    codec: str = "",
    size: Size | None = None,
) -> FrameFormat:
    """Wide or narrow pixels (`pixel_shape`, width to height) become square by changing the width.

    `size` is what is coded if it is not this frame's.
    """
    stored = size or (frame.width, frame.height)
    shape = as_fraction(pixel_shape) if pixel_shape and pixel_shape > 0 else Fraction(1)
    width, height = _square(stored, shape)
    check_size(width, height, path)
    orientation = orientation_of(frame) if orientation is None else orientation
    return FrameFormat(
        width,
        height,
        orientation,
        color_of(frame),
        bit_depth_of(frame.format),
        grey_is_full(frame, codec),
        has_alpha(frame.format) or alpha_beside(frame) is not None,
        stored,
        shape,
    )


class OneSize:
    """A converter for frames of several sizes: those that do not fill the picture are centred, with black beside."""

    def __init__(self, look: FrameFormat, cover: Size | None, background: RGB) -> None:
        self._look, self._cover, self._background = look, cover, background
        self._to_rgb = look.converter(cover, background)
        upright = replace(look, orientation=Orientation(), color=ColorInfo())
        self._covered = upright.converter(cover and (cover[::-1] if look.orientation.turns % 2 else cover))

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        if (frame.width, frame.height) == self._look.stored:
            return self._to_rgb(frame)
        look = self._look
        width, height = _square((frame.width, frame.height), look.pixel_shape)
        scale = min(look.width / width, look.height / height)
        width = max(1, min(look.width, round(width * scale)))
        height = max(1, min(look.height, round(height * scale)))
        small = replace(look, width=width, height=height, orientation=Orientation()).converter(None, self._background)(
            frame
        )
        picture = np.zeros((look.height, look.width, 3), small.dtype)
        top, left = (look.height - height) // 2, (look.width - width) // 2
        picture[top : top + height, left : left + width] = small
        if self._cover is not None:
            name = "rgb48le" if picture.dtype == np.uint16 else "rgb24"
            picture = self._covered(av.VideoFrame.from_ndarray(picture, format=name))
        return look.orientation.apply(picture)


def _square(size: Size, pixel_shape: Fraction) -> Size:
    """Width and height in square pixels."""
    if pixel_shape == 1:
        return size
    wide = size[0] * pixel_shape
    return int(wide) if wide.denominator == 1 else max(2, 2 * round(wide / 2)), size[1]


def check_size(width: int, height: int, path: Path) -> None:
    if max(width, height) > MAX_SIDE:
        raise UserError(
            f"{path} is {width}x{height} pixels; the limit is {MAX_SIDE} pixels a side, so make it smaller first."
        )
