"""Scores of a pair of clips: the questions of `rubrics.py`, asked of a vision-language model in turns and averaged.

In a record, scores begin with `SCORE_PREFIX`, and the notes with the model's reasons with `REASON_PREFIX`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from opensama.curation import rubrics
from opensama.curation.settings import FilterSettings
from opensama.data.manifest import Record
from opensama.media.frames import frames_for
from opensama.values import UserError, Video
from opensama.vlm import Vlm, ask_twice

if TYPE_CHECKING:
    import numpy as np

SCORE_PREFIX = "vlm_"
REASON_PREFIX = "judge_on_"
_RETRY_TURN = 1000  # added to the turn of a question that is asked again because its answer could not be read

Thresholds = Mapping[str, Mapping[str, float]]
"""For "image" and "video": score and least average."""


def score_pair(
    vlm: Vlm,
    media: str,
    instruction: str,
    source: tuple[np.ndarray, ...],
    edited: tuple[np.ndarray, ...],
    *,
    turns: int = FilterSettings.turns,
    temperature: float = FilterSettings.temperature,
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
        read = partial(rubrics.marks, rubric)
        answers = [ask_twice(vlm, asked(turn=turn), read, later=_RETRY_TURN) for turn in range(turns)]
        scores |= rubrics.mean_marks([marks for marks, _ in answers])
        reasons[rubric.name] = answers[0][1]
        if thresholds is not None and any(scores[name] < thresholds.get(name, 0) for name in rubric.scores):
            break
    return scores, reasons


def pair_frames(
    record: Record, folder: Path, number: int, side: int
) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Up to `number` frames of source and of target at the same times, over the stretch that both have.

    Paths begin at `folder`; the longer side is at most `side`; uint8 `h w 3`. UserError for times behind a file's end.
    """
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


def misses(record: Record, thresholds: Thresholds) -> list[str]:
    """The scores of a scored record that do not reach their threshold."""
    scores = {
        name.removeprefix(SCORE_PREFIX): value for name, value in record.scores.items() if name.startswith(SCORE_PREFIX)
    }
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


def order_by_lot(record: Record) -> str:
    """A key that puts records in an order by chance, which depends on nothing but their names."""
    return hashlib.sha256(record.id.encode()).hexdigest()


def mean_score(record: Record) -> float:
    """The mean of a record's scores, from 1 to 10; 0 where it has none."""
    found = [value for name, value in record.scores.items() if name.startswith(SCORE_PREFIX)]
    return math.fsum(found) / len(found) if found else 0.0
