"""Several editors make candidates of every edit, and the best one is kept."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from opensama.curation import rubrics
from opensama.curation.elements import Clip
from opensama.curation.inpainting import InstructedEditor, Vace, open_inpainter
from opensama.curation.oracles import WorldInpainter, WorldVlm, exact_edits, scene_of
from opensama.values import UserError
from opensama.vlm import Question, ScriptedVlm
from tests.curation.test_pairs import SETTINGS, Fixed, clips, make, records, smeared
from tests.pipeline.conftest import bernini, bernini_folder

__all__ = ["bernini", "bernini_folder", "clips"]


def one_of(clips: Path, folder: Path) -> Path:
    (folder / "clips").mkdir()
    shutil.copy(clips / "world-0001.mp4", folder / "clips")
    return folder / "clips"


def broken(clip: Clip, masks: np.ndarray, words: str) -> np.ndarray:
    raise RuntimeError("out of paint")


def test_of_several_candidates_the_best_is_kept_and_the_record_says_what_all_were(clips: Path, tmp_path: Path) -> None:
    told: list[str] = []

    def idle(clip: Clip, masks: np.ndarray, words: str) -> np.ndarray:
        told.append(words)
        return clip.frames

    settings = replace(SETTINGS, kinds=("remove",))
    clips = one_of(clips, tmp_path)
    several = [Fixed(smeared, "hazy"), Fixed(broken, "broken"), Fixed(idle, "idle", True), WorldInpainter()]
    report = make(clips, tmp_path / "a", inpainters=several, settings=settings)
    found = {record.id: record for record in records(tmp_path / "a")}
    assert report.graph.failed == 0
    assert {record.notes["way"] for record in found.values()} == {"made", "back"}
    for record in found.values():
        assert record.notes["made_by"] == "world"
        if record.notes["way"] == "made":
            change = exact_edits(scene_of(Path(str(record.source))))
            assert record.instruction in {edit.instruction for edit in change if edit.kind == "remove"}
            hazy, *others, best = json.loads(record.notes["candidates"])
            assert hazy["editor"] == "hazy"
            assert hazy["reason"].startswith(("quality: ", "instruction: "))
            assert hazy.get("vlm_instruction", 0) < 8
            assert others == [
                {"editor": "broken", "reason": "RuntimeError: out of paint"},
                {"editor": "idle", "reason": "inpainting: nothing changed"},
            ]
            marks = {key: value for key, value in record.scores.items() if key.startswith("vlm_")}
            assert best == {"editor": "world"} | marks
    assert {words.rstrip(".").removeprefix("Remove the ") for words in told} >= {
        record.notes["element"] for record in found.values()
    }

    def never(clip: Clip, masks: np.ndarray, words: str) -> np.ndarray:
        raise AssertionError("what is done is not made again")

    again = [Fixed(never, "hazy"), Fixed(never, "broken"), Fixed(never, "idle", True), WorldInpainter()]
    make(clips, tmp_path / "a", inpainters=again, settings=settings)
    assert {record.id: record for record in records(tmp_path / "a")} == found


def test_an_edit_that_every_editor_failed_at_is_tried_again(clips: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, kinds=("background",))
    several = [Fixed(broken, "one"), Fixed(lambda clip, masks, words: clip.frames, "other")]
    report = make(clips, tmp_path, inpainters=several, settings=settings)
    assert report.graph.failed > 0 == report.graph.records
    (failure, *_) = map(json.loads, (tmp_path / "making/failed.jsonl").read_text().splitlines())
    assert failure["error"] == {
        "stage": "inpainting by other",
        "reason": "CandidatesFailed: RuntimeError: out of paint",
    }
    several[0]._function = WorldInpainter().inpaint
    assert make(clips, tmp_path, inpainters=several, settings=settings).graph.records > 0


def test_an_editor_is_told_from_vace_by_its_name() -> None:
    assert isinstance(open_inpainter("sama-14b"), InstructedEditor)
    assert isinstance(open_inpainter("someone/vace"), Vace)
    with pytest.raises(UserError, match=r"did you mean 'bernini-1\.3b'"):
        open_inpainter("bernini-1.3")
    with pytest.raises(UserError, match="offload"):
        open_inpainter("tiny", offload="moon")


def test_editors_of_different_families_make_candidates(bernini_folder: Path, clips: Path, tmp_path: Path) -> None:
    """The embedded SAMA and a random Bernini; the judge likes what differs less from the source."""
    asked = []

    def answer(question: Question) -> str:
        if "Say what could be edited" in question.text:
            return WorldVlm(clips).ask(question)
        if "before" in question.text:
            return json.dumps({"new": "", "before": "a ball", "caption": "an empty table"})
        if question.system != rubrics.SYSTEM:
            return json.dumps({"instruction": "Remove the thing.", "reverse": "Add the thing."})
        half = len(question.images) // 2
        one, two = (np.stack(part).astype(int) for part in (question.images[:half], question.images[half:]))
        asked.append(float(np.abs(one - two).mean()))
        names = re.findall(r'"(\w+)": <mark>', question.text)
        return json.dumps({"reason": "so"} | dict.fromkeys(names, round(10 - asked[-1] / 50, 3)))

    editors = [open_inpainter(str(bernini_folder), "cpu"), open_inpainter("tiny", "cpu")]
    settings = replace(SETTINGS, kinds=("remove",), elements=1, thresholds={}, least=0.0)
    vlm = partial(ScriptedVlm, answer)
    make(one_of(clips, tmp_path), tmp_path / "out", vlm=vlm, inpainters=editors, settings=settings)
    pairs = [record for record in records(tmp_path / "out") if record.notes["way"] == "made"]
    assert len(pairs) == 1
    said = {one.pop("editor"): one for one in json.loads(pairs[0].notes["candidates"])}
    assert said.keys() == {str(bernini_folder), "tiny"}
    best = max(said, key=lambda name: sum(said[name].values()))
    assert pairs[0].notes["made_by"] == best
    assert said[best] == {key: value for key, value in pairs[0].scores.items() if key.startswith("vlm_")}
    assert len(set(asked)) > 1, "the two were shown"
