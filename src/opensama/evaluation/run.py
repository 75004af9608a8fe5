"""A benchmark from end to end: edits are made or found, judged and measured, and written down as they come.

    judge = open_vlm(url, model, cache=out / "answers")
    report = evaluate_benchmark("vie", data, out, [System("ours", edits=folder)], judge=judge, passes=3)
    print(report.table())                       # and out / "results.json"

Everything that is finished is a line of `ledger.jsonl` and every reply is kept: the same call goes on after a kill and
asks nobody twice. What is wrong with single items and files is counted and listed, never the end of the run.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opensama.evaluation.aggregation import Line, State, mean, no_overall, summarise
from opensama.evaluation.items import Fault, Item, find_benchmark, find_clips, find_edits, read_benchmark
from opensama.evaluation.judge import Judged, Recorded, is_verdict, judge_item
from opensama.evaluation.ledger import Ledger
from opensama.evaluation.metric_files import read_metric_file
from opensama.evaluation.protocols import Protocol, find_protocol
from opensama.evaluation.table import table
from opensama.evaluation.world import AnswerKeys, Through
from opensama.media.video_io import read_video, write_video
from opensama.media.video_io.writing import rehearse
from opensama.runtime import whole_file
from opensama.values import EditRequest, Progress, UserError, Video
from opensama.vlm import Vlm, VlmQuota


@dataclass(frozen=True)
class System:
    """Who edited: a folder of edits, or something that edits; beside it what networks of others said of the edits."""

    name: str
    edits: Path | None = None
    edit: Callable[[EditRequest], Video] | None = None
    metric_file: Path | None = None
    identity: str = ""
    """Of what edits: where it differs from the last run's, the edits are made anew."""
    through: Through | None = None
    """Its autoencoder there and back, for the world's answer key."""


@dataclass(frozen=True)
class Benchmarked:
    """What came out: `results` as in results.json; where the run ended early, why (`stopped`)."""

    results: dict[str, Any]
    stopped: str = ""

    @property
    def left(self) -> int:
        return sum(item["state"] == "left" for system in self.results["systems"] for item in system["items"])

    def table(self) -> str:
        return table(self.results)


@dataclass
class _Work:
    """One item of one system, on its way."""

    item: Item
    edited: Path | None
    faults: list[str] = field(default_factory=list)
    judged: Judged | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    controls: dict[str, dict[str, float]] = field(default_factory=dict)
    extra: dict[str, float] = field(default_factory=dict)
    seconds: float | None = None
    laid: str = ""
    """How source and edit were laid on each other to be measured."""
    left: bool = False


def evaluate_benchmark(
    name: str,
    data: Path,
    out: Path,
    systems: Sequence[System],
    *,
    judge: Vlm | Recorded | None = None,
    protocol: Protocol | None = None,
    passes: int = 1,
    metrics: Sequence[str] = (),
    tasks: Sequence[str] = (),
    limit: int | None = None,
    seed: int = 0,
    workers: int = 1,
    progress: Callable[[Progress], None] | None = None,
) -> Benchmarked:
    """Scores systems on a benchmark and writes `out/results.json`. `metrics` names what is measured without a judge,
    with controls beside; `limit` takes the first items of each task; `workers` judge at once."""
    protocol = protocol or find_protocol(name, name)
    items, faults = asked_of(name, data, protocol, passes=passes, tasks=tasks, limit=limit, workers=workers)
    if len({system.name for system in systems}) != len(systems) or not systems:
        raise UserError("Name at least one system, and each once: folders of edits are called as they are named.")
    chosen = {item.id for item in items}
    for system in systems:  # what a person must mend is said before anybody is asked
        if system.edits is not None:
            find_edits(name, [], system.edits)
        if system.metric_file is not None:
            read_metric_file(name, system.metric_file, items)
    done: list[dict[str, Any]] = []
    stopped = ""
    with Ledger(out) as ledger:
        for system in systems:
            exact = None
            if protocol.name == "world":
                exact = AnswerKeys(system.through) if system.through else AnswerKeys()
            works, own = _edits(name, system, items, out, seed, progress, ledger, exact)
            run = _Run(ledger, system, protocol, exact or judge, passes, tuple(metrics))
            stopped = run.all(works, workers, progress, stopped)
            judging = run.judge is not None or system.metric_file is not None
            done.append(_system(system, works, own, protocol, out, judging))
    results: dict[str, Any] = {
        "benchmark": name,
        "title": find_benchmark(name).title,
        "protocol": protocol.name,
        "style_of": protocol.style_of,
        "sampler": protocol.sampler.says,
        "rubrics": sorted({protocol.digest(item) for item in items}),
        "policy": protocol.policy,
        "judge": run.judge.name if run.judge is not None else None,
        "passes": passes,
        "date": time.strftime("%Y-%m-%d"),
        "faults": [fault._asdict() for fault in faults if fault.where in chosen or not (tasks or limit)],
        "systems": done,
    }
    with whole_file(out / "results.json") as part:
        part.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8", errors="replace")
    return Benchmarked(results, stopped)


