"""What can fail in writing fails before a model is loaded: bad wishes are refused, and the model counts its loads."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

import opensama
from opensama.apps.cli import main
from tests.media.making import make_video, onsets, probe


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the models that were loaded."""
    seen: list[str] = []
    load = opensama.load

    def counted(name: str | Path = "tiny", **options: object) -> object:
        seen.append(str(name))
        return load(name, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(opensama, "load", counted, raising=False)
    return seen


@pytest.mark.parametrize(
    ("output", "more", "words"),
    [
        ("out.avi", [], "end it in one of"),
        ("nowhere/out.mp4", [], "There is no folder"),
        ("there.mp4", [], "exists"),
        ("out.mp4", ["--quality", "101"], "from 0 to 100"),
        ("out.webm", [], "tell no two frames apart"),
        ("n" * 300 + ".mp4", [], "is too long"),
        ("there.webm", ["--compare"], "exists"),
    ],
)
def test_a_bad_wish_is_refused_before_any_model(
    output: str, more: list[str], words: str, loads: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rate = 2000 if output == "out.webm" else 25
    clip = make_video(tmp_path / "clip.mp4", stamps=range(20), time_base=Fraction(1, rate), sound="aac")
    for name in ("there.mp4", "there.webm", "there-compare.webm"):
        (tmp_path / name).write_bytes(b"precious")
    before = sorted(tmp_path.iterdir())
    assert main(["edit", str(clip), "Let the video look like night.", "-o", str(tmp_path / output), *more]) == 2
    assert words in capsys.readouterr().err
    assert loads == []
    assert sorted(tmp_path.iterdir()) == before


def test_a_good_wish_is_edited(loads: list[str], tmp_path: Path, folder: Path) -> None:
    """A joined recording with MP2 sound, which could not be encoded after the model had run."""
    part = make_video(
        tmp_path / "part.ts", stamps=range(10), sound="mp2", time_base=Fraction(1, 10), options={"bf": "0"}
    )
    (tmp_path / "joined.ts").write_bytes(part.read_bytes() * 2)
    out = tmp_path / "out.mkv"
    given = ["edit", str(tmp_path / "joined.ts"), "Make the red ball blue.", "-o", str(out), "--model", str(folder)]
    assert main(given) == 0
    assert loads == [str(folder)]
    assert len(probe(out)["stamps"]) == 20
    assert len(onsets(out)) == 6
