"""What a filter run came to: numbers, a table, and one HTML page that holds everything itself."""

from __future__ import annotations

import heapq
import html
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from opensama.curation.graph import GraphReport
from opensama.curation.rubrics import SCORES
from opensama.curation.scoring import (
    REASON_PREFIX,
    SCORE_PREFIX,
    Thresholds,
    mean_score,
    misses,
    order_by_lot,
    pair_frames,
)
from opensama.data.manifest import Record, read_manifest_table
from opensama.media import pages
from opensama.runtime import whole_file
from opensama.values import UserError

SHOWN = 12  # pairs of each kind on the page
STRIP = 4  # frames of a clip
_SIDE = 176  # pixels of a frame's longer side
BIN = 0.5
_BINS = 18  # from 1 to 10
_KINDS = {  # how failures begin, in words
    "VlmRefused": "the model refused",
    "BadAnswer": "the answer could not be read",
    "VlmFailed": "no whole answer came",
    "VlmUnavailable": "no answer came",
}
UNREADABLE = "the files could not be read"

_Tally = dict[str, list[int]]  # name: kept, refused


@dataclass
class FilterReport:
    """Counts of one filtered manifest. `stopped` says why pairs are `left`, if any are."""

    pairs: int = 0
    kept: int = 0
    refused: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    unscored: dict[str, int] = field(default_factory=dict)
    left: int = 0
    stopped: str = ""
    settings: dict[str, object] = field(default_factory=dict)
    thresholds: dict[str, dict[str, float]] = field(default_factory=dict)
    datasets: _Tally = field(default_factory=dict)
    tasks: _Tally = field(default_factory=dict)
    missed: dict[str, int] = field(default_factory=dict)
    """How many of the refused missed that score's threshold; one may miss several."""
    histograms: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    """Media, score: pairs in each half mark from 1 to 10."""
    seconds: float = 0.0

    def table(self) -> str:
        """The numbers as lines for people."""
        scored = self.kept + self.refused
        lines = [f"{scored:,} of {self.pairs:,} pairs scored, {self.kept:,} kept{_share(self.kept, scored)}"]
        for title, tally in (("dataset", self.datasets), ("task", self.tasks)):
            for name, (kept, refused) in tally.items():
                lines.append(
                    f"  {title} {name or 'unnamed'}: {kept:,} of {kept + refused:,}{_share(kept, kept + refused)}"
                )
        lines += [f"  missed {name}: {count:,}" for name, count in self.missed.items() if count]
        lines += [f"  not scored, {reason}: {count:,}" for reason, count in (self.unscored | self.dropped).items()]
        return "\n".join(lines)


