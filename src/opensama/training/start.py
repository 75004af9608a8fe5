"""What a run begins from besides its transformer (`loading.py`): sizes, the frozen models, and the data they encode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import init_empty_weights
from torch import Tensor

from opensama import runtime
from opensama.data.latents import DTYPES, Encoded, Encoders, Live, Shards
from opensama.data.samples import Layout, TrainingManifest, TrainingRow, read_manifest
from opensama.models.families import Base, find_family
from opensama.models.semantic import anchor_count, anchor_frames, pool_anchor_tokens
from opensama.pipeline.assemble import base_parts, load_part, text_dtype
from opensama.pipeline.buckets import closest
from opensama.pretext import Mixture
from opensama.training.config import EditConfig, SemanticSettings
from opensama.values import UserError


def sizes_of(config: EditConfig) -> dict[str, Any]:
    """The arguments that make the transformer which the settings name. UserError if its sizes are not known."""
    family, model, known = config.family, config.model, find_family(config.family).bases
    if model.weights is not None and model.start != family:
        raise UserError(
            f"model.weights names {family.upper()} weights, but model.start is {model.start}, which begins "
            f"without them: set model.start={family}, or leave model.weights away."
        )
    folder = Path(model.base).expanduser()
    sizes: Mapping[str, Any]
    if model.own_sizes is not None:
        sizes = model.own_sizes
    elif folder.is_dir():
        sizes = runtime.read_object(folder / "transformer" / "config.json")
    elif model.base in known:
        sizes = known[model.base].sizes
    else:
        raise UserError(
            f"There is no folder {model.base}, and the sizes of a repository of that name are not known here: "
            f"download it and set model.base to its folder, or choose {', '.join(known)}."
        )
    return {key: value for key, value in sizes.items() if key[0] != "_"} | config.sizes


def full_config(sizes: dict[str, Any], family: str = "sama") -> dict[str, Any]:
    """Sizes with the model's own defaults filled in. UserError for those that make no model."""
    try:
        with init_empty_weights():
            model = find_family(family).transformer(**sizes)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise UserError(f"These settings make no {family.upper()} transformer: {error}.") from None
    return {key: value for key, value in dict(model.config).items() if key[0] != "_"}


def spatial_of(config: EditConfig) -> int:
    """Pixels of a latent cell's side."""
    vae = Path(config.model.base).expanduser() / "vae" / "config.json"
    if vae.is_file():
        sizes = runtime.read_object(vae)
        return int(sizes.get("scale_factor_spatial") or sizes.get("spatial_compression_ratio") or 8)
    return find_family(config.family).bases.get(config.model.base, Base()).spatial


def layout_of(config: EditConfig, model: dict[str, Any]) -> Layout:
    """How rows become items. UserError for shapes that the model cannot take."""
    data, cell = config.data, spatial_of(config) * max(model["patch_size"][1:])
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


def base_folder(config: EditConfig, files: tuple[str, ...]) -> Path:
    """The base's folder on this machine, downloaded if it is a repository. UserError names what is missing."""
    folder = Path(config.model.base).expanduser()
    return runtime.locate(config.model.base, files, folder=folder if folder.is_dir() else None)


def make_encoders(config: EditConfig, device: torch.device) -> Encoders:
    """The frozen models, from the base and the semantic encoder's folder, as functions."""
    folder, parts = frozen_parts(config)
    missing = runtime.missing_parts(folder, tuple(parts))
    if missing:
        raise UserError(f"The base model in {folder} has no {', '.join(missing)}: copy it again, whole.")
    precision = text_dtype(config.family, torch.float32 if device.type == "cpu" else torch.bfloat16)
    defaults = {"max_text_tokens": config.data.text_tokens, "prompt_prefix": "", **config.model.text_settings}
    loaded: dict[str, Any] = {}
    with runtime.quiet_loading():
        for part, kind in parts.items():  # one comes to the device before the next is read
            loaded[part] = load_part(folder / part, kind, precision)
            if not part.startswith("tokenizer"):
                loaded[part].to(device)
        pipe = find_family(config.family).pipeline(**loaded, transformer=None, scheduler=None, defaults=defaults)
    for part in parts:
        if not part.startswith("tokenizer"):
            getattr(pipe, part).requires_grad_(False).eval()

    def text(prompt: str) -> dict[str, Tensor]:
        found = pipe.encode_text(prompt)
        names = {"encoder_hidden_states": "text", "pooled_projections": "pooled"}
        return {ours: found[key] for key, ours in names.items() if key in found}

    semantic = None if config.anchoring is None else make_semantic(config.anchoring, device)
    return Encoders(pipe.encode_video, text, semantic, DTYPES[config.data.keep])


