"""A model of random weights in a folder, and a short clip in a file, for commands to work on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from opensama.media.video_io import write_video
from opensama.pipeline import editor as editing
from opensama.values import Video
from tests.pipeline.conftest import folder, moving_picture, pipe

__all__ = ["folder", "pipe"]

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine frames of 64 x 48 pixels, eight a second."""
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    write_video(Video.from_frames(moving_picture(), 8), path)
    return path


@pytest.fixture
def clip(clip_file: Path, tmp_path: Path) -> Path:
    """The same in a folder of its own."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip_file.read_bytes())
    return path


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Counts how often a pipeline is built; the real one is."""
    counted: list[object] = []
    build = editing.build_pipeline

    def spy(entry, *rest, **named):
        counted.append(entry)
        return build(entry, *rest, **named)

    monkeypatch.setattr(editing, "build_pipeline", spy)
    return counted


@pytest.fixture
def opensama() -> Run:
    """Runs the command in a process of its own."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "opensama.apps.cli", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True)

    return run
