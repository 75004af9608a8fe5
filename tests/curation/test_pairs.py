"""The graph that makes editing pairs: on the drawn world it gives the exact answers, and what goes wrong is told."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest

from opensama.curation import oracles, pair_stages
from opensama.curation.elements import Clip
from opensama.curation.inpainting import Vace, open_inpainter
from opensama.curation.masks import MaskRules, load_masks
from opensama.curation.oracles import WorldInpainter, WorldSegmenter, WorldVlm, draw_clip, exact_edits, scene_of
from opensama.curation.pairs import PairSettings, PairsReport, clip_items, make_pairs
from opensama.curation.segmentation import GroundedSam, open_segmenter
from opensama.curation.stage import Drop, GraphStage, StageState
from opensama.data.manifest import Record, iter_records, write_manifest
from opensama.media.video_io import read_video, write_video
from opensama.values import UserError, Video
from opensama.vlm import Question, ScriptedVlm, VlmQuota
from opensama.world import StyledScene, plan_edit
from tests.curation import tiny_models

SETTINGS = PairSettings(each=3, elements=4, balance=0)
SIZE = (5, 80, 80)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "clips"
    oracles.write_clips(folder, 2, frames=SIZE[0], size=SIZE[1:])
    return folder


@pytest.fixture(scope="module")
def long_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "clips"
    oracles.write_clips(folder, 2, frames=9, size=SIZE[1:])
    return folder


def make(clips: Path, out: Path, **changed) -> PairsReport:
    options = {"segmenter": WorldSegmenter(), "inpainters": [WorldInpainter()], "settings": SETTINGS} | changed
    vlm = options.pop("vlm", partial(WorldVlm, clips))
    return make_pairs(clips, out, vlm, **options)


@pytest.fixture(scope="module")
def made(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PairsReport]:
    out = tmp_path_factory.mktemp("made")
    return out, make(clips, out)


def records(out: Path) -> list[Record]:
    return list(iter_records(out / "manifest.parquet"))


def reasons(report: PairsReport) -> Counter[str]:
    return sum((Counter(stage.dropped) for stage in report.graph.stages), Counter())


@cache
def drawn(look: StyledScene) -> np.ndarray:
    return draw_clip(look, *SIZE)


def frames(path: Path) -> np.ndarray:
    return read_video(path).array()


def likeness(one: np.ndarray, two: np.ndarray) -> float:
    """Peak signal to noise of the brightness, in decibels: files keep colours at half the size."""
    away = (one.astype(np.float64) - two) @ np.array([0.299, 0.587, 0.114])
    return float(10 * np.log10(255**2 / np.mean(away**2)))


# --- what is made is right


def test_every_edited_clip_is_the_exact_answer(made: tuple[Path, PairsReport]) -> None:
    out, report = made
    pairs = [record for record in records(out) if record.notes["way"] == "made"]
    assert {record.task for record in pairs} == {"remove", "replace", "recolor", "background"}
    assert report.graph.failed == 0
    for record in pairs:
        scene = scene_of(Path(str(record.source)))
        (change,) = (c for c in exact_edits(scene) if (c.kind, c.element) == (record.task, record.notes["element"]))
        exact, edited = drawn(change.look), frames(out / record.target)
        assert likeness(edited, exact) > 32, record.instruction
        assert likeness(edited, exact) > likeness(frames(out / str(record.source)), exact) + 4
        nearest = max(exact_edits(scene), key=lambda c: likeness(edited, drawn(c.look)))
        assert nearest == change
        assert (record.instruction, record.caption) == (change.instruction, change.look.caption)
        assert (record.frames, record.height, record.width, record.fps) == (*SIZE, 16)


def test_a_removal_is_what_the_world_itself_says_it_is(made: tuple[Path, PairsReport]) -> None:
    """The world's own plan of the same seed, which knows nothing of this graph."""
    out, _ = made
    seen = 0
    for record in records(out):
        if record.notes["way"] == "made" and record.task == "remove":
            plan = plan_edit(int(Path(str(record.source)).stem.removeprefix("world-")), "train", "remove")
            if plan.edited == record.notes["element"]:
                seen += 1
                assert likeness(frames(out / record.target), draw_clip(plan.target, *SIZE)) > 35
    assert seen


