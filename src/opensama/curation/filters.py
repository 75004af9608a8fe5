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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from opensama.curation import rubrics
from opensama.curation.graph import Drop, Item, Stage, run_graph
from opensama.data.manifest import Record, iter_records, read_manifest_table, write_manifest
from opensama.values import Progress, UserError, Video
from opensama.vlm import BadAnswer, Question, Vlm, ask, check_connection, frames_for

if TYPE_CHECKING:
    import numpy as np

    from opensama.curation.filter_report import FilterReport

TURNS, FRAMES, SIDE = 3, 8, 448
TEMPERATURE = 0.7  # ours: the paper names none, and turns at 0 would all be the same
WORKERS = 8  # questions under way at once to a server
PREFIX = "vlm_"  # of these scores in a record
SAID = "judge_on_"  # of the notes in which the model gives its reasons
AGAIN = 1000  # added to the turn of a question that is asked again because its answer could not be read


def filter_manifest(
    manifest: Path,
    out: Path,
    vlm: Callable[[], Vlm],
    *,
    thresholds: Mapping[str, Mapping[str, float]] = rubrics.THRESHOLDS,
    turns: int = TURNS,
    frames: int = FRAMES,
    side: int = SIDE,
    temperature: float = TEMPERATURE,
    thrifty: bool = False,
    limit: int | None = None,
    runner: Literal["local", "ray"] = "local",
    workers: int | None = None,
    gpus: float = 0,
    progress: Callable[[Progress], None] | None = None,
) -> FilterReport:
    """Scores the pairs of a manifest and keeps the good ones; see above for the files.

    `vlm` makes the model: once here, on Ray once a worker (then it is a `partial` of `open_vlm`). `frames` of each clip
    are shown, the longer side at most `side` pixels. `thrifty` asks no further once a score has missed its threshold.
    `limit` takes the first so many rows. UserError where the model cannot be asked at all. Where the budget or the
    quota is spent the files say what is done, and `FilterReport.stopped` why.
    """
    from opensama.curation.filter_report import write_report

    _check(turns, frames, side, temperature, limit)
    records = iter_records(manifest)
    first = next(records, None)
    if first is None:
        raise UserError(f"The manifest {manifest} has no rows: choose one with pairs.")
    model = vlm()
    check_connection(model)
    scoring = out / "scoring"
    scoring.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {
        "model": model.name,
        "rubric": rubrics.version(),
        "turns": turns,
        "frames": frames,
        "side": side,
        "temperature": temperature,
    }
    if thrifty:
        settings["thresholds"] = {media: dict(wanted) for media, wanted in thresholds.items()}
    here = str(scoring.resolve())
    setup = partial(_Judge, model, here) if runner == "local" else partial(_open_judge, vlm, here)
    stage = Stage("score", partial(score, **settings), setup=setup, cpus=0.25, gpus=gpus)
    items = (record.to_dict() for record in _moved(iter_records(manifest), manifest.parent, scoring))
    workers = workers or (WORKERS if runner == "local" else None)
    graph = run_graph([stage], islice(items, limit), scoring, runner=runner, workers=workers, progress=progress)
    scored = read_manifest_table(scoring / "manifest.parquet")
    meta = {"filtered_by": settings | {"thresholds": {media: dict(wanted) for media, wanted in thresholds.items()}}}
    write_manifest(out / "manifest.parquet", _split(scored, scoring, out, thresholds, True), meta)
    write_manifest(out / "refused.parquet", _split(scored, scoring, out, thresholds, False), meta)
    shutil.copyfile(scoring / "failed.jsonl", out / "failed.jsonl")
    return write_report(out, graph, settings, thresholds)


@dataclass(frozen=True)
class _Judge:
    """What a worker needs: whom to ask, and where the manifest's paths begin."""

    vlm: Vlm
    folder: str


def _open_judge(vlm: Callable[[], Vlm], folder: str) -> _Judge:
    return _Judge(vlm(), folder)


def score(
    judge: _Judge,
    item: Item,
    *,
    model: str,
    rubric: str,
    turns: int,
    frames: int,
    side: int,
    temperature: float,
    thresholds: Mapping[str, Mapping[str, float]] | None = None,
) -> Item:
    """One pair with its scores. A stage of the graph; `model` and `rubric` are there to tell results apart."""
    record = Record.from_dict(item)
    if record.kind != "pair":
        raise Drop("a clip, not a pair")
    if not record.instruction.strip():
        raise Drop("no instruction")
    source, edited = pair_frames(record, Path(judge.folder), frames, side)
    found, reasons = score_pair(
        judge.vlm,
        record.media,
        record.instruction,
        source,
        edited,
        turns=turns,
        temperature=temperature,
        thresholds=None if thresholds is None else thresholds[record.media],
    )
    notes = {"judge": model, "rubric": rubric} | {SAID + name: reason for name, reason in reasons.items()}
    scores = {PREFIX + name: value for name, value in found.items()}
    return item | {"scores": record.scores | scores, "notes": record.notes | notes}


