"""What edits and the service's jobs write down as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NotRequired, TypedDict


class PartFigures(TypedDict):
    """What one of the edits of a split instruction changed: None in one pass."""

    instruction: str
    changed: float | None
    box: NotRequired[list[int]]
    mask: NotRequired[str]


class ResultFigures(TypedDict, total=False):
    """Of an edit that was made and written; `enhanced` and `edits` where its instruction was rewritten or split."""

    enhanced: str
    edits: list[PartFigures]
    unknown_words: list[str]
    changed: float
    frames: int
    seconds: float


class OutputFigures(ResultFigures):
    """Of an output of a job; an upload that is kept as it came has no share that was kept."""

    seed: int
    file: str
    kept: NotRequired[float]
    kept_db: NotRequired[float]


class JobResult(TypedDict):
    outputs: list[OutputFigures]
    notes: list[str]


class SubEditAsked(TypedDict):
    instruction: str
    box: Sequence[int] | None


class JobAsked(TypedDict):
    """What a job is to make, as `StoredWish` reads it; files by their names in the job's folder."""

    prompt: str
    n: int
    anyway: bool
    notes: list[str]
    source: str
    settings: dict[str, Any]
    """The fields of `EditSettings`."""
    edits: NotRequired[list[SubEditAsked]]
    webhook: NotRequired[str]


class MediaFigures(TypedDict):
    """What was found in a source."""

    width: int
    height: int
    frames: int
    fps: float
    seconds: float
    notes: list[str]
