"""What is compared: the arms of the experiment, each a change of one thing, and the budget that all of them get.

    prior      text-to-video on plain clips, no source: stands for the weights that the paper begins from; one a seed
    stage 0    image edits and plain clips (with MA: corrupted by pretext tasks; without: shown as they are)
    stage 1    video edits, and a smaller share of image edits

The steps of every stage are fixed here, before anything is trained; all arms take as many.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from opensama.pretext import PAPER_SHARES
from opensama.reproduction.runner import MicroBudget
from opensama.reproduction.statistics import foretell
from opensama.values.names import SourceRotary
from opensama.world.micro import MICRO_FAMILIES

NONE: Mapping[str, float] = {"none": 1}


@dataclass(frozen=True, kw_only=True)
class SamaBudget(MicroBudget):
    """Steps of each stage and what a step takes; the data; the test; the model's size."""

    prior: int = 500
    stage0: int = 500
    stage1: int = 400
    prior_videos: int = 16
    images: int = 24
    videos: int = 6
    stage1_images: int = 8
    stage1_videos: int = 12
    image_edits: int = 16_000
    clips: int = 3_000
    video_edits: int = 6_000
    layers: int = 5
    short: int = 17
    """Frames of the clips that the embedded model is probed with; it edits 17 at a time."""
    long: int = 49
    """Frames of the long ones."""
    probed_families: int = 4
    """Families of edits that the embedded model is probed with."""
    probes: int = 15
    """Edits of each family and condition for the embedded model."""


@dataclass(frozen=True)
class SamaArm:
    """One way to train. `anchors` 0 is without semantic anchoring; `images` is the share of stage 0's images."""

    name: str
    anchors: int = 1
    pretext: Mapping[str, float] = field(default_factory=lambda: dict(PAPER_SHARES))
    type_embedding: bool = True
    source_rotary: SourceRotary = "shared"
    semantic_rotary: Literal["zero", "grid"] = "grid"
    images: float | None = None
    """Share of stage 0's tokens that are of image edits; None: images and videos 4 : 1 as in the paper."""


PRIOR = SamaArm("prior", anchors=0, pretext=NONE, type_embedding=False)
SAMA = SamaArm("SA+MA")
BASELINE = SamaArm("baseline", anchors=0, pretext=NONE)
MODULES = (BASELINE, SamaArm("+SA", pretext=NONE), SamaArm("+MA", anchors=0), SAMA)
TYPES = (replace(SAMA, name="shifted RoPE", type_embedding=False, source_rotary="shifted"),)
ROTARY = (replace(SAMA, name="semantic rotary zero", semantic_rotary="zero"),)
ANCHOR_ARMS = tuple(replace(SAMA, name=f"{n} anchors", anchors=n) for n in (2, 4))
PRETEXT_ARMS = tuple(replace(SAMA, name=f"{task} alone", pretext={task: 1}) for task in ("cube", "speed", "tube"))
SHARE_ARMS = tuple(replace(SAMA, name=f"images {round(100 * share)} %", images=share) for share in (0.0, 0.5, 1.0))

SEVERAL_SEEDS = (*MODULES, *TYPES, *ROTARY)
ONE_SEED = (*ANCHOR_ARMS, *PRETEXT_ARMS, *SHARE_ARMS)


def announce(budget: SamaBudget, runs: int) -> str:
    """What is said before anything is trained in so many runs."""
    items = budget.items * len(MICRO_FAMILIES)
    return (
        f"Fixed beforehand: {budget.prior} steps of the prior ({budget.prior_videos} clips each), {budget.stage0} of "
        f"stage 0 ({budget.images} images and {budget.videos} clips each), {budget.stage1} of stage 1 "
        f"({budget.stage1_images} images and {budget.stage1_videos} videos each), {items} test edits, "
        f"{runs} runs. " + foretell(items, budget.seeds)
    )


def sama_runs(seeds: int = SamaBudget.seeds) -> list[tuple[SamaArm, int]]:
    """All runs: what several seeds answer first, a seed at a time, then the rest."""
    return [(arm, seed) for seed in range(seeds) for arm in SEVERAL_SEEDS] + [(arm, 0) for arm in ONE_SEED]


SAMA_BUDGETS = {
    "full": SamaBudget(),
    "smoke": SamaBudget(
        prior=2,
        stage0=2,
        stage1=2,
        prior_videos=2,
        images=3,
        videos=2,
        stage1_images=2,
        stage1_videos=2,
        image_edits=8,
        clips=8,
        video_edits=6,
        items=1,
        width=64,
        layers=1,
        seeds=1,
        short=5,
        long=21,
        probed_families=1,
        probes=1,
    ),
}
