"""The drawn world as segmenter, inpainter and VLM with exact answers: the whole graph without weights or servers.

    write_clips(Path("clips"), 8)
    opensama curate pairs clips --out pairs --vlm-url world --segmenter world --inpainter world

A clip's name holds the seed of its scene, from which the segmenter draws exact masks and the inpainter what a caption
says, inside the mask it is given and nowhere else. The VLM goes by the frames that it is shown: it finds the clip that
they come from, and the edit that they show, and judges an edit by its distance from the exact answer.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from opensama.curation import masks, rubrics
from opensama.curation.edit_questions import HINT_TEXTS, TASK_TEXTS, WORD_PROMPT
from opensama.curation.elements import Clip, Masklet
from opensama.media import read_video, write_video
from opensama.media.frames import evenly_spaced, resize_frame
from opensama.values import UserError, Video
from opensama.vlm import Question
from opensama.world import BACKGROUNDS, COLORS, PLACES, Scene, StyledScene, Thing, plan_edit, render_styled, to_uint8
from opensama.world.edit_samples import LEAST_DIFFERENCE, changed_mask
from opensama.world.kinds import similar
from opensama.world.scenes import FPS, an
from opensama.world.styled_scenes import Ground, Swap

_SMALL = 64  # side at which pictures are compared


def write_clips(
    folder: Path, count: int, *, first: int = 0, frames: int = 17, size: tuple[int, int] = (128, 128)
) -> list[Path]:
    """Clips of drawn scenes, `world-SEED.mp4`, height and width `size`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"world-{seed:04d}.mp4" for seed in range(first, first + count)]
    for path in paths:
        video = Video.from_frames(draw_clip(StyledScene(scene_of(path)), frames, *size), FPS)
        write_video(video, path, quality=95, overwrite=True, on_note=lambda note: None)
    return paths


def scene_of(path: Path) -> Scene:
    """The scene of such a clip. UserError for another file."""
    found = re.fullmatch(r"world-(\d+)", path.stem)
    if not found:
        raise UserError(f"{path.name} is no clip of the drawn world, which the models named world are for.")
    return plan_edit(int(found[1]), "train", "remove").source.scene


@dataclass(frozen=True)
class ExactEdit:
    """An edit with its exact answer, and the words for it."""

    kind: str
    element: str
    new: str
    look: StyledScene
    instruction: str
    reverse: str


@lru_cache(64)
def exact_edits(scene: Scene) -> tuple[ExactEdit, ...]:
    """What may be made of a scene: each object removed, replaced, recoloured, and another background."""
    rng = random.Random(repr(scene))
    source, out = StyledScene(scene), []
    for thing in scene.things:
        the, place = f"the {thing.name}", _place(thing)
        gone = Swap(thing, None).on(source)
        out.append(ExactEdit("remove", thing.name, "", gone, f"Remove {the}.", f"Add {an(thing.full_name)} {place}."))
        color = rng.choice([c for c in COLORS if not any(t.kind == thing.kind and t.color == c for t in scene.things)])
        other = replace(thing, color=color)
        look = Swap(thing, other).on(source)
        out.append(
            ExactEdit(
                "recolor", thing.name, color, look, f"Make {the} {color}.", f"Make the {other.name} {thing.color}."
            )
        )
        if new := _successor(scene, thing, rng):
            look, a_new = Swap(thing, new).on(source), an(new.name)
            words = f"Replace {the} with {a_new}.", f"Replace the {new.name} with {an(thing.full_name)}."
            out.append(ExactEdit("replace", thing.name, a_new, look, *words))
    name = rng.choice([name for name in BACKGROUNDS if name != scene.background])
    look = Ground(name).on(source)
    was, becomes = (re.sub(r"^(in front of|above|on|in) ", "", s.behind) for s in (scene, look.scene))
    front = ", ".join(thing.name for thing in scene.things)
    words = f"Change the background to {becomes}.", f"Change the background to {was}."
    out.append(ExactEdit("background", front, becomes, look, *words))
    return tuple(out)


