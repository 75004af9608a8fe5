"""The stages of `pairs.py`, one function each: an item in, and what becomes of it.

An item is a clip's record with working keys: `_front` and `_behind` (what the VLM named), `_element`, `_person`,
`_mask` (a file in masks/), `_kind`, `_edit`, `_candidates`. A candidate is what one editor made of the edit: `editor`,
`edited` (a file in edited/), `change`, from "instruction" on `pair` (a record, with paths relative to making/) and
`back`; or the `reason` why it is out, with its `scores` if it had some. The quality filter leaves the best one, and the
item is its pair. Pairs that join from elsewhere have `_public` and pass the stages that make.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

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
from opensama.curation.stage import Drop, GraphItem, StageState, reason_of
from opensama.data.manifest import Record
from opensama.media.frames import eight_bit, resize_frame
from opensama.media.video_io import read_video, write_video
from opensama.values import Video, frames_down
from opensama.vlm import Vlm, VlmQuota

_QUALITY = 92  # of painted clips, near to lossless: they are data


ClipModel = TypeVar("ClipModel", Segmenter, Inpainter)


class ClipSize(NamedTuple):
    """The most frames that are taken of a clip, and the most pixels of their shorter side."""

    frames: int
    short_side: int


def masks_of(state: StageState[object], item: GraphItem) -> Path:
    """The file of the item's masks."""
    return Path(state.folder, "masks", item["_mask"])


def edited_of(state: StageState[object], candidate: GraphItem) -> Path:
    """The file of a candidate's edited clip."""
    return Path(state.folder, "edited", candidate["edited"])


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
    state: StageState[Inpainter],
    item: GraphItem,
    *,
    model: str,
    size: ClipSize,
    margin: float,
    least: float,
    seed: int,
    last: bool,
) -> GraphItem:
    """The item with one more candidate: painted inside the grown mask, the clip's own pixels outside.

    Out is one that failed, or where nothing changed; the `last` editor must leave one.
    """
    if item.get("_public"):
        return item
    clip, whole = read_clip(item, size)
    mask = paintable_mask(load_masks(masks_of(state, item)), item["_kind"], margin)
    name = f"{item['id']} {item['_element']} {item['_kind']}"
    number = int(hashlib.sha256(f"{seed} {name}".encode()).hexdigest()[:8], 16)
    edit = PlannedEdit(**item["_edit"])

    def painted(candidate: GraphItem) -> GraphItem:
        if candidate["editor"] != state.model.name:
            return candidate
        frames = state.model.inpaint(clip, mask, edit.asked if state.model.instructed else edit.caption, number)
        if frames.shape != clip.frames.shape or frames.dtype != np.uint8:
            raise ValueError(f"{state.model.name} gave {frames.dtype} {frames.shape} for {clip.frames.shape}")
        edited = put_together(clip.frames, frames, mask)
        inside, _ = changed(clip.frames, edited, mask)
        if inside < least:
            raise Drop("inpainting: nothing changed")
        out = candidate | {"edited": _file(f"{name} {state.model.name}", "mp4"), "change": round(inside, 2)}
        _write(edited, clip.fps, edited_of(state, out))
        return out

    candidates = [*item.get("_candidates", ()), {"editor": state.model.name}]
    out = item | {"_source": item["target"], "_candidates": each_candidate(candidates, painted, needed=last)}
    if not whole:  # both sides have the same frames at the same size
        out["_source"] = str(Path(state.folder, "edited", _file(f"{item['id']} source {tuple(size)}", "mp4")))
        _write(clip.frames, clip.fps, Path(out["_source"]))
    return out


class CandidatesFailed(RuntimeError):
    """No editor's candidate is left, and one failed in a stage before."""


class Refused(Drop):
    """A pair whose marks are too low."""

    def __init__(self, reason: str, scores: Mapping[str, float]):
        super().__init__(reason)
        self.scores = dict(scores)


def each_candidate(
    candidates: Sequence[GraphItem], change: Callable[[GraphItem], GraphItem], *, needed: bool = True
) -> list[GraphItem]:
    """Candidates changed, one after the other; for whom it does not work keeps the reason, and the others go on.

    Where none is left though one is `needed`: the last Drop; where one failed, now or before, its error, so that the
    item is tried again.
    """
    out: list[GraphItem] = []
    errors: list[Exception] = []
    for candidate in candidates:
        if "reason" not in candidate:
            try:
                candidate = change(candidate)
            except VlmQuota:
                raise
            except Exception as error:
                errors.append(error)
                kept = {"editor": candidate["editor"], "failed": not isinstance(error, Drop)}
                candidate = kept | {"reason": str(error) if isinstance(error, Drop) else reason_of(error)}
                if isinstance(error, Refused):
                    candidate["scores"] = error.scores
        out.append(candidate)
    if needed and all("reason" in candidate for candidate in out):
        before = [CandidatesFailed(candidate["reason"]) for candidate in out if candidate["failed"]]
        raise next((error for error in (*errors, *before) if not isinstance(error, Drop)), errors[-1])
    return out


