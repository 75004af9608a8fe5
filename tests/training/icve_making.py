"""A HunyuanVideo base at the smallest size, and settings that train ICVE from it."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import HunyuanVideoTransformer3DModel

from opensama.recipes.icve import RECIPES
from tests.pipeline.conftest import tiny_clip, tiny_hunyuan_vae, tiny_icve_transformer, tiny_llama, tiny_tokenizer

# what HunyuanVideo's text-to-video model has not
OURS = ("source_time", "source_gate", "image_condition_type", "color_rank", "color_shapes", "frame_waves")


def save_icve_base(path: Path) -> Path:
    """Text-to-video weights in diffusers' layout."""
    torch.manual_seed(0)
    for part, made in {"tokenizer": tiny_tokenizer(), "text_encoder": tiny_llama(), "vae": tiny_hunyuan_vae()}.items():
        made.save_pretrained(path / part)
    tiny_tokenizer().save_pretrained(path / "tokenizer_2")
    tiny_clip().save_pretrained(path / "text_encoder_2")
    sizes = {k: v for k, v in dict(tiny_icve_transformer().config).items() if k[0] != "_" and k not in OURS}
    HunyuanVideoTransformer3DModel(**sizes | {"patch_size": 2}).save_pretrained(path / "transformer")
    return path


def icve_settings(base: Path, manifest: Path, recipe: str = "icve-13b-pretrain") -> dict:
    """A recipe small enough for a test."""
    settings = RECIPES[recipe].model_dump()
    settings["model"]["base"] = str(base)
    settings["data"] |= {
        "manifest": manifest, "area": 32 * 32, "frames": 9, "videos": 4, "video_batch": 2, "text_tokens": 12,
        "keep": "float32",
    }  # fmt: skip
    settings["mesh"] = {"checkpointing": "none"}
    return settings | {"compute": "float32"}
