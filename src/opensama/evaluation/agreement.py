"""Do two judges agree? Rank correlations between two results of the same edits, and what each said of every item.

Spearman's rho is the correlation of ranks (ties share theirs), Kendall's tau-b counts pairs of items that both judges
put in the same order. A judge that follows another in rank may still be milder: the mean difference says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from opensama.values import UserError

_DRAWS = 500


def read_results(path: Path) -> dict[str, Any]:
    """A results.json, or the one in a folder."""
    path = path / "results.json" if path.is_dir() else path
    try:
        results: Any = json.loads(path.read_text("utf-8"))
        results["benchmark"], results["systems"]
    except FileNotFoundError:
        raise UserError(f"There is no {path}: name the results.json of an earlier run.") from None
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is not the results.json of a benchmark: name one that opensama evaluate wrote."
        ) from error
    return dict(results)


def of_one_benchmark(mine: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """UserError where two results are of different benchmarks."""
    if mine["benchmark"] != other["benchmark"]:
        raise UserError(f"These are results of {mine['benchmark']} and of {other['benchmark']}: compare the same ones.")


def agreement(mine: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """For each score that both results have: n, rho with its 95 % interval, tau-b, the mean difference (first minus
    second); and `items`, one row for each edit that both scored, for a scatter plot."""
    of_one_benchmark(mine, other)
    second = {(s["name"], item["id"]): item for s in other["systems"] for item in s["items"] if item.get("scores")}
    rows = []
    for system in mine["systems"]:
        for item in system["items"]:
            match = second.get((system["name"], item["id"]))
            if item.get("scores") and match is not None:
                row = {"system": system["name"], "id": item["id"], "task": item["task"]}
                rows.append(row | {"first": item["scores"], "second": match["scores"]})
    if not rows:
        raise UserError("The two results share no scored item of one system: name systems and items alike.")
    names = [name for name in rows[0]["first"] if any(name in row["second"] for row in rows)]
    scores = {}
    for name in names:
        pairs = [(r["first"][name], r["second"][name]) for r in rows if name in r["first"] and name in r["second"]]
        scores[name] = _agreement(np.array(pairs, float).reshape(-1, 2))
    judges = [results.get("judge") or "" for results in (mine, other)]
    return {"benchmark": mine["benchmark"], "first": judges[0], "second": judges[1], "scores": scores, "items": rows}


def agreement_table(found: Mapping[str, Any]) -> str:
    """Two judges in lines."""
    lines = [
        f"agreement of {found['first'] or 'these'} and {found['second'] or 'those'} over {len(found['items'])} edits"
    ]
    lines.append(f"{'score':<28}{'n':>5}  {'rho':>6}  {'95 %':>14}  {'tau-b':>6}  {'mean difference':>15}")
    for name, row in found["scores"].items():
        rho, tau = ("-" if row[key] is None else f"{row[key]:.3f}" for key in ("rho", "tau"))
        interval = "-" if row["low"] is None else f"{row['low']:.3f}..{row['high']:.3f}"
        lines.append(f"{name:<28}{row['n']:>5}  {rho:>6}  {interval:>14}  {tau:>6}  {row['mean_difference']:>15.3f}")
    return "\n".join(lines)


def _agreement(pairs: np.ndarray) -> dict[str, Any]:
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
