"""The stages of `pairs.py`, one function each: an item in, and what becomes of it.

An item is a clip's record with working keys: `_front` and `_behind` (what the VLM named), `_element`, `_person`,
`_mask` (a file in masks/), `_kind`, `_edit`, `_edited` (a file in edited/). From "instruction" on it is a pair's
record, with paths relative to making/. Pairs that join from elsewhere have `_public` and pass the stages that make.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from opensama.curation import rubrics
from opensama.curation.edit_questions import name_elements, plan_element_edit, word_edit
from opensama.curation.elements import BACKGROUND, REVERSE_KINDS, Clip, PlannedEdit
from opensama.curation.inpainting import Inpainter
from opensama.curation.instructions import why_not
from opensama.curation.masks import MaskRules, boxes, changed, grow, load_masks, measure_masks, put_together, save_masks
from opensama.curation.scoring import SCORE_PREFIX, pair_frames, score_pair
from opensama.curation.segmentation import Segmenter
from opensama.curation.settings import FilterSettings
from opensama.curation.stage import Drop, GraphItem, StageState
from opensama.data.manifest import Record
from opensama.media.frames import eight_bit, resize_frame
from opensama.media.video_io import read_video, write_video
from opensama.values import Video, frames_down
from opensama.vlm import Vlm

_QUALITY = 92  # of painted clips, near to lossless: they are data


ClipModel = TypeVar("ClipModel", Segmenter, Inpainter)


class ClipSize(NamedTuple):
    """The most frames that are taken of a clip, and the most pixels of their shorter side."""

    frames: int
    short_side: int


def masks_of(state: StageState[Any], item: GraphItem) -> Path:
    """The file of the item's masks."""
    return Path(state.folder, "masks", item["_mask"])


def edited_of(state: StageState[Any], item: GraphItem) -> Path:
    """The file of the item's edited clip."""
    return Path(state.folder, "edited", item["_edited"])


def load_state(out: str, model: ClipModel) -> StageState[ClipModel]:
    """The state with a segmenter or inpainter that is loaded here, in the worker."""
    model.load()
    return StageState(out, model)


# --- what is there


def elements(state: StageState[Vlm], item: GraphItem, *, model: str, size: ClipSize) -> GraphItem:
    """Elements filter: what is in front and behind, in the VLM's words."""
    if item.get("_public"):
        return item
    Record.from_dict(item)  # a name that no manifest can hold is told before anybody is asked
    found = name_elements(state.model, read_clip(item, size)[0])
    front = [{"name": element.name, "person": element.person} for element in found.foreground]
    return item | {"_front": front, "_behind": list(found.background), "_vlm": model}


def segmentation(
    state: StageState[Segmenter], item: GraphItem, *, model: str, size: ClipSize, kinds: Sequence[str], elements: int
) -> list[GraphItem]:
    """An item for each element that is found, the surest first, and one for all that is behind them."""
    if item.get("_public"):
        return [item]
    people = {entry["name"]: entry["person"] for entry in item["_front"]}
    found = state.model.segment(read_clip(item, size)[0], list(people))
    if not found:
        raise Drop("segmentation: nothing found")
    out = []
    same = {key: value for key, value in item.items() if key not in ("_front", "_behind")} | {
        "_segmenter": state.model.name
    }
    if set(kinds) - {BACKGROUND}:
        for thing in sorted(found, key=lambda thing: -thing.score)[:elements]:
            mine = same | {"_element": thing.name, "_person": people[thing.name], "_ambiguous": thing.ambiguous}
            mine["_mask"] = _file(f"{item['id']} {thing.name}", "npz")
            save_masks(masks_of(state, mine), thing.masks)
            out.append(mine | {"scores": item["scores"] | {"detection": round(thing.score, 4)}})
    if BACKGROUND in kinds:
        front = np.any([thing.masks for thing in found], axis=0)
        mine = same | {"_element": ", ".join(thing.name for thing in found), "_person": False, "_ambiguous": 0}
        mine |= {"_background": True, "_mask": _file(f"{item['id']} behind", "npz")}
        save_masks(masks_of(state, mine), ~front)
        out.append(mine)
    return out


