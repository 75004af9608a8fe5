"""`opensama world sheets`: a picture for each family, light enough to be kept with the project."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opensama.apps import world as command
from opensama.apps.cli import main
from opensama.world import BACKGROUNDS, CONTROL_FAMILIES, EDIT_FAMILIES, KINDS, STYLES

SHEETS = Path(__file__).parents[2] / "docs" / "images" / "world"


def test_a_sheet_of_every_family(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["world", "sheets", "--out", str(tmp_path / "out"), "-n", "2", "--split", "test"]) == 0
    names = {path.stem for path in (tmp_path / "out").iterdir()}
    assert names == {"kinds", "backgrounds", *EDIT_FAMILIES, *CONTROL_FAMILIES}
    assert f"{len(names)} pictures" in capsys.readouterr().out
    assert all(path.stat().st_size <= command.MAX_BYTES for path in (tmp_path / "out").iterdir())


def test_captions_stand_over_sources_over_answers() -> None:
    red, blue = (np.full((20, 90, 3), color, np.uint8) for color in ((255, 0, 0), (0, 0, 255)))
    tiles = [("Make it blue.", [red, blue]), ("Make it blue, and say so in many more words.", [red, blue])]
    picture = np.asarray(command.captioned_sheet(tiles, columns=3))
    for left in (0, 90 + 2 * command.TILE_GAP):
        column = picture[:, left + 5]
        ((reds, _), (blues, _)) = (
            np.nonzero((column == color).all(-1))[0][[0, -1]] for color in (red[0, 0], blue[0, 0])
        )
        assert reds > command.LINE_HEIGHT
        assert reds + 20 < blues + 1
    assert (picture[: command.LINE_HEIGHT, :90] < 128).any()


def test_style_shows_every_style_once() -> None:
    samples = command.edit_examples("style", "train", None, 0)
    assert sorted(s.plan.edited for s in samples) == sorted(STYLES)


def test_what_a_sheet_cannot_show_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["world", "sheets", "-n", "0"]) == 2
    assert "from 1 to 60" in capsys.readouterr().err


def test_a_crowded_picture_is_made_to_fit(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3), dtype=np.uint8)
    command.save_small_png(Image.fromarray(noise), tmp_path / "noise.png")
    assert (tmp_path / "noise.png").stat().st_size <= command.MAX_BYTES
    assert [path.name for path in tmp_path.iterdir()] == ["noise.png"]


def test_committed_sheets_are_whole_and_light() -> None:
    found = {path.stem: path.stat().st_size for path in SHEETS.glob("*.png")}
    assert found.keys() == {"kinds", "backgrounds", *EDIT_FAMILIES, *CONTROL_FAMILIES}
    assert max(found.values()) < 150_000
    assert sum(found.values()) < 1_500_000
    assert len(KINDS) >= 30
    assert len(BACKGROUNDS) >= 5


def test_a_folder_that_cannot_be_made_names_the_option_to_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["world", "sheets", "--out", str(tmp_path / "file" / "sheets")]) == 2
    assert "choose another with --out." in capsys.readouterr().err
