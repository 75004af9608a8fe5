"""Pretext tasks: a clip's source is corrupted, a prompt says how, the model learns motion by restoring it (SAMA, 3.3).

    source = task(video, generator)      the target is always the video itself, untouched
    prompt = prefix + caption            "[Restore the video to normal playback speed.] A dog runs along a beach."
    none : cube : speed : tube = 1 : 2 : 3 : 4

    source, prefix, name = Mixture(PAPER_SHARES).apply(video, seed)

Letters: `b` batch, `c` channels, `t h w` frames, rows and columns of pixels, before the autoencoder. Videos are
`c t h w` or `b c t h w`, of any number type and range, on any device; bytes, made floats afterwards, are by far the
quickest. Chance comes from a CPU generator, so a seed gives the same source everywhere; in a batch every video draws in
turn. The video given is never written to, but may be what comes back where nothing changes. The first frame is kept by
every task but tube shuffle.

Where the paper is silent, the released operations decide; where both are, the choice is ours and said to be so.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from opensama.values import UserError, frames_down, nearest

PAPER_SHARES: Mapping[str, float] = {"none": 1, "cube": 2, "speed": 3, "tube": 4}
"""How often each task is drawn (SAMA, 4.1)."""


class CorruptedClip(NamedTuple):
    """The source that a task made of a clip, what stands before its caption, and the task's name."""

    source: Tensor
    prefix: str
    """Stands before the caption as it is: it ends in a blank, or is empty."""
    name: str


class Mixture:
    """Tasks drawn by shares: relative numbers, of any sum.

    `tasks` take the place of those of the same name, or are new ones: `Mixture({"cube": 1}, [CubeInpainting(0.5)])`.
    """

    def __init__(self, shares: Mapping[str, float] = PAPER_SHARES, tasks: Sequence[PretextTask] = ()) -> None:
        known = {**PRETEXT_TASKS, **{task.name: task for task in tasks}}
        for name, share in shares.items():
            if name not in known:
                raise UserError(f"There is no pretext task {name!r}; {nearest(name, known)}")
            if not (math.isfinite(share) and share >= 0):
                raise UserError(f"The share of the pretext task {name} must be zero or more, not {share!r}.")
        names = sorted(
            name for name, share in shares.items() if share > 0
        )  # the order that shares are given in is moot
        if not names:
            raise UserError("The pretext mixture is empty; give at least one task a share above zero.")
        self.tasks = tuple(known[name] for name in names)
        parts = np.cumsum([float(shares[name]) for name in names])
        self.bounds = parts[:-1] / parts[-1]

    def pick(self, seeds: np.ndarray) -> np.ndarray:
        """Which of `tasks` each of many seeds [n] stands for: arithmetic alone, so that a million take a moment."""
        drawn = splitmix64(seeds) >> np.uint64(11)
        return np.searchsorted(self.bounds, drawn / 2**53, side="right")

    def lengths(self, t: int) -> list[int]:
        """How many frames each of `tasks` leaves of t."""
        return [task.length(t) for task in self.tasks]

    def apply(self, video: Tensor, seed: int) -> CorruptedClip:
        """The source of one sample, a function of `seed`. A batch `b c t h w` gets one task, as sizes must agree."""
        generator = Generator().manual_seed(seed)
        task = self.tasks[int(self.pick(np.array([seed], dtype=np.uint64))[0])]
        return CorruptedClip(task(video, generator), f"{task.prompt} " if task.prompt else "", task.name)


class PretextTask(ABC):
    """One way to corrupt a source. A new one says its `name` and `prompt` and what becomes of one video."""

    name: ClassVar[str]
    prompt: str

    def __call__(self, video: Tensor, generator: Generator) -> Tensor:
        """`c t h w` or `b c t h w` in and out; t may become shorter, by as much for every video of that length."""
        if video.ndim == 5:
            return torch.stack([self.corrupt(one, generator) for one in video])
        if video.ndim != 4:
            raise ValueError(f"videos are (c, t, h, w) or (b, c, t, h, w), not {tuple(video.shape)}")
        return self.corrupt(video, generator)

    def length(self, t: int) -> int:
        """How many of t frames a source has."""
        return t

    @abstractmethod
    def corrupt(self, video: Tensor, generator: Generator) -> Tensor:
        """The source that is made of one video, `c t h w`."""


@dataclass(frozen=True)
class Untouched(PretextTask):
    """The source is the target, and the caption stands alone (ours: the paper does not say what "none" is shown)."""

    name: ClassVar[str] = "none"
    prompt: str = ""

    def corrupt(self, video: Tensor, generator: Generator) -> Tensor:
        return video


