"""Between coded frames and upright RGB arrays: matrix, range, bit depth, pixel shape, rotation.

Both ways use the matrix and range that the file names. Where it names none, BT.709 is used from 1280 pixels on the long
side and BT.601 below, as players do, and the written file names none either, so a player treats both files alike.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from opensama.media.frames import of_depth
from opensama.media.video_io.alpha import RGB, WHITE, alpha_beside, composed
from opensama.media.video_io.matrix import KR_KB, Coding, grey_levels
from opensama.media.video_io.pyav import side_data_of
from opensama.values import ColorInfo, UserError

# Without the last two, luma comes back up to two levels off.
_EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
_EXACT_TINY = Interpolation.BICUBIC | Interpolation.ACCURATE_RND
"""For 16-bit RGB of a few rows: there swscale 9's exact path filters two rows at a time, and wrongly."""
_AVERAGES = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
"""For pictures at most a third as wide and high: bicubic weights differ little from averages there, and take thrice
the time."""

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
_GREY_IS_FULL = {
    "ffv1",
    "huffyuv",
    "ffvhuff",
    "rawvideo",
    "png",
    "apng",
    "tiff",
    "bmp",
    "gif",
    "mjpeg",
    "jpegls",
    "qtrle",
}
"""Codecs whose grey without a named range goes from 0 to the top: what FFmpeg puts in. In the others it is limited."""


def _number(table: dict[int, str], name: str) -> int:
    return next((number for number, known in table.items() if known == name), 2 if table is not RANGES else 0)


def color_of(frame: av.VideoFrame) -> ColorInfo:
    """What a decoded frame says about its colours; RGB and grey ones are said to be BT.709, as they are written."""
    if channels_of(frame.format) != "yuv":
        primaries, transfer = int(frame.color_primaries), int(frame.color_trc)
        if transfer in (16, 18):  # PQ or HLG in RGB stays HDR
            return ColorInfo("bt2020nc", "limited", PRIMARIES.get(primaries, "bt2020"), TRANSFERS[transfer])
        return ColorInfo()
    matrix = MATRICES.get(int(frame.colorspace), "unspecified")
    if matrix not in (*KR_KB, "unspecified"):
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


def channels_of(pixel_format: av.VideoFormat) -> str:
    """`grey`, `yuv`, or `rgb`, with or without alpha."""
    if pixel_format.is_rgb or pixel_format.has_palette or pixel_format.name.startswith("xyz"):
        return "rgb"
    return "grey" if sum(not component.is_alpha for component in pixel_format.components) == 1 else "yuv"


def grey_is_full(frame: av.VideoFrame, codec: str) -> bool:
    """Whether grey goes from 0 to the top code, not from 16 to 235: what the frame says, or the codec's habit."""
    named = RANGES.get(int(frame.color_range), "unspecified")
    return codec in _GREY_IS_FULL if named == "unspecified" else named == "full"


def tag(context: av.VideoCodecContext | av.VideoStream | av.VideoFrame, color: ColorInfo) -> None:
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