def mask_filter(
    state: StageState[None], item: GraphItem, *, rules: MaskRules, kinds: Sequence[str], each: int, seed: int
) -> list[GraphItem]:
    """Masks that will do; each with the kinds of edit that are made of it, drawn by its name."""
    if item.get("_public"):
        return [item]
    mask = load_masks(masks_of(state, item))
    refusal = rules.refusal_of_background(mask) if item.get("_background") else rules.refusal(mask)
    if refusal:
        raise Drop(refusal)
    if item["_ambiguous"]:
        raise Drop("mask: the name fits several things")
    if item.get("_background"):
        possible = [BACKGROUND]
    else:
        possible = [kind for kind in kinds if kind != BACKGROUND and not (item["_person"] and kind == "recolor")]
        random.Random(f"{seed} {item['id']} {item['_element']}").shuffle(possible)
    if not possible:
        raise Drop("mask: no kind of edit for it")
    scores = item["scores"] | {"mask_area": round(measure_masks(mask).area, 4)}
    return [item | {"_kind": kind, "scores": scores} for kind in possible[:each]]


# --- what is made of it


def caption(state: StageState[Vlm], item: GraphItem, *, model: str, size: ClipSize) -> GraphItem:
    """The clip as it will look, in the VLM's words."""
    if item.get("_public"):
        return item
    edit = plan_element_edit(state.model, read_clip(item, size)[0], item["_element"], item["_kind"])
    return item | {"_edit": edit.to_dict()}


def inpainting(
    state: StageState[Inpainter], item: GraphItem, *, model: str, size: ClipSize, margin: float, least: float, seed: int
) -> GraphItem:
    """The edited clip: painted inside the grown mask, the clip's own pixels outside. Drop where nothing changed."""
    if item.get("_public"):
        return item
    clip, whole = read_clip(item, size)
    mask = paintable_mask(load_masks(masks_of(state, item)), item["_kind"], margin)
    name = f"{item['id']} {item['_element']} {item['_kind']}"
    number = int(hashlib.sha256(f"{seed} {name}".encode()).hexdigest()[:8], 16)
    painted = state.model.inpaint(clip, mask, item["_edit"]["caption"], number)
    if painted.shape != clip.frames.shape or painted.dtype != np.uint8:
        raise ValueError(f"{state.model.name} gave {painted.dtype} {painted.shape} for {clip.frames.shape}")
    edited = put_together(clip.frames, painted, mask)
    inside, _ = changed(clip.frames, edited, mask)
    if inside < least:
        raise Drop("inpainting: nothing changed")
    out = item | {"_edited": _file(name, "mp4"), "_inpainter": state.model.name, "_source": item["target"]}
    _write(edited, clip.fps, edited_of(state, out))
    if not whole:  # both sides have the same frames at the same size
        out["_source"] = str(Path(state.folder, "edited", _file(f"{item['id']} source {tuple(size)}", "mp4")))
        _write(clip.frames, clip.fps, Path(out["_source"]))
    return out | {"scores": item["scores"] | {"change": round(inside, 2)}}


def paintable_mask(mask: np.ndarray, kind: str, margin: float) -> np.ndarray:
    """Where may be painted: a thing with a rim, its box for something of another shape, all that is not in front."""
    if kind == BACKGROUND:
        return grow(mask, margin / 2)  # over the outline of what is in front, which has the old background in it
    return boxes(grow(mask, margin)) if kind == "replace" else grow(mask, margin)


def instruction(state: StageState[Vlm], item: GraphItem, *, reverse: bool) -> GraphItem:
    """The pair with an instruction for the change that is seen; the pair back as `_back`."""
    if item.get("_public"):
        return item
    edit = PlannedEdit(**item["_edit"])
    source, edited = read_video(Path(item["_source"])), read_video(edited_of(state, item))
    words = word_edit(state.model, source.array(), edited.array(), edit)
    notes = {"element": edit.element, "mask": f"masks/{item['_mask']}", "made_by": item["_inpainter"]}
    notes |= {"segmented_by": item["_segmenter"], "named_by": item["_vlm"]}
    there = Record(
        id=f"{item['id']}/{edit.kind}/{_short(edit.element)}",
        kind="pair",
        source=_seen(item["_source"], state.folder),
        target=_seen(str(edited_of(state, item)), state.folder),
        width=edited.width,
        height=edited.height,
        frames=edited.frame_count,
        fps=float(edited.fps),
        seconds=float(edited.duration),
        caption=edit.caption,
        instruction=words.instruction,
        task=edit.kind,
        scores=item["scores"],
        dataset=item["dataset"],
        license=item["license"],
        notes=notes | {"way": "made"},
    )
    if not reverse:
        return there.to_dict()
    assert there.source is not None
    back = replace(
        there,
        id=f"{there.id}/back",
        source=there.target,
        target=there.source,
        caption=edit.before,
        instruction=words.reverse,
        task=REVERSE_KINDS[edit.kind],
        notes=notes | {"way": "back"},
    )
    return there.to_dict() | {"_back": back.to_dict()}


