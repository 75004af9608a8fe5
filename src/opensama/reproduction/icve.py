"""ICVE in small: does learning from two clips of one scene help, and must the source's time be zero?

    prior      text-to-video on plain clips, no source; one a seed, as HunyuanVideo is ICVE's beginning
    pretrain   unpaired clips: one scene at two times, with an instruction for the difference
    SFT        edits, of which there are few or many

    OUT/icve/plan.json                         the budget, fixed before anything is trained
    OUT/icve/pools/*.safetensors               the data, drawn once for all
    OUT/icve/prior-SEED/                       what all arms of a seed begin from
    OUT/icve/runs/ARM-SEED/result.json         scores, curve, seconds, operations
    OUT/icve/runs/ARM-SEED/model.safetensors   of an arm that others go on from

Runner, trainer, test and statistics are those of SAMA's runs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file

from opensama.models.icve import IcveTransformer3DModel
from opensama.reproduction.arms import PRIOR, SamaBudget
from opensama.reproduction.arms import SAMA as WHOLE
from opensama.reproduction.data import (
    FIRST,
    POOLS,
    TEXT_TOKENS,
    UNPAIRED,
    MicroPool,
    draw_micro_unpaired,
    first_of,
    frozen_models,
    micro_items,
    pool_file,
    read_pool,
)
from opensama.reproduction.micro_training import StageCost, held_out_edits, micro_loss, train_micro_stage
from opensama.reproduction.runner import Experiment, MicroBudget, Run, RunResult, write_json, write_tensors
from opensama.reproduction.sama import corrupted_pools, draw_sama_pool, load_prior, make_sama, train_sama
from opensama.reproduction.statistics import foretell
from opensama.training.config import IcveConfig, IcveDataSettings, IcveLossSettings, IcveModelSettings
from opensama.training.embedded_config import TinyConfig
from opensama.world.micro import MICRO_FAMILIES

FOLDER = "icve"


@dataclass(frozen=True, kw_only=True)
class IcveBudget(MicroBudget):
    """Steps of each stage and what a step takes; the data; the test; the model's size."""

    prior: int = 400
    pretrain: int = 700
    sft: int = 400
    videos: int = 12
    """Clips, or pairs of them, of a step."""
    clips: int = 2_000
    unpaired: int = 8_000
    few: int = 1_000
    many: int = 5_000
    joint_layers: int = 1
    layers: int = 3


@dataclass(frozen=True)
class IcveArm:
    """One way to train: whether on unpaired clips first, on how many edits then, and the source's time."""

    name: str
    pretrain: bool = True
    pairs: Literal["few", "many"] | None = None
    source_time: Literal["zero", "same"] = "zero"
    longer: bool = False
    """Fine-tuned for as many steps as both stages have."""


PRETRAINED = IcveArm("pre-trained")
BOTH = {
    "few": IcveArm("pre-training, few edits", pairs="few"),
    "many": IcveArm("pre-training, many edits", pairs="many"),
}
ONLY = {
    "few": IcveArm("few edits", pretrain=False, pairs="few"),
    "many": IcveArm("many edits", pretrain=False, pairs="many"),
}
LONGER = {
    "few": IcveArm("few edits, all the steps", pretrain=False, pairs="few", longer=True),
    "many": IcveArm("many edits, all the steps", pretrain=False, pairs="many", longer=True),
}
SAME_PRETRAINED = IcveArm("pre-trained, source at t", source_time="same")
SAME = IcveArm("source at t", pairs="many", source_time="same")
EQUAL = "SAMA, equal compute"

ICVE_BUDGETS = {
    "full": IcveBudget(),
    "smoke": IcveBudget(
        prior=2, pretrain=2, sft=2, videos=2, clips=4, unpaired=6, few=3, many=6, items=1, seeds=2, width=64,
        layers=1,
    ),
}  # fmt: skip


def icve_runs(seeds: int = IcveBudget.seeds) -> list[tuple[IcveArm, int]]:
    """All runs but SAMA's, each after those that it goes on from."""
    several = [(arm, seed) for seed in range(seeds) for arm in (PRETRAINED, *BOTH.values(), *ONLY.values())]
    return several + [(arm, 0) for arm in (SAME_PRETRAINED, SAME, *LONGER.values())]


def plan_of(budget: IcveBudget) -> str:
    """What the budget can tell, said before anything is trained."""
    return foretell(budget.items * len(MICRO_FAMILIES), budget.seeds)


