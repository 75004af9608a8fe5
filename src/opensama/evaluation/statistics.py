"""Intervals for what is counted on a few dozen clips."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def wilson(right: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share of `right` out of `n`."""
    if n == 0:
        return 0.0, 1.0
    p = right / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def paired(before: Sequence[float], after: Sequence[float], draws: int = 4000) -> tuple[float, float, float]:
    """Mean of after - before over pairs, and its 95 % interval by bootstrap over the pairs (the same each time)."""
    difference = np.asarray(after, float) - np.asarray(before, float)
    if not len(difference):
        return 0.0, 0.0, 0.0
    picks = np.random.default_rng(0).integers(0, len(difference), (draws, len(difference)))
    low, high = np.quantile(difference[picks].mean(1), (0.025, 0.975))
    return float(difference.mean()), float(low), float(high)
