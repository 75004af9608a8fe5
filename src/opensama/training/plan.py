"""What a run will cost before it begins: parameters, tokens, operations, memory, hours and price.

S joint tokens of one sample, T text tokens, d width, f width inside the feed-forward, L blocks; 2 operations a product:

    linear = S L 2 (6 d^2 + 2 d f)      self-attention q k v o, cross-attention q o, feed-forward
    attention = L 4 S^2 d               cross = L 4 S T d               text = L 4 T d^2 + 2 T (e d + d^2)
    training = 3 x forward; low-rank: the weights' own gradients are left out (2 x linear)

Counted as `torch.utils.flop_counter` does; the recomputation of activations is not counted, as in published figures.
Memory: fp32 weights, gradients, two moments and the average are sharded; then activations, gathered blocks, encoders.
These are predictions. What was measured stands in docs/train.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accelerate import init_empty_weights

from opensama.data.samples import Shape
from opensama.models.lora import add_lora
from opensama.models.sama import SamaTransformer3DModel
from opensama.pipeline.buckets import buckets
from opensama.training.config import SamaConfig
from opensama.values import UserError, VideoShape

# Bytes that one block keeps for its backward pass, a token and number of its width, with bfloat16 autocast (measured by
# saved-tensor hooks, tests/training/test_plan.py); of these, what is kept when norms and activations are recomputed.
BLOCK_BYTES, SELECTIVE_BYTES, INPUT_BYTES = 87.0, 28.0, 2.0
ENCODER_GB = {"text encoder": 11.4, "autoencoder": 0.5, "image encoder": 0.9}
ENCODER_TFLOPS = 120.0  # 3D convolutions reach less than matrices do: published figures lie between 70 and 180
VAE_FLOPS = 5.07e6  # the Wan2.1 encoder's operations a pixel of a frame
TEXT_FLOPS = 5.8e12  # UMT5-XXL for 512 tokens


@dataclass(frozen=True)
class Sizes:
    """What decides a transformer's cost, and how its autoencoder divides a video."""

    d: int
    ffn: int
    layers: int
    text_dim: int
    freq: int
    channels: int
    patch: tuple[int, int, int]
    semantic_dim: int
    semantic_hidden: int
    temporal: int = 4
    spatial: int = 8

    @classmethod
    def of(cls, config: Mapping[str, Any], spatial: int = 8) -> Sizes:
        """From a SamaTransformer3DModel's config."""
        return cls(
            d=config["num_attention_heads"] * config["attention_head_dim"],
            ffn=config["ffn_dim"],
            layers=config["num_layers"],
            text_dim=config["text_dim"],
            freq=config["freq_dim"],
            channels=config["in_channels"],
            patch=tuple(config["patch_size"]),
            semantic_dim=config["semantic_dim"] or 0,
            semantic_hidden=config["semantic_hidden"],
            spatial=spatial,
        )

    def tokens(self, frames: int, height: int, width: int) -> int:
        """Tokens of one stream."""
        cells = VideoShape(frames, height, width).latent(self.temporal, self.spatial)
        return (cells.frames // self.patch[0]) * (cells.height // self.patch[1]) * (cells.width // self.patch[2])

    def joint(self, shape: Shape, semantic: int) -> int:
        """Tokens of source, anchors and target together."""
        target, source = (self.tokens(t, shape.height, shape.width) for t in (shape.frames, shape.source_frames))
        return source + semantic + target


def forward_flops(sizes: Sizes, tokens: int, text: int, *, semantic: int = 0, target: int | None = None) -> float:
    """Operations of one forward pass for one sample."""
    linear, attention = _parts(sizes, tokens, text, semantic=semantic, target=target)
    return linear + attention


def training_flops(sizes: Sizes, tokens: int, text: int, *, semantic: int = 0, full: bool = True) -> float:
    """Operations of forward and backward for one sample."""
    linear, attention = _parts(sizes, tokens, text, semantic=semantic)
    return (3 if full else 2) * linear + 3 * attention


def _parts(
    sizes: Sizes, tokens: int, text: int, *, semantic: int = 0, target: int | None = None
) -> tuple[float, float]:
    d, layers, cell = sizes.d, sizes.layers, sizes.channels * math.prod(sizes.patch)
    latents = tokens - semantic
    target = latents // 2 if target is None else target
    blocks = tokens * layers * 2 * (6 * d**2 + 2 * d * sizes.ffn)
    words = layers * 4 * text * d**2 + 2 * text * (sizes.text_dim * d + d**2)
    time = 2 * (sizes.freq * d + 7 * d**2)
    ends = 2 * (latents + target) * cell * d
    anchors = (
        2 * semantic * (sizes.semantic_dim * sizes.semantic_hidden + sizes.semantic_hidden * d + sizes.semantic_dim * d)
    )
    return blocks + words + time + ends + anchors, layers * 4 * tokens * (tokens + text) * d


# Sizes of the bases that recipes name, so that a plan needs no download.
KNOWN: dict[str, dict[str, Any]] = {
    "Wan-AI/Wan2.1-T2V-14B-Diffusers": {},
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers": {
        "num_attention_heads": 24,
        "ffn_dim": 14336,
        "num_layers": 30,
        "in_channels": 48,
        "out_channels": 48,
    },
}
SPATIAL = {"Wan-AI/Wan2.2-TI2V-5B-Diffusers": 16}


