"""`opensama evaluate world`: what it refuses before anything is drawn, and the calibration as a command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from opensama.apps.cli import main
from opensama.media.video_io import write_video
from opensama.values import Video
from opensama.world import plan_edit, sample_edit


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--families", "replace,repaint"], "no family 'repaint'"),
        (["--tier", "core", "--families", "text"], "no family 'text' in the tier core"),
        (["--families", "absent"], "at least one family"),
        (["-n", "0"], "from 1 to 100000"),
        (["--clips", "{folder}"], "no video"),
        (["--json", "{folder}/missing/world.json"], "make it first"),
        (["--json", "{folder}/x.json", "--model", "tiny", "--model", "tiny-icve"], "figures of one system"),
        (["--model", "tinny"], "did you mean 'tiny'"),
        (["--edits", "{folder}/none"], "of edited videos"),
        (["--metrics", "beauty"], "There is no metric 'beauty'"),
    ],
)
def test_what_cannot_be_asked(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["evaluate", "world", "--out", str(tmp_path / "out"), *(a.format(folder=tmp_path) for a in arguments)]
    assert main(asked) == 2
    assert not (tmp_path / "out").exists()
    assert said in capsys.readouterr().err


def test_calibrate_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = tmp_path / "calibration.json"
    asked = ["--calibrate", "-n", "1", "--families", "remove,absent", "--device", "cpu", "--json", str(figures)]
    assert main(["evaluate", "world", *asked]) == 0
    assert "percent that pass" in capsys.readouterr().out
    assert set(json.loads(figures.read_text())) == {"remove", "all", "table"}


def test_a_tier_is_drawn_and_marked_by_its_own_edits(tmp_path: Path) -> None:
    asked = ["evaluate", "world", "--tier", "core", "-n", "1", "--families", "recolor", "--out", str(tmp_path)]
    assert main([*asked, "--draw"]) == 0
    (row,) = json.loads((tmp_path / "drawn" / "world.json").read_text())
    plan = plan_edit("0-0", "test", "recolor", tier="core")
    assert (row["tier"], row["instruction"]) == ("core", plan.instruction)
    answers = tmp_path / "answers"
    answers.mkdir()
    sample = sample_edit("0-0", "test", "recolor", tier="core")
    write_video(Video.from_frames(sample.target, 16), answers / f"{row['id']}.mp4", quality=95)
    assert main([*asked, "--edits", f"exact={answers}", "--metrics", "none"]) == 0
    (system,) = json.loads((tmp_path / "results.json").read_text())["systems"]
    assert system["items"][0]["details"]["edit"]["success"] is True
