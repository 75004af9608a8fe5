"""The embedded ICVE's recipes: beside the embedded SAMA's frozen parts, from nothing and from weights."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from opensama.models.families import find_family
from opensama.models.registry import TINY as EMBEDDED
from opensama.models.registry import TINY_ICVE
from opensama.pipeline.icve import IcvePipeline
from opensama.pipeline.sama import SamaPipeline
from opensama.recipes.tiny import ICVE_CORE, ICVE_SMOKE
from opensama.training.embedded_config import StageConfig
from opensama.training.text import PromptEncoding, tokenize, trim_padding
from opensama.training.tiny import train_tiny
from opensama.values import UserError


def test_the_embedded_icve_has_its_recipes_sizes():
    shipped = json.loads((TINY_ICVE.folder / "transformer" / "config.json").read_text())
    sizes = ICVE_CORE.transformer_sizes
    assert {name: shipped[name] for name in sizes} == sizes


def test_the_text_of_an_icve_is_what_its_pipeline_makes_of_it():
    """Instructions of different lengths: as one batch of training, and as prompts."""
    given = SamaPipeline.from_pretrained(EMBEDDED.folder)
    parts = {"tokenizer": given.tokenizer, "text_encoder": given.text_encoder.float(), "vae": given.vae}
    icve = IcvePipeline(
        **parts,
        transformer=find_family("icve").transformer(**ICVE_SMOKE.transformer_sizes),
        scheduler=given.scheduler,
        defaults=EMBEDDED.defaults.to_dict(),
    )
    texts = ["make it night.", "replace the red car with a small yellow flower.", ""]
    ids, mask = trim_padding(*tokenize(given.tokenizer, texts, 40))
    ours, theirs = (
        PromptEncoding(given.text_encoder, masked=True)({"ids": ids, "mask": mask}),
        icve.encode_text(texts, 3),
    )
    torch.testing.assert_close(ours["pooled"], theirs["pooled_projections"])
    there = theirs["encoder_attention_mask"].bool()
    assert torch.equal(ours["text_mask"], there)
    torch.testing.assert_close(ours["text"][there], theirs["encoder_hidden_states"][there])


def test_an_icve_is_trained_beside_the_embedded_models_frozen_parts(tmp_path):
    from opensama import EditRequest, Video, load
    from opensama.world import sample_edit

    folder = train_tiny(ICVE_SMOKE, tmp_path / "run")
    stages = json.loads((folder / "training.json").read_text())["stages"]
    assert [(s["name"], s["steps"]) for s in stages] == [("pretrain", 2), ("images", 3), ("videos", 2)]
    pools = {file.stem for file in (tmp_path / "run" / "pools").iterdir()}
    assert {"unpaired-1x128x128", "unpaired-17x96x176", "1x176x96", "17x128x128"} < pools
    assert not any(pool.startswith("pretext") for pool in pools)
    for part in ("vae/diffusion_pytorch_model", "text_encoder/model"):
        ours, theirs = (load_file(f / f"{part}.safetensors") for f in (folder, EMBEDDED.folder))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)

    sample = sample_edit(0, frames=5)
    edited = load(folder, device="cpu").edit(EditRequest(Video.from_frames(sample.source, 16), sample.instruction))
    assert sum(1 for _ in edited.frames()) == 5

    nothing = {name: StageConfig(minutes=0) for name in ("pretrain", "images", "videos")}
    more = {"color_rank": 6, "color_shapes": 1, "frame_waves": 2}
    name = "transformer/diffusion_pytorch_model.safetensors"
    before = load_file(folder / name)
    for parts in ({}, more):  # plain weights may get what draws on the source
        config = ICVE_SMOKE.model_copy(update=nothing | parts | {"start_from": folder})
        grown = train_tiny(config, tmp_path / f"grown-{len(parts)}")
        after = load_file(grown / name)
        assert all(torch.equal(after[key], value) for key, value in before.items())
        added = {key.split(".")[0] for key in after.keys() - before.keys()}
        assert added == ({"local_color", "frame_position"} if parts else set())
        assert not parts or after["local_color.planes"].any()
    with pytest.raises(UserError, match="is no ICVE model"):
        train_tiny(ICVE_SMOKE.model_copy(update={"start_from": EMBEDDED.folder}), tmp_path / "other")
    with pytest.raises(UserError, match="leave text_width at 128"):
        train_tiny(ICVE_SMOKE.model_copy(update={"text_width": 64}), tmp_path / "narrow")
