"""A benchmark's results in lines, for a terminal: marks with intervals, then what was measured, then what is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from opensama.evaluation.benchmarks.benchmark import Benchmark
from opensama.evaluation.metrics import METRICS
from opensama.evaluation.results import FaultRow, Results, Scores, ScoreSummary, StateCounts, SystemResult

COLUMN = 13  # characters of a column of metrics
EDITS = 60  # that get a line of their own where nobody judged
_LISTED = 10  # faults


def results_table(results: Results, benchmark: Benchmark) -> str:
    """For each system and group its scores with intervals, and how many they rest on; the metrics of all systems."""
    judge = "not judged"
    if results["judge"]:
        style = f", {results['passes']} a question; rubrics in the style of {results['style_of']}"
        judge = f"judged by {results['judge']}{style if results['style_of'] else ''}"
    lines = [f"{results['title']}, {judge}"]
    tabled: list[str] = []
    for system in results["systems"]:
        summary = system["summary"]
        own = benchmark.system_table(system)
        said = [own] if own else []
        if not own and summary.get("groups"):
            said.append(f"  {'':<26}{'score':<28}{'mean':>9}  {'95 %':>17}  {'n':>4} {'failed':>6} {'missing':>7}")
            for group, row in summary["groups"].items():
                said += _lines(group, row, row["scores"])
            if summary.get("overall"):
                said += _lines("over groups", summary["counts"], summary["overall"])
        said += [f"  {summary['left']} items are left"] if summary.get("left") else []
        said += _faults(system["faults"], "  ")
        lines += ["", system["name"], *said] if said else []
        tabled += [system["name"]] if own else []
    others = [system for system in results["systems"] if system["name"] not in tabled]
    if measured := metric_lines(others, each=not results["judge"]):
        lines += ["", *measured]
    if policy := results["policy"]:
        lines += ["", policy]
    return "\n".join([*lines, *_faults(results["faults"])])


def metric_lines(systems: Sequence[SystemResult], each: bool) -> list[str]:
    """The metrics without a judge: a line for each edit (if wanted and few), each system's mean, each control."""
    items = [(system["name"], item) for system in systems for item in system["items"] if item["metrics"]]
    names = [name for name in METRICS if any(name in item["metrics"] for _, item in items)]
    if not names:
        return []
    rows: list[tuple[str, str]] = []
    if each and len(items) <= EDITS:
        alone = sorted(items, key=lambda pair: pair[1]["id"])
        rows += [(f"{item['id']} {name}", _row([item["metrics"]], names)) for name, item in alone]
    for system in systems:
        mine = [item["metrics"] for name, item in items if name == system["name"]]
        rows += [(f"mean of {system['name']}", _row(mine, names, count=True))] if mine else []
    for control in dict.fromkeys(control for _, item in items for control in item["controls"]):
        values = [item["controls"][control] for _, item in items if control in item["controls"]]
        rows.append((control, _row(values, names, count=True)))
    width = max(len(label) for label, _ in rows) + 2
    heads = [name.rpartition("_") for name in names]
    head = (" " * width + "".join(f"{part:>{COLUMN}}" for part in [h[i] for h in heads]).rstrip() for i in (0, 2))
    return [*head, *(f"{label:<{width}}{cells}" for label, cells in rows)]


def with_decimals(name: str, number: float, others: str = ".3f") -> str:
    """A score or a metric: decibels with one decimal, `others` as it says."""
    decibels = "dB" in name or (name in METRICS and METRICS[name].unit == "dB")
    return format(number, ".1f" if decibels else others)


def _row(values: Sequence[Scores], names: Iterable[str], count: bool = False) -> str:
    cells = []
    for name in names:
        own = [each[name] for each in values if name in each]
        mean = with_decimals(name, sum(own) / len(own)) if own else "-"
        cells.append(f"{mean} ({len(own)})" if count else mean)
    return "".join(f"{cell:>{COLUMN}}" for cell in cells)


def _faults(faults: Sequence[FaultRow], margin: str = "") -> list[str]:
    lines = [f"{margin}{fault['where']}: {fault['reason']}" for fault in faults[:_LISTED]]
    more = len(faults) - len(lines)
    return [*lines, f"{margin}and {more} more, in results.json"] if more else lines


def _lines(group: str, counts: StateCounts, scores: Mapping[str, ScoreSummary]) -> list[str]:
    tail = f"{counts['failed']:>6} {counts['missing']:>7}"
    lines: list[str] = []
    for name, score in scores.items():
        low, high, mean = score["low"], score["high"], score["mean"]
        interval = "-" if low is None or high is None else f"{with_decimals(name, low)}..{with_decimals(name, high)}"
        value = "-" if mean is None else with_decimals(name, mean)
        label = "" if lines else group
        lines.append(f"  {label:<26}{name:<28}{value:>9}  {interval:>17}  {score['n']:>4} {tail}")
    return lines or [f"  {group:<26}{'nothing scored':<28}{'-':>9}  {'-':>17}  {0:>4} {tail}"]
