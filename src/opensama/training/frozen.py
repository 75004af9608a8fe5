"""The frozen models around a transformer that is trained: autoencoder, text encoders, image encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from opensama import runtime
from opensama.data.latents import DTYPES, Encoders
from opensama.models.families import find_family
from opensama.models.registry import part_folder
from opensama.models.semantic import anchor_count, anchor_frames, pool_anchor_tokens
from opensama.pipeline.assemble import BasePart, base_parts, load_part, text_dtype
from opensama.training.config import EditConfig, SemanticSettings
from opensama.values import UserError

if TYPE_CHECKING:
    from transformers import SiglipVisionModel


def base_folder(base: str, files: tuple[str, ...]) -> Path:
    """The base's folder on this machine, downloaded if it is a repository. UserError names what is missing."""
    folder = Path(base).expanduser()
    return runtime.locate(base, files, folder=folder if folder.is_dir() else None)


def frozen_parts(family: str, base: str) -> dict[str, tuple[Path, type[BasePart]]]:
    """The folders of a base's tokenizers, text encoders and autoencoder, and their classes."""
    here = Path(base).expanduser()
    parts = base_parts(family, here if here.is_dir() else None)
    own = tuple(f"{part}/*" for part in parts if part_folder(here, part).parent == here)
    folder = base_folder(base, own)
    return {part: (part_folder(folder, part), kind) for part, kind in parts.items()}


def check_whole(folders: Sequence[Path]) -> None:
    """UserError if a file of one of a base's parts is missing."""
    for folder in folders:
        if missing := runtime.missing_parts(folder.parent, (folder.name,)):
            raise UserError(f"The base model in {folder.parent} has no {', '.join(missing)}: copy it again, whole.")


def make_vae(family: str, base: str, device: torch.device) -> ModelMixin:
    """The base's autoencoder on the device, in float32, frozen."""
    folder, kind = frozen_parts(family, base)["vae"]
    with runtime.quiet_loading():
        return load_part(folder, kind, torch.float32).to(device).requires_grad_(False).eval()


def make_encoders(config: EditConfig, device: torch.device) -> Encoders:
    """The frozen models, from the base and the semantic encoder's folder, as functions."""
    parts = frozen_parts(config.family, config.model.base)
    check_whole([folder for folder, _ in parts.values()])
    precision = text_dtype(config.family, torch.float32 if device.type == "cpu" else torch.bfloat16)
    defaults = {"max_text_tokens": config.data.text_tokens, "prompt_prefix": "", **config.model.text_settings}
    loaded: dict[str, BasePart] = {}
    with runtime.quiet_loading():
        for part, (folder, kind) in parts.items():  # one comes to the device before the next is read
            loaded[part] = load_part(folder, kind, precision)
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


def make_semantic(settings: SemanticSettings, device: torch.device) -> Callable[[Tensor], Tensor]:
    """A function from target frames [3 t h w] in [-1, 1] to the tokens of its anchors [s e]."""
    from transformers import SiglipVisionModel

    assert settings.encoder is not None

    folder = Path(settings.encoder).expanduser()
    if not folder.is_dir():
        folder = runtime.locate(settings.encoder, ("config.json", "model.safetensors"))
    try:
        with runtime.quiet_loading():
            encoder: SiglipVisionModel = SiglipVisionModel.from_pretrained(folder, dtype=torch.float32)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"semantic.encoder {folder} is no SigLIP model ({str(error).splitlines()[0]}).") from None
    found = encoder.config.hidden_size
    if found != settings.width:
        raise UserError(f"The features of semantic.encoder are {found} wide: set semantic.width={found}.")
    return partial(anchor_tokens, encoder.to(device).requires_grad_(False).eval(), settings)


def anchor_tokens(encoder: SiglipVisionModel, settings: SemanticSettings, target: Tensor) -> Tensor:
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
