"""One edit's scores and what many of them say together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, TypedDict

import numpy as np
import torch

from opensama.evaluation.statistics import paired, wilson
from opensama.evaluation.world.answer_key import AnswerKey, Frames, PartCandidates, Through, Verdict, to_float
from opensama.world import EditSample, render_styled
from opensama.world.edit_samples import changed_mask


class PartScore(TypedDict):
    """One thing that an edit was to change: whether it came out, what it looked most like, and by how much."""

    family: str
    edited: str
    right: bool
    nearest: list[str]
    lead: float


@dataclass(frozen=True)
class ItemScore:
    """One edit's scores; see docs/evaluate.md for what they mean."""

    family: str
    instruction: str
    edited: str
    success: bool
    thirds: tuple[bool, ...]
    parts: tuple[PartScore, ...]
    ratio: float
    kept: float
    seconds: float
    kept_full: float | None = None
    probes: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Self:
        """From a file."""
        return cls(**dict(said) | {"thirds": tuple(said["thirds"]), "parts": tuple(said["parts"])})


def answer_key(sample: EditSample, through: Through) -> AnswerKey:
    """Draws all candidates of an edit and passes them through the model's autoencoder."""
    parts = sample.plan.parts
    t, h, w = sample.source.shape[:3]
    questions = []
    if parts:
        drawn = render_styled([look for p in parts for look in (p.before, *(wrong for _, wrong in p.wrong))], t, h, w)
        for part in parts:
            own, drawn = drawn[: 1 + len(part.wrong)], drawn[1 + len(part.wrong) :]
            labels = tuple(label for label, _ in part.wrong)
            questions.append(PartCandidates(part.family, part.edited, own[0], labels, own[1:]))
    return AnswerKey(to_float(sample.source), to_float(sample.target), questions, through)


def score_output(
    sample: EditSample, output: Frames, key: AnswerKey, seconds: float = 0.0, kept_full: float | None = None
) -> ItemScore:
    """Scores `output` uint8 [t h w 3] for the edit `sample` by its answer key."""
    verdict = key.judge(output)
    ratio = squared_error(sample.source, sample.target, output)
    return item_score(sample.family, sample.instruction, sample.plan.edited, verdict, ratio, seconds, kept_full)


def item_score(
    family: str,
    instruction: str,
    edited: str,
    verdict: Verdict,
    ratio: float,
    seconds: float = 0.0,
    kept_full: float | None = None,
) -> ItemScore:
    parts = tuple(
        PartScore(family=p.family, edited=p.name, right=p.right, nearest=list(p.nearest), lead=p.lead)
        for p in verdict.parts
    )
    return ItemScore(
        family, instruction, edited, verdict.success, verdict.thirds, parts, ratio, verdict.still, seconds, kept_full,
        verdict.probes,
    )  # fmt: skip


def squared_error(source: Frames, answer: Frames, output: Frames) -> float:
    """mean (o - a)^2 / mean (s - a)^2 where the answer differs from the source; 1 for a copy, or where nothing does."""
    s, a, o = (to_float(x) for x in (source, answer, output))
    region = changed_mask(s, a)
    if not region.any():
        return 1.0
    wrong, own = ((x - a).square() * region for x in (o, s))
    return float(wrong.sum() / torch.clamp(own.sum(), min=1e-9))


class ChangeOverTime(TypedDict):
    """The last third's share of successes without the first's, and its 95 % interval."""

    mean: float
    interval: list[float]


class GroupScores(TypedDict):
    """Means of a group of scores; None where no edit of it has one."""

    n: int
    success: float
    success_interval: list[float]
    parts: float | None
    ratio: float
    ratio_median: float
    kept_db: float | None
    kept_full_db: float | None
    seconds: float
    last_minus_first: ChangeOverTime
    taken_for: dict[str, int]
    probes: dict[str, float]


def summarise_scores(rows: Sequence[ItemScore]) -> GroupScores:
    """Means of a group of scores."""
    n = len(rows)
    right = sum(r.success for r in rows)
    kept = [r.kept for r in rows if r.kept < 99]  # a style changes everything: nothing is left to be kept
    full = [r.kept_full for r in rows if r.kept_full is not None]
    parts = [p["right"] for r in rows for p in r.parts]
    first, last = ([r.thirds[i] for r in rows] for i in (0, -1))
    change, low, high = paired(first, last)
    names = sorted({name for r in rows for name in r.probes})
    return {
        "n": n,
        "success": right / n,
        "success_interval": list(wilson(right, n)),
        "parts": float(np.mean(parts)) if parts else None,
        "ratio": float(np.mean([min(r.ratio, 10.0) for r in rows])),
        "ratio_median": float(np.median([r.ratio for r in rows])),
        "kept_db": float(np.mean(kept)) if kept else None,
        "kept_full_db": float(np.mean(full)) if full else None,
        "seconds": float(np.mean([r.seconds for r in rows])),
        "last_minus_first": {"mean": change, "interval": [low, high]},
        "taken_for": taken_for(rows),
        "probes": {name: float(np.median([r.probes[name] for r in rows if name in r.probes])) for name in names},
    }


def taken_for(rows: Sequence[ItemScore]) -> dict[str, int]:
    """What wrong outputs were nearest to, most frequent first: how many parts, in any third."""
    found: dict[str, int] = {}
    for part in (p for r in rows for p in r.parts):
        for label in set(part["nearest"]) - {"right"}:
            found[label] = found.get(label, 0) + 1
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))
