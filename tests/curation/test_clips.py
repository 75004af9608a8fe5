"""A folder of raw videos becomes clips and pairs: in order, without overlap, with instructions that ask for a thing."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opensama.apps.cli import main
from opensama.curation.clips import ClipRules, clip_stages, curate_clips, pair_clips
from opensama.curation.instructions import ASK, other_words, read_answer, why_not
from opensama.curation.stage import Drop
from opensama.data.manifest import Record, iter_records
from opensama.media.frames import frames_for
from opensama.media.video_io import read_video
from opensama.values import UserError
from opensama.vlm import IMAGE, BadAnswer, Question, ScriptedVlm, open_vlm
from tests import footage
from tests.curation import shots
from tests.curation.server import ChatServer, Fault
from tests.curation.telling import scripted, server_tells
from tests.media.test_time import changing
from tests.ranks import command_from_server

WISHES = ("--min-side", "64", "--low-motion", "0", "--high-motion", "9")
SMALL = ClipRules(frames=9, min_side=64, low_motion=0.0, high_motion=9.0, rewritten=0.0)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two films in folders, one that is too slow, one too short, one that stands still, and what is no video."""
    folder = tmp_path_factory.mktemp("raw")
    (folder / "more").mkdir()
    shots.write(folder / "a.mp4", [shots.shot(1, 40), shots.shot(2, 33)])
    shots.write(folder / "more" / "b.mp4", [shots.shot(5, 50), shots.shot(6, 12), shots.shot(7, 24)])
    shots.write(folder / "slow.mp4", [shots.shot(3, 20)], fps=5)
    shots.write(folder / "short.mp4", [shots.shot(3, 20)])
    shots.write(folder / "still.mp4", [np.repeat(shots.shot(3, 1), 30, 0)])
    (folder / "empty.mp4").touch()
    (folder / "letter.mp4").write_text("Dear reader, this is no video.\n" * 50)
    (folder / "notes.txt").write_text("not looked at")
    return folder


def records(out: Path) -> list[Record]:
    return list(iter_records(out / "manifest.parquet"))


def reasons(out: Path) -> dict[str, dict[str, Any]]:
    return {item["id"]: item["error"] for item in map(json.loads, (out / "failed.jsonl").read_text().splitlines())}


def test_clips_do_not_overlap_and_lie_in_one_scene(raw: Path, tmp_path: Path) -> None:
    rules = ClipRules(frames=9, min_side=64, low_motion=0.001, high_motion=9.0)
    report = curate_clips(raw, tmp_path, rules)
    made = records(tmp_path)
    counts = {name: sum(r.id.startswith(name) for r in made) for name in ("a.mp4/0", "a.mp4/1", "more/b.mp4/0")}
    assert counts == {"a.mp4/0": 4, "a.mp4/1": 3, "more/b.mp4/0": 5}
    assert {stage.name: stage.dropped for stage in report.stages if stage.dropped} == {
        "basic": {"too few frames a second": 1, "too short": 1},
        "motion": {"too little motion": 1},
    }
    scenes = {"a.mp4": [(0, 40), (40, 73)], "more/b.mp4": [(0, 50), (50, 62), (62, 86)]}
    before = ("", 0.0)
    for record in made:
        video, scene, _ = record.id.rsplit("/", 2)
        assert record.kind == "clip"
        assert (tmp_path / record.target).samefile(raw / video)
        first, last = round(record.target_start * 24), round(record.target_end * 24)
        low, high = scenes[video][int(scene)]
        assert low <= first < last <= high
        assert last - first == record.frames == 9
        assert before[0] != video or before[1] <= record.target_start
        before = (video, record.target_end)
        shown = frames_for(read_video(tmp_path / record.target), 99, start=record.target_start, end=record.target_end)
        assert len(shown) == 9


def test_what_cannot_be_read_is_named_and_survived(raw: Path, tmp_path: Path) -> None:
    report = curate_clips(raw, tmp_path, SMALL)
    found = reasons(tmp_path)
    assert report.failed == 2
    assert found["empty.mp4"]["stage"] == found["letter.mp4"]["stage"] == "basic"
    assert "0 bytes" in found["empty.mp4"]["reason"]
    assert "not a video" in found["letter.mp4"]["reason"]


