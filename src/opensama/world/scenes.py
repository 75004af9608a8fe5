"""What is in a clip: objects with motions, a background, a camera and a caption.

Places are in half-heights of a square frame: the centre is (0, 0), x to the right, y up, and a square frame spans
[-1, 1]; other shapes of the same area span more in one direction. Time is in seconds at 16 frames a second. At time
zero every motion is zero, so that the first frame shows each object at its own place, whatever the camera does later.
"""

from __future__ import annotations

import colorsys
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from opensama.values.names import TierName as TierName
from opensama.world.backgrounds import BACKGROUNDS, PAINTERS, Color
from opensama.world.kinds import KINDS
from opensama.world.letters import CAPTION_WORDS
from opensama.world.wearables import WEARABLES

FPS = 16
COLORS: dict[str, Color] = {
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
TEXTURES = ("plain", "striped", "dotted", "checkered")
PLACES: dict[str, tuple[float, float]] = {
    "on the left": (-0.58, 0.0),
    "on the right": (0.58, 0.0),
    "at the top": (0.0, 0.56),
    "at the bottom": (0.0, -0.56),
    "in the middle": (0.0, 0.0),
}
DEFAULT_SIZE = 0.36


@dataclass(frozen=True)
class Tier:
    """How much of the world there is: less of it is learnt sooner."""

    families: tuple[str, ...]
    kinds: tuple[str, ...]
    colors: tuple[str, ...]
    counts: tuple[int, ...]  # of objects, one of which is drawn for a scene
    plain: bool = False  # no textures, accessories or caption texts


TIERS: dict[TierName, Tier] = {
    "core": Tier(
        ("replace", "add", "remove", "recolor", "background", "style"),
        ("ball", "star", "heart", "tree", "house", "car", "moon", "umbrella", "flower", "arrow", "plane", "box"),
        ("red", "yellow", "green", "blue", "purple", "pink", "white", "black"),
        (1, 2, 2),
        plain=True,
    ),
    "full": Tier(
        (
            "replace",
            "add",
            "remove",
            "recolor",
            "retexture",
            "accessory",
            "background",
            "style",
            "text",
            "obscure",
            "two",
        ),
        KINDS,
        tuple(COLORS),
        (1, 2, 2, 3, 3, 4),
    ),
}


def an(name: str) -> str:
    """With its article: 'a ball', 'an orange ball', but 'blue glasses'."""
    if name.endswith("glasses"):
        return name
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


@dataclass(frozen=True)
class Motion:
    """One coordinate over time, zero at the start: drift * s + reach * (f(rate * s + phase) - f(phase)), s in seconds.

    f is the sine, or its absolute value where it bounces.
    """

    reach: float = 0.0
    rate: float = 0.0
    phase: float = 0.0
    drift: float = 0.0
    bounce: bool = False

    def at(self, seconds: float) -> float:
        """The coordinate's displacement, in half-heights (radians for a turn)."""
        now, then = math.sin(self.rate * seconds + self.phase), math.sin(self.phase)
        if self.bounce:
            now, then = abs(now), abs(then)
        return self.drift * seconds + self.reach * (now - then)


NO_MOTION = Motion()


@dataclass(frozen=True)
class Wear:
    """An accessory, which rides on its object."""

    kind: str
    color: str

    @property
    def name(self) -> str:
        return f"{self.color} {self.kind}"


@dataclass(frozen=True)
class Thing:
    """One object. `kind` and `color` name it; within a scene no two share both."""

    kind: str
    color: str
    x: float
    y: float
    size: float = DEFAULT_SIZE
    along_x: Motion = NO_MOTION
    along_y: Motion = NO_MOTION
    turn: Motion = NO_MOTION
    texture: str = "plain"
    wears: Wear | None = None
    obscured: bool = False

    @property
    def name(self) -> str:
        return f"{self.color} {self.kind}"

    @property
    def full_name(self) -> str:
        return self.name if self.texture == "plain" else f"{self.texture} {self.name}"

    @property
    def words(self) -> str:
        """All that can be seen of it: 'a striped red ball with a blue hat'."""
        name = f"pixelated {self.full_name}" if self.obscured else self.full_name
        return an(name) + (f" with {an(self.wears.name)}" if self.wears else "")


@dataclass(frozen=True)
class Lettering:
    """Caption text, fixed to the screen at the "top" or the "bottom"."""

    word: str
    color: str
    place: str


@dataclass(frozen=True)
class Camera:
    """Where it looks and how close, at one time."""

    x: float
    y: float
    zoom: float


@dataclass(frozen=True)
class Scene:
    """Objects from back to front, before a background (or a photo), seen by a camera, under a caption."""

    things: tuple[Thing, ...]
    background: str
    palette: tuple[Color, ...]
    waves: tuple[float, ...]
    pan_x: Motion = NO_MOTION
    pan_y: Motion = NO_MOTION
    zoom: Motion = NO_MOTION
    shake: float = 0.0
    lettering: Lettering | None = None
    photo: Path | None = None

    def camera(self, seconds: float) -> Camera:
        s = seconds
        return Camera(
            self.pan_x.at(s) + self.shake * (math.sin(31.0 * s) + 0.5 * math.sin(47.0 * s)) / 1.5,
            self.pan_y.at(s) + self.shake * (math.sin(37.0 * s) - 0.5 * math.sin(23.0 * s)) / 1.5,
            1 + self.zoom.at(s),
        )

    @property
    def still(self) -> bool:
        """Whether the camera does not move."""
        return self.pan_x == self.pan_y == self.zoom == NO_MOTION and not self.shake

    def on(self, background: str) -> Scene:
        """The same objects before a named background."""
        look = BACKGROUNDS[background]
        return replace(self, background=background, palette=look.palette, waves=look.waves, photo=None)

    @property
    def behind(self) -> str:
        """The background in words."""
        if self.photo:
            return "in front of a photo"
        look = BACKGROUNDS[self.background]
        named = (self.palette, self.waves) == (look.palette, look.waves)
        return look.words if named else PAINTERS[look.painter].words

    @property
    def caption(self) -> str:
        """'A striped red ball with a blue hat and a green box in front of hills. It says "HELLO".'"""
        names = [t.words for t in self.things] or ["nothing"]
        text = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
        said = f' It says "{self.lettering.word}".' if self.lettering else ""
        return f"{text[0].upper()}{text[1:]} {self.behind}.{said}"


def swing(rng: random.Random, reach: float, slow: float = 1.2, fast: float = 3.2) -> Motion:
    """A motion to and fro of up to `reach`, at from `slow` to `fast` radians a second."""
    return Motion(rng.uniform(-reach, reach), rng.uniform(slow, fast), rng.uniform(0, math.tau))


def muted_color(rng: random.Random, light: tuple[float, float]) -> Color:
    """A dull colour; only what is nearly white has no colour of its own."""
    most = 0.08 if light[0] >= 0.88 else 0.45
    return colorsys.hsv_to_rgb(rng.random(), rng.uniform(most / 4, most), rng.uniform(*light))


def _fast(rng: random.Random) -> tuple[float, float, Motion, Motion]:
    """A start and quick motions: across the frame within a second, to and fro, or in bounces."""
    side = rng.choice((-1, 1))
    kind = rng.choice(("across", "down", "swing", "bounce"))
    if kind == "across":
        x, y, drift = side * rng.uniform(0.6, 0.8), rng.uniform(-0.5, 0.5), -side * rng.uniform(0.9, 1.5)
        return x, y, Motion(drift=drift), NO_MOTION
    if kind == "down":
        x, y, drift = rng.uniform(-0.6, 0.6), side * rng.uniform(0.5, 0.7), -side * rng.uniform(0.8, 1.3)
        return x, y, NO_MOTION, Motion(drift=drift)
    if kind == "swing":
        along = Motion(rng.uniform(0.35, 0.6), rng.uniform(4, 7), rng.uniform(-0.5, 0.5))
        return rng.uniform(-0.15, 0.15), rng.uniform(-0.5, 0.5), along, NO_MOTION
    hop = Motion(rng.uniform(0.5, 0.8), rng.uniform(3.5, 6), rng.uniform(-0.3, 0.3), bounce=True)
    return side * rng.uniform(0.2, 0.6), rng.uniform(-0.65, -0.4), Motion(drift=-side * rng.uniform(0.1, 0.6)), hop


def _thing(rng: random.Random, kind: str, color: str, fast: bool, smallest: float, plain: bool) -> Thing:
    moving = rng.random() < 0.8
    if fast:
        x, y, along_x, along_y = _fast(rng)
    else:
        x, y = rng.uniform(-0.65, 0.65), rng.uniform(-0.6, 0.6)
        along_x, along_y = (swing(rng, reach) if moving else NO_MOTION for reach in (0.3, 0.2))
    size, turn = rng.uniform(smallest, 0.46), swing(rng, 0.35) if rng.random() < 0.5 else NO_MOTION
    thing = Thing(kind, color, x, y, size, along_x, along_y, turn)
    if plain:
        return thing
    texture = rng.choice(TEXTURES[1:]) if rng.random() < 0.4 else "plain"
    return replace(thing, texture=texture, wears=_wear(rng, color) if rng.random() < 0.15 else None)


def _wear(rng: random.Random, worn_on: str) -> Wear:
    return Wear(rng.choice(tuple(WEARABLES)), rng.choice([c for c in COLORS if c != worn_on]))


def sample_lettering(rng: random.Random) -> Lettering:
    """A caption text of a drawn word, colour and place."""
    return Lettering(rng.choice(CAPTION_WORDS), rng.choice(tuple(COLORS)), rng.choice(("top", "bottom")))


def in_view(thing: Thing, scene: Scene) -> bool:
    """Whether its middle stays inside the frame over 17 frames, and what it wears is in the first."""
    if thing.wears and thing.y + 1.6 * thing.size > 1:
        return False
    for s in (0.0, 0.25, 0.5, 0.75, 1.0):
        camera = scene.camera(s)
        x = (thing.x + thing.along_x.at(s) - camera.x) * camera.zoom
        y = (thing.y + thing.along_y.at(s) - camera.y) * camera.zoom
        if max(abs(x), abs(y)) > 0.85:
            return False
    return True


def _apart(a: Thing, b: Thing, share: float) -> bool:
    return math.hypot(a.x - b.x, a.y - b.y) > share * (a.size + b.size)


def sample_scene(
    rng: random.Random,
    first: tuple[str, str] | None = None,
    photos: Sequence[Path] | None = None,
    tier: TierName = "full",
) -> Scene:
    """A scene of one to four objects; `first` = (kind, color) is in it, uncovered and not small.

    With `photos`, half of the scenes stand before one of them.
    """
    there = TIERS[tier]
    background = rng.choice(tuple(BACKGROUNDS))
    scene = Scene(
        (),
        background,
        palette=tuple(muted_color(rng, light) for light in PAINTERS[BACKGROUNDS[background].painter].light),
        waves=tuple(rng.random() for _ in range(8)),
        pan_x=swing(rng, 0.25) if rng.random() < 0.5 else NO_MOTION,
        pan_y=swing(rng, 0.1) if rng.random() < 0.35 else NO_MOTION,
        zoom=swing(rng, 0.12) if rng.random() < 0.35 else NO_MOTION,
        shake=rng.uniform(0.01, 0.035) if rng.random() < 0.15 else 0.0,
        lettering=sample_lettering(rng) if not there.plain and rng.random() < 0.12 else None,
        photo=rng.choice(photos) if photos and rng.random() < 0.5 else None,
    )
    if not scene.photo and rng.random() < 1 / 3:
        scene = scene.on(background)
    count = rng.choice(there.counts)
    pairs: list[tuple[str, str]] = [first] if first else []
    while len(pairs) < count:
        pair = (rng.choice(there.kinds), rng.choice(there.colors))
        if pair not in pairs:
            pairs.append(pair)
    fast = rng.randrange(count) if rng.random() < 0.25 else -1
    things: list[Thing] = []
    for i, (kind, color) in enumerate(pairs):
        for _ in range(40):  # mostly apart, so that each can be seen; motion still brings occlusion
            thing = _thing(rng, kind, color, i == fast, 0.3 if first and i == 0 else 0.26, there.plain)
            if all(_apart(thing, o, 0.75) for o in things) and in_view(thing, scene):
                break
        things.append(thing)
    if first:  # behind it goes what would cover it
        subject, rest = things[0], things[1:]
        over = [t for t in rest if _apart(subject, t, 0.75) and rng.random() < 0.5]
        things = [*(t for t in rest if t not in over), subject, *over]
    return replace(scene, things=tuple(things))
