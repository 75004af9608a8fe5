"""An editor's training from settings to a model: processes, data, transformer, loop, export.

RUN/config.yaml              the resolved settings
RUN/NAME/                    checkpoints and metrics of the stage, see `loop.py`
RUN/model/transformer/       at the end: the averaged weights, as diffusers and `opensama train` read them
RUN/model/FAMILY.safetensors   the same in the released layout
RUN/lora/                    of a low-rank run instead: for diffusers, and comfyui.safetensors
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, inf
from pathlib import Path
from typing import Any

from torch import nn

from opensama import runtime
from opensama.data.latents import precompute
from opensama.data.samples import Shape, TrainingRow, shapes_of
from opensama.pipeline.assemble import base_parts
from opensama.training.config import EditConfig
from opensama.training.devices import own_device
from opensama.training.export import export
from opensama.training.loading import begin, missing_start
from opensama.training.loop import LoopConfig, Trainer
from opensama.training.parallel import MeshConfig, lay_out, parallelise
from opensama.training.plan import Plan, make_plan, nominal_shapes
from opensama.training.preview import Preview
from opensama.training.sources import Items
from opensama.training.stages import EditStage
from opensama.training.start import (
    fingerprint,
    full_config,
    layout_of,
    make_encoders,
    make_vae,
    open_data,
    read_rows,
    sizes_of,
    spatial_of,
)
from opensama.values import UserError

_Say = Callable[[str], None]
FREE = {"machine", "mesh", "save_every", "preview_every", "trackers"}  # what may change when a run goes on


def loop_config(config: EditConfig, passes: int, epoch: int) -> LoopConfig:
    """The loop's settings, with so many passes a step and steps an epoch."""
    o = config.optimizer
    return LoopConfig(
        steps=o.steps if o.epochs is None else ceil(o.epochs * epoch),
        lr=o.lr,
        warmup=o.warmup,
        decay=o.decay,
        betas=o.betas,
        weight_decay=o.weight_decay,
        clip=o.clip,
        ema=o.ema,
        ema_warmup=inf if o.ema_warmup is None else o.ema_warmup,
        nonfinite=o.nonfinite,
        spike_loss=o.skip_loss,
        spike_norm=o.skip_norm,
        save_every=config.save_every,
        trackers=config.trackers,
        preview_every=config.preview_every,
        accumulate=passes,
    )


def train_editor(config: EditConfig, out: Path, *, name: str, device: str | None = None, say: _Say = print) -> Path:
    """Trains in the folder `out`, on from its last checkpoint if it has one; what comes out is the model's folder.

    Under torchrun its processes share the work as `config.mesh` says, each on a GPU of its own; `device` is for one.
    """
    missing = missing_start(config)
    if missing:
        raise UserError(missing)
    layout = lay_out(MeshConfig(**config.mesh.model_dump()))
    where = layout.device if device is None or layout.weights is not None else runtime.pick_device(device)
    compute = runtime.compute_type(config.compute, where)
    mesh = MeshConfig(**config.mesh.model_dump(), compute=compute)
    beginning = begin(config.model_copy(update={"compute": compute}))
    data, found = open_data(config, where, noting(say))
    transformer: Any = parallelise(beginning.model, mesh)
    nn.Module.to(transformer, where)  # diffusers' own warns of what it keeps in float32
    beginning.fill(transformer)
    rank, world = layout.data_rank, layout.data_world
    sharing = None if layout.context is None else layout.context["ulysses"].get_group()
    items = Items(data, config, rank=rank, world=world, device=where, sharing=sharing)
    stage = EditStage.of(name, transformer, items)
    settings = config.model_dump(mode="json", exclude=FREE)
    for length in ("steps", "epochs"):
        settings["optimizer"].pop(length)
    for path in ("manifest", "latents"):  # where the data lies; what it holds is in `found`
        settings["data"].pop(path)
    if config.preview_every:
        stage.preview = Preview(transformer, make_vae(config, where), data, config)
    trainer = Trainer(
        stage,
        loop_config(config, items.passes, items.epoch),
        out,
        say,
        settings=settings,
        data=found,
        free=("optimizer.",),
        context=mesh.context,
    )
    if runtime.rank() == 0:
        config.save(out / "config.yaml")
    trainer.run()
    return export(transformer, config, out)


def noting(say: _Say) -> Callable[[TrainingRow, str], None]:
    return lambda row, reason: say(f"left out line {row.line} of the manifest: {reason}")


def encode_data(
    config: EditConfig, folder: Path, *, device: str | None = None, rank: int = 0, world: int = 1, say: _Say = print
) -> dict[str, str]:
    """Encodes the manifest's items into `folder`, for data.latents; bad items come out."""
    if config.data.manifest is None:
        raise UserError("There is nothing to encode: name a manifest with --data.")
    manifest = read_rows(config)
    layout = layout_of(config, full_config(sizes_of(config), config.family))
    items = layout.items(manifest.rows, noting(say))
    encoders = make_encoders(config, own_device(device))
    return precompute(
        folder,
        items,
        layout,
        encoders,
        fingerprint(config, manifest),
        no_text=config.data.no_text,
        rank=rank,
        world=world,
        workers=config.machine.workers,
        say=say,
    )


def plan_editor(config: EditConfig, *, gpus: int | None = None, say: _Say = print) -> Plan:
    """Checks settings and data, and predicts what the run takes. Nothing large is read."""
    model = full_config(sizes_of(config), config.family)
    layout = layout_of(config, model)
    if config.data.manifest is not None:
        manifest = read_rows(config)
        bad: list[str] = []
        items = layout.items(manifest.rows, lambda row, reason: bad.append(f"line {row.line}: {reason}"))
        say(f"data: {len(manifest.rows):,} rows, {len(items):,} items, {len(bad)} rows left out")
        for line in bad[:5]:
            say(f"  {line}")
        shapes: Sequence[Shape] = shapes_of(items)
        if not shapes:
            raise UserError(f"No row of {manifest.path} can be read; the first: {bad[0]}")
    else:
        say("data: none given; planned for the longest clips of one bucket")
        shapes = nominal_shapes(config)
    say(f"weights: {where_weights(config)}")
    return make_plan(config, model, shapes, spatial=spatial_of(config), gpus=gpus, nominal=not config.data.manifest)


def where_weights(config: EditConfig) -> str:
    """Half a sentence on what the run would begin from. UserError for files that are named and not there."""
    own = config.model.weights
    if own is not None and not own.expanduser().exists():
        raise UserError(f"There is no file or folder {own}: check model.weights.")
    missing_weights = missing_start(config)
    if missing_weights:
        return f"none yet. {missing_weights}"
    base = Path(config.model.base).expanduser()
    if not base.is_dir():
        return f"{own or config.model.base}; the run takes what is not in the cache from the hub repository {base}"
    new = config.model.start == "nothing"
    missing = runtime.missing_parts(base, (*base_parts(config.family, base), *(() if own or new else ("transformer",))))
    if missing:
        raise UserError(f"The base model in {base} has no {', '.join(missing)}: copy it again, whole.")
    if new:
        return f"random ones, beside the frozen models of {base}"
    return f"{own or base / 'transformer'}, all there"
