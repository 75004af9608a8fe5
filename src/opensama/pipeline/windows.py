"""Long clips: overlapping windows, each encoded and decoded on its own, denoised together.

A video autoencoder with a time factor of 4 stores frame 0 alone and then groups of four: latent j > 0 holds frames
4j-3 .. 4j. A window that starts at latent k therefore starts at frame 4k; its first latent holds frame 4k alone and has
no twin in any other window, so it is never blended. Its other latents i > 0 are latents k+i of the clip.

    latent   0   1   2   3   4   5   6   7   8            clip of 33 frames, windows of 17, overlap 2
    window   A0  A1  A2  A3  A4                           frames  0 .. 16
                     B0  B1  B2  B3  B4                   frames  8 .. 24    B1, B2 blended with A3, A4
                             C0  C1  C2  C3  C4           frames 16 .. 32

At every step the velocities of latents that are twins are averaged with linear ramps that sum to one, so twins start
equal (same noise) and stay equal, bit for bit. Decoded frames of two windows are crossfaded; a window's own first frame
counts nothing there except at the very start of the clip.

Letters: `w` windows, `c` channels, `t h w` latent time, rows, columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from opensama.values import frames_up

if TYPE_CHECKING:
    from opensama.pipeline.part_store import StoredRows


@dataclass(frozen=True)
class WindowPlan:
    """Windows over a clip of `frames` frames. All windows have the same length; the last one ends with the clip."""

    frames: int  # of the clip, before padding
    length: int  # latents a window
    starts: tuple[int, ...]  # in latents, ascending, from 0

    @classmethod
    def of(cls, frames: int, window: int = 81, overlap: int = 4, shortest: int | None = None) -> WindowPlan:
        """Windows of `window` frames (4k+1) whose neighbours share `overlap` latents or more.

        A clip that is shorter than `shortest` is filled up to it as far as a window goes, unless it is one picture.
        """
        if frames < 1 or window % 4 != 1:
            raise ValueError(f"cannot put windows of {window} frames over {frames}")
        total, length = latent_count(frames), latent_count(window)
        if total <= length:
            filled = latent_count(shortest) if shortest is not None and frames > 1 else 1
            return cls(frames, max(total, min(filled, length)), (0,))
        stride = length - 1 - overlap
        if overlap < 0 or stride < 1:
            raise ValueError(f"windows of {length} latents cannot share {overlap}")
        last = total - length
        return cls(frames, length, (*range(0, last, stride), last))

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def total(self) -> int:
        """Latents of the padded clip."""
        return self.starts[-1] + self.length

    @property
    def window_frames(self) -> int:
        return 4 * (self.length - 1) + 1

    @cached_property
    def weights(self) -> Tensor:
        """[w t] how much each window's latent counts; over the windows that hold a latent of the clip they sum to 1."""
        raw = torch.ones(len(self), self.length, dtype=torch.float64)
        place = torch.arange(1, self.length, dtype=torch.float64)
        for w, start in enumerate(self.starts):
            if w > 0:
                shared = self.starts[w - 1] + self.length - 1 - start
                raw[w, 1:] = torch.minimum(raw[w, 1:], place / (shared + 1))
            if w < len(self) - 1:
                shared = start + self.length - 1 - self.starts[w + 1]
                raw[w, 1:] = torch.minimum(raw[w, 1:], (self.length - place) / (shared + 1))
        sums = torch.zeros(self.total, dtype=torch.float64)
        for w, start in enumerate(self.starts):
            sums[start + 1 : start + self.length] += raw[w, 1:]
        for w, start in enumerate(self.starts):
            raw[w, 1:] /= sums[start + 1 : start + self.length]
        return raw

    def split(self, clip: Tensor) -> Tensor:
        """[1 c total h w] cut into windows [w c t h w]: the same noise for twins; a first latent has its group's."""
        return torch.cat([clip[:, :, k : k + self.length] for k in self.starts])

    def blend(self, windows: Tensor | StoredRows, part: slice = slice(None)) -> Tensor:
        """[w c t h w] with every latent replaced by the weighted mean over its twins; first latents stay.

        Of some windows, by `part`, the same numbers: only those that overlap them are read.
        """
        first, stop, _ = part.indices(len(self))
        if len(self) == 1:
            return windows[part]
        low, high = self.starts[first], self.starts[stop - 1] + self.length
        near = [w for w, k in enumerate(self.starts) if k < high and low < k + self.length]
        read = windows[near[0] : near[-1] + 1]
        weights = self.weights.float().to(read)
        clip = read.new_zeros(
            read.shape[1], self.starts[near[-1]] - self.starts[near[0]] + self.length, *read.shape[3:]
        )
        for w, window in zip(near, read, strict=True):
            k = self.starts[w] - self.starts[near[0]]
            clip[:, k + 1 : k + self.length] += weights[w, 1:, None, None] * window[:, 1:]
        blended = read[first - near[0] : stop - near[0]].clone()
        for w, window in zip(range(first, stop), blended, strict=True):
            k = self.starts[w] - self.starts[near[0]]
            window[:, 1:] = clip[:, k + 1 : k + self.length]
        return blended

    def gather(self, frames: Iterable[Tensor]) -> Iterator[Tensor]:
        """One pass over the clip's frames [c h w] gives one window of frames [c t h w] after the other.

        The last frame is repeated to fill 4k+1. Holds one window of frames.
        """
        source = iter(frames)
        held: list[Tensor] = []
        first = 0  # the clip's frame that held[0] is
        for start in self.starts:
            drop = 4 * start - first
            held, first = held[drop:], 4 * start
            while len(held) < self.window_frames:
                frame = next(source, None)
                if frame is None:
                    if not held:
                        raise ValueError("the clip has fewer frames than it said")
                    frame = held[-1]
                held.append(frame)
            yield torch.stack(held, dim=1)

    def stitch(self, windows: Iterable[Tensor]) -> Iterator[Tensor]:
        """Decoded windows [c t h w], in order, crossfaded into the clip's frames: yields [c n h w] that are final.

        The frames that come out are exactly the clip's, padding trimmed. Holds one window of frames.
        """
        pending: Tensor | None = None
        done = 0
        for w, (start, window) in enumerate(zip(self.starts, windows, strict=True)):
            if pending is not None:
                both = pending.shape[1]
                ramp = torch.linspace(0, 1, both).to(window)[:, None, None] if both > 1 else window.new_zeros(1, 1, 1)
                window = torch.cat([torch.lerp(pending, window[:, :both], ramp), window[:, both:]], dim=1)
            final = 4 * self.starts[w + 1] if w < len(self) - 1 else self.frames
            ready = final - 4 * start
            yield window[:, :ready]
            done += ready
            pending = window[:, ready:]
        assert done == self.frames


def latent_count(frames: int) -> int:
    """Latent frames that hold so many frames, the last group filled up."""
    return (frames_up(frames) - 1) // 4 + 1