def test_each_edit_comes_with_its_way_back(made: tuple[Path, PairsReport]) -> None:
    out, report = made
    found = {record.id: record for record in records(out)}
    backs = [record for record in found.values() if record.notes["way"] == "back"]
    (last,) = (stage for stage in report.graph.stages if stage.name == "reverse filter")
    assert len(backs) == len(found) / 2 - sum(last.dropped.values()) / 2
    assert len(backs) > 10
    for back in backs:
        record = found[back.id.removesuffix("/back")]
        assert (back.source, back.target) == (record.target, record.source)
        assert back.task == {"remove": "add"}.get(record.task, record.task)
        assert back.instruction != record.instruction
        assert back.caption == StyledScene(scene_of(Path(str(record.source)))).caption
        assert all(value >= 8 for name, value in back.scores.items() if name.startswith("vlm_"))


def test_masks_are_exact_and_kept(made: tuple[Path, PairsReport]) -> None:
    out, _ = made
    for record in records(out):
        if record.task == "remove":
            scene = scene_of(Path(str(record.source)))
            (change,) = (c for c in exact_edits(scene) if (c.kind, c.element) == ("remove", record.notes["element"]))
            before, after = draw_clip(StyledScene(scene), *SIZE), draw_clip(change.look, *SIZE)
            away = np.abs(before.astype(int) - after).max(axis=-1)
            mask = load_masks(out / record.notes["mask"])
            assert mask[away > 6].all()
            assert not mask[away < 5].any()


def test_paths_hold_from_the_folder_of_the_manifest(made: tuple[Path, PairsReport]) -> None:
    out, report = made
    for record in records(out):
        assert (out / record.target).is_file()
        assert (out / str(record.source)).is_file()
    for record in iter_records(out / "making" / "manifest.parquet"):
        assert (out / "making" / record.target).is_file()
    said = json.loads((out / "report.json").read_text())
    assert said["kept"] == report.kept
    assert "quality filter" in report.table()


# --- what goes wrong


