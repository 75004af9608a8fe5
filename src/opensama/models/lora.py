"""Low-rank training of an editor's transformer, and its files for diffusers and for ComfyUI.

    W x + (alpha / rank) B A x        A: lora_A or lora_down [rank n_in], B: lora_B or lora_up [n_out rank]

diffusers: `transformer.blocks.0.attn1.to_q.lora_A.weight`, alpha in the file's metadata.
ComfyUI:   `diffusion_model.blocks.0.self_attn.q.lora_down.weight`, the released names, alpha a tensor beside.

Where a released tensor holds several of our layers (ICVE's q, k, v), ComfyUI's file has theirs side by side:

    [W1; W2] x + [B1 0; 0 B2] [A1; A2] x          rank and alpha count once for each

From plain Wan weights, what SAMA adds (type embedding, semantic modules) is trained too. These tensors are whole, not
low-rank: they lie beside diffusers' file, and in ComfyUI's as `.set_weight`, which takes the place of a model's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from diffusers.models.modeling_utils import ModelMixin
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from opensama.models.families import Family, family_of, imported
from opensama.models.parallel import blocks
from opensama.runtime import rank
from opensama.values import UserError

if TYPE_CHECKING:
    from diffusers.loaders.lora_base import LoraBaseMixin

ADAPTER = "default"
DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
ADDED_FILE = "added_modules.safetensors"


def add_lora(model: ModelMixin, r: int, alpha: int, targets: Sequence[str], *, also_new: bool = False) -> None:
    """Freezes the transformer but what its family adds (`also_new`); gives layers of its blocks low-rank matrices."""
    chosen = list(lora_layers(model, targets))
    model.requires_grad_(False)
    model.add_adapter(LoraConfig(r=r, lora_alpha=alpha, target_modules=chosen, init_lora_weights=True))
    if also_new:
        for part in added_modules(model):
            part.requires_grad_(True)


def count_lora(model: ModelMixin, r: int, targets: Sequence[str], *, also_new: bool = False) -> int:
    """The parameters that `add_lora` leaves to be trained, without adding any."""
    matrices = sum(r * (layer.in_features + layer.out_features) for layer in lora_layers(model, targets).values())
    return matrices + sum(p.numel() for part in added_modules(model) if also_new for p in part.parameters())


def lora_layers(model: ModelMixin, targets: Sequence[str]) -> dict[str, nn.Linear]:
    """The layers of a transformer's blocks that targets name. UserError for a target that names none."""
    inside = {module for block in blocks(model) for module in block.modules() if isinstance(module, nn.Linear)}
    layers = {name: module for name, module in model.named_modules() if module in inside}
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in layers):
            known = sorted({re.sub(r"^\w+\.\d+\.(attn\d?\.)?", "", name) for name in layers})
            raise UserError(f"No block has a layer {target!r} for lora.targets: there are {', '.join(known)}.")
    return {name: layer for name, layer in layers.items() if any(name.endswith(f".{target}") for target in targets)}


def added_modules(model: ModelMixin) -> list[nn.Module]:
    """What a transformer's family adds to its base."""
    return [part for name in family_of(model).added if (part := getattr(model, name, None)) is not None]


def lora_state(model: nn.Module) -> dict[str, Tensor]:
    """The low-rank matrices by diffusers' names, without a prefix."""
    state = get_peft_model_state_dict(model, adapter_name=ADAPTER)
    return {name: gather_full(tensor) for name, tensor in state.items()}


def added_state(model: nn.Module) -> dict[str, Tensor]:
    """The trained tensors of what the family adds, by our names; empty where they were left as they were."""
    family = family_of(model)
    trained = {name: p for name, p in model.named_parameters() if family.is_added(name) and p.requires_grad}
    return {name: gather_full(p) for name, p in trained.items()}