def test_a_recording_that_changes_its_size_is_cut_like_any_other(tmp_path: Path) -> None:
    """Its scenes and its motion are those of the pictures in one size; before, the stage had no reason to give."""
    folder = tmp_path / "raw"
    folder.mkdir()
    changing(folder / "a.webm", "libvpx", [(96, 64), (64, 96)], each=24, rate=24)
    report = curate_clips(folder, tmp_path / "out", SMALL)
    assert report.failed == 0, reasons(tmp_path / "out")
    made = records(tmp_path / "out")
    assert made
    for record in made:
        assert (record.width, record.height) == (96, 64)  # of two sizes with as many pixels the first
        assert record.frames == 9
        assert record.target_end - record.target_start == pytest.approx(9 / 24, abs=0.01)


def test_pairs_are_two_clips_of_one_scene_with_what_leads_from_one_to_the_other(raw: Path, tmp_path: Path) -> None:
    report = curate_clips(raw, tmp_path, SMALL, vlm=scripted)
    made = records(tmp_path)
    assert report.records == len(made) >= 2
    assert len({record.id.rsplit("/", 1)[0] for record in made}) == len(made)  # one of a scene
    for record in made:
        assert record.kind == "pair"
        assert record.source == record.target
        assert record.source_end <= record.target_start or record.target_end <= record.source_start
        assert record.frames == 9
        assert record.notes["vlm"] == "teller"
        assert record.task == "camera"


def test_more_pairs_share_no_clip() -> None:
    clips = [[float(i), i + 1.0] for i in range(7)]
    made = pair_clips({"id": "a", "target": "a.mp4", "_clips": clips}, pairs=9, seed=0)
    starts = [made_pair[side] for made_pair in made for side in ("source_start", "target_start")]
    assert len(made) == 3
    assert len(set(starts)) == 6
    with pytest.raises(Drop, match="single"):
        pair_clips({"id": "a", "target": "a.mp4", "_clips": clips[:1]}, pairs=1, seed=0)
    orders = {
        pair_clips({"id": f"{n}", "target": "a", "_clips": clips[:2]}, pairs=1, seed=0)[0]["id"][-3:] for n in range(9)
    }
    assert orders == {"0-1", "1-0"}  # either may be the original


def test_two_processes_make_the_same_manifest(raw: Path, tmp_path: Path) -> None:
    curate_clips(raw, tmp_path / "one", SMALL, vlm=scripted)
    curate_clips(raw, tmp_path / "two", SMALL, vlm=scripted, workers=3)
    assert (tmp_path / "one/manifest.parquet").read_bytes() == (tmp_path / "two/manifest.parquet").read_bytes()


def test_every_stage_travels_to_another_process() -> None:
    """As Ray's workers get it; that both runners then agree is in test_graph.py and test_filters.py."""
    stages = clip_stages(SMALL, scripted)
    assert [stage.name for stage in pickle.loads(pickle.dumps(stages))] == [stage.name for stage in stages]


