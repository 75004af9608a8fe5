"""The metrics that need no weights, each with its range, its direction, what it cannot see and its cost.

A meter sees pairs of frames one after another and says one number in the end: NaN where it cannot be said, such as the
fidelity of the unedited region where everything was edited.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from opensama.evaluation.metrics.moments import Pair, masked_mean
from opensama.evaluation.metrics.tracks import MotionFidelity

IDENTICAL = 100.0  # dB: what a copy gets instead of infinity
_ENOUGH = 0.01  # share of all pixels that must be unchanged for a word on them


class Meter(Protocol):
    def see(self, pair: Pair) -> None: ...
    def value(self) -> float: ...


@dataclass(frozen=True)
class Metric:
    """One metric of a source and its edit. `cost` is CPU milliseconds a pair of 416x240, measured alone on a real clip
    by benchmarks/metrics.py; together they share much."""

    name: str
    says: str
    unit: str
    range: tuple[float, float]
    higher_is_better: bool | None
    """None where neither direction is: `best` then says what is."""
    cannot_see: str
    cost: float
    make: Callable[[], Meter]
    best: str = "higher"
    needs: str = "one frame"
    """Without it the metric cannot be said, and is left out."""


class UneditedPsnr:
    """Over all unchanged pixels of the video: one mean squared error, not a mean of decibels."""

    def __init__(self) -> None:
        self._error, self._share, self._count = 0.0, 0.0, 0

    def see(self, pair: Pair) -> None:
        self._error += pair.squared_error * pair.unchanged_share
        self._share += pair.unchanged_share
        self._count += 1

    def value(self) -> float:
        if self._share < _ENOUGH * self._count or not self._count:
            return math.nan
        error = self._error / self._share
        return min(IDENTICAL, 10 * math.log10(255**2 / error)) if error else IDENTICAL


class UneditedSsim:
    def __init__(self) -> None:
        self._similar, self._share, self._count = 0.0, 0.0, 0

    def see(self, pair: Pair) -> None:
        self._similar += masked_mean(pair.ssim, pair.unchanged) * pair.unchanged_share
        self._share += pair.unchanged_share
        self._count += 1

    def value(self) -> float:
        return self._similar / self._share if self._count and self._share >= _ENOUGH * self._count else math.nan


class MeanOf:
    """The mean of a number over the pairs where it can be asked."""

    def __init__(self, ask: Callable[[Pair], float | None]) -> None:
        self._ask = ask
        self._total, self._count = 0.0, 0

    def see(self, pair: Pair) -> None:
        number = self._ask(pair)
        if number is not None:
            self._total += number
            self._count += 1

    def value(self) -> float:
        return self._total / self._count if self._count else math.nan


class Smoothness:
    """Every second frame against what its neighbours say it should be."""

    def __init__(self) -> None:
        self._error, self._count, self._seen = 0.0, 0, 0

    def see(self, pair: Pair) -> None:
        if self._seen and self._seen % 2 == 0:
            self._error += pair.edited.middle_error
            self._count += 1
        self._seen += 1

    def value(self) -> float:
        return 1 - self._error / self._count / 255 if self._count else math.nan


def _strength(pair: Pair) -> float:
    return 1 - float(pair.ssim.mean())


def _share(pair: Pair) -> float:
    return 1 - pair.unchanged_share


def _flicker(pair: Pair) -> float | None:
    return None if pair.source.before is None else pair.edited.step - pair.source.step


def _warp(pair: Pair) -> float | None:
    return None if pair.source.before is None else pair.edited.warp_error - pair.source.warp_error


def _mean(ask: Callable[[Pair], float | None]) -> Callable[[], Meter]:
    return lambda: MeanOf(ask)


_ALL = (
    Metric(
        "unedited_psnr", "PSNR of RGB where the edit left the source alone", "dB", (0, IDENTICAL), True,
        "What it finds is what differs little: a region damaged by more than 20 levels counts as edited, so read it"
        " beside edited_share. It falls with every resampling and a shift of half a pixel.", 2.1, UneditedPsnr,
    ),
    Metric(
        "unedited_ssim", "SSIM of grey in the same region", "", (-1, 1), True,
        "The same; and colour.", 3.3, UneditedSsim,
    ),
    Metric(
        "edited_share", "share of the pixels that the edit changed, with a rim of 7", "", (0, 1), None,
        "Whether the right pixels were changed, and how. What moves otherwise than in the source counts as changed.",
        0.6, _mean(_share), "as the edit asks",
    ),
    Metric(
        "edit_strength", "1 - SSIM of grey over the whole frame: 0 is a copy", "", (0, 2), None,
        "Whether the change is the one asked for; recolouring at the same lightness; noise counts as an edit.",
        2.5, _mean(_strength), "as the edit asks",
    ),
    Metric(
        "flicker", "mean change from frame to frame, less the source's own", "levels", (-255, 255), None,
        "What moves flickers, too: an object that is added and moves raises it, one that is removed lowers it, and so"
        " does blur.", 0.1, _mean(_flicker), "near 0", "two frames",
    ),
    Metric(
        "warp_error", "the same along each video's own optical flow", "levels", (-255, 255), None,
        "What flow can follow: slow boiling of textures. Blur lowers it; what comes out from behind others counts.",
        5.7, _mean(_warp), "near 0", "two frames",
    ),
    Metric(
        "motion_fidelity", "agreement of tracks begun at the source's details in both", "", (-1, 1), True,
        "What moves, and all that has no detail in the edit: points there are left out. Objects that should move"
        " otherwise count against an edit, and so does a flicker in which points are lost.", 6.2, MotionFidelity,
        needs="two frames, and details in both",
    ),
    Metric(
        "motion_smoothness",
        "1 - error of every second frame as interpolated by flow (ours; VBench's uses a network and is not comparable)",
        "", (0, 1), None, "Whether anything moves: black is perfectly smooth.",
        1.7, Smoothness, "near the source's, which is the copy's", "three frames",
    ),
)  # fmt: skip

METRICS: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in _ALL})
