"""What a run leaves: a pipeline folder that edits, the released layout, or files of low-rank matrices."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import diffusers
import torch
from diffusers.models.modeling_utils import ModelMixin

from opensama import runtime
from opensama.models.convert import convert_to_file
from opensama.models.families import find_family
from opensama.models.lora import merged, plain_name, save_comfy, save_diffusers
from opensama.models.registry import Defaults
from opensama.models.weights import TensorInfo, write_shards
from opensama.pipeline.assemble import BasePart, base_parts
from opensama.training.collectives import wait_for_all
from opensama.training.config import EditConfig
from opensama.training.frozen import frozen_parts


def export_editor(transformer: ModelMixin, config: EditConfig, out: Path) -> Path:
    """Writes what was learnt, from all processes' shards, in bfloat16; every process calls it, the first one writes.

    The others wait for it, see `collectives.py`.
    """
    if config.lora:
        save_diffusers(transformer, out / "lora")
        save_comfy(transformer, out / "lora" / "comfyui.safetensors")
        if not config.lora.merge:
            return out / "lora"
    folder = out / "model"
    shapes = {plain_name(name): tuple(p.shape) for name, p in transformer.state_dict().items()}
    make = merged(transformer)
    infos = {name: TensorInfo(shapes[name], "BF16") for name in make}

    def tensor(name: str) -> torch.Tensor:
        return make[name]().to(torch.bfloat16)

    if runtime.rank() == 0:
        (folder / "transformer").mkdir(parents=True, exist_ok=True)
        transformer.save_config(folder / "transformer")
        sizes = runtime.read_object(folder / "transformer" / "config.json")
        model = find_family(config.family).transformer
        sizes["_class_name"] = model.__name__  # sharding has given the class another name
        (folder / "transformer" / "config.json").write_text(json.dumps(sizes, indent=2) + "\n")
        write_shards(folder / "transformer", infos, tensor)
        convert_to_file(folder, folder / f"{config.family}.safetensors")
        complete_pipeline(config, folder)
    else:  # takes part in gathering, tensor by tensor
        for name in infos:
            tensor(name)
    wait_for_all()
    return folder


def complete_pipeline(config: EditConfig, folder: Path) -> None:
    """Makes a transformer's folder one of a whole pipeline, with copies of the base's other parts."""
    parts = frozen_parts(config.family, config.model.base)
    for part, (own, _) in parts.items():
        shutil.copytree(own, folder / part, dirs_exist_ok=True)
    family = find_family(config.family)
    scheduler = family.scheduler_at(config.loss.shift)
    scheduler.save_pretrained(folder / "scheduler")
    model = family.transformer
    index: dict[str, object] = {
        "_class_name": family.pipeline_name,
        "_diffusers_version": diffusers.__version__,
        "defaults": defaults_of(config).to_dict(),
        "scheduler": ["diffusers", type(scheduler).__name__],
        "transformer": [model.__module__, model.__name__],
    }
    for part in base_parts(config.family):
        index[part] = index_entry(*parts[part]) if part in parts else [None, None]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def index_entry(folder: Path, kind: type[BasePart]) -> list[str]:
    """The library and class of the part in that folder, as diffusers writes them down."""
    if folder.name.startswith("tokenizer"):
        return ["transformers", type(kind.from_pretrained(folder)).__name__]
    library = kind.__module__ if kind.__module__.startswith("opensama") else kind.__module__.partition(".")[0]
    return [library, kind.__name__]


def defaults_of(config: EditConfig) -> Defaults:
    """How the trained model is asked: as it was trained, the rest as its base is, or its family's released one."""
    data, window = config.data, max(9, config.data.frames)
    index = Path(config.model.base).expanduser() / "model_index.json"
    saved = runtime.read_object(index).get("defaults") if index.is_file() else None
    if saved:
        defaults = Defaults.from_dict(saved)
    else:
        defaults = replace(find_family(config.family).defaults, shift=config.loss.shift)
    chosen = config.model.text_settings | config.model.guidance_settings
    defaults = Defaults.from_dict(defaults.to_dict() | chosen)
    return replace(
        defaults,
        area=data.area,
        multiple=data.multiple,
        window=window,
        overlap=min(defaults.overlap, (window - 1) // 4 - 1),
        prompt_prefix=data.prefix,
        negative_prompt=data.negative_prompt,
        max_text_tokens=data.text_tokens,
        cache=None,  # a threshold holds for the weights that it was measured on
    )
