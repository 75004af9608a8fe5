"""A LoRA of any layout written in another: the same changes, by the names and in the pairs that a tool reads.

    diffusers   transformer.OURS.lora_A.weight, lora_B; rank and alpha in the header
    comfyui     diffusion_model.NAME.lora_down.weight, lora_up, alpha; whole differences as .diff, .diff_b, .set_weight
    kijai       diffusion_model.NAME.lora_A.weight, lora_B, alpha / rank multiplied into B
    musubi      lora_unet_NAME.lora_down.weight, lora_up, alpha, underscores for dots

NAME is the base's. Where one of its tensors holds several of our layers (HunyuanVideo's queries, keys and values),
their matrices come together: with one A as they are, else as blocks, [W1; W2] x + [B1 0; 0 B2] [A1; A2] x.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from accelerate import init_empty_weights
from diffusers.models.modeling_utils import ModelMixin
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor

from opensama.models.convert import read_sizes
from opensama.models.families import MODEL_FAMILIES, Rows, family_of, find_family, imported
from opensama.models.lora_files import LoraFile, files_of, layer_of, lora_changes, weights_of
from opensama.runtime import whole_file
from opensama.values import UserError

if TYPE_CHECKING:
    from diffusers.loaders.lora_base import LoraBaseMixin

LORA_LAYOUTS = ("diffusers", "comfyui", "kijai", "musubi")


class _Pair(NamedTuple):
    """Matrices for rows `start` to `stop` of one of our tensors, and alpha / rank."""

    start: int
    stop: int
    down: Tensor
    up: Tensor
    scale: float


class _Whole(NamedTuple):
    """A whole difference of such rows (`diff`), or what takes their place (`set_weight`)."""

    start: int
    stop: int
    kind: str
    value: Tensor


def convert_lora_file(
    source: Path, out: Path, layout: str, family: str | None = None, config: Path | dict[str, object] | None = None
) -> Path:
    """Writes the LoRA `source`, a file or the folder that training wrote, as one file of a layout of LORA_LAYOUTS.

    Without `family` and `config`, the sizes of its transformer, it is that of the known models which it fits. UserError
    where it fits none, and for changes that the layout cannot carry.
    """
    if layout not in LORA_LAYOUTS:
        raise UserError(f"There is no LoRA layout {layout!r}: choose {', '.join(LORA_LAYOUTS)}.")
    if out.suffix != ".safetensors" or out.is_dir():
        raise UserError(f"{out} is not the name of a safetensors file: end it in .safetensors.")
    files = list(files_of(source))
    model = _model_for(files, source, family, config)
    pairs: dict[str, list[_Pair]] = {}
    wholes: dict[str, list[_Whole]] = {}
    for file in files:
        _collect(model, file, pairs, wholes)
    if layout == "diffusers" and wholes:
        name = next(iter(wholes))
        raise UserError(
            f"{source.name} changes {name} as a whole, which diffusers' layout cannot carry: choose comfyui."
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The folder {out.parent} cannot be made ({error.strerror}): choose another place.") from error
    if layout == "diffusers":
        _save_diffusers(model, pairs, out)
    else:
        _save_by_base_names(model, pairs, wholes, layout, out)
    return out


def _model_for(
    files: list[LoraFile], source: Path, family: str | None, config: Path | dict[str, object] | None
) -> ModelMixin:
    """The first known model on the meta device that all files fit."""
    if config is None and source.is_dir() and (source / "config.json").is_file():
        config = source / "config.json"
    rows = [find_family(family)] if family is not None else list(MODEL_FAMILIES.values())
    sizes = [(row, read_sizes(config)) for row in rows] if config is not None else []
    if config is None:
        sizes = [(row, dict(base.sizes)) for row in rows for base in row.bases.values()]
        sizes = [one for i, one in enumerate(sizes) if one not in sizes[:i]]
    said: UserError | None = None
    for row, given in sizes:
        try:
            with init_empty_weights():
                model: ModelMixin = row.transformer(**given)
            for file in files:
                lora_changes(model, file)
        except UserError as error:
            said = said or error
        except TypeError:  # another family's sizes
            continue
        else:
            return model
    raise UserError(f"{said or source} Give the sizes of its model with `config`, a transformer's config.json.")


def _collect(model: ModelMixin, file: LoraFile, pairs: dict[str, list[_Pair]], wholes: dict[str, list[_Whole]]) -> None:
    """What a file does to each of our tensors."""
    shapes = {name: tuple(p.shape) for name, p in weights_of(model).items()}
    for change in lora_changes(model, file):
        at = 0
        for part in change.rows:
            here, at = slice(at, at + part.stop - part.start), at + part.stop - part.start
            if "down" in change.keys:
                down, up = (file.tensor(change.keys[side]) for side in ("down", "up"))
                scale = file.scale(change, layer_of(part.name))
                pairs.setdefault(part.name, []).append(_Pair(part.start, part.stop, down, up[here], scale))
                continue
            side = next(side for side in ("diff", "set") if side in change.keys)
            shape = shapes[part.name]
            value = file.tensor(change.keys[side])
            value = value.reshape(-1, *shape[1:])[here] if shape else value
            kind = "set_weight" if side == "set" else "diff"
            wholes.setdefault(part.name, []).append(_Whole(part.start, part.stop, kind, value))


def _save_diffusers(model: ModelMixin, pairs: dict[str, list[_Pair]], out: Path) -> None:
    layers, ranks, alphas = dict[str, Tensor](), dict[str, int](), dict[str, float]()
    for name, found in pairs.items():
        rows = model.get_parameter(name).shape[0]
        down, up, scale = _joined([_of_rows(found, part) for part in _cut(found, rows)])
        layer = layer_of(name)
        layers |= {f"{layer}.lora_A.weight": down.contiguous(), f"{layer}.lora_B.weight": up.contiguous()}
        ranks[layer], alphas[layer] = down.shape[0], scale * down.shape[0]
    rank, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    adapter = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=sorted(ranks),
        rank_pattern={layer: r for layer, r in ranks.items() if r != rank},
        alpha_pattern={layer: a for layer, a in alphas.items() if a != alpha},
    )
    loader: type[LoraBaseMixin] = imported(family_of(model).lora_loader)
    with whole_file(out) as part:
        loader.save_lora_weights(
            str(out.parent),
            transformer_lora_layers=layers,
            transformer_lora_adapter_metadata=adapter.to_dict(),
            weight_name=part.name,
        )


def _save_by_base_names(
    model: ModelMixin, pairs: dict[str, list[_Pair]], wholes: dict[str, list[_Whole]], layout: str, out: Path
) -> None:
    shapes = {name: tuple(p.shape) for name, p in weights_of(model).items()}
    tensors: dict[str, Tensor] = {}
    for released, parts in family_of(model).comfy_layout(shapes).items():
        stem = released.removesuffix(".weight")
        key = f"lora_unet_{stem.replace('.', '_')}" if layout == "musubi" else f"diffusion_model.{stem}"
        if any(part.name in pairs for part in parts):
            down, up, scale = _joined([_of_rows(pairs.get(part.name, []), part) for part in parts])
            if layout == "kijai":
                tensors |= {f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up * scale if scale != 1 else up}
            else:
                tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
                tensors[f"{key}.alpha"] = torch.tensor(scale * down.shape[0])
        if any(part.name in wholes for part in parts):
            kind, value = _whole(wholes, parts, shapes)
            bias = released.endswith(".bias") and kind == "diff"
            tensors[f"{key.removesuffix('.bias')}.diff_b" if bias else f"{key}.{kind}"] = value
    with whole_file(out) as part:
        save_file({key: x.contiguous().clone() for key, x in tensors.items()}, part, metadata={"format": "pt"})


def _cut(found: list[_Pair], rows: int) -> Iterator[Rows]:
    """A tensor's rows, cut where its pairs begin and end."""
    edges = sorted({0, rows, *(edge for pair in found for edge in (pair.start, pair.stop))})
    return (Rows("", start, stop) for start, stop in pairwise(edges))


