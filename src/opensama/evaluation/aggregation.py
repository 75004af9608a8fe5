"""From items' scores to the numbers that are printed: means over groups, then over them, with 95 % intervals.

Intervals are by a bootstrap over the items of each group (the same draws each time), of shares of what is right by
Wilson's formula. `Number` is a float, or an array of draws: the same functions serve both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from opensama.evaluation.items import BenchmarkItem
from opensama.evaluation.results import GroupSummary, ScoresByGroup, ScoreSummary, State, StateCounts
from opensama.evaluation.statistics import wilson

Number = TypeVar("Number", float, np.ndarray)
"""A float, or an array of them [draws]."""
Means = Mapping[str, Mapping[str, Number]]
"""group -> score -> mean over its items"""
_DRAWS = 1000


def mean_of(values: Sequence[Number]) -> Number:
    """The arithmetic mean of floats, or of arrays of draws."""
    return sum(values[1:], values[0]) / len(values)


def macro(means: Means[Number], score: str = "mean", of: Sequence[str] | None = None) -> Number:
    """The unweighted mean over groups (`of` these, or all); the types' own counts do not matter."""
    return mean_of([means[name][score] for name in (of or means)])


def plain_overall(means: Means[Number]) -> dict[str, Number]:
    """Each score's unweighted mean over the groups that have it."""
    scores = dict.fromkeys(score for group in means.values() for score in group)
    return {score: macro(means, score, [name for name in means if score in means[name]]) for score in scores}


def task_of(item: BenchmarkItem) -> str:
    return item.task or "all"


def no_overall(means: Means[Number]) -> dict[str, Number]:
    """The benchmark's authors average their groups nowhere."""
    return {}


class Overall(Protocol):
    """The numbers over groups that a benchmark prints, by their names."""

    def __call__(self, means: Means[Number], /) -> dict[str, Number]: ...


@dataclass(frozen=True)
class Aggregation:
    """Which numbers a benchmark prints, of scores that are all the better the higher they are."""

    headline: str
    """The score that says it in one number."""
    overall: Overall = no_overall
    group: Callable[[BenchmarkItem], str] = task_of
    aside: tuple[str, ...] = ()
    """Groups that stand beside and have no part in the overall numbers."""
    shares: tuple[str, ...] = ()
    """Scores that are 0 or 1."""


PLAIN = Aggregation("")

# --- a summary with counts and intervals


@dataclass(frozen=True)
class Line:
    """One item's part in a summary: failed means that it was asked about in vain, missing that it could not be."""

    group: str
    state: State
    scores: Mapping[str, float]


def summarise(
    lines: Sequence[Line],
    how: Aggregation = PLAIN,
    zeros: Sequence[str] = (),
) -> ScoresByGroup:
    """Counts, and for each group each score's mean, interval and number of items; then the overall numbers.

    Where `zeros` names scores, a failed item counts as 0 in these (ReCo-Bench); otherwise it is left out.
    """
    overall, aside, shares = how.overall, how.aside, how.shares
    rng = np.random.default_rng(0)
    groups: dict[str, GroupSummary] = {}
    means: dict[str, dict[str, float]] = {}
    drawn: dict[str, dict[str, np.ndarray]] = {}
    for group in dict.fromkeys(line.group for line in lines):
        mine = [line for line in lines if line.group == group]
        zero = dict.fromkeys(zeros, 0.0)
        rows = [
            line.scores if line.scores else zero for line in mine if line.scores or (zero and line.state == "failed")
        ]
        names = list(dict.fromkeys(name for row in rows for name in row))
        table = np.array([[row.get(name, math.nan) for name in names] for row in rows], float)
        table = table.reshape(len(rows), len(names))
        there = np.isfinite(table)
        keep = there.any(0)
        names, table, there = [name for name, k in zip(names, keep, strict=True) if k], table[:, keep], there[:, keep]
        values = np.where(there, table, 0)
        averages = values.sum(0) / there.sum(0)
        draws = _draws(rng, values, there, averages)
        low, high = np.quantile(draws, (0.025, 0.975), axis=0)
        low, high = (np.where(there.sum(0) > 1, end, math.nan) for end in (low, high))
        for i in (i for i, name in enumerate(names) if name in shares):
            low[i], high[i] = wilson(values[:, i].sum(), int(there[:, i].sum()))
        means[group] = dict(zip(names, averages.tolist(), strict=True))
        drawn[group] = {name: draws[:, i] for i, name in enumerate(names)}
        scores = {name: _number(averages[i], low[i], high[i], int(there[:, i].sum())) for i, name in enumerate(names)}
        groups[group] = {**_counts(mine), "scores": scores}
    with_any = {group: value for group, value in means.items() if value and group not in aside}
    points = overall(with_any) if with_any else {}
    several = overall({group: drawn[group] for group in with_any}) if with_any else {}
    n = sum(max((s["n"] for s in groups[g]["scores"].values()), default=0) for g in with_any)
    totals = {}
    for name, value in points.items():
        counted = [groups[group]["scores"][name] for group in with_any if name in groups[group]["scores"]]
        spread = max((s["n"] for s in counted), default=2) > 1 and n > len(with_any)
        low, high = np.quantile(several[name], (0.025, 0.975)) if spread else (math.nan, math.nan)
        if name in shares:
            low, high = wilson(sum((s["mean"] or 0) * s["n"] for s in counted), sum(s["n"] for s in counted))
        totals[name] = _number(value, low, high, n)
    return {"counts": _counts(lines), "groups": groups, "overall": totals}


def _draws(rng: np.random.Generator, values: np.ndarray, there: np.ndarray, averages: np.ndarray) -> np.ndarray:
    """Means of as many items drawn with return: draws x scores. A draw without a value takes the mean."""
    n = len(values)
    if n == 0:
        return np.zeros((_DRAWS, 0))
    times = rng.multinomial(n, np.full(n, 1 / n), _DRAWS)
    counts = times @ there
    return np.where(counts > 0, times @ values / np.maximum(counts, 1), averages)


def _number(value: float, low: float, high: float, n: int) -> ScoreSummary:
    def rounded(x: float) -> float | None:
        return round(float(x), 6) if math.isfinite(x) else None

    return {"mean": rounded(value), "low": rounded(low), "high": rounded(high), "n": n}


def _counts(lines: Sequence[Line]) -> StateCounts:
    states = [line.state for line in lines]
    scored, failed, missing = (states.count(name) for name in ("scored", "failed", "missing"))
    return {"items": len(states), "scored": scored, "failed": failed, "missing": missing}