@dataclass(frozen=True)
class CubeInpainting(PretextTask):
    """Blacks out a contiguous block of whole frames, `ratio` of them, anywhere but on the first frame."""

    name: ClassVar[str] = "cube"
    ratio: float = 0.3
    black: float | None = None
    """The value of black: None is 0 for whole numbers and -1 otherwise, for pixels in [-1, 1]. Ours, as is the rest
    of what makes this independent of the range; for pixels in [0, 1] say 0."""
    prompt: str = "[Complete the missing regions in the video.]"

    def __post_init__(self) -> None:
        _check("ratio of cube inpainting", self.ratio, 0, 1)

    def block(self, t: int, generator: Generator) -> slice:
        """The frames to hide."""
        hidden = min(round(self.ratio * t), t - 1)
        start = 1 + _below(t - hidden, generator)
        return slice(start, start + hidden)

    def corrupt(self, video: Tensor, generator: Generator) -> Tensor:
        hidden, source = self.block(video.shape[1], generator), torch.empty_like(video)
        source[:, : hidden.start] = video[:, : hidden.start]
        source[:, hidden] = self.black if self.black is not None else -1 if video.is_floating_point() else 0
        source[:, hidden.stop :] = video[:, hidden.stop :]
        return source


@dataclass(frozen=True)
class SpeedPerturbation(PretextTask):
    """Plays `factor` times as fast: frames are dropped, and the source is cut to 4k+1 of those that are left.

    The released operation rounds halves to even before it cuts: 81 frames become 37, 49 become 21, and 9 only one.
    """

    name: ClassVar[str] = "speed"
    factor: float = 2.0
    whole: bool = False
    """Keep the last frame that the factor meets, too: 81 become 41, 49 become 25, 9 become 5. Ours, for short clips."""
    prompt: str = "[Restore the video to normal playback speed.]"
    """A figure of the paper has a longer form, "... playback speed while maintaining temporal coherence.]"."""

    def __post_init__(self) -> None:
        _check("factor of speed perturbation", self.factor, 1, 64)

    def kept(self, t: int) -> list[int]:
        """Numbers of the frames that are left, of `t`."""
        met = math.floor((t - 1) / self.factor) + 1
        left = met if self.whole else min(met, round(t / self.factor))
        return [round(i * self.factor) for i in range(frames_down(max(left, 1)))]

    def length(self, t: int) -> int:
        return len(self.kept(t))

    def corrupt(self, video: Tensor, generator: Generator) -> Tensor:
        return _select_frames(video, self.kept(video.shape[1]))


@dataclass(frozen=True)
class TubeShuffle(PretextTask):
    """Cuts time, rows and columns into `splits` each and lays the tubes down in a random order.

    All tubes are of one size, so any may go anywhere: what does not divide (of 4k+1 frames the last, of an odd side the
    last row or column) stays where it is. A video with fewer frames, rows or columns than splits is left alone.
    """

    name: ClassVar[str] = "tube"
    splits: tuple[int, int, int] = (2, 2, 2)
    prompt: str = "[Restore the correct spatio-temporal order of the video segments.]"

    def __post_init__(self) -> None:
        for splits in self.splits:
            _check("splits of tube shuffle", splits, 1, 64)

    def order(self, generator: Generator) -> list[int]:
        """`order[i]` is the tube that is laid down at place i; tubes are counted by time, then rows, then columns."""
        return torch.randperm(math.prod(self.splits), generator=generator).tolist()

    def corrupt(self, video: Tensor, generator: Generator) -> Tensor:
        order = self.order(generator)
        sizes = [n // splits for n, splits in zip(video.shape[1:], self.splits, strict=True)]
        if 0 in sizes:
            return video
        source = torch.empty_like(video)
        for axis, (size, splits) in enumerate(zip(sizes, self.splits, strict=True), start=1):
            rest = video.shape[axis] - size * splits
            if rest:
                source.narrow(axis, size * splits, rest).copy_(video.narrow(axis, size * splits, rest))
        for place, tube in enumerate(order):
            self.tube(source, place, sizes).copy_(self.tube(video, tube, sizes))
        return source

    def tube(self, video: Tensor, number: int, sizes: Sequence[int]) -> Tensor:
        """The part of `c t h w` that a tube covers, as a view."""
        _, rows, columns = self.splits
        at = (number // (rows * columns), number // columns % rows, number % columns)
        t, h, w = (slice(i * size, (i + 1) * size) for i, size in zip(at, sizes, strict=True))
        return video[:, t, h, w]


def splitmix64(numbers: np.ndarray) -> np.ndarray:
    """SplitMix64's step (Steele, Lea and Flood, 2014): neighbouring numbers [n] become unlike ones, of 64 bits."""
    x = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _below(n: int, generator: Generator) -> int:
    """A whole number from 0 to n - 1."""
    return int(torch.randint(n, (), generator=generator))


def _select_frames(video: Tensor, frames: Sequence[int]) -> Tensor:
    """Those frames of `c t h w`, laid out in memory as the video is; `index_select` is slow on interleaved colours."""
    source = torch.empty_like(video[:, : len(frames)])
    for i, frame in enumerate(frames):
        source[:, i] = video[:, frame]
    return source


def _check(what: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise UserError(f"The {what} must lie from {low:g} to {high:g}, not {value!r}.")


PRETEXT_TASKS: Mapping[str, PretextTask] = {
    task.name: task for task in (Untouched(), CubeInpainting(), SpeedPerturbation(), TubeShuffle())
}
"""Every task as the paper sets it, by name."""
