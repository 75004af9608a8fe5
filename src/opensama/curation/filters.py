"""The filter of SAMA's appendix B: a vision-language model scores every pair, the good ones are kept.

    report = filter_manifest(Path("ditto.parquet"), Path("good"), partial(open_vlm, url, cache=Path("good/answers")))

Each question of `rubrics.py` is asked in several turns and averaged. What comes out, in the folder `out`:

    manifest.parquet   the pairs that are kept, ready for `opensama train`
    refused.parquet    the pairs that are not, with their scores
    failed.jsonl       the pairs without scores and why: unreadable files, refused and unparsable answers
    report.html        histograms, kept share per dataset and task, pictures of kept and refused pairs
    report.json        the same numbers
    scoring/           what is done: a second call goes on, and other thresholds ask nothing anew
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

from opensama.curation import rubrics
from opensama.curation.filter_report import FilterReport, write_filter_report
from opensama.curation.graph import run_graph
from opensama.curation.scoring import REASON_PREFIX, SCORE_PREFIX, Thresholds, misses, pair_frames, score_pair
from opensama.curation.settings import FilterSettings
from opensama.curation.stage import Drop, GraphItem, GraphStage, StageState, make_state
from opensama.data.manifest import Record, iter_records, read_manifest_table, write_manifest
from opensama.values import Progress, UserError
from opensama.vlm import Vlm, check_connection

_WORKERS = 8  # questions under way at once to a server


def filter_manifest(
    manifest: Path,
    out: Path,
    vlm: Callable[[], Vlm],
    settings: FilterSettings | None = None,
    limit: int | None = None,
    *,
    thresholds: Thresholds = rubrics.THRESHOLDS,
    runner: Literal["local", "ray"] = "local",
    workers: int | None = None,
    gpus: float = 0,
    progress: Callable[[Progress], None] | None = None,
) -> FilterReport:
    """Scores the pairs of a manifest and keeps the good ones; see above for the files.

    `vlm` makes the model: once here, on Ray once a worker (then it is a `partial` of `open_vlm`). UserError where the
    model cannot be asked at all. Where the budget or the quota is spent the files say what is done, and
    `FilterReport.stopped` why.
    """
    settings = settings or FilterSettings()
    if limit is not None and limit < 1:
        raise UserError(f"The number of rows must be at least 1, not {limit}.")
    records = iter_records(manifest)
    first = next(records, None)
    if first is None:
        raise UserError(f"The manifest {manifest} has no rows: choose one with pairs.")
    model = vlm()
    check_connection(model)
    scoring = out / "scoring"
    scoring.mkdir(parents=True, exist_ok=True)
    wanted = {media: dict(least) for media, least in thresholds.items()}
    chosen = {"model": model.name, "rubric": rubrics.rubric_version()} | asdict(settings)
    thrifty = chosen.pop("thrifty")
    if thrifty:
        chosen["thresholds"] = wanted
    here = str(scoring.resolve())
    setup = partial(StageState, here, model) if runner == "local" else partial(make_state, here, vlm)
    stage = GraphStage("score", partial(score_item, **chosen), setup=setup, cpus=0.25, gpus=gpus)
    items = (record.to_dict() for record in _moved(iter_records(manifest), manifest.parent, scoring))
    workers = workers or (_WORKERS if runner == "local" else None)
    graph = run_graph([stage], islice(items, limit), scoring, runner=runner, workers=workers, progress=progress)
    scored = read_manifest_table(scoring / "manifest.parquet")
    meta = {"filtered_by": chosen | {"thresholds": wanted}}
    for name, kept in (("manifest", True), ("refused", False)):
        rows = _moved(scored, scoring, out)
        write_manifest(out / f"{name}.parquet", (row for row in rows if bool(misses(row, wanted)) != kept), meta)
    shutil.copyfile(scoring / "failed.jsonl", out / "failed.jsonl")
    return write_filter_report(out, graph, chosen, wanted)


def score_item(
    judge: StageState[Vlm],
    item: GraphItem,
    *,
    model: str,
    rubric: str,
    turns: int,
    frames: int,
    side: int,
    temperature: float,
    thresholds: Thresholds | None = None,
) -> GraphItem:
    """One pair with its scores. A stage of the graph; `model` and `rubric` are there to tell results apart."""
    record = Record.from_dict(item)
    if record.kind != "pair":
        raise Drop("a clip, not a pair")
    if not record.instruction.strip():
        raise Drop("no instruction")
    source, edited = pair_frames(record, Path(judge.folder), frames, side)
    found, reasons = score_pair(
        judge.model,
        record.media,
        record.instruction,
        source,
        edited,
        turns=turns,
        temperature=temperature,
        thresholds=None if thresholds is None else thresholds[record.media],
    )
    notes = {"judge": model, "rubric": rubric} | {REASON_PREFIX + name: reason for name, reason in reasons.items()}
    scores = {SCORE_PREFIX + name: value for name, value in found.items()}
    return item | {"scores": record.scores | scores, "notes": record.notes | notes}


def _moved(records: Iterable[Record], old: Path, new: Path) -> Iterator[Record]:
    """The same files named from another folder."""
    old, new = old.resolve(), new.resolve()

    def path(name: str) -> str:
        return name if os.path.isabs(name) else os.path.relpath(old / name, new)

    return (record.with_paths(path) for record in records)
