"""Released weights to ours and back, from one table of names a family, strictly.

    released single file (or shards) -> a transformer's own folder: config.json and safetensors of at most 5 GB each
    a transformer's own folder       -> one file with the released names

Tensors are copied one at a time and keep their type: a file larger than the memory converts, and comes back
bit for bit. A missing, unexpected or misshapen key is an error that names it. Pickles are never opened.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers.models.modeling_utils import ModelMixin

from opensama.models.sama import SamaTransformer3DModel
from opensama.models.weights import SHARD_BYTES, TensorFiles, write_safetensors, write_shards
from opensama.runtime import read_object
from opensama.values import UserError

Shapes = Mapping[str, tuple[int, ...]]
Sizes = Path | Mapping[str, Any]  # a JSON file of sizes, or what is in it

# Released module or parameter on the left, ours on the right; * is a block's number.
SAMA_NAMES = (
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

SAMPLER_KEYS = {"latent_shape", "num_inference_steps", "shift", "cfg_scale"}


@dataclass(frozen=True)
class Family:
    """How a family's released weights are named, and how its model is made."""

    name: str
    model: Any  # a class of ModelMixin's
    names: tuple[tuple[str, str], ...]
    config: Callable[[Shapes, dict[str, Any]], dict[str, Any]]  # tensor shapes, given sizes -> the model's config

    def to_ours(self, key: str) -> str | None:
        """Our name of a released tensor, None if the table has none."""
        return rename(key, dict(self.names))

    def to_released(self, key: str) -> str | None:
        """The released name of one of our tensors, None if the table has none."""
        return rename(key, {ours: released for released, ours in self.names})


def rename(key: str, table: Mapping[str, str]) -> str | None:
    """`key` with its module's name looked up in `table`; a block's number and the parameter's name stay."""
    number = re.match(r"blocks\.(\d+)\.", key)
    pattern = f"blocks.*.{key[number.end() :]}" if number else key
    module, _, parameter = pattern.rpartition(".")
    if pattern in table:
        name = table[pattern]
    elif module in table and parameter in ("weight", "bias"):
        name = f"{table[module]}.{parameter}"
    else:
        return None
    return name.replace("*", number[1]) if number else name


def convert_released(
    src: Path, out: Path, family: str = "sama", config: Sizes | None = None, *, shard_bytes: int = SHARD_BYTES
) -> Path:
    """Writes the transformer's own folder `out` from released weights `src` (a file, an index or a folder of shards).

    `config` gives sizes; without it they are read off the tensors. Weights already in `out` are replaced.
    Returns `out`.
    """
    row = find_family(family)
    files = TensorFiles(src)
    if out.resolve() in {file.resolve().parent for file in files.files}:
        raise UserError(f"The released weights are in {out} themselves: convert into another folder.")
    model = empty_model(row, {name: info.shape for name, info in files.infos.items()}, read_sizes(config))
    names = match(row, files, model)
    make_folder(out)
    model.save_config(out)
    write_shards(out, {ours: files.infos[names[ours]] for ours in names}, lambda n: files.tensor(names[n]), shard_bytes)
    return out


def convert_to_released(model_dir: Path, out_file: Path) -> Path:
    """Writes the transformer in `model_dir` (its own folder, or a pipeline's) as one file with the released names."""
    if out_file.suffix != ".safetensors" or out_file.is_dir():
        raise UserError(f"{out_file} is not the name of a safetensors file: end it in .safetensors.")
    folder = model_dir if (model_dir / "config.json").exists() else model_dir / "transformer"
    config_file = folder / "config.json"
    if not config_file.exists():
        raise UserError(f"{model_dir} is no transformer's folder: there is no config.json in it.")
    config = read_object(config_file)
    row = next((row for row in FAMILIES.values() if row.model.__name__ == config.get("_class_name")), None)
    if row is None:
        raise UserError(f"{config_file} describes a {config.get('_class_name')}, which has no released layout.")
    files = TensorFiles(folder)
    with init_empty_weights():
        model = row.model.from_config(config)
    expected = {name: tuple(p.shape) for name, p in model.state_dict().items()}
    check(expected, {name: info.shape for name, info in files.infos.items()}, str(folder))
    names = {row.to_released(name) or name: name for name in expected}
    if out_file.resolve() in {file.resolve() for file in files.files}:
        raise UserError(f"{out_file} is one of the files to convert: choose another name.")
    make_folder(out_file.parent)
    write_safetensors(out_file, {n: files.infos[ours] for n, ours in names.items()}, lambda n: files.tensor(names[n]))
    return out_file


def load_released(
    src: Path, family: str = "sama", config: Sizes | None = None, *, dtype: torch.dtype | None = None
) -> ModelMixin:
    """The model with released weights, straight from their file; parts that diffusers keeps in float32 become that."""
    row = find_family(family)
    files = TensorFiles(src)
    model = empty_model(row, {name: info.shape for name, info in files.infos.items()}, read_sizes(config))
    precise: set[str] = set(row.model._keep_in_fp32_modules or ())
    state = {}
    for ours, released in match(row, files, model).items():
        tensor = files.tensor(released)
        state[ours] = tensor.to(torch.float32 if dtype and precise & set(ours.split(".")) else dtype or tensor.dtype)
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()


