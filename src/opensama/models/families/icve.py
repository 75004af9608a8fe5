"""ICVE on HunyuanVideo: the source's tokens, clean, before the edit's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from opensama.models.costs import Sizes, TransformerConfig
from opensama.models.defaults import Defaults
from opensama.models.families.family import (
    Base,
    Call,
    EmbeddedSettings,
    Family,
    Names,
    Shapes,
    depth,
    draw_on_source,
    known_sizes,
    on_source,
    width_and_heads,
)
from opensama.values import UserError

if TYPE_CHECKING:
    from torch import Tensor

DEFAULTS = Defaults(
    steps=50, guidance=6.0, shift=7.0, area=768 * 480, multiple=16, window=61, overlap=4, prompt_prefix="",
    negative_prompt="Aerial view, aerial view, overexposed, low quality, deformation, a poor composition, bad hands,"
    " bad teeth, bad eyes, bad limbs, distortion",
    max_text_tokens=256, embedded_guidance=1.0, text_layer=-3,
)  # fmt: skip
"""Those of the released sampler, at 768x480."""

_NAMES: Names = (
    ("img_in.proj", "x_embedder.proj"),
    ("txt_in.input_embedder", "context_embedder.proj_in"),
    ("txt_in.t_embedder.mlp.0", "context_embedder.time_text_embed.timestep_embedder.linear_1"),
    ("txt_in.t_embedder.mlp.2", "context_embedder.time_text_embed.timestep_embedder.linear_2"),
    ("txt_in.c_embedder.linear_1", "context_embedder.time_text_embed.text_embedder.linear_1"),
    ("txt_in.c_embedder.linear_2", "context_embedder.time_text_embed.text_embedder.linear_2"),
    *(
        (f"txt_in.individual_token_refiner.blocks.*.{released}", ours)
        for released, ours in (
            ("norm1", "context_embedder.token_refiner.refiner_blocks.*.norm1"),
            (
                "self_attn_qkv",
                tuple(f"context_embedder.token_refiner.refiner_blocks.*.attn.to_{x}" for x in "qkv"),
            ),
            ("self_attn_proj", "context_embedder.token_refiner.refiner_blocks.*.attn.to_out.0"),
            ("norm2", "context_embedder.token_refiner.refiner_blocks.*.norm2"),
            ("mlp.fc1", "context_embedder.token_refiner.refiner_blocks.*.ff.net.0.proj"),
            ("mlp.fc2", "context_embedder.token_refiner.refiner_blocks.*.ff.net.2"),
            ("adaLN_modulation.1", "context_embedder.token_refiner.refiner_blocks.*.norm_out.linear"),
        )
    ),
    ("time_in.mlp.0", "time_text_embed.timestep_embedder.linear_1"),
    ("time_in.mlp.2", "time_text_embed.timestep_embedder.linear_2"),
    ("vector_in.in_layer", "time_text_embed.text_embedder.linear_1"),
    ("vector_in.out_layer", "time_text_embed.text_embedder.linear_2"),
    ("guidance_in.mlp.0", "time_text_embed.guidance_embedder.linear_1"),
    ("guidance_in.mlp.2", "time_text_embed.guidance_embedder.linear_2"),
    ("double_blocks.*.img_mod.linear", "transformer_blocks.*.norm1.linear"),
    ("double_blocks.*.img_attn_qkv", tuple(f"transformer_blocks.*.attn.to_{x}" for x in "qkv")),
    ("double_blocks.*.img_attn_q_norm", "transformer_blocks.*.attn.norm_q"),
    ("double_blocks.*.img_attn_k_norm", "transformer_blocks.*.attn.norm_k"),
    ("double_blocks.*.img_attn_proj", "transformer_blocks.*.attn.to_out.0"),
    ("double_blocks.*.img_mlp.fc1", "transformer_blocks.*.ff.net.0.proj"),
    ("double_blocks.*.img_mlp.fc2", "transformer_blocks.*.ff.net.2"),
    ("double_blocks.*.txt_mod.linear", "transformer_blocks.*.norm1_context.linear"),
    ("double_blocks.*.txt_attn_qkv", tuple(f"transformer_blocks.*.attn.add_{x}_proj" for x in "qkv")),
    ("double_blocks.*.txt_attn_q_norm", "transformer_blocks.*.attn.norm_added_q"),
    ("double_blocks.*.txt_attn_k_norm", "transformer_blocks.*.attn.norm_added_k"),
    ("double_blocks.*.txt_attn_proj", "transformer_blocks.*.attn.to_add_out"),
    ("double_blocks.*.txt_mlp.fc1", "transformer_blocks.*.ff_context.net.0.proj"),
    ("double_blocks.*.txt_mlp.fc2", "transformer_blocks.*.ff_context.net.2"),
    (
        "single_blocks.*.linear1",
        (*(f"single_transformer_blocks.*.attn.to_{x}" for x in "qkv"), "single_transformer_blocks.*.proj_mlp"),
    ),
    ("single_blocks.*.linear2", "single_transformer_blocks.*.proj_out"),
    ("single_blocks.*.q_norm", "single_transformer_blocks.*.attn.norm_q"),
    ("single_blocks.*.k_norm", "single_transformer_blocks.*.attn.norm_k"),
    ("single_blocks.*.modulation.linear", "single_transformer_blocks.*.norm.linear"),
    ("final_layer.linear", "proj_out"),
    ("final_layer.adaLN_modulation.1", ("norm_out.linear[1]", "norm_out.linear[0]")),  # shift, scale; ours scale, shift
)

_COMFY_SPELLING = (
    (r"\b(time_in|guidance_in|t_embedder)\.in_layer\.", r"\1.mlp.0."),
    (r"\b(time_in|guidance_in|t_embedder)\.out_layer\.", r"\1.mlp.2."),
    (r"\bc_embedder\.in_layer\.", "c_embedder.linear_1."),
    (r"\bc_embedder\.out_layer\.", "c_embedder.linear_2."),
    (r"mod(ulation)?\.lin\.", r"mod\1.linear."),
    (r"_attn\.(qkv|proj)\.", r"_attn_\1."),
    (r"_attn\.norm\.([qk])\w+_norm\.\w+$", r"_attn_\1_norm.weight"),
    (r"(blocks\.\d+)\.norm\.([qk])\w+_norm\.\w+$", r"\1.\2_norm.weight"),
    (r"(blocks\.\d+\.\w*mlp)\.0\.", r"\1.fc1."),
    (r"(blocks\.\d+\.\w*mlp)\.2\.", r"\1.fc2."),
)

RELEASED_SIZES: dict[str, str | None] = {
    "hidden_size": None,
    "heads_num": None,
    "rope_dim_list": "rope_axes_dim",
    "mm_double_blocks_depth": "num_layers",
    "mm_single_blocks_depth": "num_single_layers",
    "text_states_dim": "text_embed_dim",
    "text_states_dim_2": "pooled_projection_dim",
    "guidance_embed": "guidance_embeds",
    "mlp_width_ratio": "mlp_ratio",
}
"""Released names of sizes, and the arguments they are."""


def _condition(x: Mapping[str, Tensor], guidance: float = 1.0) -> dict[str, object]:
    """The arguments of IcveTransformer3DModel's call for a batch: the source stays clean, its time is 0.

    Where its tokens are some of a frame's, `source_places` and `target_places` say which (`training/windows.py`).
    """
    return {
        "hidden_states": x["noisy"],
        "timestep": 1000 * x["sigma"],
        **_prompt(x, guidance),
        "source_hidden_states": x.get("source"),
        "places": (x["source_places"], x["target_places"]) if "source_places" in x else None,
    }


def _prompt(x: Mapping[str, Tensor], guidance: float = 1.0) -> Call:
    """The text, where it ends, the same in one vector, and the guidance that goes with it."""
    names = {"text": "encoder_hidden_states", "text_mask": "encoder_attention_mask", "pooled": "pooled_projections"}
    out = {theirs: x[ours] for ours, theirs in names.items() if ours in x}
    return out | {"guidance": x["text"].new_full((len(x["text"]),), 1000 * guidance)}


def _config(shapes: Shapes, sizes_given: dict[str, object]) -> dict[str, object]:
    """IcveTransformer3DModel's arguments: those given (released names, or the arguments' own), else from shapes.

    What shapes cannot say is the release's: heads of 128 with rotary shares of 16, 56 and 56.
    """
    sizes = known_sizes(sizes_given, FAMILY.transformer, RELEASED_SIZES)
    d, c, *patch = shapes["img_in.proj.weight"]
    d, heads = width_and_heads(sizes, sizes.pop("hidden_size", d), "heads_num")
    given = {ours: sizes.pop(released) for released, ours in RELEASED_SIZES.items() if ours and released in sizes}
    if d // heads != 128 and not {"rope_axes_dim"} & (given.keys() | sizes.keys()):
        raise UserError(f"Rotary shares of heads of {d // heads} are unknown: give them as rope_dim_list in `config`.")
    found = {
        "in_channels": c,
        "out_channels": shapes["final_layer.linear.weight"][0] // math.prod(patch),
        "num_attention_heads": heads,
        "attention_head_dim": d // heads,
        "num_layers": depth(shapes, "double_blocks"),
        "num_single_layers": depth(shapes, "single_blocks"),
        "num_refiner_layers": depth(shapes, "txt_in.individual_token_refiner.blocks"),
        "mlp_ratio": shapes["double_blocks.0.img_mlp.fc1.weight"][0] / d,
        "patch_size": tuple(patch),
        "guidance_embeds": "guidance_in.mlp.0.weight" in shapes,
        "text_embed_dim": shapes["txt_in.input_embedder.weight"][1],
        "pooled_projection_dim": shapes["vector_in.in_layer.weight"][1],
    }
    return found | given | sizes


def _embedded(settings: EmbeddedSettings) -> dict[str, object]:
    """IcveTransformer3DModel's arguments for the embedded model's settings."""
    across = 3 * settings.head // 8
    return {
        "patch_size": [1, 1, 1],
        "num_attention_heads": settings.width // settings.head,
        "attention_head_dim": settings.head,
        "rope_axes_dim": [settings.head - 2 * across, across, across],
        "num_layers": settings.joint_layers,
        "num_single_layers": settings.layers,
        "num_refiner_layers": 1,
        "in_channels": settings.latent_channels,
        "out_channels": settings.latent_channels,
        "text_embed_dim": settings.text_width,
        "pooled_projection_dim": settings.text_width,
        "guidance_embeds": False,
        **on_source(settings),
    }


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
    def of(cls, config: TransformerConfig, spatial: int = 8) -> Self:
        p_t, p_h, p_w = config["patch_size"]
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
            patch=(p_t, p_h, p_w),
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


FAMILY = Family(
    name="icve",
    transformer_class="opensama.models.icve:IcveTransformer3DModel",
    pipeline_class="opensama.pipeline.icve:IcvePipeline",
    lora_loader="diffusers.loaders:HunyuanVideoLoraLoaderMixin",
    names=_NAMES,
    comfy_spelling=_COMFY_SPELLING,
    config=_config,
    embedded=_embedded,
    sizes=IcveSizes,
    condition=_condition,
    prompt=_prompt,
    parts={
        "tokenizer": "transformers:AutoTokenizer",
        "text_encoder": "transformers:LlamaModel",
        "tokenizer_2": "transformers:AutoTokenizer",
        "text_encoder_2": "transformers:CLIPTextModel",
        "vae": "diffusers:AutoencoderKLHunyuanVideo",
    },
    bases={"hunyuanvideo-community/HunyuanVideo": Base()},
    added=("frame_position", "local_color"),
    draw_added=draw_on_source,
    start="hunyuan",
    gguf_architecture="hyvid",
    free=("source_time",),
    lora_targets=(
        "to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "net.0.proj",
        "net.2", "proj_mlp", "proj_out",
    ),
    defaults=DEFAULTS,
    text_half="float16",
    recipe="icve",
    stages=("pretrain", "windows", "images", "videos"),
)  # fmt: skip
