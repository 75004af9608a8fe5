"""What decides how a file's pictures become upright RGB: found on the first decoded frame."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from opensama.media.video_io.alpha import RGB, WHITE
from opensama.media.video_io.color import (
    Orientation,
    ToRGB,
    bit_depth_of,
    color_of,
    grey_is_full,
    has_alpha,
    orientation_of,
)
from opensama.values import ColorInfo, UserError

Size = tuple[int, int]  # width, height
MAX_SIDE = 8192
"""Pixels; H.264 players go no further."""


@dataclass(frozen=True)
class Look:
    """Square-pixel size before turning, and what else decides the conversion to RGB."""

    width: int
    height: int
    orientation: Orientation
    color: ColorInfo
    bit_depth: int
    grey_full: bool = False
    alpha: bool = False

    @property
    def shown(self) -> tuple[int, int]:
        """Width and height as people see them."""
        return (self.height, self.width) if self.orientation.turns % 2 else (self.width, self.height)

    def converter(self, cover: Size | None = None, background: RGB = WHITE) -> ToRGB:
        deep = self.bit_depth > 8
        return ToRGB(self.width, self.height, self.color, deep, self.orientation, cover, self.grey_full, background)


def look_of(
    frame: av.VideoFrame,
    pixel_shape: Fraction | None,
    path: Path,
    orientation: Orientation | None = None,
    codec: str = "",
) -> Look:
    """Wide or narrow pixels (`pixel_shape`, width to height) become square by changing the width."""
    width = frame.width
    if pixel_shape and pixel_shape > 0 and pixel_shape != 1:
        exact = width * pixel_shape
        width = int(exact) if exact.denominator == 1 else max(2, 2 * round(exact / 2))
    check_size(width, frame.height, path)
    orientation = orientation_of(frame) if orientation is None else orientation
    return Look(
        width,
        frame.height,
        orientation,
        color_of(frame),
        bit_depth_of(frame.format),
        grey_is_full(frame, codec),
        has_alpha(frame.format),
    )


def check_size(width: int, height: int, path: Path) -> None:
    if max(width, height) > MAX_SIDE:
        raise UserError(
            f"{path} is {width}x{height} pixels; the limit is {MAX_SIDE} pixels a side, so make it smaller first."
        )
