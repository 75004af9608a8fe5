"""What a benchmark's results.json says, set beside each other: standings with ranks, items with failures first, tables
for other programs, and how two results differ.

A rank is a range: from 1 + the systems that are surely better to the number of those that are not surely worse, where
"surely" means that two 95 % intervals do not touch. Two results of the same edits are compared item by item.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from opensama.evaluation.results import (
    GroupSummary,
    ItemResult,
    Results,
    check_same_benchmark,
    headline_score,
)
from opensama.evaluation.statistics import paired
from opensama.evaluation.table import with_decimals
from opensama.values import UserError

STATES = ("failed", "missing", "left", "scored")  # as they are shown
FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Cell:
    """One system's score in one group; `best` to `worst` is its rank, None where no direction is better."""

    group: str
    score: str
    system: str
    mean: float
    low: float | None
    high: float | None
    n: int
    failed: int
    missing: int
    best: int | None = None
    worst: int | None = None
    measured: bool = False
    control: bool = False
    """No system, but a control measured beside all of them."""

    @property
    def rank(self) -> str:
        if self.best is None:
            return ""
        return str(self.best) if self.best == self.worst else f"{self.best}-{self.worst}"


def standings(results: Results) -> list[Cell]:
    """Every group's scores, the overall ones, then the metrics without a judge; ranked among the systems. Controls
    stand beside without a rank, averaged over all systems' items."""
    cells: list[Cell] = []
    for system in results["systems"]:
        summary = system["summary"]
        parts: list[tuple[str, GroupSummary, bool]] = [
            (group, row, False) for group, row in summary.get("groups", {}).items()
        ]
        if summary.get("overall"):
            parts.insert(0, ("over groups", {**summary["counts"], "scores": summary["overall"]}, False))
        metrics = summary["metrics"]["groups"] if summary.get("metrics") else {}
        parts += [(f"metrics, {group}", row, True) for group, row in metrics.items()]
        for group, row, measured in parts:
            for name, score in row["scores"].items():
                if score["mean"] is not None:
                    numbers = score["mean"], score["low"], score["high"], score["n"]
                    cells.append(
                        Cell(group, name, system["name"], *numbers, row["failed"], row["missing"], measured=measured)
                    )
    order = {key: index for index, key in enumerate(dict.fromkeys((cell.group, cell.score) for cell in cells))}
    ranked = [_ranked(cell, [c for c in cells if (c.group, c.score) == (cell.group, cell.score)]) for cell in cells]
    ranked += [cell for one in order for cell in _controls(results, *one)]
    return sorted(ranked, key=lambda cell: (cell.measured, order[cell.group, cell.score], cell.control))


def _controls(results: Results, group: str, score: str) -> Iterator[Cell]:
    """What copying, black and the like get in a score that was measured on them, over the items of a group."""
    task = None if group in ("over groups", "metrics, all") else group.removeprefix("metrics, ")
    values: dict[str, list[float]] = {}
    for system in results["systems"]:
        aside = system["summary"].get("aside", ()) if group == "over groups" else ()
        for item in system["items"]:
            if task in (None, item["task"]) and item["task"] not in aside:
                for name, found in (item.get("controls") or {}).items():
                    values.setdefault(name, []).extend([found[score]] if score in found else [])
    for name, own in values.items():
        if own:
            mean = sum(own) / len(own)
            yield Cell(
                group, score, name, mean, None, None, len(own), 0, 0,
                measured=group.startswith("metrics, "), control=True,
            )  # fmt: skip


def _ranked(cell: Cell, others: Sequence[Cell]) -> Cell:
    """With its rank among all systems' cells of one score, itself among them."""
    if len(others) == 1 or (cell.measured and not _rises(cell.score)):
        return cell
    better = sum(r.low is not None and cell.high is not None and r.low > cell.high for r in others)
    worse = sum(r.high is not None and cell.low is not None and r.high < cell.low for r in others)
    return Cell(**asdict(cell) | {"best": 1 + better, "worst": len(others) - worse})


