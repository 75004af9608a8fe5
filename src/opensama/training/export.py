"""What a run leaves: a pipeline folder that edits, the released layout, or files of low-rank matrices."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import torch
import torch.distributed as dist
from diffusers import FlowMatchEulerDiscreteScheduler

from opensama import runtime
from opensama.models.convert import convert_to_released
from opensama.models.lora import save_comfy, save_diffusers, whole
from opensama.models.registry import Defaults
from opensama.models.sama import SamaTransformer3DModel
from opensama.models.weights import TensorInfo, write_shards
from opensama.training.config import SamaConfig
from opensama.training.start import base_folder

PARTS = ("tokenizer", "text_encoder", "vae")


def export(transformer: Any, config: SamaConfig, out: Path) -> Path:
    """Writes what was learnt, from all processes' shards, in bfloat16; every process calls it, the first one writes."""
    if config.lora:
        save_diffusers(transformer, out / "lora")
        save_comfy(transformer, out / "lora" / "comfyui.safetensors")
        return out / "lora"
    folder = out / "model"
    state = transformer.state_dict()
    infos = {name: TensorInfo(tuple(p.shape), "BF16") for name, p in state.items()}

    def tensor(name: str) -> torch.Tensor:
        return whole(state[name]).to(torch.bfloat16)

    if runtime.rank() == 0:
        (folder / "transformer").mkdir(parents=True, exist_ok=True)
        transformer.save_config(folder / "transformer")
        sizes = runtime.read_object(folder / "transformer" / "config.json")
        sizes["_class_name"] = SamaTransformer3DModel.__name__  # sharding has given the class another name
        (folder / "transformer" / "config.json").write_text(json.dumps(sizes, indent=2) + "\n")
        write_shards(folder / "transformer", infos, tensor)
        convert_to_released(folder, folder / "sama.safetensors")
        complete(config, folder)
    else:  # takes part in gathering, tensor by tensor
        for name in infos:
            tensor(name)
    if dist.is_initialized():
        dist.barrier()
    return folder


def complete(config: SamaConfig, folder: Path) -> None:
    """Makes a transformer's folder one of a whole pipeline, with copies of the base's other parts."""
    from transformers import AutoTokenizer

    base = base_folder(config, tuple(f"{part}/*" for part in PARTS))
    for part in PARTS:
        shutil.copytree(base / part, folder / part, dirs_exist_ok=True)
    data, window = config.data, max(9, config.data.frames)
    defaults = Defaults(
        shift=config.loss.shift,
        area=data.area,
        multiple=data.multiple,
        window=window,
        overlap=min(4, (window - 1) // 4 - 1),
        prompt_prefix=data.prefix,
        negative_prompt=data.no_text,
        max_text_tokens=data.text_tokens,
    )
    scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=config.loss.shift)
    scheduler.save_pretrained(folder / "scheduler")
    vae = runtime.read_object(base / "vae" / "config.json")["_class_name"]
    index = {
        "_class_name": "SamaPipeline",
        "_diffusers_version": diffusers.__version__,
        "defaults": defaults.to_dict(),
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", type(AutoTokenizer.from_pretrained(base / "tokenizer")).__name__],
        "transformer": ["opensama.models.sama", "SamaTransformer3DModel"],
        "vae": ["opensama.models.tiny" if vae == "PatchAutoencoder" else "diffusers", vae],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
