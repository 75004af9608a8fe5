"""Whatever the runner, whoever is quicker, and however often it is killed: the graph gives the same manifest."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from opensama.curation.graph import GraphReport, run_graph
from opensama.curation.stage import GraphStage
from opensama.data.manifest import Record, iter_records
from opensama.values import Progress, UserError
from tests.curation import steps

COUNT = 60


def records(out: Path) -> list[Record]:
    return list(iter_records(out / "manifest.parquet"))


def failures(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "failed.jsonl").read_text().splitlines()]


def counts(report: GraphReport) -> list[tuple[str, int, int, dict[str, int], int]]:
    return [(stage.name, stage.taken, stage.given, stage.dropped, stage.failed) for stage in report.stages]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GraphReport]:
    out = tmp_path_factory.mktemp("expected")
    return out, run_graph(steps.chain(), steps.items(COUNT), out)


def test_what_comes_of_each_item_in_its_order(expected: tuple[Path, GraphReport]) -> None:
    out, report = expected
    sound = [n for n in range(COUNT) if n % 7 != 3 and n % 11 != 5]
    parts = [(n, p) for n in sound for p in range(n % 4) if not (p == 2 and n % 8 == 2)]
    assert [record.caption for record in records(out)] == [f"part {n}.{p}" for n, p in parts]
    short, broken = (sum(n % 7 == 3 for n in range(COUNT)), sum(n % 11 == 5 and n % 7 != 3 for n in range(COUNT)))
    cut, told = sum(n % 4 for n in sound), len(parts)
    assert counts(report) == [
        ("check", COUNT, len(sound), {"too short": short}, broken),
        ("cut", len(sound), cut, {"cut": sum(n % 4 == 0 for n in sound)}, 0),
        ("tell", cut, told, {"tell": cut - told} if cut > told else {}, 0),
        ("dawdle", told, told, {}, 0),
    ]
    assert (report.items, report.records, report.failed, report.left, report.stopped) == (COUNT, told, broken, 0, "")
    assert json.loads((out / "report.json").read_text())["records"] == told


def test_a_failed_item_says_where_and_why(expected: tuple[Path, GraphReport]) -> None:
    first = failures(expected[0])[0]
    assert first["id"] == "video-005"
    assert first["error"] == {"stage": "check", "reason": "5.mp4 is empty (0 bytes); copy or download it again."}


def test_threads_give_the_same(expected: tuple[Path, GraphReport], tmp_path: Path) -> None:
    states = tmp_path / "states"
    states.mkdir()
    report = run_graph(steps.chain(wait=0.01, folder=states), steps.items(COUNT), tmp_path / "out", workers=4)
    assert records(tmp_path / "out") == records(expected[0])
    assert counts(report) == counts(expected[1])
    assert 1 <= len(list(states.iterdir())) <= 4  # one state a worker, not one an item


def test_a_cluster_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    with socket.socket() as bound:  # and not listening: nobody else takes the port, and nobody answers
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        for name in (address, f"ray://{address}", "rubbish"):
            monkeypatch.setenv("RAY_ADDRESS", name)
            with pytest.raises(UserError, match=f"No Ray cluster answers at RAY_ADDRESS={name} .*`runner=local`"):
                run_graph(steps.chain(), steps.items(3), tmp_path, runner="ray")
    with pytest.raises(UserError, match="has its own workers"):
        run_graph(steps.chain(), steps.items(3), tmp_path, runner="ray", workers=2)


def test_a_ray_that_does_not_start_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "file").touch()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"Ray does not start on this machine .*Not a directory.*`runner=local`"):
        run_graph(steps.chain(), steps.items(3), tmp_path / "out", runner="ray", workers=1)


KILLED = """
import sys
from pathlib import Path
from opensama.curation.graph import run_graph
from tests.curation import steps

