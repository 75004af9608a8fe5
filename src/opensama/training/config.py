"""Settings of an editor's training: typed, checked, saved as YAML beside the run and read back from there.

`recipes/sama.py`, `recipes/icve.py` and `recipes/bernini.py` give them their values. [paper]: stated there. [release]:
from the released code or weights. All else is a default of ours.
"""

from __future__ import annotations

from math import isqrt
from pathlib import Path
from typing import ClassVar, Literal, Self, TypedDict

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from opensama.models.families.bernini import FAMILY as BERNINI
from opensama.values.names import SemanticRotary, SourceRotary, TimeSampling


class Section(BaseModel):
    """A part of the settings; a field that does not exist is an error."""

    model_config = ConfigDict(extra="forbid", validate_default=True)

    def save(self, path: Path) -> None:
        path.write_text(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False))

    @classmethod
    def read(cls, path: Path) -> Self:
        """The settings that `save` wrote. ValidationError for a field that does not exist."""
        return cls(**yaml.safe_load(path.read_text()))


class StartSettings(Section):
    """The base model, and the weights that its transformer begins from."""

    base: str = Field(description="folder or hub repository in diffusers' layout: text encoder, autoencoder, sizes")
    start: str
    weights: Path | None = Field(
        None, description="a released file or a transformer's folder of trained weights; null: the base's own"
    )

    @property
    def own_sizes(self) -> dict[str, object] | None:
        """Arguments of the transformer where they are not the base's."""
        return None

    @property
    def condition_kwargs(self) -> dict[str, float]:
        """What its family's `condition` and `prompt` take besides the batch."""
        return {}

    @property
    def text_settings(self) -> dict[str, float | None]:
        """What the pipeline's defaults say besides of how it encodes text; encoded texts depend on it."""
        return {}

    @property
    def guidance_settings(self) -> dict[str, float | None]:
        """What the trained model's defaults say of the guidance that it reads."""
        return {}


class BerniniModelSettings(StartSettings):
    """Bernini's transformer that is trained, and what it begins from. It has no tensor that Wan's has not."""

    start: Literal["wan", "bernini"] = Field(
        "wan",
        description="wan: the base's weights under Wan's own names, Bernini-R's or text-to-video ones; bernini: "
        "weights that were trained here",
    )


class ModelSettings(StartSettings):
    """SAMA's transformer that is trained, and what it begins from."""

    start: Literal["wan", "sama"] = Field(
        "wan", description="wan: text-to-video weights of the base, type embedding zero; sama: trained SAMA weights"
    )
    source_rotary: SourceRotary | None = Field(
        None,
        description="null: as the weights have it that training begins from, else shared [paper]; phase: as Bernini's "
        "weights know a source",
    )
    semantic_rotary: SemanticRotary | None = Field(
        None,
        description="null: as the weights have it that training begins from, else zero [release]; grid tells a token "
        "its place and its frame",
    )
    type_embedding: bool = Field(True, description="[paper] true")
    semantic_gate: bool = Field(
        False,
        description="the video reads the semantic tokens apart, times a learned number a block, at first 0: the base's "
        "velocity is not changed by them; false: one attention over all tokens [release]",
    )
    source_time: Literal["same", "zero"] | None = Field(
        None,
        description="null: as the weights have it that training begins from, else same [release]: the source's time "
        "is the target's; zero: it is 0",
    )


class IcveModelSettings(StartSettings):
    """ICVE's transformer that is trained, and what it begins from."""

    start: Literal["hunyuan", "icve", "nothing"] = Field(
        "hunyuan",
        description="hunyuan: text-to-video weights of the base [paper]; icve: trained ICVE weights; nothing: random "
        "ones of `sizes`",
    )
    sizes: dict[str, object] | None = Field(
        None, description="arguments of IcveTransformer3DModel where they are not the base's; null: those of the base"
    )
    source_time: Literal["zero", "same"] | None = Field(
        None,
        description="null: as the weights have it that training begins from, else zero [release]: the source is "
        "modulated as clean",
    )
    guidance: float = Field(1.0, gt=0, description="the number the model reads, times 1000 [release, at inference]")
    text_layer: int = Field(-3, lt=0, description="[release] which hidden state of the text encoder is read")

    @property
    def own_sizes(self) -> dict[str, object] | None:
        return self.sizes

    @property
    def condition_kwargs(self) -> dict[str, float]:
        return {"guidance": self.guidance}

    @property
    def text_settings(self) -> dict[str, float | None]:
        return {"text_layer": self.text_layer}

    @property
    def guidance_settings(self) -> dict[str, float | None]:
        reads = (self.sizes or {}).get("guidance_embeds", True)
        return {"embedded_guidance": self.guidance if reads else None}


