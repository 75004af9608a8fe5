"""`opensama data import` as a person runs it: a manifest comes out, what is wrong is said, and the manifest trains."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from opensama.apps.cli import main as opensama
from opensama.data.manifest import read_manifest_table
from tests.data import making

ROWS = (
    "original_video;video;prompt\n"
    "local_change/1s.mp4;local_change/1.mp4;Make the ball blue\n"
    "local_change/2s.mp4;local_change/2.mp4;Make the box red\n"
    "local_change/3s.mp4;local_change/3.mp4;Make it green\n"
)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A dataset of three rows, one of them missing its source, and what a training run needs."""
    at = tmp_path_factory.mktemp("place")
    for name in ("base", "data", "OpenVE-3M/local_change"):
        (at / name).mkdir(parents=True)
    held = making.save_manifest(at / "data")
    settings = making.tiny_settings(making.save_base(at / "base"), held)
    settings["optimizer"] |= {"steps": 2}
    settings["data"] |= {"images": 0, "frames": 5}
    (at / "OpenVE-3M" / "local_change.csv").write_text(ROWS)
    for name, video in {"1s": "a", "1": "b", "2s": "a", "2": "c", "3": "c"}.items():
        path = at / "OpenVE-3M" / "local_change" / f"{name}.mp4"
        path.write_bytes((at / "data" / f"{video}.mp4").read_bytes())
    from opensama.training.config import SamaConfig

    SamaConfig(**settings).save(at / "small.yaml")
    return at


def test_what_is_published_trains(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    assert opensama(["data", "import", "openve", "OpenVE-3M", "--out", "m.parquet", "--drop-first", "4"]) == 0
    said = capsys.readouterr().out
    assert "written: m.parquet, 2 of 3 rows (local-change 2)" in said
    assert "left out: 1 (no source file 1), listed in m.left-out.jsonl" in said
    assert "licence: CC BY-NC 4.0" in said
    (listed,) = map(json.loads, Path("m.left-out.jsonl").read_text().splitlines())
    assert (listed["line"], listed["kind"]) == (4, "no source file")
    manifest = read_manifest_table(Path("m.parquet"))
    assert manifest.meta["drop_first"] == 4
    assert [record.frames for record in manifest] == [6, 6]
    train = ["train", "sama-14b-stage0", "--config", "small.yaml", "--data", "m.parquet", "--out", "run"]
    assert opensama([*train, "--dry-run", "--gpus", "1"]) == 0
    assert "data: 2 rows, 2 items, 0 rows left out" in capsys.readouterr().out
    assert opensama(train) == 0
    assert "trained: run" in capsys.readouterr().out


def test_what_cannot_be_done_is_said_in_one_sentence(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    for arguments, sentence in [
        ([], "Say which dataset"),
        (["dito", "OpenVE-3M", "-o", "x.parquet"], "There is no dataset 'dito'"),
        (["openve", "nowhere", "-o", "x.parquet"], "There is no folder nowhere"),
        (["openve", "OpenVE-3M", "-o", "no/x.parquet"], "There is no folder no"),
        (["openve", "OpenVE-3M", "-o", "x.parquet", "--task", "shrink"], "There is no task 'shrink'"),
        (["openve", "OpenVE-3M", "-o", "x.parquet", "--task", "remove"], "none is of task remove"),
        (["openve", "OpenVE-3M", "-o", "x.parquet", "--column", "source"], "'source' names no column"),
        (["openve", "OpenVE-3M", "-o", "x.parquet", "--media", "nowhere"], "There is no folder nowhere: check --media"),
        (["reco", "OpenVE-3M", "-o", "x.parquet", "--table", "*.json"], "has no table of ReCo"),
    ]:
        assert opensama(["data", "import", *arguments]) == 2
        said = capsys.readouterr().err
        assert sentence in said
        assert said.count("\n") == 1
        assert not list(Path().glob("x.*"))


def test_the_datasets_are_listed(capsys):
    assert opensama(["data", "import", "--list"]) == 0
    said = capsys.readouterr().out
    assert "ditto           Ditto-1M: 1M video edits: style, free form, local; licence: CC BY-NC-SA 4.0" in said
    assert "read them yourself" in said
