"""Do two judges agree? Rank correlations between two results of the same edits, and what each said of every item.

Spearman's rho is the correlation of ranks (ties share theirs), Kendall's tau-b counts pairs of items that both judges
put in the same order. A judge that follows another in rank may still be milder: the mean difference says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from opensama.evaluation.results import Results, Scores, check_same_benchmark
from opensama.values import UserError, how_many

_DRAWS = 500


class ScoreAgreement(TypedDict):
    """Of one score of two judges: Spearman's rho with its 95 % interval, Kendall's tau-b, first minus second; None
    where one of them says the same of all."""

    n: int
    rho: float | None
    low: float | None
    high: float | None
    tau: float | None
    mean_difference: float


class ScoredTwice(TypedDict):
    """An edit with what both judges gave it."""

    system: str
    id: str
    task: str
    first: Scores
    second: Scores


class Agreement(TypedDict):
    """Two judges (`first`, `second`) by score, and one row for each edit that both scored, for a scatter plot."""

    benchmark: str
    first: str
    second: str
    scores: dict[str, ScoreAgreement]
    items: list[ScoredTwice]


def agreement(mine: Results, other: Results) -> Agreement:
    """What two judges said of the same edits, of each score that both gave. UserError where they share no edit."""
    check_same_benchmark(mine, other)
    second = {(s["name"], item["id"]): item["scores"] for s in other["systems"] for item in s["items"]}
    rows: list[ScoredTwice] = []
    for system in mine["systems"]:
        for item in system["items"]:
            match = second.get((system["name"], item["id"]))
            if item["scores"] and match:
                both = ScoredTwice(
                    system=system["name"], id=item["id"], task=item["task"], first=item["scores"], second=match
                )
                rows.append(both)
    if not rows:
        raise UserError("The two results share no scored item of one system: name systems and items alike.")
    names = [name for name in rows[0]["first"] if any(name in row["second"] for row in rows)]
    scores = {}
    for name in names:
        pairs = [(r["first"][name], r["second"][name]) for r in rows if name in r["first"] and name in r["second"]]
        scores[name] = _agreement(np.array(pairs, float).reshape(-1, 2))
    judges = [results.get("judge") or "" for results in (mine, other)]
    return {"benchmark": mine["benchmark"], "first": judges[0], "second": judges[1], "scores": scores, "items": rows}


def agreement_table(found: Agreement) -> str:
    """Two judges in lines."""
    lines = [
        f"agreement of {found['first'] or 'these'} and {found['second'] or 'those'} over "
        f"{how_many(len(found['items']), 'edit')}"
    ]
    lines.append(f"{'score':<28}{'n':>5}  {'rho':>6}  {'95 %':>14}  {'tau-b':>6}  {'mean difference':>15}")
    for name, row in found["scores"].items():
        rho, tau = ("-" if value is None else f"{value:.3f}" for value in (row["rho"], row["tau"]))
        interval = "-" if row["low"] is None else f"{row['low']:.3f}..{row['high']:.3f}"
        lines.append(f"{name:<28}{row['n']:>5}  {rho:>6}  {interval:>14}  {tau:>6}  {row['mean_difference']:>15.3f}")
    return "\n".join(lines)


def _agreement(pairs: np.ndarray) -> ScoreAgreement:
    a, b = pairs.T
    rho = spearman(a, b)
    low: float | None = None
    high: float | None = None
    if rho is not None and len(pairs) > 3:
        rng = np.random.default_rng(0)
        drawn = [spearman(a[pick], b[pick]) for pick in rng.integers(0, len(a), (_DRAWS, len(a)))]
        kept = [value for value in drawn if value is not None]
        low, high = (float(x) for x in np.quantile(kept, (0.025, 0.975))) if kept else (None, None)
    return {
        "n": len(pairs),
        "rho": rho,
        "low": low,
        "high": high,
        "tau": kendall(a, b),
        "mean_difference": float((a - b).mean()),
    }


def ranks(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """From 1; equal values share the mean of their ranks."""
    values = np.asarray(values, float)
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((2 * ends - counts + 1) / 2)[place]


def spearman(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float | None:
    """None where one of them says the same of all."""
    x, y = (ranks(values) - (len(values) + 1) / 2 for values in (a, b))
    size = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / size if size else None


def kendall(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float | None:
    """tau-b: ties count for neither side. None where one of them says the same of all."""
    x, y = (np.sign(np.subtract.outer(np.asarray(v, float), np.asarray(v, float))) for v in (a, b))
    size = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / size if size else None
