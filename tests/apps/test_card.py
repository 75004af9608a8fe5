"""The model card: made from the folder, its training and its scores, and the committed one is what is made."""

from __future__ import annotations

import json
import shutil

import pytest

from opensama.apps.card import keep_scores, write_card
from opensama.apps.cli import main
from opensama.models.registry import ASSETS
from opensama.values import UserError

TINY = ASSETS / "tiny"


@pytest.mark.parametrize("name", ["tiny", "tiny-icve"])
def test_the_committed_card_is_what_the_command_writes(name):
    card = write_card(ASSETS / name)
    assert (ASSETS / name / "README.md").read_text() == card
    assert ("those of `tiny`" in card) == ("An ICVE" in card) == (name == "tiny-icve")


def test_a_card_follows_its_scores(tmp_path):
    folder = tmp_path / "tiny"
    shutil.copytree(TINY, folder)
    scores = json.loads((TINY / "scores.json").read_text())
    scores["families"] = {"add": {"n": 4321}}
    scores["table"] = "a table of another evaluation"
    (tmp_path / "world.json").write_text(json.dumps({**scores, "items": [1] * 1000}))
    keep_scores(tmp_path / "world.json", folder)
    card = write_card(folder)
    assert "-n 4321" in card
    assert "a table of another evaluation" in card
    assert "items" not in json.loads((folder / "scores.json").read_text())


def test_what_is_missing_is_said(tmp_path):
    folder = tmp_path / "tiny"
    shutil.copytree(TINY, folder)
    (folder / "scores.json").unlink()
    with pytest.raises(UserError, match="opensama evaluate world"):
        write_card(folder)
    (tmp_path / "no.json").write_text("[]")
    with pytest.raises(UserError, match="check the name"):
        keep_scores(tmp_path / "no.json", folder)


def test_a_card_is_replaced_only_when_asked(tmp_path, capsys):
    folder = tmp_path / "tiny"
    shutil.copytree(TINY, folder)
    (folder / "README.md").write_text("mine")
    assert main(["models", "card", str(folder)]) == 2
    assert "exists; write over it with --overwrite" in capsys.readouterr().err
    assert (folder / "README.md").read_text() == "mine"
    assert main(["models", "card", str(folder), "--overwrite"]) == 0
    assert (folder / "README.md").read_text() == (TINY / "README.md").read_text()
