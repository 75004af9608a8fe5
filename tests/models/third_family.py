"""A family of editors that the house has not, all of it: Wan with the source in channels beside the target's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401  (diffusers loads components of modules that name it)
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor

from opensama.models.acceleration import CheckedFeatures
from opensama.models.costs import Sizes
from opensama.models.families import Family
from opensama.pipeline.diffusion import EditPipeline
from opensama.pipeline.sama import SamaPipeline
from opensama.training.config import EditConfig, StartSettings

SIZES = {"num_attention_heads": 2, "in_channels": 4, "out_channels": 4, "num_layers": 2}


class ConcatTransformer3DModel(CheckedFeatures, WanTransformer3DModel):  # type: ignore[misc]
    """Predicts the target's velocity from its noisy latents and the source's, channel by channel."""

    @register_to_config
    def __init__(
        self, patch_size: tuple[int, ...] = (1, 2, 2), num_attention_heads: int = 2, attention_head_dim: int = 12,
        in_channels: int = 4, out_channels: int = 4, text_dim: int = 16, freq_dim: int = 32, ffn_dim: int = 48,
        num_layers: int = 2, cross_attn_norm: bool = True, qk_norm: str | None = "rms_norm_across_heads",
        eps: float = 1e-6, image_dim: int | None = None, added_kv_proj_dim: int | None = None,
        rope_max_seq_len: int = 1024, pos_embed_seq_len: int | None = None,
    ):  # fmt: skip
        super().__init__(
            patch_size, num_attention_heads, attention_head_dim, 2 * in_channels, out_channels, text_dim, freq_dim,
            ffn_dim, num_layers, cross_attn_norm, qk_norm, eps, image_dim, added_kv_proj_dim, rope_max_seq_len,
            pos_embed_seq_len,
        )  # fmt: skip
        self.register_to_config(in_channels=in_channels)  # the parent has noted both sides'

    def forward(self, hidden_states: Tensor, *args: Any, source_hidden_states: Tensor | None = None, **kw: Any) -> Any:
        source = torch.zeros_like(hidden_states) if source_hidden_states is None else source_hidden_states
        return super().forward(torch.cat((hidden_states, source.to(hidden_states.dtype)), 1), *args, **kw)


class ConcatPipeline(SamaPipeline):
    """SAMA's, without semantic tokens."""

    draw = EditPipeline.draw


class ConcatSizes(Sizes):
    block_bytes: ClassVar[float] = 87.0
    selective_bytes: ClassVar[float] = 28.0
    encoders: ClassVar[Mapping[str, float]] = {"text encoder": 11.4, "autoencoder": 0.5}
    vae_flops: ClassVar[float] = 5e6
    text_flops: ClassVar[float] = 6e12

    @classmethod
    def of(cls, config: Mapping[str, Any], spatial: int = 8) -> Self:
        d, patch = 12 * config["num_attention_heads"], tuple(config["patch_size"])
        return cls(
            d=d, ffn=48, layers=config["num_layers"], text_dim=config["text_dim"], channels=config["in_channels"],
            patch=patch, spatial=spatial,
        )  # fmt: skip

    def operations(self, tokens: int, text: int, semantic: int, target: int) -> tuple[float, float]:
        d = self.d
        return target * self.layers * 2 * (6 * d**2 + 2 * d * self.ffn), self.layers * 4 * target * (target + text) * d


class ConcatModelSettings(StartSettings):
    start: str = "nothing"

    @property
    def own_sizes(self) -> dict[str, Any]:
        return SIZES


class ConcatConfig(EditConfig):
    family: ClassVar[str] = "concat"
    model: ConcatModelSettings


def condition(x: Mapping[str, Tensor]) -> dict[str, Any]:
    given = {"hidden_states": x["noisy"], "timestep": 1000 * x["sigma"], "source_hidden_states": x.get("source")}
    return given | prompt(x)


def prompt(x: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {"encoder_hidden_states": x["text"]}


FAMILY = Family(
    name="concat",
    transformer_class=f"{__name__}:ConcatTransformer3DModel",
    pipeline_class=f"{__name__}:ConcatPipeline",
    lora_loader="diffusers.loaders:WanLoraLoaderMixin",
    names=(),
    config=lambda shapes, sizes: sizes,
    embedded=lambda settings: SIZES,
    sizes=ConcatSizes,
    condition=condition,
    prompt=prompt,
    parts={
        "tokenizer": "transformers:AutoTokenizer",
        "text_encoder": "transformers:UMT5EncoderModel",
        "vae": "diffusers:AutoencoderKLWan",
    },
    start="wan",
    pads_text=True,
)