def _rises(metric: str) -> bool:
    from opensama.evaluation.metrics import METRICS

    return metric in METRICS and METRICS[metric].higher_is_better is True


_SHARES = ("success", "parts", "first third", "last third")  # scores that are shares of edits: printed in percent


def score_text(score: str, number: float) -> str:
    """A score as pages and consoles print it: a share in percent, decibels with one decimal, others with three."""
    return f"{100 * number:.1f} %" if score in _SHARES else with_decimals(score, number)


def score_range(score: str, low: float, high: float) -> str:
    """An interval likewise."""
    if score in _SHARES:
        return f"{100 * low:.1f} to {100 * high:.1f} %"
    return f"{with_decimals(score, low)} to {with_decimals(score, high)}"


@dataclass(frozen=True)
class ReportItem:
    """One item of the benchmark with what each system made of it."""

    id: str
    task: str
    instruction: str
    source: str | None
    state: str  # the worst of its edits'
    mark: float | None  # the least of its edits'
    edits: dict[str, ItemResult]


def report_items(results: Results) -> list[ReportItem]:
    """The items, failures first, then the missing, then the lowest marks."""
    found: dict[str, dict[str, ItemResult]] = {}
    headlines = {system["name"]: system["summary"].get("headline") for system in results["systems"]}
    for system in results["systems"]:
        for item in system["items"]:
            found.setdefault(item["id"], {})[system["name"]] = item
    out = []
    for name, edits in found.items():
        first = next(iter(edits.values()))
        marks = [
            value for system, item in edits.items() if (value := headline_score(item, headlines[system])) is not None
        ]
        states = {item["state"] for item in edits.values()}
        state = next((state for state in STATES if state in states), "scored")
        source = next((item["source"] for item in edits.values() if item["source"]), None)
        least = min(marks, default=None)
        out.append(ReportItem(name, first["task"], first["instruction"], source, state, least, edits))
    last = float("inf")
    return sorted(out, key=lambda row: (STATES.index(row.state), last if row.mark is None else row.mark))


# --- two results


@dataclass(frozen=True)
class _Change:
    """How one score differs, these minus those, over the `n` items that both have; `sure`: 0 is not in the interval."""

    system: str
    group: str
    score: str
    n: int
    before: float
    after: float
    difference: float
    low: float
    high: float
    moved: tuple[tuple[str, float, float], ...] = ()
    """The items that differ most: id, before, after."""

    @property
    def sure(self) -> bool:
        return self.n > 1 and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Difference:
    """Two results of one benchmark; `notes` say what else differs, so that nobody reads too much into it."""

    changes: list[_Change]
    states: list[tuple[str, str, str, str]]  # system, item, before, after
    notes: list[str]


def compare_results(results: Results, other: Results) -> Difference:
    """What `results` has against `other`: systems of one name, or the only ones there are."""
    check_same_benchmark(results, other)
    mine, those = ({system["name"]: system for system in r["systems"]} for r in (results, other))
    pairs = [(name, mine[name], those[name]) for name in mine if name in those]
    if not pairs and len(mine) == len(those) == 1:
        (name, one), (old, two) = *mine.items(), *those.items()
        pairs = [(f"{name} (was {old})", one, two)]
    if not pairs:
        raise UserError("The two results share no system: score the systems under one name in both (NAME=FOLDER).")
    notes = [
        f"{name}: {results.get(name)} here, {other.get(name)} there"
        for name in ("judge", "passes", "protocol", "rubrics", "sampler", "policy")
        if results.get(name) != other.get(name)
    ]
    changes: list[_Change] = []
    states: list[tuple[str, str, str, str]] = []
    for name, one, two in pairs:
        before = {item["id"]: item for item in two["items"]}
        shared = [(before[item["id"]], item) for item in one["items"] if item["id"] in before]
        if len(shared) != len(one["items"]) or len(shared) != len(before):
            notes.append(f"{name}: {len(shared)} items are in both, {len(one['items'])} here, {len(before)} there")
        states += [(name, b["id"], a["state"], b["state"]) for a, b in shared if a["state"] != b["state"]]
        tasks = dict.fromkeys(item["task"] for _, item in shared)
        for group in ["all", *tasks] if len(tasks) > 1 else ["all"]:
            chosen = [pair for pair in shared if group in ("all", pair[1]["task"])]
            for score, values in _shared_scores(chosen):
                before_them, after_them = [v[1] for v in values], [v[2] for v in values]
                step, low, high = paired(before_them, after_them)
                moved = sorted((v for v in values if v[1] != v[2]), key=lambda v: -abs(v[2] - v[1]))[:5]
                means = sum(before_them) / len(values), sum(after_them) / len(values)
                changes.append(_Change(name, group, score, len(values), *means, step, low, high, tuple(moved)))
    return Difference(changes, states, notes)