class SemanticSettings(Section):
    """Semantic anchoring: which features of the target are predicted beside it. [paper] SigLIP, 64 + 1 tokens."""

    encoder: str | None = Field(
        "google/siglip-so400m-patch14-384", description="SigLIP folder or hub repository; null: no semantic tokens"
    )
    width: int = Field(1152, gt=0, description="[release] width of its features")
    grid: int = Field(8, gt=0, le=32, description="[paper] local tokens a side, by adaptive average pooling")
    global_token: Literal["attention", "mean"] = Field("attention", description="how the global token is pooled")
    order: Literal["local_first", "global_first"] = Field("local_first", description="order of an anchor's tokens")
    anchors: int = Field(1, ge=1, le=8, description="[paper] anchor frames a video, spread evenly, the first included")

    @property
    def tokens_per_anchor(self) -> int:
        """The local tokens and the global one."""
        return self.grid**2 + 1


class DataSettings(Section):
    """What is seen, at which size, and how much of it a step."""

    manifest: Path | None = Field(None, description="Parquet, JSONL or CSV")
    latents: Path | None = Field(
        None, description="folder of latents made beforehand, in place of encoding in the step"
    )
    area: int = Field(832 * 480, gt=0, description="pixels of a frame: the buckets have about so many [paper: 480p]")
    multiple: int = Field(32, gt=0, description="sides are multiples of so many pixels [release]")
    frames: int = Field(81, gt=0, description="longest clip, in frames: 4k+1 [release]")
    images: int = Field(448, ge=0, description="images a step, over all processes [paper]")
    videos: int = Field(112, ge=0, description="videos a step, over all processes [paper]")
    image_batch: int = Field(8, gt=0, description="images that a process takes at once")
    video_batch: int = Field(2, gt=0, description="videos that a process takes at once")
    clips: bool = Field(True, description="whether rows without a source are taken; stage 1 learns from edits alone")
    pretext: dict[str, float] = Field(
        {"none": 1, "cube": 2, "speed": 3, "tube": 4}, description="shares of the pretext tasks on clips [paper]"
    )
    variants: int = Field(4, gt=0, description="how many ways a clip is seen in, each with a task of its own")
    prefix: str = Field("[Video edit] ", description="before instructions [release, at inference]")
    no_text: str = Field("[Video edit]", description="what stands for dropped text [release: the negative prompt]")
    text_dropout: float = Field(0.1, ge=0, le=1, description="share of samples without their text")
    text_tokens: int = Field(512, gt=0, description="longest text, in tokens [release]")
    keep: Literal["bfloat16", "float16", "float32"] = Field("bfloat16", description="number type of cached latents")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.frames % 4 != 1:
            raise ValueError(f"frames must be 4k+1, such as 49 or 81, not {self.frames}")
        if isqrt(self.area) < self.multiple:
            raise ValueError(
                f"an area of {self.area} pixels holds no side of {self.multiple}: raise area or lower multiple"
            )
        if not self.images and not self.videos:
            raise ValueError("images and videos are both 0 a step: raise one")
        return self

    @property
    def negative_prompt(self) -> str:
        """What the trained model is asked with as the negative prompt."""
        return self.no_text


class IcveDataSettings(DataSettings):
    """ICVE's: pairs of clips with an instruction; nothing else is seen."""

    area: int = Field(384 * 240, gt=0, description="pixels of a frame: the buckets have about so many [release]")
    multiple: int = Field(16, gt=0, description="sides are multiples of so many pixels [release]")
    images: int = Field(0, ge=0, description="images a step, over all processes")
    videos: int = Field(64, ge=0, description="pairs a step, over all processes")
    image_batch: int = Field(1, gt=0, description="images that a process takes at once")
    video_batch: int = Field(1, gt=0, description="pairs that a process takes at once")
    pretext: dict[str, float] = Field({"none": 1}, description="shares of the pretext tasks on clips that have no pair")
    variants: int = Field(1, gt=0, description="how many ways such a clip is seen in")
    prefix: str = Field("", description="before instructions [release: none]")
    no_text: str = Field("", description="what stands for dropped text")
    text_tokens: int = Field(256, gt=0, description="longest text, in tokens [release]")


