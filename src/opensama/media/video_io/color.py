"""Between coded frames and upright RGB arrays: matrix, range, bit depth, pixel shape, rotation.

Both ways use the matrix and range that the file names. Where it names none, BT.709 is used from 1280 pixels on the long
side and BT.601 below, as players do, and the written file names none either, so a player treats both files alike.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from opensama.values import ColorInfo, UserError

# Without the last two, luma comes back up to two levels off.
_EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
_EXACT_TINY = Interpolation.BICUBIC | Interpolation.ACCURATE_RND
"""For 16-bit RGB of a few rows: there swscale 9's exact path filters two rows at a time, and wrongly."""

# FFmpeg's numbers (ITU-T H.273) and names.
MATRICES = {
    0: "rgb", 1: "bt709", 2: "unspecified", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "ycgco",
    9: "bt2020nc", 10: "bt2020c", 11: "smpte2085", 12: "chroma-derived-nc", 13: "chroma-derived-c", 14: "ictcp",
}  # fmt: skip
RANGES = {0: "unspecified", 1: "limited", 2: "full"}
PRIMARIES = {
    1: "bt709", 2: "unspecified", 4: "bt470m", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "film", 9: "bt2020",
    10: "smpte428", 11: "smpte431", 12: "smpte432", 22: "ebu3213",
}  # fmt: skip
TRANSFERS = {
    1: "bt709", 2: "unspecified", 4: "gamma22", 5: "gamma28", 6: "smpte170m", 7: "smpte240m", 8: "linear", 9: "log100",
    10: "log316", 11: "iec61966-2-4", 12: "bt1361e", 13: "iec61966-2-1", 14: "bt2020-10", 15: "bt2020-12",
    16: "smpte2084", 17: "smpte428", 18: "arib-std-b67",
}  # fmt: skip
_WITH_COEFFICIENTS = ("bt709", "fcc", "bt470bg", "smpte170m", "smpte240m", "bt2020nc")


def _number(table: dict[int, str], name: str) -> int:
    return next((number for number, known in table.items() if known == name), 2 if table is not RANGES else 0)


def color_of(frame: av.VideoFrame) -> ColorInfo:
    """What a decoded frame says about its colours; RGB and grey ones are said to be BT.709, as they are written."""
    grey = sum(not component.is_alpha for component in frame.format.components) == 1
    if frame.format.is_rgb or frame.format.has_palette or grey:
        primaries, transfer = int(frame.color_primaries), int(frame.color_trc)
        if transfer in (16, 18):  # PQ or HLG in RGB stays HDR
            return ColorInfo("bt2020nc", "limited", PRIMARIES.get(primaries, "bt2020"), TRANSFERS[transfer])
        return ColorInfo()
    matrix = MATRICES.get(int(frame.colorspace), "unspecified")
    if matrix not in (*_WITH_COEFFICIENTS, "unspecified"):
        raise UserError(f"The video's colour matrix ({matrix}) is not supported; convert it to BT.709 first.")
    color_range = RANGES.get(int(frame.color_range), "unspecified")
    if frame.format.name.startswith("yuvj"):
        color_range = "full"
    return ColorInfo(
        matrix,
        color_range,
        PRIMARIES.get(int(frame.color_primaries), "unspecified"),
        TRANSFERS.get(int(frame.color_trc), "unspecified"),
    )


def tag(context: Any, color: ColorInfo) -> None:
    """Names the colours on an encoder."""
    context.colorspace = _number(MATRICES, color.matrix)
    context.color_range = _number(RANGES, color.range)
    context.color_primaries = _number(PRIMARIES, color.primaries)
    context.color_trc = _number(TRANSFERS, color.transfer)


def bit_depth_of(pixel_format: av.VideoFormat) -> int:
    """Bits of the deepest component."""
    if pixel_format.has_palette:
        return 8
    return max(8, min(16, max(component.bits for component in pixel_format.components)))


def side_data_of(frame: av.VideoFrame) -> Iterator[Any]:
    """What was attached to a frame; nothing if PyAV meets a kind that is newer than it."""
    try:
        return iter(cast(Any, frame.side_data))
    except ValueError:
        return iter(())


