"""Settings of `opensama train tiny`: how an embedded model is made, stage after stage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from opensama.models.families import find_family
from opensama.models.registry import find
from opensama.training.config import Section
from opensama.values import UserError
from opensama.values.names import SemanticRotary, TierName

if TYPE_CHECKING:
    from opensama.training.loop import LoopConfig


class StageConfig(Section):
    """How one stage is trained: its minutes, learning rates and average."""

    minutes: float = Field(ge=0, description="wall-clock minutes of training, over all resumptions")
    lr: float = Field(1e-3, gt=0, description="highest learning rate")
    muon: float = Field(0.0, ge=0, description="the same for the matrices of blocks, under Muon; 0: AdamW for all")
    decay: float = Field(0.35, ge=0, le=1, description="last part of the budget, in which the rate falls to zero")
    ema: float = Field(0.999, ge=0, lt=1, description="decay of the average of the weights")
    max_steps: int | None = Field(None, gt=0, description="end earlier, after so many steps")
    measure_every: float = Field(0.0, ge=0, description="minutes between scores on edits kept from training; 0: none")

    def loop(self) -> LoopConfig:
        """The same as settings of the loop."""
        from opensama.training.loop import LoopConfig

        same = self.model_dump(exclude={"max_steps", "measure_every"})
        return LoopConfig(**same, steps=self.max_steps, measure_every=60 * self.measure_every)


class TinyConfig(Section):
    """How an embedded model is made. An ICVE takes all but its transformer from the embedded SAMA, as it is."""

    seed: int = 0
    minutes: float = Field(
        0, ge=0, description="wall-clock minutes of the whole run, over all resumptions, shared out as the stages' "
        "minutes: drawing, scores and saving included, and pools are as large as there is time for; 0: each stage has "
        "its own minutes, and drawing comes on top"
    )  # fmt: skip
    family: str = Field("sama", description="whose transformer it is, see `models/families`")
    start_from: Path | None = Field(
        None, description="model folder of the family whose weights the editor begins from, with its autoencoder, "
        "tokenizer and image encoder as they are (an ICVE's, and its text encoder, are the embedded SAMA's); null: none"
    )  # fmt: skip
    autoencoder: StageConfig = StageConfig(minutes=6, lr=1.5e-3, decay=0.6)
    semantic: StageConfig = StageConfig(minutes=3, lr=1e-3)
    pretrain: StageConfig = StageConfig(minutes=0)
    pictures: StageConfig = StageConfig(minutes=0)
    windows: StageConfig = StageConfig(minutes=0)
    images: StageConfig = StageConfig(minutes=42, lr=1e-3, muon=2e-3)
    videos: StageConfig = StageConfig(minutes=12, lr=6e-4, muon=1.2e-3, decay=0.6)
    decoder: StageConfig = StageConfig(minutes=0, lr=7e-4, decay=0.6)

    latent_channels: int = Field(192, gt=0, description="numbers for each 16x16 pixels of four frames")
    width: int = Field(192, gt=0, description="width of the transformer, a multiple of the heads'")
    head: int = Field(64, gt=0, multiple_of=16, description="width of a head")
    layers: int = Field(7, gt=0, description="blocks of the transformer; ICVE: those of one stream")
    joint_layers: int = Field(1, ge=0, description="ICVE: blocks with a stream of their own for the text")
    text_width: int = Field(128, gt=0, multiple_of=32, description="width of the text encoder")
    text_layers: int = Field(2, gt=0, description="SAMA: blocks of the text encoder")
    vocabulary: int = Field(1024, gt=260, description="SAMA: pieces of words that the tokenizer knows")
    text_tokens: int = Field(40, gt=0, description="longest instruction, in tokens")
    semantic_width: int = Field(96, gt=0, multiple_of=32, description="SAMA: width of the image encoder")

    tier: TierName = Field("full", description="how much of the world is learnt")
    full_share: float = Field(
        0.0, ge=0, lt=1, description="share of the core's edits that are of the full world, lest it be forgotten"
    )
    shares: dict[str, PositiveFloat] = Field(
        {}, description="of the core's families among its edits; none: the tier's own"
    )
    semantic_rotary: SemanticRotary | None = Field(
        None, description="SAMA: where semantic tokens sit, see its transformer; null: as in the start, else grid"
    )

    color_rank: int = Field(
        0, ge=0, le=256, description="rank of local colours (`models/local_color.py`), which a start without any gets; "
        "0: none, or the start's"
    )  # fmt: skip
    color_shapes: int = Field(0, ge=0, description="shapes of one colour that each cell paints, likewise; 0: none")
    frame_waves: int = Field(0, ge=0, description="waves of positions in the frame, likewise; 0: none")

    textures: int = Field(256, gt=0, description="SAMA: drawn textures that the autoencoder's clips are cut from")
    texts: int = Field(20_000, gt=0, description="SAMA: instructions and captions that the tokenizer is made from")
    drawings: int = Field(640, gt=0, description="SAMA: drawn clips that the autoencoder's components are taken from")
    image_edits: int = Field(44_000, gt=0, description="pool of image edits at 128x128; half as many in other shapes")
    video_edits: int = Field(2_000, gt=0, description="pool of 17-frame edits at 128x128; half as many in other shapes")
    unpaired_stills: int = Field(16_000, gt=0, description="ICVE: pool of unpaired stills at 128x128; half in others")
    unpaired_clips: int = Field(1_600, gt=0, description="ICVE: the same of 17-frame clips")
    image_batch: int = Field(64, gt=0)
    video_batch: int = Field(16, gt=0)
    video_stills: float = Field(
        1 / 6, ge=0, lt=1, description="share of stills among the videos stage's batches of edits"
    )
    video_windows: float = Field(
        0.0, ge=0, le=1, description="share of windows among the videos stage's edits, clips and stills alike"
    )  # fmt: skip
    picture_batch: int = Field(64, gt=0, description="SAMA: drawn pictures a batch of the stage pictures")
    window_batch: int = Field(128, gt=0, description="windows a batch of the stage windows")
    window_sides: tuple[PositiveInt, ...] = Field(
        (4, 4, 5), min_length=1, description="of windows, in cells; one of them a batch"
    )
    chunk: int = Field(
        0, ge=0, description="image edits at 128x128 that are drawn at a time, half as many in other shapes, and take "
        "the oldest ones' place; 0: one pool for the whole run"
    )  # fmt: skip
    chunk_steps: int = Field(40, gt=0, description="steps after which a new chunk comes in")
    chunks: int = Field(16, gt=0, description="chunks that are drawn from at a time")
    workers: int = Field(0, ge=0, description="processes of one core each that draw the pools; 0: threads")
    test_edits: int = Field(512, gt=0, description="edits of each tier's test split that scores are measured on")
    decoder_answers: int = Field(0, ge=0, description="SAMA: the editor's answers a batch of the stage decoder")
    pretext: float = Field(0.3, ge=0, lt=1, description="SAMA: share of the videos stage's batches with pretext tasks")
    pretext_clips: int = Field(1_600, gt=0, description="their pool of clips at 128x128; half as many in other shapes")
    shift: float = Field(12.0, gt=0, description="shift of the training noise levels")
    emphasis: float = Field(9.0, ge=1, description="weight of the changed region in the loss")
    objects: float = Field(
        0.0, ge=0, description="weight of a loss by which tokens learn to tell what lies in their cells "
        "(`training/cell_objects.py`)"
    )  # fmt: skip
    text_dropout: float = Field(0.1, ge=0, le=1)
    word_dropout: float = Field(
        0.0, ge=0, lt=1, description="chance of each token to be left out, in half of the texts: no sentence is then "
        "learnt by heart"
    )  # fmt: skip

    @model_validator(mode="after")
    def _fit(self) -> Self:
        find_family(self.family)
        if self.width % self.head:
            raise ValueError(f"width must be a multiple of {self.head}, the width of a head")
        if self.color_shapes and not self.color_rank:
            raise ValueError("color_shapes are painted by local colours: set color_rank, too, or color_shapes=0")
        if self.video_windows and "windows" not in self.stages:
            raise ValueError(f"{self.family} is not trained on windows: set video_windows=0")
        if self.objects and "windows" not in self.stages:
            raise ValueError(f"{self.family} is not trained to tell objects: set objects=0")
        for name in ("full_share", "shares"):
            if getattr(self, name) and self.tier != "core":
                raise ValueError(f"{name} is of a run on the core: set tier=core, or leave {name} out")
        if self.shares:
            from opensama.training.drawing import TIER_SHARES

            known = TIER_SHARES["core"]
            if unknown := self.shares.keys() - known.keys():
                raise ValueError(f"shares are of {', '.join(known)}, not of {', '.join(sorted(unknown))}")
        return self

    def check_start(self) -> None:
        """UserError where a run has nothing to begin from, or a model of another family."""
        given = self.start_from
        if given is None:
            if "autoencoder" in self.stages and not self.autoencoder.minutes:
                raise UserError("These settings train a finished model further: name its folder with `start_from`.")
            return
        if not (given / "model_index.json").is_file():
            raise UserError(
                f"{given} is no model folder (it has no model_index.json); check the name after `start_from`."
            )
        if (family := find(given).family) != self.family:
            recipe, name = find_family(family).recipe, self.family.upper()
            raise UserError(f"{given} is no {name} model: choose another for `start_from`, or the recipe {recipe}.")

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the family's stages, in their order."""
        return find_family(self.family).stages

    @property
    def transformer_sizes(self) -> dict[str, object]:
        """Keyword arguments of the family's transformer."""
        return find_family(self.family).embedded(self)
