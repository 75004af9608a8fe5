"""Two videos of any sizes, lengths and rates as pairs of frames that show the same time and the same place.

Time. As many frames in both: frame by frame, whatever the rates say, since editors keep frames and write a rate of
their own. Otherwise by time stamps from the first frame on: each frame of the video that has fewer (until the shorter
one's end, or else in all) is paired with the nearest one of the other, none twice; what one has beyond the other's end
is left over, and the share is told.

Place. Every pair is looked at in one size: the source's shape, its longer side at most `side` pixels (area means), so a
system gains nothing by writing larger frames. Where the shapes differ by more than 1 %, the edit shows the source
stretched, or the middle of it (cropped), or the source is the middle of the edit (padded): what agrees best, by the
correlation of details in two frames, is taken and told.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from opensama.media.frames import picked
from opensama.media.motion import opencv
from opensama.values import UserError, Video, how_many

SIDE = 416
"""Pixels of the longer side: half of the 832 that current editors write."""

_Box = tuple[int, int, int, int]  # x, y, width, height


@dataclass(frozen=True)
class Alignment:
    """Which frames and which parts of them are compared; `pairs` streams them."""

    source: Video
    edited: Video
    numbers: tuple[tuple[int, int], ...]
    """Frames of the source and of the edit."""
    paired: str
    """By "number" or by "time"."""
    left_over: float
    """Share of the longer video that has no partner, in time."""
    fit: str
    """"whole", "stretched", "cropped" or "padded"."""
    boxes: tuple[_Box, _Box]
    size: tuple[int, int]
    """Width and height that pairs come in."""

    def __len__(self) -> int:
        return len(self.numbers)

    def pairs(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Frames of the source and the edit, uint8 RGB `h w 3`, of one size; one pair in memory at a time."""
        first = picked(self.source, [a for a, _ in self.numbers])
        second = picked(self.edited, [b for _, b in self.numbers])
        for a, b in zip(first, second, strict=True):
            yield resized(a, self.boxes[0], self.size), resized(b, self.boxes[1], self.size)

    def describe(self) -> str:
        """One line for people."""
        words = [f"{how_many(len(self), 'pair')} of frames by {self.paired}, {self.size[0]}x{self.size[1]}, {self.fit}"]
        if self.left_over > 0.005:
            words.append(f"{100 * self.left_over:.0f} % of the longer video left over")
        return "; ".join(words)


def align(source: Video, edited: Video, side: int = SIDE) -> Alignment:
    """Finds out how two videos lie on each other."""
    if not 32 <= side <= 4096:
        raise UserError(f"The side to measure at must be from 32 to 4096 pixels, not {side}.")
    numbers, paired = pair_numbers(source, edited)
    left_over = 0.0
    if paired == "time":
        lengths = [float(source.duration), float(edited.duration)]
        left_over = 1 - min(lengths) / max(lengths)
    fit, boxes = _fit(source, edited, [numbers[0], numbers[len(numbers) // 2]])
    width, height = boxes[0][2:]
    scale = min(1.0, side / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return Alignment(source, edited, numbers, paired, left_over, fit, boxes, size)


def pair_numbers(source: Video, edited: Video) -> tuple[tuple[tuple[int, int], ...], str]:
    """Which frame belongs to which, rising in both, and whether by number or by time."""
    if source.frame_count == edited.frame_count:
        return tuple((i, i) for i in range(source.frame_count)), "number"
    times = [[float((stamp - v.timestamps[0]) * v.time_base) for stamp in v.timestamps] for v in (source, edited)]
    end = min(float(source.duration), float(edited.duration))
    within = [[t for t in own if t < end] for own in times]
    sizes = [(len(own), len(all_times)) for own, all_times in zip(within, times, strict=True)]  # the same either way
    few, many = (0, 1) if sizes[0] <= sizes[1] else (1, 0)
    found: list[tuple[int, int]] = []
    for number, time in enumerate(within[few]):
        other = _nearest(times[many], time)
        if not found or other > found[-1][1]:
            found.append((number, other))
    return tuple((a, b) if few == 0 else (b, a) for a, b in found), "time"


def resized(frame: np.ndarray, box: _Box, size: tuple[int, int]) -> np.ndarray:
    """A part of a frame in another size (width, height): area means when smaller, cubic when larger."""
    x, y, width, height = box
    part = frame[y : y + height, x : x + width]
    if (width, height) == size:
        return part
    cv2 = opencv()
    smaller = size[0] <= width and size[1] <= height
    return np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC))


def _nearest(times: Sequence[float], time: float) -> int:
    after = bisect_left(times, time)
    near = range(max(0, after - 1), min(len(times), after + 1))
    return min(near, key=lambda i: abs(times[i] - time))


def _fit(source: Video, edited: Video, numbers: Sequence[tuple[int, int]]) -> tuple[str, tuple[_Box, _Box]]:
    whole = (0, 0, source.width, source.height), (0, 0, edited.width, edited.height)
    shapes = source.width / source.height, edited.width / edited.height
    if abs(math.log(shapes[0] / shapes[1])) < 0.01:
        return "whole", whole
    choices = {
        "stretched": whole,
        "cropped": (_middle(source, shapes[1]), whole[1]),
        "padded": (whole[0], _middle(edited, shapes[0])),
    }
    frames = [(next(picked(source, [a])), next(picked(edited, [b]))) for a, b in dict.fromkeys(numbers)]
    likeness = {name: sum(_likeness(a, b, boxes) for a, b in frames) for name, boxes in choices.items()}
    best = max(likeness, key=lambda name: likeness[name])
    return best, choices[best]


def _middle(video: Video, shape: float) -> _Box:
    """The largest middle part of such a shape (width to height)."""
    width = min(video.width, max(1, round(video.height * shape)))
    height = min(video.height, max(1, round(video.width / shape)))
    return (video.width - width) // 2, (video.height - height) // 2, width, height


def _likeness(first: np.ndarray, second: np.ndarray, boxes: tuple[_Box, _Box]) -> float:
    """Correlation of what is finer than an eighth of the frame: colours and light may have been edited."""
    cv2 = opencv()
    details = []
    for frame, box in zip((first, second), boxes, strict=True):
        gray = cv2.cvtColor(resized(frame, box, (128, 128)), cv2.COLOR_RGB2GRAY).astype(np.float32)
        details.append(cv2.GaussianBlur(gray, (0, 0), 1.0) - cv2.GaussianBlur(gray, (0, 0), 8.0))
    a, b = details
    return float((a * b).sum() / max(1e-6, math.sqrt(float((a * a).sum()) * float((b * b).sum()))))