def score_pair(
    vlm: Vlm,
    media: str,
    instruction: str,
    source: tuple[np.ndarray, ...],
    edited: tuple[np.ndarray, ...],
    *,
    turns: int = TURNS,
    temperature: float = TEMPERATURE,
    thresholds: Mapping[str, float] | None = None,
) -> tuple[dict[str, float], dict[str, str]]:
    """The average scores of a pair, and for each question what the model said in its first turn.

    With `thresholds`, questions stop at the first score that misses its own. VlmRefused, VlmFailed or BadAnswer
    (asked twice) where there is no verdict; VlmQuota where the run should end, also because nobody answers any more.
    """
    scores: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for rubric in rubrics.rubrics_for(media):
        asked = partial(rubrics.question, rubric, media, instruction, source, edited, temperature=temperature)
        answers = [_marks(vlm, rubric, asked, turn) for turn in range(turns)]
        scores |= rubrics.average([marks for marks, _ in answers])
        reasons[rubric.name] = answers[0][1]
        if thresholds is not None and any(scores[name] < thresholds.get(name, 0) for name in rubric.scores):
            break
    return scores, reasons


def _marks(vlm: Vlm, rubric: rubrics.Rubric, asked: Callable[..., Question], turn: int) -> tuple[dict[str, float], str]:
    try:
        return rubrics.marks(rubric, ask(vlm, asked(turn=turn)))
    except BadAnswer:
        return rubrics.marks(rubric, ask(vlm, asked(turn=turn + AGAIN)))


def pair_frames(
    record: Record, folder: Path, number: int, side: int
) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Frames of source and target at the same times, over the stretch that both have."""
    from opensama.media.video_io import read_video

    assert record.source is not None
    source, target = read_video(folder / record.source), read_video(folder / record.target)
    if record.media == "image":
        return frames_for(source, 1, side), frames_for(target, 1, side)
    starts = record.source_start or 0.0, record.target_start or 0.0
    lasts = _lasts(source, starts[0], record.source_end), _lasts(target, starts[1], record.target_end)
    both = min(lasts)
    if both <= 0:
        raise UserError(f"{record.id} begins behind the end of its file: mend its times.")
    return (
        frames_for(source, number, side, start=starts[0], end=starts[0] + both),
        frames_for(target, number, side, start=starts[1], end=starts[1] + both),
    )


def _lasts(video: Video, start: float, end: float | None) -> float:
    whole = float(video.duration)
    return (whole if end is None else min(end, whole)) - start


def _moved(records: Iterator[Record], old: Path, new: Path) -> Iterator[Record]:
    """The same files named from another folder."""
    old, new = old.resolve(), new.resolve()

    def path(name: str) -> str:
        return name if os.path.isabs(name) else os.path.relpath(old / name, new)

    return (record.with_paths(path) for record in records)


def _split(
    scored: Any, old: Path, new: Path, thresholds: Mapping[str, Mapping[str, float]], kept: bool
) -> Iterator[Record]:
    rows = _moved(iter(scored), old, new)
    return (record for record in rows if bool(misses(record, thresholds)) != kept)


def misses(record: Record, thresholds: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The scores of a scored record that do not reach their threshold."""
    scores = {name.removeprefix(PREFIX): value for name, value in record.scores.items() if name.startswith(PREFIX)}
    return rubrics.missed(scores, thresholds[record.media])


def thresholds_of(image: str | None = None, video: str | None = None) -> dict[str, dict[str, float]]:
    """Thresholds from `9,9,9` and `8,9,8,8`: instruction, quality, preservation and, of videos, motion."""
    out = {media: dict(wanted) for media, wanted in rubrics.THRESHOLDS.items()}
    for media, text in (("image", image), ("video", video)):
        if text is None:
            continue
        names = list(out[media])
        try:
            numbers = [float(part) for part in text.split(",")]
        except ValueError:
            numbers = []
        if len(numbers) != len(names) or not all(0 <= number <= rubrics.HIGHEST for number in numbers):
            raise UserError(
                f"The thresholds of {media}s are {len(names)} numbers from 0 to 10 ({', '.join(names)}), as in "
                f"{','.join(f'{value:g}' for value in out[media].values())}, not {text!r}."
            )
        out[media] = dict(zip(names, numbers, strict=True))
    return out


def _check(turns: int, frames: int, side: int, temperature: float, limit: int | None) -> None:
    for name, value, low, high in (
        ("number of turns", turns, 1, 100),
        ("number of frames", frames, 1, 256),
        ("side of a frame", side, 28, 4096),
        ("temperature", temperature, 0, 2),
        ("limit", 1 if limit is None else limit, 1, 10**9),
    ):
        if not low <= value <= high:
            raise UserError(f"The {name} must be from {low:,} to {high:,}, not {value:g}.")
