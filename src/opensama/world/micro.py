"""The micro world: the same drawings, but few of them, so that a model can be taught it in minutes.

One or two objects of six kinds and four colours before three kinds of background, with motions and often a moving
camera; edits remove or recolour one of them or restyle the whole in one of four styles, in the phrasings for `train`.
The answers, and what counts as a wrong one, are exact as everywhere in the world; wrong answers stay inside the micro
world.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import cached_property

from opensama.world import phrasing
from opensama.world.backgrounds import BACKGROUNDS, PAINTERS
from opensama.world.edit_planner import style_clause
from opensama.world.edit_samples import EditSample, draw_edit
from opensama.world.edits import EditPart, EditPlan
from opensama.world.scenes import NO_MOTION, Scene, Thing, in_view, muted_color, swing
from opensama.world.styled_scenes import Restyle, StyledScene, Swap, visible_share
from opensama.world.unpaired import UnpairedPlan, unpaired_plan
from opensama.world.wrong_answers import WrongAnswer, distinct

MICRO_KINDS = ("ball", "box", "star", "heart", "tree", "fish")
MICRO_COLORS = ("red", "yellow", "green", "blue")
MICRO_BACKGROUNDS = ("green hills", "room", "sea")  # whose painters are used, in dull colours of their own
MICRO_STYLES = ("night", "sepia", "watercolor", "snow")
MICRO_FAMILIES = ("remove", "recolor", "style")
MICRO_FRAMES, MICRO_SIZE = 9, 64
PAIRS = tuple((kind, color) for kind in MICRO_KINDS for color in MICRO_COLORS)


@dataclass(frozen=True)
class MicroPart(EditPart):
    """A part of an edit whose wrong answers are those of the micro world."""

    @cached_property
    def wrong(self) -> tuple[WrongAnswer, ...]:
        change, before = self.change, self.before
        found: list[WrongAnswer] = []
        if isinstance(change, Restyle):
            found += [("style", Restyle(style).on(before)) for style in MICRO_STYLES]
        else:
            assert isinstance(change, Swap)
            assert change.old is not None
            old, new = change.old, change.new
            found += [("kind", Swap(old, replace(new or old, kind=k)).on(before)) for k in MICRO_KINDS]
            found += [("color", Swap(old, replace(new or old, color=c)).on(before)) for c in MICRO_COLORS]
            found.append(("object", Swap(old, None).on(before)))
            for other in (t for t in before.scene.things if t is not old):
                there = None if new is None else replace(other, color=new.color)
                found.append(("object", Swap(other, there).on(before)))
                found.append(("object", Swap(other, None).on(change.on(before))))
        return distinct(found, change.on(before), before)


def micro_scene(rng: random.Random, fast: bool = False) -> Scene:
    """One or two objects; with `fast`, motions of three times the speed."""
    background = rng.choice(MICRO_BACKGROUNDS)
    moving = rng.random() < 0.5
    scene = Scene(
        (),
        background,
        palette=tuple(muted_color(rng, light) for light in PAINTERS[BACKGROUNDS[background].painter].light),
        waves=tuple(rng.random() for _ in range(8)),
        pan_x=swing(rng, 0.3) if moving else NO_MOTION,
        pan_y=swing(rng, 0.15) if moving else NO_MOTION,
    )
    quick = 3.0 if fast else 1.0
    things: list[Thing] = []
    for kind, color in rng.sample(PAIRS, rng.choice((1, 1, 2))):
        for _ in range(60):
            thing = Thing(
                kind,
                color,
                rng.uniform(-0.6, 0.6),
                rng.uniform(-0.55, 0.55),
                rng.uniform(0.36, 0.48),
                swing(rng, 0.35, 1.2 * quick, 3.2 * quick),
                swing(rng, 0.25, 1.2 * quick, 3.2 * quick),
                swing(rng, 0.35) if rng.random() < 0.5 else NO_MOTION,
            )
            apart = all(abs(thing.x - t.x) > 0.7 or abs(thing.y - t.y) > 0.7 for t in things)
            if apart and in_view(thing, scene):
                things.append(thing)
                break
    return replace(scene, things=tuple(things)) if things else micro_scene(rng, fast)


def plan_micro_edit(seed: int | str, family: str | None = None, *, fast: bool = False) -> EditPlan:
    """One edit of the micro world, the same for the same arguments; without a family, one is drawn."""
    name = f"micro/{family}/{fast}/{seed}"
    rng = random.Random(name)
    family = family or rng.choice(MICRO_FAMILIES)
    if family not in MICRO_FAMILIES:
        raise ValueError(f"unknown family {family!r}: choose one of {', '.join(MICRO_FAMILIES)}")
    while True:
        scene = micro_scene(rng, fast)
        old = rng.choice(scene.things)
        if all(visible_share(old, scene, s) > 0.6 for s in (0.0, 0.25, 0.5)):
            break
    source, change, asked = StyledScene(scene), _change(rng, family, old, scene), ""
    match change:
        case Restyle(style=style):
            asked = style_clause(rng, "train", style)
        case Swap(new=None):
            asked = phrasing.clause(rng, "remove", "train", old=old.name)
        case Swap(new=Thing() as new):
            asked = phrasing.clause(rng, "recolor", "train", old=old.name, color=new.color)
    edited = change.style if isinstance(change, Restyle) else old.name
    said = phrasing.as_sentence(asked)
    part = MicroPart(family, edited, said, change, source, f"{name}/0")
    return EditPlan(family, said, source, change.on(source), (part,))


def _change(rng: random.Random, family: str, old: Thing, scene: Scene) -> Swap | Restyle:
    if family == "style":
        return Restyle(rng.choice(MICRO_STYLES))
    if family == "remove":
        return Swap(old, None)
    taken = {t.name for t in scene.things}
    return Swap(old, replace(old, color=rng.choice([c for c in MICRO_COLORS if f"{c} {old.kind}" not in taken])))


def plan_micro_clip(seed: int | str) -> StyledScene:
    """A clip of the micro world, with its caption."""
    return StyledScene(micro_scene(random.Random(f"micro/clip/{seed}")))


def plan_micro_unpaired(seed: int | str) -> UnpairedPlan:
    """Two clips of one scene at two times, with an instruction for what differs."""
    rng = random.Random(f"micro/unpaired/{seed}")
    return unpaired_plan(rng, lambda: plan_micro_edit(rng.getrandbits(48)))


def sample_micro_edit(
    seed: int | str, family: str | None = None, *, fast: bool = False, frames: int = MICRO_FRAMES
) -> EditSample:
    """One edit, drawn at 64x64."""
    return draw_edit(plan_micro_edit(seed, family, fast=fast), frames, MICRO_SIZE, MICRO_SIZE)
