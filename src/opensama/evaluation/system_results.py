"""One system's part of results.json, from what was made, measured and judged of each item."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, cast

from opensama.evaluation.aggregation import Line, mean_of, summarise
from opensama.evaluation.benchmarks.benchmark import Benchmark, System
from opensama.evaluation.items import BenchmarkItem, Fault
from opensama.evaluation.judge import Judge, Judged
from opensama.evaluation.results import (
    FaultRow,
    ItemResult,
    ReplyRow,
    Scores,
    State,
    SystemResult,
    SystemSummary,
)


@dataclass
class ItemWork:
    """One item of one system on its way; `extra` are scores from a metric file, `laid` says how source and edit were
    laid on each other to be measured, `left` that the run stopped before it."""

    item: BenchmarkItem
    edited: Path | None
    extra: Scores = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    judged: Judged | None = None
    metrics: Scores = field(default_factory=dict)
    controls: dict[str, Scores] = field(default_factory=dict)
    seconds: float | None = None
    laid: str = ""
    left: bool = False


def system_result(
    system: System,
    works: Sequence[ItemWork],
    faults: Sequence[Fault],
    benchmark: Benchmark,
    judge: Judge | None,
    out: Path,
) -> SystemResult:
    """Items, summary and faults; files as seen from `out`."""
    scoring = judge is not None or system.metric_file is not None
    for work in works:
        if work.judged is not None:
            work.metrics = work.judged.metrics | work.metrics
            names = dict.fromkeys([*work.judged.controls, *work.controls])
            work.controls = {n: work.judged.controls.get(n, {}) | work.controls.get(n, {}) for n in names}
    rows = [_row(work, out, scoring) for work in works]
    how = benchmark.aggregation
    groups = [how.group(work.item) for work in works]
    summary: SystemSummary = {}
    if scoring:
        lines = [
            Line(group, _state(row["state"]), row["scores"] or {}) for group, row in zip(groups, rows, strict=True)
        ]
        summary = {
            **summarise(lines, how, judge.method.zeros if judge is not None else ()),
            "headline": how.headline,
            "aside": list(how.aside),
        }
        if noise := [work.judged.spread for work in works if work.judged and work.judged.spread]:
            names = dict.fromkeys(name for spread in noise for name in spread)
            summary["judge_deviation"] = {
                name: mean_of([spread[name] ** 2 for spread in noise if name in spread]) ** 0.5 for name in names
            }
    if any(work.controls for work in works):
        all_groups = ["all"] * len(works)
        summary["metrics"] = {
            "groups": summarise(_lines(all_groups, [work.metrics for work in works]))["groups"],
            "by_group": summarise(_lines(groups, [work.metrics for work in works]))["groups"],
        }
        named = dict.fromkeys(name for work in works for name in work.controls)
        values = {name: [work.controls[name] for work in works if name in work.controls] for name in named}
        summary["controls"] = {
            name: summarise(_lines([name] * len(own), own))["groups"][name]["scores"] for name, own in values.items()
        }
    summary["left"] = sum(work.left for work in works)
    listed = [FaultRow(where=fault.where, reason=fault.reason) for fault in faults]
    listed += [FaultRow(where=work.item.id, reason=reason) for work in works for reason in work.faults]
    return {"name": system.name, "items": rows, "summary": summary, "faults": listed}


def _lines(groups: Sequence[str], values: Sequence[Scores]) -> list[Line]:
    return [Line(group, "scored" if own else "missing", own) for group, own in zip(groups, values, strict=True)]


def _state(said: str) -> State:
    return cast(State, said) if said in ("scored", "failed") else "missing"


def _row(work: ItemWork, out: Path, scoring: bool) -> ItemResult:
    item, judged = work.item, work.judged
    scores = work.extra | (judged.scores or {} if judged else {})
    state, failure = _outcome(work, scores, scoring)
    row: ItemResult = {
        "id": item.id,
        "task": item.task,
        "instruction": item.instruction,
        "source": _from(out, item.source),
        "edited": _from(out, work.edited),
        "seconds": work.seconds,
        "state": state,
        "scores": scores or None,
        "spread": judged.spread if judged else {},
        "metrics": work.metrics,
        "controls": work.controls,
        "laid": work.laid,
        "replies": [cast(ReplyRow, asdict(reply)) for reply in judged.replies] if judged else [],
        "failure": failure,
        "faults": list(work.faults),
    }
    if judged and judged.details:
        row["details"] = judged.details
    return row


def _outcome(work: ItemWork, scores: Scores, scoring: bool) -> tuple[State | Literal["left"], str | None]:
    """An item's state and why it is not scored, or what was lost on the way."""
    judged = work.judged
    if work.left:
        return "left", (judged.failure if judged else None) or "the run stopped before it"
    if judged is not None:
        return ("scored" if scores else judged.state), judged.failure
    if scores:
        return "scored", None
    if work.item.source is None:
        return "missing", "its source is not there"
    if work.edited is None:
        return "missing", "; ".join(work.faults) or "has no edit"
    if scoring:
        return "missing", "nothing scored it"
    if work.controls:
        return "scored", None
    return "missing", "; ".join(work.faults) or "nothing scored it"


def _from(out: Path, path: Path | None) -> str | None:
    return None if path is None else Path(os.path.relpath(path.absolute(), out.absolute())).as_posix()