def match(row: Family, files: TensorFiles, model: ModelMixin) -> dict[str, str]:
    """Our names to the released ones, in our model's order, after checking that every tensor has its place."""
    expected = {row.to_released(name) or name: tuple(p.shape) for name, p in model.state_dict().items()}
    check(expected, {name: info.shape for name, info in files.infos.items()}, "these weights")
    return {ours: row.to_released(ours) or ours for ours in model.state_dict()}


def check(expected: Shapes, found: Shapes, where: str) -> None:
    """Raises UserError that names missing, unexpected and misshapen tensors."""
    faults = [f"{name} is missing" for name in expected if name not in found]
    faults += [f"{name} is unexpected" for name in found if name not in expected]
    faults += [
        f"{name} has shape {found[name]} where {shape} is needed"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if faults:
        more = f", and {len(faults) - 8} more" if len(faults) > 8 else ""
        raise UserError(f"The tensors of {where} do not fit the model: {'; '.join(faults[:8])}{more}.")


def empty_model(row: Family, shapes: Shapes, sizes: dict[str, Any]) -> ModelMixin:
    """The family's model on the meta device, of the sizes given, the rest read off the tensors."""
    try:
        with init_empty_weights():
            return row.model(**row.config(shapes, sizes))
    except KeyError as error:
        raise UserError(f"Tensor {error.args[0]} is missing, or these are no {row.name} weights.") from error
    except (TypeError, ValueError, RuntimeError, ArithmeticError, IndexError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"These sizes make no {row.name} transformer ({error}): mend --config.") from error


def read_sizes(config: Sizes | None) -> dict[str, Any]:
    """Sizes as a dictionary, without the sampler's keys and diffusers' notes."""
    if config is None:
        return {}
    sizes = read_object(config) if isinstance(config, Path) else config
    return {key: value for key, value in sizes.items() if key not in SAMPLER_KEYS and key[0] != "_"}


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The folder {folder} cannot be made ({error.strerror}): choose another place.") from error


def sama_config(shapes: Shapes, sizes: dict[str, Any]) -> dict[str, Any]:
    """SamaTransformer3DModel's arguments: from `sizes` (released names, or the arguments' own), else from shapes.

    What shapes cannot say is the release's: heads of 128, 65 tokens an anchor, eps 1e-6.
    """
    released = {"dim", "num_heads", "num_semantic_tokens", "in_dim", "out_dim"}
    known = released | set(inspect.signature(SamaTransformer3DModel.__init__).parameters) - {"self"}
    for key in sizes:
        if key not in known:
            raise UserError(f"{key!r} is no size of a SAMA transformer: remove it from --config.")
    sizes = dict(sizes)
    d, c, *patch = shapes["patch_embedding.weight"]
    patch = sizes.pop("patch_size", patch)
    d = sizes.pop("dim", d)
    heads = sizes.pop("num_heads", sizes.pop("num_attention_heads", None))
    if heads is None:
        if d % 128:
            raise UserError(f"The number of heads is unknown for width {d}: give it as num_heads in --config.")
        heads = d // 128
    if d % heads:
        raise UserError(f"Width {d} does not split into {heads} heads: mend dim or num_heads in --config.")
    semantic = shapes.get("siglip_feat_mlp.fc1.weight", (1024, 1152))
    tokens = sizes.pop("num_semantic_tokens", 65)
    anchors, rest = divmod(tokens, 65)
    if rest:
        anchors, per_anchor = 1, tokens
    else:
        per_anchor = 65
    blocks = [int(key.split(".")[1]) for key in shapes if re.match(r"blocks\.\d+\.", key)]
    config = {
        "patch_size": tuple(patch),
        "num_attention_heads": heads,
        "attention_head_dim": d // heads,
        "in_channels": sizes.pop("in_dim", c),
        "out_channels": sizes.pop("out_dim", shapes["head.head.weight"][0] // math.prod(patch)),
        "text_dim": shapes["text_embedding.0.weight"][1],
        "freq_dim": shapes["time_embedding.0.weight"][1],
        "ffn_dim": shapes["blocks.0.ffn.0.weight"][0],
        "num_layers": max(blocks, default=-1) + 1,
        "semantic_dim": semantic[1],
        "semantic_hidden": semantic[0],
        "semantic_tokens_per_anchor": per_anchor,
        "num_anchors": anchors,
    }
    return config | sizes


def find_family(name: str) -> Family:
    """The row of a family. Raises UserError that lists those there are."""
    if name not in FAMILIES:
        raise UserError(f"There is no family {name!r}: choose {', '.join(FAMILIES)}.")
    return FAMILIES[name]


FAMILIES = {"sama": Family("sama", SamaTransformer3DModel, SAMA_NAMES, sama_config)}
