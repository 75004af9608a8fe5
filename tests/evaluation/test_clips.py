"""Clips of one's own, with edits of several systems beside them: every edit on a line, and all that is wrong told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from opensama.apps.cli import main
from opensama.evaluation.metrics import METRICS
from opensama.media import write_video
from opensama.values import Video
from opensama.world import sample_edit
from tests.evaluation.test_metrics_alignment import scaled


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    one = sample_edit(1, "test", "recolor", frames=9, size=(120, 180))
    folder = tmp_path / "clips"
    folder.mkdir()
    for name, frames, fps in (
        ("ball--source", one.source, 16),
        ("ball--ours", one.target, 16),
        ("ball--theirs", scaled(one.target[:6], 360, 240), 12),
        ("lost--ours", one.target, 16),
        ("stray", one.target, 16),
    ):
        write_video(Video.from_frames(frames, fps), folder / f"{name}.mp4")
    (folder / "ball--broken.mp4").write_bytes(b"no video")
    (folder / "notes.txt").write_text("not a video")
    asked = {"id": "ball", "instruction": "Make the ball red.", "task": "recolor"}
    (folder / "clips.json").write_text(json.dumps([asked, {"id": "gone", "instruction": "Do."}]))
    return folder


def test_every_system_in_the_folder_is_measured_and_all_that_is_wrong_told(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["evaluate", "clips", "--data", str(folder), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert all(
        f"\n{line} " in said for line in ("ball ours", "ball theirs", "mean of ours", "copy", "black", "shuffled")
    )
    results = json.loads((out / "results.json").read_text())
    systems = {system["name"]: system for system in results["systems"]}
    assert list(systems) == ["broken", "ours", "theirs"]
    (ours,), (theirs,), (broken,) = (systems[name]["items"] for name in ("ours", "theirs", "broken"))
    assert ours["metrics"].keys() == METRICS.keys()
    assert (ours["task"], ours["instruction"]) == ("recolor", "Make the ball red.")
    assert "by time" in theirs["laid"]
    assert (broken["state"], "cannot be read" in broken["failure"]) == ("missing", True)
    told = {fault["where"]: fault["reason"] for fault in results["faults"]}
    assert told == {
        "stray.mp4": "is called neither NAME--source nor NAME--SYSTEM",
        "lost--ours.mp4": "there is no lost--source beside it",
        "gone": "is listed, and there is no gone--source.mp4",
    }
    assert all(where in said for where in told)


def test_only_the_wanted_metrics(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--data", str(folder), "--out", str(tmp_path / "out"), "--metrics", "flicker, edited_share"]
    assert main(["evaluate", "clips", *asked]) == 0
    said = capsys.readouterr().out
    assert "flicker" in said
    assert "psnr" not in said