class BerniniDataSettings(DataSettings):
    """Bernini's: edits with an instruction, of images and videos."""

    area: int = Field(230_400, gt=0, description="pixels of a frame [release: the training code's preprocessing]")
    multiple: int = Field(16, gt=0, description="sides are multiples of so many pixels [release]")
    images: int = Field(64, ge=0, description="images a step, over all processes")
    videos: int = Field(16, ge=0, description="videos a step, over all processes")
    clips: bool = Field(False, description="whether rows without a source are taken")
    pretext: dict[str, float] = Field({"none": 1}, description="shares of the pretext tasks on clips that have no pair")
    variants: int = Field(1, gt=0, description="how many ways such a clip is seen in")
    prefix: str = Field(BERNINI.defaults.prompt_prefix, description="before instructions [release]")
    no_text: str = Field(
        BERNINI.defaults.prompt_prefix, description="what stands for dropped text [release: the prefix alone]"
    )

    @property
    def negative_prompt(self) -> str:
        return BERNINI.defaults.negative_prompt


class NoiseLevels(TypedDict, total=False):
    """How noise levels are drawn: arguments of `flow.sample_sigma`."""

    how: TimeSampling
    shift: float
    mean: float
    scale: float


class FlowSettings(Section):
    """Rectified flow on the target's latents."""

    time: TimeSampling = Field("uniform", description="how noise levels are drawn, before the shift")
    shift: float = Field(5.0, gt=0, description="shift of the noise levels [release, at inference]; 1: none")
    emphasis: float = Field(1.0, ge=1, description="weight of what an edit changes; 1: everything counts the same")
    ease: float = Field(0.0, ge=0, lt=1, description="below this noise level errors count less; 0: the plain loss")

    def times(self, kind: Literal["image", "video"]) -> NoiseLevels:
        """Those of an image or a video."""
        return {"how": self.time, "shift": self.shift}


class BerniniLossSettings(FlowSettings):
    """Bernini's: noise levels of images are drawn in a way of their own. As the 14B model's training code has it."""

    time: TimeSampling = Field("mode", description="how those of videos are drawn, before the shift [release, of 14B]")
    scale: float = Field(1.29, description="how much likelier mode makes middle levels [release, of 14B]")
    image_time: TimeSampling = Field("logit_normal", description="the same of images [release, of 14B]")
    mean: float = Field(0.5, description="of the normal distribution of logit_normal [release, of 14B]")

    def times(self, kind: Literal["image", "video"]) -> NoiseLevels:
        how = self.image_time if kind == "image" else self.time
        return {"how": how, "shift": self.shift, "mean": self.mean, "scale": self.scale}


class LossSettings(FlowSettings):
    """The same, and the L1 of the semantic velocities."""

    semantic: float = Field(0.1, ge=0, description="weight of the semantic loss [paper]")


class IcveLossSettings(FlowSettings):
    """ICVE's: at its own shift."""

    shift: float = Field(7.0, gt=0, description="shift of the noise levels [release, at inference]; 1: none")


class OptimizerSettings(Section):
    """AdamW and the average of the weights."""

    steps: int = Field(20_000, gt=0, description="steps of the optimizer")
    epochs: float | None = Field(None, gt=0, description="so often over the data, in place of a number of steps")
    lr: float = Field(2e-5, gt=0, description="[paper]")
    warmup: float = Field(0.02, ge=0, le=1, description="first part of the steps, in which the rate rises")
    decay: float = Field(0.0, ge=0, le=1, description="last part of the steps, in which it falls to zero")
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(0.01, ge=0)
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    ema: float = Field(0.9998, ge=0, lt=1, description="decay of the average, after every step [paper]")
    ema_warmup: int | None = Field(
        100,
        ge=0,
        description="first steps, in which the average forgets quicker (decay (1 + step) / (10 + step), at most ema), "
        "so that little is left of where training began; null: all steps, for short runs (ema=0.9998 is then reached "
        "at step 44,990)",
    )
    skip_loss: float | None = Field(None, gt=1, description="leave steps out whose loss is so many times the median")
    skip_norm: float | None = Field(10.0, gt=1, description="the same for the gradient's norm")
    nonfinite: int = Field(
        10,
        gt=0,
        description="steps without a finite loss and gradient are left out; so many in a row end the run",
    )


class LoraSettings(Section):
    """Low-rank training in place of all weights. From Wan weights, what SAMA adds to them is trained beside it."""

    rank: int = Field(64, gt=0)
    alpha: int = Field(64, gt=0)
    targets: tuple[str, ...] = Field(
        ("to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2"),
        min_length=1,
        description="names of layers in blocks",
    )
    merge: bool = Field(False, description="at the end also write the whole model, with the LoRA added in")


