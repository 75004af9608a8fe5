"""The data that a run reads: rows of a manifest as items, encoded live, or from latents on disk."""

from __future__ import annotations

import logging
from functools import partial

import torch

from opensama.data.latents import EncodedItems, LiveItems, ShardedItems
from opensama.data.samples import Layout, TrainingManifest, TrainingRow, read_manifest
from opensama.models.families import find_family
from opensama.pipeline.buckets import closest
from opensama.pretext import Mixture
from opensama.training.config import DataSettings, EditConfig, SemanticSettings
from opensama.training.frozen import make_encoders
from opensama.training.loading import full_config, sizes_of, spatial_of
from opensama.values import UserError

_log = logging.getLogger(__name__)
Fingerprint = dict[str, object]
"""Settings by name."""


def layout_for(config: EditConfig) -> Layout:
    """How rows become items for a run's transformer. UserError for shapes that it cannot take."""
    data, model = config.data, full_config(sizes_of(config), config.family)
    cell = spatial_of(config.family, config.model.base) * max(find_family(config.family).sizes.of(model).patch[1:])
    if data.multiple % cell:
        raise UserError(
            f"data.multiple is {data.multiple}, but the model takes sides that are multiples of {cell}: set it to one."
        )
    return Layout(
        bucket=partial(closest, area=data.area, multiple=data.multiple),
        frames=data.frames,
        pretext=Mixture(data.pretext),
        variants=data.variants,
        seed=config.seed,
        prefix=data.prefix,
    )


def fingerprint(config: EditConfig, manifest: TrainingManifest | None) -> Fingerprint:
    """What latents depend on: they serve only a run that has the same."""
    data = config.data.model_dump(
        include={"area", "multiple", "frames", "pretext", "variants", "prefix", "no_text", "text_tokens", "keep"}
    )
    settings: Fingerprint = {"base": config.model.base, "seed": config.seed, **data}
    if isinstance(semantic := getattr(config, "semantic", None), SemanticSettings):
        settings["semantic"] = semantic.model_dump(exclude={"width"})
    return settings | config.model.text_settings | ({"manifest": manifest.fingerprint} if manifest else {})


def read_training_rows(data: DataSettings) -> TrainingManifest:
    """The manifest that the settings name. UserError for none, and for plain clips where they take edits alone."""
    if data.manifest is None:
        raise UserError(
            "There is nothing to train on: name a manifest with `data.manifest`, or latents with data.latents."
        )
    manifest = read_manifest(data.manifest)
    clips = [] if data.clips else [row.line for row in manifest.rows if row.is_clip]
    if clips:
        raise UserError(
            f"{manifest.path} has {len(clips):,} plain clips (the first in line {clips[0]}), and this recipe learns "
            "from edits alone: leave them out, or set data.clips=true, which gives them pretext tasks as in stage 0."
        )
    return manifest


def open_live(config: EditConfig, manifest: TrainingManifest, device: torch.device) -> LiveItems:
    """The manifest's items, encoded when they are asked for. UserError where no row can be read."""

    def log(row: TrainingRow, reason: str) -> None:
        _log.info("left out line %d of the manifest: %s", row.line, reason)

    layout = layout_for(config)
    items = layout.items(manifest.rows, log)
    if not items:
        raise UserError(f"No row of {manifest.path} can be read; the first: {manifest.rows[0].target}.")
    return LiveItems(items, layout, make_encoders(config, device), config.data.no_text)


def open_data(config: EditConfig, device: torch.device) -> tuple[EncodedItems, Fingerprint]:
    """The run's items, from latents or live, and what fingerprints them."""
    if config.data.latents is None:
        manifest = read_training_rows(config.data)
        return open_live(config, manifest, device), fingerprint(config, manifest)
    settings = fingerprint(config, read_training_rows(config.data) if config.data.manifest else None)
    return ShardedItems(config.data.latents, settings), settings
