"""The gallery: one page that holds everything itself, and an edit of each family that was asked for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from opensama.apps import gallery as command
from opensama.apps.cli import main
from opensama.apps.gallery import find_videos
from opensama.media.video_io import write_video
from opensama.values import Video
from tests.pipeline.conftest import moving_picture


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
    assert not re.search(r'(src|href)="(?!data:|#)', text), "the page leads outside"
    assert text.count('src="data:video/mp4;base64,') == 3 * 3, "source, exact answer and edit"
    assert re.findall(r'data-task="(.*?)"', text).count("clips") == 1
    assert set(re.findall(r'data-task="(.*?)"', text)) == {"recolor", "absent", "clips"}
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
