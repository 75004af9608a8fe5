"""Edits at a frame rate of the model's own, carried to the frames between by what moved in the source.

    picked   of n moments from the clip's first frame to its last, 1 / fps apart, the frames nearest to them
    i        a frame between the picked ones a and b, at the share s of the way in time
    f_k      where each pixel of the source's i lies in its k = a, b (optical flow, at the model's size)
    w_k      (1 - s, s) times how well the source at k, so moved, agrees with i: exp(-(d / 0.025)^2)
    E, Y(R), m at i = the mean of those of a and b, moved by f_k, weighted by w_k

From there `preserve` goes on as it does for a frame that the model saw: what moves in is the change, Y(S) of the frame
itself gives the detail, and m = 0 leaves the source's own numbers. An edit that moves otherwise than the source (fire
that was added, what was behind a removed thing) is blended where the two frames differ; a thing that is edited and
moves by more than flow can follow between a and i is a ghost there.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from opensama.media.motion import Flow
from opensama.pipeline.buckets import Placement
from opensama.pipeline.preserve import (
    ChangeRule,
    Compositor,
    FrameBuffer,
    PreserveSettings,
    SmallFrame,
    blur,
    luminance,
)
from opensama.values import Video

AGREEMENT = 0.025  # of full scale


@dataclass(frozen=True)
class PickedFrames:
    """The frames that a model sees of a clip: numbers from the clip's first frame on, rising, some perhaps repeated."""

    picked: tuple[int, ...]
    times: tuple[float, ...]
    """Seconds of each frame of the clip."""

    @classmethod
    def of(cls, video: Video, start: int, stop: int, fps: float | None) -> PickedFrames:
        """Those of the frames start..stop at about `fps` a second, the first and the last among them; None: all."""
        first = video.timestamps[start]
        times = tuple(float((stamp - first) * video.time_base) for stamp in video.timestamps[start:stop])
        if fps is None:
            return cls(tuple(range(stop - start)), times)
        picked, count = [], max(round(times[-1] * fps) + 1, min(2, len(times)))
        for moment in np.linspace(0, times[-1], count):
            after = min(bisect_left(times, moment), len(times) - 1)
            picked.append(after - 1 if after and moment - times[after - 1] < times[after] - moment else after)
        return cls(tuple(picked), times)

    def __len__(self) -> int:
        return len(self.picked)

    @property
    def are_all(self) -> bool:
        """Whether each frame is seen, and once."""
        return self.picked == tuple(range(len(self.times)))

    def pick(self, frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Of the clip's frames those that are picked, as often as they are."""
        place = 0
        for index, frame in enumerate(frames):
            while place < len(self) and self.picked[place] == index:
                yield frame
                place += 1

    def around(self, index: int) -> tuple[int, int, float]:
        """Which of the picked frames lie before and after a frame, and its share of the way; twice the same for one."""
        after = bisect_left(self.picked, index)
        if self.picked[after] == index:
            return after, after, 0.0
        a, b = (self.times[self.picked[k]] for k in (after - 1, after))
        return after - 1, after, (self.times[index] - a) / (b - a)


class BetweenCompositor(Compositor):
    """A Compositor of an edit that has only the picked frames, and a guide."""

    def __init__(
        self, picked: PickedFrames, placement: Placement, edit: FrameBuffer, guide: FrameBuffer, rule: ChangeRule,
        settings: PreserveSettings | None = None,
    ):  # fmt: skip
        super().__init__(placement, edit, guide, rule, settings)
        self.picked, self._flow = picked, Flow()

    def small(self, index: int, source: np.ndarray) -> SmallFrame | None:
        before, after, share = self.picked.around(index)
        if before == after:
            return super().small(before, source)
        assert self.guide is not None
        assert self.rule is not None
        sides = [
            self.placement.leave(torch.cat([self.edit[k : k + 1][0], self.guide[k : k + 1][0]])).float()
            for k in (before, after)
        ]
        if not self.rule.whole and max(float(side[4].max()) for side in sides) <= self.rule.low:
            return None
        here = blur(self.placement.leave(luminance(self.placement.enter(source)))[None], 1)[0]
        total, weights = torch.zeros_like(sides[0]), torch.zeros_like(here)
        for side, near in zip(sides, (1 - share, share), strict=True):
            moved = move(side, self._flow(gray(here), gray(side[3:4])))
            off = blur((moved[3:4] - here).abs()[None], 1)[0] / 2
            weight = near * (torch.exp(-((off / AGREEMENT) ** 2)) + 1e-3)
            total += weight * moved
            weights += weight
        mean = total / weights
        return SmallFrame(mean[:3], mean[3:4], mean[4:])


def gray(luma: Tensor) -> np.ndarray:
    """Y [1 h w] in [-1, 1] as uint8 `h w`."""
    return ((luma[0] + 1) * 127.5).round().clamp(0, 255).byte().numpy()


def move(pixels: Tensor, flow: np.ndarray) -> Tensor:
    """[c h w] at the places where `flow` (h w (right, down), in pixels) leads; outside there is the nearest edge."""
    height, width = pixels.shape[1:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    there = torch.stack([columns, rows], -1) + torch.from_numpy(flow)
    there = 2 * (there + 0.5) / torch.tensor([width, height]) - 1
    return functional.grid_sample(pixels[None], there[None], padding_mode="border", align_corners=False)[0]
