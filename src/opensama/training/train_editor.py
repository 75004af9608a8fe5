"""An editor's training from settings to a model: processes, data, transformer, loop, export.

RUN/config.yaml              the resolved settings
RUN/NAME/                    checkpoints and metrics of the stage, see `loop.py`
RUN/model/transformer/       at the end: the averaged weights, as diffusers and `opensama train` read them
RUN/model/FAMILY.safetensors   the same in the released layout
RUN/lora/                    of a low-rank run instead: for diffusers, and comfyui.safetensors
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from math import ceil, inf
from pathlib import Path

from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from opensama import runtime
from opensama.data.latents import precompute
from opensama.data.samples import Shape, shapes_of
from opensama.models.registry import part_folder
from opensama.pipeline.assemble import base_parts
from opensama.training.config import EditConfig, StartSettings
from opensama.training.dataset import fingerprint, layout_for, open_data, open_live, read_training_rows
from opensama.training.edit_stage import EditStage
from opensama.training.export import export_editor
from opensama.training.frozen import check_whole, make_vae
from opensama.training.loading import full_config, initial_transformer, missing_start, sizes_of, spatial_of
from opensama.training.loop import LoopConfig, Trainer
from opensama.training.parallel import lay_out, parallelise
from opensama.training.plan import Plan, make_plan, nominal_shapes
from opensama.training.preview import Preview
from opensama.training.sources import ItemSource
from opensama.values import UserError, how_many

_log = logging.getLogger(__name__)
FREE = {"machine", "mesh", "save_every", "preview_every", "trackers"}  # what may change when a run goes on


def loop_config(config: EditConfig, passes: int, epoch: int) -> LoopConfig:
    """The loop's settings, with so many passes a step and steps an epoch."""
    o = config.optimizer
    return LoopConfig(
        steps=o.steps if o.epochs is None else ceil(o.epochs * epoch),
        ema_warmup=inf if o.ema_warmup is None else o.ema_warmup,
        save_every=config.save_every,
        trackers=config.trackers,
        preview_every=config.preview_every,
        accumulate=passes,
        **o.model_dump(exclude={"steps", "epochs", "ema_warmup"}),
    )


def train_editor(config: EditConfig, out: Path, *, name: str, device: str | None = None) -> Path:
    """Trains in the folder `out`, on from its last checkpoint if it has one; what comes out is the model's folder.

    Under torchrun its processes share the work as `config.mesh` says, each on a GPU of its own; `device` is for one.
    """
    missing = missing_start(config.family, config.model)
    if missing:
        raise UserError(missing)
    mesh, layout = config.mesh, lay_out(config.mesh)
    where = layout.device if device is None or layout.weights is not None else runtime.pick_device(device)
    compute = runtime.compute_type(config.compute, where)
    initial = initial_transformer(config.model_copy(update={"compute": compute}))
    data, found = open_data(config, where)
    transformer: ModelMixin = parallelise(initial.model, mesh, compute)
    nn.Module.to(transformer, where)  # diffusers' own warns of what it keeps in float32
    initial.fill(transformer)
    rank, world = layout.data_rank, layout.data_world
    sharing = None if layout.context is None else layout.context["ulysses"].get_group()
    items = ItemSource(data, config, rank=rank, world=world, device=where, sharing=sharing)
    preview = None
    if config.preview_every:
        vae, asked = make_vae(config.family, config.model.base, where), config.model.condition_kwargs
        preview = Preview(transformer, vae, data, shift=config.loss.shift, condition_kwargs=asked)
    stage = EditStage.of(name, transformer, items, preview=preview)
    settings = config.model_dump(mode="json", exclude=FREE)
    for length in ("steps", "epochs"):
        settings["optimizer"].pop(length)
    for path in ("manifest", "latents"):  # where the data lies; what it holds is in `found`
        settings["data"].pop(path)
    trainer = Trainer(
        stage,
        loop_config(config, items.passes, items.epoch),
        out,
        settings=settings,
        data=found,
        free=("optimizer.",),
        context=mesh.context,
    )
    if runtime.rank() == 0:
        config.save(out / "config.yaml")
    trainer.run()
    return export_editor(transformer, config, out)


def encode_data(
    config: EditConfig, folder: Path, *, device: str | None = None, rank: int = 0, world: int = 1
) -> dict[str, str]:
    """Encodes the manifest's items into `folder`, for data.latents; bad items come out."""
    if config.data.manifest is None:
        raise UserError("There is nothing to encode: name a manifest with `data.manifest`.")
    manifest = read_training_rows(config.data)
    live = open_live(config, manifest, runtime.own_device(device))
    workers = config.machine.workers
    return precompute(folder, live, fingerprint(config, manifest), rank=rank, world=world, workers=workers)


def plan_editor(config: EditConfig, *, gpus: int | None = None) -> Plan:
    """Checks settings and data, and predicts what the run takes. Nothing large is read."""
    model = full_config(sizes_of(config), config.family)
    layout = layout_for(config)
    if config.data.manifest is not None:
        manifest = read_training_rows(config.data)
        bad: list[str] = []
        items = layout.items(manifest.rows, lambda row, reason: bad.append(f"line {row.line}: {reason}"))
        used = f"{how_many(len(manifest.rows), 'row')}, {how_many(len(items), 'item')}"
        _log.info("data: %s, %s left out", used, how_many(len(bad), "row"))
        for line in bad[:5]:
            _log.info("  %s", line)
        shapes: Sequence[Shape] = shapes_of(items)
        if not shapes:
            raise UserError(f"No row of {manifest.path} can be read; the first: {bad[0]}")
    else:
        _log.info("data: none given; planned for the longest clips of one bucket")
        shapes = nominal_shapes(config.data)
    _log.info(f"weights: {where_weights(config.family, config.model)}")
    spatial = spatial_of(config.family, config.model.base)
    return make_plan(config, model, shapes, spatial=spatial, gpus=gpus, nominal=not config.data.manifest)


def where_weights(family: str, model: StartSettings) -> str:
    """Half a sentence on what the run would begin from. UserError for files that are named and not there."""
    own = model.weights
    if own is not None and not own.expanduser().exists():
        raise UserError(f"There is no file or folder {own}: check model.weights.")
    missing_weights = missing_start(family, model)
    if missing_weights:
        return f"none yet. {missing_weights}"
    base = Path(model.base).expanduser()
    if not base.is_dir():
        return f"{own or model.base}; the run takes what is not in the cache from the hub repository {base}"
    new = model.start == "nothing"
    parts = (*base_parts(family, base), *(() if own or new else ("transformer",)))
    check_whole([part_folder(base, part) for part in parts])
    if new:
        return f"random ones, beside the frozen models of {base}"
    return f"{own or base / 'transformer'}, all there"