def test_a_name_that_is_not_utf_8_fails_alone(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    video = sorted(clips.glob("world-*.mp4"))[0]
    shutil.copy(video, tmp_path / "clips")
    try:
        shutil.copy(video, os.fsencode(tmp_path / "clips") + b"/\xff.mp4")
    except OSError:
        pytest.skip("this disk takes UTF-8 names only")
    settings = replace(SETTINGS, kinds=("remove",))
    report = make(tmp_path / "clips", tmp_path / "out", vlm=partial(WorldVlm, clips), settings=settings)
    assert report.graph.records > 0
    assert report.graph.failed == 1
    (failure,) = map(json.loads, (tmp_path / "out/making/failed.jsonl").read_text().splitlines())
    assert "'clips/\\udcff' is not Unicode: rename the file" in failure["error"]["reason"]


class Fixed:
    """An inpainter that gives what a function of clip, mask and caption says."""

    def __init__(
        self,
        function: Callable[[Clip, np.ndarray, str], np.ndarray],
        name: str = "world of faults",
        instructed: bool = False,
    ):
        self._function, self.name, self.instructed = function, name, instructed

    def load(self) -> None: ...

    def inpaint(self, clip: Clip, masks: np.ndarray, words: str, seed: int = 0) -> np.ndarray:
        return self._function(clip, masks, words)


def test_what_was_not_painted_is_no_pair(clips: Path, tmp_path: Path) -> None:
    report = make(clips, tmp_path, inpainters=[Fixed(lambda clip, masks, caption: clip.frames)])
    assert report.made == {}
    assert reasons(report)["inpainting: nothing changed"] > 5
    assert records(tmp_path) == []


def test_another_change_than_the_caption_says_is_no_pair(clips: Path, tmp_path: Path) -> None:
    def another(clip: Clip, masks: np.ndarray, caption: str) -> np.ndarray:
        (mine,) = (c for c in exact_edits(scene_of(clip.path)) if c.look.caption == caption)
        kind = "recolor" if mine.kind == "remove" else "remove"
        (other,) = (c for c in exact_edits(scene_of(clip.path)) if (c.kind, c.element) == (kind, mine.element))
        return WorldInpainter().inpaint(clip, masks, other.look.caption)

    settings = replace(SETTINGS, kinds=("remove", "recolor"))
    report = make(clips, tmp_path, inpainters=[Fixed(another)], settings=settings)
    assert report.made == {}
    assert reasons(report)["instruction: the change is not to be seen"] > 3


def smeared(clip: Clip, masks: np.ndarray, caption: str) -> np.ndarray:
    right = WorldInpainter().inpaint(clip, masks, caption).astype(np.float32)
    return np.round(0.5 * right + 0.5 * clip.frames).astype(np.uint8)


def test_bad_painting_does_not_pass_the_quality_filter(clips: Path, tmp_path: Path) -> None:
    report = make(clips, tmp_path, inpainters=[Fixed(smeared)])
    assert report.made == {}
    assert sum(count for reason, count in reasons(report).items() if reason.startswith("quality: ")) > 5


class Narrow(WorldSegmenter):
    """Finds another thing under every name."""

    name = "world of mistakes"

    def segment(self, clip, names):
        found = super().segment(clip, names)
        masks = [thing.masks for thing in found]
        return [replace(thing, masks=mask) for thing, mask in zip(found, masks[1:] + masks[:1], strict=True)]


def test_a_mask_of_something_else_makes_no_pair(clips: Path, tmp_path: Path) -> None:
    crowded = [path for path in sorted(clips.iterdir()) if len(scene_of(path).things) > 2]
    assert crowded
    report = make(clips, tmp_path, segmenter=Narrow(), settings=replace(SETTINGS, kinds=("recolor",)))
    wrong = [record for record in records(tmp_path) if len(scene_of(_drawn(record)).things) > 2]
    assert wrong == []
    assert sum(reasons(report).values()) > 2


def _drawn(record: Record) -> Path:
    return Path(str(record.source if record.notes["way"] == "made" else record.target))


def test_names_that_fit_several_things_are_left_alone(clips: Path, tmp_path: Path) -> None:
    class Double(WorldSegmenter):
        def segment(self, clip, names):
            return [replace(thing, ambiguous=1) for thing in super().segment(clip, names)]

    report = make(clips, tmp_path, segmenter=Double(), settings=replace(SETTINGS, kinds=("remove",)))
    assert set(reasons(report)) == {"mask: the name fits several things"}


def test_files_that_cannot_be_used_are_named_and_the_rest_goes_on(clips: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    shutil.copy(clips / "world-0001.mp4", folder)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("no video")
    write_video(Video.from_frames(np.zeros((3, 32, 32, 3), np.uint8), 8), folder / "short.mp4")
    report = make(folder, tmp_path / "out")
    assert report.kept
    failed = [json.loads(line) for line in (tmp_path / "out/making/failed.jsonl").read_text().splitlines()]
    assert {Path(item["target"]).name for item in failed} == {"empty.mp4", "text.mp4"}
    assert all(item["error"]["stage"] == "elements" for item in failed)
    assert reasons(report)["clip: fewer than five frames"] == 1


def test_a_run_whose_quota_is_spent_goes_on_and_ends_the_same(
    clips: Path, tmp_path: Path, made: tuple[Path, PairsReport]
) -> None:
    class Spent(WorldVlm):
        left = 40

        def ask(self, question: Question) -> str:
            if Spent.left == 0:
                raise VlmQuota("The budget of 40 questions is spent.")
            Spent.left -= bool(question.images)
            return super().ask(question)

    first = make(clips, tmp_path, vlm=partial(Spent, clips))
    assert "budget" in first.stopped
    assert first.graph.left
    second = make(clips, tmp_path)
    assert not second.stopped
    assert [record.to_dict() for record in records(tmp_path)] == [record.to_dict() for record in records(made[0])]


def test_a_server_that_is_down_is_said_before_anything_is_made(clips: Path, tmp_path: Path) -> None:
    def down(question: Question) -> str:
        raise UserError("Nobody answers at http://localhost:1/v1; start the server, or mend its address.")

    with pytest.raises(UserError, match="Nobody answers"):
        make(clips, tmp_path / "out", vlm=partial(ScriptedVlm, down))
    assert not (tmp_path / "out").exists()


# --- what comes in


def test_public_pairs_join_before_the_filters(clips: Path, tmp_path: Path, made: tuple[Path, PairsReport]) -> None:
    ours = next(record for record in records(made[0]) if record.task == "recolor" and record.notes["way"] == "made")
    ours = ours.where(made[0])
    good = replace(ours, id="public-1", dataset="public", scores={}, notes={})
    given = [
        good,
        replace(good, id="public-2", instruction="No change."),
        replace(good, id="public-3", instruction="Remove the red car."),
    ]
    write_manifest(tmp_path / "public.parquet", given)
    report = make(
        clips, tmp_path / "out", public=tmp_path / "public.parquet", settings=replace(SETTINGS, kinds=("remove",))
    )
    kept = [record for record in records(tmp_path / "out") if record.dataset == "public"]
    assert [record.id for record in kept] == ["public-1"]
    assert kept[0].scores["vlm_instruction"] == 10
    assert (tmp_path / "out" / kept[0].target).is_file()
    assert reasons(report)["instruction: nothing differs"] == 1
    assert {record.task for record in records(tmp_path / "out") if record.dataset != "public"} == {"remove", "add"}


def test_types_are_balanced(clips: Path, tmp_path: Path, made: tuple[Path, PairsReport]) -> None:
    shutil.copytree(made[0], tmp_path / "out")
    report = make(clips, tmp_path / "out", settings=replace(SETTINGS, balance=1))
    assert report.made == made[1].made
    assert max(report.kept.values()) == sorted(report.made.values())[(len(report.made) - 1) // 2]
    assert report.kept == Counter(record.task for record in records(tmp_path / "out"))


def test_clips_of_a_manifest_are_taken_once_and_only_between_their_times(long_clips: Path, tmp_path: Path) -> None:
    file = str(long_clips / "world-0000.mp4")
    rows = [
        Record("a", "clip", file, target_start=0.125, target_end=0.5),
        Record("b", "pair", file, source=str(long_clips / "world-0001.mp4"), instruction="Zoom in."),
        Record("c", "clip", file, target_start=0.125, target_end=0.5),
    ]
    write_manifest(tmp_path / "clips.jsonl", rows)
    first, second = clip_items(tmp_path / "clips.jsonl")
    assert (first["id"], second["id"], second["kind"]) == ("a", "b", "clip")
    whole = frames(Path(file))
    clip, same = pair_stages.read_clip(first, pair_stages.ClipSize(81, 720))
    assert not same
    assert np.array_equal(clip.frames, whole[2:7])  # six are between the times, 4k+1 of them five
    clip, same = pair_stages.read_clip(second, pair_stages.ClipSize(81, 720))
    assert same
    assert np.array_equal(clip.frames, whole)
    small, same = pair_stages.read_clip(second, pair_stages.ClipSize(81, 48))
    assert not same
    assert small.frames.shape == (9, 48, 48, 3)


def test_a_cut_clip_is_written_beside_its_edit(long_clips: Path, tmp_path: Path) -> None:
    make(long_clips, tmp_path, settings=replace(SETTINGS, frames=5, kinds=("remove",)))
    pairs = records(tmp_path)
    assert pairs
    for record in pairs:
        source, target = read_video(tmp_path / str(record.source)), read_video(tmp_path / record.target)
        assert source.frame_count == target.frame_count == record.frames == 5
        assert (tmp_path / "edited") in (tmp_path / str(record.source)).parents


def test_what_is_wrong_with_a_call_is_said(tmp_path: Path, clips: Path) -> None:
    with pytest.raises(UserError, match="no kind of edit melt"):
        PairSettings(kinds=("melt",))
    with pytest.raises(UserError, match="4k\\+1"):
        PairSettings(frames=80)
    with pytest.raises(UserError, match="from 1 to 1000"):
        PairSettings(balance=0.2)
    with pytest.raises(UserError, match="number of turns"):
        PairSettings(turns=-1)
    with pytest.raises(UserError, match="no folder or manifest"):
        list(clip_items(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="has no videos"):
        list(clip_items(tmp_path))
    with pytest.raises(UserError, match="no clip of the drawn world"):
        scene_of(Path("holiday.mp4"))
    with pytest.raises(UserError, match="has no clips of the drawn world"):
        WorldVlm(tmp_path)
    write_manifest(tmp_path / "clips.jsonl", [Record("a", "clip", str(clips / "world-0000.mp4"))])
    with pytest.raises(UserError, match="each once, not world, world"):
        make(clips, tmp_path / "out", inpainters=[WorldInpainter()] * 2)
    with pytest.raises(UserError, match="has no pairs"):
        make(clips, tmp_path / "out", public=tmp_path / "clips.jsonl")


# --- the world's own models


def test_the_worlds_vlm_judges_by_what_it_is_shown(made: tuple[Path, PairsReport], clips: Path) -> None:
    """Swapping the clips, or another instruction, changes its marks."""
    from opensama.curation.scoring import score_pair
    from opensama.media.frames import frames_for

    out, _ = made
    vlm = WorldVlm(clips)
    record = next(r for r in records(out) if r.task == "recolor" and r.notes["way"] == "made")
    one, two = (frames_for(read_video(out / str(path))) for path in (record.source, record.target))
    right, _ = score_pair(vlm, "video", record.instruction, one, two, turns=1)
    swapped, _ = score_pair(vlm, "video", record.instruction, two, one, turns=1)
    undone, _ = score_pair(vlm, "video", record.instruction, one, one, turns=1)
    other, _ = score_pair(vlm, "video", "Remove the purple elephant.", one, two, turns=1)
    assert right == dict.fromkeys(("instruction", "quality", "preservation", "motion"), 10)
    assert swapped["instruction"] == other["instruction"] == 1
    assert undone["instruction"] <= 2


def test_models_named_world_are_opened() -> None:
    assert isinstance(open_segmenter("world"), WorldSegmenter)
    assert isinstance(open_inpainter("world"), WorldInpainter)


def test_captions_of_a_scene_tell_its_changes_apart() -> None:
    for seed in range(20):
        found = exact_edits(scene_of(Path(f"world-{seed:04d}.mp4")))
        captions = [change.look.caption for change in found]
        assert len(set(captions)) == len(captions)


# --- real classes


def test_a_model_works_for_one_thread_at_a_time_whoever_its_neighbour_is(clips: Path, tmp_path: Path) -> None:
    """Real models keep state between calls, the world's do not."""

    class Busy(WorldInpainter):
        name = "busy"
        now = most = 0

        def inpaint(self, clip, masks, caption, seed=0):
            Busy.now += 1
            Busy.most = max(Busy.most, Busy.now)
            time.sleep(0.02)
            Busy.now -= 1
            return super().inpaint(clip, masks, caption, seed)

    more = tmp_path / "clips"
    oracles.write_clips(more, 6, frames=SIZE[0], size=SIZE[1:])
    settings = replace(SETTINGS, kinds=("remove",), each=1, turns=0)
    report = make(more, tmp_path / "out", inpainters=[Busy()], settings=settings, workers=4)
    assert sum(report.made.values()) > 4
    assert Busy.most == 1


def test_the_real_classes_go_through_the_graph(clips: Path, tmp_path: Path) -> None:
    """Random weights at tiny size: what comes out is nonsense, but whole, and nothing outside the masks changed."""
    segmenter = GroundedSam(
        str(tiny_models.detector(tmp_path / "dino")), str(tiny_models.tracker(tmp_path / "sam")),
        device="cpu", threshold=0.0, edges=(96, 144),
    )  # fmt: skip
    inpainter = Vace(str(tiny_models.inpainter(tmp_path / "vace")), device="cpu", steps=2, area=32 * 32)
    rules = MaskRules(smallest=0, largest=1, presence=0, steadiness=0, border=1, background=0)

    def answer(question: Question) -> str:
        if "Say what could be edited" in question.text:
            return json.dumps({"foreground": [{"name": "red ball"}, {"name": "green box"}], "background": ["table"]})
        if "before" in question.text:
            return json.dumps({"new": "a dog", "before": "a ball", "caption": "a dog on a table"})
        return json.dumps({"instruction": "Change the thing.", "reverse": "Change the thing back."})

    class Sure(GroundedSam):
        """Random weights find as good a box in many places."""

        def segment(self, clip, names):
            return [replace(found, ambiguous=0) for found in super().segment(clip, names)]

    segmenter.__class__ = Sure
    settings = replace(SETTINGS, rules=rules, turns=0, each=1, least=0.0)
    report = make(
        clips,
        tmp_path / "out",
        vlm=partial(ScriptedVlm, answer),
        segmenter=segmenter,
        inpainters=[inpainter],
        settings=settings,
    )
    pairs = [record for record in records(tmp_path / "out") if record.notes["way"] == "made"]
    assert (tmp_path / "out/making/failed.jsonl").read_text() == ""
    assert pairs, report.table()
    for record in pairs:
        source, target = frames(tmp_path / "out" / str(record.source)), frames(tmp_path / "out" / record.target)
        mask = pair_stages.paintable_mask(
            load_masks(tmp_path / "out" / record.notes["mask"]), record.task, settings.margin
        )
        assert target.shape == source.shape
        if not mask.all():
            away = np.abs(source.astype(int) - target)
            assert away[~mask].mean() < 0.5 * away[mask].mean()  # the codec's share


def test_every_stage_travels_to_another_process(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Ray's workers get it; that both runners then agree is in test_graph.py and test_filters.py."""

    class Seen(Exception):
        pass

    def travel(stages: list[GraphStage], *_: object, **__: object) -> None:
        assert [stage.name for stage in pickle.loads(pickle.dumps(stages))][-2:] == ["quality filter", "reverse filter"]
        raise Seen

    monkeypatch.setattr("opensama.curation.pairs.run_graph", travel)
    with pytest.raises(Seen):
        make(clips, tmp_path)


def test_found_things_may_be_absent(clips: Path) -> None:
    clip = Clip(clips / "world-0000.mp4", frames(clips / "world-0000.mp4"), 16)
    assert WorldSegmenter().segment(clip, ["purple elephant"]) == []
    with pytest.raises(ValueError, match="no picture of"):
        WorldInpainter().inpaint(clip, np.zeros(SIZE, bool), "A purple elephant.")
    item = next(iter(clip_items(clips))) | {"_front": [{"name": "purple elephant", "person": False}], "_behind": []}
    state, size = StageState(str(clips), WorldSegmenter()), pair_stages.ClipSize(9, 720)
    with pytest.raises(Drop, match="nothing found"):
        pair_stages.segmentation(state, item, model="", kinds=(), elements=1, size=size)