def asked_of(
    name: str,
    data: Path,
    protocol: Protocol,
    *,
    passes: int = 1,
    tasks: Sequence[str] = (),
    limit: int | None = None,
    workers: int = 1,
) -> tuple[list[Item], list[Fault]]:
    """The items that a run is about, and what is wrong in the benchmark. UserError for what a person must mend: worth
    asking before a model is loaded."""
    if passes < 1 or workers < 1:
        raise UserError(f"There must be at least one pass and one worker, not {passes} and {workers}.")
    items, faults = read_benchmark(name, data)
    items = _chosen(items, tasks, limit)
    protocol.rubrics(items[0])  # a person's that do not fit
    return items, faults


def _chosen(items: list[Item], tasks: Sequence[str], limit: int | None) -> list[Item]:
    known = {item.task for item in items}
    if unknown := [task for task in tasks if task not in known]:
        raise UserError(f"There is no task {unknown[0]!r} in it: choose among {', '.join(sorted(known))}.")
    if limit is not None and limit < 1:
        raise UserError(f"The limit must be at least 1, not {limit}.")
    seen: dict[str, int] = {}
    found = []
    for item in items:
        seen[item.task] = seen.get(item.task, 0) + 1
        if (not tasks or item.task in tasks) and (limit is None or seen[item.task] <= limit):
            found.append(item)
    return found


# --- the edits


def _edits(
    name: str,
    system: System,
    items: Sequence[Item],
    out: Path,
    seed: int,
    progress: Callable[[Progress], None] | None,
    ledger: Ledger,
    exact: AnswerKeys | None,
) -> tuple[list[_Work], list[Fault]]:
    """Each item with its edit, made where the system makes them."""
    extra, faults = read_metric_file(name, system.metric_file, items) if system.metric_file else ({}, [])
    if system.edits is None and system.edit is None:
        return [_Work(item, None, [], extra=extra.get(item.id, {})) for item in items], faults
    if system.edits is not None:
        if name == "clips" and (own := find_clips(items, system.edits, system.name)):
            return [_Work(item, own[item.id]) for item in items if item.id in own], faults
        found, more = find_edits(name, items, system.edits)
        return [_Work(item, found.get(item.id), extra=extra.get(item.id, {})) for item in items], faults + more
    folder = out / "edited" / system.name
    folder.mkdir(parents=True, exist_ok=True)
    works = []
    begin = time.monotonic()
    for number, item in enumerate(items):
        work = _Work(item, None, extra=extra.get(item.id, {}))
        works.append(work)
        if item.source is not None:
            path = folder / f"{item.id}.mp4"
            try:
                made = _made(ledger, system, item, path, seed, exact)
                work.edited, work.seconds = path, made["seconds"]
                work.judged = Judged(**made["judged"]) if "judged" in made else None
            except UserError as error:
                work.faults.append(f"could not be edited: {error}")
        if progress:
            progress(Progress(f"Editing ({system.name})", number + 1, len(items), time.monotonic() - begin))
    return works, faults


