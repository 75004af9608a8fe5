"""SAMA's training from settings to a model: processes, data, transformer, loop, export.

RUN/config.yaml              the resolved settings
RUN/NAME/                    checkpoints and metrics of the stage, see `loop.py`
RUN/model/transformer/       at the end: the averaged weights, as diffusers and `opensama train` read them
RUN/model/sama.safetensors   the same in the released layout
RUN/lora/                    of a low-rank run instead: for diffusers, and comfyui.safetensors
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from opensama import runtime
from opensama.data.latents import precompute
from opensama.data.samples import Row, read_manifest
from opensama.models.convert import convert_to_released
from opensama.models.lora import save_comfy, save_diffusers
from opensama.models.sama import SamaTransformer3DModel
from opensama.models.weights import TensorInfo, write_shards
from opensama.training.config import SamaConfig
from opensama.training.loop import LoopConfig, Trainer
from opensama.training.parallel import MeshConfig, lay_out, parallelise
from opensama.training.plan import Plan, make_plan, nominal_shapes
from opensama.training.preview import Preview
from opensama.training.stages import SamaStage
from opensama.training.start import (
    fingerprint,
    full_config,
    layout_of,
    make_encoders,
    make_transformer,
    make_vae,
    open_data,
    sizes_of,
    spatial_of,
)
from opensama.values import UserError

Say = Callable[[str], None]
FREE = {"machine", "mesh", "save_every", "preview_every", "trackers"}  # what may change when a run goes on


def loop_config(config: SamaConfig, passes: int) -> LoopConfig:
    o = config.optimizer
    return LoopConfig(
        steps=o.steps,
        lr=o.lr,
        warmup=o.warmup,
        decay=o.decay,
        betas=o.betas,
        weight_decay=o.weight_decay,
        clip=o.clip,
        ema=o.ema,
        spike_loss=o.skip_loss,
        spike_norm=o.skip_norm,
        save_every=config.save_every,
        trackers=config.trackers,
        preview_every=config.preview_every,
        accumulate=passes,
    )


def train_sama(
    config: SamaConfig, out: Path, *, name: str = "sama", device: str | None = None, say: Say = print
) -> Path:
    """Trains in the folder `out`, on from its last checkpoint if it has one; what comes out is the model's folder.

    Under torchrun its processes share the work as `config.mesh` says, each on a GPU of its own; `device` is for one.
    """
    mesh = MeshConfig(**config.mesh.model_dump(), compute=config.compute)
    layout = lay_out(mesh)
    where = layout.device if device is None or layout.weights is not None else runtime.pick_device(device)
    data, found = open_data(config, where, noting(say))
    transformer: Any = parallelise(make_transformer(config), mesh)
    nn.Module.to(transformer, where)  # diffusers' own warns of what it keeps in float32
    rank, world = layout.data_rank, layout.data_world
    stage = SamaStage(name, transformer, data, config, rank=rank, world=world, device=where)
    settings = config.model_dump(mode="json", exclude=FREE)
    settings["optimizer"].pop("steps")
    for path in ("manifest", "latents"):  # where the data lies; what it holds is in `found`
        settings["data"].pop(path)
    if config.preview_every:
        stage.preview = Preview(transformer, make_vae(config, where), data, shift=config.loss.shift)
    loop = loop_config(config, stage.passes)
    trainer = Trainer(stage, loop, out, say, settings=settings, data=found, context=mesh.context)
    if runtime.rank() == 0:
        config.save(out / "config.yaml")
    trainer.run()
    return export(transformer, out)


def noting(say: Say) -> Callable[[Row, str], None]:
    return lambda row, reason: say(f"left out line {row.line} of the manifest: {reason}")


def export(transformer: Any, out: Path) -> Path:
    """Writes what was learnt, from all processes' shards, in bfloat16; the first process writes."""
    if getattr(transformer, "peft_config", None):
        save_diffusers(transformer, out / "lora")
        save_comfy(transformer, out / "lora" / "comfyui.safetensors")
        return out / "lora"
    folder = out / "model" / "transformer"
    state = transformer.state_dict()
    infos = {name: TensorInfo(tuple(p.shape), "BF16") for name, p in state.items()}

    def whole(name: str) -> torch.Tensor:
        p = state[name]
        return (p.full_tensor() if isinstance(p, DTensor) else p).detach().to("cpu", torch.bfloat16)

    if runtime.rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        transformer.save_config(folder)
        config = runtime.read_object(folder / "config.json")
        config["_class_name"] = SamaTransformer3DModel.__name__  # sharding has given the class another name
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        write_shards(folder, infos, whole)
        convert_to_released(folder, out / "model" / "sama.safetensors")
    else:  # takes part in gathering, tensor by tensor
        for name in infos:
            whole(name)
    if dist.is_initialized():
        dist.barrier()
    return out / "model"


def encode_data(
    config: SamaConfig, folder: Path, *, device: str | None = None, rank: int = 0, world: int = 1, say: Say = print
) -> dict[str, str]:
    """Encodes the manifest's items into `folder`, for data.latents; bad items come out."""
    if config.data.manifest is None:
        raise UserError("There is nothing to encode: name a manifest with --data.")
    manifest = read_manifest(config.data.manifest)
    layout = layout_of(config, full_config(sizes_of(config)))
    items = layout.items(manifest.rows, noting(say))
    encoders = make_encoders(config, runtime.pick_device(device))
    return precompute(
        folder,
        items,
        layout,
        encoders,
        fingerprint(config, manifest),
        no_text=config.data.no_text,
        rank=rank,
        world=world,
        say=say,
    )


def plan_sama(config: SamaConfig, *, gpus: int | None = None, say: Say = print) -> Plan:
    """Checks settings and data, and predicts what the run takes. Nothing large is read."""
    model = full_config(sizes_of(config))
    layout = layout_of(config, model)
    if config.data.manifest is not None:
        manifest = read_manifest(config.data.manifest)
        bad: list[str] = []
        items = layout.items(manifest.rows, lambda row, reason: bad.append(f"line {row.line}: {reason}"))
        say(f"data: {len(manifest.rows):,} rows, {len(items):,} items, {len(bad)} rows left out")
        for line in bad[:5]:
            say(f"  {line}")
        shapes = [item.shape for item in items]
        if not shapes:
            raise UserError(f"No row of {manifest.path} can be read; the first: {bad[0]}")
    else:
        say("data: none given; planned for the longest clips of one bucket")
        shapes = nominal_shapes(config)
    return make_plan(config, model, shapes, spatial=spatial_of(config), gpus=gpus)
