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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self, TypedDict

INPUT_BYTES = 2.0  # of a block's input, a token and number of its width, in bfloat16


class TransformerConfig(TypedDict, total=False):
    """Arguments of a family's transformer, by diffusers' names: those that are read of them."""

    num_attention_heads: int
    attention_head_dim: int
    num_layers: int
    in_channels: int
    out_channels: int
    patch_size: Sequence[int]
    text_dim: int
    freq_dim: int
    ffn_dim: int
    semantic_dim: int | None
    semantic_hidden: int
    semantic_tokens_per_anchor: int
    semantic_gate: bool
    num_anchors: int
    color_rank: int
    color_shapes: int
    frame_waves: int
    num_single_layers: int
    num_refiner_layers: int
    mlp_ratio: float
    text_embed_dim: int
    pooled_projection_dim: int


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
    def of(cls, config: TransformerConfig, spatial: int = 8) -> Self:
        """From a transformer's config."""
        raise NotImplementedError

    def operations(self, tokens: int, text: int, semantic: int, target: int) -> tuple[float, float]:
        """Of one forward pass for one sample: those of matrices, and attention's. `target` tokens are answered."""
        raise NotImplementedError

    @property
    def cell(self) -> int:
        """Latent numbers that make a token: channels times cells."""
        return self.channels * math.prod(self.patch)

    def tokens(self, frames: int, height: int, width: int) -> int:
        """Tokens of a video of 4k+1 frames whose sides its autoencoder and its patches divide."""
        p_t, p_h, p_w = self.patch
        cells = (frames - 1) // self.temporal + 1, height // self.spatial, width // self.spatial
        return (cells[0] // p_t) * (cells[1] // p_h) * (cells[2] // p_w)


def training_flops(sizes: Sizes, tokens: int, text: int, *, semantic: int = 0, full: bool = True) -> float:
    """Operations of forward and backward for one sample."""
    linear, attention = sizes.operations(tokens, text, semantic, (tokens - semantic) // 2)
    return (3 if full else 2) * linear + 3 * attention
