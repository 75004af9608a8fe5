"""One rule for where commands write: one option under three names, and nothing is replaced in silence."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from opensama.apps import reference
from opensama.apps.cli import main
from opensama.apps.options import as_options, check_json
from opensama.values import UserError


@pytest.fixture(scope="module")
def commands() -> str:
    """The page of all commands."""
    return reference.command_page()


def test_every_command_takes_the_place_to_write_in_the_same_words(commands: str):
    named = re.findall(r"^\* `(.*?-o\b.*?) [A-Z]+`:|^\* `(.*?--out(?:put)?\b.*?) [A-Z]+`:", commands, re.MULTILINE)
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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["edit", "clip.mp4", "Make it night.", "--overwrite", "--json", "clip.mp4"], "by this command itself"),
        (["edit", "clip.mp4", "Make it night.", "--json", "notes.txt"], "--overwrite"),
        (["edit", "clip.mp4", "Make it night.", "--json", "folder"], "is a folder"),
        (["evaluate", "metrics", "clip.mp4", "notes.txt", "--overwrite", "--json", "notes.txt"], "this command itself"),
        (["evaluate", "metrics", "clip.mp4", "clip.mp4", "--json", "notes.txt"], "--overwrite"),
        (["evaluate", "world", "--json", "notes.txt"], "notes.txt exists"),
    ],
)
def test_figures_replace_no_file(arguments, said, tmp_path, monkeypatch, capsys):
    """Least of all the video that they are about."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for name in ("clip.mp4", "notes.txt"):
        (tmp_path / name).write_text("mine")
    assert main(arguments) == 2
    assert said in capsys.readouterr().err
    assert [(tmp_path / name).read_text() for name in ("clip.mp4", "notes.txt")] == ["mine", "mine"]
    assert len(list(tmp_path.iterdir())) == 3


def test_a_run_that_goes_on_replaces_its_own_figures(tmp_path: Path):
    written = tmp_path / "world.json"
    written.write_text('{"table": "as printed", "model": "tiny"}')
    check_json(written, known_by="table")
    with pytest.raises(UserError, match="exists"):
        check_json(written, known_by="verdict")


def test_no_option_has_an_opposite_that_nobody_needs(commands: str):
    assert "--empty-" not in commands


def test_every_command_counts_in_the_same_words(commands: str):
    named = re.findall(r"^\* `(.*?(?:-n|--number|--limit)\b.*?) INT`:", commands, re.MULTILINE)
    assert len(named) >= 14
    assert set(named) == {"--number, -n"}


def test_sentences_name_settings_as_who_reads_them_writes_them():
    """In Python `anyway=True`, at the command line --anyway."""
    said = "Add `anyway=True`, `vae_tiling=True`, `offload=group`, `weights` or `columns`; `opensama models info tiny`."
    assert as_options(said) == (
        "Add --anyway, --vae-tiling, --offload group, --weights or --column; `opensama models info tiny`."
    )


def test_no_sentence_below_the_commands_names_an_option():
    """Other programs' options, and those within a whole command, are no settings of ours."""
    source = Path(reference.__file__).parents[1]
    for path in sorted(source.rglob("*.py")):
        if path.is_relative_to(source / "apps"):
            continue
        if "--" not in (code := path.read_text()):
            continue
        tree = ast.parse(code)
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                text = re.sub(r"`[^`]*`|^ --recipe $|--nproc-per-node|ray start --head|--editable ", "", node.value)
                assert not re.search(r"(?<![\w-])--[a-z]", text), f"{path}:{node.lineno}: {node.value}"
