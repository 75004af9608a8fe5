"""`opensama inspect`: how a file was edited, and the same edit once more."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from opensama.apps.cli import main
from opensama.media.video_io import read_video, write_video
from opensama.media.video_io.edit_record import read_record, sha256_of
from tests.pipeline.conftest import moving_picture

ASK = "Make the ball blue."


def test_an_edit_is_made_again_from_what_its_file_tells(folder, clip, tmp_path, capsys):
    """The same bytes, from the same source under another name too; with a mask and what else is a setting."""
    Image.fromarray(moving_picture()[0]).save(tmp_path / "mask.png")
    wishes = ["--seed", "5", "--steps", "1", "--frames", "2:7", "--quality", "70", "--no-preserve"]
    out, model = tmp_path / "edit.mp4", ["--model", str(folder)]
    more = ["--mask", str(tmp_path / "mask.png"), "--record", "instruction", "-o", str(out)]
    assert main(["edit", str(clip), ASK, *wishes, *more, *model]) == 0
    capsys.readouterr()
    assert main(["inspect", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (stream,) = told["streams"]
    assert stream == {
        "kind": "video", "codec": "h264", "width": 64, "height": 48, "frames": 9, "fps": 8.0, "seconds": 1.125
    }  # fmt: skip
    edit = told["edit"]
    mask = {"name": "mask.png", "sha256": sha256_of(tmp_path / "mask.png")}
    assert edit["settings"] == {
        "seed": 5, "steps": 1, "frames": "2:7", "quality": 70, "preserve": False, "mask": mask
    }  # fmt: skip
    assert (edit["instruction"], edit["model"]["name"], edit["model"]["dtype"]) == (ASK, folder.name, "float32")
    weights = "transformer/diffusion_pytorch_model.safetensors"
    assert edit["model"]["weights"] == {weights: sha256_of(folder / weights)}
    assert edit["source"] == {"name": "clip.mp4", "sha256": sha256_of(clip)}
    assert main(["inspect", str(out)]) == 0
    said = capsys.readouterr().out
    assert "video: h264, 64x48, 9 frames, 8 frames a second, 1.125 s" in said
    assert f'instruction: "{ASK}"' in said
    assert f"source: clip.mp4, SHA-256 {sha256_of(clip)}" in said

    assert main(["inspect", str(out), "--repeat", *model]) == 0
    assert f"repeated: every byte is as in {out}" in capsys.readouterr().out
    assert (tmp_path / "edit-repeated.mp4").read_bytes() == out.read_bytes()
    assert main(["inspect", str(out), "--repeat", *model]) == 2
    assert "edit-repeated.mp4 exists" in capsys.readouterr().err
    other = tmp_path / "other.mp4"
    write_video(replace(read_video(clip), record=read_record(out)), other, record="instruction")  # its source's frames
    assert main(["inspect", str(other), "--repeat", *model]) == 0
    assert re.search(rf"repeated: [5-9] of 9 frames differ from {re.escape(str(other))}", capsys.readouterr().out)


def test_a_signed_edit_says_so_and_is_repeated_frame_by_frame(folder, clip, tmp_path, capsys, monkeypatch):
    """Signatures differ each time; the same wish without credentials gives the file without them."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    out, model = tmp_path / "edit.mp4", ["--model", str(folder)]
    assert main(["edit", str(clip), ASK, "--steps", "1", "--credentials", "-o", str(out), *model]) == 0
    assert "Made a certificate to sign with" in "".join(capsys.readouterr())
    assert main(["inspect", str(out)]) == 0
    said = capsys.readouterr().out
    assert "credentials: valid, signer unknown; signed by OpenSAMA edits of one person, OpenSAMA; c2pa.opened, " in said
    assert "made of clip.mp4, without credentials" in said
    root = tmp_path / "configuration" / "opensama" / "credentials" / "root.pem"
    assert main(["inspect", str(out), "--trust", str(root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["credentials"]["state"] == "trusted"
    assert main(["inspect", str(out), "--repeat", "--instruction", ASK, *model]) == 0
    assert f"repeated: all 9 frames are as in {out}" in capsys.readouterr().out
    assert (
        main(["edit", str(clip), ASK, "--steps", "1", "--no-credentials", "-o", str(out), "--overwrite", *model]) == 0
    )
    capsys.readouterr()
    assert main(["inspect", str(out)]) == 0
    assert "credentials: none" in capsys.readouterr().out


@pytest.fixture
def tell(clip: Path, tmp_path: Path) -> Any:
    """A file that tells of an edit of the clip by tiny, but for what is given; None leaves it out."""

    def made(**told: Any) -> Path:
        video = replace(read_video(clip), record={
            "opensama": "0.1.0", "model": {"name": "tiny"}, "instruction": ASK, "settings": {"seed": 0, "steps": 1},
            **told,
        })  # fmt: skip
        out = tmp_path / "told.mp4"
        write_video(video, out, record="instruction")
        return out

    return made


@pytest.mark.parametrize(
    ("told", "options", "sentence"),
    [
        ({}, ["--source", "other.png"], "other.png is not the file that was edited with, or has changed since"),
        ({}, ["--source", "gone.mp4"], "There is no file"),
        ({"instruction": None}, [], "says nothing of an edit by OpenSAMA"),
        (
            {"settings": {"enhance": "http://127.0.0.1:1"}},
            [],
            "the setting 'enhance', which this version does not know",
        ),
        ({"settings": {"seed": "many"}}, [], "The seed must be a whole number"),
        ({"settings": {"mask": {"name": "../other.png"}}}, [], "names no mask that can be found again"),
        ({"settings": {"mask": {"name": "gone.png"}}}, [], "The mask gone.png does not lie beside"),
        ({"model": {"name": "mine"}}, [], "was made with the model 'mine', which is not here"),
        ({"model": {"name": "tiny", "weights": {"a": "b"}}}, [], "The weights of tiny are others than"),
        ({"model": {"name": "tiny", "loras": [{"name": "x", "scale": 0.5}]}}, [], "with the LoRA x:0.5: give --lora"),
        ({"shows": "both"}, [], "shows both, so it cannot be repeated"),
        ({}, ["--json"], "leave it out with --repeat"),
    ],
)
def test_what_cannot_be_repeated_gets_a_sentence_before_a_model_is_loaded(
    tell, tmp_path, loads, capsys, monkeypatch, told, options, sentence
):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("other.png")
    assert main(["inspect", str(tell(**told)), "--repeat", *options]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
    assert not loads


def test_a_source_that_is_gone_and_words_that_were_not_told(tell, clip, tmp_path, loads, capsys):
    file = tell()
    write_video(replace(read_video(clip), record=read_record(file)), tmp_path / "mute.mp4")
    assert main(["inspect", str(tmp_path / "mute.mp4"), "--repeat"]) == 2
    assert "does not tell its instruction: give it with --instruction" in capsys.readouterr().err
    assert main(["inspect", str(file), "--source", str(clip)]) == 2
    assert "--source is for an edit that is made again: add --repeat" in capsys.readouterr().err
    clip.unlink()
    assert main(["inspect", str(file), "--repeat"]) == 2
    assert f"The source clip.mp4 does not lie beside {file}: name it with --source" in capsys.readouterr().err
    assert main(["inspect", str(file)]) == 0
    assert not loads