run_graph(steps.chain(wait=0.02), steps.items({count}), Path(sys.argv[1]), workers=2)
"""


def kill_at_random_moments(out: Path, waits: list[float]) -> int:
    """Begins the run in another process and kills it, several times, then lets it end; times it was killed."""
    killed = 0
    for wait in [*waits, 600.0]:
        command = [sys.executable, "-c", KILLED.format(count=COUNT), str(out)]
        process = subprocess.Popen(command, cwd=Path(__file__).parents[2], start_new_session=True)
        state = out / "state"
        began = time.monotonic()
        while not (state / "lock").exists() and process.poll() is None:
            time.sleep(0.01)  # Python's own beginning is not what is tested
        try:
            process.wait(wait)
            assert process.returncode == 0
            break
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
            assert time.monotonic() - began < 120
    return killed


def test_killed_at_any_moment_it_goes_on(expected: tuple[Path, GraphReport], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert kill_at_random_moments(out, [0.05, 0.31, 0.17]) >= 1
    assert (out / "manifest.parquet").read_bytes() == (expected[0] / "manifest.parquet").read_bytes()
    report = json.loads((out / "report.json").read_text())
    assert [stage["taken"] for stage in report["stages"]] == [stage.taken for stage in expected[1].stages]


def test_a_torn_line_is_made_anew(expected: tuple[Path, GraphReport], tmp_path: Path) -> None:
    run_graph(steps.chain(), steps.items(COUNT), tmp_path)
    (state,) = (tmp_path / "state").glob("*.jsonl")
    whole = state.read_bytes()
    for length in (len(whole) - 1, len(whole) // 2, whole.index(b"\n") + 1, 3, 0):
        state.write_bytes(whole[:length])
        run_graph(steps.chain(), steps.items(COUNT), tmp_path)
        assert records(tmp_path) == records(expected[0])


def test_a_second_call_does_only_what_is_missing(tmp_path: Path) -> None:
    seen: list[Progress] = []
    run_graph(steps.chain(), steps.items(20), tmp_path, progress=seen.append)
    assert (seen[-1].done, seen[-1].total) == (20, 20)
    seen.clear()
    run_graph(steps.chain(), steps.items(24), tmp_path, progress=seen.append)
    assert seen[-1].total == 4 + 2  # the new ones, and those that failed: 5 and 16
    assert [r.caption for r in records(tmp_path)][-3:] == ["part 23.0", "part 23.1", "part 23.2"]


def test_other_settings_make_everything_anew(tmp_path: Path) -> None:
    run_graph(steps.chain(words="part"), steps.items(4), tmp_path)
    run_graph(steps.chain(words="piece"), steps.items(4), tmp_path)
    assert {record.caption.split()[0] for record in records(tmp_path)} == {"piece"}


def test_equal_items_are_each_done(tmp_path: Path) -> None:
    report = run_graph([GraphStage("check", steps.check)], steps.items(2) * 2, tmp_path)
    assert report.records == 4


def test_a_spent_quota_ends_the_run_and_the_next_call_goes_on(tmp_path: Path) -> None:
    stages = [GraphStage("pay", steps.pay, setup=partial(steps.Budget, 3))]
    report = run_graph(stages, steps.items(8), tmp_path)
    assert (report.stopped, report.records, report.left) == ("the budget is spent", 3, 5)
    report = run_graph(stages, steps.items(8), tmp_path)
    assert (report.stopped, report.records, report.left) == ("the budget is spent", 6, 2)
    report = run_graph(stages, steps.items(8), tmp_path)
    assert (report.stopped, report.records, report.left) == ("", 8, 0)
    assert [record.id for record in records(tmp_path)] == [item["id"] for item in steps.items(8)]


def test_a_server_that_is_gone_stops_the_run(tmp_path: Path) -> None:
    report = run_graph([GraphStage("ask", steps.no_server)], steps.items(100), tmp_path)
    assert "nobody answers" in report.stopped
    assert report.failed < 30
    assert report.left > 70


def test_what_a_person_must_mend_ends_the_run(tmp_path: Path) -> None:
    stages = [GraphStage("ask", steps.pay, setup=steps.wrong_key)]
    with pytest.raises(UserError, match="does not take this key"):
        run_graph(stages, steps.items(3), tmp_path)


def test_results_must_be_json_and_records(tmp_path: Path) -> None:
    run_graph([GraphStage("array", steps.give_array)], steps.items(1), tmp_path / "a")
    assert "not JSON serializable" in failures(tmp_path / "a")[0]["error"]["reason"]
    run_graph([GraphStage("corrupt", steps.corrupt)], steps.items(1), tmp_path / "b")
    assert "cooking" in failures(tmp_path / "b")[0]["error"]["reason"]


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    def meddle(_: Progress) -> None:
        run_graph(steps.chain(), steps.items(3), tmp_path)

    with pytest.raises(UserError, match="Another run"):
        run_graph(steps.chain(), steps.items(3), tmp_path, progress=meddle)


def test_a_setting_without_a_lasting_name_is_refused(tmp_path: Path) -> None:
    stages = [GraphStage("tell", partial(steps.tell, words=object()))]  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="lasting name"):
        run_graph(stages, steps.items(3), tmp_path)


def test_a_file_where_the_folder_belongs(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match="choose another name"):
        run_graph(steps.chain(), steps.items(1), tmp_path / "taken")
