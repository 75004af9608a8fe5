"""Settings of a training run: typed, checked, saved as YAML beside the run and read back from there."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field

from opensama.training.loop import LoopConfig


class StageConfig(BaseModel):
    """One stage of a run."""

    model_config = ConfigDict(extra="forbid")

    minutes: float = Field(ge=0, description="wall-clock minutes of training, over all resumptions")
    lr: float = Field(1e-3, gt=0, description="highest learning rate")
    muon: float = Field(0.0, ge=0, description="the same for the matrices of blocks, under Muon; 0: AdamW for all")
    decay: float = Field(0.35, ge=0, le=1, description="last part of the budget, in which the rate falls to zero")
    ema: float = Field(0.999, ge=0, lt=1, description="decay of the average of the weights")
    max_steps: int | None = Field(None, gt=0, description="end earlier, after so many steps")

    def loop(self) -> LoopConfig:
        return LoopConfig(
            self.minutes, lr=self.lr, muon=self.muon, decay=self.decay, ema=self.ema, max_steps=self.max_steps
        )


class TinyConfig(BaseModel):
    """How the embedded model is made. The transformer's letters: width d, heads of 64."""

    model_config = ConfigDict(extra="forbid")

    seed: int = 0
    autoencoder: StageConfig = StageConfig(minutes=30, lr=1e-3, decay=0.45)
    semantic: StageConfig = StageConfig(minutes=4, lr=1e-3)
    images: StageConfig = StageConfig(minutes=45, lr=1e-3, muon=2e-3)
    videos: StageConfig = StageConfig(minutes=22, lr=6e-4, muon=1.2e-3, decay=0.6)

    latent_channels: int = Field(192, gt=0, description="numbers for each 16x16 pixels of four frames")
    width: int = Field(192, gt=0, multiple_of=64, description="width of the transformer")
    layers: int = Field(7, gt=0, description="blocks of the transformer")
    text_width: int = Field(128, gt=0, multiple_of=32)
    text_layers: int = Field(2, gt=0)
    vocabulary: int = Field(1024, gt=260, description="pieces of words that the tokenizer knows")
    text_tokens: int = Field(40, gt=0, description="longest instruction, in tokens")
    semantic_width: int = Field(96, gt=0, multiple_of=32)

    textures: int = Field(256, gt=0, description="drawn textures that the autoencoder's clips are cut from")
    image_edits: int = Field(44_000, gt=0, description="pool of image edits at 128x128; half as many in other shapes")
    video_edits: int = Field(2_000, gt=0, description="pool of 17-frame edits at 128x128; half as many in other shapes")
    image_batch: int = Field(64, gt=0)
    video_batch: int = Field(16, gt=0)
    shift: float = Field(12.0, gt=0, description="shift of the training noise levels")
    emphasis: float = Field(9.0, ge=1, description="weight of the changed region in the loss")
    text_dropout: float = Field(0.1, ge=0, le=1)

    def save(self, path: Path) -> None:
        path.write_text(yaml.safe_dump(self.model_dump(), sort_keys=False))

    @classmethod
    def read(cls, path: Path) -> TinyConfig:
        return cls(**yaml.safe_load(path.read_text()))