class IcveExperiment(Experiment):
    """ICVE's variants, and SAMA with as many operations."""

    budget: IcveBudget
    pools = (*POOLS, UNPAIRED)

    @property
    def waves(self) -> Sequence[Sequence[Run]]:
        runs = icve_runs(self.budget.seeds)
        return (
            [Run(arm.name, seed) for arm, seed in runs if arm.pairs is None],
            [Run(arm.name, seed) for arm, seed in runs if arm.pairs is not None],
            [Run(EQUAL, 0)],
        )

    def draw_pool(self, name: str) -> None:
        if name != UNPAIRED:
            draw_sama_pool(self.out, sama_budget(self.budget), name)
        elif not (file := pool_file(self.out, name)).exists():
            write_tensors(draw_micro_unpaired(frozen_models(), self.budget.unpaired, FIRST[name]), file)

    def make_prior(self, seed: int, folder: Path) -> torch.nn.Module:
        model, pool = make_icve(self.budget), read_pool(self.out, "prior")
        cost = train_icve("prior", model, pool, seed, self.budget, self.budget.prior, folder)
        write_json({"flops": cost["flops"], "seconds": cost["seconds"]}, folder / "cost.json")
        return model

    def make_run(self, run: Run, folder: Path) -> RunResult:
        """The run goes on from its seed's pre-training, or from the prior."""
        result: RunResult = {}
        if run.arm == EQUAL:
            model, result["steps"], result["flops"] = self._equal_sama(folder, run.seed)
        else:
            arm = next(arm for arm, _ in icve_runs() if arm.name == run.arm)
            model, result = self._train_arm(arm, run.seed, folder)
        return result | held_out_edits(self.budget.items).evaluate(model, frozen_models(), run.seed)

    def success(self, result: RunResult) -> float:
        return float(result["success"])

    def starts_from(self, arm: IcveArm, seed: int) -> Path:
        """The weights that an arm goes on from."""
        if arm.pairs and arm.pretrain:
            before = PRETRAINED if arm.source_time == "zero" else SAME_PRETRAINED
            return self.result_file(before.name, seed).with_name("model.safetensors")
        return self.prior_file(seed)

    def flops(self, arm: str, seed: int) -> list[float]:
        """Operations of a seed's prior, of its pre-training, and of an arm that goes on from that."""
        runs = [self.result_file(name, seed) for name in (PRETRAINED.name, arm)]
        files = [self.prior_file(seed).with_name("cost.json"), *runs]
        return [json.loads(file.read_text())["flops"] for file in files]

    def _train_arm(self, arm: IcveArm, seed: int, folder: Path) -> tuple[torch.nn.Module, RunResult]:
        budget = self.budget
        model = make_icve(budget, arm.source_time)
        model.load_state_dict(load_file(self.starts_from(arm, seed)))
        if arm.pairs:
            n = budget.few if arm.pairs == "few" else budget.many
            pool, steps = first_of(read_pool(self.out, "videos"), n), budget.sft + arm.longer * budget.pretrain
        else:
            pool, steps = read_pool(self.out, UNPAIRED), budget.pretrain
        cost = train_icve("train", model, pool, seed, budget, steps, folder)
        if not arm.pairs:
            write_tensors(model.state_dict(), folder / "model.safetensors")
        return model, {"steps": steps, **cost}

    def _equal_sama(self, folder: Path, seed: int) -> tuple[torch.nn.Module, dict[str, int], dict[str, float]]:
        """SAMA's prior, stage 0 (image edits and clips) and stage 1 (many edits), each with ICVE's operations: the
        model, steps and operations of each stage."""
        out, budget = self.out, self.budget
        wanted = self.flops(BOTH["many"].name, seed)
        sizes = sama_budget(budget)
        images, videos, n = read_pool(out, "images"), read_pool(out, "videos"), budget.videos
        plan = (
            ("prior", PRIOR, [read_pool(out, "prior")], (0, n)),
            ("stage0", WHOLE, [images, *corrupted_pools(out, sizes, WHOLE)], (2 * n, n // 2)),
            ("stage1", WHOLE, [images, videos], (2 * n // 3, n)),
        )
        steps: dict[str, int] = {}
        spent: dict[str, float] = {}
        model = make_sama(PRIOR, sizes)
        for (stage, arm, pools, batch), flops in zip(plan, wanted, strict=True):
            if stage == "stage0":
                prior, model = model.state_dict(), make_sama(WHOLE, sizes)
                load_prior(model, prior)
            given = (pools, arm, seed, sizes, batch)
            some = min(12, budget.sft)  # a step's operations vary with what its pretext tasks left of the sources
            one = train_sama(stage, make_sama(arm, sizes), *given, some, folder / "cost")["flops"] / some
            steps[stage] = max(1, round(flops / one))
            spent[stage] = train_sama(stage, model, *given, steps[stage], folder)["flops"]
        return model, steps, spent


def sama_budget(budget: IcveBudget) -> SamaBudget:
    """Data and sizes for SAMA in the same place: a model of about as many parameters."""
    return SamaBudget(
        image_edits=budget.unpaired, clips=budget.clips, video_edits=budget.many, width=budget.width,
        layers=budget.joint_layers + budget.layers + 1, lr=budget.lr, shift=budget.shift,
    )  # fmt: skip


def make_icve(budget: IcveBudget, source_time: Literal["zero", "same"] = "zero") -> IcveTransformer3DModel:
    """The transformer: of the embedded model's kind, in small."""
    width, layers = budget.width, budget.layers
    sizes = TinyConfig(
        family="icve", width=width, head=64, layers=layers, joint_layers=budget.joint_layers
    ).transformer_sizes
    return IcveTransformer3DModel(**sizes, source_time=source_time)


def train_icve(
    stage: str, model: IcveTransformer3DModel, pool: MicroPool, seed: int, budget: IcveBudget, steps: int, folder: Path
) -> StageCost:
    """One stage of an arm."""
    config = IcveConfig(
        seed=seed,
        model=IcveModelSettings(base="micro", start="nothing", sizes={}),
        data=IcveDataSettings(videos=budget.videos, video_batch=budget.videos, text_tokens=TEXT_TOKENS),
        loss=IcveLossSettings(**micro_loss(budget)),
    )
    data = micro_items([pool], 0, frozen_models().embed([""])[0], pooled=True)
    return train_micro_stage(stage, model, data, config, budget, steps, folder)
