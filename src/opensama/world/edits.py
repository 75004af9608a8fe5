"""Edits with exact answers: what is asked, of which scene, and what comes out.

What an instruction leaves open follows a fixed rule. A new object takes the old one's place, size, motion and depth
and, unless another is named, its colour. An added object stands in front of all others at the named place of the
first frame, at the default size, and moves with the scene. A style is a function of the frames.

`train` and `test` are apart in two ways: a fifth of the (kind, colour) pairs is edited, or comes in, only in `test`;
and each family keeps two phrasings for `test`, made of words that occur in `train`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from opensama.world.render import frame_times, paint_background, paint_things
from opensama.world.scenes import COLORS, DEFAULT_SIZE, PLACES, Scene, SceneBatch, Thing, sample_scene
from opensama.world.shapes import KINDS
from opensama.world.styles import STYLES, apply_style

Split = Literal["train", "test"]
FAMILIES = ("replace", "add", "remove", "recolor", "style")

# The last two of each are for `test`.
PHRASINGS: dict[str, tuple[str, ...]] = {
    "replace": (
        "Replace the {old} with {a_new}.",
        "Change the {old} into {a_new}.",
        "Swap the {old} for {a_new}.",
        "Turn the {old} into {a_new}.",
        "Put {a_new} in place of the {old}.",
        "Make the {old} {a_new}.",
        "There should be {a_new} instead of the {old}.",
        "Take the {old} away and put {a_new} there.",
        "Put {a_new} instead of the {old}.",
        "Change the {old} for {a_new}.",
    ),
    "add": (
        "Add {a_new} {place}.",
        "Put {a_new} {place}.",
        "Place {a_new} {place}.",
        "There should be {a_new} {place}.",
        "Insert {a_new} {place}.",
        "Draw {a_new} {place} of the video.",
        "Add {a_new} to the video {place}.",
        "I want {a_new} {place}.",
        "Insert {a_new} to the video {place}.",
        "Put {a_new} {place} of the video.",
    ),
    "remove": (
        "Remove the {old}.",
        "Delete the {old}.",
        "Take the {old} away.",
        "Erase the {old} from the video.",
        "Make the {old} disappear.",
        "Get rid of the {old}.",
        "The video should be without the {old}.",
        "Take away the {old}.",
        "Delete the {old} from the video.",
        "Erase the {old}.",
    ),
    "recolor": (
        "Make the {old} {color}.",
        "Change the color of the {old} to {color}.",
        "Paint the {old} {color}.",
        "Turn the {old} {color}.",
        "Color the {old} {color}.",
        "The {old} should be {color}.",
        "Change the {old} to {color}.",
        "Recolor the {old} to {color}.",
        "Turn the color of the {old} to {color}.",
        "Recolor the {old} {color}.",
    ),
    "look": (
        "Turn into {style} style.",
        "Make it {style} style.",
        "Change the video to {style} style.",
        "Render the video in {style} style.",
        "Apply a {style} style.",
        "Show it in {style} style.",
        "Turn the video into {style} style.",
        "Make the video look like {style}.",
        "Render it in {style} style.",
        "Change it to {style} style.",
    ),
    "weather": (
        "Add {style}.",
        "Make it {style}.",
        "Turn the weather into {style}.",
        "Show the video in {style}.",
        "Change the video to {style}.",
        "Put the scene in {style}.",
        "Let there be {style}.",
        "The video should be in {style}.",
        "Show the scene in {style}.",
        "Turn the video into {style}.",
    ),
}
WEATHERS = ("night", "sunset", "snow", "rain", "fog")


def held_out(kind: str, color: str) -> bool:
    """Whether this pair is edited only in `test` (two of the ten colours of each kind)."""
    return (3 * KINDS.index(kind) + tuple(COLORS).index(color)) % 5 == 0


def pairs(split: Split) -> list[tuple[str, str]]:
    return [(k, c) for k in KINDS for c in COLORS if held_out(k, c) == (split == "test")]


@dataclass(frozen=True)
class EditPlan:
    """An edit before it is drawn."""

    family: str
    instruction: str
    source: Scene
    target: Scene
    style: str | None = None  # applied to the target's frames
    edited: str = ""  # the object or style that the edit is about

    @property
    def caption(self) -> str:
        """The target in words."""
        return self.target.caption + (f" In {self.style} style." if self.style else "")


@dataclass
class EditBatch:
    """Drawn edits. Frames [b t 3 h w] float32 in 0..1; mask [b t 1 h w] bool, true where the answer differs."""

    source: Tensor
    target: Tensor
    mask: Tensor


@dataclass
class EditSample:
    """One drawn edit for people: frames as numpy uint8 [t h w 3], mask bool [t h w]."""

    family: str
    instruction: str
    source: np.ndarray
    target: np.ndarray
    mask: np.ndarray
    caption: str
    plan: EditPlan


def _an(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _phrase(rng: random.Random, key: str, split: Split, **words: str) -> str:
    choices = PHRASINGS[key][-2:] if split == "test" else PHRASINGS[key][:-2]
    return rng.choice(choices).format(**words)


def _call(rng: random.Random, thing: Thing, scene: Scene) -> str:
    """A name that singles the object out: kind alone only where it is the only one of its kind."""
    alone = sum(t.kind == thing.kind for t in scene.things) == 1
    return thing.kind if alone and rng.random() < 0.3 else thing.name


def _swap(scene: Scene, old: Thing, *new: Thing) -> Scene:
    return replace(scene, things=tuple(n for t in scene.things for n in (new if t is old else (t,))))


def plan_edit(seed: int | str, split: Split = "train", family: str | None = None) -> EditPlan:
    """One edit, the same for the same arguments. Without a family, one is drawn."""
    rng = random.Random(f"{split}/{family}/{seed}")
    family = family or rng.choice(FAMILIES)
    if family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}: choose one of {', '.join(FAMILIES)}")
    mine = pairs(split)
    first = rng.choice(mine)
    scene = sample_scene(rng, None if family in ("add", "style") else first)
    names = {t.name for t in scene.things}
    old = next((t for t in scene.things if (t.kind, t.color) == first), None)

    if family == "style":
        style = rng.choice(tuple(STYLES))
        key = "weather" if style in WEATHERS else "look"
        return EditPlan(family, _phrase(rng, key, split, style=style), scene, scene, style, style)

    if family == "add":
        kind, color = rng.choice([p for p in mine if f"{p[1]} {p[0]}" not in names])
        free = [
            name
            for name, (x, y) in PLACES.items()
            if all(abs(t.x - x) > 0.45 or abs(t.y - y) > 0.45 for t in scene.things)
        ]
        place = rng.choice(free or list(PLACES))
        new = Thing(kind, color, *PLACES[place], DEFAULT_SIZE)
        text = _phrase(rng, family, split, a_new=_an(new.name), place=place)
        return EditPlan(family, text, scene, replace(scene, things=(*scene.things, new)), edited=new.name)

    assert old is not None
    if family == "remove":
        text = _phrase(rng, family, split, old=_call(rng, old, scene))
        return EditPlan(family, text, scene, _swap(scene, old), edited=old.name)

    if family == "recolor":
        colors = [c for k, c in mine if k == old.kind and f"{c} {k}" not in names]
        if not colors:  # an object of the only other colour stands beside it
            return plan_edit(f"{seed}'", split, family)
        color = rng.choice(colors)
        text = _phrase(rng, family, split, old=_call(rng, old, scene), color=color)
        return EditPlan(family, text, scene, _swap(scene, old, replace(old, color=color)), edited=old.name)

    keep = [k for k, c in mine if c == old.color and k != old.kind and f"{c} {k}" not in names]
    if keep and rng.random() < 0.5:
        new = replace(old, kind=rng.choice(keep))
        said = new.kind
    else:
        kind, color = rng.choice([p for p in mine if p[0] != old.kind and f"{p[1]} {p[0]}" not in names])
        new = replace(old, kind=kind, color=color)
        said = new.name
    text = _phrase(rng, family, split, old=_call(rng, old, scene), a_new=_an(said))
    return EditPlan(family, text, scene, _swap(scene, old, new), edited=old.name)


def render_edits(
    plans: Sequence[EditPlan],
    frames: int = 17,
    height: int = 128,
    width: int = 128,
    device: str | torch.device = "cpu",
    start: int = 0,
) -> EditBatch:
    """Draws source and exact answer; the background is painted once, since objects are what differs."""
    seconds = frame_times(frames, start, device)
    source = SceneBatch.pack([p.source for p in plans], device)
    behind = paint_background(source, seconds, height, width)
    before = paint_things(behind, source, seconds)
    moved = [i for i, p in enumerate(plans) if p.target is not p.source]
    after = before.clone()
    if moved:
        after[moved] = paint_things(behind[moved], SceneBatch.pack([plans[i].target for i in moved], device), seconds)
    for style in {p.style for p in plans if p.style}:
        chosen = [i for i, p in enumerate(plans) if p.style == style]
        after[chosen] = apply_style(style, after[chosen], start)
    mask = (after - before).abs().amax(2, keepdim=True) > 0.02
    return EditBatch(before, after, mask)


def to_uint8(frames: Tensor) -> np.ndarray:
    """[... 3 h w] in 0..1 -> [... h w 3] uint8."""
    return (frames.clamp(0, 1) * 255).round().to(torch.uint8).movedim(-3, -1).cpu().numpy()


def sample_edit(
    seed: int | str,
    split: Split = "test",
    family: str | None = None,
    frames: int = 17,
    size: int | tuple[int, int] = 128,
) -> EditSample:
    """One edit, drawn. `size` is the side of a square, or (height, width)."""
    plan = plan_edit(seed, split, family)
    height, width = (size, size) if isinstance(size, int) else size
    drawn = render_edits([plan], frames, height, width)
    return EditSample(
        plan.family,
        plan.instruction,
        to_uint8(drawn.source[0]),
        to_uint8(drawn.target[0]),
        drawn.mask[0, :, 0].cpu().numpy(),
        plan.caption,
        plan,
    )
