"""What a few seeds and a hundred items can tell: intervals, verdicts, and what they could have told at best.

`k` seeds, `n` items, the same for all arms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

_Tendency = Literal["more", "less", "cannot tell"]
DISAGREE = 0.3  # share of items on which two arms are assumed to differ, where the detectable effect is foretold

STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}
"""Half widths of 95 % intervals, in standard errors, by the number of seeds."""


@dataclass(frozen=True)
class MeanInterval:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def tendency(self) -> _Tendency:
        """Of a difference: whether the interval leaves out zero."""
        if self.low > 0:
            return "more"
        return "less" if self.high < 0 else "cannot tell"


def bootstrap_mean(values: np.ndarray, draws: int = 4000) -> MeanInterval:
    """Of [k n]: bootstrap over seeds and, within, over items (both drawn anew), so that the seeds' scatter counts."""
    rng = np.random.default_rng(0)
    k, n = values.shape
    seeds, items = (_times_drawn(rng.integers(0, size, (draws, size))) for size in (k, n))
    means = (seeds @ values * items).sum(1) / values.size
    low, high = np.quantile(means, (0.025, 0.975))
    return MeanInterval(float(values.mean()), float(low), float(high))


def _times_drawn(drawn: np.ndarray) -> np.ndarray:
    """How often each of [0, n) stands in a row of [draws n]: [draws n]."""
    draws, n = drawn.shape
    return np.bincount((drawn + n * np.arange(draws)[:, None]).ravel(), minlength=draws * n).reshape(draws, n)


def paired_difference(arm: np.ndarray, other: np.ndarray) -> MeanInterval:
    """Of arm - other [k n], paired by seed and item."""
    return bootstrap_mean(np.asarray(arm, float) - np.asarray(other, float))


def over_seeds(values: np.ndarray) -> MeanInterval:
    """Of one number a seed [k]: Student's interval, wide as few seeds make it."""
    k = len(values)
    mean = float(np.mean(values))
    if k < 2:
        return MeanInterval(mean, -math.inf, math.inf)
    half = STUDENT.get(k, 1.96) * float(np.std(values, ddof=1)) / math.sqrt(k)
    return MeanInterval(mean, mean - half, mean + half)


def detectable(items: int, seeds: int, share: float = DISAGREE) -> float:
    """The difference of two shares that `paired_difference` finds in four of five cases, if seeds are alike.

    Drawing seeds anew as well as items doubles the variance (by simulation for three seeds: 81 % found).
    """
    return (1.96 + 0.84) * math.sqrt((2 if seeds > 1 else 1) * share / (items * seeds))


def foretell(items: int, seeds: int) -> str:
    """What can be told, in a sentence."""
    some, one = (100 * detectable(items, k) for k in (seeds, 1))
    return (
        f"With {seeds} seeds a difference of {some:.0f} points of success is found in four of five cases, with one "
        f"{one:.0f} (if two arms differ on {100 * DISAGREE:.0f} % of the items, and seeds are alike)."
    )


def spikes(curve: Sequence[float], factor: float = 1.5, window: int = 50) -> float:
    """Share of steps whose value is above `factor` times the median of the `window` steps before it."""
    values = np.asarray(curve)
    if len(values) <= window:
        return 0.0
    before = np.lib.stride_tricks.sliding_window_view(values, window)[:-1]
    return float((values[window:] > factor * np.median(before, axis=1)).mean())


def smooth(curve: Sequence[float], window: int = 50) -> np.ndarray:
    """Means of a sliding window."""
    values = np.asarray(curve, float)
    return np.convolve(values, np.ones(window) / window, "valid")
