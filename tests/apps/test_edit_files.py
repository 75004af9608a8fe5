"""What people bring to `opensama edit`: several files, folders, pictures, masks of an image editor, other codecs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from opensama.apps.cli import main
from opensama.apps.edit_checks import check_order, default_output, videos_in
from opensama.media.video_io import read_video, write_video
from opensama.pipeline import editor as editing
from opensama.pipeline import room
from opensama.values import UserError, Video
from tests.pipeline.conftest import moving_picture

ASK = "Make the ball blue."


def test_a_folder_of_videos_is_edited_with_the_model_loaded_once(folder, clip_file, tmp_path, loads, capsys):
    """One that fails is named at the end, the exit code says so, and the others are there."""
    films = tmp_path / "films"
    films.mkdir()
    for name in ("a.mp4", "b.mov", "a-edited.mp4", "a-edited-compare.mp4"):  # the last two are results of before
        (films / name).write_bytes(clip_file.read_bytes())
    (films / "aa.mp4").write_bytes(b"no video at all, whatever it is called")
    (films / "notes.txt").write_text("no video either")
    out, figures = tmp_path / "new", tmp_path / "figures.json"
    code = main(["edit", str(films), ASK, "--out", str(out), "--model", str(folder), "--json", str(figures)])
    said = capsys.readouterr()
    assert code == 2
    assert len(loads) == 1
    assert sorted(path.name for path in out.iterdir()) == ["a-edited.mp4", "b-edited.mp4"]
    assert read_video(out / "b-edited.mp4").frame_count == 9
    assert "edited 2 of 3, after " in said.out
    assert said.out.count("of loading") == 1
    named, summed = [line for line in said.err.splitlines() if not line.startswith("total time")][-2:]
    assert f"{films / 'aa.mp4'} is not a video" in named
    assert summed.startswith("opensama: 1 of 3 failed")
    told = json.loads(figures.read_text())
    assert [Path(one["input"]).name for one in told] == ["a.mp4", "b.mov", "aa.mp4"]
    assert [Path(one["output"]).name for one in told[:2]] == ["a-edited.mp4", "b-edited.mp4"]
    assert "is not a video" in told[2]["error"]


def test_what_is_there_is_not_replaced_among_several(folder, clip, tmp_path, loads):
    (tmp_path / "other.mp4").write_bytes(clip.read_bytes())
    taken = tmp_path / "clip-edited.mp4"
    taken.write_bytes(b"mine")
    arguments = ["edit", str(clip), str(tmp_path / "other.mp4"), ASK, "--model", str(folder)]
    assert main(arguments) == 2
    assert taken.read_bytes() == b"mine"
    assert read_video(tmp_path / "other-edited.mp4").frame_count == 9
    assert main([*arguments, "--overwrite"]) == 0
    assert read_video(taken).frame_count == 9


def test_no_result_goes_where_another_input_is(folder, clip, loads):
    other = clip.with_name("clip-edited.mp4")
    other.write_bytes(clip.read_bytes())
    assert main(["edit", str(clip), str(other), ASK, "--overwrite", "--model", str(folder)]) == 2
    assert other.read_bytes() == clip.read_bytes()
    assert not loads


def test_a_new_folder_goes_again_where_nothing_is_edited(folder, tmp_path, loads):
    new = tmp_path / "new"
    assert main(["edit", "no.mp4", "none.mp4", ASK, "--out", str(new), "--model", str(folder)]) == 2
    assert not loads
    assert not new.exists()


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp"])
def test_a_picture_in_gives_a_picture_out(folder, tmp_path, ending):
    source = tmp_path / f"photo{ending}"
    Image.fromarray(moving_picture()[0]).save(source)
    assert main(["edit", str(source), ASK, "--model", str(folder)]) == 0
    with Image.open(source) as before, Image.open(tmp_path / f"photo-edited{ending}") as after:
        assert (after.format, after.size) == (before.format, before.size)


def test_a_mask_on_nothing_covers_what_is_drawn(folder, clip, tmp_path, capsys):
    """As image editors export it: white where it was painted, and no background. Transparent white is no white."""
    mask = np.full((48, 64, 4), 255, np.uint8)
    mask[..., 3] = 0
    mask[:24, :16, 3] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    out = tmp_path / "out.mkv"
    mask_file, places = tmp_path / "mask.png", ["-o", str(out), "--model", str(folder)]
    done = main(["edit", str(clip), ASK, "--mask", str(mask_file), "--no-preserve", "--compare", *places])
    assert done == 0
    assert capsys.readouterr().err.count("The mask covers 12.5 % of the frame.") == 1
    before, after = read_video(clip).array().astype(int), read_video(out).array().astype(int)
    assert np.abs(after - before)[:, 32:, 24:].mean() < 4  # what coding again does
    assert np.abs(after - before)[:, 4:20, 4:12].mean() > 8


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a.mp4", "Make", "it", "night."], 'quotes: opensama edit a.mp4 "Make it night."'),
        (["a.mp4", "b.png", "c.mp4x", "Make it night."], "There is no file c.mp4x"),
        (["Make it night.", "a.mp4"], 'The video comes first, the instruction after it: opensama edit a.mp4 "Make it'),
        (["Make", "it", "night.", "a.mp4"], 'opensama edit a.mp4 "Make it night."'),
        (["a.mp4", "b.mp4"], "The instruction is missing"),
        (["a.mp4", " "], "The instruction is empty: say what to change after a.mp4"),
        (["https://example.com/a.mp4", "Make it night."], "download it first"),
        (["s3://bucket/a.mp4", "Make it night."], "download it first"),
    ],
)
def test_words_in_wrong_places_get_a_sentence(words, said):
    with pytest.raises(UserError) as caught:
        check_order(words[:-1], words[-1])
    assert said in str(caught.value)


def test_words_in_their_places_are_let_pass(tmp_path):
    (tmp_path / "film").touch()
    check_order([str(tmp_path / "film"), "b.mp4"], "Make it night.")
    check_order(["no.such"], "Make it night, as at 9:30, in a.mp4 style")


def test_names_of_results(tmp_path):
    assert default_output(Path("a/photo.JPG")) == Path("a/photo-edited.JPG")
    assert default_output(Path("a/scan.tif")) == Path("a/scan-edited.png")
    assert default_output(Path("a/photo.jpg"), alpha=True) == Path("a/photo-edited.png")
    assert default_output(Path("a/logo.webp"), alpha=True) == Path("a/logo-edited.webp")
    for name in ("b.mp4", "a.MOV", ".hidden.mp4", "c.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in videos_in(tmp_path)] == ["a.MOV", "b.mp4"]


def test_python_says_what_is_wrong_before_a_model_is_loaded(folder, clip, loads):
    for wrong in ({"frames": (3, 99)}, {"box": (0, 0, 500, 9)}, {"mask": np.zeros((48, 64))}):
        with pytest.raises(UserError):
            editing.edit(clip, ASK, folder, **wrong)
    film = np.zeros((9, 48, 64), bool)
    with pytest.raises(UserError, match="black everywhere"):
        editing.edit(clip, ASK, folder, mask=film)
    assert not loads


def test_a_codec_is_chosen_by_name(folder, clip, tmp_path):
    out = tmp_path / "x.mov"
    assert main(["edit", str(clip), ASK, "--codec", "h264", "-o", str(out), "--model", str(folder)]) == 0
    with av.open(str(out)) as container:
        assert container.streams.video[0].codec_context.name == "h264"


def test_names_of_one_and_output_are_the_same(folder, clip, tmp_path):
    write_video(Video.from_frames(moving_picture()[:1], 8), tmp_path / "one.mp4")
    for option in ("--out", "--output", "-o"):
        place = tmp_path / f"{option.strip('-')}.mp4"
        assert main(["edit", str(tmp_path / "one.mp4"), ASK, option, str(place), "--model", str(folder)]) == 0
        assert place.exists()


def test_what_is_wrong_is_said_before_pytorch_is_imported(folder, clip, tmp_path):
    """One process for all: it is asked at the end whether PyTorch was imported."""
    Image.new("L", (64, 48)).save(tmp_path / "black.png")
    asked = ["edit", str(clip), ASK, "--model", str(folder)]
    wrong = [
        [*asked, "--box", "60,0,10,10"],
        [*asked, "--mask", str(tmp_path / "black.png")],
        [*asked, "--frames", "3:99"],
        [*asked, "--alpha", "keep", "-o", str(tmp_path / "x.mov")],
        [*asked, "--dtype", "int4"],
        ["train", "sama-14b-stage1", "--data", "nothing", "--dry-run"],
    ]
    code = (
        "import json, sys; from opensama.apps.cli import main;"
        "codes = [main(arguments) for arguments in json.loads(sys.argv[1])];"
        "sys.exit(codes != [2] * len(codes) or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, json.dumps(wrong)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == len(wrong), done.stderr  # none is loading anything


@pytest.mark.parametrize("command", [["edit", "a.mp4", ASK], ["demo"], ["gallery"], ["evaluate", "world", "-n", "1"]])
def test_a_machine_that_is_too_small_or_has_no_such_device_is_said_before_loading(
    command, clip, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.mp4").write_bytes(clip.read_bytes())
    monkeypatch.setattr(room, "memory_of_computer", lambda: room.GB)
    assert main([*command, "--model", "sama-14b"]) == 2
    said = capsys.readouterr().err
    assert re.match("opensama: sama-14b needs .* GB", said)
    if command != ["demo"]:
        assert main([*command, "--device", "cuda:99"]) == 2
        assert capsys.readouterr().err.startswith("opensama: The device cuda:99 is not here")
