"""SAMA's filter through a real server: what is kept, what is not, what has no verdict; killed and gone on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opensama.apps.cli import main
from opensama.curation import rubrics
from opensama.curation.filters import filter_manifest
from opensama.curation.scoring import misses, pair_frames, score_pair, thresholds_of
from opensama.curation.settings import FilterSettings
from opensama.data.manifest import Record, iter_records, write_manifest
from opensama.media.video_io import write_video
from opensama.values import UserError, Video
from opensama.vlm import BadAnswer, CachedVlm, Question, ScriptedVlm, VlmRefused, open_vlm
from opensama.vlm.server import ServerVlm
from tests import footage
from tests.any_text import any_text
from tests.curation.server import Asked, ChatServer, Ended, Fault, pixel_judge

FRAMES, HEIGHT, WIDTH = 12, 36, 64


def scene(color: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """A square that crosses a textured ground: t h w 3."""
    ground = np.random.default_rng(seed).integers(60, 190, (HEIGHT // 4, WIDTH // 4, 3)).astype(np.uint8)
    frames = np.repeat(np.repeat(ground, 4, 0), 4, 1)[None].repeat(FRAMES, 0)
    for t in range(FRAMES):
        frames[t, 8:24, 3 * t : 3 * t + 16] = color
    return frames


def save(frames: np.ndarray, path: Path) -> str:
    write_video(Video.from_frames(frames, 12), path, quality=95, on_note=lambda _: None)
    return path.name


SOURCE, GOOD = scene((250, 250, 250)), scene((250, 30, 30))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    """A manifest of every kind of pair."""
    folder = tmp_path_factory.mktemp("pairs")
    broken = np.random.default_rng(1).integers(0, 255, SOURCE.shape, dtype=np.uint8)
    targets = {
        "good": GOOD,
        "untouched": SOURCE,
        "broken": broken,
        "frozen": GOOD[:1].repeat(FRAMES, 0),
        "other": scene((250, 30, 30), seed=5),
    }
    source = save(SOURCE, folder / "source.mp4")
    records = [
        Record(
            id=name,
            kind="pair",
            source=source,
            target=save(frames, folder / f"{name}.mp4"),
            instruction="Make the square red.",
            task="recolor",
            dataset="drawn" if name != "other" else "elsewhere",
        )
        for name, frames in targets.items()
    ]
    write_manifest(folder / "pairs.parquet", records)
    return folder / "pairs.parquet"


def asking(server: ChatServer, cache: Path | None = None, **settings):
    """How the tests open a model: short pauses."""
    return lambda: CachedVlm(ServerVlm(server.url, "pixels", retries=1, back_off=0.005), cache, **settings)


def ids(path: Path) -> list[str]:
    return [record.id for record in iter_records(path)]


def failed(out: Path) -> dict[str, str]:
    lines = (out / "failed.jsonl").read_text().splitlines()
    return {item["id"]: item["error"]["reason"] for item in map(json.loads, lines)}


# --- what is asked


def test_the_three_questions_as_the_server_sees_them(pairs, tmp_path):
    with ChatServer() as server:
        filter_manifest(pairs, tmp_path / "out", asking(server), FilterSettings(frames=4), 1, workers=1)
        asked = server.questions
    assert len(asked) == 9, "three questions in three turns each"
    source, edited = (np.stack([f.astype(int) for f in frames[[0, 4, 7, 11]]]) for frames in (SOURCE, GOOD))
    order = {"instruction": (source, edited), "motion": (edited, source), "preservation": (source, edited)}

    def error(shown: list[np.ndarray], meant: np.ndarray) -> float:
        return float(np.abs(np.stack(shown).astype(int) - meant).mean())

    for name, clips in order.items():
        same = [question for question in asked if f'"{name}": <mark>' in question.text]
        assert len(same) == 3
        assert "Make the square red." in same[0].text
        first, second = same[0].groups
        assert error(first, clips[0]) < 10 < 15 < error(first, clips[1]), f"{name}: the clips in their order"
        assert error(second, clips[1]) < 10 < 15 < error(second, clips[0])


def test_images_are_asked_about_motion_never():
    assert [rubric.name for rubric in rubrics.rubrics_for("image")] == ["edit", "kept"]
    assert [rubric.name for rubric in rubrics.rubrics_for("video")] == ["edit", "motion", "kept"]
    scored = {name for rubric in rubrics.rubrics_for("video") for name in rubric.scores}
    assert scored == set(rubrics.SCORES) == set(rubrics.THRESHOLDS["video"])
    assert scored - {"motion"} == set(rubrics.THRESHOLDS["image"])
    picture = SOURCE[:1]
    assert "clip" not in rubrics.question(rubrics.RUBRICS[0], "image", "x", picture, picture).text


@pytest.mark.parametrize("rubric", rubrics.RUBRICS, ids=lambda rubric: rubric.name)
@given(any_text(60) | st.sampled_from(["<image>", "<<image>image>", "{x} %s $y", '{"instruction": 10}']))
def test_any_instruction_can_be_asked_about(rubric, instruction):
    question = rubrics.question(rubric, "video", instruction, tuple(SOURCE[:2]), tuple(GOOD[:3]))
    assert len(question.images) == 5
    first, last = (SOURCE[0], GOOD[2]) if rubric.first == "source" else (GOOD[0], SOURCE[1])
    assert np.array_equal(question.images[0], first)
    assert np.array_equal(question.images[-1], last)


@pytest.mark.parametrize(
    "answer",
    [
        "fine, an 8",
        '{"instruction": 9}',
        '{"instruction": 9, "quality": "8/5"}',
        '{"instruction": 9, "quality": 11}',
        '{"instruction": 0, "quality": 8}',
        '{"instruction": true, "quality": 8}',
        '{"instruction": NaN, "quality": 8}',
        '{"instruction": null, "quality": 8}',
        '[{"instruction": 9, "quality": 8}, {"instruction": 9, "quality": 7}]',
    ],
)
def test_what_is_no_verdict(answer):
    with pytest.raises(BadAnswer):
        rubrics.marks(rubrics.RUBRICS[0], answer)
    with pytest.raises(BadAnswer):
        score_pair(ScriptedVlm(lambda question: answer), "video", "x", tuple(SOURCE[:2]), tuple(GOOD[:2]))


def test_an_unreadable_answer_is_asked_for_once_more():
    """Turn by turn: the first cannot be read once, and the average is of what could be read."""
    told: list[Question] = []

    def answer(question: Question) -> str:
        told.append(question)
        names = re.findall(r'"(\w+)": <mark>', question.text)
        if question.turn == 0:
            return "hm"
        return json.dumps(dict.fromkeys(names, 7 + question.turn % 3) | {"reason": f"turn {question.turn}"})

    scores, reasons = score_pair(ScriptedVlm(answer), "image", "x", tuple(SOURCE[:1]), tuple(GOOD[:1]))
    assert scores == dict.fromkeys(("instruction", "quality", "preservation"), 8.333333), "of 8, 8 and 9"
    assert len(told) == 8
    assert reasons["edit"] == "turn 1000"


# --- what is kept


def test_good_pairs_are_kept_and_the_others_are_not(pairs, tmp_path):
    out = tmp_path / "out"
    with ChatServer() as server:
        report = filter_manifest(
            pairs, out, partial(open_vlm, server.url, cache=tmp_path / "answers"), FilterSettings(frames=6)
        )
    assert ids(out / "manifest.parquet") == ["good"]
    assert ids(out / "refused.parquet") == ["untouched", "broken", "frozen", "other"]
    wanted = rubrics.THRESHOLDS
    below = {record.id: misses(record, wanted) for record in iter_records(out / "refused.parquet")}
    assert below["untouched"] == ["instruction"]
    assert below["frozen"][-1:] == ["motion"]
    assert "preservation" in below["other"]
    (kept,) = iter_records(out / "manifest.parquet")
    assert (out / kept.target).resolve() == (pairs.parent / "good.mp4").resolve()
    assert kept.notes["judge"] == "pixels"
    assert "mean change" in kept.notes["judge_on_edit"]
    assert (report.pairs, report.kept, report.refused, report.left, report.stopped) == (5, 1, 4, 0, "")
    assert report.datasets == {"drawn": [1, 3], "elsewhere": [0, 1]}
    assert report.tasks == {"recolor": [1, 4]}
    assert "5 of 5 pairs scored, 1 kept (20.0 %)" in report.table()


def test_other_thresholds_ask_nothing_anew(pairs, tmp_path):
    out = tmp_path / "out"
    with ChatServer() as server:
        filter_manifest(pairs, out, asking(server), FilterSettings(turns=1))
        before = len(server.questions)
        filter_manifest(pairs, out, asking(server), FilterSettings(turns=1), thresholds=thresholds_of(video="1,9,8,8"))
        assert ids(out / "manifest.parquet") == ["good", "untouched"]
        assert len(server.questions) == before
        filter_manifest(pairs, out, asking(server), FilterSettings(turns=2))
        assert len(server.questions) == 3 * before, "other questions do"


def test_thrift_asks_no_further_than_needed(pairs, tmp_path):
    with ChatServer() as server:
        filter_manifest(pairs, tmp_path / "all", asking(server), FilterSettings(turns=1))
        every = len(server.questions)
        filter_manifest(pairs, tmp_path / "some", asking(server), FilterSettings(turns=1, thrifty=True))
        assert len(server.questions) - every < every - 3
    assert ids(tmp_path / "some/manifest.parquet") == ids(tmp_path / "all/manifest.parquet")


def test_thresholds_in_words():
    assert thresholds_of() == {media: dict(wanted) for media, wanted in rubrics.THRESHOLDS.items()}
    assert thresholds_of("7,8,9")["image"] == {"instruction": 7, "quality": 8, "preservation": 9}
    for wrong in ("9,9", "9,9,9,9", "a,b,c", "9,9,11", ""):
        with pytest.raises(UserError, match="thresholds of images are 3 numbers"):
            thresholds_of(wrong)


def test_images_and_clips_and_pairs_without_words(pairs, tmp_path):
    from PIL import Image

    Image.fromarray(SOURCE[0]).save(tmp_path / "a.png")
    edited = SOURCE[0].copy()
    edited[8:16, 0:8] = 250, 30, 30
    Image.fromarray(edited).save(tmp_path / "b.png")
    records = [
        Record(id="image", kind="pair", media="image", source="a.png", target="b.png", instruction="Make it red."),
        Record(id="clip", kind="clip", target=str(pairs.parent / "good.mp4")),
        Record(id="silent", kind="pair", source="a.png", target="b.png"),
    ]
    write_manifest(tmp_path / "all.jsonl", records)
    with ChatServer() as server:
        report = filter_manifest(tmp_path / "all.jsonl", tmp_path / "out", asking(server))
        assert len(server.questions) == 6
        assert {len(question.images) for question in server.questions} == {2}
    assert ids(tmp_path / "out/manifest.parquet") == ["image"]
    assert report.dropped == {"a clip, not a pair": 1, "no instruction": 1}


def test_frames_are_compared_at_the_same_times(tmp_path):
    """The edited file begins four frames later and is shorter: frame i of one stands beside frame i of the other."""
    save(SOURCE, tmp_path / "source.mp4")
    save(SOURCE[4:10], tmp_path / "target.mp4")
    record = Record(id="x", kind="pair", source="source.mp4", target="target.mp4", source_start=4 / 12)
    source, target = pair_frames(record, tmp_path, 3, 64)
    assert len(source) == len(target) == 3
    for a, b in zip(source, target, strict=True):
        assert np.abs(a.astype(int) - b).mean() < 3
    with pytest.raises(UserError, match="begins behind the end"):
        pair_frames(
            Record(id="x", kind="pair", source="source.mp4", target="target.mp4", target_start=9), tmp_path, 3, 64
        )


# --- what goes wrong


def test_what_has_no_verdict_is_kept_apart(pairs, tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video")
    rows = list(iter_records(pairs))[:1]
    good = {"source": str(pairs.parent / "source.mp4"), "target": str(pairs.parent / "good.mp4")}
    cases = {
        "fine": good | {"instruction": "Make the square red."},
        "empty": good | {"source": "empty.mp4", "instruction": "x"},
        "text": good | {"target": "text.mp4", "instruction": "x"},
        "missing": good | {"target": "nowhere.mp4", "instruction": "x"},
        "refused": good | {"instruction": "REFUSE"},
        "filtered": good | {"instruction": "FILTER"},
        "garbled": good | {"instruction": "GARBLE"},
        "choking": good | {"instruction": "CHOKE"},
    }
    assert rows
    write_manifest(tmp_path / "all.parquet", [Record(id=name, kind="pair", **case) for name, case in cases.items()])

    def moody(asked: Asked) -> str | Ended | Fault:
        if "REFUSE" in asked.text:
            return Ended(None, refusal="I do not judge this.")
        if "FILTER" in asked.text:
            return Ended(None, "content_filter")
        if "GARBLE" in asked.text:
            return "About eight, I think."
        return Fault(500, "out of memory") if "CHOKE" in asked.text else pixel_judge(asked)

    out = tmp_path / "out"
    with ChatServer(moody) as server:
        report = filter_manifest(tmp_path / "all.parquet", out, asking(server, tmp_path / "answers"), workers=2)
        asked = len(server.questions)
        again = filter_manifest(tmp_path / "all.parquet", out, asking(server, tmp_path / "answers"), workers=2)
        assert len(server.questions) == asked + 2, "only the question that got no answer at all is asked again"
    assert ids(out / "manifest.parquet") == ["fine"]
    assert ids(out / "refused.parquet") == []
    reasons = failed(out)
    assert list(reasons) == [name for name in cases if name != "fine"], "in the manifest's order"
    assert "0 bytes" in reasons["empty"]
    assert "is not a video" in reasons["text"]
    assert "There is no file" in reasons["missing"]
    assert reasons["refused"] == "VlmRefused: I do not judge this."
    assert "content filter" in reasons["filtered"]
    assert reasons["garbled"].startswith("BadAnswer: the answer has no JSON object: 'About eight")
    assert "out of memory" in reasons["choking"]
    assert report.stopped == again.stopped == ""
    assert report.unscored == again.unscored
    assert report.unscored == {
        "the files could not be read": 3,
        "the model refused": 2,
        "the answer could not be read": 1,
        "no answer came": 1,
    }


def test_a_budget_is_kept_and_the_next_call_goes_on(pairs, tmp_path):
    out, cache = tmp_path / "out", tmp_path / "answers"
    with ChatServer() as server:
        first = filter_manifest(pairs, out, asking(server, cache, budget=20, budget_id="run of 20"), workers=1)
        assert "budget of 20 questions is spent" in first.stopped
        assert (first.kept + first.refused, first.left) == (2, 3)
        assert len(server.questions) == 20
        second = filter_manifest(pairs, out, asking(server, cache, budget=25, budget_id="run of 25"), workers=1)
        assert (second.stopped, second.left, len(server.questions)) == ("", 0, 45), "nothing was asked twice"
    assert ids(out / "manifest.parquet") == ["good"]


@pytest.mark.parametrize(
    "fault",
    [Fault(429, "no credit left", "insufficient_quota"), Fault(503, "gone away"), Fault(401, "key expired"), Fault(0)],
    ids=["quota", "down", "key", "cut"],
)
def test_a_server_that_fails_on_the_way_ends_the_run_cleanly(pairs, tmp_path, fault):
    out, cache = tmp_path / "out", tmp_path / "answers"
    state = {"left": 14}

    def tiring(asked: Asked) -> str | Fault:
        if asked.images:
            state["left"] -= 1
        return pixel_judge(asked) if state["left"] >= 0 else fault

    with ChatServer(tiring) as server:
        report = filter_manifest(pairs, out, asking(server, cache), workers=1)
        assert report.stopped
        assert (report.left, failed(out)) == (4, {}), "no pair is blamed for it"
        state["left"] = 100
        report = filter_manifest(pairs, out, asking(server, cache), workers=1)
        assert (report.stopped, report.left) == ("", 0)
        assert 100 - state["left"] == 45 - 14, "what was answered is not asked again"


def test_who_cannot_be_asked_at_all_is_told_at_once(pairs, tmp_path):
    out = tmp_path / "out"
    with ChatServer(key="right") as server:
        with pytest.raises(UserError, match="does not accept the key"):
            filter_manifest(pairs, out, asking(server))
        gone = server.url
    with pytest.raises(UserError, match=r"does not answer, asked 2 times: .*start the server"):
        filter_manifest(pairs, out, lambda: ServerVlm(gone, "pixels", retries=1, back_off=0.005))
    assert not out.exists()
    write_manifest(tmp_path / "none.parquet", [])
    with pytest.raises(UserError, match="has no rows"):
        filter_manifest(tmp_path / "none.parquet", out, lambda: ScriptedVlm(lambda question: "yes"))
    with pytest.raises(UserError, match="number of turns must be from 1"):
        filter_manifest(pairs, out, lambda: ScriptedVlm(lambda question: "yes"), FilterSettings(turns=0))


def test_the_command(pairs, tmp_path, capsys, monkeypatch):
    def said(*arguments: str) -> tuple[int, str, str]:
        code = main(["curate", "filter", str(pairs), "--out", str(tmp_path / "out"), *arguments])
        return code, *capsys.readouterr()

    with ChatServer(key="sesame-4711") as server:
        code, _, error = said("--vlm-url", server.url)
        assert (code, "does not accept the key" in error) == (2, True)
        code, _, error = said("--vlm-url", server.url.removeprefix("http://"))
        assert (code, "does not begin with http://" in error) == (2, True)
        code, _, error = said("--vlm-url", server.url, "--video-thresholds", "9,9")
        assert (code, "thresholds of videos are 4 numbers" in error) == (2, True)
        code, _, error = said()
        assert (code, "Say whom to ask" in error) == (2, True)
        assert not (tmp_path / "out").exists(), "nothing is left behind"

        monkeypatch.setenv("OPENAI_API_KEY", "sesame-4711")
        code, _, error = said("--vlm-url", server.url, "--turns", "1", "--budget", "7", "--workers", "1")
        assert (code, "budget of 7 questions is spent; 3 are left" in error) == (2, True)
        code, out, _ = said("--vlm-url", server.url, "--turns", "1", "--budget", "8", "--workers", "1")
        assert (code, out.splitlines()[0]) == (0, "5 of 5 pairs scored, 1 kept (20.0 %)")
        assert len(server.questions) == 15
    for file in (tmp_path / "out").rglob("*"):
        assert file.is_dir() or b"sesame" not in file.read_bytes(), "the key is written nowhere"


def test_killed_and_called_again(pairs, tmp_path):
    """SIGKILL in the middle; the second call asks only what was not answered, and the same manifest comes out."""
    out, cache = tmp_path / "out", tmp_path / "answers"
    code = (
        "import sys; from pathlib import Path; from functools import partial;"
        "from opensama.vlm import open_vlm; from opensama.curation.filters import filter_manifest;"
        "url, manifest, out, cache = sys.argv[1:];"
        "filter_manifest(Path(manifest), Path(out), partial(open_vlm, url, cache=Path(cache)), workers=1)"
    )

    def slowly(asked: Asked) -> str:
        time.sleep(0.02 if asked.images else 0)
        return pixel_judge(asked)

    with ChatServer(slowly) as server:
        command = [sys.executable, "-c", code, server.url, str(pairs), str(out), str(cache)]
        process = subprocess.Popen(command)
        while len(server.questions) < 22:
            assert process.poll() is None
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (out / "manifest.parquet").exists()
        filter_manifest(pairs, out, asking(server, cache), workers=1)
        assert 45 <= len(server.questions) <= 46, "at most the one under way is asked again"
        filter_manifest(pairs, tmp_path / "whole", asking(server), workers=3)
    for name in ("manifest.parquet", "refused.parquet"):
        assert list(iter_records(out / name)) == list(iter_records(tmp_path / "whole" / name))


def test_edits_of_footage_are_ranked(tmp_path):
    """An edit before the source itself and before the edit of another clip, from and to another size."""
    footage.record(tmp_path / "source.mp4", footage.shot(7, 12))
    footage.record(tmp_path / "edit.mp4", footage.shot(7, 12, without_front=True))
    footage.record(tmp_path / "other.mp4", footage.shot(4, 12, (128, 128), without_front=True))

    def record(name: str, source: str, target: str) -> Record:
        files = {"source": str(tmp_path / f"{source}.mp4"), "target": str(tmp_path / f"{target}.mp4")}
        return Record(id=name, kind="pair", instruction="Remove what stands in front.", **files)

    records = [
        record("another", "source", "other"),
        record("edit", "source", "edit"),
        record("nothing", "source", "source"),
        record("swapped", "other", "source"),
    ]
    write_manifest(tmp_path / "all.parquet", records)
    with ChatServer() as server:
        filter_manifest(
            tmp_path / "all.parquet", tmp_path / "out", asking(server), FilterSettings(turns=1, frames=4, side=224)
        )
    assert ids(tmp_path / "out/manifest.parquet") == ["edit"]
    scored = {record.id: record.scores for record in iter_records(tmp_path / "out/refused.parquet")}
    assert scored["nothing"]["vlm_instruction"] < 2
    assert scored["another"] != scored["swapped"], "who is the source makes a difference"


def test_the_report_holds_everything_itself(pairs, tmp_path):
    out = tmp_path / "out"
    with ChatServer() as server:
        report = filter_manifest(pairs, out, asking(server), FilterSettings(turns=1))
    page = (out / "report.html").read_text()
    assert page.count('src="data:image/jpeg;base64,') == 5
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page), "nothing is fetched"
    assert page.count('role="img"') == 4
    assert "Make the square red." in page
    assert sum(report.histograms["video"]["motion"]) == 5
    assert json.loads((out / "report.json").read_text())["kept"] == 1


@given(st.lists(st.dictionaries(st.just("a"), st.floats(1, 10), min_size=1), min_size=1, max_size=5))
def test_averages_lie_between(turns):
    values = [turn["a"] for turn in turns]
    assert min(values) - 1e-6 <= rubrics.mean_marks(turns)["a"] <= max(values) + 1e-6
    assert rubrics.missed(rubrics.mean_marks(turns), {"a": 1.0}) == []
    assert rubrics.missed({}, {"a": 1.0}) == ["a"]


def test_refusals_are_no_scores():
    def refuse(question: Question) -> str:
        raise VlmRefused("no")

    with pytest.raises(VlmRefused):
        score_pair(ScriptedVlm(refuse), "video", "x", tuple(SOURCE[:2]), tuple(GOOD[:2]))
