"""Unpaired clips: one scene at two times, with an exact instruction for what differs (ICVE's first stage, in small).

The second clip begins up to one and a half seconds after the first. By then the camera has moved on and so have the
objects; in two of three pairs an edit of the world has happened between, too. The instruction names the edit, then how
the camera has moved, then the object that has moved most, wherever a movement is large enough to be seen. Where the
clips differ otherwise, as in real footage, nothing is said about it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from opensama.world import phrasing
from opensama.world.edit_planner import plan_edit
from opensama.world.edits import EDIT_FAMILIES, EditPlan
from opensama.world.phrasing import Split
from opensama.world.scenes import FPS, Scene, Thing
from opensama.world.styled_scenes import StyledScene, Swap, render_styled, visible_share

LATER = range(8, 25)  # frames from the first clip's beginning to the second's
PAN, ZOOM, MOVE = 0.08, 0.05, 0.22  # smallest differences that are told: half-heights, a share, half-heights
EDITED = 2 / 3  # share of pairs with an edit between the clips


@dataclass(frozen=True)
class UnpairedPlan:
    """Two clips of one scene: `source` from the first frame on, `target` from frame `later` on."""

    instruction: str
    source: StyledScene
    target: StyledScene
    later: int
    edit: EditPlan | None


class Unpaired(NamedTuple):
    """Both clips [b t 3 h w] in 0..1."""

    source: Tensor
    target: Tensor


def plan_unpaired(seed: int | str, split: Split = "train") -> UnpairedPlan:
    """One pair of clips, the same for the same arguments."""
    families = [family for family in EDIT_FAMILIES if family != "two"]
    rng = random.Random(f"unpaired/{split}/{seed}")
    return unpaired_plan(rng, lambda: plan_edit(rng.getrandbits(48), split, rng.choice(families)))


def unpaired_plan(rng: random.Random, draw: Callable[[], EditPlan]) -> UnpairedPlan:
    """One pair of clips of a scene that `draw` gives, with its edit or without."""
    edited = rng.random() < EDITED
    while True:
        plan = draw()
        later = rng.choice(LATER)
        edit = plan if edited else None
        target = plan.target if edit else plan.source
        if edit and not seen_later(edit, later):
            continue
        said = [edit.instruction] if edit else []
        moved = movements(plan.source.scene, target.scene, later)
        if moved:
            said.append(phrasing.as_sentence(" and ".join(moved)))
        if said:
            return UnpairedPlan(" ".join(said), plan.source, target, later, edit)


def seen_later(edit: EditPlan, later: int) -> bool:
    """Whether what was edited is in the picture when the second clip begins."""
    changes = [part.change for part in edit.parts]
    things = [c.new or c.old for c in changes if isinstance(c, Swap)]
    looks = [edit.target if isinstance(c, Swap) and c.new else edit.source for c in changes if isinstance(c, Swap)]
    return all(visible_share(t, look.scene, later / FPS) > 0.5 for t, look in zip(things, looks, strict=True) if t)


def movements(before: Scene, after: Scene, later: int) -> list[str]:
    """What the camera and the objects have done between the clips' beginnings, as clauses."""
    seconds = later / FPS
    a, b = before.camera(0.0), after.camera(seconds)
    said = []
    if abs(b.zoom / a.zoom - 1) > ZOOM:
        said.append(f"zoom {'in' if b.zoom > a.zoom else 'out'}")
    across, up = b.x - a.x, b.y - a.y
    if max(abs(across), abs(up)) > PAN:
        side = ("right" if across > 0 else "left") if abs(across) >= abs(up) else ("up" if up > 0 else "down")
        said.append(f"pan {'to the ' if side in ('left', 'right') else ''}{side}")
    there = {_path(thing) for thing in before.things}  # also where an edit has made it another
    stayed = [thing for thing in after.things if _path(thing) in there and visible_share(thing, after, seconds) > 0.5]
    far = max(stayed, key=lambda thing: _way(thing, seconds), default=None)
    if far is not None and _way(far, seconds) > MOVE:
        x, y = far.along_x.at(seconds), far.along_y.at(seconds)
        side = ("to the right" if x > 0 else "to the left") if abs(x) >= abs(y) else ("up" if y > 0 else "down")
        said.append(f"move the {far.name} {side}")
    return said


def _path(thing: Thing) -> tuple[object, ...]:
    return thing.x, thing.y, thing.along_x, thing.along_y


def _way(thing: Thing, seconds: float) -> float:
    return max(abs(thing.along_x.at(seconds)), abs(thing.along_y.at(seconds)))


def render_unpaired(
    plans: list[UnpairedPlan], frames: int = 17, height: int = 128, width: int = 128, device: str | torch.device = "cpu"
) -> Unpaired:
    """Draws both clips of each plan."""
    source = render_styled([plan.source for plan in plans], frames, height, width, device)
    each = [render_styled([plan.target], frames, height, width, device, plan.later) for plan in plans]
    return Unpaired(source, torch.cat(each))
