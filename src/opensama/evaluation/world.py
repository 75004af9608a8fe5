"""Scores an editor on the world, where every edit has an exact answer.

For one edit, with source s, answer a and output o, frames in 0..1, and the region where a differs from s:

    ratio      mean (o - a)^2 / mean (s - a)^2 in the changed region; copying the source scores 1
    success    ratio <= 1/4
    kept       PSNR of o against s outside the region (two pixels away from it), at model size
    kept_full  the same at twice the size with `preserve`, before encoding, on every fourth edit

Beside the model always stand two others: `copy` gives the source back (the floor), `reconstruction` passes the exact
answer through the model's autoencoder (the ceiling). Intervals are Wilson's at 95 %.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from opensama.values import EditRequest, Video
from opensama.world import FAMILIES, EditSample, sample_edit
from opensama.world.scenes import FPS

THRESHOLD = 0.25
CALM = 2  # pixels around the changed region that count for neither side

Frames = np.ndarray  # uint8 [t h w 3]


def wilson(right: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share of `right` out of `n`."""
    if n == 0:
        return 0.0, 1.0
    p = right / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def psnr(a: Frames, b: Frames, where: np.ndarray | None = None) -> float:
    """In dB, over the pixels chosen by `where` [t h w]; 99 where nothing differs (or nothing is chosen)."""
    error = (a.astype(np.float32) - b.astype(np.float32)) ** 2
    chosen = error if where is None else error[where]
    if chosen.size == 0 or not chosen.any():
        return 99.0
    return float(min(99.0, -10 * np.log10(chosen.mean() / 255**2)))


def grow(mask: np.ndarray, pixels: int) -> np.ndarray:
    """The mask [t h w] and all pixels within a square of that reach in the same frame."""
    out = mask.copy()
    for axis in (1, 2):
        base = out.copy()
        for step in range(1, pixels + 1):
            for source, target in ((slice(step, None), slice(None, -step)), (slice(None, -step), slice(step, None))):
                to = (slice(None),) * axis + (target,)
                out[to] |= base[(slice(None),) * axis + (source,)]
    return out


@dataclass(frozen=True)
class ItemScore:
    """One edit's scores."""

    family: str
    instruction: str
    edited: str
    ratio: float
    success: bool
    kept: float
    seconds: float
    kept_full: float | None = None


def score(sample: EditSample, output: Frames, seconds: float = 0.0, kept_full: float | None = None) -> ItemScore:
    """Scores `output` uint8 [t h w 3] for the edit `sample`."""
    if output.shape != sample.source.shape:
        raise ValueError(f"the output has shape {output.shape}, the source {sample.source.shape}: they must agree")
    region = sample.mask
    wrong = ((output.astype(np.float32) - sample.target) ** 2)[region].mean()
    own = ((sample.source.astype(np.float32) - sample.target) ** 2)[region].mean()
    ratio = float(wrong / max(own, 1e-6))
    still = ~grow(region, CALM)
    return ItemScore(
        sample.family,
        sample.instruction,
        sample.plan.edited,
        ratio,
        ratio <= THRESHOLD,
        psnr(output, sample.source, still),
        seconds,
        kept_full,
    )


def summary(rows: Sequence[ItemScore]) -> dict[str, Any]:
    """Means of a group of scores."""
    n = len(rows)
    right = sum(r.success for r in rows)
    low, high = wilson(right, n)
    full = [r.kept_full for r in rows if r.kept_full is not None]
    kept = [r.kept for r in rows if r.kept < 99]  # a style changes everything: nothing is left to be kept
    return {
        "n": n,
        "success": right / n,
        "success_interval": [low, high],
        "ratio": float(np.mean([min(r.ratio, 10.0) for r in rows])),
        "ratio_median": float(np.median([r.ratio for r in rows])),
        "kept_db": float(np.mean(kept)) if kept else None,
        "kept_full_db": float(np.mean(full)) if full else None,
        "seconds": float(np.mean([r.seconds for r in rows])),
    }


