"""What the families on Wan have in common: its sizes read off tensors, its costs, its bases and parts."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from opensama.models.costs import Sizes, TransformerConfig
from opensama.models.families.family import (
    Base,
    Call,
    EmbeddedSettings,
    Family,
    Names,
    Shapes,
    depth,
    known_sizes,
    width_and_heads,
)

if TYPE_CHECKING:
    from torch import Tensor

WAN_PARTS = {
    "tokenizer": "transformers:AutoTokenizer",
    "text_encoder": "transformers:UMT5EncoderModel",
    "vae": "diffusers:AutoencoderKLWan",
}
_1_3B = {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}
WAN_BASES = {
    "Wan-AI/Wan2.1-T2V-14B-Diffusers": Base(),
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": Base(_1_3B),
    "ByteDance/Bernini-R-1.3B-Diffusers": Base(_1_3B),  # the same shapes and names
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers": Base(
        {"num_attention_heads": 24, "ffn_dim": 14336, "num_layers": 30, "in_channels": 48, "out_channels": 48},
        spatial=16,
    ),
}

WAN_NAMES: Names = (
    ("patch_embedding", "patch_embedding"),
    ("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
    ("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
    ("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
    ("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
    ("time_projection.1", "condition_embedder.time_proj"),
    ("head.head", "proj_out"),
    ("head.modulation", "scale_shift_table"),
    ("blocks.*.modulation", "blocks.*.scale_shift_table"),
    ("blocks.*.self_attn.q", "blocks.*.attn1.to_q"),
    ("blocks.*.self_attn.k", "blocks.*.attn1.to_k"),
    ("blocks.*.self_attn.v", "blocks.*.attn1.to_v"),
    ("blocks.*.self_attn.o", "blocks.*.attn1.to_out.0"),
    ("blocks.*.self_attn.norm_q", "blocks.*.attn1.norm_q"),
    ("blocks.*.self_attn.norm_k", "blocks.*.attn1.norm_k"),
    ("blocks.*.norm3", "blocks.*.norm2"),
    ("blocks.*.cross_attn.q", "blocks.*.attn2.to_q"),
    ("blocks.*.cross_attn.k", "blocks.*.attn2.to_k"),
    ("blocks.*.cross_attn.v", "blocks.*.attn2.to_v"),
    ("blocks.*.cross_attn.o", "blocks.*.attn2.to_out.0"),
    ("blocks.*.cross_attn.norm_q", "blocks.*.attn2.norm_q"),
    ("blocks.*.cross_attn.norm_k", "blocks.*.attn2.norm_k"),
    ("blocks.*.ffn.0", "blocks.*.ffn.net.0.proj"),
    ("blocks.*.ffn.2", "blocks.*.ffn.net.2"),
)
"""Wan's own names on the left, which most LoRAs for it use."""


def wan_prompt(x: Mapping[str, Tensor]) -> Call:
    """A text, whose places past its end the model sees, too."""
    return {"encoder_hidden_states": x["text"]}


def wan_config(
    family: Family, shapes: Shapes, given: dict[str, object], released: Collection[str] = ()
) -> tuple[dict[str, object], dict[str, Any]]:
    """WanTransformer3DModel's arguments, read off the shapes of released tensors, and what is left of those `given`.

    These go before, by the `released` names or the arguments' own. What shapes cannot say is the release's: heads of
    128, eps 1e-6.
    """
    sizes = known_sizes(given, family.transformer, released)

    def shape(name: str) -> tuple[int, ...]:
        return shapes[family.to_released(name) or name]

    d, c, *patch = shape("patch_embedding.weight")
    patch = sizes.pop("patch_size", patch)
    d, heads = width_and_heads(sizes, sizes.pop("dim", d), "num_heads")
    found = {
        "patch_size": tuple(patch),
        "num_attention_heads": heads,
        "attention_head_dim": d // heads,
        "in_channels": sizes.pop("in_dim", c),
        "out_channels": sizes.pop("out_dim", shape("proj_out.weight")[0] // math.prod(patch)),
        "text_dim": shape("condition_embedder.text_embedder.linear_1.weight")[1],
        "freq_dim": shape("condition_embedder.time_embedder.linear_1.weight")[1],
        "ffn_dim": shape("blocks.0.ffn.net.0.proj.weight")[0],
        "num_layers": depth(shapes, "blocks"),
    }
    return found, sizes


def wan_embedded(settings: EmbeddedSettings) -> dict[str, object]:
    """WanTransformer3DModel's arguments for an embedded model's settings."""
    return {
        "patch_size": (1, 1, 1),
        "num_attention_heads": settings.width // settings.head,
        "attention_head_dim": settings.head,
        "in_channels": settings.latent_channels,
        "out_channels": settings.latent_channels,
        "text_dim": settings.text_width,
        "freq_dim": 64,
        "ffn_dim": 4 * settings.width,
        "num_layers": settings.layers,
    }


@dataclass(frozen=True, kw_only=True)
class WanSizes(Sizes):
    """WanTransformer3DModel's, of streams side by side in one sequence."""

    block_bytes: ClassVar[float] = 87.0
    selective_bytes: ClassVar[float] = 28.0
    encoders: ClassVar[Mapping[str, float]] = {"text encoder": 11.4, "autoencoder": 0.5}
    vae_flops: ClassVar[float] = 5.07e6  # Wan2.1's
    text_flops: ClassVar[float] = 5.8e12  # UMT5-XXL for 512 tokens

    freq: int

    @classmethod
    def of(cls, config: TransformerConfig, spatial: int = 8, **more: int) -> Self:
        p_t, p_h, p_w = config["patch_size"]
        return cls(
            d=config["num_attention_heads"] * config["attention_head_dim"],
            ffn=config["ffn_dim"],
            layers=config["num_layers"],
            text_dim=config["text_dim"],
            freq=config["freq_dim"],
            channels=config["in_channels"],
            patch=(p_t, p_h, p_w),
            spatial=spatial,
            **more,
        )

    def operations(self, tokens: int, text: int, semantic: int, target: int) -> tuple[float, float]:
        d, layers = self.d, self.layers
        blocks = tokens * layers * 2 * (6 * d**2 + 2 * d * self.ffn)
        words = layers * 4 * text * d**2 + 2 * text * (self.text_dim * d + d**2)
        time = 2 * (self.freq * d + 7 * d**2)
        ends = 2 * (tokens - semantic + target) * self.cell * d
        return blocks + words + time + ends, layers * 4 * tokens * (tokens + text) * d
