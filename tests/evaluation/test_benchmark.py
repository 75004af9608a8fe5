"""Benchmarks from end to end, as the command runs them: what is scored, what is told, and what a kill costs."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from opensama.apps.cli import main as opensama
from opensama.evaluation.benchmarks.benchmark import System
from opensama.evaluation.benchmarks.registry import find_benchmark, read_benchmark
from opensama.evaluation.benchmarks.vie import VIE_PROTOCOL
from opensama.evaluation.judge import VlmJudge
from opensama.evaluation.run import evaluate_benchmark
from opensama.values import EditRequest, UserError, Video
from opensama.vlm import Question, ScriptedVlm
from tests.curation.server import Asked, ChatServer
from tests.evaluation.benchmarks import JUDGED, MAKERS, clip, darker, make_vie, save
from tests.evaluation.marking import marker
from tests.pipeline.conftest import folder, pipe
from tests.ranks import command_from_server
from tests.tiny_qwen import write_tiny_qwen

__all__ = ["folder", "pipe"]


def make_edits(name: str, data: Path, folder: Path, share: float) -> Path:
    """An edit of every item under the benchmark's own file name."""
    from opensama.media.video_io import read_video

    for item in read_benchmark(name, data).items:
        assert item.source is not None
        path = folder / item.notes.get("subset", "") / find_benchmark(name).edit_names(item)[0]
        save(darker(read_video(item.source).array(), share), path)
    return folder


