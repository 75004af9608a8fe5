"""The script for minutes on a GPU, rehearsed on the CPU: it trains, hands back one small file, and that is a model."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from opensama.models.registry import TINY, find
from opensama.recipes.tiny import RECIPES
from opensama.training.tiny import given_parts

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "gpu_minutes.py"), run_name="gpu_minutes")
SMALL = ("chunk=4", "chunk_steps=1", "chunks=2", "workers=1", "test_edits=6", "picture_batch=2", "window_batch=2",
         "image_batch=1", "pictures.max_steps=1", "windows.max_steps=1", "images.max_steps=1")  # fmt: skip


@pytest.mark.slow
def test_what_was_learnt_comes_back_in_one_small_file_and_is_a_model(tmp_path):
    from opensama import EditRequest, Video, load
    from opensama.world import sample_edit

    settings = [word for setting in SMALL for word in ("--set", setting)]
    SCRIPT["main"](["run", str(tmp_path / "back"), "--device", "cpu", "--minutes", "60", *settings])
    trained = tmp_path / "back" / "trained.safetensors"
    assert trained.stat().st_size < 16 * 2**20
    assert {t.dtype for t in load_file(trained).values()} == {torch.bfloat16}
    rows = (tmp_path / "back" / "scores-images.jsonl").read_text().splitlines()
    assert {"core", "full"} < json.loads(rows[-1]).keys()

    SCRIPT["main"](["unpack", str(trained), str(tmp_path / "model")])
    assert find(str(tmp_path / "model")).family == "sama"
    file = "transformer/diffusion_pytorch_model.safetensors"
    before, after = load_file(TINY.folder / file), load_file(tmp_path / "model" / file)
    assert before.keys() <= after.keys()
    assert all(key.startswith(("local_color.", "frame_position.")) for key in after.keys() - before.keys())
    assert any(not torch.equal(before[key], after[key]) for key in before)
    assert json.loads((tmp_path / "model/transformer/config.json").read_text())["semantic_rotary"] == "zero"
    again = given_parts(RECIPES["decoder"].model_copy(update={"start_from": tmp_path / "model"}), torch.device("cpu"))
    assert again.transformer.config["semantic_rotary"] == "zero", "a recipe that says nothing of it leaves it"
    sample = sample_edit(0, frames=5)
    model = load(tmp_path / "model", device="cpu")
    assert sum(1 for _ in model.edit(EditRequest(Video.from_frames(sample.source, 16), "Make it night.")).frames()) == 5