@dataclass(frozen=True)
class Orientation:
    """How the stored picture is turned to stand upright: quarter turns counter-clockwise after a mirroring."""

    turns: int = 0
    mirrored: bool = False

    def apply(self, picture: np.ndarray) -> np.ndarray:
        if self.mirrored:
            picture = picture[:, ::-1]
        return np.ascontiguousarray(np.rot90(picture, self.turns)) if self.turns or self.mirrored else picture

    def undo(self, picture: np.ndarray) -> np.ndarray:
        """The stored picture of an upright one."""
        picture = np.rot90(picture, -self.turns)
        return np.ascontiguousarray(picture[:, ::-1] if self.mirrored else picture)


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
        grey_full: bool = False,
        background: RGB = WHITE,
    ) -> None:
        self.width, self.height = width, height  # with square pixels, before turning
        self.cover = cover
        if cover is not None:
            across, down = cover[::-1] if orientation.turns % 2 else cover
            scale = max(across / width, down / height)
            self.width, self.height = max(across, round(width * scale)), max(down, round(height * scale))
        self.color, self.deep, self.orientation, self.grey_full = color, deep, orientation, grey_full
        self.background = background
        self._matrix = color.matrix_for(width, height)
        self._reformatter, self._interleaver = VideoReformatter(), VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        picture, alpha = self._colors(frame)
        return self._placed(picture if alpha is None else composed(picture, alpha, self.background))

    def alpha(self, frame: av.VideoFrame) -> np.ndarray:
        """How much of the frame shows, `h w`, of the pictures' type: 0 is clear."""
        picture, alpha = self._colors(frame)
        opaque = np.iinfo(picture.dtype).max
        return self._placed(np.full(picture.shape[:2], opaque, picture.dtype) if alpha is None else alpha)

    def _placed(self, picture: np.ndarray) -> np.ndarray:
        picture = self.orientation.apply(np.ascontiguousarray(picture) if self.cover is None else picture)
        if self.cover is None:
            return picture
        width, height = self.cover
        top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
        return picture[top : top + height, left : left + width]

    def _colors(self, frame: av.VideoFrame) -> tuple[np.ndarray, np.ndarray | None]:
        """Colours `h w 3` and, where the file has it, alpha `h w`, not yet turned."""
        picture, alpha = self._of_format(frame)
        if (beside := alpha_beside(frame)) is not None:
            alpha = self._of_grey(beside, full=True)[0][..., 0]
        return picture, alpha

    def _of_format(self, frame: av.VideoFrame) -> tuple[np.ndarray, np.ndarray | None]:
        """The same of what the frame itself holds."""
        kind = channels_of(frame.format)
        if kind == "grey":
            return self._of_grey(frame, self.grey_full)
        if self.deep and kind == "yuv":
            return self._of_deep_yuv(frame)
        if self.deep and self._is_planes(frame, "gbra?p"):
            return self._of_deep_planes(frame)
        alpha = has_alpha(frame.format)
        name = ("rgba64le" if alpha else "rgb48le") if self.deep else ("rgba" if alpha else "rgb24")
        as_planes = name == "rgb24" and self.cover is not None  # what becomes a tensor need not be interleaved
        by_planes = as_planes or (kind == "yuv" and not self.deep)
        changed = self._scaled(
            frame,
            ("gbrap" if alpha else "gbrp") if by_planes else name,  # the same codes in a fifth of the time
            src_colorspace=_number(MATRICES, self._matrix) if kind == "yuv" else None,
            src_color_range=1 if kind == "yuv" and self.color.range != "full" else 2,
            dst_color_range=2,
        )
        if as_planes:
            return np.stack([_plane(changed, index) for index in (2, 0, 1)]).transpose(1, 2, 0), None
        if by_planes:
            changed = self._interleaver.reformat(changed, format=name, interpolation=_EXACT, threads=1)
        picture = changed.to_ndarray()
        return (picture[..., :3], picture[..., 3]) if alpha else (picture, None)

    def _of_grey(self, frame: av.VideoFrame, full: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """By a table: swscale takes every grey for full range, whatever is said."""
        bits, alpha, unit = bit_depth_of(frame.format), has_alpha(frame.format), 1
        if not self._is_planes(frame, "gray"):
            unit = 1 if bits == 8 else 1 << 16 - bits
            name = ("ya" if alpha else "gray") + ("16le" if bits > 8 else "8" if alpha else "")
            frame = self._scaled(frame, name, src_color_range=2, dst_color_range=2)
        codes, coding = _plane(frame, 0, 1 + alpha), Coding("bt709", full, bits)
        grey = grey_levels(coding, self.deep, unit)[codes[..., 0] if alpha else codes]
        picture = np.broadcast_to(grey[..., None], (*grey.shape, 3))
        return picture, _spread(codes[..., 1], bits if bits == 8 else 16, self.deep) if alpha else None

    def _of_deep_yuv(self, frame: av.VideoFrame) -> tuple[np.ndarray, np.ndarray | None]:
        """Chroma is brought to luma's size by swscale, which shifts the codes up to 16 bits; the rest is computed."""
        bits, alpha, unit = bit_depth_of(frame.format), has_alpha(frame.format), 1
        if not self._is_planes(frame, "yuva?444p"):
            unit = 1 << 16 - bits
            name = "yuva444p16le" if alpha else "yuv444p16le"
            frame = self._scaled(frame, name, src_color_range=2, dst_color_range=2)
        y, cb, cr, *rest = (_plane(frame, index) for index in range(3 + alpha))
        picture = Coding(self._matrix, self.color.range == "full", bits).to_rgb(y, cb, cr, unit)
        return picture, _spread(rest[0] // unit, bits, True) if rest else None

    def _of_deep_planes(self, frame: av.VideoFrame) -> tuple[np.ndarray, np.ndarray | None]:
        bits = bit_depth_of(frame.format)
        g, b, r, *rest = (_spread(_plane(frame, index), bits, True) for index in range(len(frame.planes)))
        return np.stack([r, g, b], -1), rest[0] if rest else None

    def _is_planes(self, frame: av.VideoFrame, family: str) -> bool:
        """Whether these are whole numbers, a plane a component, of the size that is wanted: no need of swscale."""
        suffix = "(9|10|12|14|16)le" if bit_depth_of(frame.format) > 8 else ""
        same = (frame.width, frame.height) == (self.width, self.height)
        return same and re.fullmatch(family + suffix, frame.format.name) is not None

    def _scaled(self, frame: av.VideoFrame, name: str, **how: int | None) -> av.VideoFrame:
        """The frame in another format, at the size that is wanted."""
        tiny = self.height <= 16 and name in ("rgb48le", "rgba64le")
        much = 3 * self.width <= frame.width and 3 * self.height <= frame.height
        return self._reformatter.reformat(
            frame,
            width=self.width,
            height=self.height,
            format=name,
            interpolation=_EXACT_TINY if tiny else _AVERAGES if much else _EXACT,
            threads=1,
            **how,
        )


class FromRGB:
    """Turns arrays `h w 3`, of straight colours where there is alpha, into frames of an encoder's pixel format."""

    def __init__(self, pixel_format: str, color: ColorInfo, width: int, height: int) -> None:
        self.pixel_format, self.color = pixel_format, color
        full = color.range == "full"
        self._coding = Coding(color.matrix_for(width, height), full, 10 if "10" in pixel_format else 8)
        self._by_us = full or self._coding.bits > 8
        self._reformatter = VideoReformatter()

    def __call__(self, picture: np.ndarray, alpha: np.ndarray | None = None) -> av.VideoFrame:
        if picture.dtype == np.uint16 and self._coding.bits == 8:
            picture = of_depth(picture, np.uint8)
            alpha = None if alpha is None else of_depth(alpha, np.uint8)
        changed = self._computed(picture, alpha) if self._by_us else self._converted(picture, alpha)
        tag(changed, self.color)
        return changed

    def _converted(self, picture: np.ndarray, alpha: np.ndarray | None) -> av.VideoFrame:
        name, picture = ("rgb24", picture) if alpha is None else ("rgba", np.dstack([picture, alpha]))
        return self._reformatter.reformat(
            av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=name),
            format=self.pixel_format,
            src_color_range=2,
            dst_colorspace=_number(MATRICES, self._coding.matrix),
            dst_color_range=1,
            interpolation=_EXACT,
            threads=1,
        )

    def _computed(self, picture: np.ndarray, alpha: np.ndarray | None) -> av.VideoFrame:
        """Luma and chroma of full size; for 4:2:0 shifted up to 16 bits, so that swscale only makes chroma smaller."""
        height, width, _ = picture.shape
        whole = "444" in self.pixel_format
        between = "yuv444p16le" if alpha is None else "yuva444p16le"
        frame = av.VideoFrame(width, height, self.pixel_format if whole else between)
        unit = 1 if whole else 1 << 16 - self._coding.bits
        planes = [*self._coding.of_rgb(picture, unit)]
        if alpha is not None:
            share = alpha.astype(np.float32) * np.float32((2**self._coding.bits - 1) / np.iinfo(alpha.dtype).max)
            planes.append(np.rint(share).astype(np.uint16) * np.uint16(unit))
        for index, codes in enumerate(planes):
            np.copyto(_plane(frame, index), codes, casting="unsafe")
        if whole:
            return frame
        return self._reformatter.reformat(
            frame, format=self.pixel_format, src_color_range=2, dst_color_range=2, interpolation=_EXACT, threads=1
        )


def _plane(frame: av.VideoFrame, index: int, channels: int = 1) -> np.ndarray:
    """A plane's codes, `h w` or `h w c`, without a copy."""
    dtype = np.uint8 if bit_depth_of(frame.format) == 8 else np.dtype("<u2")
    plane = frame.planes[index]
    rows = np.frombuffer(plane, dtype).reshape(plane.height, -1)  # type: ignore[call-overload]
    codes = rows[:, : plane.width * channels]
    return codes if channels == 1 else codes.reshape(plane.height, plane.width, channels)


def _spread(codes: np.ndarray, bits: int, deep: bool) -> np.ndarray:
    """Codes of full range as uint8, or uint16 over all 16 bits."""
    if bits == (16 if deep else 8):
        return codes
    return grey_levels(Coding("bt709", True, bits), deep)[codes]


def has_alpha(pixel_format: av.VideoFormat) -> bool:
    """Whether pixels may be transparent; those of a palette may."""
    return any(component.is_alpha for component in pixel_format.components) or pixel_format.has_palette