class MeshSettings(Section):
    """How processes share the work: their number is replicate x shard, and context of these work on one sample."""

    replicate: int = Field(1, ge=1, description="copies of the sharded model (HSDP)")
    shard: int | None = Field(None, ge=1, description="processes that share one copy's weights; null: all there are")
    context: int = Field(1, ge=1, description="processes that share one sample's tokens; divides the heads")
    checkpointing: Literal["none", "selective", "full"] = Field("full", description="activations that are recomputed")
    compile: bool = Field(False, description="compile the repeated blocks")


class MachineSettings(Section):
    """The machine at hand: threads that read, and what --dry-run reckons with. Published figures: docs/train.md."""

    workers: int = Field(2, gt=0, description="threads of a process that read ahead, and as many batches that it keeps")
    gpus: int = Field(8, gt=0, description="for predictions; in training it is what torchrun starts")
    memory: float = Field(141.0, gt=0, description="gigabytes (10^9) a GPU")
    tflops: float = Field(229.0, gt=0, description="10^12 operations of the model a second and GPU, as trainers reach")
    price: float = Field(3.39, ge=0, description="US dollars a GPU and hour")


class EditConfig(Section):
    """One stage of an editor's training: what all families have."""

    family: ClassVar[str]

    seed: int = 0
    model: StartSettings
    data: DataSettings = DataSettings()
    loss: FlowSettings = FlowSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    lora: LoraSettings | None = None
    mesh: MeshSettings = MeshSettings()
    machine: MachineSettings = MachineSettings()
    compute: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="number type of the forward pass; auto: bfloat16, float32 on processors that are slow at it"
    )
    save_every: float = Field(1800.0, gt=0, description="seconds between checkpoints")
    preview_every: int | None = Field(None, gt=0, description="steps between videos of a few fixed samples; null: none")
    trackers: tuple[str, ...] = Field((), description="of tensorboard, wandb, trackio")

    @property
    def anchoring(self) -> SemanticSettings | None:
        """Settings of the semantic tokens, where the model predicts some."""
        return None

    @property
    def sizes(self) -> dict[str, object]:
        """Arguments of the transformer that are the settings', not its base's."""
        return {}

    def with_lora(self, lora: LoraSettings, lr: float = 1e-4) -> Self:
        """The same with low-rank matrices in place of all weights, at the rate that these want."""
        optimizer = self.optimizer.model_copy(update={"lr": lr})
        return self.model_copy(update={"lora": lora, "optimizer": optimizer})


class SamaConfig(EditConfig):
    """One stage of SAMA's training."""

    family: ClassVar[str] = "sama"

    model: ModelSettings
    semantic: SemanticSettings = SemanticSettings()
    loss: LossSettings = LossSettings()

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.semantic.order == "global_first" and self.model.semantic_rotary == "grid":
            raise ValueError("semantic.order global_first has no grid positions: set model.semantic_rotary to zero")
        return self

    @property
    def anchoring(self) -> SemanticSettings | None:
        return self.semantic if self.semantic.encoder else None

    @property
    def sizes(self) -> dict[str, object]:
        chosen = ("source_rotary", "semantic_rotary", "source_time")
        return {
            **{name: value for name in chosen if (value := getattr(self.model, name)) is not None},
            "type_embedding": self.model.type_embedding,
            "semantic_gate": self.model.semantic_gate,
            "semantic_dim": self.semantic.width if self.semantic.encoder else None,
            "semantic_tokens_per_anchor": self.semantic.tokens_per_anchor,
            "num_anchors": self.semantic.anchors,
        }


class BerniniConfig(EditConfig):
    """One stage of Bernini's training: clean sources before the target, of which the loss is."""

    family: ClassVar[str] = BERNINI.name

    model: BerniniModelSettings
    data: BerniniDataSettings = BerniniDataSettings()
    loss: BerniniLossSettings = BerniniLossSettings()


class IcveConfig(EditConfig):
    """One stage of ICVE's training."""

    family: ClassVar[str] = "icve"

    model: IcveModelSettings
    data: IcveDataSettings = IcveDataSettings()
    loss: IcveLossSettings = IcveLossSettings()

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.model.sizes is not None and self.model.start == "hunyuan":
            raise ValueError("model.sizes would make another model than the base's: set model.start=nothing, or icve")
        return self

    @property
    def sizes(self) -> dict[str, object]:
        return {} if self.model.source_time is None else {"source_time": self.model.source_time}
