"""`opensama evaluate report`: a benchmark's results on one page: standings, bars, and every item with clips that play.

The page holds everything itself; how many clips it has and how large they are is bounded. Failures come first.
"""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from opensama.apps.options import HOW_MANY, OVERWRITE, check_free
from opensama.apps.progress import Display
from opensama.media import pages
from opensama.values import Progress, UserError, Video, how_many

if TYPE_CHECKING:
    from opensama.evaluation.report import Cell, Difference, ReportItem
    from opensama.evaluation.results import FaultRow, ItemResult, ReplyRow, Results

_MOST = 200  # items whose clips are shown
_LISTED = 2000  # items in all
HEIGHT, SECONDS, RATE = 192, 4.0, 12  # of a clip
_QUALITIES = (62, 45, 28)  # of its encoding, the next where the one before is too large
CLIP_BYTES, PAGE_BYTES = 250_000, 60_000_000
REPLY = 3000  # letters of a reply
COLOURS = 6  # of the bars, then again


def report(
    out: Path,
    /,
    *,
    against: Path | None = None,
    page: Path | None = None,
    number: Annotated[int, HOW_MANY] = 24,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> None:
    """Show a benchmark's results on one page, failures first, with clips that play; tables as CSV beside it.

    Writes report.html, which holds everything itself, report.csv (every edit) and standings.csv.

    Parameters
    ----------
    out
        The folder in which results.json lies, or the file itself.
    against
        Earlier results of the same benchmark: what has changed since is printed and shown.
    page
        Another name for the page; the tables are called after it.
    number
        Items whose clips are shown, those that failed or scored least first; the others are listed.
    overwrite
        Replace the page and the tables where they exist.
    """
    from opensama.evaluation.report import compare_results, difference_table, items_csv, standings, standings_csv
    from opensama.evaluation.results import read_results
    from opensama.runtime import whole_file

    results = read_results(out)
    folder = out if out.is_dir() else out.parent
    page = page or folder / "report.html"
    if not 0 <= number <= _MOST:
        raise UserError(f"The number of items with clips must be from 0 to {_MOST}, not {number}.")
    if page.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"The page is written as .html, not as {page.name}: choose another name with --page.")
    if not page.parent.is_dir():
        raise UserError(f"There is no folder {page.parent} to write {page.name} into: make it first.")
    tables = (
        page.with_suffix(".csv"),
        page.with_name("standings.csv" if page.stem == "report" else f"{page.stem}-standings.csv"),
    )
    for path in (page, *tables):
        check_free(path, overwrite, "--page")
    found = None if against is None else compare_results(results, read_results(against))
    cells = standings(results)
    with Display() as show:
        text = whole_page(results, folder, cells, found, number, show)
    for path, body in zip((page, *tables), (text, items_csv(results), standings_csv(cells)), strict=True):
        with whole_file(path) as temporary:
            temporary.write_text(body, "utf-8", errors="replace")
    if found is not None:
        print(difference_table(found))
    print(f"written: {page} ({len(text) / 1e6:.1f} MB), {tables[0].name}, {tables[1].name}")