def gather_full(tensor: Tensor) -> Tensor:
    """On the CPU, put together from all processes' shards: each of them has to ask."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().cpu().contiguous()


def save_diffusers(model: ModelMixin, folder: Path) -> Path:
    """A folder that the pipeline's `load_lora_weights` reads; added tensors and the model's settings lie beside.

    `opensama.load(..., lora=[folder])` reads them all.
    """
    matrices, added = lora_state(model), added_state(model)
    if rank():  # the first process writes
        return folder / DIFFUSERS_FILE
    folder.mkdir(parents=True, exist_ok=True)
    loader: type[LoraBaseMixin] = imported(family_of(model).lora_loader)
    loader.save_lora_weights(
        str(folder),
        transformer_lora_layers=matrices,
        transformer_lora_adapter_metadata=model.peft_config[ADAPTER].to_dict(),
    )
    model.save_config(folder)
    if added:
        save_file(added, folder / ADDED_FILE, metadata={"format": "pt"})
    return folder / DIFFUSERS_FILE


def save_comfy(model: ModelMixin, file: Path) -> Path:
    """One file with released names, as ComfyUI loads LoRAs over a released checkpoint."""
    row = family_of(model)
    out: dict[str, Tensor] = {}
    for released, layers in group_by_released(model, row).items():
        key = f"diffusion_model.{released.removesuffix('.weight')}"
        downs = [down for down, _ in layers if down is not None]
        out[f"{key}.lora_down.weight"] = torch.cat(downs)
        out[f"{key}.lora_up.weight"] = torch.block_diag(*(up for _, up in layers))
        out[f"{key}.alpha"] = torch.tensor(float(model.peft_config[ADAPTER].lora_alpha * len(downs)))
    for name, tensor in added_state(model).items():
        released = row.to_released(name) or name
        out[f"diffusion_model.{released.removesuffix('.weight')}.set_weight"] = tensor
    if rank():
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.contiguous() for key, tensor in out.items()}, file, metadata={"format": "pt"})
    return file


def group_by_released(model: ModelMixin, row: Family) -> dict[str, list[tuple[Tensor | None, Tensor]]]:
    """A and B of low-rank layers, by the released tensor that holds these layers, in its order.

    A layer among them that has no matrices has no A, and a B [n_out 0]: block_diag then leaves its rows at zero.
    """
    state = lora_state(model)
    out: dict[str, list[tuple[Tensor | None, Tensor]]] = {}
    for layer in dict.fromkeys(name.rsplit(".", 2)[0] for name in state):
        released = row.to_released(f"{layer}.weight") or f"{layer}.weight"
        names = [part.removesuffix(".weight") for part in row.to_ours(released) or (released,)]
        out[released] = [
            (state[f"{name}.lora_A.weight"], state[f"{name}.lora_B.weight"])
            if f"{name}.lora_A.weight" in state
            else (None, torch.zeros(model.get_submodule(name).out_features, 0))
            for name in names
        ]
    return out


def merged(model: ModelMixin) -> dict[str, Callable[[], Tensor]]:
    """What gives each weight of the whole transformer, low-rank matrices added in, by the names it has without them.

    On the CPU, put together from all processes' shards one tensor at a time: each process has to call them in order.
    """
    state = model.state_dict()
    scales = {name: module.scaling for name, module in model.named_modules() if hasattr(module, "base_layer")}

    def tensor(name: str) -> Tensor:
        weight, layer = gather_full(state[name]), name.removesuffix(".base_layer.weight")
        for adapter, scale in scales.get(layer, {}).items():
            down, up = (gather_full(state[f"{layer}.lora_{side}.{adapter}.weight"]).float() for side in "AB")
            weight = weight.float() + scale * (up @ down)
        return weight

    return {plain_name(name): partial(tensor, name) for name in state if ".lora_" not in name}


def plain_name(name: str) -> str:
    """What a tensor is called where its layer has no low-rank matrices."""
    return name.replace(".base_layer.", ".")


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """A model's own tensors as its file has them, buffers among them, by the names they have without adapters."""
    tensors: dict[str, Tensor] = model.state_dict(keep_vars=True)
    return {plain_name(name): tensor for name, tensor in tensors.items() if ".lora_" not in name}
