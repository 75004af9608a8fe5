"""Bernini's question in small: how is a source told from the target, and do semantic anchors matter to it?

    type embedding      learned vectors, added to all tokens of a stream; equal positions (SAMA's way)
    shifted positions   the source's tokens stand behind the target's in time, rows and columns
    rotary phase        equal positions, every query and key of the source turned by one constant (Bernini's way)
    nothing             equal positions and no mark: what content, time and the source gate tell by themselves

    OUT/bernini/plan.json    the budget, fixed before anything is trained; the rest as `runner` says

Each but the last with and without anchors, which sit at `zero` as in SAMA's release, so that only the source differs.
Trained and tested as SAMA's arms are, without pretext tasks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from opensama.reproduction.arms import NONE, SAMA_BUDGETS, SamaArm, SamaBudget, announce
from opensama.reproduction.runner import Run, RunResult
from opensama.reproduction.sama import SamaExperiment, make_sama
from opensama.reproduction.statistics import MeanInterval, bootstrap_mean, over_seeds, paired_difference
from opensama.reproduction.tables import VERDICTS, markdown_table, points
from opensama.world.micro import MICRO_FAMILIES

STREAMS_FOLDER = "bernini"
_TEMPLATE = Path(__file__).parent / "bernini.md"

TYPE_EMBEDDING = SamaArm("type embedding", anchors=0, pretext=NONE, semantic_rotary="zero")
SHIFTED = replace(TYPE_EMBEDDING, name="shifted positions", type_embedding=False, source_rotary="shifted")
PHASE = replace(TYPE_EMBEDDING, name="rotary phase", type_embedding=False, source_rotary="phase")
NOTHING = replace(TYPE_EMBEDDING, name="nothing", type_embedding=False)
WAYS = (TYPE_EMBEDDING, SHIFTED, PHASE)
ANCHORED = {way.name: replace(way, name=f"{way.name}, anchors", anchors=1) for way in WAYS}
STREAM_ARMS = (*WAYS, *ANCHORED.values(), NOTHING)

BERNINI_BUDGETS = {
    "full": SamaBudget(
        prior=200, prior_videos=12, stage0=150, images=16, videos=2, stage1=200, stage1_images=4, stage1_videos=8,
        image_edits=3_200, clips=2_400, video_edits=1_600, width=96, layers=4,
    ),
    "smoke": SAMA_BUDGETS["smoke"],
}  # fmt: skip


class BerniniExperiment(SamaExperiment):
    """Ways of telling streams apart, on a SAMA transformer."""

    pools = ("images", "videos", "prior", "none")
    arms = STREAM_ARMS
    scored = ("stage1",)

    @property
    def waves(self) -> Sequence[Sequence[Run]]:
        return ([Run(arm.name, seed) for seed in range(self.budget.seeds) for arm in self.arms],)


class BerniniResults:
    """All runs' results. `k` seeds, `n` items."""

    def __init__(self, out: Path):
        self.out = out / STREAMS_FOLDER
        self.budget = SamaBudget(**json.loads((self.out / "plan.json").read_text()))
        runs = BerniniExperiment(self.out, self.budget)
        self.rows: dict[str, list[RunResult]] = {arm.name: runs.results(arm.name) for arm in STREAM_ARMS}

    @property
    def minutes(self) -> float:
        """Wall-clock minutes of all runs, added up."""
        return sum(row["minutes"] for rows in self.rows.values() for row in rows)

    def marks(self, arm: SamaArm, key: str = "right") -> np.ndarray:
        """[k n]"""
        return np.array([row["stage1"][key] for row in self.rows[arm.name]], float)

    def gain(self, arm: SamaArm, other: SamaArm) -> MeanInterval:
        """By how much one is right more often."""
        return paired_difference(self.marks(arm), self.marks(other))

    def lead(self, arm: SamaArm, other: SamaArm) -> MeanInterval:
        """By how much its edits are nearer to the answer than to any wrong one."""
        return paired_difference(self.marks(arm, "lead"), self.marks(other, "lead"))

    def lower(self, arm: SamaArm, other: SamaArm) -> MeanInterval:
        """By how much its loss is lower over the last fifth of stage 1, as a share of the other's, over seeds."""
        losses = []
        for of in (arm, other):
            curves = np.array([[step[0] for step in row["stage1"]["curve"]] for row in self.rows[of.name]])
            losses.append(curves[:, -max(1, curves.shape[1] // 5) :].mean(1))
        return over_seeds(1 - losses[0] / losses[1])

    def row(self, arm: SamaArm, other: SamaArm | None) -> list[str]:
        """Success, of each family, error; and what is more than another arm's."""
        marks = self.marks(arm)
        families = np.mean([[r["stage1"]["families"][f] for f in MICRO_FAMILIES] for r in self.rows[arm.name]], axis=0)
        more = ["", "", ""]
        if other is not None:
            lead = "{0.mean:+.3f} ({0.low:+.3f} to {0.high:+.3f})".format(self.lead(arm, other))
            more = [points(self.gain(arm, other), True), lead, points(self.lower(arm, other), True)]
        error = f"{self.marks(arm, 'error').mean():.3f}"
        return [arm.name, points(bootstrap_mean(marks)), *(f"{100 * f:.0f}" for f in families), error, *more]


def bernini_part(out: Path) -> str:
    """The text. UserError where runs are missing."""
    r = BerniniResults(out)
    machine = json.loads((r.out / "machine.json").read_text())
    head = ["", "success, %", *MICRO_FAMILIES, "error"]

    def over(other: str) -> list[str]:
        return [f"more points than {other}", f"more lead than {other}", f"lower loss than {other}, %"]

    by_type = over("the type embedding")
    plain = [r.row(arm, None if arm == TYPE_EMBEDDING else TYPE_EMBEDDING) for arm in (*WAYS, NOTHING)]
    anchored = [r.row(arm, None if arm.name == ANCHORED[TYPE_EMBEDDING.name].name else ANCHORED[TYPE_EMBEDDING.name])
                for arm in ANCHORED.values()]  # fmt: skip
    b = r.budget
    return _TEMPLATE.read_text().format(
        machine=f"Measured on {machine['machine']}, {machine['workers']} at a time: {r.minutes:.0f} minutes of runs.",
        millions=sum(p.numel() for p in make_sama(TYPE_EMBEDDING, b).parameters()) / 1e6,
        plan=announce(b, len(STREAM_ARMS) * b.seeds),
        plain=markdown_table([*head, *by_type], plain),
        anchored=markdown_table([*head, *by_type], anchored),
        added=markdown_table(
            ["", *over("without")],
            [r.row(ANCHORED[way.name], way)[:1] + r.row(ANCHORED[way.name], way)[-3:] for way in WAYS],
        ),
        summary=_summary(r),
        unlike=int((r.marks(TYPE_EMBEDDING) != r.marks(PHASE)).sum()),
        unmarked=int((r.marks(TYPE_EMBEDDING) != r.marks(NOTHING)).sum()),
        shifted=int((r.marks(TYPE_EMBEDDING) != r.marks(SHIFTED)).sum()),
        edits=r.marks(PHASE).size,
    )


def _claims(r: BerniniResults) -> dict[str, MeanInterval]:
    """What was said before the runs, as differences that are above zero where it holds."""
    pairs: Sequence[tuple[str, SamaArm, SamaArm]] = (
        ("a rotary phase is better than shifted positions", PHASE, SHIFTED),
        ("a rotary phase is better than a type embedding", PHASE, TYPE_EMBEDDING),
        ("a type embedding is better than shifted positions (SAMA's table 6)", TYPE_EMBEDDING, SHIFTED),
        ("a type embedding is better than no mark at all", TYPE_EMBEDDING, NOTHING),
        ("a rotary phase is better than no mark at all", PHASE, NOTHING),
        *((f"anchors help, with {way.name}", ANCHORED[way.name], way) for way in WAYS),
    )
    return {claim: r.gain(arm, other) for claim, arm, other in pairs}


def _summary(r: BerniniResults) -> str:
    rows = [[claim, f"{points(e, True)} points", f"**{VERDICTS[e.tendency]}**"] for claim, e in _claims(r).items()]
    return markdown_table(["claim", "measured", "the small world"], rows)
