"""What a model says about a clip is checked before it is believed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given

from opensama.curation.edit_questions import (
    check_elements,
    clean_name,
    frames_to_show,
    name_elements,
    plan_element_edit,
    word_edit,
)
from opensama.curation.elements import EDIT_KINDS, Clip, PlannedEdit
from opensama.curation.stage import Drop
from opensama.values import UserError
from opensama.vlm import BadAnswer, Question, ScriptedVlm, VlmQuota
from tests.any_text import any_text

CLIP = Clip(Path("a.mp4"), np.arange(9 * 20 * 30 * 3, dtype=np.uint64).reshape(9, 20, 30, 3).astype(np.uint8), 8.0)


def says(answer: object) -> ScriptedVlm:
    return ScriptedVlm(lambda question: answer if isinstance(answer, str) else json.dumps(answer))


def test_elements_have_clean_names_each_once() -> None:
    answer = {
        "foreground": [
            {"name": "The man in a red coat.", "person": True},
            {"name": "a Dog"},
            {"name": "dog", "person": "no"},
            {"name": "background"},
            {"name": "..."},
            {"name": "x" * 61},
        ],
        "background": ["A wall", "sky", "sky", 3],
    }
    found = name_elements(says(answer), CLIP)
    assert [(e.name, e.person) for e in found.foreground] == [("man in a red coat", True), ("dog", False)]
    assert found.background == ("wall", "sky")


@pytest.mark.parametrize(
    "answer", ["no json", {"foreground": "dog"}, {"foreground": ["dog"]}, {"foreground": [{}]}, {}]
)
def test_an_answer_of_another_shape_is_no_answer(answer: object) -> None:
    with pytest.raises(BadAnswer):
        name_elements(says(answer), CLIP)


def test_a_clip_with_nothing_in_front_leaves() -> None:
    with pytest.raises(Drop, match="nothing in the foreground"):
        name_elements(says({"foreground": [], "background": ["title"]}), CLIP)
    assert len(check_elements({"foreground": [{"name": f"cup {n}"} for n in range(20)]}, most=5).foreground) == 5


@given(any_text(80))
@example("The a. dog")
def test_a_name_never_ends_a_phrase_of_the_detector(name: str) -> None:
    clean = clean_name(name)
    assert "." not in clean
    assert clean == clean_name(clean)
    assert clean == clean.strip()


@pytest.mark.parametrize("kind", EDIT_KINDS)
def test_a_plan_asks_for_its_kind_and_shows_the_clip(kind: str) -> None:
    asked: list[Question] = []

    def answer(question: Question) -> str:
        asked.append(question)
        return json.dumps({"new": "a cat.", "before": "A dog.", "caption": " A cat\n sits. "})

    edit = plan_element_edit(ScriptedVlm(answer), CLIP, "brown dog", kind)
    assert edit == PlannedEdit(kind, "brown dog", "" if kind == "remove" else "a cat", "A cat sits.", "A dog.")
    assert "brown dog" in asked[0].text
    assert len(asked[0].images) == 6
    assert np.array_equal(asked[0].images[0], CLIP.frames[0])
    assert np.array_equal(asked[0].images[-1], CLIP.frames[-1])


def test_a_plan_that_leaves_things_open_is_no_plan() -> None:
    with pytest.raises(BadAnswer, match="open"):
        plan_element_edit(says({"new": "", "caption": "A cat."}), CLIP, "dog", "replace")
    with pytest.raises(BadAnswer, match="caption is no text"):
        plan_element_edit(says({"new": "x", "caption": 3}), CLIP, "dog", "replace")
    with pytest.raises(Drop, match="nothing to recolor"):
        plan_element_edit(says({"new": "", "caption": ""}), CLIP, "dog", "recolor")
    assert plan_element_edit(says({"new": "", "caption": "A wall."}), CLIP, "dog", "remove").caption == "A wall."


def test_a_change_that_is_not_seen_gets_no_words() -> None:
    edit = PlannedEdit("remove", "dog", "", "A wall.")
    words = word_edit(says({"instruction": "Remove the dog.", "reverse": "Add a dog."}), CLIP.frames, CLIP.frames, edit)
    assert (words.instruction, words.reverse) == ("Remove the dog.", "Add a dog.")
    for one, two in (("", ""), ("Remove the dog.", "")):
        with pytest.raises(Drop, match="not to be seen"):
            word_edit(says({"instruction": one, "reverse": two}), CLIP.frames, CLIP.frames, edit)


def test_a_wrong_key_ends_the_run_and_is_no_clips_fault() -> None:
    def refuses(question: Question) -> str:
        raise UserError("The key is wrong; give another.")

    with pytest.raises(VlmQuota, match="key is wrong"):
        name_elements(ScriptedVlm(refuses), CLIP)


def test_large_frames_are_shown_small() -> None:
    images = frames_to_show(np.zeros((30, 300, 2 * 448, 3), np.uint8), 4)
    assert [image.shape for image in images] == [(150, 448, 3)] * 4
