"""Edits clips of the world with any editor, scores them and reports.

Beside the model always stand two others: `copy` gives the source back (the floor), `reconstruction` passes the exact
answer through the model's autoencoder (the ceiling).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from opensama.evaluation.world.key import CALM, Frames, Through, grown, psnr, to_float
from opensama.evaluation.world.probes import IDEAL
from opensama.evaluation.world.scores import ItemScore, answer_key, mark, summary
from opensama.values import EditRequest, UserError, Video
from opensama.world import CONTROLS, FAMILIES, EditSample, sample_edit, to_uint8
from opensama.world.scenes import FPS

Edit = Callable[[EditRequest], Video]


@dataclass
class WorldReport:
    """Scores of a model and, under `controls`, of copying and of the autoencoder's answer; `clips` on real videos."""

    model: str
    split: str
    seed: int
    rows: list[ItemScore]
    controls: dict[str, list[ItemScore]] = field(default_factory=dict)
    clips: list[ItemScore] = field(default_factory=list)

    def of(self, *families: str) -> list[ItemScore]:
        return [r for r in self.rows if r.family in families]

    def to_dict(self) -> dict[str, Any]:
        report: dict[str, Any] = {"model": self.model, "split": self.split, "seed": self.seed}
        if real := self.of(*FAMILIES):
            report["overall"] = summary(real)
        report["families"] = {f: summary(rows) for f in FAMILIES if (rows := self.of(f))}
        report["controls"] = {f: summary(rows) for f in CONTROLS if (rows := self.of(f))}
        report["controls"] |= {name: summary(rows) for name, rows in self.controls.items() if rows}
        if self.clips:
            report["clips"] = summary(self.clips)
        report["items"] = [asdict(r) for r in self.rows + self.clips]
        return report

    def table(self) -> str:
        """Fixed-width text, one line a family, then the controls, the drift over the clip and the probes."""
        report = self.to_dict()
        lines = [
            f"{'':<16}{'n':>5}{'success':>9}  {'95 % interval':<14}{'parts':>7}{'error':>7}{'median':>8}"
            f"{'kept dB':>9}{'kept full':>11}{'seconds':>9}"
        ]
        groups = [*report["families"].items(), ("overall", report.get("overall"))]
        groups += [("real clips", report.get("clips")), *report["controls"].items()]
        for name, s in groups:
            if s is None:
                continue
            low, high = (100 * x for x in s["success_interval"])
            parts = "-" if s["parts"] is None else f"{100 * s['parts']:.0f}%"
            kept, full = (f"{v:.1f}" if v is not None else "-" for v in (s["kept_db"], s["kept_full_db"]))
            lines.append(
                f"{name:<16}{s['n']:>5}{100 * s['success']:>8.1f}%  {low:>4.0f} to {high:<6.0f}{parts:>7}"
                f"{s['ratio']:>7.2f}{s['ratio_median']:>8.2f}{kept:>9}{full:>11}{s['seconds']:>9.1f}"
            )
        if "overall" in report:
            overall = report["overall"]
            change, (low, high) = (overall["last_minus_first"][key] for key in ("mean", "interval"))
            lines.append(
                f"last third minus first: {100 * change:+.1f} points of success ({100 * low:+.1f} to {100 * high:+.1f})"
            )
            ceiling = report["controls"].get("reconstruction", {}).get("probes", {})
            for name, value in overall["probes"].items():
                best = f", the exact answer {ceiling[name]:.2f}" if name in ceiling else ""
                lines.append(f"{name.replace('_', ' ')}: {value:.2f} (ideally {IDEAL[name]:.0f}{best})")
            wrong = ", ".join(f"{name} {count}" for name, count in list(overall["taken_for"].items())[:8])
            lines.append(f"wrong parts were nearest to: {wrong or 'nothing'}")
        return "\n".join(lines)


def collect(video: Video) -> Frames:
    return np.stack(list(video.frames()))


def evaluate_world(
    edit: Edit,
    through: Through,
    *,
    model: str = "",
    split: str = "test",
    n: int = 12,
    seed: int = 0,
    families: Sequence[str] = (*FAMILIES, *CONTROLS),
    frames: int = 17,
    size: int = 128,
    full_every: int = 4,
    progress: Callable[[int, int], None] | None = None,
    keep: Callable[[EditSample, Frames], None] | None = None,
) -> WorldReport:
    """Edits `n` items of each family of the world, families in turn, and scores them.

    `through` passes frames through the model's autoencoder; `keep` sees every sample with its output, for pictures.
    `full_every` = 0 leaves the full-size measurement out. Raises UserError where only the control that a copy passes
    is asked for.
    """
    if set(families) <= {"absent"}:
        raise UserError("A copy of the source passes `absent`: evaluate at least one family of edits beside it.")
    report = WorldReport(model, split, seed, [], {"copy": [], "reconstruction": []})
    for i in range(n * len(families)):
        family, number = families[i % len(families)], i // len(families)
        name = f"{seed}-{number}"
        sample = sample_edit(name, split, family, frames, size)  # type: ignore[arg-type]
        began = time.monotonic()
        output = edited(edit, sample, seed)
        seconds = time.monotonic() - began
        full = None
        if full_every and number % full_every == 0:
            full = _kept_at_full_size(edit, name, split, family, frames, 2 * size, seed)
        key = answer_key(sample, through)
        report.rows.append(mark(sample, output, key, seconds, full))
        if keep is not None:
            keep(sample, output)
        if family != "absent":
            report.controls["copy"].append(mark(sample, sample.source, key))
            exact = to_uint8(through(key.answer[None])[0])
            report.controls["reconstruction"].append(mark(sample, exact, key))
        if progress is not None:
            progress(i + 1, n * len(families))
    return report


def edited(edit: Edit, sample: EditSample, seed: int = 0, preserve: bool = False) -> Frames:
    """An editor's answer to an edit of the world, uint8 [t h w 3]."""
    video = Video.from_frames(sample.source, fps=FPS)
    return collect(edit(EditRequest(video=video, instruction=sample.instruction, seed=seed, preserve=preserve)))


def _kept_at_full_size(
    edit: Edit, name: str, split: str, family: str, frames: int, size: int, seed: int
) -> float | None:
    """PSNR of what should stay at twice the model's size, with `preserve`; None where everything changes."""
    sample = sample_edit(name, split, family, frames, size)  # type: ignore[arg-type]
    source, answer = to_float(sample.source), to_float(sample.target)
    still = ~grown((source - answer).abs().amax(1) > 0.02, 2 * CALM)
    if still.float().mean() < 0.01:
        return None
    return psnr(to_float(edited(edit, sample, seed, preserve=True)), source, still)
