"""How each family's released weights are named and laid out, and the sizes of the model that holds them.

One table a family, released module or parameter on the left, ours on the right; * is a block's number. Several on the
right are rows of one released tensor, one after the other; `name[1]` is the second half of ours, `name[0]` the first.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from opensama.models.icve import IcveTransformer3DModel
from opensama.models.sama import SamaTransformer3DModel
from opensama.values import UserError

Shapes = Mapping[str, tuple[int, ...]]
Names = tuple[tuple[str, str | tuple[str, ...]], ...]

SAMA_NAMES: Names = (
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
    ("segment_embedding", "token_types"),
    ("siglip_feat_mlp.norm", "semantic_embedder.norm"),
    ("siglip_feat_mlp.fc1", "semantic_embedder.fc1"),
    ("siglip_feat_mlp.fc2", "semantic_embedder.fc2"),
    ("semantic_head.norm", "semantic_head.norm"),
    ("semantic_head.proj", "semantic_head.proj"),
)

ICVE_NAMES: Names = (
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


class Rows(NamedTuple):
    """Rows `start` to `stop` of a tensor."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True)
class Family:
    """How a family's released weights are named, and how its model is made."""

    name: str
    model: Any  # a class of ModelMixin's
    names: Names
    config: Callable[[Shapes, dict[str, Any]], dict[str, Any]]  # tensor shapes, given sizes -> the model's config

    def to_ours(self, key: str) -> tuple[str, ...]:
        """Our names of a released tensor's rows, in their order; empty if the table has none."""
        return rename(key, {released: as_tuple(ours) for released, ours in self.names})

    def to_released(self, key: str) -> str | None:
        """The released name of the tensor that holds one of ours, None if the table has none."""
        table = {part.partition("[")[0]: (released,) for released, ours in self.names for part in as_tuple(ours)}
        return next(iter(rename(key, table)), None)

    def layout(self, ours: Shapes) -> dict[str, list[Rows]]:
        """Every released tensor that a model of these shapes has, as rows of ours one after the other.

        A tensor that the table does not know keeps its name.
        """
        out: dict[str, list[Rows]] = {}
        for name in ours:
            released = self.to_released(name) or name
            if released not in out:
                out[released] = [rows(part, ours) for part in self.to_ours(released) or (name,)]
        return out


