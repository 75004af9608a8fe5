"""The gallery: one page that holds everything itself, failures first, and plays what it says."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from opensama.apps import gallery as command
from opensama.apps.cli import main
from opensama.apps.gallery import GalleryEdit, edit_figure, find_videos, gallery_page
from opensama.evaluation.world import ItemScore
from opensama.media.video_io import read_video, write_video
from opensama.values import Video
from tests.pipeline.conftest import moving_picture

PART = {"family": "remove", "edited": "red ball", "right": True, "nearest": ["right"] * 3, "lead": 2.0}
SCORE = ItemScore("remove", "Remove the <red> ball.", "red ball", True, (True,) * 3, (PART,), 0.1, 31.2, 0.5)
FAILED = replace(
    SCORE,
    instruction="Erase it.",
    success=False,
    parts=(PART | {"right": False, "nearest": ["source", "source", "kind"]},),
)


def item(score: ItemScore = SCORE, family: str = "remove") -> GalleryEdit:
    red, green, blue = (np.full((5, 32, 48, 3), color, np.uint8) for color in ((200, 0, 0), (0, 160, 0), (0, 0, 200)))
    return GalleryEdit(family, red, green, blue, score)


def films(text: str) -> list[bytes]:
    return [base64.b64decode(code) for code in re.findall(r'src="data:video/mp4;base64,([^"]+)"', text)]


def test_three_clips_are_one_film(tmp_path: Path) -> None:
    (film,) = films(edit_figure(item()))
    (tmp_path / "film.mp4").write_bytes(film)
    video = read_video(tmp_path / "film.mp4")
    assert (video.width, video.height, video.frame_count) == (3 * 48 + 2 * command._GAP, 32, 5)
    last = video.array()[-1].astype(int)
    for left, channel in ((0, 0), (48 + command._GAP, 1), (2 * (48 + command._GAP), 2)):
        assert last[16, left + 24].argmax() == channel


def test_page_holds_everything_and_puts_failures_first() -> None:
    text = gallery_page([item(), item(FAILED), item(family="style")], "tiny", "test")
    assert not re.search(r'(src|href)="(?!data:|#)', text), "the page leads outside"
    assert "$" not in text
    assert text.index("Erase it.") < text.index("Remove the &lt;red&gt; ball.")
    assert "<red>" not in text
    assert "2 of 3 edits came out right" in text
    assert "1 of 1 edit came out right" in gallery_page([item()], "tiny", "test")
    assert text.index("<video") < text.index(command.LEGEND[:30]), "videos come first"
    assert '<a href="#remove">remove 1/2</a>' in text
    assert '<section id="remove">' in text
    assert "nearest to source, kind" in text
    assert "prefers-color-scheme: dark" in text


def test_gallery_edits_every_family_asked_for(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "GALLERY_FRAMES", 5)
    monkeypatch.setattr(command, "GALLERY_SIDE", 64)
    clips = tmp_path / "clips"
    clips.mkdir()
    write_video(Video.from_frames(moving_picture(), 8), clips / "clip.mp4")
    arguments = ["--model", str(folder), "-n", "1", "--family", "recolor", "--family", "absent"]
    assert main(["gallery", *arguments, "--clips", str(clips), "--out", str(tmp_path / "out")]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["index.html"]
    text = (tmp_path / "out" / "index.html").read_text()
    assert len(films(text)) == 3
    for name in ("recolor", "absent", "real-clips"):
        assert f'<section id="{name}">' in text
    assert "clip.mp4" in text
    assert "3 edits, " in capsys.readouterr().out


def test_of_published_clips_only_the_sources_are_edited(tmp_path: Path) -> None:
    for name in ("a--source.mp4", "a--other.mp4", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in find_videos(tmp_path)] == ["a--source.mp4"]
    (tmp_path / "a--source.mp4").unlink()
    assert [path.name for path in find_videos(tmp_path)] == ["a--other.mp4"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-n", "0"], "from 1 to 100"),
        (["--family", "fly"], "no family 'fly'"),
        (["--clips", "nowhere"], "no video in nowhere"),
        (["--clips", "."], "no video in"),
    ],
)
def test_mistakes_are_said(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["gallery", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