@dataclass(frozen=True)
class Plan:
    """A prediction for one run."""

    parameters: int
    trained: int
    gpus: int
    passes: int
    tokens: float  # a step
    flops: float  # a step
    memory: Mapping[str, float]  # gigabytes a GPU, by what for
    available: float
    seconds: float  # a step
    encoding: float  # of these, for encoding in the step
    steps: int
    price: float  # a GPU and hour

    @property
    def gigabytes(self) -> float:
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        return self.gigabytes <= self.available

    @property
    def hours(self) -> float:
        return self.steps * self.seconds / 3600

    @property
    def dollars(self) -> float:
        return self.hours * self.gpus * self.price

    def table(self) -> str:
        """For people."""
        share = "" if self.trained == self.parameters else f", {self.trained / 1e6:,.1f} M of them trained"
        rows = {
            "parameters": f"{self.parameters / 1e9:.3g} B{share}",
            "passes a step": f"{self.passes} on each group of GPUs that shares a sample",
            "tokens a step": f"{self.tokens / 1e6:.3g} M",
            "FLOPs a step": f"{self.flops / 1e15:,.3g} PF",
            "memory a GPU": f"{self.gigabytes:.1f} GB of {self.available:g}{'' if self.fits else '  DOES NOT FIT'}",
            **{f"  {name}": f"{size:.1f} GB" for name, size in self.memory.items()},
            "a step": f"{self.seconds:,.1f} s on {self.gpus} GPUs"
            + (f", {self.encoding:,.1f} s of them encoding (--encode beforehand saves them)" if self.encoding else ""),
            "all": f"{self.steps:,} steps, {self.hours:,.0f} hours, {self.hours * self.gpus:,.0f} GPU-hours",
            **({} if self.fits else {"to fit": "more GPUs, mesh.context, --encode, or a smaller data.video_batch"}),
            "price": f"${self.dollars:,.0f} at ${self.price:g} a GPU-hour",
        }
        wide = max(map(len, rows))
        return "\n".join(f"{name:<{wide}}  {value}" for name, value in rows.items())