def write_filter_report(
    out: Path, graph: GraphReport, settings: Mapping[str, object], thresholds: Thresholds
) -> FilterReport:
    """Counts what lies in `out` and writes report.json and report.html."""
    report = FilterReport(
        pairs=graph.items,
        left=graph.left,
        stopped=graph.stopped,
        dropped=dict(graph.stages[0].dropped),
        settings=dict(settings),
        thresholds={media: dict(wanted) for media, wanted in thresholds.items()},
        seconds=graph.seconds,
    )
    reasons: dict[str, str] = {}
    with (out / "failed.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            reason = str(json.loads(line)["error"]["reason"])
            name, _, said = reason.partition(": ")
            kind = _KINDS.get(name, UNREADABLE)
            report.unscored[kind] = report.unscored.get(kind, 0) + 1
            reasons.setdefault(kind, said if name in _KINDS else reason)
    shown = {}
    tallies: dict[str, defaultdict[str, list[int]]] = {name: defaultdict(lambda: [0, 0]) for name in ("set", "task")}
    missed: Counter[str] = Counter()
    for place, name in enumerate(("manifest", "refused")):
        manifest = read_manifest_table(out / f"{name}.parquet")
        for record in manifest:
            tallies["set"][record.dataset][place] += 1
            tallies["task"][record.task][place] += 1
            missed.update(misses(record, thresholds))
            _count_scores(report.histograms, record)
        shown[name] = heapq.nsmallest(SHOWN, manifest, key=order_by_lot)
        shown[name].sort(key=mean_score, reverse=True)
    report.kept, report.refused = (sum(row[place] for row in tallies["set"].values()) for place in (0, 1))
    report.datasets, report.tasks = (dict(sorted(tallies[name].items())) for name in ("set", "task"))
    report.missed = {name: missed[name] for name in SCORES if missed[name]}
    with whole_file(out / "report.json") as temporary:
        temporary.write_text(json.dumps(asdict(report), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    with whole_file(out / "report.html") as temporary:
        temporary.write_text(_page(report, reasons, shown["manifest"], shown["refused"], out), encoding="utf-8")
    return report


def _count_scores(histograms: dict[str, dict[str, list[int]]], record: Record) -> None:
    for name in SCORES:
        value = record.scores.get(SCORE_PREFIX + name)
        if value is not None:
            bins = histograms.setdefault(record.media, {}).setdefault(name, [0] * _BINS)
            bins[min(_BINS - 1, int((value - 1) / BIN))] += 1


# --- the page


def _page(
    report: FilterReport, reasons: Mapping[str, str], kept: Sequence[Record], refused: Sequence[Record], folder: Path
) -> str:
    """The whole page; frames are read from the pairs' files."""
    scored = report.kept + report.refused
    notes = [
        f"{name.replace('_', ' ')}: {value}" for name, value in report.settings.items() if not isinstance(value, dict)
    ]
    unscored = report.unscored | report.dropped
    facts = [f"{sum(unscored.values()):,} of {report.pairs:,} are not scored."] if unscored else []
    if report.stopped:
        facts.append(f"{report.left:,} are left, because {html.escape(report.stopped)}.")
    return pages.fill_page(
        "filter_report.html",
        "opensama.curation",
        title="Filtered pairs",
        summary=f"{report.kept:,} of {scored:,} scored pairs are kept{_share(report.kept, scored)}",
        facts="".join(f"<p>{fact}</p>" for fact in facts),
        settings=html.escape(" · ".join(notes)),
        histograms="".join(
            _histogram(media, name, bins, report.thresholds[media].get(name))
            for media, scores in report.histograms.items()
            for name, bins in scores.items()
        ),
        shares=_shares("Dataset", report.datasets) + _shares("Task", report.tasks),
        missed=_counts("Threshold missed", report.missed) + _counts("Not scored", unscored, reasons),
        kept=_sheet(kept, report, folder),
        refused=_sheet(refused, report, folder),
        kept_count=f"{len(kept)} of {report.kept:,}",
        refused_count=f"{len(refused)} of {report.refused:,}",
    )


def _histogram(media: str, name: str, bins: Sequence[int], threshold: float | None) -> str:
    """Bars of half marks; those from the threshold on are filled."""
    width, height, step = 270, 96, 15
    top = max(max(bins), 1)
    bars = []
    for index, count in enumerate(bins):
        low = 1 + index * BIN
        tall = 0.0 if not count else max(2.0, count / top * height)
        kind = "above" if threshold is not None and low >= threshold else "below"
        bars.append(
            f'<rect class="{kind}" x="{index * step + 1}" y="{height - tall + 14:.1f}" width="{step - 2}" '
            f'height="{tall:.1f}"><title>{low:g} to {low + BIN:g}: {count:,}</title></rect>'
        )
    bars.append(f'<text x="0" y="10">{max(bins):,}</text>')
    ticks = "".join(
        f'<text x="{(mark - 1) / BIN * step:.1f}" y="{height + 28}" text-anchor="middle">{mark}</text>'
        for mark in range(1, 11)
    )
    line = ""
    if threshold is not None:
        x = (threshold - 1) / BIN * step
        line = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height + 14}"/>'
    total = sum(bins)
    wanted = "" if threshold is None else f", wanted {threshold:g}"
    return (
        f"<figure><figcaption><b>{name}</b> of {total:,} {media}s{wanted}</figcaption>"
        f'<svg viewBox="-6 0 {width + 16} {height + 34}" role="img" aria-label="Histogram of {name} of {media}s">'
        f"{''.join(bars)}{line}{ticks}</svg></figure>"
    )


def _shares(title: str, tally: _Tally) -> str:
    rows = []
    for name, (kept, refused) in tally.items():
        share = pages.bar_cells(kept / (kept + refused))
        rows.append((name or "unnamed", f"<td>{kept:,}</td><td>{kept + refused:,}</td>{share}"))
    return _table(title, "<td>kept</td><td>scored</td><td>share</td><td></td>", rows)


def _counts(title: str, counts: Mapping[str, int], reasons: Mapping[str, str] | None = None) -> str:
    """Counts of pairs, and beside each its first reason where there are any."""
    rows = []
    for name, count in counts.items():
        said = "" if reasons is None else f'<td class="said">{html.escape(reasons.get(name, "")[:300])}</td>'
        rows.append((name, f"<td>{count:,}</td>{said}"))
    return _table(title, "<td>pairs</td>" + ("" if reasons is None else '<td class="said">the first</td>'), rows)


def _table(title: str, heads: str, rows: Sequence[tuple[str, str]]) -> str:
    """A table of names and their cells; nothing without rows."""
    body = "".join(f"<tr><th>{html.escape(name)}</th>{cells}</tr>" for name, cells in rows)
    return body and (
        f'<div class="wide" tabindex="0" role="region" aria-label="{title}"><table><thead><tr><th>{title}</th>{heads}'
        f"</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _sheet(records: Iterable[Record], report: FilterReport, folder: Path) -> str:
    return "".join(_figure(record, report, folder) for record in records) or '<p class="dim">None.</p>'


def _figure(record: Record, report: FilterReport, folder: Path) -> str:
    """One pair: instruction, source above target, its scores, and what the model said."""
    below = misses(record, report.thresholds)
    marks = "".join(
        f'<span class="{"bad" if name in below else "good"}">{name} {record.scores[SCORE_PREFIX + name]:.1f}</span>'
        for name in SCORES
        if SCORE_PREFIX + name in record.scores
    )
    said = "".join(
        f'<p class="said"><b>{html.escape(name.removeprefix(REASON_PREFIX))}:</b> {html.escape(text)}</p>'
        for name, text in record.notes.items()
        if name.startswith(REASON_PREFIX) and text
    )
    about = " · ".join(filter(None, (record.dataset, record.task, record.id)))
    try:
        picture = (
            f'<img src="{_strips(record, folder)}" alt="Source above, edit below: {html.escape(record.instruction)}">'
        )
    except UserError as error:
        picture = f'<p class="dim">{html.escape(str(error))}</p>'
    return (
        f"<figure><blockquote>{html.escape(record.instruction)}</blockquote>{picture}"
        f'<figcaption><div class="marks">{marks}</div>{said}<p class="dim">{html.escape(about)}</p></figcaption>'
        "</figure>"
    )


def _strips(record: Record, folder: Path) -> str:
    """Frames of the source above those of the target at the same times, as a JPEG in an address of its own."""
    import numpy as np
    from PIL import Image

    from opensama.media.frames import contact_sheet

    source, target = pair_frames(record, folder, STRIP, _SIDE)
    number = min(len(source), len(target))
    height, width = target[0].shape[:2]
    source = tuple(np.asarray(Image.fromarray(frame).resize((width, height))) for frame in source[:number])
    return pages.picture_url(contact_sheet([*source, *target[:number]], columns=number), quality=80)


def _share(part: int, whole: int) -> str:
    return f" ({pages.percent_of(part, whole)})" if whole else ""
