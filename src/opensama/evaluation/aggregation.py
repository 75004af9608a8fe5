"""From marks to the numbers that papers print: pure functions, each benchmark's own.

ReCo-Bench: each group of an item is the geometric mean of its three marks, g = (s1 s2 s3)^(1/3), and 0 where a mark is
missing, no number, or not above 0; S_EA, S_VN, S_VQ are the arithmetic means of g over a task's items, and
S = (S_EA + S_VN + S_VQ) / 3.

IVEBench: columns are averaged over the items that have them (-1 means none); marks become (x - 1) / 4 and VTSS
(x + 0.05) / 0.15; a dimension is its columns' weighted mean (VTSS 4, the two marks 3, others 1), the total the mean of
the three.

OpenVE-Bench: an item and a type are plain means, the overall is the unweighted mean over types. VIE-Bench: plain means.
EditVerseBench: an item is the mean over its frames of the sum of three marks.

Intervals are 95 %, by a bootstrap over the items of each group (the same draws each time). `Number` is a float, or an
array of draws: the same functions serve both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from opensama.evaluation.statistics import wilson

Number = Any
"""A float, or an array of them, one for each draw."""
Means = Mapping[str, Mapping[str, Number]]
"""group -> score -> mean over its items"""
_DRAWS = 1000

RECO_GROUPS = {
    "edit_accuracy": ("S_EA", ("SA", "SP", "CP")),
    "video_quality": ("S_VQ", ("VF", "TS", "ES")),
    "naturalness": ("S_VN", ("AN", "SN", "MN")),
}
"""The judge's key -> the group's name and the names of its three marks, in the judge's order."""
OPENVE_FIVE = ("global_style", "background_change", "local_change", "local_remove", "local_add")
IVE_DIMENSIONS: dict[str, dict[str, float]] = {
    "quality": {
        "subject_consistency": 1,
        "background_consistency": 1,
        "temporal_flickering": 1,
        "motion_smoothness": 1,
        "vtss": 4,
    },
    "compliance": {
        "overall_semantic_consistency": 1,
        "phrase_semantic_consistency": 1,
        "instruction_satisfaction": 3,
        "quantity_accuracy": 1,
    },
    "fidelity": {"semantic_fidelity": 1, "motion_fidelity": 1, "content_fidelity": 3},
}
IVE_METRICS = tuple(name for weights in IVE_DIMENSIONS.values() for name in weights)


def mean(values: Sequence[Number]) -> Number:
    return sum(values) / len(values)


def geometric_mean(marks: Sequence[Any]) -> float:
    """0 where one is missing, no number, or not above 0."""
    good = [m for m in marks if isinstance(m, int | float) and not isinstance(m, bool) and math.isfinite(m) and m > 0]
    return math.prod(good) ** (1 / len(good)) if good and len(good) == len(marks) else 0.0


def reco_derived(marks: Mapping[str, Any]) -> dict[str, float]:
    """The three groups and S of one reply's nine marks."""
    groups = {name: geometric_mean([marks.get(mark) for mark in names]) for name, names in RECO_GROUPS.values()}
    return groups | {"S": mean(list(groups.values()))}


def ive_dimensions(means: Mapping[str, Number]) -> dict[str, Number]:
    """The dimensions all of whose columns are there, and the total if all three are."""
    out: dict[str, Number] = {}
    for dimension, weights in IVE_DIMENSIONS.items():
        if weights.keys() <= means.keys():
            total = sum(weight * ive_normal(name, means[name]) for name, weight in weights.items())
            out[dimension] = total / sum(weights.values())
    if len(out) == len(IVE_DIMENSIONS):
        out["total"] = mean(list(out.values()))
    return out


def ive_normal(name: str, value: Number) -> Number:
    if name in ("instruction_satisfaction", "content_fidelity"):
        return (value - 1) / 4
    return (value + 0.05) / 0.15 if name == "vtss" else value


def macro(means: Means, score: str = "mean", of: Sequence[str] | None = None) -> Number:
    """The unweighted mean over groups (`of` these, or all); the types' own counts do not matter."""
    return mean([means[name][score] for name in (of or means)])


def openve_overall(means: Means) -> dict[str, Number]:
    out = {f"overall of {len(means)} types": macro(means)}
    if len(means) != len(OPENVE_FIVE) and set(OPENVE_FIVE) <= set(means):
        out["overall of the usual 5 types"] = macro(means, of=OPENVE_FIVE)
    return out


def ive_overall(means: Means) -> dict[str, Number]:
    return {f"{group} {name}": value for group in means for name, value in ive_dimensions(means[group]).items()}


def plain_overall(means: Means) -> dict[str, Number]:
    """Each score's unweighted mean over the groups that have it."""
    scores = dict.fromkeys(score for group in means.values() for score in group)
    return {score: macro(means, score, [name for name in means if score in means[name]]) for score in scores}


def no_overall(means: Means) -> dict[str, Number]:
    """The benchmark's authors average their groups nowhere."""
    return {}


# --- a summary with counts and intervals

State = Literal["scored", "failed", "missing"]


@dataclass(frozen=True)
class Line:
    """One item's part in a summary: failed means that it was asked about in vain, missing that it could not be."""

    group: str
    state: State
    scores: Mapping[str, float]


def summarise(
    lines: Sequence[Line],
    overall: Callable[[Means], dict[str, Number]],
    zeros: Sequence[str] = (),
    aside: Sequence[str] = (),
    shares: Sequence[str] = (),
) -> dict[str, Any]:
    """Counts, and for each group each score's mean, interval and number of items; then the overall numbers, over all
    groups but those `aside`. Scores that are `shares` of what is right or wrong have Wilson's interval.

    Where `zeros` names scores, a failed item counts as 0 in these (ReCo-Bench); otherwise it is left out.
    """
    rng = np.random.default_rng(0)
    groups: dict[str, dict[str, Any]] = {}
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
        groups[group] = _counts(mine) | {"scores": scores}
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
            low, high = wilson(sum(s["mean"] * s["n"] for s in counted), sum(s["n"] for s in counted))
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


def _number(value: float, low: float, high: float, n: int) -> dict[str, Any]:
    def plain(x: float) -> float | None:
        return round(float(x), 6) if math.isfinite(x) else None

    return {"mean": plain(value), "low": plain(low), "high": plain(high), "n": n}


def _counts(lines: Sequence[Line]) -> dict[str, int]:
    states = [line.state for line in lines]
    return {"items": len(states)} | {name: states.count(name) for name in ("scored", "failed", "missing")}
