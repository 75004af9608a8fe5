"""How one stage of an arm is trained: by the trainer that trains the large models, with its curve and cost kept."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TypedDict

import torch

from opensama.data.latents import ItemsInMemory
from opensama.reproduction.data import frozen_models
from opensama.reproduction.held_out import HeldOutEdits
from opensama.reproduction.runner import MicroBudget, write_json
from opensama.training.config import EditConfig
from opensama.training.edit_stage import EditStage
from opensama.training.loop import LoopConfig, Trainer
from opensama.training.sources import ItemSource
from opensama.training.tiny import latent_importance


class StageCost(TypedDict):
    """A stage's curve (flow loss and gradient norm of each step), seconds, and operations."""

    curve: list[list[float]]
    seconds: float
    flops: float


def train_micro_stage(
    name: str,
    model: torch.nn.Module,
    data: ItemsInMemory,
    config: EditConfig,
    budget: MicroBudget,
    steps: int,
    out: Path,
) -> StageCost:
    """Trains one stage; the model then holds the averaged weights."""
    stage = EditStage.of(
        name, model, ItemSource(data, config), importance=latent_importance(frozen_models().vae).sqrt()
    )
    loop = LoopConfig(
        steps=steps, lr=budget.lr, muon=2 * budget.lr, decay=0.4, ema=0.995, accumulate=stage.passes,
        log_every=60, save_every=60,
    )  # fmt: skip
    model.train()
    trainer = _CurveTrainer(stage, loop, out)
    progress = trainer.run()
    curve = [step[:2] for step in trainer.curve]
    return {"curve": curve, "seconds": progress.seconds, "flops": sum(step[2] for step in trainer.curve)}


def micro_loss(budget: MicroBudget) -> dict[str, float]:
    """The loss settings that both papers' arms share."""
    return {"shift": budget.shift, "emphasis": 9.0, "ease": 0.3}


@cache
def held_out_edits(items: int, fast: bool = False) -> HeldOutEdits:
    """The test's edits, `items` of each family, drawn once a process."""
    return HeldOutEdits.make(frozen_models(), items, fast=fast)


class _CurveTrainer(Trainer):
    """A trainer that keeps the flow loss, the gradient's norm and the operations of every step."""

    def __init__(self, stage: EditStage, config: LoopConfig, out: Path):
        super().__init__(stage, config, out)
        saved = self.out / "curve.json"
        self.curve: list[list[float]] = json.loads(saved.read_text()) if saved.exists() else []
        del self.curve[self.progress.step :]

    def step(self) -> dict[str, float]:
        values = super().step()
        self.curve.append([round(values["flow"], 5), round(values["norm"], 5), values["flops"]])
        return values

    def save(self) -> None:
        write_json(self.curve, self.out / "curve.json")
        super().save()