# --- what is kept


def instruction_filter(item: GraphItem) -> GraphItem:
    """Instructions that say an edit; our own and those of pairs that join here."""
    if reason := why_not(item["instruction"]):
        raise Drop(f"instruction: {reason}")
    return {key: value for key, value in item.items() if key != "_public"}


@dataclass(frozen=True)
class JudgeSettings:
    """How pairs are judged: by which model, how often each question is asked (0: not at all), with how many frames of
    each clip, and the least averages of videos."""

    model: str
    turns: int
    frames: int
    thresholds: Mapping[str, float]


def quality_filter(state: StageState[Vlm], item: GraphItem, *, judge: JudgeSettings) -> list[GraphItem]:
    """Pairs whose marks (SAMA's three questions) all reach their thresholds, images' their own; then the reverse pair.

    What was painted badly is no good source either, so only a good pair has a reverse one.
    """
    item = dict(item)
    back = item.pop("_back", None)
    kept = [_judged(state, item, judge)]
    return kept if back is None else [*kept, back]


def reverse_filter(state: StageState[Vlm], item: GraphItem, *, judge: JudgeSettings) -> GraphItem:
    """The same two filters for reverse pairs; the others have passed them."""
    return _judged(state, instruction_filter(item), judge) if item["notes"].get("way") == "back" else item


def _judged(state: StageState[Vlm], item: GraphItem, judge: JudgeSettings) -> GraphItem:
    """The item with its marks. Drop where one is too low. Without turns nothing is asked."""
    if not judge.turns:
        return item
    record = Record.from_dict(item)
    wanted = judge.thresholds if record.media == "video" else rubrics.THRESHOLDS["image"]
    source, edited = pair_frames(record, Path(state.folder, "making"), judge.frames, FilterSettings.side)
    temperature = FilterSettings.temperature if judge.turns > 1 else 0.0
    scores, _ = score_pair(
        state.model, record.media, record.instruction, source, edited,
        turns=judge.turns, temperature=temperature, thresholds=wanted,
    )  # fmt: skip
    missed = [name for name in rubrics.missed(scores, wanted) if name in scores]
    if missed:
        raise Drop(f"quality: {' and '.join(missed)} too low")
    marks = {SCORE_PREFIX + name: value for name, value in scores.items()}
    return item | {"scores": record.scores | marks, "notes": record.notes | {"judge": judge.model}}


# --- clips


def read_clip(item: GraphItem, size: ClipSize) -> tuple[Clip, bool]:
    """A clip's first 4k+1 frames, at most so many and so large; and whether that is the whole file as it is.

    Drop where it has fewer than five.
    """
    path = Path(item["target"])
    video = read_video(path)
    start, stop = video.frame_range(item["target_start"], item["target_end"])
    count = frames_down(min(stop - start, size.frames))
    if count < 5:
        raise Drop("clip: fewer than five frames")
    scale = min(1.0, size.short_side / min(video.height, video.width))
    height, width = round(video.height * scale), round(video.width * scale)
    kept = [resize_frame(eight_bit(frame), height, width) for frame in video.frames(start, start + count)]
    whole = count == video.frame_count and scale == 1 and video.bit_depth == 8 and video.is_constant_rate
    return Clip(path, np.stack(kept), float(video.fps)), whole


def _write(frames: np.ndarray, fps: float, path: Path) -> None:
    write_video(Video.from_frames(frames, fps), path, quality=_QUALITY, overwrite=True, on_note=lambda note: None)


def _seen(path: str, out: str) -> str:
    """A path as a manifest in making/ names it: relative to there for our own files, else whole."""
    inside = Path(path).is_relative_to(out)
    return os.path.relpath(path, Path(out, "making")) if inside else path


def _file(identity: str, ending: str) -> str:
    """A name for a file: readable, safe, and its alone."""
    plain = re.sub(r"[^\w-]+", "-", identity).strip("-")[:60]
    return f"{plain}-{_short(identity)}.{ending}"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
