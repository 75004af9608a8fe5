"""Which size a clip is edited at, and where its picture lies in it.

    buckets: for every height h that is a multiple of m, the width nearest to area / h that is a multiple of m,
             kept where 1/2 <= w / h <= 2. With 832 * 480 pixels and m = 32: the fifteen of the released SAMA inference.
    choice:  the bucket whose w / h is nearest to the source's.

The released inference then crops what sticks out. We lose nothing: a picture whose shape is within 12 % of the
bucket's is stretched to fill it (and stretched back on return), any other is fitted inside and its edge pixels are
repeated outwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from opensama.media.frames import resize

STRETCH = 1.12  # shapes that differ by more than this are padded instead of stretched


def buckets(area: int = 832 * 480, multiple: int = 32) -> list[tuple[int, int]]:
    """All (width, height) of about `area` pixels, widest first."""
    found = []
    for rows in range(1, math.ceil(math.sqrt(2 * area) / multiple) + 2):
        height = rows * multiple
        width = round(area / height / multiple) * multiple
        if width and height <= 2 * width <= 4 * height:
            found.append((width, height))
    return found or [(multiple, multiple)]


def closest(width: int, height: int, area: int = 832 * 480, multiple: int = 32) -> tuple[int, int]:
    """The bucket (width, height) whose aspect ratio is nearest to the source's."""
    return min(buckets(area, multiple), key=lambda bucket: abs(bucket[0] / bucket[1] - width / height))


@dataclass(frozen=True)
class Placement:
    """Where the whole source picture lies in its bucket: the box (left, top, inner_width, inner_height)."""

    width: int
    height: int
    left: int
    top: int
    inner_width: int
    inner_height: int

    @property
    def fills(self) -> bool:
        return (self.inner_width, self.inner_height) == (self.width, self.height)

    @classmethod
    def of(cls, width: int, height: int, area: int = 832 * 480, multiple: int = 32) -> Placement:
        """The placement of a source of this size in the bucket nearest to its shape."""
        w, h = closest(width, height, area, multiple)
        ratio = (width / height) / (w / h)
        if 1 / STRETCH <= ratio <= STRETCH:
            return cls(w, h, 0, 0, w, h)
        inner_w, inner_h = (w, max(1, round(h / ratio))) if ratio > 1 else (max(1, round(w * ratio)), h)
        return cls(w, h, (w - inner_w) // 2, (h - inner_h) // 2, inner_w, inner_h)

    @classmethod
    def of_reference(cls, width: int, height: int, area: int = 848 * 480, multiple: int = 16) -> Placement:
        """A picture beside the video, in its own shape: its longer side at most that of a 53:30 frame of `area`."""
        scale = min(math.sqrt(area * 53 / 30) / max(width, height), 1.0)
        w, h = (max(1, round(round(side * scale) / multiple)) * multiple for side in (width, height))
        return cls(w, h, 0, 0, w, h)

    def enter(self, frame: np.ndarray) -> Tensor:
        """A frame (h w 3, uint8 or uint16) as pixels in [-1, 1] at bucket size: [3 h w] float32."""
        pixels = unit(frame).permute(2, 0, 1)[None]
        pixels = resize(pixels[:, :, None], self.inner_height, self.inner_width)[:, :, 0]
        if not self.fills:
            right, bottom = self.width - self.left - self.inner_width, self.height - self.top - self.inner_height
            pixels = functional.pad(pixels, (self.left, right, self.top, bottom), mode="replicate")
        return pixels[0].clamp_(0, 1).mul_(2).sub_(1)

    def leave(self, pixels: Tensor) -> Tensor:
        """The source's picture cut out of bucket-size pixels [... h w]: a view [... inner_height inner_width]."""
        return pixels[..., self.top : self.top + self.inner_height, self.left : self.left + self.inner_width]


def unit(frame: np.ndarray) -> Tensor:
    """An integer frame as float32 in [0, 1], same layout."""
    top = np.float32(np.iinfo(frame.dtype).max)
    return torch.from_numpy(frame.astype(np.float32) / top)
