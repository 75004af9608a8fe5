"""SAMA's recipes: the paper's two stages on Wan 14B, the same on smaller models, and LoRA.

    stage 0    image edits and plain clips: semantic anchoring on both, pretext tasks on the clips
    stage 1    video edits and a portion of image edits; begins from stage 0's weights

What is the paper's and what is ours is marked field by field in `training/config.py`.
"""

from __future__ import annotations

from typing import TypedDict, Unpack

from opensama.models.registry import TINY
from opensama.training.config import (
    DataSettings,
    LoraSettings,
    LossSettings,
    MachineSettings,
    MeshSettings,
    ModelSettings,
    OptimizerSettings,
    SamaConfig,
    SemanticSettings,
)

WAN_14B = "Wan-AI/Wan2.1-T2V-14B-Diffusers"
WAN_1B = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
WAN_5B = "Wan-AI/Wan2.2-TI2V-5B-Diffusers"

MESH_14B = MeshSettings(context=2)  # 81 frames of source and target: 65,585 tokens a sample


class StageChanges(TypedDict, total=False):
    """Parts of a stage's settings that are other than its own."""

    optimizer: OptimizerSettings
    mesh: MeshSettings
    machine: MachineSettings


def stage_0(base: str, *, data: DataSettings | None = None, **changes: Unpack[StageChanges]) -> SamaConfig:
    """From text-to-video weights. Clips are read from the same manifest as image edits, told apart by their columns."""
    return SamaConfig(model=ModelSettings(base=base), data=data or DataSettings(), **changes)


def stage_1(base: str, *, data: DataSettings | None = None, **changes: Unpack[StageChanges]) -> SamaConfig:
    """The same numbers on video edits, without plain clips. `--set model.weights=STAGE_0` goes on from stage 0."""
    data = (data or DataSettings()).model_copy(update={"clips": False})
    return SamaConfig(model=ModelSettings(base=base, start="sama"), data=data, **changes)


def adapted(base: str, *, data: DataSettings, **changes: Unpack[StageChanges]) -> SamaConfig:
    """Stage 1's data on a base for which there are no stage 0's weights: it begins from text-to-video weights."""
    config = stage_1(base, data=data, **changes)
    return config.model_copy(update={"model": ModelSettings(base=base)})


# Wan2.2-TI2V-5B: its autoencoder has 16x16 pixels a cell, so 704p has as many tokens as 480p elsewhere.
DATA_5B = DataSettings(area=1280 * 704)


def _tiny(clips: bool) -> SamaConfig:
    """The embedded model on your own clips: the whole way on a laptop. Its loss and noise levels are its own."""
    assert TINY.folder is not None
    return SamaConfig(
        model=ModelSettings(base=str(TINY.folder), start="sama"),
        semantic=SemanticSettings(encoder=str(TINY.folder / "semantic_encoder"), width=96, grid=4),
        data=DataSettings(
            clips=clips,
            area=128 * 128,
            multiple=16,
            frames=17,
            images=32,
            videos=8,
            image_batch=32,
            video_batch=8,
            prefix="",
            no_text="",
            text_tokens=TINY.defaults.max_text_tokens,
        ),
        loss=LossSettings(shift=12.0, emphasis=9.0, ease=0.3),
        optimizer=OptimizerSettings(lr=2e-4, steps=200, ema=0.99, ema_warmup=None),
        mesh=MeshSettings(checkpointing="none"),
        machine=MachineSettings(gpus=1, memory=16.0, tflops=0.2, price=0.0),  # a laptop's two cores, as measured
        save_every=120.0,
    )


RECIPES: dict[str, SamaConfig] = {
    "sama-14b-stage0": stage_0(WAN_14B, mesh=MESH_14B),
    "sama-14b-stage1": stage_1(WAN_14B, mesh=MESH_14B),
    "sama-1.3b-stage0": stage_0(WAN_1B),
    "sama-1.3b-stage1": stage_1(WAN_1B),
    "wan2.2-ti2v-5b": adapted(WAN_5B, data=DATA_5B),
    "tiny-stage0": _tiny(clips=True),
    "tiny-stage1": _tiny(clips=False),
}
RECIPES |= {f"{name}-lora": config.with_lora(LoraSettings()) for name, config in list(RECIPES.items())}
