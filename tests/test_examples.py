"""Every script in examples/ runs as its first lines say."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
ARGUMENTS = {
    "a_curation_step.py": ["--out", "{tmp}"],
    "edit_a_clip.py": ["--out", "{tmp}/edited.mp4"],
    "what_the_model_plans.py": ["--frames", "20"],
    "pictures.py": ["--out", "{tmp}", "--families", "remove", "--readme", "sepia"],
}


def test_every_example_is_run():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(ARGUMENTS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ARGUMENTS)
def test_example(name, tmp_path, monkeypatch, capsys):
    arguments = [a.format(tmp=tmp_path) for a in ARGUMENTS[name]]
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    said = capsys.readouterr()
    assert said.out.strip()
    assert "%|" not in said.err, "libraries' bars are for people who look on"
    if "{tmp}" in "".join(ARGUMENTS[name]):
        assert list(tmp_path.iterdir())