def paintable_mask(mask: np.ndarray, kind: str, margin: float) -> np.ndarray:
    """Where may be painted: a thing with a rim, its box for something of another shape, all that is not in front."""
    if kind == BACKGROUND:
        return grow(mask, margin / 2)  # over the outline of what is in front, which has the old background in it
    return boxes(grow(mask, margin)) if kind == "replace" else grow(mask, margin)


def instruction(state: StageState[Vlm], item: GraphItem, *, reverse: bool) -> GraphItem:
    """Each candidate as a pair with an instruction for the change that is seen, and as the pair back."""
    if item.get("_public"):
        return item
    worded = partial(_worded, state, item, reverse)
    return item | {"_candidates": each_candidate(item["_candidates"], worded)}


def _worded(state: StageState[Vlm], item: GraphItem, reverse: bool, candidate: GraphItem) -> GraphItem:
    edit = PlannedEdit(**item["_edit"])
    source, edited = read_video(Path(item["_source"])), read_video(edited_of(state, candidate))
    words = word_edit(state.model, source.array(), edited.array(), edit)
    notes = {"element": edit.element, "mask": f"masks/{item['_mask']}", "made_by": candidate["editor"]}
    notes |= {"segmented_by": item["_segmenter"], "named_by": item["_vlm"]}
    there = Record(
        id=f"{item['id']}/{edit.kind}/{_short(edit.element)}",
        kind="pair",
        source=_seen(item["_source"], state.folder),
        target=_seen(str(edited_of(state, candidate)), state.folder),
        width=edited.width,
        height=edited.height,
        frames=edited.frame_count,
        fps=float(edited.fps),
        seconds=float(edited.duration),
        caption=edit.caption,
        instruction=words.instruction,
        task=edit.kind,
        scores=item["scores"] | {"change": candidate["change"]},
        dataset=item["dataset"],
        license=item["license"],
        notes=notes | {"way": "made"},
    )
    if not reverse:
        return candidate | {"pair": there.to_dict()}
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
    return candidate | {"pair": there.to_dict(), "back": back.to_dict()}


# --- what is kept


def instruction_filter(item: GraphItem) -> GraphItem:
    """Instructions that say an edit; our own and those of pairs that join here."""

    def said(pair: GraphItem) -> GraphItem:
        if reason := why_not(pair["instruction"]):
            raise Drop(f"instruction: {reason}")
        return pair

    if "_candidates" not in item:
        return {key: value for key, value in said(item).items() if key != "_public"}
    return item | {"_candidates": each_candidate(item["_candidates"], lambda c: c | {"pair": said(c["pair"])})}


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

    Of several candidates the one with the best mean, the first of equals; what all had is in its notes. What was
    painted badly is no good source either, so only a good pair has a reverse one.
    """
    if "_candidates" not in item:
        return [_judged(state, item, judge)]
    judged = each_candidate(item["_candidates"], lambda c: c | {"pair": _judged(state, c["pair"], judge)})
    best = max((c for c in judged if "reason" not in c), key=lambda c: _mean_mark(_marks(c)))
    pair = best["pair"]
    if len(judged) > 1:
        said = [{name: c[name] for name in ("editor", "reason") if name in c} | _marks(c) for c in judged]
        pair = pair | {"notes": pair["notes"] | {"candidates": json.dumps(said, ensure_ascii=False)}}
    return [pair, best["back"]] if "back" in best else [pair]


def _marks(candidate: GraphItem) -> dict[str, float]:
    """What the judge gave it, where it was asked."""
    scores: Mapping[str, float] = candidate.get("scores") or candidate.get("pair", {}).get("scores", {})
    return {name: value for name, value in scores.items() if name.startswith(SCORE_PREFIX)}


def _mean_mark(marks: Mapping[str, float]) -> float:
    return sum(marks.values()) / len(marks) if marks else 0.0


def reverse_filter(state: StageState[Vlm], item: GraphItem, *, judge: JudgeSettings) -> GraphItem:
    """The same two filters for reverse pairs; the others have passed them."""
    return _judged(state, instruction_filter(item), judge) if item["notes"].get("way") == "back" else item


def _judged(state: StageState[Vlm], item: GraphItem, judge: JudgeSettings) -> GraphItem:
    """The item with its marks. Refused where one is too low. Without turns nothing is asked."""
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
    marks = {SCORE_PREFIX + name: value for name, value in scores.items()}
    missed = [name for name in rubrics.missed(scores, wanted) if name in scores]
    if missed:
        raise Refused(f"quality: {' and '.join(missed)} too low", marks)
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