def test_killed_it_goes_on(raw: Path, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(12):
        shutil.copy(raw / "a.mp4", folder / f"{number}.mp4")
    command = ["curate", "clips", folder, "--frames", "9", *WISHES, "--workers", "2", "--out", tmp_path / "out"]
    killed = 0
    for wait in (0.1, 0.9, 600.0):
        (tmp_path / "out/state/lock").unlink(missing_ok=True)
        process = command_from_server(command, tmp_path / "said", tmp_path / "said-as-it-went")
        while not (tmp_path / "out/state/lock").exists() and process.is_alive():
            time.sleep(0.02)
        process.join(wait)
        if process.exitcode is not None:
            assert process.exitcode == 0
            break
        process.kill()
        process.join()
        killed += 1
    assert killed >= 1
    curate_clips(folder, tmp_path / "whole", ClipRules(frames=9, min_side=64, low_motion=0.0, high_motion=9.0))
    assert (tmp_path / "out/manifest.parquet").read_bytes() == (tmp_path / "whole/manifest.parquet").read_bytes()


def test_a_server_words_the_change_and_the_order_counts(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ChatServer(server_tells) as server:
        arguments = ["curate", "clips", str(raw), "--out", str(tmp_path), "--vlm-url", server.url, "--frames", "9"]
        assert main([*arguments, *WISHES, "--rewritten", "0"]) == 0
        asked = server.questions
        assert len(asked) >= 3
        assert all([len(group) for group in one.groups] == [4, 4] for one in asked)
        vlm = open_vlm(server.url)
        first, second = asked[0].groups
        there, back = (
            vlm.ask(Question(f"{IMAGE * 4} and {IMAGE * 4}", (*one, *other)))
            for one, other in ((first, second), (second, first))
        )
    opposite = {"left": "right", "right": "left", "brighter": "darker", "darker": "brighter"}
    *words, last = read_answer(there)[0].rstrip(".").split()
    assert read_answer(back)[0] == " ".join([*words, opposite[last]]) + "."
    said = capsys.readouterr().out
    assert f"{len(records(tmp_path))} pairs" in said
    assert "failed: 2" in said
    assert {record.instruction for record in records(tmp_path)} <= {"Pan to the left.", "Pan to the right."}


def test_a_server_that_is_down_or_wants_another_key_is_named(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["curate", "clips", str(raw), "--out", str(tmp_path), "--retries", "0", "--frames", "9", "--vlm-url"]
    with ChatServer(server_tells, key="open sesame") as server:
        assert main([*arguments, server.url]) == 2
        assert "key" in capsys.readouterr().err
    assert main([*arguments, server.url]) == 2  # nobody listens there any more
    assert server.url in capsys.readouterr().err


def test_a_spent_budget_stops_and_the_next_call_goes_on(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "curate",
        "clips",
        str(raw),
        "--frames",
        "9",
        *WISHES,
        "--workers",
        "1",
    ]
    with ChatServer(server_tells) as server:
        arguments += ["--vlm-url", server.url]
        assert main([*arguments, "--out", str(tmp_path / "whole")]) == 0
        first = [*arguments, "--out", str(tmp_path / "parts"), "--budget", "1"]
        assert main(first) == 2
        assert "same command goes on" in capsys.readouterr().err
        calls = 1
        while main(first) and calls < 9:
            calls += 1
        assert calls > 1
    assert (tmp_path / "parts/manifest.parquet").read_bytes() == (tmp_path / "whole/manifest.parquet").read_bytes()


def test_answers_that_are_none_are_kept_apart(raw: Path, tmp_path: Path) -> None:
    with ChatServer(lambda asked: "I would rather not say." if asked.images else "yes") as server:
        report = curate_clips(raw, tmp_path, SMALL, vlm=partial(open_vlm, server.url, retries=0))
        pictures = len(server.questions)
    asked = next(stage for stage in report.stages if stage.name == "instruction")
    assert report.records == 0
    assert asked.failed == asked.taken >= 3
    assert pictures == 2 * asked.taken  # each was asked for once more
    assert all("no JSON object" in error["reason"] for name, error in reasons(tmp_path).items() if "/" in name)


def a_name_in_latin_1(video: Path, folder: Path) -> None:
    """A copy under a name that is not UTF-8; skips where the disk takes none."""
    try:
        shutil.copy(video, os.fsencode(folder) + b"/\xff.mp4")
    except OSError:
        pytest.skip("this disk takes UTF-8 names only")


def test_a_name_that_is_not_utf_8_fails_alone(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    shutil.copy(raw / "a.mp4", tmp_path / "films")
    a_name_in_latin_1(raw / "a.mp4", tmp_path / "films")
    report = curate_clips(tmp_path / "films", tmp_path / "out", SMALL)
    assert report.records == len([record for record in records(tmp_path / "out") if record.id.startswith("a.mp4/")]) > 0
    (error,) = reasons(tmp_path / "out").values()
    assert error["stage"] == "basic"
    assert "'\\udcff.mp4' is not Unicode: rename the file" in error["reason"]


def test_half_a_character_in_an_answer_is_cleaned(raw: Path, tmp_path: Path) -> None:
    half = '{"instruction": "Make the ball \\ud83d jump.", "task": "motion"}'
    for number, answer in enumerate((half, half.replace("\\ud83d", "\ud83d"))):  # written as an escape, and itself
        out = tmp_path / str(number)
        with ChatServer(lambda asked, answer=answer: answer if asked.images else "yes") as server:
            vlm = partial(open_vlm, server.url, retries=0, cache=out / "answers")
            report = curate_clips(raw, out, SMALL, vlm=vlm)
        assert report.failed == 2  # the files that are no videos
        assert {record.instruction for record in records(out)} == {"Make the ball ? jump."}


def test_a_busy_server_is_asked_again(raw: Path, tmp_path: Path) -> None:
    with ChatServer(server_tells) as server:
        server.faults.extend([Fault(503)])
        report = curate_clips(raw, tmp_path, SMALL, vlm=partial(open_vlm, server.url, retries=2))
    assert report.failed == 2  # the files that are no videos
    assert report.records >= 2


def test_footage_becomes_pairs_by_the_usual_rules(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    footage.record(folder / "a.mp4", footage.shot(1, 34, (240, 240)))
    with ChatServer(server_tells) as server:
        report = curate_clips(folder, tmp_path / "out", ClipRules(frames=17), vlm=partial(open_vlm, server.url))
    made = records(tmp_path / "out")
    assert report.failed == 0
    assert {record.id.rpartition("/")[0] for record in made} == {"a.mp4/0"}
    assert {record.task for record in made} == {"camera"}


# --- words


@pytest.mark.parametrize(
    "text",
    [
        "Increase the brightness slightly.",
        "Make the scene a bit darker and warmer.",
        "Adjust the lighting.",
        "No visible change.",
        "Keep everything the same.",
        "Leave the scene as it is.",
        "None",
        "",
        "Sharpen.",
        "Make it look like the second clip.",
    ],
)
def test_trivial_instructions_are_dropped(text: str) -> None:
    assert why_not(text)


@pytest.mark.parametrize(
    "text",
    [
        "Zoom out and pan to the right.",
        "Make the car darker.",
        "Change the color of the dress to red.",
        "Keep the man still and let the dog walk out of view.",
        "Add a brown dog.",
        "Replace the white cup with a blue vase.",
        "Let the woman turn her head to the left.",
        "Notice board removed from the wall",
    ],
)
def test_instructions_that_ask_for_something_stay(text: str) -> None:
    assert why_not(text) == ""


def test_verbs_are_rewritten() -> None:
    rng = random.Random(0)
    replaced = {other_words("Replace the red hat with a blue cap.", rng) for _ in range(40)}
    assert replaced == {
        "Change the red hat to a blue cap.",
        "Swap the red hat for a blue cap.",
        "Turn the red hat into a blue cap.",
    }
    assert {other_words("Zoom out and pan to the right.", rng) for _ in range(40)} == {
        "Move the camera back and pan to the right.",
        "Pull the camera away and pan to the right.",
    }
    assert "Add a dog" not in {other_words("Add a dog", rng) for _ in range(40)}
    assert other_words("Let the dog sit.", rng) == "Let the dog sit."


NAMES = st.from_regex(r"[a-z]{3,8}( [a-z]{3,8}){0,2}", fullmatch=True).filter(
    lambda name: not {"with", "for", "into", "by"} & set(name.split())
)


@given(NAMES, NAMES, st.integers())
def test_other_verbs_leave_the_things(one: str, other: str, seed: int) -> None:
    for text in (f"Replace the {one} with a {other}.", f"Turn the {one} into a {other}.", f"Remove the {one} {other}"):
        said = other_words(text, random.Random(seed))
        assert said != text
        assert one in said
        assert other in said.partition(one)[2]
        assert said.endswith(".") == text.endswith(".")
        assert said[0].isupper()
        assert other_words(text, random.Random(seed)) == said


def test_an_answer_is_an_instruction_and_a_task() -> None:
    assert read_answer('{"instruction": "  Add a\\n dog. ", "task": "Add"}') == ("Add a dog.", "add")
    assert read_answer('```json\n{"instruction": "Add a dog.", "task": "sing"}\n```') == ("Add a dog.", "other")
    for wrong in ("Add a dog.", '{"task": "add"}', '{"instruction": 3}', '{"instruction": "' + "a" * 3000 + '"}'):
        with pytest.raises(BadAnswer):
            read_answer(wrong)
    assert '"instruction"' in ASK


def test_an_empty_answer_is_a_drop_not_a_failure(raw: Path, tmp_path: Path) -> None:
    silent = ScriptedVlm(lambda question: '{"instruction": "", "task": "other"}', "silent")
    report = curate_clips(raw, tmp_path, SMALL, vlm=lambda: silent)
    asked = next(stage for stage in report.stages if stage.name == "instruction")
    assert asked.dropped == {"nothing differs": asked.taken}


# --- wishes that cannot be


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "There is no folder nowhere"),
        (["."], "There are no videos in ."),
        ([".", "--frames", "0"], "frames must be from"),
        ([".", "--min-fps", "50", "--max-fps", "20"], "min_fps is 50 and max_fps 20"),
        ([".", "--workers", "0"], "at least one worker"),
        ([".", "--rewritten", "1.5"], "rewritten must be from"),
    ],
)
def test_wrong_wishes_are_said_in_one_sentence(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["curate", "clips", *arguments, "--out", "out"]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_results_are_not_searched_for_videos(raw: Path, tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    shutil.copytree(raw, folder)
    (folder / "out").mkdir()
    shutil.copy(raw / "a.mp4", folder / "out" / "made.mp4")
    report = curate_clips(folder, folder / "out", SMALL)
    assert report.items == 7
    with pytest.raises(UserError, match="no videos"):
        curate_clips(folder / "out", folder / "out", SMALL)
