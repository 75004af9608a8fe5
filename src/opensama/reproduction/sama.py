"""SAMA in small: the arms of `arms`, trained by prior, stage 0 and stage 1, and what a step of each costs.

    OUT/cost.json       seconds and memory of a step, see `measure_step_costs`
    OUT/shipped.json    the embedded model's scores, see `shipped`

The rest of OUT is as `runner` says.
"""

from __future__ import annotations

import json
import logging
import resource
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, TypedDict

import torch
from safetensors.torch import load_file
from torch import Tensor

from opensama import load
from opensama.evaluation.world.report import through
from opensama.models.sama import SamaTransformer3DModel
from opensama.reproduction.arms import MODULES, ONE_SEED, PRIOR, SEVERAL_SEEDS, SamaArm, SamaBudget, sama_runs
from opensama.reproduction.data import (
    FIRST,
    POOLS,
    TEXT_TOKENS,
    MicroPool,
    draw_micro_clips,
    draw_micro_edits,
    first_of,
    frozen_models,
    micro_items,
    pool_file,
    read_pool,
)
from opensama.reproduction.micro_training import StageCost, held_out_edits, micro_loss, train_micro_stage
from opensama.reproduction.runner import Experiment, Run, RunResult, processes, write_json, write_tensors
from opensama.reproduction.shipped import probe_shipped
from opensama.training.config import DataSettings, LossSettings, ModelSettings, SamaConfig
from opensama.training.embedded_config import TinyConfig

_log = logging.getLogger(__name__)
VIDEOS_OF_IMAGES = 113 / 49  # tokens of a clip, in tokens of an image edit: both sides and one anchor