@dataclass
class WorldReport:
    """Scores of a model and, under `controls`, of copying and of the autoencoder's answer."""

    model: str
    split: str
    seed: int
    rows: list[ItemScore]
    controls: dict[str, list[ItemScore]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        groups = {f: [r for r in self.rows if r.family == f] for f in FAMILIES}
        return {
            "model": self.model,
            "split": self.split,
            "seed": self.seed,
            "overall": summary(self.rows),
            "families": {f: summary(rows) for f, rows in groups.items() if rows},
            "controls": {name: summary(rows) for name, rows in self.controls.items()},
            "items": [asdict(r) for r in self.rows],
        }

    def table(self) -> str:
        """Fixed-width text, one line a family."""
        report = self.to_dict()
        lines = [
            f"{'':<16}{'n':>4}{'success':>9}  {'95 % interval':<14}{'error':>7}{'median':>8}{'kept dB':>9}"
            f"{'kept full':>11}{'seconds':>9}"
        ]
        named = [*report["families"].items(), ("overall", report["overall"]), *report["controls"].items()]
        for name, s in named:
            low, high = s["success_interval"]
            kept, full = (f"{v:.1f}" if v is not None else "-" for v in (s["kept_db"], s["kept_full_db"]))
            lines.append(
                f"{name:<16}{s['n']:>4}{100 * s['success']:>8.1f}%  {100 * low:>4.0f} to {100 * high:<5.0f}"
                f"{s['ratio']:>9.2f}{s['ratio_median']:>8.2f}{kept:>9}{full:>11}{s['seconds']:>9.1f}"
            )
        return "\n".join(lines)


def collect(video: Video) -> Frames:
    return np.stack(list(video.frames()))


def evaluate_world(
    edit: Callable[[EditRequest], Video],
    *,
    reconstruct: Callable[[Frames], Frames] | None = None,
    model: str = "",
    split: str = "test",
    n: int = 60,
    seed: int = 0,
    families: Iterable[str] = FAMILIES,
    frames: int = 17,
    size: int = 128,
    full_every: int = 4,
    progress: Callable[[int, int], None] | None = None,
    keep: Callable[[EditSample, Frames], None] | None = None,
) -> WorldReport:
    """Edits `n` items of the world, families in turn, and scores them.

    `reconstruct` passes frames through the model's autoencoder, for the ceiling; `keep` sees every sample with its
    output, for pictures. `full_every` = 0 leaves the full-size measurement out.
    """
    families = tuple(families)
    report = WorldReport(model, split, seed, [])
    for i in range(n):
        family = families[i % len(families)]
        name = f"{seed}-{i}"
        sample = sample_edit(name, split, family, frames, size)  # type: ignore[arg-type]
        video = Video.from_frames(sample.source, fps=FPS)
        began = time.monotonic()
        output = collect(edit(EditRequest(video=video, instruction=sample.instruction, seed=seed, preserve=False)))
        seconds = time.monotonic() - began
        full = None
        if full_every and (i // len(families)) % full_every == 0 and family != "style":
            full = _kept_at_full_size(edit, name, split, family, frames, 2 * size, seed)
        report.rows.append(score(sample, output, seconds, full))
        if keep is not None:
            keep(sample, output)
        report.controls.setdefault("copy", []).append(score(sample, sample.source))
        if reconstruct is not None:
            report.controls.setdefault("reconstruction", []).append(score(sample, reconstruct(sample.target)))
        if progress is not None:
            progress(i + 1, n)
    return report


def _kept_at_full_size(
    edit: Callable[[EditRequest], Video], name: str, split: str, family: str, frames: int, size: int, seed: int
) -> float:
    sample = sample_edit(name, split, family, frames, size)  # type: ignore[arg-type]
    video = Video.from_frames(sample.source, fps=FPS)
    output = collect(edit(EditRequest(video=video, instruction=sample.instruction, seed=seed, preserve=True)))
    return psnr(output, sample.source, ~grow(sample.mask, 4 * CALM))
