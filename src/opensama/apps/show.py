"""`opensama data show`: a manifest on one page: counts, plots, and samples that play, with a filter for them."""

from __future__ import annotations

import hashlib
import html
import json
import math
from array import array
from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from opensama.media import pages
from opensama.values import Progress, UserError, counted, how_many

if TYPE_CHECKING:
    from opensama.data.manifest import Record

_MOST = 300  # samples of a page
HEIGHT = 192  # pixels of a sample's clips
SECONDS, RATE = 4.0, 12  # of a sample
_QUALITIES = (62, 45, 28)  # of its encoding, the next where the one before is too large
BYTES = 300_000  # of a sample, about
_BINS = 24
_SCORES = 12  # kinds of scores that get a plot
_NAMED = ("task", "kind", "media", "dataset", "license")
FILTERS = _NAMED[:4]
SIZES = "seconds", "frames", "fps", "megapixels", "words of the text"


@dataclass
class ManifestSummary:
    """What a look through all rows finds."""

    rows: int = 0
    named: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in _NAMED})
    crossed: Counter[tuple[str, ...]] = field(default_factory=Counter)  # values of FILTERS
    sizes: dict[str, array[float]] = field(default_factory=lambda: {name: array("d") for name in SIZES})
    scores: dict[str, array[float]] = field(default_factory=lambda: defaultdict(lambda: array("d")))
    drawn: dict[tuple[str, ...], list[tuple[str, int, Record]]] = field(default_factory=dict)

    def add(self, record: Record, most: int) -> None:
        """Counts a row; `most` of each group stay as candidates, drawn by lot."""
        for name in _NAMED:
            self.named[name][getattr(record, name)] += 1
        group = tuple(getattr(record, name) for name in FILTERS)
        self.crossed[group] += 1
        area = None if record.width is None or record.height is None else record.width * record.height / 1e6
        words = len((record.instruction or record.caption).split())
        for name, value in zip(SIZES, (record.seconds, record.frames, record.fps, area, words), strict=True):
            if value is not None and math.isfinite(value):
                self.sizes[name].append(value)
        for name, value in record.scores.items():
            if math.isfinite(value):
                self.scores[name].append(value)
        candidates = self.drawn.setdefault(group, [])
        insort(candidates, (hashlib.sha256(record.id.encode()).hexdigest(), self.rows, record), key=lambda c: c[:2])
        del candidates[most:]
        self.rows += 1

    def samples(self, number: int) -> list[Record]:
        """The groups in turn, so that rare ones are seen; by lot within a group, the same every time."""
        turns = zip_longest(*(candidates for _, candidates in sorted(self.drawn.items())))
        return [found[2] for turn in turns for found in turn if found is not None][:number]


def show_manifest(
    manifest: Path, out: Path, *, number: int = 24, progress: Callable[[Progress], None] = lambda progress: None
) -> ManifestSummary:
    """Writes the page. UserError for what is no manifest; files that cannot be read are said on the page."""
    from opensama.data.manifest import iter_records
    from opensama.runtime import whole_file

    if not 0 <= number <= _MOST:
        raise UserError(f"The number of samples must be from 0 to {_MOST}, not {number}.")
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"The page is written as .html, not as {out.name}: choose another name with --out.")
    if not out.parent.is_dir():
        raise UserError(f"There is no folder {out.parent} to write {out.name} into: make it first.")
    found = ManifestSummary()
    for record in iter_records(manifest):
        found.add(record, number)
    if not found.rows:
        raise UserError(f"The manifest {manifest} has no rows: there is nothing to show.")
    chosen = found.samples(number)
    figures = [sample_figure(record, manifest.parent) for record in counted(chosen, "Encoding", progress)]
    with whole_file(out) as temporary:
        temporary.write_text(manifest_page(manifest.name, found, figures), encoding="utf-8")
    return found


def manifest_page(name: str, found: ManifestSummary, figures: Sequence[str]) -> str:
    """The whole page."""
    kinds = ", ".join(how_many(count, kind) for kind, count in found.named["kind"].most_common())
    seconds = math.fsum(found.sizes["seconds"])
    long = f"{seconds / 3600:,.1f} hours" if seconds >= 3600 else how_many(round(seconds), "second")
    total = f", {long}" if seconds else ""
    scores = sorted(found.scores.items())[:_SCORES]
    plots = [value_histogram(title, values) for title, values in (*found.sizes.items(), *scores) if len(values)]
    crossed = [[*group, count] for group, count in found.crossed.items()]
    return pages.fill_page(
        "show.html",
        "opensama.apps",
        title=html.escape(name),
        summary=f"{how_many(found.rows, 'row')}: {kinds}{total}.",
        tables="".join(count_table(named, counts, found.rows) for named, counts in found.named.items()),
        plots="".join(plots),
        choices="".join(choice(named, found.named[named]) for named in FILTERS),
        scores="".join(f"<option>{html.escape(score)}</option>" for score in sorted(found.scores)),
        hidden="" if found.scores else "hidden",
        crossed=json.dumps(crossed).replace("<", "\\u003c"),
        samples="\n".join(figures) or '<p class="dim">No samples were requested.</p>',
        count=f"{len(figures):,}",
    )


