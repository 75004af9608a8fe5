"""`opensama batch`: the edits are those of `opensama edit`, each is made once, and whatever ends a run, it goes on."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from opensama.apps.batch_table import read_batch
from opensama.apps.cli import main
from opensama.apps.edit_settings import EditSettings
from opensama.data.manifest import read_manifest_table
from opensama.media.video_io import read_video, write_video
from opensama.values import UserError, Video
from tests.pipeline.conftest import moving_picture
from tests.ranks import command_from_server

RED, BLUE = "Make the ball red.", "Make the ball blue."
Batch = Callable[..., int]


@pytest.fixture
def films(clip: Path) -> Path:
    """A folder with a clip of nine frames and one of five."""
    write_video(Video.from_frames(moving_picture()[:5], 8), clip.with_name("short.mp4"))
    return clip.parent


@pytest.fixture
def batch(films: Path, folder: Path) -> Batch:
    """Writes a table of rows, makes its edits into `out`, and gives the exit code."""

    def run(rows: list[dict[str, Any]], *options: str) -> int:
        (films / "jobs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return main(["batch", str(films / "jobs.jsonl"), "--out", str(films / "out"), "--model", str(folder), *options])

    return run


def ends(out: Path) -> list[tuple[str, str]]:
    """Result and outcome of each edit that ended, as they did."""
    entries = [json.loads(line) for line in (out / "state" / "edits.jsonl").read_text().splitlines()]
    return [(entry["out"], entry["outcome"]) for entry in entries if entry["outcome"] != "begun"]


def test_a_table_is_edited_as_by_the_command_for_one(batch, films, folder, loads, capsys):
    """Same bytes; the model loaded once; like shapes together; records that say all; the rest is made when it is
    broken, half, changed or gone, and nothing else."""
    rows = [
        {"video": "clip.mp4", "instruction": RED, "out": "a.mp4", "seed": 3, "box": [8, 8, 40, 30], "preserve": False},
        {"video": "short.mp4", "instruction": BLUE},
        {"video": "clip.mp4", "instruction": BLUE, "frames": "2:7", "compare": "yes", "quality": 60},
        {"video": "clip.mp4", "instruction": BLUE, "out": "b.mkv"},
    ]
    out, alone = films / "out", films / "alone"
    assert batch(rows, "--steps", "3") == 0
    assert len(loads) == 1
    assert "edited 4 of 4, after " in capsys.readouterr().out
    alone.mkdir()
    asked = {
        "a.mp4": ["clip.mp4", RED, "--seed", "3", "--box", "8,8,40,30", "--no-preserve"],
        "short-edited.mp4": ["short.mp4", BLUE],
        "clip-edited.mp4": ["clip.mp4", BLUE, "--frames", "2:7", "--compare", "--quality", "60"],
    }
    for name, (video, *rest) in asked.items():
        given = [str(films / video), *rest, "--steps", "3", "--out", str(alone / name), "--model", str(folder)]
        assert main(["edit", *given]) == 0
    for path in alone.iterdir():
        assert path.read_bytes() == (out / path.name).read_bytes(), path.name
    assert (alone / "clip-edited-compare.mp4").exists()
    assert (alone / "a.mp4").read_bytes() != (films / "clip.mp4").read_bytes()

    order = [name for name, _ in ends(out)]
    assert order == ["a.mp4", "b.mkv", "short-edited.mp4", "clip-edited.mp4"]  # the last one has another length
    results = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [one["row"] for one in results] == [1, 2, 3, 4]
    settings = results[0]["asked"]["settings"]
    assert (settings["seed"], settings["steps"], settings["guidance"]) == (3, 3, 1.0)
    assert results[0]["asked"]["model"]["name"] == str(folder)
    assert results[2]["frames"] == 9
    assert all(one["outcome"] == "done" and one["seconds"] > 0 for one in results)
    pairs = read_manifest_table(out / "manifest.parquet")
    assert [(Path(pair.source).name, Path(pair.target).name, pair.frames) for pair in pairs][:2] == [
        ("clip.mp4", "a.mp4", 9),
        ("short.mp4", "short-edited.mp4", 5),
    ]

    loads.clear()
    whole = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    (out / "b.mkv").write_bytes(whole["short-edited.mp4"])  # which plays, and is too short
    end = len(whole["a.mp4"]) // 5
    (out / "a.mp4").write_bytes(whole["a.mp4"][:-end] + bytes(end))  # which opens, and cannot be decoded to its end
    (out / "clip-edited-compare.mp4").unlink()
    (out / ".b.0123abcd.part").write_bytes(b"half")
    assert batch(rows, "--steps", "3") == 0
    assert len(loads) == 1
    again = Counter(name for name, _ in ends(out))
    assert again == {"a.mp4": 2, "b.mkv": 2, "clip-edited.mp4": 2, "short-edited.mp4": 1}
    assert sorted(path.name for path in out.iterdir() if path.is_file()) == sorted(whole)
    assert all((out / name).read_bytes() == data for name, data in whole.items() if name.endswith(".mp4"))
    assert read_video(out / "b.mkv").frame_count == 9  # a Matroska file has an identifier of its own each time

    rows[1]["seed"] = 5
    assert batch(rows, "--steps", "3") == 0
    assert ends(out)[-1] == ("short-edited.mp4", "done")
    assert len(ends(out)) == 8
    assert batch(rows, "--steps", "3") == 0
    assert len(ends(out)) == 8
    assert len(loads) == 2


def test_what_fails_is_recorded_and_tried_again_on_demand(batch, films, loads, capsys):
    (films / "broken.mp4").write_bytes(b"no video at all, whatever it is called")
    rows = [
        {"video": "broken.mp4", "instruction": RED},
        {"video": "short.mp4", "instruction": RED},
        {"video": "clip.mp4", "instruction": RED, "box": "0,0,500,9"},
    ]
    out = films / "out"
    assert batch(rows) == 2
    said = capsys.readouterr()
    assert "edited 1 of 3" in said.out
    assert f"failed: row 1: {films / 'broken.mp4'} is not a video" in said.err
    assert said.err.splitlines()[-1].startswith("opensama: 2 of 3 failed; ") or "total time" in said.err
    failed = [json.loads(line) for line in (out / "failed.jsonl").read_text().splitlines()]
    assert [(one["row"], one["out"]) for one in failed] == [(1, "broken-edited.mp4"), (3, "clip-edited.mp4")]
    assert "box" in failed[1]["error"]
    assert not (out / "clip-edited.mp4").exists()
    assert len(loads) == 1

    assert batch(rows) == 2
    assert len(ends(out)) == 3
    assert batch(rows, "--retry-failed") == 2
    assert len(ends(out)) == 5
    (films / "broken.mp4").write_bytes((films / "short.mp4").read_bytes())  # mended, so it is another edit
    rows[2]["box"] = "0,0,50,9"
    assert len(loads) == 1
    assert batch(rows) == 0
    assert len(loads) == 2
    assert (out / "failed.jsonl").read_text() == ""
    assert read_video(out / "broken-edited.mp4").frame_count == 5


def test_processes_of_torchrun_make_no_batch(batch, films, capsys, monkeypatch):
    """They share one edit; each would make them all."""
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert batch([{"video": "clip.mp4", "instruction": RED}]) == 2
    assert "start opensama batch without torchrun" in capsys.readouterr().err
    assert not (films / "out" / "state").exists()


def test_many_like_failures_end_the_run(batch, capsys):
    """For then it is not the rows; those that are left wait."""
    rows = [{"video": "clip.mp4", "instruction": RED, "out": f"{n}.mp4", "box": "0,0,500,9"} for n in range(30)]
    assert batch(rows) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "stopped: 25 items one after another failed, The box" in said
    assert said.endswith("; 5 are left, and the same command goes on with them.")


def test_a_killed_batch_goes_on(batch, films, folder, tmp_path):
    """Nothing is made twice, and nothing half-written is left; the reports say how it stood."""
    rows = [
        {"video": "clip.mp4", "instruction": RED, "seed": seed, "out": f"{seed}.mp4", "preserve": 0}
        for seed in range(6)
    ]
    out, table = films / "out", films / "jobs.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["batch", table, "--out", out, "--model", folder]
    process = command_from_server(command, tmp_path / "said", tmp_path / "err")
    state = out / "state" / "edits.jsonl"
    results = out / "results.jsonl"
    until(lambda: results.exists() and b'"done"' in results.read_bytes())
    time.sleep(random.uniform(0, 1))
    process.kill()
    process.join()
    made = [name for name, _ in ends_of_torn(state)]
    kept = {name: (out / name).stat().st_mtime_ns for name in made}
    assert made
    told = [json.loads(line)["outcome"] for line in results.read_text().splitlines()]
    report = json.loads((out / "report.json").read_text())
    assert 1 <= told.count("done") <= len(made)
    assert (len(told), told.count("failed")) == (6, 0)
    assert report["done"] + report["left"] == 6
    assert batch(rows) == 0
    assert Counter(ends(out)) == Counter((f"{seed}.mp4", "done") for seed in range(6))
    assert {name: (out / name).stat().st_mtime_ns for name in made} == kept
    assert not list(out.glob(".*"))
    assert len({(out / f"{seed}.mp4").read_bytes() for seed in range(6)}) > 1


def ends_of_torn(state: Path) -> list[tuple[str, str]]:
    """`ends` of a file whose last line may be half."""
    whole = state.read_bytes().rpartition(b"\n")[0].decode().splitlines()
    entries = [json.loads(line) for line in whole]
    return [(entry["out"], entry["outcome"]) for entry in entries if entry["outcome"] == "done"]


def until(met: Callable[[], bool], seconds: float = 120, pause: float = 0.005) -> None:
    """Waits for a condition, with a pause between two looks. An error when it is not met in time."""
    late = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < late
        time.sleep(pause)


def test_a_source_that_changes_meanwhile_fails_its_edits(batch, films):
    """Those that are being made and those that are to be; the same command makes them of what is there then."""
    rows = [
        {"video": "clip.mp4", "instruction": RED, "out": "a.mp4"},
        {"video": "clip.mp4", "instruction": BLUE, "out": "b.mp4"},
        {"video": "short.mp4", "instruction": BLUE, "out": "c.mp4"},
    ]
    out = films / "out"
    state = out / "state" / "edits.jsonl"

    def change() -> None:
        until(lambda: state.exists() and b'"begun"' in state.read_bytes())
        os.utime(films / "clip.mp4", (1, 1))

    changing = threading.Thread(target=change)
    changing.start()
    assert batch(rows) == 2
    changing.join()
    assert ends(out) == [("a.mp4", "failed"), ("b.mp4", "failed"), ("c.mp4", "done")]
    assert not (out / "a.mp4").exists()
    assert "clip.mp4 changed while the batch ran" in (out / "failed.jsonl").read_text()
    assert batch(rows) == 0
    assert ends(out)[3:] == [("a.mp4", "done"), ("b.mp4", "done")]


@pytest.mark.parametrize("name", ["results.jsonl", "report.json"])
def test_no_report_goes_over_a_file_of_somebody_else(batch, films, loads, capsys, name):
    """Such as the table itself."""
    (films / "out").mkdir()
    (films / "out" / name).write_text("mine")
    assert batch([{"video": "clip.mp4", "instruction": RED}]) == 2
    assert f"{name} exists, and no run of this batch made it" in capsys.readouterr().err
    assert [path.read_text() for path in (films / "out").iterdir()] == ["mine"]
    assert not loads


def test_all_kinds_of_tables_say_the_same(films):
    """A row's own value stands above the one for all rows; a path begins at the table's folder, not at this one."""
    rows = [
        {"video": "clip.mp4", "instruction": RED, "steps": 4, "box": "1,2,30,20", "preserve": True, "guidance": None},
        {"video": "short.mp4", "instruction": BLUE, "steps": None, "box": None, "preserve": False, "guidance": 1.5},
    ]
    (films / "jobs.csv").write_text(
        "Video;instruction;steps;box;preserve;guidance\n"
        f"clip.mp4;{RED};4.0;1,2,30,20;yes;\nshort.mp4;{BLUE};;;false;1.5\n"
    )
    (films / "jobs.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows).replace('"1,2,30,20"', "[1,2,30,20]")
    )
    pq.write_table(pa.Table.from_pylist(rows), films / "jobs.parquet")
    read = {}
    for kind in ("csv", "jsonl", "parquet"):
        items = read_batch(films / f"jobs.{kind}", films / "out", EditSettings(steps=2, guidance=3.0), "tiny", False)
        read[kind] = [(item.video, item.instruction, item.settings, item.out) for item in items]
    assert read["csv"] == read["jsonl"] == read["parquet"]
    first, second = read["csv"]
    assert first[2] == EditSettings(steps=4, guidance=3.0, box="1,2,30,20", preserve=True)
    assert second == (
        films / "short.mp4", BLUE, EditSettings(steps=2, guidance=1.5, preserve=False), films / "out/short-edited.mp4",
    )  # fmt: skip
    (films / "jobs.csv").write_text("video,instruction\nclip.mp4,Make the quux red.\n")
    with pytest.raises(UserError, match=r"jobs.csv, row 2: .*never been taught"):
        read_batch(films / "jobs.csv", films / "out", EditSettings(), "tiny", False)


def test_a_row_may_name_its_span_by_times(films):
    """Which stand above the frames for all rows; an end before the beginning is said before a video is opened."""
    row = {"video": "clip.mp4", "instruction": RED, "from": 0.25, "to": "0:00.75"}
    (films / "jobs.jsonl").write_text(json.dumps(row) + "\n")
    (item,) = read_batch(films / "jobs.jsonl", films / "out", EditSettings(frames="0:3"), "tiny", False)
    assert item.settings.span(read_video(films / "clip.mp4")) == (2, 6)  # at eight frames a second
    (films / "jobs.jsonl").write_text(json.dumps(row | {"to": 0.2}) + "\n")
    with pytest.raises(UserError, match=r"jobs.jsonl, row 1: The span from 0.25 to 0.2 ends before it begins"):
        read_batch(films / "jobs.jsonl", films / "out", EditSettings(), "tiny", False)
