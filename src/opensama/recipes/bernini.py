"""Recipes on the 1.3B weights of Bernini-R: Bernini itself trained further, and a SAMA that begins there.

    bernini-1.3b-sft             edits: clean sources, the loss on the target, all weights or low-rank
    sama-bernini-1.3b-stage0     SAMA's stage 0 on a small budget: Bernini's weights and its rotary phase, so that it
                                 edits from the first step on; type embedding and semantic gates begin at zero
    sama-bernini-1.3b-stage1     SAMA's stage 1, from the first stage's weights

Of Bernini's training only the 14B model's code is known, not its data, rates and steps; what is known is marked field
by field in `training/config.py`. Batches, steps and sizes here are ours, for one GPU.
"""

from __future__ import annotations

from collections.abc import Callable

from opensama.models.registry import BERNINI_1_3B
from opensama.recipes.sama import stage_0, stage_1
from opensama.training.config import (
    BerniniConfig,
    BerniniModelSettings,
    DataSettings,
    EditConfig,
    LoraSettings,
    MachineSettings,
    OptimizerSettings,
    SamaConfig,
)

assert BERNINI_1_3B.base is not None
BERNINI_1B = BERNINI_1_3B.base.repo
ONE_GPU = MachineSettings(gpus=1, memory=80.0)
_ASKED = BERNINI_1_3B.defaults.prompt_prefix


def _optimizer(steps: int) -> OptimizerSettings:
    """A shorter average for fewer steps."""
    return OptimizerSettings(steps=steps, ema=0.999)


def _small_sama(stage: Callable[..., SamaConfig], steps: int) -> SamaConfig:
    """A stage at 640x384 and 49 frames, images and videos 4 : 1 as in the paper. Asked in the words Bernini knows."""
    data = DataSettings(
        area=640 * 384, frames=49, images=32, videos=8, image_batch=8, video_batch=1, prefix=_ASKED, no_text=_ASKED,
    )  # fmt: skip
    config = stage(BERNINI_1B, data=data, optimizer=_optimizer(steps), machine=ONE_GPU)
    model = config.model.model_copy(update={"source_rotary": "phase", "semantic_gate": True})
    return config.model_copy(update={"model": model})


RECIPES: dict[str, EditConfig] = {
    "bernini-1.3b-sft": BerniniConfig(
        model=BerniniModelSettings(base=BERNINI_1B), optimizer=_optimizer(5_000), machine=ONE_GPU
    ),
    "sama-bernini-1.3b-stage0": _small_sama(stage_0, 3_000),
    "sama-bernini-1.3b-stage1": _small_sama(stage_1, 2_000),
}
RECIPES |= {f"{name}-lora": config.with_lora(LoraSettings()) for name, config in list(RECIPES.items())}
