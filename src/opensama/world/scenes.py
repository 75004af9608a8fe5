"""What is in a clip: objects with motions, a background, a camera, and how many clips become one batch of tensors.

Places are in half-heights of a square frame: the centre is (0, 0), x to the right, y up, and a square frame spans
[-1, 1]; other shapes of the same area span more in one direction. Time is in seconds at 16 frames a second.
"""

from __future__ import annotations

import colorsys
import math
import random
from dataclasses import dataclass, field

import torch
from torch import Tensor

from opensama.world.shapes import KINDS

FPS = 16
COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.87, 0.12, 0.13),
    "orange": (0.97, 0.52, 0.08),
    "yellow": (0.96, 0.87, 0.15),
    "green": (0.13, 0.62, 0.22),
    "blue": (0.12, 0.30, 0.88),
    "purple": (0.52, 0.16, 0.70),
    "pink": (0.98, 0.55, 0.76),
    "brown": (0.45, 0.26, 0.12),
    "white": (0.96, 0.96, 0.96),
    "black": (0.07, 0.07, 0.08),
}
BACKGROUNDS: dict[str, str] = {
    "hills": "in front of hills",
    "room": "in a room",
    "water": "above the water",
    "road": "beside a road",
    "clouds": "in front of clouds",
}
PLACES: dict[str, tuple[float, float]] = {
    "on the left": (-0.58, 0.0),
    "on the right": (0.58, 0.0),
    "at the top": (0.0, 0.56),
    "at the bottom": (0.0, -0.56),
    "in the middle": (0.0, 0.0),
}
DEFAULT_SIZE = 0.36


@dataclass(frozen=True)
class Swing:
    """A bounded motion along one axis: reach * (sin(rate * seconds + phase) - sin(phase)), zero at the start."""

    reach: float = 0.0
    rate: float = 0.0
    phase: float = 0.0

    def row(self) -> tuple[float, float, float]:
        return self.reach, self.rate, self.phase


@dataclass(frozen=True)
class Thing:
    """One object. `kind` and `color` name it; within a scene no two share both."""

    kind: str
    color: str
    x: float
    y: float
    size: float = DEFAULT_SIZE
    along_x: Swing = Swing()
    along_y: Swing = Swing()
    turn: Swing = Swing()

    @property
    def name(self) -> str:
        return f"{self.color} {self.kind}"

    def row(self) -> tuple[float, ...]:
        return (self.x, self.y, self.size, *self.along_x.row(), *self.along_y.row(), *self.turn.row())


@dataclass(frozen=True)
class Scene:
    """Objects from back to front, before a background, seen by a camera."""

    things: tuple[Thing, ...]
    background: str
    palette: tuple[tuple[float, float, float], ...]
    waves: tuple[float, ...]
    pan_x: Swing = Swing()
    pan_y: Swing = Swing()
    zoom: Swing = Swing()

    @property
    def caption(self) -> str:
        names = [f"{'an' if t.color[0] in 'aeiou' else 'a'} {t.name}" for t in self.things]
        if not names:
            return f"Nothing {BACKGROUNDS[self.background]}."
        text = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
        return f"{text[0].upper()}{text[1:]} {BACKGROUNDS[self.background]}."


def _swing(rng: random.Random, reach: float, slow: float = 1.2, fast: float = 3.2) -> Swing:
    return Swing(rng.uniform(-reach, reach), rng.uniform(slow, fast), rng.uniform(0, math.tau))


def _muted(rng: random.Random, low: float, high: float) -> tuple[float, float, float]:
    return colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.12, 0.45), rng.uniform(low, high))


def _thing(rng: random.Random, kind: str, color: str) -> Thing:
    moving = rng.random() < 0.8
    return Thing(
        kind,
        color,
        x=rng.uniform(-0.65, 0.65),
        y=rng.uniform(-0.6, 0.6),
        size=rng.uniform(0.28, 0.46),
        along_x=_swing(rng, 0.3) if moving else Swing(),
        along_y=_swing(rng, 0.2) if moving else Swing(),
        turn=_swing(rng, 0.35) if rng.random() < 0.5 else Swing(),
    )


def sample_scene(rng: random.Random, first: tuple[str, str] | None = None) -> Scene:
    """A scene of one to three objects; `first` = (kind, color) is certain to be in it, at a random depth."""
    count = rng.choice((1, 2, 2, 3))
    pairs: list[tuple[str, str]] = [first] if first else []
    while len(pairs) < count:
        pair = (rng.choice(KINDS), rng.choice(tuple(COLORS)))
        if pair not in pairs:
            pairs.append(pair)
    things: list[Thing] = []
    for kind, color in pairs:
        for _ in range(30):  # mostly apart, so that each can be seen; motion still brings occlusion
            thing = _thing(rng, kind, color)
            if all(math.hypot(thing.x - o.x, thing.y - o.y) > 0.75 * (thing.size + o.size) for o in things):
                break
        things.append(thing)
    rng.shuffle(things)
    return Scene(
        tuple(things),
        background=rng.choice(tuple(BACKGROUNDS)),
        palette=(_muted(rng, 0.6, 0.98), _muted(rng, 0.6, 0.98), _muted(rng, 0.4, 0.8), _muted(rng, 0.25, 0.7)),
        waves=tuple(rng.random() for _ in range(8)),
        pan_x=_swing(rng, 0.25) if rng.random() < 0.6 else Swing(),
        pan_y=_swing(rng, 0.1) if rng.random() < 0.4 else Swing(),
        zoom=_swing(rng, 0.12) if rng.random() < 0.4 else Swing(),
    )


@dataclass
class SceneBatch:
    """Many scenes as tensors. b clips, k object slots; slot 0 is drawn first."""

    kind: Tensor  # [b k] index into KINDS, -1 where the slot is empty
    color: Tensor  # [b k 3]
    motion: Tensor  # [b k 12] Thing.row()
    background: Tensor  # [b] index into BACKGROUNDS
    palette: Tensor  # [b 4 3]
    waves: Tensor  # [b 8] in 0..1
    camera: Tensor  # [b 9] pan_x, pan_y, zoom
    names: list[str] = field(default_factory=list)

    @classmethod
    def pack(cls, scenes: list[Scene], device: str | torch.device = "cpu") -> SceneBatch:
        slots = max(1, *(len(s.things) for s in scenes))
        kind = torch.full((len(scenes), slots), -1)
        color = torch.zeros(len(scenes), slots, 3)
        motion = torch.zeros(len(scenes), slots, 12)
        for b, scene in enumerate(scenes):
            if scene.things:
                k = len(scene.things)
                kind[b, :k] = torch.tensor([KINDS.index(t.kind) for t in scene.things])
                color[b, :k] = torch.tensor([COLORS[t.color] for t in scene.things])
                motion[b, :k] = torch.tensor([t.row() for t in scene.things])
        keys = tuple(BACKGROUNDS)
        return cls(
            kind.to(device),
            color.to(device),
            motion.to(device),
            torch.tensor([keys.index(s.background) for s in scenes], device=device),
            torch.tensor([s.palette for s in scenes], device=device),
            torch.tensor([s.waves for s in scenes], device=device),
            torch.tensor([(*s.pan_x.row(), *s.pan_y.row(), *s.zoom.row()) for s in scenes], device=device),
        )
