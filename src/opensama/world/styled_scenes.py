"""A styled scene is all that a clip shows; a change (`change.on(scene)`) turns one into another.

Changes of different things commute, so an edit of two parts has each part's answer without the other, and a wrong
answer is the right scene with another change in place of the asked one.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from opensama.world.render import frame_times, paint_background, paint_scene
from opensama.world.scenes import Lettering, Scene, Thing
from opensama.world.styles import apply_style
from opensama.world.wearables import worn

HOURS = ("night", "sunset")
WEATHERS = ("snow", "rain", "fog")


@dataclass(frozen=True)
class StyledScene:
    """All that decides a clip's pixels: the scene, and the style that is laid over its frames."""

    scene: Scene
    style: str | None = None

    @property
    def caption(self) -> str:
        if self.style is None:
            return self.scene.caption
        seen = f"At {self.style}" if self.style in HOURS else f"In {self.style}"
        return f"{self.scene.caption} {seen}{'' if self.style in HOURS + WEATHERS else ' style'}."


@dataclass(frozen=True)
class Swap:
    """`new` in place of `old`, at its depth; None is nothing. What replaces nothing stands in front."""

    old: Thing | None
    new: Thing | None

    def on(self, look: StyledScene) -> StyledScene:
        new = () if self.new is None else (self.new,)
        things = look.scene.things
        if self.old is None:
            return replace(look, scene=replace(look.scene, things=things + new))
        at = things.index(self.old)
        return replace(look, scene=replace(look.scene, things=things[:at] + new + things[at + 1 :]))


@dataclass(frozen=True)
class Restyle:
    """Another style over the frames."""

    style: str

    def on(self, look: StyledScene) -> StyledScene:
        return replace(look, style=self.style)


@dataclass(frozen=True)
class Ground:
    """A named background in place of the scene's."""

    name: str

    def on(self, look: StyledScene) -> StyledScene:
        return replace(look, scene=look.scene.on(self.name))


@dataclass(frozen=True)
class Text:
    """Another caption text, or none."""

    lettering: Lettering | None

    def on(self, look: StyledScene) -> StyledScene:
        return replace(look, scene=replace(look.scene, lettering=self.lettering))


Change = Swap | Restyle | Ground | Text


# Where a disc is looked at to see how much of it is covered: its middle, halfway out, and close to its rim.
_SPOTS = (
    (0.0, 0.0),
    *((r * math.cos(a), r * math.sin(a)) for r in (0.4, 0.8) for a in (0.3 + i * math.tau / 6 for i in range(6))),
)
WORD = {"top": 0.675, "bottom": -0.675}  # the middle of a caption text's line


def visible_share(thing: Thing, scene: Scene, seconds: float = 0.0, over: Sequence[Thing] | None = None) -> float:
    """About how much of an object's disc can be seen in a square frame; `over` are the objects in front of it."""
    camera, word = scene.camera(seconds), scene.lettering
    if over is None:
        over = scene.things[scene.things.index(thing) + 1 :]
    x, y = thing.x + thing.along_x.at(seconds), thing.y + thing.along_y.at(seconds)
    discs = [(t.x + t.along_x.at(seconds) - x, t.y + t.along_y.at(seconds) - y, 0.85 * t.size) for t in over]
    near = [(dx, dy, r * r) for dx, dy, r in discs if dx * dx + dy * dy < (r + thing.size) ** 2]
    clear = 0
    for u, v in _SPOTS:
        u, v = u * thing.size, v * thing.size
        right, up = (x + u - camera.x) * camera.zoom, (y + v - camera.y) * camera.zoom
        if max(abs(right), abs(up)) > 1:
            continue
        if word and abs(up - WORD[word.place]) < 0.2 and abs(right) < 0.13 * len(word.word):
            continue
        clear += all((dx - u) ** 2 + (dy - v) ** 2 > r2 for dx, dy, r2 in near)
    return clear / len(_SPOTS)


def visible_wear_share(thing: Thing, scene: Scene, seconds: float = 0.0, behind: Thing | None = None) -> float:
    """The same of its accessory; `behind` is the object at whose depth it will be, where it is not yet there."""
    assert thing.wears is not None
    x, y, scale = worn(thing.kind, thing.wears.kind)
    disc = replace(thing, x=thing.x + x * thing.size, y=thing.y + y * thing.size, size=scale * thing.size)
    return visible_share(disc, scene, seconds, scene.things[scene.things.index(behind or thing) + 1 :])


def _backdrop(scene: Scene) -> Hashable:
    """What the background's pixels depend on."""
    camera = scene.pan_x, scene.pan_y, scene.zoom, scene.shake
    return scene.background, scene.palette, scene.waves, scene.photo, camera


def render_styled(
    looks: Sequence[StyledScene],
    frames: int = 17,
    height: int = 128,
    width: int = 128,
    device: str | torch.device = "cpu",
    start: int = 0,
) -> Tensor:
    """[b t 3 h w] in 0..1 from frame `start` on; what several looks share is painted once."""
    seconds = frame_times(frames, start, device)
    shared: dict[Hashable, dict[Scene, list[int]]] = {}
    for i, look in enumerate(looks):
        shared.setdefault(_backdrop(look.scene), {}).setdefault(look.scene, []).append(i)
    out = torch.empty(len(looks), frames, 3, height, width, device=device)
    for scenes in shared.values():  # a clip at a time, which stays in the cache
        behind = paint_background(next(iter(scenes)), seconds, height, width)
        for scene, users in scenes.items():
            drawn = paint_scene(behind, scene, seconds)
            for i in users:
                style = looks[i].style
                out[i] = apply_style(style, drawn, start) if style else drawn
    return out
