"""A benchmark from end to end: edits are made or found, judged and measured, and written down as they come.

    data = read_benchmark("vie", folder)
    judge = VlmJudge(open_vlm(url, model, cache=out / "answers"), data.benchmark.protocol(), passes=3)
    report = evaluate_benchmark(data, [System("ours", edits=edits)], out, judge=judge)
    print(report.table())                       # and out / "results.json"

Everything that is finished is a line of `ledger.jsonl` and every reply is kept: the same call goes on after a kill and
asks nobody twice. What is wrong with single items and files is counted and listed, never the end of the run.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from opensama.evaluation.benchmarks.benchmark import Benchmark, BenchmarkData, MadeEdit, System
from opensama.evaluation.items import BenchmarkItem, Fault
from opensama.evaluation.judge import Judge, Judged
from opensama.evaluation.metric_files import read_metric_file
from opensama.evaluation.results import FaultRow, Results, Scores, SystemResult
from opensama.evaluation.run_journal import RunJournal
from opensama.evaluation.system_results import ItemWork, system_result
from opensama.evaluation.table import results_table
from opensama.media.video_io import read_video
from opensama.runtime import whole_file
from opensama.values import Progress, UserError, counted
from opensama.vlm import VlmQuota

OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class Benchmarked:
    """What came out: `results` as in results.json; where the run ended early, why (`stopped`)."""

    results: Results
    benchmark: Benchmark
    stopped: str = ""

    @property
    def left(self) -> int:
        return sum(item["state"] == "left" for system in self.results["systems"] for item in system["items"])

    def table(self) -> str:
        return results_table(self.results, self.benchmark)


def evaluate_benchmark(
    data: BenchmarkData,
    systems: Sequence[System],
    out: Path,
    *,
    judge: Judge | None = None,
    metrics: Sequence[str] = (),
    seed: int = 0,
    workers: int = 1,
    progress: OnProgress = lambda progress: None,
) -> Benchmarked:
    """Scores systems on a benchmark and writes `out/results.json`. `metrics` names what is measured without a judge,
    with controls beside; `workers` judge at once. A benchmark that knows its answers judges itself."""
    if workers < 1:
        raise UserError(f"There must be at least one worker, not {workers}.")
    if len({system.name for system in systems}) != len(systems) or not systems:
        raise UserError("Name at least one system, and each once: folders of edits are called as they are named.")
    for system in systems:  # what a person must mend is said before anybody is asked
        if system.edits is not None:
            data.benchmark.find_edits([], system.edits, system.name)
        if system.metric_file is not None:
            read_metric_file(system.metric_file, data)
    done: list[SystemResult] = []
    stopped = ""
    with RunJournal(out) as journal:
        for system in systems:
            used = data.benchmark.judge(system, judge)
            run = _SystemRun(journal, data, system, used, tuple(metrics), seed, progress)
            works, faults = run.edits(out / "edited" / system.name)
            stopped = run.score(works, workers, stopped)
            done.append(system_result(system, works, faults, data.benchmark, used, out))
    method = used.method if used is not None else None
    results: Results = {
        "benchmark": data.benchmark.name,
        "title": data.benchmark.title,
        "protocol": method.protocol if method is not None else None,
        "style_of": method.style_of if method is not None else None,
        "sampler": method.frames if method is not None else None,
        "rubrics": sorted({used.digest(item) for item in data.items}) if used is not None else [],
        "policy": method.policy if method is not None else None,
        "judge": used.name if used is not None else None,
        "passes": method.passes if method is not None else 1,
        "date": time.strftime("%Y-%m-%d"),
        "faults": [FaultRow(where=fault.where, reason=fault.reason) for fault in data.faults],
        "systems": done,
    }
    with whole_file(out / "results.json") as part:
        part.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8", errors="replace")
    return Benchmarked(results, data.benchmark, stopped)


@dataclass(frozen=True)
class _Measured:
    """Metrics of an edit and of the controls, how it was laid on its source, or why it could not be measured."""

    values: Scores = field(default_factory=dict)
    controls: dict[str, Scores] = field(default_factory=dict)
    laid: str = ""
    failure: str = ""


@dataclass(frozen=True)
class _SystemRun:
    """One system on its way through a benchmark."""

    journal: RunJournal
    data: BenchmarkData
    system: System
    judge: Judge | None
    metrics: tuple[str, ...]
    seed: int
    progress: OnProgress

    def edits(self, folder: Path) -> tuple[list[ItemWork], list[Fault]]:
        """Each item with its edit, found, or made and written into the folder."""
        system, items = self.system, self.data.items
        extra: dict[str, Scores] = {}
        faults: list[Fault] = []
        if system.metric_file is not None:
            extra, faults = read_metric_file(system.metric_file, self.data)
        if system.edits is not None:
            found, more = self.data.benchmark.find_edits(items, system.edits, system.name)
            works = [ItemWork(item, found[item.id], extra.get(item.id, {})) for item in items if item.id in found]
            return works, faults + more
        works = [ItemWork(item, None, extra.get(item.id, {})) for item in items]
        if system.edit is not None:
            folder.mkdir(parents=True, exist_ok=True)
            for work in counted(works, f"Editing ({system.name})", self.progress):
                self._make(work, folder / f"{work.item.id}.mp4")
        return works, faults

    def _make(self, work: ItemWork, path: Path) -> None:
        """Lets the system edit an item, unless the file is there that was made of the same."""
        item, system = work.item, self.system
        source = item.source
        if source is None:
            return
        asked = [self.data.benchmark.name, system.name, system.identity, item.id, item.instruction, self.seed]

        def key() -> str:
            return _key("made", asked, _stat(source), _stat(path))

        made = self.journal.find(key(), MadeEdit) if path.exists() else None
        try:
            if made is None:
                made = self.data.benchmark.make_edit(system, item, path, self.seed)
                self.journal.keep(key(), made)
            work.edited, work.seconds, work.judged = path, made.seconds, made.judged
        except UserError as error:
            work.faults.append(f"could not be edited: {error}")

    def score(self, works: Sequence[ItemWork], workers: int, stopped: str) -> str:
        """Fills in the works. Comes back with why it stopped, if it did; then the works that are left say so."""
        begin = time.monotonic()
        with ThreadPoolExecutor(workers) as pool:
            try:
                futures = {pool.submit(self._score, work, bool(stopped)): work for work in works}
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
                    passed = time.monotonic() - begin
                    self.progress(Progress(f"Scoring ({self.system.name})", number, len(works), passed))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return stopped

    def _score(self, work: ItemWork, stopped: bool) -> None:
        if work.edited is None or work.item.source is None:
            return
        item, edited, source = work.item, work.edited, work.item.source
        files: list[object] = [self.system.name, item.id, _stat(source), _stat(edited)]
        work.faults += self.journal.once(_key("look", files), list[str], lambda: file_faults(source, edited))
        if self.metrics:
            key = _key("measured", files, self.metrics)
            found = self.journal.once(key, _Measured, lambda: self._measured(source, edited))
            work.metrics, work.controls, work.laid = found.values, found.controls, found.laid
            work.faults += [found.failure] if found.failure else []
        if self.judge is None or work.judged is not None:
            return
        if stopped:
            work.left = True
            return
        work.judged = self._judged(self.judge, item, edited, files)
        work.left = work.judged.again

    def _judged(self, judge: Judge, item: BenchmarkItem, edited: Path, files: list[object]) -> Judged:
        asked = [item.instruction, item.notes.get("reference_image"), judge.digest(item)]
        return self.journal.once(
            _key("judge", files, asked, judge.name),
            Judged,
            lambda: judge.judge(item, edited, self.system.name),
            keep=lambda judged: not judged.again,
        )

    def _measured(self, source: Path, edited: Path) -> _Measured:
        from opensama.evaluation.metrics import measure_with_controls

        try:
            found = measure_with_controls(read_video(source), read_video(edited), self.metrics)
        except (UserError, OSError) as error:
            return _Measured(failure=f"could not be measured: {' '.join(str(error).split())}")
        return _Measured(found.values, found.controls, found.alignment.describe())


def file_faults(source: Path, edited: Path) -> list[str]:
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


def _stat(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _key(*parts: object) -> str:
    return f"{parts[0]}:{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]}"