def count_table(title: str, counts: Counter[str], total: int) -> str:
    """Names with their counts and a bar; the rarest of many are one row."""
    listed = counts.most_common(20)
    rest = total - sum(count for _, count in listed)
    rows = [(name or "none", count) for name, count in listed] + ([("others", rest)] if rest else [])
    body = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{count:,}</td>{pages.bar_cells(count / total)}</tr>"
        for name, count in rows
    )
    head = f'<tr><th scope="col">{title}</th><td>rows</td><td>share</td><td></td></tr>'
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{title}"><table><thead>{head}</thead><tbody>{body}'
        "</tbody></table></div>"
    )


def value_histogram(title: str, values: Iterable[float]) -> str:
    """Bars of equal width from the least to the greatest value, the highest 1% in the last."""
    ordered = sorted(values)
    low, high, greatest = ordered[0], ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], ordered[-1]
    step = (high - low) / _BINS
    bins = [0] * (_BINS if step else 1)
    for value in ordered:
        bins[min(len(bins) - 1, int((value - low) / step)) if step else 0] += 1
    width, height = 12, 90
    bars = []
    for index, count in enumerate(bins):
        tall = max(1.5, count / max(bins) * height) if count else 0.0
        begin, end = low + index * step, (greatest if index == len(bins) - 1 else low + (index + 1) * step)
        bars.append(
            f'<rect x="{index * width + 1}" y="{height - tall + 12:.1f}" width="{width - 2}" height="{tall:.1f}">'
            f"<title>{begin:,.4g} to {end:,.4g}: {count:,}</title></rect>"
        )
    across, middle = _BINS * width, ordered[len(ordered) // 2]
    last = f"{high:,.4g}" if high == greatest else f"{high:,.4g} or more"
    title = html.escape(title)
    return (
        f"<figure><figcaption><b>{title}</b> of {how_many(len(ordered), 'row')}, median {middle:,.4g}</figcaption>"
        f'<svg viewBox="0 0 {across} {height + 28}" role="img" aria-label="Histogram of {title}">'
        f'<text x="0" y="9">{max(bins):,}</text>{"".join(bars)}'
        f'<text x="0" y="{height + 25}">{low:,.4g}</text>'
        f'<text x="{across}" y="{height + 25}" text-anchor="end">{last}</text></svg></figure>'
    )


def choice(name: str, counts: Counter[str]) -> str:
    """A list to choose one value from."""
    values = "".join(
        f'<option value="{html.escape(value)}">{html.escape(value) or "none"}</option>' for value in sorted(counts)
    )
    return f'<label>{name} <select data-filter="{name}"><option value="*">all</option>{values}</select></label>'


def sample_figure(record: Record, folder: Path) -> str:
    """One sample: its text, source beside target, and what is known of it."""
    said = html.escape(record.instruction or record.caption) or '<span class="dim">no text</span>'
    filters = "".join(f' data-{name}="{html.escape(getattr(record, name))}"' for name in FILTERS)
    scores = html.escape(json.dumps(record.scores))
    try:
        shown = sample_picture(record, folder)
    except (UserError, OSError, ValueError) as error:
        shown = f'<p class="bad">{html.escape(str(error))}</p>'
    sides = '<div class="columns"><span>source</span><span>target</span></div>' if record.source is not None else ""
    marks = "".join(f"<span>{html.escape(name)} <b>{value:.4g}</b></span>" for name, value in record.scores.items())
    size = None if record.width is None or record.height is None else f"{record.width}x{record.height}"
    facts = [
        record.dataset,
        record.task,
        size,
        None if record.frames is None or record.media == "image" else f"{record.frames} frames",
        None if record.fps is None or record.media == "image" else f"{record.fps:.4g} fps",
        record.id,
    ]
    caption = f"<details><summary>caption</summary>{html.escape(record.caption)}</details>"
    return (
        f'<figure class="sample"{filters} data-scores="{scores}"><blockquote>{said}</blockquote>{sides}{shown}'
        f'<figcaption><div class="marks">{marks}</div>'
        f"{caption if record.caption and record.instruction else ''}"
        f'<div class="dim">{html.escape(" · ".join(fact for fact in facts if fact))}</div></figcaption></figure>'
    )


def sample_picture(record: Record, folder: Path) -> str:
    """The sample's clips as one small video, or its images as one JPEG."""
    from opensama.media.frames import side_by_side

    target = pages.clip_excerpt(folder / record.target, HEIGHT, SECONDS, RATE, record.target_start, record.target_end)
    both = target
    if record.source is not None:
        source = pages.clip_excerpt(
            folder / record.source, HEIGHT, SECONDS, RATE, record.source_start, record.source_end
        )
        frames = min(source.frame_count, target.frame_count)
        both = side_by_side(source.clip(0, frames), target.clip(0, frames))
    said = html.escape(record.instruction or record.caption or record.id)
    size = f'width="{both.width}" height="{both.height}"'
    if record.media == "image" or both.frame_count == 1:
        return f'<img src="{pages.picture_url(next(both.frames(0, 1)))}" {size} alt="{said}">'
    address = ""
    for quality in _QUALITIES:
        address = pages.video_url(both, quality)
        if len(address) * 3 / 4 <= BYTES:
            break
    label = f'aria-label="{"Source and target: " if record.source is not None else ""}{said}"'
    rate = f'data-fps="{float(both.fps):.4g}"'
    return f'<video src="{address}" {size} {rate} {label} muted loop playsinline controls></video>'


def written_line(found: ManifestSummary, out: Path) -> str:
    """What was written, in one line."""
    shares: Mapping[str, int] = found.named["task"]
    tasks = ", ".join(f"{task or 'no task'} {count:,}" for task, count in Counter(shares).most_common(5))
    return f"written: {out}, {how_many(found.rows, 'row')} ({tasks})"