def whole_page(
    results: Results,
    folder: Path,
    cells: Sequence[Cell],
    found: Difference | None,
    number: int,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> str:
    """The whole page."""
    from opensama.evaluation.benchmarks.registry import BENCHMARKS
    from opensama.evaluation.report import report_items

    systems = [system["name"] for system in results["systems"]]
    items = report_items(results)[:_LISTED]
    benchmark = BENCHMARKS.get(results["benchmark"])
    answers = benchmark.answers(folder, [row.source for row in items]) if benchmark is not None else {}
    shown: list[str] = []
    spent, began = 0, time.monotonic()
    for place, row in enumerate(items):
        small = place < number and spent < PAGE_BYTES
        text = item_row(row, folder, small, answers.get(row.id) if small else None)
        spent += len(text) if small else 0
        shown.append(text)
        if place < number:
            progress(Progress("Encoding", place + 1, min(number, len(items)), time.monotonic() - began))
    states = sorted({row.state for row in items})
    faults = [*results.get("faults", []), *(fault for system in results["systems"] for fault in system["faults"])]
    return pages.fill_page(
        "benchmark_report.html",
        "opensama.apps",
        title=html.escape(f"{results['title']}: {', '.join(systems)}"),
        summary=judged_summary(results),
        standings="".join(tables(cells, systems)) or '<p class="dim">Nothing was scored.</p>',
        legend=legend(systems),
        bars="".join(bars(cells, systems)),
        votes=votes_part(results, folder),
        difference=difference_part(found),
        faults=_faults(faults),
        tasks=_options({row.task for row in items}),
        states=_options(states),
        items="\n".join(shown),
        count=f"{len(items):,}, failures first, then the lowest marks; clips of the first {min(number, len(items))}",
    )


def judged_summary(results: Results) -> str:
    """Who judged, how, and what was done with failures."""
    judge = results.get("judge")
    style = results.get("style_of")
    how = f", {results.get('passes', 1)} a question; rubrics in the style of {style}" if style else ""
    said = [
        f"Judged by {judge}{how}." if judge else "No judge: measured only.",
        f"Frames: {results['sampler']}." if judge and results.get("sampler") else "",
        str(results.get("policy") or "") if judge else "",
    ]
    for system in results["systems"]:
        counts = {
            state: sum(item["state"] == state for item in system["items"])
            for state in ("scored", "failed", "missing", "left")
        }
        listed = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        said.append(f"{system['name']}: {listed}.")
    return (
        "".join(f"<p>{html.escape(line)}</p>" for line in said if line)
        + f'<p class="dim">{html.escape(str(results.get("date", "")))}</p>'
    )


def tables(cells: Sequence[Cell], systems: Sequence[str]) -> Iterable[str]:
    """A table for each group: systems and controls down, scores across, each with its interval and rank."""
    for group in dict.fromkeys(cell.group for cell in cells):
        mine = [cell for cell in cells if cell.group == group]
        scores = list(dict.fromkeys(cell.score for cell in mine))
        head = "".join(f'<th scope="col">{html.escape(score)}</th>' for score in scores)
        body = ""
        shown = [(name, False) for name in systems]
        shown += [(name, True) for name in dict.fromkeys(cell.system for cell in mine if cell.control)]
        for system, control in shown:
            row = {cell.score: cell for cell in mine if (cell.system, cell.control) == (system, control)}
            values = "".join(f"<td>{_number(row[score]) if score in row else '-'}</td>" for score in scores)
            one = next(iter(row.values()), None)
            counts = f"{max(cell.n for cell in row.values())}, {one.failed}, {one.missing}" if one else "-"
            kind = ' class="control-row"' if control else ""
            body += f'<tr{kind}><th scope="row">{html.escape(system)}</th>{values}<td>{counts}</td></tr>'
        label = html.escape(group)
        first, last = (f'<th scope="col">{text}</th>' for text in ("system", "n, failed, missing"))
        yield (
            f'<div class="wide" tabindex="0" role="region" aria-label="{label}"><table><caption>{label}</caption>'
            f"<thead><tr>{first}{head}{last}</tr></thead><tbody>{body}</tbody></table></div>"
        )


def _number(cell: Cell) -> str:
    from opensama.evaluation.report import score_range, score_text

    interval = ""
    if cell.low is not None and cell.high is not None:
        interval = f"<small>{score_range(cell.score, cell.low, cell.high)}</small>"
    rank = f'<span class="rank">#{cell.rank}</span>' if cell.rank else ""
    return f"<b>{score_text(cell.score, cell.mean)}</b> {rank}{interval}"


def legend(systems: Sequence[str]) -> str:
    """Which colour is whose."""
    square = '<svg viewBox="0 0 8 8" aria-hidden="true"><rect class="s{}" width="8" height="8"/></svg>{}'
    return "".join(f"<span>{square.format(i % COLOURS, html.escape(name))}</span>" for i, name in enumerate(systems))


def bars(cells: Sequence[Cell], systems: Sequence[str]) -> Iterable[str]:
    """For each score a figure: groups along it, a bar for each system, its interval as a line."""
    own = [cell for cell in cells if not cell.control]
    for measured in (False, True):
        chosen = [cell for cell in own if cell.measured == measured and cell.group != "over groups"]
        for score in dict.fromkeys(cell.score for cell in chosen):
            mine = [cell for cell in chosen if cell.score == score]
            if not measured or len(systems) > 1:
                yield _figure(score, mine, systems)


def _figure(score: str, cells: Sequence[Cell], systems: Sequence[str]) -> str:
    from opensama.evaluation.report import score_range, score_text

    ends = [value for cell in cells for value in (cell.mean, cell.low, cell.high) if value is not None]
    low, high = min(0.0, *ends), max(0.0, *ends)
    span = (high - low) or 1.0

    def x(at: float) -> float:
        return 128 + (at - low) / span * 186

    drawn, y = [], 6
    for group in dict.fromkeys(cell.group for cell in cells):
        name = group.removeprefix("metrics, ")
        drawn.append(f'<text x="0" y="{y + 9}">{html.escape(name if len(name) < 20 else name[:18] + "…")}</text>')
        for cell in (cell for cell in cells if cell.group == group):
            place = systems.index(cell.system)
            told = f"{group}, {cell.system}: {score_text(score, cell.mean)}"
            left, right = sorted((x(0), x(cell.mean)))
            line = ""
            if cell.low is not None and cell.high is not None:
                told += f" ({score_range(score, cell.low, cell.high)})"
                line = f'<path d="M{x(cell.low):.1f} {y + 5}H{x(cell.high):.1f}"/>'
            size = f'x="{left:.1f}" y="{y}" width="{max(0.5, right - left):.1f}" height="10"'
            drawn.append(
                f'<g class="s{place % COLOURS}"><rect {size}><title>{html.escape(told)}</title></rect>{line}</g>'
            )
            y += 12
        y += 5
    title = html.escape(score)
    for at, end in ((low, "start"), (high, "end"))[: 1 if low == high else 2]:
        drawn.append(f'<text x="{x(at):.1f}" y="{y + 10}" text-anchor="{end}">{score_text(score, at)}</text>')
    return (
        f'<figure><figcaption><b>{title}</b></figcaption><svg viewBox="0 0 320 {y + 14}" role="img" '
        f'aria-label="{title} by group and system">{"".join(drawn)}</svg></figure>'
    )


# --- the items


def item_row(row: ReportItem, folder: Path, small: bool, answer: Video | None = None) -> str:
    """One item: its instruction, then source and edits side by side with scores, reasons, faults."""
    cards = []
    if small:
        cards.append(f'<div class="edit"><h4>source</h4>{_clip(folder, row.source, f"Source of {row.id}")}</div>')
    if small and answer is not None:
        shown = _film(answer, f"Exact answer of {row.id}")
        cards.append(f'<div class="edit"><h4>exact answer</h4>{shown}</div>')
    for system, item in row.edits.items():
        clip = _clip(folder, item["edited"], f"{system}: {row.instruction}") if small else ""
        cards.append(
            f'<div class="edit"><h4>{html.escape(system)} {_state(item["state"])}</h4>{clip}{_said(item)}</div>'
        )
    controls = (
        '<div class="control" hidden><button type="button" class="play">Play</button><label>time '
        f'<input type="range" min="0" max="1" step="any" value="0" aria-label="Time of {html.escape(row.id)}">'
        "</label></div>"
        if small
        else ""
    )
    marked = "" if row.mark is None else f"lowest mark {row.mark:.3g}"
    return (
        f'<article class="item" data-task="{html.escape(row.task)}" data-state="{row.state}">'
        f"<h3>{html.escape(row.instruction) or 'no instruction'}</h3>"
        f'<p class="dim">{html.escape(" · ".join(part for part in (row.id, row.task, marked) if part))}</p>'
        f'{controls}<div class="edits">{"".join(cards)}</div></article>'
    )


def _clip(folder: Path, said: str | None, label: str) -> str:
    if said is None:
        return '<p class="none">there is no file</p>'
    try:
        return _film(pages.clip_excerpt(folder / said, HEIGHT, SECONDS, RATE), label)
    except (UserError, OSError, ValueError) as error:
        return f'<p class="none bad">{html.escape(" ".join(str(error).split())[:300])}</p>'


def _film(video: Video, label: str) -> str:
    for quality in _QUALITIES:
        address = pages.video_url(video, quality)
        if len(address) * 3 / 4 <= CLIP_BYTES:
            break
    else:
        return '<p class="none">too large to show here, even small</p>'
    size = f'width="{video.width}" height="{video.height}" data-fps="{float(video.fps):.4g}"'
    return f'<video src="{address}" {size} aria-label="{html.escape(label)}" muted playsinline></video>'


def _said(item: ItemResult) -> str:
    """Scores, metrics, what is wrong, and what the judge said."""
    from opensama.evaluation.report import score_text
    from opensama.evaluation.table import with_decimals

    spread = item.get("spread") or {}
    scores = [
        f"{name} {score_text(name, number)}" + (f" ± {spread[name]:.2g}" if name in spread else "")
        for name, number in (item["scores"] or {}).items()
    ]
    parts = (
        [f'<ul class="marks">{"".join(f"<li>{html.escape(score)}</li>" for score in scores)}</ul>'] if scores else []
    )
    reasons = [item.get("failure"), *item.get("faults", [])]
    wrong = dict.fromkeys(reason for reason in reasons if reason)
    parts += [f'<p class="bad">{html.escape(reason)}</p>' for reason in wrong]
    replies = [reply for reply in item.get("replies") or [] if reply.get("text") or reply.get("fault")]
    if replies:
        texts = "".join(_reply(reply, len(replies) > 1) for reply in replies)
        opened = " open" if item["state"] == "failed" else ""
        parts.append(f"<details{opened}><summary>the judge's reasons</summary>{texts}</details>")
    if metrics := item.get("metrics"):
        listed = "".join(
            f"<li>{html.escape(name)} {with_decimals(name, number, '.4g')}</li>" for name, number in metrics.items()
        )
        laid = f'<p class="dim">{html.escape(item["laid"])}</p>' if item.get("laid") else ""
        parts.append(f'<details><summary>metrics</summary><ul class="marks">{listed}</ul>{laid}</details>')
    return "".join(parts)


def _reply(reply: ReplyRow, several: bool) -> str:
    text = str(reply.get("text") or "")
    text = text if len(text) <= REPLY else text[:REPLY] + " […]"
    which = (
        f'<div class="dim">pass {reply.get("turn", 0) + 1}, question {reply.get("part", 0) + 1}</div>'
        if several
        else ""
    )
    fault = f'<p class="bad">{html.escape(str(reply["fault"]))}</p>' if reply.get("fault") else ""
    return f"{which}<pre>{html.escape(text)}</pre>{fault}"


def _state(state: str) -> str:
    return "" if state == "scored" else f'<span class="state bad">{html.escape(state)}</span>'


def _options(values: Iterable[str]) -> str:
    return "".join(
        f'<option value="{html.escape(value)}">{html.escape(value) or "none"}</option>' for value in sorted(values)
    )


def _faults(faults: Sequence[FaultRow]) -> str:
    if not faults:
        return ""
    listed = "".join(
        f"<li><b>{html.escape(str(f['where']))}</b>: {html.escape(str(f['reason']))}</li>" for f in faults[:500]
    )
    count = how_many(len(faults), "fault")
    return f"<details><summary>{count} of files and items</summary><ul>{listed}</ul></details>"


# --- what people and other results say


def votes_part(results: Results, folder: Path) -> str:
    """The ranks by people's votes, if there are any beside the results."""
    from opensama.evaluation.votes import VOTE_FILE, tally_votes

    if not (folder / VOTE_FILE).is_file():
        return ""
    return f'<h2>People\'s votes</h2><pre class="wide">{html.escape(tally_votes(results, folder).lines())}</pre>'


def difference_part(found: Difference | None) -> str:
    """What changed against other results."""
    if found is None:
        return ""
    body = ""
    for c in found.changes:
        look = ("good" if c.difference > 0 else "bad") if c.sure else "dim"
        interval = f"{c.low:+.3f} to {c.high:+.3f}" if c.n > 1 else "-"
        moved = "; ".join(f"{name} {before:.3g} → {after:.3g}" for name, before, after in c.moved)
        texts = c.score, str(c.n), f"{c.before:.3f}", f"{c.after:.3f}"
        body += (
            f'<tr><th scope="row">{html.escape(f"{c.system}, {c.group}")}</th>'
            f"{''.join(f'<td>{html.escape(text)}</td>' for text in texts)}"
            f'<td class="{look}">{c.difference:+.3f}</td><td>{interval}</td>'
            f'<td class="moved">{html.escape(moved)}</td></tr>'
        )
    names = ("", "score", "n", "before", "now", "change", "95 %", "most in")
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    notes = "".join(f'<p class="bad">Not the same: {html.escape(note)}</p>' for note in found.notes)
    states = "".join(f"<li>{html.escape(f'{s}: {item} was {a}, is {b}')}</li>" for s, item, a, b in found.states[:200])
    return (
        "<h2>What has changed <small>item by item, over those that both have; in colour where it is sure, green is up"
        f'</small></h2>{notes}<div class="wide" tabindex="0" role="region" aria-label="Changes"><table><thead><tr>'
        f"{head}</tr></thead><tbody>{body}</tbody></table></div><ul>{states}</ul>"
    )
