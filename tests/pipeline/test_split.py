"""Several edits in one instruction: how they are told apart, made one after the other, limited, kept and recorded."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opensama
from opensama.apps.batch_state import asked_of
from opensama.apps.batch_table import read_batch
from opensama.apps.cli import main
from opensama.apps.edit_settings import EditSettings
from opensama.apps.jobs.limits import JobLimits
from opensama.apps.jobs.words import edits_of, read_wish
from opensama.media.video_io import read_video, write_video
from opensama.media.video_io.edit_record import read_record
from opensama.pipeline.editor import Editor
from opensama.pipeline.enhance import enhanced
from opensama.pipeline.part_store import FolderStore
from opensama.pipeline.split import Splitting
from opensama.pipeline.split_rules import join_edits, split_by_rules
from opensama.pipeline.unfinished import Unfinished
from opensama.values import EditRequest, Progress, SubEdit, UserError, Video
from opensama.vlm import ScriptedVlm
from opensama.world import CONTROL_FAMILIES, EDIT_FAMILIES, plan_edit
from tests.media.making import add_sound

BALL, CAR = "Make the ball blue.", "Remove the green car."
BOTH = "Make the ball blue and remove the green car."


def test_every_instruction_of_the_drawn_world():
    """Those of two edits split into these, all others stay whole: 880 instructions."""
    counts = {family: 200 if family == "two" else 20 for family in (*EDIT_FAMILIES, *CONTROL_FAMILIES)}
    wrong, told = [], 0
    for family, count in counts.items():
        for split in ("train", "test"):
            for number in range(count):
                plan = plan_edit(f"split-{number}", split, family)
                two = tuple(part.instruction for part in plan.parts) if family == "two" else (plan.instruction,)
                told += 1
                if split_by_rules(plan.instruction) != two:
                    wrong.append(plan.instruction)
    assert (told, wrong) == (880, [])


@pytest.mark.parametrize(
    "edits",
    [
        "Remove the ball, | make the sky pink | and add snow.",
        "First, remove the ball, | then paint the car red, | and finally let there be fog",
        "1. Remove the ball. | 2. Add snow. | 3. Make it night.",
        "- remove the ball\n|- add snow",
        "Could you please remove the ball; | also make it look like a winter day, please",
        'Change the sign to "stop, and add snow" | and remove the dog.',
        "Take away the cup and put a star there, | then use green hills as the background.",
        "Add a hat and make it red, | then turn the video into cartoon style.",
        "Remove the ball. The rest stays as it is. | Add a cat on the left. It is black.",
    ],
)
def test_several_edits(edits):
    parts = edits.split("|")
    found = split_by_rules("".join(parts))
    heads = [edit.split()[-2:] for edit in found]
    assert len(found) == len(parts), found
    for part, edit in zip(parts, found, strict=True):
        core = part.strip(" ,;\n").split()[-1].rstrip(".")
        assert core in edit, heads


@pytest.mark.parametrize(
    "instruction",
    [
        "Add a red and blue ball.",
        "replace the cat and the dog with a bird",
        "Add salt and pepper.",
        "Remove the table and place mats.",
        'Let the sign say "mind the gap, then remove your hat and make room".',
        "Swap \u2018rock and add\u2019 with 'roll, paint the town'",
        "Turn it into black and white style.",
        "Put the scene in pencil sketch style, with cut and paste edges.",
        "Add a hat and make it red.",
        "Let the man take the cup and put the hat on.",
        "Make the water and light the same color.",
        "Change the shape and color of the ball.",
        "Remove the ball and keep the rest unchanged, and make sure the cup stays.",
        "Replace the ball with a cup. The cup is white, with a handle. Keep the light.",
        "Two people dance, sing and play the guitar.",
        "Make the ball red and the car blue",
        "Make Tom and Jerry's house a little darker.",
    ],
)
def test_one_edit_comes_out_as_it_is(instruction):
    assert split_by_rules(instruction) == (instruction,)


ONE = st.sampled_from(
    [plan_edit(f"one-{i}", "train", "two").parts[0].instruction for i in range(30)] + ["Add snow.", BALL, CAR]
)


@settings(max_examples=20)
@given(st.lists(ONE, min_size=2, max_size=6), st.sampled_from([" ", "\n", "; ", ", ", " and ", ", then "]))
def test_what_is_joined_splits_into_the_same(edits, between):
    """However it is joined, and as the record joins it."""
    clauses = [edit[:1].lower() + edit[1:].rstrip(".") for edit in edits]
    said = between.join(edits if between.isspace() else clauses)
    assert split_by_rules(said) == tuple(edits)
    assert split_by_rules(join_edits(edits)) == tuple(edits)


def request(video: Video | None = None, said: str = BOTH, **how) -> EditRequest:
    return EditRequest(video or Video.from_frames(np.zeros((2, 32, 48, 3), np.uint8), 25), said, **how)


class TestWhatIsWrong:
    @pytest.mark.parametrize(
        ("said", "regions", "sentence"),
        [
            ("Remove the ball;; add snow.", {}, "Edit 2 of 3 is empty: say what to change, or leave it out."),
            ("1. Add snow\n2.", {}, "Edit 2 of 2 is empty"),
            ("Add snow. " * 20, {}, "asks for 20 edits, and 2 to 10 can be split: say fewer."),
            (BOTH, {3: (0, 0, 8, 8)}, r"a region for edit 3, but the instruction asks for 2: \(1\) Make the ball blue"),
            (BALL, {2: (0, 0, 8, 8)}, "asks for one edit: give its region as `box` or `mask`"),
            (BOTH, {1: (0, 0, 0, 8)}, "The box 0,0,0,8 is empty"),
        ],
    )
    def test_in_the_instruction(self, said, regions, sentence):
        with pytest.raises(UserError, match=sentence):
            Splitting("rules", regions).by_rules(request(said=said))

    @pytest.mark.parametrize(
        ("how", "sentence"),
        [
            ({"how": "rule"}, "There is no split 'rule': choose off, rules, or a server's address"),
            ({"regions": {1: (0, 0, 8, 8)}}, "`regions` is for edits of a split instruction: add `split=rules`"),
            ({"one_pass": True}, "`one_pass` is about the edits of a split instruction"),
        ],
    )
    def test_in_the_settings(self, how, sentence):
        with pytest.raises(UserError, match=sentence):
            Splitting(**how)

    @pytest.mark.parametrize(
        ("values", "sentence"),
        [
            ({"split": "http://127.0.0.1/v1"}, "Split is off or rules here"),
            ({"split": "rules", "regions": "1:/etc/passwd"}, "Regions are boxes here"),
            ({"split": "rules", "regions": ["1:0,0,8,8", "x"]}, "wants N:X,Y,W,H or N:FILE"),
            ({"split": "rules", "regions": ["1:0,0,8,8", "1:0,0,8,9"]}, "two regions for edit 1"),
        ],
    )
    def test_in_a_request_to_the_service(self, values, sentence):
        with pytest.raises(UserError, match=sentence):
            read_wish({"prompt": BOTH} | values, {"small": "tiny"}, JobLimits(), False)

    def test_said_by_the_command_before_anything_is_read(self, capsys):
        assert main(["edit", "none.mp4", BOTH, "--split", "rules", "--region", "3:1,2,3,4"]) == 2
        assert "There is a region for edit 3" in capsys.readouterr().err
        assert main(["edit", "none.mp4", BOTH, "--region", "1:1,2,3,4"]) == 2
        assert "--region is for edits of a split instruction: add --split rules" in capsys.readouterr().err


class TestServer:
    def test_its_edits_are_the_instruction(self):
        asked = []

        def say(question) -> str:
            asked.append(question.text)
            return '{"edits": []}' if len(asked) == 1 else json.dumps({"edits": [f" {BALL}", CAR]})

        found = Splitting(ScriptedVlm(say), {2: (0, 0, 8, 8)}).by_server(request(said="Ball blue, no car"), "sama-14b")
        assert [edit.instruction for edit in found.edits] == [BALL, CAR]
        assert [edit.box for edit in found.edits] == [None, (0, 0, 8, 8)]
        assert (found.original_instruction, split_by_rules(found.instruction)) == ("Ball blue, no car", (BALL, CAR))
        assert "Somebody asks a model that edits videos: Ball blue, no car\n" in asked[0]
        assert "Not like the last time, when the answer holds no list of 1 to 10 edits." in asked[1]

    @pytest.mark.parametrize(
        ("answer", "sentence"),
        [
            ("I would rather not.", "was not split .no JSON|was not split .*: take `split=rules`"),
            (json.dumps({"edits": [BALL, " "]}), "one of the answer's edits says nothing"),
            (json.dumps({"edits": [BALL, "Add a football."]}), "tiny has never been taught the answer's football"),
        ],
    )
    def test_that_fails(self, answer, sentence):
        with pytest.raises(UserError, match=sentence):
            Splitting(ScriptedVlm(lambda question: answer)).by_server(request(), "tiny")

    def test_each_is_rewritten_on_its_own(self):
        """Where `enhance` is asked for, too."""

        def say(question) -> str:
            (wish,) = (line for line in question.text.splitlines() if line.startswith("Somebody wishes"))
            return json.dumps({"prompt": wish.upper()})

        found = enhanced(Splitting("rules", {1: (0, 0, 8, 8)}).by_rules(request()), "sama-14b", ScriptedVlm(say))
        assert [edit.instruction for edit in found.edits] == [f"SOMEBODY WISHES: {one.upper()}" for one in (BALL, CAR)]
        assert (found.edits[0].box, found.original_instruction) == ((0, 0, 8, 8), BOTH)
        assert found.instruction.splitlines() == [edit.instruction for edit in found.edits]

    def test_regions_are_held_to_the_video(self):
        vlm = ScriptedVlm(lambda question: json.dumps({"edits": [BALL, CAR]}))
        with pytest.raises(UserError, match="The box 0,0,99,8 reaches outside the video"):
            Splitting(vlm, {2: (0, 0, 99, 8)}).by_server(request(), "tiny")


@pytest.fixture(scope="module")
def editor(folder) -> Editor:
    return opensama.load(folder, device="cpu")


@pytest.fixture
def clip(picture, tmp_path):
    """17 frames at an uneven pace, with sound."""
    stamps = (*range(9), *range(10, 18))
    video = replace(Video.from_frames(picture(17, 32, 48), 25), timestamps=stamps, duration=Fraction(18, 25))
    write_video(video, tmp_path / "silent.mp4")
    return add_sound(tmp_path / "silent.mp4", tmp_path / "clip.mp4")


class TestChain:
    def test_it_is_one_edit_after_the_other(self, editor, picture):
        """Each over the result of the one before, with its own region, in memory; what is told says which it is."""
        video, told, notes = Video.from_frames(picture(9, 32, 48), 25), list[Progress](), list[str]()
        how = {"seed": 3, "preserve": False}
        boxes = {1: (0, 0, 16, 16), 2: (20, 8, 24, 20)}
        chained = opensama.edit(
            video, BOTH, editor, split="rules", regions=boxes, progress=told.append, notice=notes.append, **how
        )
        assert f"2 edits, one after the other: (1) {BALL} [in the box 0,0,16,16] (2) {CAR}" in notes[-1]
        first = editor.edit(request(video, BALL, box=boxes[1], **how))
        second = editor.edit(request(first, CAR, box=boxes[2], **how))
        assert np.array_equal(chained.array(), second.array())
        assert np.array_equal(chained.chain[0].array(), first.array())
        assert [round(one.changed, 6) for one in chained.chain] == [round(first.changed, 6), round(second.changed, 6)]
        told = [one for one in told if one.edit[1] > 1]  # the source is checked once
        stages = list(dict.fromkeys(one.stage for one in told))
        assert stages == [f"{stage} {n} of 2" for n in (1, 2) for stage in ("Reading", "Editing", "Decoding")]
        assert {one.edit for one in told} == {(0, 2), (1, 2)}
        outside = np.ones((32, 48), bool)
        outside[0:16, 0:16] = outside[8:28, 20:44] = False
        assert np.array_equal(chained.array()[:, outside], video.array()[:, outside])
        assert not np.array_equal(chained.array(), video.array())

    def test_all_in_one_pass_within_all_regions(self, editor, picture):
        video = Video.from_frames(picture(9, 32, 48), 25)
        edits = (SubEdit(BALL, box=(0, 0, 16, 16)), SubEdit(CAR, box=(20, 8, 24, 20)))
        mask = np.zeros((32, 48), bool)
        mask[0:16, 0:16] = mask[8:28, 20:44] = True
        together = editor.edit(request(video, edits=edits, one_pass=True)).array()
        masked = editor.edit(request(video, mask=mask)).array()
        assert np.abs(together.astype(int) - masked).max() <= 1
        assert np.array_equal(together[:, ~mask], video.array()[:, ~mask])
        everywhere = editor.edit(request(video, edits=(edits[0], SubEdit(CAR)), one_pass=True)).array()
        assert np.array_equal(everywhere, editor.edit(request(video)).array())

    def test_killed_at_every_write_it_goes_on(self, editor, picture, tmp_path, monkeypatch):
        asked = request(
            Video.from_frames(picture(9, 32, 48), 25), edits=(SubEdit(BALL), SubEdit(CAR)), steps=2, preserve=False
        )
        whole, write = editor.edit(asked).array(), FolderStore._write
        written, notes = list[tuple[str, str, int]](), list[str]()

        class Killed(Exception):
            pass

        def write_one_and_die(self, kind, start, step, values):
            if died:
                raise Killed
            write(self, kind, start, step, values)
            if kind != "source":
                written.append((self.folder.name[:6], kind, step))
                died.append(True)

        monkeypatch.setattr(FolderStore, "_write", write_one_and_die)
        for _ in range(20):
            died = list[bool]()
            try:
                with Unfinished(tmp_path / "out.mp4", notes.append, worth=0.0) as unfinished:
                    assert np.array_equal(editor.edit(asked, unfinished).array(), whole)
                break
            except Killed:
                pass
        steps = [("velocity", 0), ("state", 1), ("velocity", 1), ("state", 2)]
        assert written == [(where, *step) for where in ("out.mp", "edit-2") for step in steps]  # nothing twice
        assert any(note.startswith("Going on with edit 2 of 2, which was broken off after 1 of 2") for note in notes)
        assert not list(tmp_path.iterdir())

    def test_from_file_to_file(self, folder, clip, tmp_path, capsys):
        """Sound, stamps and frames outside of the span are the source's; what was made is shown, told and recorded."""
        out, told = tmp_path / "out.mp4", tmp_path / "told.json"
        mask = np.zeros((32, 48), np.uint8)
        mask[8:24, 8:40] = 255
        Video.from_frames([np.repeat(mask[..., None], 3, 2)], 1).save(tmp_path / "mask.png")
        how = [
            "--split",
            "rules",
            "--region",
            f"2:{tmp_path / 'mask.png'}",
            "--frames",
            "4:13",
            "--record",
            "instruction",
        ]
        assert main(["edit", str(clip), BOTH, "-o", str(out), "-m", str(folder), *how, "--json", str(told)]) == 0
        said = capsys.readouterr()
        assert f"2 edits, one after the other: (1) {BALL} (2) {CAR} [in a mask of its own]" in said.err
        assert "Editing 2 of 2: 9/9 frames" in said.err
        assert f"2. {CAR} " in said.out
        edits = json.loads(told.read_text())["edits"]
        assert [edit["instruction"] for edit in edits] == [BALL, CAR]
        assert all(0 <= edit["changed"] <= 1 for edit in edits)
        source, edited, record = read_video(clip), read_video(out), read_record(out)
        assert (edited.timestamps, edited.duration) == (source.timestamps, source.duration)
        assert edited.has_audio
        assert record["settings"]["split"] == "rules"
        assert [one["edit"] for one in record["settings"]["regions"]] == [2]
        assert record["instruction"] == BOTH
        assert main(["inspect", str(out), "--repeat", "--model", str(folder)]) == 0
        assert "repeated: every byte is as in" in capsys.readouterr().out
        table = tmp_path / "jobs.jsonl"
        row = {"video": "clip.mp4", "instruction": BOTH, "split": "rules", "regions": ["2:mask.png"], "frames": "4:13"}
        table.write_text(json.dumps(row) + "\n")
        (item,) = read_batch(table, tmp_path / "batch", EditSettings(), str(folder), False)
        assert [edit.mask for edit in item.request.edits] == [None, tmp_path / "mask.png"]
        assert item.sources == [clip, tmp_path / "mask.png"]
        assert asked_of(item, {}, {})["settings"]["regions"] == [[2, str(tmp_path / "mask.png")]]


def test_a_job_of_the_service_has_them_as_steps():
    wish = read_wish({"prompt": BOTH, "split": "rules", "regions": "1:0,0,8,8"}, {"small": "tiny"}, JobLimits(), False)
    asked = json.loads(json.dumps(wish.asked("source.mp4", None, [], [])))
    assert [edit["status"] for edit in edits_of(asked, "queued", "")] == ["queued", "queued"]
    assert edits_of(asked, "in_progress", "Editing 2 of 2") == [
        {"instruction": BALL, "box": [0, 0, 8, 8], "status": "completed"},
        {"instruction": CAR, "box": None, "status": "in_progress"},
    ]
    assert [edit["status"] for edit in edits_of(asked, "in_progress", "Writing result-0.mp4")] == ["completed"] * 2
    assert any(note.startswith("2 edits, one after the other") for note in wish.notes)
    assert edits_of(json.loads(json.dumps(wish.asked("a", None, [], []))) | {"edits": []}, "completed", "") == []
