"""Runs an editor on edits of the world, and says of its scores what they are together.

Beside the editor always stand two others: `copy` gives the source back (the floor), `reconstruction` passes the exact
answer through the model's autoencoder (the ceiling).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Self, TypedDict, cast

import torch
from torch import Tensor

from opensama.evaluation.world.answer_key import Frames, Through, in_words
from opensama.evaluation.world.probes import IDEAL
from opensama.evaluation.world.scores import GroupScores, ItemScore, summarise_scores
from opensama.values import EditRequest, Video
from opensama.world import CONTROL_FAMILIES, EDIT_FAMILIES
from opensama.world.scenes import FPS

if TYPE_CHECKING:
    from opensama.evaluation.results import SystemResult
    from opensama.pipeline.editor import Editor

Edit = Callable[[EditRequest], Video]


class WorldFigures(TypedDict, total=False):
    """What all scores say together, and each; `overall` and `clips` where there are some of these."""

    overall: GroupScores
    families: dict[str, GroupScores]
    controls: dict[str, GroupScores]
    clips: GroupScores
    items: list[dict[str, object]]


@dataclass
class WorldReport:
    """Scores of a system and, under `controls`, of copying and of the autoencoder's answer; `clips` on real videos."""

    rows: list[ItemScore]
    controls: dict[str, list[ItemScore]] = field(default_factory=dict)
    clips: list[ItemScore] = field(default_factory=list)

    @classmethod
    def read(cls, system: SystemResult) -> Self:
        """Of one system of a results.json."""
        found = [cast(dict[str, dict[str, object]], item["details"]) for item in system["items"] if item.get("details")]
        rows = [{name: ItemScore.read(score) for name, score in details.items()} for details in found]
        drawn = [row for row in rows if row["edit"].family != "clips"]
        controls = {name: [row[name] for row in drawn if name in row] for name in ("copy", "reconstruction")}
        clips = [row["edit"] for row in rows if row["edit"].family == "clips"]
        return cls([row["edit"] for row in drawn], controls, clips)

    def of(self, *families: str) -> list[ItemScore]:
        return [r for r in self.rows if r.family in families]

    def to_dict(self) -> WorldFigures:
        report: WorldFigures = {}
        if real := self.of(*EDIT_FAMILIES):
            report["overall"] = summarise_scores(real)
        report["families"] = {f: summarise_scores(rows) for f in EDIT_FAMILIES if (rows := self.of(f))}
        report["controls"] = {f: summarise_scores(rows) for f in CONTROL_FAMILIES if (rows := self.of(f))}
        report["controls"] |= {name: summarise_scores(rows) for name, rows in self.controls.items() if rows}
        if self.clips:
            report["clips"] = summarise_scores(self.clips)
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
            parts = "-" if s["parts"] is None else f"{100 * s['parts']:.0f} %"
            kept, full = (f"{v:.1f}" if v is not None else "-" for v in (s["kept_db"], s["kept_full_db"]))
            lines.append(
                f"{name:<16}{s['n']:>5}{100 * s['success']:>7.1f} %  {low:>4.0f} to {high:<6.0f}{parts:>7}"
                f"{s['ratio']:>7.2f}{s['ratio_median']:>8.2f}{kept:>9}{full:>11}{s['seconds']:>9.1f}"
            )
        if "overall" in report:
            overall = report["overall"]
            change, (low, high) = overall["last_minus_first"]["mean"], overall["last_minus_first"]["interval"]
            lines.append(
                f"last third minus first: {100 * change:+.1f} points of success ({100 * low:+.1f} to {100 * high:+.1f})"
            )
            exact = report["controls"].get("reconstruction")
            ceiling = exact["probes"] if exact else {}
            for name, value in overall["probes"].items():
                best = f", the exact answer {ceiling[name]:.2f}" if name in ceiling else ""
                lines.append(f"{name.replace('_', ' ')}, median: {value:.2f} (ideally {IDEAL[name]:.0f}{best})")
            wrong = ", ".join(f"{in_words(name)} {count}" for name, count in list(overall["taken_for"].items())[:8])
            lines.append(f"wrong parts looked most like: {wrong or 'nothing'}")
        return "\n".join(lines)


def through(editor: Editor) -> Through:
    """The model's autoencoder there and back, [b t 3 h w] in 0..1: no edit can come nearer to an answer."""
    pipeline = editor.pipeline

    @torch.no_grad()
    def coded(frames: Tensor) -> Tensor:
        pixels = pipeline.decode_latents(pipeline.encode_video(frames.movedim(1, 2) * 2 - 1))
        return ((pixels.movedim(2, 1) + 1) / 2).clamp(0, 1)

    return coded


def edit_frames(edit: Edit, source: Frames, instruction: str, seed: int = 0, preserve: bool = False) -> Frames:
    """An editor's answer to frames uint8 [t h w 3] at the world's rate; every pixel its own, unless `preserve`."""
    video = Video.from_frames(source, fps=FPS)
    return edit(EditRequest(video=video, instruction=instruction, seed=seed, preserve=preserve)).array()
