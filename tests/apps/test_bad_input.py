"""What a person can get wrong gets one sentence and exit code 2, never a traceback, and leaves no file behind."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from diffusers import DiffusionPipeline
from diffusers.models.modeling_utils import ModelMixin
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from opensama.apps.cli import main
from opensama.apps.edit_checks import parse_box, parse_range
from opensama.values import UserError
from tests.any_text import any_text
from tests.apps import bad_input
from tests.apps.bad_input import ROWS, Outcome, Place, Row

PAGE = Path(__file__).parents[2] / "docs" / "bad-input.md"


@pytest.fixture(scope="module")
def at(folder: Path) -> Iterator[Place]:
    """The rows' files, where a person without rights can read them (pytest's own folders are private)."""
    with tempfile.TemporaryDirectory() as name:
        place = Place(Path(name) / "files", Path(name) / "model")
        Path(name).chmod(0o755)
        place.files.mkdir()
        shutil.copytree(folder, place.model)
        place.model.chmod(0o755)
        bad_input.prepare(place)
        yield place


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that are loaded while a test runs: whatever reads weights goes through one of these."""
    counted: list[str] = []
    for kind in (DiffusionPipeline, ModelMixin, PreTrainedModel):
        read = kind.from_pretrained.__func__

        def spy(cls: type, *args: Any, read: Any = read, **kwargs: Any) -> Any:
            counted.append(cls.__name__)
            return read(cls, *args, **kwargs)

        monkeypatch.setattr(kind, "from_pretrained", classmethod(spy))
    return counted


@pytest.mark.slow
def test_every_row(at: Place, loads: list[str]) -> None:
    """Each row ends as it should, and the page for people says just that. What is wrong with an edit is said before
    any part of a model is loaded."""
    outcomes, faults = [], []
    for row in ROWS:
        arguments = row.arguments(at)
        before = listing(at.files, row)
        loads.clear()
        outcome = bad_input.run(row, arguments)
        outcomes.append(outcome)
        if row.code and arguments[0] in ("edit", "evaluate", "batch") and loads and not row.leaves:
            faults.append(f"{row.what}: loads {loads}")
        if row.code == 0 and arguments[0] in ("edit", "batch") and not loads:
            faults.append(f"{row.what}: is edited, and no load was counted")
        faults += [
            f"{row.what}: {fault}: {outcome}" for fault in find_faults(row, outcome, listing(at.files, row) == before)
        ]
    assert not faults, "\n".join(faults)
    assert PAGE.read_text() == bad_input.page(at, outcomes), "docs/bad-input.md is stale: run `make docs`"


def find_faults(row: Row, outcome: Outcome, untouched: bool) -> Iterator[str]:
    """What is wrong with how a row ended."""
    if outcome.code != row.code:
        yield f"ends with {outcome.code}, not {row.code}"
    if row.code == 0:
        return
    if (outcome.out and not row.leaves) or not untouched:  # a run that began has said how far it came
        yield "leaves something"
    if "Traceback" in outcome.err or not outcome.err.splitlines()[-1].startswith("opensama: "):
        yield "says something else"
    if not outcome.sentence.rstrip("'\"").endswith((".", "?")) or len(outcome.sentence) > 400:
        yield "is no sentence"


def listing(folder: Path, row: Row) -> dict[str, int]:
    """Files and folders, and their sizes, but for what the row may leave."""
    found = {}
    for parent, folders, files in os.walk(folder):
        if parent == str(folder):
            folders[:] = [name for name in folders if name != row.leaves]
        found |= {path: os.lstat(path).st_size for name in (*folders, *files) if (path := f"{parent}/{name}")}
    return found


# --- any string at all

ANY = any_text(30) | st.text("0123456789:,.-+ e_x", max_size=20)


@given(ANY)
def test_any_range(text: str) -> None:
    with contextlib.suppress(UserError):
        start, stop = parse_range(text, 9)
        assert 0 <= start < stop <= 9


@given(ANY)
def test_any_box(text: str) -> None:
    with contextlib.suppress(UserError):
        assert len(parse_box(text)) == 4


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    option=st.sampled_from(["--frames", "--box", "--size", "--steps", "--seed", "--guidance", "--quality"]), text=ANY
)
def test_any_value_of_any_option(option: str, text: str, tmp_path: Path) -> None:
    """Every request ends before a model is loaded here, because the output's folder is not there."""
    clip = tmp_path / "clip.mp4"
    clip.touch()
    code, err = said(["edit", str(clip), "Make it red.", "-o", str(tmp_path / "nowhere" / "x.mp4"), f"{option}={text}"])
    assert code == 2
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1


@settings(max_examples=40)
@example(["\0", "\b"])
@given(st.lists(any_text(12), max_size=5))
def test_any_arguments(arguments: list[str]) -> None:
    """Any words behind `edit`: nothing of that name is here, or help was asked for."""
    code, err = said(["edit", *arguments])
    assert code in (0, 2)
    assert "Traceback" not in err


def said(arguments: list[str]) -> tuple[int, str]:
    """The exit code, and what went to stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    return code, err.getvalue()
