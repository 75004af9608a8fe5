"""What is said of a model and of an edit: what fits, what it can do here, which words it knows, how much it changed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import opensama
from opensama.models.registry import ICVE_13B, SAMA_14B, TINY, find
from opensama.pipeline.advice import advice, change_sentence, closing_advice
from opensama.pipeline.changes import Changes, changed_cells
from opensama.pipeline.room import GB, Machine, check_given, check_room, download_notice, shortage, weighed
from opensama.values import EditedVideo, EditRequest, UserError, Video
from opensama.world import sample_edit

PARTS = [SAMA_14B.base, SAMA_14B.edit]


def machine(memory: float = 500, device: float | None = None, disk: float = 500) -> Machine:
    own = None if device is None else int(device * GB)
    return Machine(int(memory * GB), own, int(disk * GB), Path("hub"))


@pytest.mark.parametrize(
    ("here", "asked", "said"),
    [
        (
            machine(25),
            {"bits": 32},
            "needs 81 GB of memory to be loaded in 32 bits and this machine has 25 GB: `model",
        ),
        (machine(60), {"bits": 32}, "`dtype=bfloat16` or `model=tiny` would fit here"),
        (machine(90), {"bits": 32}, ""),
        (machine(disk=30), {}, "a download of 40.6 GB and 30 GB of disk are free in hub"),
        (machine(device=80), {}, ""),
        (machine(device=35), {}, "it has 35 GB: `offload=model` would fit here"),
        (machine(device=35), {"offload": "model"}, ""),
        (machine(device=16), {"offload": "model"}, "`offload=group` would fit here"),
        (machine(device=60), {"bits": 32}, "`dtype=bfloat16` would fit here"),
        (machine(30, device=80), {}, "needs 41 GB of memory to be loaded and this machine has 30 GB: `model=tiny`"),
    ],
)
def test_what_is_short_and_what_would_fit(here: Machine, asked: dict[str, object], said: str) -> None:
    found = shortage(SAMA_14B, here, PARTS, **asked)
    assert (said in found) if said else not found
    if said:
        with pytest.raises(UserError, match="`anyway=True` goes on"):
            check_room(SAMA_14B, here, PARTS, **asked)


@pytest.mark.parametrize(
    ("entry", "given", "said"),
    [
        (TINY, {"weights": "here.safetensors"}, "tiny is one folder: leave `weights` and `base` out"),
        (SAMA_14B, {"weights": "nothere"}, "no file or folder nothere (`weights`): get sama_14b_ema.safetensors from"),
        (SAMA_14B, {"weights": "here.safetensors", "base": "empty"}, "empty (`base`) has no text_encoder"),
        (SAMA_14B, {"weights": "clip.mp4"}, "clip.mp4 does not end in .safetensors"),
        (SAMA_14B, {"weights": "here.safetensors"}, ""),
        (SAMA_14B, {"weights": "plain"}, ""),  # a base model's transformer, for a LoRA
    ],
)
def test_files_that_are_named_are_there_before_anything_is_downloaded(entry, given, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("here.safetensors").touch()
    Path("clip.mp4").touch()
    Path("empty").mkdir()
    Path("plain").mkdir()
    Path("plain/config.json").write_text("{}")
    if not said:
        check_given(entry, **given)
        return
    with pytest.raises(UserError, match=re.escape(said)):
        opensama.load(entry.name, anyway=True, notice=pytest.fail, **given)
    with pytest.raises(UserError, match=re.escape(said)):
        check_given(entry, **given)


def test_what_is_here_is_not_downloaded_and_what_is_not_is_said_with_its_licence() -> None:
    assert shortage(SAMA_14B, machine(disk=1), []) == ""
    assert shortage(TINY, machine(memory=0.1, disk=0), []) == ""
    said = download_notice(ICVE_13B, [ICVE_13B.base, ICVE_13B.edit])
    assert "16.5 GB from https://huggingface.co/hunyuanvideo-community/HunyuanVideo and 25.6 GB from" in said
    assert "Licence: Tencent Hunyuan Community License" in said


def test_files_that_are_given_are_weighed_themselves(tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    (tmp_path / "transformer").mkdir()
    files = [tmp_path / "vae" / "a.safetensors", tmp_path / "sama.safetensors", tmp_path / "transformer/x.safetensors"]
    for file, size in zip(files, (3 * GB, 2 * GB, 90 * GB), strict=True):
        with file.open("wb") as hole:
            hole.truncate(size)
    own = weighed(SAMA_14B, base=tmp_path, weights=files[1])
    assert shortage(own, machine(5.1), []) == "", "the transformer of the base is not read"
    assert "needs 5 GB of memory" in shortage(own, machine(4.9), [])
    assert "needs 41 GB of memory" in shortage(weighed(SAMA_14B), machine(30), [])


def test_what_an_embedded_model_cannot_do_is_said() -> None:
    grainy = Video.from_frames(np.random.default_rng(0).integers(0, 255, (1, 96, 128, 3), np.uint8), 16)
    drawn = Video.from_frames(sample_edit(0, "test", "add", 1, 128).source, 16)

    def said(video: Video, model: str = "tiny", **asked: float) -> str:
        return " ".join(advice(find(model), EditRequest(video, "Make it night.", **asked)))

    assert "night, sunset, sepia and fog come out" in said(grainy)
    assert said(drawn) == said(grainy, "sama-14b", steps=200, guidance=9) == ""
    assert "no better: its own number is 2" in said(drawn, steps=20)
    assert "burns tiny's pictures" in said(drawn, guidance=4)
    assert "expect little of 20" in said(drawn, size=20)
    assert "expect little of 1280" in said(drawn, size=1280)
    assert said(drawn, size=192) == ""

    def after(video: Video, instruction: str, model: str = "tiny", changed: float = 0.3) -> str:
        return closing_advice(find(model), EditRequest(video, instruction), changed)

    assert "mostly harms footage" in after(grainy, "Make the ball blue.")
    assert after(grainy, "Make it night.") == after(drawn, "Make the ball blue.") == ""
    assert after(grainy, "Make the ball blue.", "sama-14b") == after(grainy, "Make the ball blue.", changed=0.0) == ""


def test_words_that_a_model_does_not_know_are_an_error_in_python_too() -> None:
    video = Video.from_frames(np.zeros((1, 32, 32, 3), np.uint8), 16)
    with pytest.raises(UserError, match="never been taught 'swan'"):
        opensama.edit(video, "Make the swan purple.")


def test_how_much_changed_is_counted_in_what_was_free_to() -> None:
    source = np.full((64, 96, 3), 90, np.uint8)
    edited = source.copy()
    edited[:, :48, 0] += 30
    assert changed_cells(source, edited, None) == pytest.approx((32 * 24, 32 * 48), rel=0.05)
    assert changed_cells(source, source + np.uint8(5), None)[0] == 0
    left = torch.zeros(64, 96)
    left[:, :48] = 1
    changed, free = changed_cells(source, edited, left)
    assert changed == free > 0
    passed = []

    def triples(start: int, stop: int):
        for index in range(start, stop):
            passed.append(index)
            yield source, edited if index % 2 else source, None

    changes = Changes(triples, 0, 4)
    changes.see(1, source, edited, None)
    assert changes.share() == pytest.approx(0.25, rel=0.05)
    assert passed == [0, 2, 3]


def test_a_picture_that_hardly_changed_is_said() -> None:
    video = Video.from_frames(np.zeros((1, 8, 8, 3), np.uint8), 8)
    request = EditRequest(video, "Make it night.")
    assert change_sentence(EditedVideo.of(video, lambda: 0.1234), request) == "12.3 % of the picture changed"
    assert change_sentence(EditedVideo.of(video, lambda: 0.0), request).startswith(
        "0.0 % of the picture changed: the model made noth"
    )
    whole = EditedVideo.of(video, lambda: 1.0)
    masked = replace(request, mask=np.ones((8, 8)))
    assert change_sentence(whole, replace(request, box=(0, 0, 2, 2))) == "100.0 % of the box changed"
    assert change_sentence(whole, masked) == "100.0 % of what the mask leaves free changed"