def results(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


@pytest.mark.parametrize("name", JUDGED)
def test_two_systems_are_scored_and_ranked(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = MAKERS[name](tmp_path / "data")
    edits = [f"{kind}={make_edits(name, data, tmp_path / kind, s)}" for kind, s in (("timid", 0.15), ("bold", 0.6))]
    out = tmp_path / "out"
    with ChatServer(marker) as server:
        asked = ["evaluate", name, "--data", str(data), "--out", str(out), "--metrics", "none"]
        asked += ["--judge-url", server.url, "--edits", edits[0], "--edits", edits[1]]
        assert opensama(asked) == 0
    said = capsys.readouterr().out
    found = results(out)
    assert found["judge"] == "pixels"
    assert found["policy"] in said
    means = []
    for system in found["systems"]:
        assert system["faults"] == []
        summary = system["summary"]
        assert summary["counts"]["scored"] == summary["counts"]["items"] == len(system["items"])
        assert summary["counts"]["failed"] == summary["counts"]["missing"] == 0
        means.append([group["scores"][summary["headline"]]["mean"] for group in summary["groups"].values()])
        for item in system["items"]:
            assert (out / item["source"]).is_file()
            assert (out / item["edited"]).is_file()
            assert item["replies"][0]["text"]
    assert all(timid < bold for timid, bold in zip(*means, strict=True))


def test_groups_of_vie_are_merged_as_published(tmp_path: Path) -> None:
    data = make_vie(tmp_path / "data")
    edits = make_edits("vie", data, tmp_path / "edits", 0.5)
    said = '{"instruct follow score": 8, "quality score": 8, "preservation score": 8}'
    judge = VlmJudge(ScriptedVlm(lambda q: said), VIE_PROTOCOL)
    found = evaluate_benchmark(
        read_benchmark("vie", data), [System("s", edits=edits)], tmp_path / "out", judge=judge
    ).results
    groups = found["systems"][0]["summary"]["groups"]
    assert {name: group["items"] for name, group in groups.items()} == {
        "add": 1, "swap/change": 2, "style/tone": 2, "remove": 1,
    }  # fmt: skip


def test_a_folder_with_holes_is_scored_and_all_of_it_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_vie(tmp_path / "data", ["add"] * 8)
    edits = make_edits("vie", data, tmp_path / "edits", 0.5)
    (edits / "v1_edited.mp4").unlink()  # missing
    (edits / "v2_edited.mp4").write_bytes(b"this is no video")  # broken
    save(darker(clip(3, frames=11), 0.5), edits / "v3_edited.mp4")  # another length
    (edits / "v4_edited.mp4").rename(edits / "v4_editd.mp4")  # misnamed
    save(darker(clip(5, size=(48, 72)), 0.5), edits / "v5_edited.mp4")  # another size
    (data / "sources/6.mp4").unlink()  # no source
    (data / "sources/7.mp4").write_bytes(b"nor is this")
    out = tmp_path / "out"
    with ChatServer(marker) as server:
        asked = ["evaluate", "vie", "--data", str(data), "--out", str(out), "--edits", str(edits)]
        assert opensama([*asked, "--judge-url", server.url, "--metrics", "none"]) == 0
    capsys.readouterr()
    (system,) = results(out)["systems"]
    assert system["summary"]["counts"] == {"items": 8, "scored": 3, "failed": 0, "missing": 5}
    states = {item["id"]: item["state"] for item in system["items"]}
    assert [name for name, state in states.items() if state == "scored"] == ["v0", "v3", "v5"]
    told: dict[str, str] = {}
    for fault in system["faults"]:
        told[fault["where"]] = told.get(fault["where"], "") + fault["reason"]
    assert "has no edit" in told["v1"]
    assert "cannot be read" in told["v2"]
    assert "has 11 frames, its source 6" in told["v3"]
    assert "did you mean v4_edited.mp4" in told["v4_editd.mp4"]
    assert "is 72x48, its source 48x32" in told["v5"]
    assert "its source cannot be read" in told["v7"]
    assert any(fault["where"] == "v6" and "sources/6.mp4" in fault["reason"] for fault in results(out)["faults"])
    assert all(item["failure"] for item in system["items"] if item["state"] == "missing")


def test_a_killed_run_goes_on_and_asks_nothing_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items, passes = 9, 2
    data, edits = make_vie(tmp_path / "data", ["add"]), tmp_path / "edits"
    about = {"type": "add", "source_video": "sources/0.mp4"}
    rows = [{"id": f"v{i}", "instruction": f"Do add number {i}."} | about for i in range(items)]
    (data / "vie.json").write_text(json.dumps(rows))
    one = save(darker(clip(0), 0.5), edits / "v0_edited.mp4").read_bytes()
    for i in range(items):
        (edits / f"v{i}_edited.mp4").write_bytes(one)
    answered: Counter[str] = Counter()
    lock = threading.Lock()
    process: list[BaseProcess] = []

    def answer(asked: Asked) -> str:
        with lock:
            if asked.images and sum(answered.values()) == items // 2 and process:
                os.kill(process.pop().pid, signal.SIGKILL)  # before this reply
                return "too late"
            reply = marker(asked)
            if asked.images:
                place = asked.body["messages"][-1]["content"]
                answered[json.dumps(place) + reply] += 1
            return reply

    with ChatServer(answer) as server:
        asked = ["evaluate", "vie", "--data", str(data), "--out", str(tmp_path / "out"), "--edits", str(edits)]
        asked += ["--judge-url", server.url, "--passes", str(passes), "--workers", "1", "--metrics", "none"]
        running = command_from_server(asked, tmp_path / "said", tmp_path / "said-as-it-went")
        process.append(running)
        running.join(600)
        assert running.exitcode == -signal.SIGKILL
        assert sum(answered.values()) == items // 2
        assert not (tmp_path / "out/results.json").exists()
        assert opensama(asked) == 0
        assert sum(answered.values()) == items * passes
        assert set(answered.values()) == {passes}
        assert opensama(asked) == 0
        assert sum(answered.values()) == items * passes
    (system,) = results(tmp_path / "out")["systems"]
    assert system["summary"]["counts"]["scored"] == items
    capsys.readouterr()


def test_a_spent_budget_stops_and_more_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_vie(tmp_path / "data")
    edits = make_edits("vie", data, tmp_path / "edits", 0.5)
    out = tmp_path / "out"
    with ChatServer(marker) as server:
        asked = ["evaluate", "vie", "--data", str(data), "--out", str(out), "--edits", str(edits), "--metrics", "none"]
        asked += ["--judge-url", server.url, "--workers", "1"]
        assert opensama([*asked, "--budget", "4"]) == 2
        assert "2 are left" in capsys.readouterr().err
        (system,) = results(out)["systems"]
        assert system["summary"]["left"] == 2
        assert system["summary"]["counts"]["scored"] == 4
        assert opensama(asked) == 0
        assert len(server.questions) == 6
    assert results(out)["systems"][0]["summary"]["counts"]["scored"] == 6


def test_a_model_edits_and_two_judges_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_vie(tmp_path / "data")
    folder = make_edits("vie", data, tmp_path / "edits", 0.3)
    for index, item in enumerate(read_benchmark("vie", data).items):
        save(darker(clip(index), 0.15 * (index + 1)), folder / f"{item.id}_edited.mp4")
    base = ["evaluate", "vie", "--data", str(data), "--edits", str(folder), "--metrics", "none"]

    def contrary(asked: Asked) -> str:
        reply = json.loads(marker(asked)) if asked.images else {}
        return json.dumps({name: 11 - mark if isinstance(mark, int) else mark for name, mark in reply.items()}) or "yes"

    with ChatServer(marker) as one, ChatServer(contrary, models=("contrary",)) as two:
        assert opensama([*base, "--out", str(tmp_path / "one"), "--judge-url", one.url]) == 0
        more = ["--out", str(tmp_path / "two"), "--judge-url", two.url, "--agreement", str(tmp_path / "one")]
        assert opensama([*base, *more]) == 0
    found = json.loads((tmp_path / "two/agreement.json").read_text())
    assert (found["first"], found["second"]) == ("contrary", "pixels")
    assert found["scores"]["mean"]["n"] == 6
    assert found["scores"]["mean"]["rho"] == pytest.approx(-1)
    assert len(found["items"]) == 6
    assert "-1.000" in capsys.readouterr().out
    replies = ["--out", str(tmp_path / "three"), "--judge-replies", str(tmp_path / "one/results.json")]
    assert opensama([*base, *replies, "--agreement", str(tmp_path / "one/results.json")]) == 0
    again = json.loads((tmp_path / "three/agreement.json").read_text())
    assert again["scores"]["mean"]["rho"] == pytest.approx(1)
    assert again["scores"]["mean"]["mean_difference"] == 0


def test_a_model_edits_is_judged_and_shown_and_nothing_is_done_twice(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--model` from the benchmark's folder to the page, before a server on this machine."""
    data, out = MAKERS["openve"](tmp_path / "data"), tmp_path / "out"
    asked = ["evaluate", "openve", "--data", str(data), "--out", str(out), "--model", str(folder)]
    with ChatServer(marker) as server:
        asked += ["--judge-url", server.url, "--metrics", "edit_strength"]
        assert opensama(asked) == 0
        made = {file.name: file.stat().st_mtime_ns for file in (out / "edited" / folder.name).iterdir()}
        assert len(made) == len(server.questions) == 2
        first = results(out)
        assert opensama(asked) == 0
        assert len(server.questions) == 2
        assert {file.name: file.stat().st_mtime_ns for file in (out / "edited" / folder.name).iterdir()} == made
        assert results(out) == first
        (out / "edited" / folder.name / next(iter(made))).unlink()  # what is lost is made and judged anew
        assert opensama([*asked, "--seed", "0"]) == 0
    (system,) = first["systems"]
    assert system["name"] == folder.name
    assert system["summary"]["counts"] == {"items": 2, "scored": 2, "failed": 0, "missing": 0}
    assert all(item["seconds"] > 0 and item["scores"]["mean"] >= 1 for item in system["items"])
    assert opensama(["evaluate", "report", str(out)]) == 0
    assert (out / "report.html").read_text().count("data:video/mp4") == 4
    capsys.readouterr()


def test_a_local_judge_of_random_weights_stops_the_run_and_is_never_a_mark(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It finds no end: every answer is cut off, also that to an easy question, so it is no item's fault."""
    data = MAKERS["ive"](tmp_path / "data")
    edits = make_edits("ive", data, tmp_path / "edits", 0.5)
    monkeypatch.chdir(tmp_path)
    judge = write_tiny_qwen(Path("qwen"))  # its name is part of the seed: the same random answers each time
    asked = ["evaluate", "ive", "--data", str(data), "--out", str(tmp_path / "out"), "--edits", str(edits)]
    asked += ["--judge-model", str(judge), "-n", "1", "--tasks", "style_editing", "--metrics", "none"]
    opensama([*asked, "--device", "cpu"])
    found = results(tmp_path / "out")
    assert found["judge"] == str(judge)
    (system,) = found["systems"]
    assert system["summary"]["left"] == len(system["items"]) > 0
    for item in system["items"]:
        assert (item["state"], item["scores"]) == ("left", None)
    assert "cut off at 512 tokens" in "".join(capsys.readouterr())


def test_any_editor_is_scored_and_what_it_made_is_kept(tmp_path: Path) -> None:
    data = make_vie(tmp_path / "data", ("add", "style"))
    made: list[str] = []

    def edit(request: EditRequest) -> Video:
        made.append(request.instruction)
        if "style" in request.instruction:
            raise UserError("I do not do styles.")
        return Video.from_frames(darker(clip(0), 0.5), 8)

    said = '{"instruct follow": 9, "quality": 8, "preservation": 7}'
    judge = VlmJudge(ScriptedVlm(lambda q: said), VIE_PROTOCOL)
    for _ in range(2):
        report = evaluate_benchmark(
            read_benchmark("vie", data), [System("mine", edit=edit)], tmp_path / "out", judge=judge
        )
        (system,) = report.results["systems"]
        assert [item["state"] for item in system["items"]] == ["scored", "missing"]
        assert system["items"][0]["scores"]["mean"] == 8
        assert "I do not do styles." in system["items"][1]["failure"]
    assert made == ["Do add.", "Do style.", "Do style."]  # what is there is not made again


def test_without_a_judge_there_are_metrics_and_controls(tmp_path: Path) -> None:
    data = make_vie(tmp_path / "data", ("add",))
    edits = make_edits("vie", data, tmp_path / "edits", 0.5)
    name = "edit_strength"
    found = evaluate_benchmark(
        read_benchmark("vie", data), [System("s", edits=edits)], tmp_path / "out", metrics=[name]
    ).results
    (system,) = found["systems"]
    assert name in system["summary"]["metrics"]["groups"]["all"]["scores"]
    assert set(system["summary"]["controls"]) == {"copy", "black", "shuffled"}
    assert system["items"][0]["state"] == "scored"


def test_ive_joins_the_judges_marks_with_a_metric_file(tmp_path: Path) -> None:
    from tests.evaluation.test_aggregation import ICVE

    data = MAKERS["ive"](tmp_path / "data")
    table = tmp_path / "icve.csv"
    table.write_text("id," + ",".join(ICVE) + "\nshort-0," + ",".join(map(str, ICVE.values())) + "\n")
    found = evaluate_benchmark(
        read_benchmark("ive", data), [System("icve", metric_file=table)], tmp_path / "out"
    ).results
    overall = found["systems"][0]["summary"]["overall"]
    assert overall["short total"]["mean"] == pytest.approx(0.604, abs=5e-4)
    assert "long total" not in overall


def test_what_cannot_be_asked_for_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_vie(tmp_path / "data", ("add",))
    base = ["evaluate", "vie", "--data", str(data), "--out", str(tmp_path / "out")]
    for extra, said in (
        ([], "what to score"),
        (["--edits", str(tmp_path / "none")], "There is no folder"),
        (["--edits", str(data), "--protocol", "reco"], "There is no protocol"),
        (["--edits", str(data), "--metrics", "beauty"], "There is no metric 'beauty'"),
        (["--edits", str(data), "--tasks", "fly", "--metrics", "none"], "There is no task 'fly'"),
        (["--edits", str(data), "--passes", "0", "--metrics", "none"], "at least one pass"),
        (["--model", "tinny", "--metrics", "none"], "tinny"),
        (["--edits", str(data), "--rubric", str(tmp_path / "none.txt")], "cannot be read"),
        (["--edits", str(data), "--agreement", str(tmp_path / "none")], "name the results.json"),
    ):
        assert opensama([*base, *extra]) == 2, extra
        assert said in capsys.readouterr().err


def test_the_judge_is_not_asked_about_what_is_not_there(tmp_path: Path) -> None:
    def never(question: Question) -> str:
        raise AssertionError("asked")

    data = make_vie(tmp_path / "data", ("add",))
    (tmp_path / "edits").mkdir()
    systems = [System("none", edits=tmp_path / "edits")]
    found = evaluate_benchmark(
        read_benchmark("vie", data), systems, tmp_path / "out", judge=VlmJudge(ScriptedVlm(never), VIE_PROTOCOL)
    ).results
    assert found["systems"][0]["summary"]["counts"]["missing"] == 1
