"""What one sample costs a transformer: tokens, operations, and bytes kept for the backward pass.

S joint video tokens of one sample, T text tokens, d width, f width inside the feed-forward, L blocks; 2 operations a
product:

    SAMA   linear = S L 2 (6 d^2 + 2 d f)       self-attention q k v o, cross-attention q o, feed-forward
           attention = L 4 S^2 d                cross = L 4 S T d           text = L 4 T d^2 + 2 T (e d + d^2)
    ICVE   linear = (S + T) L 2 (4 d^2 + 2 d f)         text goes through the blocks beside the video's tokens
           attention = L 4 (S + T)^2 d          text = 2 T (e d + refiner blocks)
    training = 3 x forward; low-rank: the weights' own gradients are left out (2 x linear)

Counted as `torch.utils.flop_counter` does; the recomputation of activations is not counted, as in published figures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from opensama.data.samples import Shape
from opensama.values import VideoShape

INPUT_BYTES = 2.0  # of a block's input, a token and number of its width, in bfloat16


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What decides a transformer's cost, and how its autoencoder divides a video.

    `block_bytes` is what one block keeps for its backward pass, a token and number of its width, with bfloat16
    autocast (measured by saved-tensor hooks, tests/training/test_plan.py); `selective_bytes` of these is kept when
    norms and activations are recomputed. `encoders` are gigabytes of the frozen models on a GPU (text encoders in half
    precision, the others in float32); `vae_flops` are operations of encoding a pixel of a frame, `text_flops` of a
    text.
    """

    block_bytes: ClassVar[float]
    selective_bytes: ClassVar[float]
    encoders: ClassVar[Mapping[str, float]]
    vae_flops: ClassVar[float]
    text_flops: ClassVar[float]

    d: int
    ffn: int
    layers: int
    text_dim: int
    channels: int
    patch: tuple[int, int, int]
    temporal: int = 4
    spatial: int = 8

    @classmethod
    def of(cls, config: Mapping[str, Any], spatial: int = 8) -> Self:
        """From a transformer's config."""
        raise NotImplementedError

    def operations(self, tokens: int, text: int, semantic: int, target: int) -> tuple[float, float]:
        """Of one forward pass for one sample: those of matrices, and attention's. `target` tokens are answered."""
        raise NotImplementedError

    @property
    def cell(self) -> int:
        """Latent numbers of a token."""
        return self.channels * math.prod(self.patch)

    def tokens(self, frames: int, height: int, width: int) -> int:
        """Tokens of one stream."""
        cells = VideoShape(frames, height, width).latent(self.temporal, self.spatial)
        return (cells.frames // self.patch[0]) * (cells.height // self.patch[1]) * (cells.width // self.patch[2])

    def joint(self, shape: Shape, semantic: int) -> int:
        """Tokens of source, anchors and target together."""
        target, source = (self.tokens(t, shape.height, shape.width) for t in (shape.frames, shape.source_frames))
        return source + semantic + target


@dataclass(frozen=True, kw_only=True)
class SamaSizes(Sizes):
    """SamaTransformer3DModel's."""

    block_bytes: ClassVar[float] = 87.0
    selective_bytes: ClassVar[float] = 28.0
    encoders: ClassVar[Mapping[str, float]] = {"text encoder": 11.4, "autoencoder": 0.5, "image encoder": 1.7}
    vae_flops: ClassVar[float] = 5.07e6  # Wan2.1's
    text_flops: ClassVar[float] = 5.8e12  # UMT5-XXL for 512 tokens

    freq: int
    semantic_dim: int
    semantic_hidden: int

    @classmethod
    def of(cls, config: Mapping[str, Any], spatial: int = 8) -> Self:
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

    def operations(self, tokens: int, text: int, semantic: int, target: int) -> tuple[float, float]:
        d, layers = self.d, self.layers
        blocks = tokens * layers * 2 * (6 * d**2 + 2 * d * self.ffn)
        words = layers * 4 * text * d**2 + 2 * text * (self.text_dim * d + d**2)
        time = 2 * (self.freq * d + 7 * d**2)
        ends = 2 * (tokens - semantic + target) * self.cell * d
        hidden = self.semantic_hidden
        anchors = 2 * semantic * (self.semantic_dim * hidden + hidden * d + self.semantic_dim * d)
        return blocks + words + time + ends + anchors, layers * 4 * tokens * (tokens + text) * d


@dataclass(frozen=True, kw_only=True)
class IcveSizes(Sizes):
    """IcveTransformer3DModel's; `layers` are the double blocks."""

    block_bytes: ClassVar[float] = 48.0
    selective_bytes: ClassVar[float] = 20.0
    encoders: ClassVar[Mapping[str, float]] = {"text encoders": 15.3, "autoencoder": 1.0}
    vae_flops: ClassVar[float] = 9.3e6  # HunyuanVideo's
    text_flops: ClassVar[float] = 3.8e12  # Llama-3-8B for 256 tokens

    single: int
    refiner: int
    pooled_dim: int

    @classmethod
    def of(cls, config: Mapping[str, Any], spatial: int = 8) -> Self:
        d = config["num_attention_heads"] * config["attention_head_dim"]
        return cls(
            d=d,
            ffn=int(config["mlp_ratio"] * d),
            layers=config["num_layers"],
            single=config["num_single_layers"],
            refiner=config["num_refiner_layers"],
            text_dim=config["text_embed_dim"],
            pooled_dim=config["pooled_projection_dim"],
            channels=config["in_channels"],
            patch=tuple(config["patch_size"]),
            spatial=spatial,
        )

    def operations(self, tokens: int, text: int, semantic: int, target: int) -> tuple[float, float]:
        d, double, single = self.d, self.layers, self.single
        token = 2 * (4 * d**2 + 2 * d * self.ffn)  # of one token in one block
        blocks = (tokens + text) * (double + single) * token
        modulation = 2 * d**2 * (double * 18 + single * 6 + self.refiner * 2 + 2)  # the source's is another
        words = text * (self.refiner * token + 2 * self.text_dim * d)
        times = 2 * 2 * (3 * (256 * d + d**2) + self.pooled_dim * d + d**2)
        times += 2 * (256 * d + d**2 + self.text_dim * d + d**2)  # the refiner's own
        ends = 2 * (tokens + target) * self.cell * d
        attention = (double + single) * 4 * (tokens + text) ** 2 * d + self.refiner * 4 * text**2 * d
        return blocks + modulation + words + times + ends, attention


SIZES: dict[str, type[Sizes]] = {"sama": SamaSizes, "icve": IcveSizes}
"""By family."""


def forward_flops(sizes: Sizes, tokens: int, text: int, *, semantic: int = 0, target: int | None = None) -> float:
    """Operations of one forward pass for one sample; `target` tokens are answered, by default half of the latents'."""
    return sum(sizes.operations(tokens, text, semantic, (tokens - semantic) // 2 if target is None else target))


def training_flops(sizes: Sizes, tokens: int, text: int, *, semantic: int = 0, full: bool = True) -> float:
    """Operations of forward and backward for one sample."""
    linear, attention = sizes.operations(tokens, text, semantic, (tokens - semantic) // 2)
    return (3 if full else 2) * linear + 3 * attention