def as_tuple(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def rows(part: str, shapes: Shapes) -> Rows:
    """`name` or `name[half]` as rows."""
    name, _, half = part.partition("[")
    size = shapes[name][0] if shapes[name] else 1
    if not half:
        return Rows(name, 0, size)
    return Rows(name, 0, size // 2) if half == "0]" else Rows(name, size // 2, size)


def rename(key: str, table: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """`key` with its module's name looked up in `table`; a block's number and the parameter's name stay."""
    number = re.search(r"blocks\.(\d+)\.", key)
    pattern = f"{key[: number.start(1)]}*{key[number.end(1) :]}" if number else key
    module, _, parameter = pattern.rpartition(".")
    if pattern in table:
        names = table[pattern]
    elif module in table and parameter in ("weight", "bias"):
        names = tuple(
            f"{name}.{parameter}" if name[-1] != "]" else f"{name[:-3]}.{parameter}{name[-3:]}"
            for name in table[module]
        )
    else:
        return ()
    return tuple(name.replace("*", number[1]) for name in names) if number else names


def sama_config(shapes: Shapes, sizes: dict[str, Any]) -> dict[str, Any]:
    """SamaTransformer3DModel's arguments: from `sizes` (released names, or the arguments' own), else from shapes.

    What shapes cannot say is the release's: heads of 128, 65 tokens an anchor, eps 1e-6.
    """
    released = ("dim", "num_heads", "num_semantic_tokens", "in_dim", "out_dim")
    sizes = known_sizes(sizes, SamaTransformer3DModel, released)
    d, c, *patch = shapes["patch_embedding.weight"]
    patch = sizes.pop("patch_size", patch)
    d, heads = width_and_heads(sizes, sizes.pop("dim", d), "num_heads")
    semantic = shapes.get("siglip_feat_mlp.fc1.weight", (1024, 1152))
    tokens = sizes.pop("num_semantic_tokens", 65)
    anchors, rest = divmod(tokens, 65)
    if rest:
        anchors, per_anchor = 1, tokens
    else:
        per_anchor = 65
    config = {
        "patch_size": tuple(patch),
        "num_attention_heads": heads,
        "attention_head_dim": d // heads,
        "in_channels": sizes.pop("in_dim", c),
        "out_channels": sizes.pop("out_dim", shapes["head.head.weight"][0] // math.prod(patch)),
        "text_dim": shapes["text_embedding.0.weight"][1],
        "freq_dim": shapes["time_embedding.0.weight"][1],
        "ffn_dim": shapes["blocks.0.ffn.0.weight"][0],
        "num_layers": depth(shapes, "blocks"),
        "semantic_dim": semantic[1],
        "semantic_hidden": semantic[0],
        "semantic_tokens_per_anchor": per_anchor,
        "num_anchors": anchors,
    }
    return config | sizes


def icve_config(shapes: Shapes, sizes: dict[str, Any]) -> dict[str, Any]:
    """IcveTransformer3DModel's arguments: from `sizes` (released names, or the arguments' own), else from shapes.

    What shapes cannot say is the release's: heads of 128 with rotary shares of 16, 56 and 56.
    """
    sizes = known_sizes(sizes, IcveTransformer3DModel, ICVE_SIZES)
    d, c, *patch = shapes["img_in.proj.weight"]
    d, heads = width_and_heads(sizes, sizes.pop("hidden_size", d), "heads_num")
    given = {ours: sizes.pop(released) for released, ours in ICVE_SIZES.items() if ours and released in sizes}
    if d // heads != 128 and not {"rope_axes_dim"} & (given.keys() | sizes.keys()):
        raise UserError(f"Rotary shares of heads of {d // heads} are unknown: give them as rope_dim_list in --config.")
    config = {
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
    return config | given | sizes


ICVE_SIZES: dict[str, str | None] = {
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


def known_sizes(sizes: dict[str, Any], model: Any, released: Collection[str]) -> dict[str, Any]:
    """A copy of the sizes, all of which are names that were released or the model's own."""
    known = {*released, *inspect.signature(model.__init__).parameters} - {"self"}
    for key in sizes:
        if key not in known:
            raise UserError(f"{key!r} is no size of a {model.__name__}: remove it from --config.")
    return dict(sizes)


def width_and_heads(sizes: dict[str, Any], d: int, name: str) -> tuple[int, int]:
    """The width and the number of heads, taken out of the sizes; heads of 128 where nothing is said."""
    heads = sizes.pop(name, sizes.pop("num_attention_heads", None))
    if heads is None:
        if d % 128:
            raise UserError(f"The number of heads is unknown for width {d}: give it as {name} in --config.")
        heads = d // 128
    if d % heads:
        raise UserError(f"Width {d} does not split into {heads} heads: mend the width or {name} in --config.")
    return d, heads


def depth(shapes: Shapes, blocks: str) -> int:
    """How many blocks of that name there are."""
    numbers = (re.match(rf"{re.escape(blocks)}\.(\d+)\.", key) for key in shapes)
    return max((int(number[1]) for number in numbers if number), default=-1) + 1


FAMILIES = {
    "sama": Family("sama", SamaTransformer3DModel, SAMA_NAMES, sama_config),
    "icve": Family("icve", IcveTransformer3DModel, ICVE_NAMES, icve_config),
}


def family_of(model: Any) -> Family:
    """The family of a transformer, sharded or not."""
    return next(row for row in FAMILIES.values() if isinstance(model, row.model))