@dataclass(frozen=True)
class Orientation:
    """How the stored picture is turned to stand upright: quarter turns counter-clockwise after a mirroring."""

    turns: int = 0
    mirrored: bool = False

    def apply(self, picture: np.ndarray) -> np.ndarray:
        if self.mirrored:
            picture = picture[:, ::-1]
        return np.ascontiguousarray(np.rot90(picture, self.turns)) if self.turns or self.mirrored else picture


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """From the display matrix (a b u, c d v, x y w): a stored point (p, q) is shown at (a p + c q, b p + d q)."""
    for data in side_data_of(frame):
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data)[:36])
            if abs(a) + abs(d) >= abs(b) + abs(c):  # upright, upside down, or mirrored
                if (a < 0) == (d < 0):
                    return Orientation(2 if a < 0 else 0)
                return Orientation(0 if a < 0 else 2, mirrored=True)
            if (b < 0) != (c < 0):
                return Orientation(3 if b > 0 else 1)
            return Orientation(1 if b > 0 else 3, mirrored=True)
    return Orientation(round(frame.rotation / 90) % 4)


class ToRGB:
    """Turns decoded frames into arrays `h w 3`, upright, square pixels, uint8 or (deep) uint16 over all 16 bits.

    With `cover`, a width and height, they are scaled to fill these and cut around the middle, in the same pass.
    """

    def __init__(
        self,
        width: int,
        height: int,
        color: ColorInfo,
        deep: bool,
        orientation: Orientation,
        cover: tuple[int, int] | None = None,
    ) -> None:
        self.width, self.height = width, height  # with square pixels, before turning
        self.cover = cover
        if cover is not None:
            across, down = cover[::-1] if orientation.turns % 2 else cover
            scale = max(across / width, down / height)
            self.width, self.height = max(across, round(width * scale)), max(down, round(height * scale))
        self.color, self.deep, self.orientation = color, deep, orientation
        self._matrix = _number(MATRICES, color.matrix_for(width, height))
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        alpha = _has_alpha(frame.format)
        name = ("rgba64le" if alpha else "rgb48le") if self.deep else ("rgba" if alpha else "rgb24")
        if self.cover is not None and name == "rgb24":
            name = "gbrp"  # scaled to a third of the time, and what becomes a tensor need not be turned round
        is_yuv = not (frame.format.is_rgb or frame.format.has_palette)
        changed = self._reformatter.reformat(
            frame,
            width=self.width,
            height=self.height,
            format=name,
            src_colorspace=self._matrix if is_yuv else None,
            src_color_range=(2 if self.color.range == "full" else 1) if is_yuv else 2,
            dst_color_range=2,
            interpolation=_EXACT_TINY if self.deep and self.height <= 16 else _EXACT,
            threads=1,
        )
        picture = _of_planes(changed) if name == "gbrp" else changed.to_ndarray()
        picture = self.orientation.apply(_over_white(picture) if alpha else picture)
        if self.cover is None:
            return picture
        width, height = self.cover
        top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
        return picture[top : top + height, left : left + width]


class FromRGB:
    """Turns arrays `h w 3` into frames of an encoder's pixel format."""

    def __init__(self, pixel_format: str, color: ColorInfo, width: int, height: int) -> None:
        self.pixel_format, self.color = pixel_format, color
        self._matrix = _number(MATRICES, color.matrix_for(width, height))
        self._deep = "10" in pixel_format
        self._reformatter = VideoReformatter()

    def __call__(self, picture: np.ndarray) -> av.VideoFrame:
        if picture.dtype == np.uint16 and not self._deep:
            picture = (picture // 257).astype(np.uint8)
        name = "rgb48le" if picture.dtype == np.uint16 else "rgb24"
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=name)
        changed = self._reformatter.reformat(
            frame,
            format=self.pixel_format,
            src_color_range=2,
            dst_colorspace=self._matrix,
            dst_color_range=2 if self.color.range == "full" else 1,
            interpolation=_EXACT,
            threads=1,
        )
        tag(changed, self.color)
        return changed


def _of_planes(frame: av.VideoFrame) -> np.ndarray:
    """8-bit G, B, R planes as `h w 3`, each colour in one piece."""
    picture = np.empty((3, frame.height, frame.width), np.uint8)
    for plane, channel in zip(frame.planes, (1, 2, 0), strict=True):
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)  # type: ignore[call-overload]
        picture[channel] = rows[: frame.height, : frame.width]
    return picture.transpose(1, 2, 0)


def _has_alpha(pixel_format: av.VideoFormat) -> bool:
    return any(component.is_alpha for component in pixel_format.components) or pixel_format.has_palette


def _over_white(picture: np.ndarray) -> np.ndarray:
    """Transparent places show white, as on a page."""
    alpha = picture[..., 3:]
    full = np.iinfo(picture.dtype).max
    if alpha.min() == full:
        return np.ascontiguousarray(picture[..., :3])
    wide = picture[..., :3].astype(np.uint32) * alpha + np.uint32(full) * (full - alpha.astype(np.uint32))
    return ((wide + full // 2) // full).astype(picture.dtype)
