"""LoRAs in edits: added to the weights, merged into a folder, or apart as adapters; and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import opensama
from opensama.apps.cli import main
from opensama.media.video_io import read_video, write_video
from opensama.models.lora import save_diffusers
from opensama.pipeline.bernini import BerniniPipeline
from opensama.pipeline.memory import place_on_device
from opensama.values import EditRequest, UserError, Video
from tests.models.test_lora_files import close, merged_state, trained
from tests.pipeline.test_memory import clone


@pytest.fixture(params=["sama", "bernini"])
def of_family(request, folder, bernini, tmp_path) -> Path:
    """A folder of a pipeline with one transformer."""
    if request.param == "sama":
        return folder
    alone = BerniniPipeline(**bernini.components | {"transformer_2": None}, defaults=bernini.defaults.to_dict())
    alone.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_an_edit_with_a_lora_and_its_merged_folder(of_family, picture, tmp_path):
    """Merging an export is loading the model with it and saving the pipeline."""
    video = Video.from_frames(picture(1, 32, 32), 25)
    model = trained(opensama.load(of_family, device="cpu").pipeline.transformer, also_new=False)
    save_diffusers(model, tmp_path / "lora")
    plain = opensama.edit(video, "Make it blue.", of_family, device="cpu", preserve=False).array()
    editor = opensama.load(of_family, device="cpu", lora=[tmp_path / "lora"])
    close(editor.pipeline.transformer, merged_state(model))
    edited = editor.edit(EditRequest(video, "Make it blue.", preserve=False)).array()
    none = opensama.load(of_family, device="cpu", lora=[f"{tmp_path / 'lora'}:0"])
    assert np.array_equal(none.edit(EditRequest(video, "Make it blue.", preserve=False)).array(), plain)
    assert not np.array_equal(edited, plain)
    editor.pipeline.save_pretrained(tmp_path / "merged")
    assert np.array_equal(
        opensama.edit(video, "Make it blue.", tmp_path / "merged", device="cpu", preserve=False).array(), edited
    )


def test_adapters_say_what_they_cannot_carry(pipe, tmp_path):
    twin = clone(pipe)
    norm = {"diffusion_model.blocks.0.norm3.diff": torch.zeros(24)}
    with pytest.raises(UserError, match=r"norm3\.diff, which no adapter carries: add it to the weights with"):
        twin.load_lora_weights(norm)
    with pytest.raises(UserError, match="name the repository's file as weight_name"):
        twin.load_lora_weights("some/lora")
    place_on_device(twin, torch.device("cpu"), "disk")
    with pytest.raises(UserError, match="load it before they are offloaded"):
        twin.load_lora_weights(norm)


@pytest.mark.parametrize(
    ("given", "words"),
    [("none.safetensors", "no LoRA .*none"), ("{file}:many", "scale of a LoRA is a number"), ("{file}:nan", "number")],
)
def test_a_wrong_option_is_said(folder, tmp_path, given, words):
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=words):
        opensama.load(folder, device="cpu", lora=[given.format(file=tmp_path / "a.safetensors")])


def test_from_the_command_line(folder, picture, tmp_path, capsys):
    clip, plain, out = (tmp_path / f"{name}.mp4" for name in ("clip", "plain", "out"))
    write_video(Video.from_frames(picture(2, 32, 32), 25), clip)
    model = trained(opensama.load(folder, device="cpu").pipeline.transformer, also_new=False)
    save_diffusers(model, tmp_path / "lora")
    ask = ["edit", str(clip), "Make it blue.", "-m", str(folder), "--no-preserve"]
    assert main([*ask, "-o", str(plain)]) == 0
    half = f"{tmp_path / 'lora'}:0.5"
    assert main([*ask, "-o", str(out), "--lora", half, "--lora", half]) == 0
    assert not np.array_equal(read_video(out).array(), read_video(plain).array())
    assert main([*ask, "-o", str(tmp_path / "no.mp4"), "--lora", "missing.safetensors"]) == 2
    assert "There is no LoRA missing.safetensors" in capsys.readouterr().err