class SamaExperiment(Experiment):
    """SAMA's variants."""

    budget: SamaBudget
    pools: ClassVar[Sequence[str]] = POOLS
    arms: ClassVar[Sequence[SamaArm]] = (*SEVERAL_SEEDS, *ONE_SEED)
    scored: ClassVar[Sequence[str]] = ("stage0", "stage1", "fast")
    """The stages after which a run is scored; fast: in the end also on quick motion."""

    @property
    def waves(self) -> Sequence[Sequence[Run]]:
        return ([Run(arm.name, seed) for arm, seed in sama_runs(self.budget.seeds)],)

    def draw_pool(self, name: str) -> None:
        draw_sama_pool(self.out, self.budget, name)

    def make_prior(self, seed: int, folder: Path) -> torch.nn.Module:
        model, budget = make_sama(PRIOR, self.budget), self.budget
        pools, batch = [read_pool(self.out, "prior")], (0, budget.prior_videos)
        train_sama("prior", model, pools, PRIOR, seed, budget, batch, budget.prior, folder)
        return model

    def make_run(self, run: Run, folder: Path) -> RunResult:
        """Stage 0 and stage 1 of one run, scored after those that are `scored`."""
        arm, budget = next(arm for arm in self.arms if arm.name == run.arm), self.budget
        began, result = time.monotonic(), RunResult()
        model = make_sama(arm, budget)
        load_prior(model, load_file(self.prior_file(run.seed)))
        for stage, steps in {"stage0": budget.stage0, "stage1": budget.stage1}.items():
            pools, batch = stage_data(self.out, budget, arm, stage)
            result[stage] = dict(train_sama(stage, model, pools, arm, run.seed, budget, batch, steps, folder))
            if stage in self.scored:
                result[stage] |= held_out_edits(budget.items).evaluate(model, frozen_models(), run.seed)
        if "fast" in self.scored:
            half = held_out_edits(-(-budget.items // 2), fast=True)
            result["fast"] = half.evaluate(model, frozen_models(), run.seed)
        return result | {"minutes": (time.monotonic() - began) / 60}

    def success(self, result: RunResult) -> float:
        return float(result["stage1"]["success"])


def stage_data(out: Path, budget: SamaBudget, arm: SamaArm, stage: str) -> tuple[list[MicroPool], tuple[int, int]]:
    """What an arm's stage reads, and the images and videos of a step."""
    images = read_pool(out, "images")
    if stage == "stage0":
        return [images, *corrupted_pools(out, budget, arm)], stage0_batch(arm, budget)
    return [images, read_pool(out, "videos")], (budget.stage1_images, budget.stage1_videos)


def draw_sama_pool(out: Path, budget: SamaBudget, name: str) -> None:
    """Image edits, video edits, plain clips, or clips corrupted by one pretext task, unless they are there."""
    file, first = pool_file(out, name), FIRST[name]
    if file.exists():
        return
    if name in ("images", "videos"):
        n, frames = (budget.image_edits, 1) if name == "images" else (budget.video_edits, 9)
        pool = draw_micro_edits(frozen_models(), n, frames, first)
    else:
        pool = draw_micro_clips(frozen_models(), budget.clips, None if name == "prior" else name, first)
    write_tensors(pool, file)


def make_sama(arm: SamaArm, budget: SamaBudget) -> SamaTransformer3DModel:
    """An arm's transformer: of the embedded model's kind, in small."""
    sizes = TinyConfig(width=budget.width, head=32, layers=budget.layers).transformer_sizes | {
        "type_embedding": arm.type_embedding,
        "source_rotary": arm.source_rotary,
        "semantic_rotary": arm.semantic_rotary,
        "semantic_dim": 96 if arm.anchors else None,
        "num_anchors": max(arm.anchors, 1),
    }
    return SamaTransformer3DModel(**sizes)


def train_sama(
    stage: str, model: SamaTransformer3DModel, pools: Sequence[MicroPool], arm: SamaArm, seed: int, budget: SamaBudget,
    batch: tuple[int, int], steps: int, folder: Path
) -> StageCost:  # fmt: skip
    """One stage of an arm; `batch` are the images and videos of a step."""
    images, videos = batch
    config = SamaConfig(
        seed=seed,
        model=ModelSettings(base="micro", semantic_rotary=arm.semantic_rotary),
        data=DataSettings(
            images=images,
            videos=videos,
            image_batch=max(images, 1),
            video_batch=max(videos, 1),
            text_tokens=TEXT_TOKENS,
        ),
        loss=LossSettings(**micro_loss(budget)),
    )
    data = micro_items(pools, arm.anchors, frozen_models().embed([""])[0])
    return train_micro_stage(stage, model, data, config, budget, steps, folder)


def step_tokens(arm: SamaArm, images: int, videos: int) -> int:
    """Tokens of a step, a clip's source at full length."""
    return images * (2 * 16 + 17 * min(arm.anchors, 1)) + videos * (2 * 48 + 17 * arm.anchors)


def corrupted_pools(out: Path, budget: SamaBudget, arm: SamaArm) -> list[MicroPool]:
    """As many clips for every arm, split by its shares of pretext tasks."""
    whole = sum(arm.pretext.values())
    counts = {name: round(budget.clips * share / whole) for name, share in arm.pretext.items()}
    return [first_of(read_pool(out, name), n) for name, n in counts.items()]


def load_prior(model: SamaTransformer3DModel, prior: Mapping[str, Tensor]) -> None:
    """The prior's weights; what it has not (type embedding, semantic modules) stays as it was made."""
    own = model.state_dict()
    unknown = sorted(set(prior) - set(own))
    assert not unknown, unknown
    model.load_state_dict({**own, **prior})


def stage0_batch(arm: SamaArm, budget: SamaBudget) -> tuple[int, int]:
    """Images and videos of a step of stage 0; other shares of images take about as many tokens."""
    if arm.images is None:
        return budget.images, budget.videos
    whole = budget.images + VIDEOS_OF_IMAGES * budget.videos
    return round(arm.images * whole), round((1 - arm.images) * whole / VIDEOS_OF_IMAGES)


# --- what steps cost, and how the embedded model does


class StepCost(TypedDict):
    """Of a training step: tokens, seconds of computing on one core, and by how many bytes the process grew."""

    tokens: int
    seconds: float
    memory: float


def measure_step_costs(out: Path, steps: int = 12) -> None:
    """Measures each arm and stage in a process of its own, on little data, into OUT/cost.json."""
    if (out / "cost.json").exists():
        return
    budget = SamaBudget(**json.loads((out / "plan.json").read_text()))
    steps = min(steps, budget.stage1)
    few = replace(budget, image_edits=3 * budget.images, clips=10 * budget.videos, video_edits=3 * budget.stage1_videos)
    found: dict[str, dict[str, StepCost]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in POOLS:
            draw_sama_pool(Path(folder), few, name)
        for arm in MODULES:
            for stage in ("stage0", "stage1"):
                with processes(1) as pool:
                    cost = pool.submit(_step_cost, Path(folder), few, arm, stage, steps).result()
                found.setdefault(arm.name, {})[stage] = cost
    write_json(found, out / "cost.json")
    _log.info("measured what steps cost")


def _step_cost(out: Path, budget: SamaBudget, arm: SamaArm, stage: str, steps: int) -> StepCost:
    pools, batch = stage_data(out, budget, arm, stage)
    model = make_sama(arm, budget)
    frozen_models()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    folder = out / arm.name / stage
    train_sama("first", model, pools, arm, 0, budget, batch, 2, folder)  # what is made once is made
    began = time.process_time()
    train_sama("cost", model, pools, arm, 0, budget, batch, steps, folder)
    seconds = (time.process_time() - began) / steps
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return {"tokens": step_tokens(arm, *batch), "seconds": seconds, "memory": grown}


def score_shipped(out: Path) -> None:
    """Scores the embedded model under hard conditions, once, into OUT/shipped.json."""
    file = out / "shipped.json"
    if not file.exists():
        editor = load("tiny", device="cpu")
        budget = SamaBudget(**json.loads((out / "plan.json").read_text()))
        write_json(
            probe_shipped(
                editor.edit, through(editor), budget.probes, budget.short, budget.long, budget.probed_families
            ),
            file,
        )
