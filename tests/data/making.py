"""What tests of data and training share: a manifest of real files at the smallest size, and frozen models beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import SiglipVisionConfig, SiglipVisionModel

from opensama.media.video_io import write_video
from opensama.recipes.sama import RECIPES
from opensama.training.config import EditConfig, SamaConfig
from opensama.training.loading import initial_transformer
from opensama.training.parallel import make_room
from opensama.values import Video
from tests.pipeline.conftest import moving_picture, tiny_text_encoder, tiny_tokenizer, tiny_transformer, tiny_vae


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def manifest(tmp_path_factory) -> Path:
    return save_manifest(tmp_path_factory.mktemp("data"))


def make_transformer(config: EditConfig) -> torch.nn.Module:
    """The whole transformer with the weights that it begins from, in this process, on the CPU."""
    initial = initial_transformer(config)
    make_room(initial.model, torch.device("cpu"))
    initial.fill(initial.model)
    return initial.model


def save_base(path: Path) -> Path:
    """A base model in diffusers' layout, and a SigLIP beside it."""
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    tiny_tokenizer().save_pretrained(path / "tokenizer")
    tiny_text_encoder().save_pretrained(path / "text_encoder")
    tiny_vae().save_pretrained(path / "vae")
    sizes = dict(tiny_transformer().config)
    kept = {k: v for k, v in sizes.items() if k in WanTransformer3DModel.__init__.__wrapped__.__code__.co_varnames}
    WanTransformer3DModel(**kept).save_pretrained(path / "transformer")
    vision = SiglipVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=4
    )
    SiglipVisionModel(vision).save_pretrained(path / "siglip")
    return path


def save_manifest(folder: Path) -> Path:
    """Two videos that are an edit, two clips, and two images that are an edit."""
    picture = moving_picture(t=10, h=48, w=64)
    for name, frames in {"a.mp4": picture, "b.mp4": picture[:, :, ::-1], "c.mp4": picture[:, ::-1]}.items():
        write_video(Video.from_frames(frames, 8), folder / name, on_note=lambda note: None)
    for name, frame in {"a.png": picture[0], "b.png": picture[5]}.items():
        Image.fromarray(frame).save(folder / name)
    rows = [
        {"source": "a.mp4", "target": "b.mp4", "instruction": "make the red ball blue"},
        {"clip": "a.mp4", "caption": "the red ball"},
        {"clip": "c.mp4", "caption": "the green box"},
        {"source": "a.png", "target": "b.png", "instruction": "remove the green box"},
        {"source": "b.png", "target": "a.png", "instruction": "make the box red"},
    ]
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def tiny_settings(base: Path, manifest: Path) -> dict:
    """The paper's first stage, small enough for a test."""
    settings = RECIPES["sama-14b-stage0"].model_dump()
    settings["model"]["base"] = str(base)
    settings["semantic"] |= {"encoder": str(base / "siglip"), "width": 8, "grid": 2, "anchors": 2}
    settings["data"] |= {
        "manifest": manifest, "area": 32 * 32, "multiple": 16, "frames": 9, "images": 2, "videos": 4,
        "image_batch": 1, "video_batch": 2, "text_tokens": 12, "keep": "float32", "variants": 3,
    }  # fmt: skip
    settings["mesh"] = {"checkpointing": "none"}
    return settings | {"compute": "float32"}


@pytest.fixture
def config(base, manifest) -> SamaConfig:
    return SamaConfig(**tiny_settings(base, manifest))