def _of_rows(found: list[_Pair], part: Rows) -> _Pair:
    """The pair for some rows of a tensor; where none is, one without columns."""
    for pair in found:
        if pair.start <= part.start and part.stop <= pair.stop:
            return pair._replace(up=pair.up[part.start - pair.start : part.stop - pair.start])
    return _Pair(part.start, part.stop, torch.zeros(0, 0), torch.zeros(part.stop - part.start, 0), math.nan)


def _joined(pairs: list[_Pair]) -> tuple[Tensor, Tensor, float]:
    """One pair for rows that follow each other, and its alpha / rank."""
    there = [pair for pair in pairs if pair.down.shape[0]]
    first = there[0]
    ups = [
        pair.up * (pair.scale / first.scale) if pair.down.shape[0] and pair.scale != first.scale else pair.up
        for pair in pairs
    ]
    if len(there) == len(pairs) and all(torch.equal(pair.down, first.down) for pair in there):
        return first.down, torch.cat(ups), first.scale
    return torch.cat([pair.down for pair in there]), torch.block_diag(*ups).to(first.up.dtype), first.scale


def _whole(
    wholes: dict[str, list[_Whole]], parts: list[Rows], shapes: dict[str, tuple[int, ...]]
) -> tuple[str, Tensor]:
    """A released tensor's whole difference, zero where none is said; or what takes its place, which is said whole."""
    given = [
        next((w for w in wholes.get(part.name, []) if w.start <= part.start and part.stop <= w.stop), None)
        for part in parts
    ]
    first = next(whole for whole in given if whole is not None)
    if any(
        (whole is None and first.kind != "diff") or (whole is not None and whole.kind != first.kind) for whole in given
    ):
        raise UserError(f"Only some rows of the tensor that holds {parts[0].name} are replaced: no file can say that.")
    if not shapes[parts[0].name]:
        return first.kind, first.value
    values = [
        torch.zeros(part.stop - part.start, *shapes[part.name][1:], dtype=first.value.dtype)
        if whole is None
        else whole.value[part.start - whole.start : part.stop - whole.start]
        for part, whole in zip(parts, given, strict=True)
    ]
    return first.kind, values[0] if len(values) == 1 else torch.cat(values)
