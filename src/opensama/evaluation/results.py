"""What `results.json` holds, typed, and how it is read: systems, their items, and the numbers over items.

Files are named as seen from the folder of results.json, so that both may move together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal, NotRequired, cast

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from opensama.values import UserError

State = Literal["scored", "failed", "missing"]
"""Of an item that was asked for: failed where a judge was asked in vain, missing where it could not be asked."""
Scores = dict[str, float]


class ScoreSummary(TypedDict):
    """A score's mean over `n` items with its 95 % interval; None where it cannot be said."""

    mean: float | None
    low: float | None
    high: float | None
    n: int


class StateCounts(TypedDict):
    items: int
    scored: int
    failed: int
    missing: int


class GroupSummary(StateCounts):
    """A group of items: how many, and each score over them."""

    scores: dict[str, ScoreSummary]


class ScoresByGroup(TypedDict):
    """Counts over all items, scores of each group, and the numbers over groups that the benchmark prints."""

    counts: StateCounts
    groups: dict[str, GroupSummary]
    overall: dict[str, ScoreSummary]


class MetricSummary(TypedDict):
    """The metrics without a judge, over all items and over each group of them."""

    groups: dict[str, GroupSummary]
    by_group: dict[str, GroupSummary]


class SystemSummary(TypedDict, total=False):
    """A system's numbers. `aside` names groups without a part in `overall`; `left` counts items that were not asked."""

    counts: StateCounts
    groups: dict[str, GroupSummary]
    overall: dict[str, ScoreSummary]
    headline: str
    aside: list[str]
    judge_deviation: Scores
    metrics: MetricSummary
    controls: dict[str, dict[str, ScoreSummary]]
    left: int


class FaultRow(TypedDict):
    where: str
    reason: str


class ReplyRow(TypedDict):
    """What a judge said to question `part` of pass `turn`, the marks read from it, or why there are none."""

    turn: int
    part: int
    rubric: str
    text: str
    marks: Scores | None
    fault: NotRequired[str | None]


class ItemResult(TypedDict):
    """One system's edit of one item. `state` is also `left` where the run stopped before it."""

    id: str
    task: str
    instruction: str
    source: str | None
    edited: str | None
    state: Literal["scored", "failed", "missing", "left"]
    scores: Scores | None
    seconds: NotRequired[float | None]
    spread: NotRequired[Scores]
    metrics: NotRequired[Scores]
    controls: NotRequired[dict[str, Scores]]
    laid: NotRequired[str]
    replies: NotRequired[list[ReplyRow]]
    failure: NotRequired[str | None]
    faults: NotRequired[list[str]]
    details: NotRequired[dict[str, object]]
    """What a benchmark's own judge keeps beside: see `world.scores.ItemScore`."""


class SystemResult(TypedDict):
    name: str
    items: list[ItemResult]
    summary: SystemSummary
    faults: list[FaultRow]


class Results(TypedDict):
    """A whole run. What says how the judge was asked is None where there was none."""

    benchmark: str
    title: str
    systems: list[SystemResult]
    judge: NotRequired[str | None]
    protocol: NotRequired[str | None]
    style_of: NotRequired[str | None]
    sampler: NotRequired[str | None]
    rubrics: NotRequired[list[str]]
    policy: NotRequired[str | None]
    passes: NotRequired[int]
    date: NotRequired[str]
    faults: NotRequired[list[FaultRow]]


@cache
def _checker() -> TypeAdapter[Results]:
    return TypeAdapter(Results)


def read_results(path: Path) -> Results:
    """A results.json, or the one in a folder. UserError for a file that is none."""
    path = path / "results.json" if path.is_dir() else path
    try:
        found = json.loads(path.read_text("utf-8"))
        _checker().validate_python(found)
    except FileNotFoundError:
        raise UserError(f"There is no {path}: name the results.json of an earlier run.") from None
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        see = f" (see {place})" if place else ""
        raise UserError(
            f"{path} is not the results.json of a benchmark{see}: name one that opensama evaluate wrote."
        ) from error
    except (ValueError, OSError) as error:
        raise UserError(
            f"{path} is not the results.json of a benchmark ({error}): name one that opensama evaluate wrote."
        ) from error
    results = cast(Results, found)
    if not any(system["items"] for system in results["systems"]):
        raise UserError(f"{path} has no items: there is nothing to show.")
    return results


def check_same_benchmark(mine: Mapping[str, object], other: Mapping[str, object]) -> None:
    """UserError where two results are of different benchmarks."""
    if mine["benchmark"] != other["benchmark"]:
        raise UserError(f"These are results of {mine['benchmark']} and of {other['benchmark']}: compare the same ones.")


def headline_score(item: ItemResult, headline: str | None) -> float | None:
    """The one number of a scored item: the benchmark's headline, or the mean of its scores."""
    scores = item.get("scores") or {}
    if not scores:
        return None
    return float(scores[headline]) if headline in scores else sum(scores.values()) / len(scores)
