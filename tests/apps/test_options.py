"""One rule for where commands write: one option under three names, and nothing is replaced in silence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from opensama.apps import reference
from opensama.apps.cli import main


def test_every_command_takes_the_place_to_write_in_the_same_words():
    named = re.findall(
        r"^\* `(.*?-o\b.*?) [A-Z]+`:|^\* `(.*?--out(?:put)?\b.*?) [A-Z]+`:", reference.page(), re.MULTILINE
    )
    found = [one or other for one, other in named]
    assert len(found) >= 18
    assert set(found) == {"--out, --output, -o"}


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        (["demo"], "file.txt"),
        (["world", "sheets"], "file.txt"),
        (["gallery"], "index.html"),
        (["data", "show", "m.jsonl"], "page.html"),
        (["data", "import", "table", "t.csv"], "m.parquet"),
    ],
)
def test_what_is_there_stays(arguments: list[str], written: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    taken = tmp_path / written
    taken.write_text("mine")
    place = taken if arguments[0] == "data" else tmp_path
    assert main([*arguments, "--output", str(place)]) == 2
    said = capsys.readouterr().err
    assert "--overwrite" in said
    assert str(place) in said
    assert taken.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [taken]