def draw_clip(look: StyledScene, frames: int, height: int, width: int) -> np.ndarray:
    """The scene's clip, uint8 [t h w 3]."""
    return to_uint8(render_styled([look], frames, height, width)[0])


def _changed(one: StyledScene, other: StyledScene, frames: int, height: int, width: int) -> np.ndarray:
    """Where two scenes differ: bool [t h w]."""
    mask: np.ndarray = changed_mask(*render_styled([one, other], frames, height, width))[:, 0].numpy()
    return mask


class WorldSegmenter:
    """Exact masks: the pixels that would be others without the thing."""

    name = "world"

    def load(self) -> None:
        """Nothing to read."""

    def segment(self, clip: Clip, names: Sequence[str]) -> list[Masklet]:
        scene, size = scene_of(clip.path), clip.frames.shape[:3]
        out = []
        for name in names:
            meant = [thing for thing in scene.things if name in (thing.name, thing.full_name, thing.kind)]
            if meant:
                mask = _changed(StyledScene(scene), Swap(meant[0], None).on(StyledScene(scene)), *size)
                out.append(Masklet(name, mask, 1.0, len(meant) - 1))
        return out


class WorldInpainter:
    """The exact picture of a caption inside the mask, the clip's own outside it."""

    name = "world"
    instructed = False

    def load(self) -> None:
        """Nothing to read."""

    def inpaint(self, clip: Clip, masks: np.ndarray, words: str, seed: int = 0) -> np.ndarray:
        scene = scene_of(clip.path)
        looks = [change.look for change in exact_edits(scene) if change.look.caption == words]
        if not looks:
            raise ValueError(f"the drawn world has no picture of {words!r}")
        return np.where(masks[..., None], draw_clip(looks[0], *clip.frames.shape[:3]), clip.frames)


