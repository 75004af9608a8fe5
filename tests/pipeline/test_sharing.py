"""Processes that share an edit give what one gives, and one file."""

from __future__ import annotations

import datetime
import json
import os
import shutil

import numpy as np
import pytest
import torch
import torch.distributed as dist

import opensama
from opensama.apps.cli import main
from opensama.media.video_io import read_video, write_video
from opensama.pipeline.windows import WindowPlan
from opensama.values import UserError, Video
from tests.pipeline.test_memory import ASK
from tests.ranks import command_in_ranks, in_ranks

pytestmark = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo")


def plan_of(editor: opensama.Editor, pixels: torch.Tensor) -> WindowPlan:
    defaults = editor.pipeline.defaults
    return WindowPlan.of(pixels.shape[2], defaults.window, defaults.overlap)


def results(editor: opensama.Editor, pixels: torch.Tensor) -> torch.Tensor:
    """Latents of an edit with guidance and of one without, and pictures of the first."""
    pipe = editor.pipeline
    settings = {"seed": 0, "num_inference_steps": 2, "output_type": "latent"}
    found = [pipe(pixels, ASK, guidance_scale=scale, **settings).frames for scale in (3.0, 1.0)]
    found.append(torch.cat(list(pipe.decode_windows(plan_of(editor, pixels), found[0])), dim=1))
    return torch.cat([x.flatten() for x in found])


def one_of_four(rank: int, folder: str, out: str, pixels: torch.Tensor) -> None:
    torch.set_num_threads(1)
    os.environ |= {"WORLD_SIZE": "4", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    store = dist.FileStore(f"{out}/store", 4)
    dist.init_process_group("cpu:gloo", store=store, rank=rank, world_size=4, timeout=datetime.timedelta(minutes=3))
    editor = opensama.load(folder, device="cpu", context_parallel=True)
    sharing = editor.pipeline.sharing
    assert (sharing.branches, sharing.mesh["ulysses"].size()) == (2, 2)
    torch.save(results(editor, pixels), f"{out}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_four_processes_give_what_one_gives(folder, picture, tmp_path):
    """Two for each of guidance's forward passes, and windows of the autoencoder dealt out."""
    pixels = torch.from_numpy(picture(29, 32, 32)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    guided = shutil.copytree(folder, tmp_path / "guided")
    index = json.loads((guided / "model_index.json").read_text())
    index["defaults"]["guidance"] = 3.0
    (guided / "model_index.json").write_text(json.dumps(index))
    editor = opensama.load(guided, device="cpu")
    assert len(plan_of(editor, pixels)) > 1
    alone = results(editor, pixels)
    in_ranks(one_of_four, (str(guided), str(tmp_path), pixels), 4)
    for rank in range(4):
        got = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(got, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_from_the_command_line(folder, picture, tmp_path):
    clip = tmp_path / "clip.mp4"
    write_video(Video.from_frames(picture(9, 32, 48), 25), clip)
    command = ["edit", str(clip), ASK, "-m", str(folder), "--steps", "1", "--device", "cpu"]
    assert main([*command, "-o", str(tmp_path / "one.mp4")]) == 0
    command_in_ranks([*command, "-o", str(tmp_path / "two.mp4"), "--json", str(tmp_path / "it.json")], 2)
    assert json.loads((tmp_path / "it.json").read_text())["output"] == str(tmp_path / "two.mp4")
    one, two = (read_video(tmp_path / f"{name}.mp4").array() for name in ("one", "two"))
    assert np.abs(one.astype(int) - two).max() <= 1


def test_one_process_shares_with_none():
    with pytest.raises(UserError, match=r"there is one: start it with torchrun --nproc-per-node N"):
        opensama.load("tiny", device="cpu", context_parallel=True)