def _shared_scores(
    pairs: Sequence[tuple[ItemResult, ItemResult]],
) -> Iterator[tuple[str, list[tuple[str, float, float]]]]:
    """Each score and metric with its values: item, before, after."""
    scores = [(after["id"], before["scores"] or {}, after["scores"] or {}) for before, after in pairs]
    metrics = [(after["id"], before.get("metrics", {}), after.get("metrics", {})) for before, after in pairs]
    for kind in (scores, metrics):
        for name in dict.fromkeys(name for _, _, after in kind for name in after):
            if values := [(item, a[name], b[name]) for item, a, b in kind if name in a and name in b]:
                yield name, values


def difference_table(found: Difference) -> str:
    """Two results in lines."""
    head = f"{'system':<20}{'over':<20}{'score':<24}{'n':>4}  {'before':>8} {'after':>8}  {'change':>8}  95 %"
    lines = [head]
    for c in found.changes:
        interval = f"{c.low:+.3f}..{c.high:+.3f}" if c.n > 1 else "-"
        numbers = f"{c.n:>4}  {c.before:>8.3f} {c.after:>8.3f}  {c.difference:>+8.3f}  {interval}"
        lines.append(f"{c.system:<20}{c.group:<20}{c.score:<24}{numbers}{' *' if c.sure else ''}")
    lines += [f"{system}: {item} was {before}, is {after}" for system, item, before, after in found.states[:20]]
    if len(found.states) > 20:
        lines.append(f"and {len(found.states) - 20} more whose state differs")
    return "\n".join([*lines, *(f"not the same: {note}" for note in found.notes)])


# --- tables for other programs


def items_csv(results: Results) -> str:
    """One line for each edit: what it is, its state, its scores and metrics."""
    everything = [(system["name"], item) for system in results["systems"] for item in system["items"]]
    scores = list(dict.fromkeys(name for _, item in everything for name in item.get("scores") or {}))
    metrics = list(dict.fromkeys(name for _, item in everything for name in item.get("metrics") or {}))
    head = ["system", "id", "task", "instruction", "state", "source", "edited"]
    lines: list[list[object]] = [[*head, *scores, *(f"metric {name}" for name in metrics), "failure", "faults"]]
    for system, item in everything:
        said = [system, *(item.get(name) or "" for name in head[1:])]
        numbers = [(item.get("scores") or {}).get(name, "") for name in scores]
        numbers += [(item.get("metrics") or {}).get(name, "") for name in metrics]
        lines.append([*said, *numbers, item.get("failure") or "", "; ".join(item.get("faults") or [])])
    return _csv(lines)


def standings_csv(cells: Sequence[Cell]) -> str:
    names = ("group", "score", "system", "mean", "low", "high", "n", "failed", "missing", "rank")
    lines = [[("" if (value := getattr(cell, name)) is None else value) for name in names] for cell in cells]
    return _csv([list(names), *lines])


def _csv(lines: Sequence[Sequence[object]]) -> str:
    """Text that a spreadsheet would take for a formula gets an apostrophe before it."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for line in lines:
        writer.writerow([f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell for cell in line])
    return out.getvalue()