def _made(
    ledger: Ledger, system: System, item: Item, path: Path, seed: int, exact: AnswerKeys | None
) -> dict[str, Any]:
    """Edits an item, unless the file is there that was made of the same; how long it took, and its exact marks."""
    assert system.edit is not None
    assert item.source is not None
    asked = [system.name, system.identity, item.id, item.instruction, _stat(item.source), seed, exact is not None]

    def noted(value: dict[str, Any] | None) -> dict[str, Any] | None:
        found = ledger.once(_key("made", asked, _stat(path)), lambda: value, keep=lambda v: v is not None)
        return None if found is None else dict(found)

    if path.exists() and (known := noted(None)):
        return known
    if exact is not None:
        made = exact.made(system.edit, item, path, seed, time.monotonic)
    else:
        began = time.monotonic()
        rehearse(read_video(item.source), path, overwrite=True)  # before minutes of editing
        request = EditRequest(item.source, item.instruction, seed=seed)
        write_video(system.edit(request), path, overwrite=True, on_note=lambda note: None)
        made = {"seconds": time.monotonic() - began}
    noted(made)
    return made


def _stat(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


# --- judging and measuring


@dataclass(frozen=True)
class _Run:
    ledger: Ledger
    system: System
    protocol: Protocol
    judge: Vlm | Recorded | AnswerKeys | None
    passes: int
    metrics: tuple[str, ...]

    def all(
        self, works: Sequence[_Work], workers: int, progress: Callable[[Progress], None] | None, stopped: str
    ) -> str:
        """Fills in the works. Comes back with why it stopped, if it did; then the works that are left say so."""
        begin = time.monotonic()
        with ThreadPoolExecutor(workers) as pool:
            try:
                futures = {pool.submit(self._one, work, bool(stopped)): work for work in works}
                for number, future in enumerate(as_completed(futures), 1):
                    if future.cancelled():
                        continue
                    try:
                        future.result()
                    except VlmQuota as error:
                        futures[future].left = True
                        if not stopped:
                            stopped = str(error)
                            for other in futures:
                                if other.cancel():
                                    futures[other].left = True
                    if progress:
                        done = Progress(f"Scoring ({self.system.name})", number, len(works), time.monotonic() - begin)
                        progress(done)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return stopped

    def _one(self, work: _Work, stopped: bool) -> None:
        if work.edited is None or work.item.source is None:
            return
        item, edited, source = work.item, work.edited, work.item.source
        files = [_stat(path) for path in (source, edited)]
        work.faults += self.ledger.once(_key("look", self.system.name, item.id, files), lambda: look(source, edited))
        if self.metrics:
            found = self.ledger.once(
                _key("measured", self.system.name, item.id, files, self.metrics), lambda: self._measured(source, edited)
            )
            work.metrics, work.controls, work.laid, failure = found
            work.faults += [failure] if failure else []
        if self.judge is None or work.judged is not None:
            return
        judge, protocol = self.judge, self.protocol
        if stopped:
            work.left = True
            return
        asked = [item.instruction, item.notes.get("reference_image"), protocol.digest(item)]
        key = _key("judge", self.system.name, item.id, files, asked, judge.name, self.passes)
        value = self.ledger.once(
            key,
            lambda: self._judged(judge, item, edited).to_dict(),
            keep=is_verdict,
        )
        work.judged = Judged(**value)
        work.left = work.judged.again

    def _judged(self, judge: Vlm | Recorded | AnswerKeys, item: Item, edited: Path) -> Judged:
        if isinstance(judge, AnswerKeys):
            return judge.judge_file(item, edited)
        return judge_item(judge, self.protocol, item, edited, self.passes, system=self.system.name)

    def _measured(self, source: Path, edited: Path) -> tuple[dict[str, float], dict[str, dict[str, float]], str, str]:
        from opensama.evaluation.metrics import compare

        try:
            found = compare(read_video(source), read_video(edited), self.metrics)
        except (UserError, OSError) as error:
            return {}, {}, "", f"could not be measured: {' '.join(str(error).split())}"
        return found.values, found.controls, found.alignment.describe(), ""


def look(source: Path, edited: Path) -> list[str]:
    """What strikes the eye about an edit's file: that it cannot be read, or has another length or size."""
    try:
        before = read_video(source)
    except (UserError, OSError) as error:
        return [f"its source cannot be read: {' '.join(str(error).split())}"]
    try:
        after = read_video(edited)
    except (UserError, OSError) as error:
        return [f"cannot be read: {' '.join(str(error).split())}"]
    found = []
    if before.frame_count != after.frame_count:
        found.append(f"has {after.frame_count} frames, its source {before.frame_count}")
    if (before.width, before.height) != (after.width, after.height):
        found.append(f"is {after.width}x{after.height}, its source {before.width}x{before.height}")
    if abs(before.duration - after.duration) > before.duration / 20:
        found.append(f"lasts {float(after.duration):.2f} s, its source {float(before.duration):.2f} s")
    return found


def _key(*parts: Any) -> str:
    return f"{parts[0]}:{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]}"


# --- what is written down


def _system(
    system: System, works: Sequence[_Work], faults: Sequence[Fault], protocol: Protocol, out: Path, judging: bool
) -> dict[str, Any]:
    rows = []
    scored: list[Line] = []
    measured: list[Line] = []
    for work in works:
        if work.judged is not None:
            work.metrics = dict(work.judged.metrics) | work.metrics
            names = dict.fromkeys([*work.judged.controls, *work.controls])
            work.controls = {n: work.judged.controls.get(n, {}) | work.controls.get(n, {}) for n in names}
        row = _row(work, out, judging)
        rows.append(row)
        group = protocol.group(work.item)
        state: State = row["state"] if row["state"] in ("scored", "failed") else "missing"
        scored.append(Line(group, state, row["scores"] or {}))
        measured.append(Line(group, "scored" if work.metrics else "missing", work.metrics))
    summary: dict[str, Any] = {}
    if judging:
        zeros = protocol.zeros if protocol.failure == "zero" else ()
        summary = summarise(scored, protocol.overall, zeros, protocol.aside, protocol.shares) | {
            "policy": protocol.policy,
            "headline": protocol.headline,
            "aside": list(protocol.aside),
        }
        if noise := [work.judged.spread for work in works if work.judged and work.judged.spread]:
            names = dict.fromkeys(name for spread in noise for name in spread)
            summary["judge_deviation"] = {
                name: mean([spread[name] ** 2 for spread in noise if name in spread]) ** 0.5 for name in names
            }
    if any(work.controls for work in works):
        whole = [Line("all", line.state, line.scores) for line in measured]
        summary["metrics"] = summarise(whole, no_overall) | {"by_group": summarise(measured, no_overall)["groups"]}
        named = dict.fromkeys(name for work in works for name in work.controls)
        summary["controls"] = {
            name: summarise(
                [Line(name, "scored", work.controls[name]) for work in works if name in work.controls], no_overall
            )["groups"][name]["scores"]
            for name in named
        }
    summary["left"] = sum(work.left for work in works)
    listed = [fault._asdict() for fault in faults]
    listed += [{"where": work.item.id, "reason": reason} for work in works for reason in work.faults]
    return {"name": system.name, "items": rows, "summary": summary, "faults": listed}


def _row(work: _Work, out: Path, judging: bool) -> dict[str, Any]:
    item, judged = work.item, work.judged
    scores = dict(work.extra) | (judged.scores or {} if judged else {})
    state: str
    failure: str | None
    if work.left:
        state, failure = "left", (judged.failure if judged else None) or "the run stopped before it"
    elif judged is not None:
        state, failure = judged.state, judged.failure
        if scores and judged.scores is None:
            state = "scored"
    elif scores:
        state, failure = "scored", None
    elif item.source is None:
        state, failure = "missing", "its source is not there"
    elif work.edited is None:
        state, failure = "missing", "; ".join(work.faults) or "has no edit"
    elif judging:
        state, failure = "missing", "nothing scored it"
    else:
        state = "scored" if work.controls else "missing"
        failure = None if work.controls else "; ".join(work.faults) or "nothing scored it"
    return {
        "id": item.id,
        "task": item.task,
        "instruction": item.instruction,
        "source": _from(out, item.source),
        "edited": _from(out, work.edited),
        "seconds": work.seconds,
        "state": state,
        "scores": scores or None,
        "spread": dict(judged.spread) if judged else {},
        "metrics": work.metrics,
        "controls": work.controls,
        "laid": work.laid,
        "replies": [reply if isinstance(reply, dict) else vars(reply) for reply in judged.replies] if judged else [],
        "failure": failure,
        "faults": list(work.faults),
    } | ({"details": judged.details} if judged and judged.details else {})


def _from(out: Path, path: Path | None) -> str | None:
    """As seen from the folder of results.json, so that both may move together."""
    return None if path is None else Path(os.path.relpath(path.absolute(), out.absolute())).as_posix()