def frozen_parts(config: EditConfig) -> tuple[Path, dict[str, Any]]:
    """The base's folder with tokenizers, text encoders and autoencoder in it, and their classes."""
    here = Path(config.model.base).expanduser()
    parts = base_parts(config.family, here if here.is_dir() else None)
    return base_folder(config, tuple(f"{part}/*" for part in parts)), parts


def make_vae(config: EditConfig, device: torch.device) -> Any:
    """The base's autoencoder, in float32."""
    folder, parts = frozen_parts(config)
    with runtime.quiet_loading():
        return load_part(folder / "vae", parts["vae"], torch.float32).to(device).requires_grad_(False).eval()


def make_semantic(settings: SemanticSettings, device: torch.device) -> Callable[[Tensor], Tensor]:
    """A function from target frames [3 t h w] in [-1, 1] to the tokens of its anchors [s e]."""
    from transformers import SiglipVisionModel

    assert settings.encoder is not None

    folder = Path(settings.encoder).expanduser()
    if not folder.is_dir():
        folder = runtime.locate(settings.encoder, ("config.json", "model.safetensors"))
    try:
        with runtime.quiet_loading():
            encoder: Any = SiglipVisionModel.from_pretrained(folder, dtype=torch.float32)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"semantic.encoder {folder} is no SigLIP model ({str(error).splitlines()[0]}).") from None
    found = encoder.config.hidden_size
    if found != settings.width:
        raise UserError(f"The features of semantic.encoder are {found} wide: set semantic.width={found}.")
    return partial(anchor_tokens, encoder.to(device).requires_grad_(False).eval(), settings)


def anchor_tokens(encoder: Any, settings: SemanticSettings, target: Tensor) -> Tensor:
    """Tokens [s e] of the target's anchor frames [3 t h w], squeezed to the encoder's square as its processor does."""
    t = target.shape[1]
    anchors = anchor_count((t - 1) // 4 + 1, settings.anchors)
    frames = target[:, anchor_frames(t, anchors)].transpose(0, 1).to(encoder.device)
    side = int(encoder.config.image_size)
    if frames.shape[-2:] != (side, side):
        frames = F.interpolate(frames, (side, side), mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)
    out = encoder(pixel_values=frames)
    whole = out.pooler_output if settings.global_token == "attention" else out.last_hidden_state.mean(1)
    tokens = pool_anchor_tokens(out.last_hidden_state, whole, settings.grid)
    if settings.order == "global_first":
        tokens = tokens.roll(1, dims=1)
    return tokens.flatten(0, 1)


def fingerprint(config: EditConfig, manifest: TrainingManifest | None) -> dict[str, Any]:
    """What latents depend on: they serve only a run that has the same."""
    data = config.data.model_dump(
        include={"area", "multiple", "frames", "pretext", "variants", "prefix", "no_text", "text_tokens", "keep"}
    )
    settings = {"base": config.model.base, "seed": config.seed, **data}
    if isinstance(semantic := getattr(config, "semantic", None), SemanticSettings):
        settings["semantic"] = semantic.model_dump(exclude={"width"})
    return settings | config.model.text_settings | ({"manifest": manifest.fingerprint} if manifest else {})


def read_rows(config: EditConfig) -> TrainingManifest:
    """The manifest that the settings name. UserError for plain clips where they take edits alone."""
    assert config.data.manifest is not None
    manifest = read_manifest(config.data.manifest)
    clips = [] if config.data.clips else [row.line for row in manifest.rows if row.is_clip]
    if clips:
        raise UserError(
            f"{manifest.path} has {len(clips):,} plain clips (the first in line {clips[0]}), and this recipe learns "
            "from edits alone: leave them out, or set data.clips=true, which gives them pretext tasks as in stage 0."
        )
    return manifest


def open_data(
    config: EditConfig, device: torch.device, on_bad: Callable[[TrainingRow, str], None]
) -> tuple[Encoded, dict[str, Any]]:
    """The run's items, from latents or live, and what fingerprints them."""
    manifest = read_rows(config) if config.data.manifest else None
    if config.data.latents is not None:
        settings = fingerprint(config, manifest)
        return Shards(config.data.latents, settings), settings
    if manifest is None:
        raise UserError("There is nothing to train on: name a manifest with --data, or latents with data.latents.")
    layout = layout_of(config, full_config(sizes_of(config), config.family))
    items = layout.items(manifest.rows, on_bad)
    if not items:
        raise UserError(f"No row of {manifest.path} can be read; the first: {manifest.rows[0].target}.")
    encoders = make_encoders(config, device)
    return Live(items, layout, encoders, config.data.no_text), fingerprint(config, manifest)
