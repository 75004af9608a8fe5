"""Judges over a real server on this machine: what they are shown, and how their replies are read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opensama.evaluation import rubrics
from opensama.evaluation.benchmarks import editverse, ive, reco, vie
from opensama.evaluation.benchmarks.openve import openve_rubric
from opensama.evaluation.benchmarks.reco import RECO_GROUPS
from opensama.evaluation.benchmarks.registry import BENCHMARKS, read_benchmark
from opensama.evaluation.items import BenchmarkItem
from opensama.evaluation.judge import Judged, RecordedJudge, VlmJudge, questions
from opensama.evaluation.protocols import with_rubrics
from opensama.values import UserError
from opensama.vlm import BadAnswer, Question, ScriptedVlm, Vlm, VlmQuota, VlmRefused, open_vlm
from tests.curation.server import Asked, ChatServer
from tests.evaluation.benchmarks import MAKERS, clip, darker, make_reco, save
from tests.evaluation.gemini_server import GeminiServer
from tests.evaluation.marking import marker

PROTOCOLS = {protocol.name: (name, protocol) for name, b in BENCHMARKS.items() for protocol in b.protocols}
FRAMES = {"reco": 5, "editverse": 10}


def first(name: str, folder: Path) -> BenchmarkItem:
    return read_benchmark(name, MAKERS[name](folder)).items[0]


def judge_item(vlm: Vlm, name: str, item: BenchmarkItem, edited: Path, passes: int = 1) -> Judged:
    return VlmJudge(vlm, PROTOCOLS[name][1], passes).judge(item, edited)


def edit(folder: Path, name: str, share: float) -> Path:
    return save(darker(clip(0, frames=FRAMES.get(name, 6)), share), folder / f"edit-{share}.mp4")


def says(text: str | Callable[[Question], str]) -> Vlm:
    return ScriptedVlm(text if callable(text) else lambda question: text)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_more_change_gets_more_from_a_judge_that_looks(name: str, tmp_path: Path) -> None:
    benchmark, _ = PROTOCOLS[name]
    item = first(benchmark, tmp_path / "data")
    with ChatServer(marker) as server:
        vlm = open_vlm(server.url, "pixels")
        found = [judge_item(vlm, name, item, edit(tmp_path, benchmark, share)) for share in (0.1, 0.45, 0.9)]
    marks = [judged.scores[BENCHMARKS[benchmark].aggregation.headline] for judged in found if judged.scores]
    assert len(marks) == 3
    assert marks[0] < marks[1] < marks[2]
    assert all(judged.state == "scored" and judged.failure is None and judged.replies for judged in found)


def test_gemini_style_server_judges_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "k")
    item, edited = first("vie", tmp_path / "data"), edit(tmp_path, "vie", 0.5)
    with ChatServer(marker) as chat, GeminiServer(marker) as gemini:
        both = [
            judge_item(open_vlm(url, name), "vie", item, edited).scores
            for url, name in ((chat.url, "pixels"), (gemini.url, "gemini-test"))
        ]
    assert both[0] == both[1] is not None


def test_vie_sees_the_source_first_and_the_reference_before(tmp_path: Path) -> None:
    item = first("vie", tmp_path / "data")
    image = save(np.full((1, 32, 48, 3), 250, np.uint8), tmp_path / "reference.mp4")
    with_image = BenchmarkItem(item.id, "ref-add", item.instruction, item.source, notes={"reference_image": str(image)})
    seen: list[Asked] = []

    def watch(asked: Asked) -> str:
        seen.append(asked)
        return marker(asked)

    with ChatServer(watch) as server:
        judged = judge_item(open_vlm(server.url, "pixels"), "vie", with_image, edit(tmp_path, "vie", 0.5))
    reference, before, after = seen[0].groups
    assert reference[0].mean() > 240
    assert len(before) == len(after) == 6
    assert np.mean(before) > 1.5 * np.mean(after)
    assert judged.scores is not None
    assert set(judged.scores) == {"instruct", "preservation", "quality", "similarity", "mean"}


def test_reco_sees_eleven_pairs_side_by_side(tmp_path: Path) -> None:
    item = read_benchmark("reco", make_reco(tmp_path / "data", frames=21)).items[0]
    edited = save(darker(clip(0, frames=21), 0.5), tmp_path / "edit.mp4")
    ((rubric, question),) = questions(PROTOCOLS["reco"][1], item, edited)
    assert len(question.images) == 11  # 0, 2, ..., 20 of 21
    assert all(min(image.shape[:2]) >= 512 for image in question.images)
    left, right = np.split(question.images[0].astype(float), 2, axis=1)
    assert left.mean() > 1.5 * right.mean()
    assert question.text.endswith(item.instruction)


def test_reco_takes_equal_lengths_only_and_gives_a_copy_nothing(tmp_path: Path) -> None:
    item, silent = first("reco", tmp_path / "data"), says("never asked")
    short = save(clip(0, frames=20), tmp_path / "short.mp4")
    judged = judge_item(silent, "reco", item, short)
    assert judged.state == "missing"
    assert "20 frames" in (judged.failure or "")
    assert item.source is not None
    copied = judge_item(silent, "reco", item, item.source)
    assert copied.scores is not None
    assert set(copied.scores.values()) == {0.0}
    assert {"SA", "S_EA", "S"} <= copied.scores.keys()


def test_editverse_pairs_frames_of_the_shorter_clip(tmp_path: Path) -> None:
    item = first("editverse", tmp_path / "data")
    longer = save(darker(clip(0, frames=24), 0.5), tmp_path / "longer.mp4")
    asked = list(questions(PROTOCOLS["editverse"][1], item, longer))
    assert len(asked) == 4  # 0, 3, 6, 9 of ten
    said = iter([3, 2, 1, 0])

    def reply(question: Question) -> str:
        mark = next(said)
        return json.dumps({"prompt following": mark, "edit quality": mark, "background consistency": mark})

    judged = judge_item(says(reply), "editverse", item, longer)
    assert judged.scores == {"following": 1.5, "quality": 1.5, "background": 1.5, "total": 4.5}


def test_passes_are_averaged_and_their_spread_told(tmp_path: Path) -> None:
    item, edited = first("openve", tmp_path / "data"), edit(tmp_path, "openve", 0.5)

    def reply(question: Question) -> str:
        mark = {0: 2, 1000: 3, 2000: 4}[question.turn]
        return f"Instruction Compliance: {mark}\nConsistency & Detail Fidelity: 3\nVisual Quality & Stability: 3/5"

    judged = judge_item(says(reply), "openve", item, edited, passes=3)
    assert judged.scores == {"compliance": 3, "second": 3, "third": 3, "mean": 3}
    assert judged.spread["compliance"] == pytest.approx(1)
    assert judged.spread["second"] == 0
    assert [reply.turn for reply in judged.replies] == [0, 1, 2]


def test_unreadable_replies_are_asked_for_again_then_left_out_or_zero(tmp_path: Path) -> None:
    answers = iter(["nonsense", "[9] out of range", "[4] fine", "[2] fine"])
    item = first("ive", tmp_path / "ive")
    judged = judge_item(says(lambda q: next(answers)), "ive", item, edit(tmp_path, "ive", 0.5))
    assert judged.scores == {"instruction_satisfaction": 4, "content_fidelity": 2}
    assert "2 of 4 replies" in (judged.failure or "")
    assert [reply.marks is None for reply in judged.replies] == [True, True, False, False]

    asked: list[Question] = []

    def refuses(question: Question) -> str:
        asked.append(question)
        raise VlmRefused("no")

    failed = judge_item(says(refuses), "vie", first("vie", tmp_path / "vie"), edit(tmp_path, "vie", 0.5))
    assert (failed.state, failed.scores, failed.failure) == ("failed", None, "no")
    assert len({question.turn for question in asked}) == PROTOCOLS["vie"][1].replies.tries == 3


def test_a_failed_pass_is_zero_in_reco(tmp_path: Path) -> None:
    good = {name: {"scores": [8, 8, 8]} for name in RECO_GROUPS}
    judged = judge_item(
        says(lambda q: json.dumps(good) if q.turn < 1000 else "broken"),
        "reco",
        first("reco", tmp_path / "data"),
        edit(tmp_path, "reco", 0.5),
        passes=2,
    )
    assert judged.scores is not None
    assert judged.scores["S"] == pytest.approx(4)


def test_the_end_of_the_budget_ends_it(tmp_path: Path) -> None:
    item, edited = first("vie", tmp_path / "data"), edit(tmp_path, "vie", 0.5)
    with ChatServer(marker) as server:
        vlm = open_vlm(server.url, "pixels", budget=0)
        with pytest.raises(VlmQuota):
            judge_item(vlm, "vie", item, edited)


def test_a_broken_file_is_missing(tmp_path: Path) -> None:
    item, broken = first("vie", tmp_path / "data"), tmp_path / "broken.mp4"
    broken.write_bytes(b"nothing")
    judged: Judged = judge_item(says("x"), "vie", item, broken)
    assert (judged.state, judged.scores) == ("missing", None)


def test_recorded_replies(tmp_path: Path) -> None:
    item, edited = first("vie", tmp_path / "data"), edit(tmp_path, "vie", 0.5)
    good = json.dumps({"instruct follow score (1-10)": 8, "quality score": "7", "Preservation score (1-10)": 9})
    lines = [{"item": item.id, "reply": good}, {"item": item.id, "pass": 1, "reply": "?"}]
    path = tmp_path / "replies.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    judged = RecordedJudge(path, PROTOCOLS["vie"][1], 3).judge(item, edited)
    assert judged.scores == {"instruct": 8, "preservation": 9, "quality": 7, "mean": 8}
    path.write_text("{}\n")
    with pytest.raises(UserError, match="item"):
        RecordedJudge(path, PROTOCOLS["vie"][1])


# --- rubrics


def test_a_persons_text_takes_the_place_of_ours(tmp_path: Path) -> None:
    item = first("openve", tmp_path / "data")
    (tmp_path / "own").mkdir()
    (tmp_path / "own/global_style.txt").write_text("STYLE {edit_prompt} <image>")
    (tmp_path / "own/default.txt").write_text("OTHER")
    protocol = with_rubrics(PROTOCOLS["openve-long"][1], tmp_path / "own")
    assert protocol.rubrics(item)[0].filled("Do it.") == "STYLE Do it. (image)"
    other = BenchmarkItem("x", "local_add", "Add {it}.", None)
    assert protocol.rubrics(other)[0].filled(other.instruction) == "OTHER\n\nInstruction: Add {it}."
    assert protocol.digest(item) != PROTOCOLS["openve-long"][1].digest(item)
    (tmp_path / "one.txt").write_text("x")
    with pytest.raises(UserError, match=r"ive-instruction\.txt"):
        with_rubrics(PROTOCOLS["ive"][1], tmp_path / "one.txt").rubrics(item)


ALL = [vie.VIE, vie.VIE_REFERENCE, reco.RECO, reco.RECO_STYLE, *ive.IVE, editverse.EDITVERSE]
ALL += [openve_rubric(kind, long) for kind in ("global_style", "local_add", "subtitle_edit") for long in (True, False)]
TRICKY = 'Say "{x}" in <image> at 5: 3, {instruction} [2]'


@pytest.mark.parametrize("rubric", ALL, ids=lambda rubric: rubric.name)
def test_rubrics_show_the_instruction_once_and_leave_no_slot(rubric: rubrics.ScoringRubric) -> None:
    filled = rubric.filled(TRICKY)
    assert filled.count('Say "{x}" in (image) at 5: 3, {instruction} [2]') == 1
    assert "<image>" not in filled
    assert "{instruction}" not in rubric.filled("Do it.")
    assert "{{" not in filled


@given(
    st.lists(st.integers(1, 5), min_size=3, max_size=3),
    st.sampled_from(["{}: {}", "**{}**: {}/5", "- {} = {}", "2. {}: {}."]),
)
def test_lines_are_read_in_many_dresses(marks: list[int], dress: str) -> None:
    rubric = openve_rubric("local_add", long=True)
    text = "The hat: it is red.\n"
    text += "\n".join(dress.format(mark.label, value) for mark, value in zip(rubric.marks, marks, strict=True))
    assert list(rubric.read(text).values()) == marks


@pytest.mark.parametrize(
    "text",
    ["", "fine", "[0]", "[6] no", "4\ufffd\x0b", "{}", '{"instruct follow": 3}', "score: many"],
    ids=lambda text: text or "none",
)
def test_what_is_no_mark_is_none(text: str) -> None:
    for rubric in ALL:
        with pytest.raises(BadAnswer):
            rubric.read(text)


def test_thoughts_are_not_marks() -> None:
    assert ive.IVE[0].read("<think>perhaps [1]</think>[4] good") == {"instruction_satisfaction": 4}


def test_reco_reads_the_first_object_among_words() -> None:
    marks = {name: {"scores": [1, 2, 3], "reasoning": "a } b"[:1]} for name in RECO_GROUPS}
    read = reco.RECO.read(f"Here: {json.dumps(marks)} and {{}}")
    assert (read["SA"], read["SP"], read["CP"], read["ES"]) == (1, 2, 3, 3)
