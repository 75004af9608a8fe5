"""Codes of luma, chroma and grey to RGB and back by the equations of ITU-T H.273, to the nearest code.

    limited   Y = 2^(n-8) (16 + 219 Y')    C = 2^(n-8) (128 + 224 C')
    full      Y = (2^n - 1) Y'             C = (2^n - 1) C' + 2^(n-1)

    Y' = Kr R' + (1 - Kr - Kb) G' + Kb B'    Cb' = (B' - Y') / 2(1 - Kb)    Cr' = (R' - Y') / 2(1 - Kr)

FFmpeg's swscale does this well for 8 bit of limited range. With more bits it is off by up to four codes, at white above
what is legal, and the chroma of full range lies half a code low; so these are computed here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

KR_KB = {
    "bt709": (0.2126, 0.0722), "fcc": (0.30, 0.11), "bt470bg": (0.299, 0.114), "smpte170m": (0.299, 0.114),
    "smpte240m": (0.212, 0.087), "bt2020nc": (0.2627, 0.0593),
}  # fmt: skip
_CHUNK = 32_768
"""Pixels that are computed at a time, so that what lies between stays in the processor's cache."""


@dataclass(frozen=True)
class Coding:
    """How `bits` deep codes stand for colours."""

    matrix: str
    full: bool
    bits: int

    @property
    def luma(self) -> tuple[float, float]:
        """The code of black, and how many codes white lies above it."""
        return (0, 2**self.bits - 1) if self.full else (16 << self.bits - 8, 219 << self.bits - 8)

    @property
    def chroma(self) -> tuple[float, float]:
        """The code of no colour, and how many codes lie between the extremes."""
        return 1 << self.bits - 1, 2**self.bits - 1 if self.full else 224 << self.bits - 8

    def to_rgb(self, y: np.ndarray, cb: np.ndarray, cr: np.ndarray, unit: int = 1) -> np.ndarray:
        """Codes `h w`, each times `unit`, as RGB `h w 3`, uint16 over all 16 bits."""
        (black, white), (centre, span) = self.luma, self.chroma
        kr, kb = KR_KB[self.matrix]
        luma, chroma = np.float32(65_535 / (white * unit)), np.float32(65_535 / (span * unit))
        red, blue = np.float32(2 * (1 - kr)), np.float32(2 * (1 - kb))
        green = [np.float32(-k * factor / (1 - kr - kb)) for k, factor in ((kr, red), (kb, blue))]
        picture = np.empty((*y.shape, 3), np.uint16)
        for rows in _chunks(*y.shape):
            bright = (y[rows].astype(np.float32) - np.float32(black * unit)) * luma + np.float32(0.5)
            b = (cb[rows].astype(np.float32) - np.float32(centre * unit)) * chroma
            r = (cr[rows].astype(np.float32) - np.float32(centre * unit)) * chroma
            for channel, value in enumerate((red * r, green[0] * r + green[1] * b, blue * b)):
                value += bright
                np.copyto(picture[rows, :, channel], np.clip(value, 0, 65_535, out=value), casting="unsafe")
        return picture

    def of_rgb(self, picture: np.ndarray, unit: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """RGB `h w 3`, uint8 or uint16, as codes `h w`, each times `unit`: luma whole codes, chroma also between."""
        (black, white), (centre, span) = self.luma, self.chroma
        kr, kb = (np.float32(k) for k in KR_KB[self.matrix])
        scale = np.float32(1 / np.iinfo(picture.dtype).max)
        y, cb, cr = (np.empty(picture.shape[:2], np.uint16) for _ in range(3))
        half, top = np.float32(0.5), np.float32((2**self.bits - 1) * unit)
        for rows in _chunks(*picture.shape[:2]):
            r, g, b = (picture[rows, :, channel].astype(np.float32) * scale for channel in range(3))
            bright = g + kr * (r - g) + kb * (b - g)  # grey stays exactly grey
            np.copyto(y[rows], bright * np.float32(white) + np.float32(black + 0.5), casting="unsafe")
            for plane, color, k in ((cb, b, kb), (cr, r, kr)):
                value = (color - bright) * (np.float32(span * unit / 2) / (1 - k)) + np.float32(centre * unit)
                np.copyto(plane[rows], np.clip(value + half, 0, top, out=value), casting="unsafe")
        return y * np.uint16(unit), cb, cr


@lru_cache(16)
def grey_levels(coding: Coding, deep: bool, unit: int = 1) -> np.ndarray:
    """The grey of each code times `unit`, as a table: uint8, or uint16 over all 16 bits."""
    black, white = coding.luma
    dtype: type = np.uint16 if deep else np.uint8
    levels = (np.arange(2**coding.bits * unit) / unit - black) / white
    return np.rint(np.clip(levels, 0, 1) * np.iinfo(dtype).max).astype(dtype)


def _chunks(height: int, width: int) -> Iterator[slice]:
    rows = max(1, _CHUNK // width)
    return (slice(top, top + rows) for top in range(0, height, rows))
