"""`opensama evaluate world`: what it refuses before anything is drawn, and the calibration as a command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from opensama.apps.cli import main


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--families", "replace,repaint"], "no family 'repaint'"),
        (["--families", "absent"], "at least one family"),
        (["-n", "0"], "from 1 to 100000"),
        (["--clips", "{folder}"], "no video"),
        (["--json", "{folder}/missing/world.json"], "make it first"),
        (["--json", "{folder}/x.json", "--model", "tiny", "--model", "tiny-icve"], "figures of one system"),
        (["--model", "tinny"], "did you mean 'tiny'"),
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
    asked = ["--calibrate", "-n", "1", "--families", "add,absent", "--device", "cpu", "--json", str(figures)]
    assert main(["evaluate", "world", *asked]) == 0
    assert "percent that pass" in capsys.readouterr().out
    assert set(json.loads(figures.read_text())) == {"add", "all", "table"}