def make_plan(
    config: SamaConfig, model: Mapping[str, Any], shapes: Sequence[Shape], *, spatial: int = 8, gpus: int | None = None
) -> Plan:
    """The plan of a run on data of these shapes, with a transformer of this config.

    Operations are of the mean sample, memory of the longest. UserError where GPUs, batches or heads do not divide.
    """
    sizes, gpus = Sizes.of(model, spatial), gpus or config.machine.gpus
    data, mesh = config.data, config.mesh
    shard = mesh.shard or gpus // mesh.replicate
    check_mesh(config, model, gpus)
    readers = gpus // mesh.context
    per_anchor = config.semantic.tokens_per_anchor if config.semantic.encoder else 0

    passes, tokens, flops, encoding, longest = 0, 0.0, 0.0, 0.0, 0
    for kind, a_step, batch in (("image", data.images, data.image_batch), ("video", data.videos, data.video_batch)):
        if not a_step:
            continue
        of_kind = [shape for shape in shapes if shape.kind == kind]
        if not of_kind:
            raise UserError(
                f"The data has no {kind}s, but {a_step} are wanted a step: add some, or set data.{kind}s=0."
            )
        passes += count_passes(kind, a_step, batch, readers)
        joints, costs, pixels = [], [], []
        for shape in of_kind:
            semantic = per_anchor * min(config.semantic.anchors, (shape.frames - 1) // sizes.temporal + 1)
            joints.append(sizes.joint(shape, semantic))
            costs.append(training_flops(sizes, joints[-1], data.text_tokens, semantic=semantic, full=not config.lora))
            pixels.append((shape.frames + shape.source_frames) * shape.width * shape.height)
        tokens += a_step * sum(joints) / len(joints)
        flops += a_step * sum(costs) / len(costs)
        encoding += a_step * (VAE_FLOPS * sum(pixels) / len(pixels) + TEXT_FLOPS)
        longest = max(longest, batch * max(joints))

    parameters, trained, block = count_parameters(config, model)
    kept = {"none": BLOCK_BYTES, "selective": SELECTIVE_BYTES, "full": INPUT_BYTES}[mesh.checkpointing]
    share = longest / mesh.context * sizes.d / 1e9
    weights = parameters * (2 if config.lora else 4) + (trained * 4 if config.lora else 0)
    memory = {
        "weights": weights / shard / 1e9,
        "gradients, moments, average": trained * 16 / shard / 1e9,
        "gathered blocks": 2 * block * 2 / 1e9 if shard > 1 else 0.0,
        "kept activations": share * kept * sizes.layers,
        "one block at work": share * BLOCK_BYTES,
    }
    if data.latents is None:
        memory |= ENCODER_GB
    seconds_encoding = 0.0 if data.latents else encoding / (gpus * ENCODER_TFLOPS * 1e12)
    return Plan(
        parameters=parameters,
        trained=trained,
        gpus=gpus,
        passes=passes,
        tokens=tokens,
        flops=flops,
        memory={name: size for name, size in memory.items() if size},
        available=config.machine.memory,
        seconds=flops / (gpus * config.machine.tflops * 1e12) + seconds_encoding,
        encoding=seconds_encoding,
        steps=config.optimizer.steps,
        price=config.machine.price,
    )


def count_passes(kind: str, a_step: int, batch: int, world: int) -> int:
    """Passes of one process that make the step's images or videos. UserError where they do not divide."""
    count, rest = divmod(a_step, batch * world)
    if rest:
        raise UserError(
            f"{a_step} {kind}s a step do not split over {world} data groups in batches of {batch}: "
            f"set data.{kind}s to a multiple of {batch * world}, or change data.{kind}_batch."
        )
    return count


def check_mesh(config: SamaConfig, model: Mapping[str, Any], gpus: int) -> None:
    """UserError unless so many processes make the mesh."""
    mesh, heads = config.mesh, model["num_attention_heads"]
    shard = mesh.shard or gpus // mesh.replicate
    if shard * mesh.replicate != gpus:
        raise UserError(
            f"{gpus} GPUs are no mesh of {mesh.replicate} x {mesh.shard or 'any'}: set mesh.replicate and mesh.shard "
            "so that their product is the number of GPUs."
        )
    if gpus % mesh.context or heads % mesh.context:
        raise UserError(
            f"mesh.context={mesh.context} must divide both the {gpus} GPUs and the model's {heads} attention heads."
        )


def count_parameters(config: SamaConfig, model: Mapping[str, Any]) -> tuple[int, int, int]:
    """Parameters in all, trained ones, and those of one block."""
    with init_empty_weights():
        empty = SamaTransformer3DModel(**model)
        every = sum(p.numel() for p in empty.parameters())
        block = sum(p.numel() for p in empty.blocks[0].parameters())
        if config.lora is None:
            return every, every, block
        add_lora(empty, config.lora.rank, config.lora.alpha, config.lora.targets, also_new=config.model.start == "wan")
    return every, sum(p.numel() for p in empty.parameters() if p.requires_grad), block


def nominal_shapes(config: SamaConfig) -> list[Shape]:
    """The shapes to plan with where no data is given: the widest bucket, an image, and a video of full length."""
    width, height = buckets(config.data.area, config.data.multiple)[0]
    frames = config.data.frames
    return [Shape(width, height, 1, 1), Shape(width, height, frames, frames)]