class WorldVlm:
    """Answers the graph's questions about clips of a folder by comparing pictures.

    `frames` is the most that the graph takes of a clip, from its beginning.
    """

    name = "world"

    def __init__(self, folder: Path, frames: int = 81):
        self.scenes: list[tuple[Scene, int]] = []  # with the number of frames
        for path in sorted(folder.rglob("world-*.mp4")):
            self.scenes.append((scene_of(path), min(frames, read_video(path).frame_count)))
        if not self.scenes:
            raise UserError(f"The folder {folder} has no clips of the drawn world (world-0000.mp4): make some first.")
        firsts = [draw_clip(StyledScene(scene), 1, _SMALL, _SMALL)[0] for scene, _ in self.scenes]
        self._firsts = np.stack(firsts).astype(np.float32)

    def ask(self, question: Question) -> str:
        return json.dumps(self._answer(question))

    def _answer(self, question: Question) -> dict[str, object]:
        images, text = question.images, question.text
        if not images:
            return {"yes": True}
        if question.system == rubrics.SYSTEM:
            return self._judge(question)
        scene, _, _ = self._which(images[0])
        if "Say what could be edited" in text:
            front = [{"name": f"The {thing.name}", "person": False} for thing in scene.things]
            return {"foreground": front, "background": [scene.behind]}
        if text.startswith(WORD_PROMPT[:5]):
            half = len(images) // 2
            found = self._seen(images[:half], images[half:])
            meant = found and HINT_TEXTS[found.kind].format(element=found.element, new=found.new) in text
            return {"instruction": found.instruction, "reverse": found.reverse} if found and meant else {
                "instruction": "", "reverse": ""}  # fmt: skip
        for change in exact_edits(scene):
            if TASK_TEXTS[change.kind].format(element=change.element) in text:
                return {"new": change.new, "before": StyledScene(scene).caption, "caption": change.look.caption}
        return {"new": "", "before": "", "caption": ""}

    def _which(self, *images: np.ndarray) -> tuple[Scene, int, int]:
        """The scene that one of these first frames shows, its clip's length, and which of the images it is."""
        away = [np.abs(self._firsts - _little(image)).mean(axis=(1, 2, 3)) for image in images]
        image, scene = np.unravel_index(int(np.argmin(away)), (len(images), len(self._firsts)))
        return *self.scenes[int(scene)], int(image)

    def _seen(self, source: Sequence[np.ndarray], edited: Sequence[np.ndarray]) -> ExactEdit | None:
        """The change of the source that comes nearest to the edited frames; None if the source itself does."""
        scene, length, _ = self._which(source[0])
        found = exact_edits(scene)
        exact = self._exact([StyledScene(scene), *(change.look for change in found)], length, len(edited))
        shown = np.stack([_little(image) for image in edited])
        best = int(np.argmin(np.abs(exact - shown).mean(axis=(1, 2, 3, 4))))
        return found[best - 1] if best else None

    def _judge(self, question: Question) -> dict[str, object]:
        """Marks by the distance from the exact answer, relative to that of having done nothing."""
        half = len(question.images) // 2
        one, two = question.images[:half], question.images[half:]
        edit_first = '"motion": <mark>' in question.text
        source, edited = (two, one) if edit_first else (one, two)
        scene, length, original = self._which(source[0], edited[0])
        asked = [c for c in exact_edits(scene) if (c.reverse if original else c.instruction) in question.text]
        names = re.findall(r'"(\w+)": <mark>', question.text)
        if not asked:
            return {"reason": "This is asked of another clip."} | dict.fromkeys(names, 1)
        ends = self._exact([StyledScene(scene), asked[0].look], length, half)
        before, after = (ends[1], ends[0]) if original else (ends[0], ends[1])
        shown = np.stack([_little(image) for image in edited])
        region = np.abs(before - after).max(axis=-1) > 255 * LEAST_DIFFERENCE
        wrong = np.abs(shown - after)[region].mean() / max(1.0, np.abs(before - after)[region].mean())
        disturbed = np.abs(shown - np.stack([_little(image) for image in source]))[~region]
        met = _mark(10 - 12 * max(0.0, float(wrong) - 0.15))
        kept = _mark(10 - 0.5 * max(0.0, float(disturbed.mean() if disturbed.size else 0.0) - 3))
        by_name = {"instruction": met, "quality": met, "preservation": kept, "motion": kept}
        return {"reason": f"{wrong:.0%} of the way is missing."} | {name: by_name[name] for name in names}

    def _exact(self, looks: Sequence[StyledScene], length: int, number: int) -> np.ndarray:
        """[looks number h w 3] float32 of the frames that a question about a clip of that length shows."""
        return np.stack([_shown(look, length, number) for look in looks]).astype(np.float32)


@lru_cache(maxsize=512)
def _shown(look: StyledScene, length: int, number: int) -> np.ndarray:
    """uint8 [number h w 3]; every judgement of a clip asks for the same few."""
    return draw_clip(look, length, _SMALL, _SMALL)[evenly_spaced(length, number)]


def _little(image: np.ndarray) -> np.ndarray:
    return resize_frame(image, _SMALL, _SMALL).astype(np.float32)


def _mark(value: float) -> int:
    return int(min(10, max(1, round(value))))


def _place(thing: Thing) -> str:
    return min(PLACES, key=lambda place: (PLACES[place][0] - thing.x) ** 2 + (PLACES[place][1] - thing.y) ** 2)


def _successor(scene: Scene, thing: Thing, rng: random.Random) -> Thing | None:
    """Another kind of another colour that stays inside the box of the old one, which is all that an inpainter gets."""
    source = StyledScene(scene)
    room = masks.boxes(masks.grow(_changed(source, Swap(thing, None).on(source), 5, _SMALL, _SMALL), 0.02))
    for kind in similar(thing.kind)[:12]:
        colors = [
            c for c in COLORS if c != thing.color and not any((t.kind, t.color) == (kind, c) for t in scene.things)
        ]
        new = replace(thing, kind=kind, color=rng.choice(colors), texture="plain", wears=None)
        if not (_changed(source, Swap(thing, new).on(source), 5, _SMALL, _SMALL) & ~room).any():
            return new
    return None
