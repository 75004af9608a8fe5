"""Wrong answers to an edit, each labelled by what is wrong with it: what a sloppy editor might do instead.

Labels: kind, color, texture, style, place, object, word, background. The kinds are those that are taken for the right
one most easily: the nearest silhouette, a disk, and others by chance.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from opensama.world.backgrounds import BACKGROUNDS
from opensama.world.kinds import KINDS, similar
from opensama.world.letters import CAPTION_WORDS
from opensama.world.scenes import COLORS, PLACES, TEXTURES, Lettering, Thing, Wear
from opensama.world.styled_scenes import (
    Change,
    Ground,
    Restyle,
    StyledScene,
    Swap,
    Text,
    visible_share,
    visible_wear_share,
)
from opensama.world.styles import STYLES
from opensama.world.wearables import WEARABLES

_T = TypeVar("_T")
ROUND = "ball"
WrongAnswer = tuple[str, StyledScene]


def wrong_answers(change: Change, before: StyledScene, seed: str) -> tuple[WrongAnswer, ...]:
    """At least eight looks that are not `change.on(before)`, none twice."""
    rng = random.Random(seed)
    right = change.on(before)
    match change:
        case Swap(old=old, new=new):
            found = _swaps(rng, old, new, before)
        case Restyle(style=style):
            found = _styles(rng, style, before)
        case Ground(name=name):
            found = _grounds(rng, name, before)
        case Text(lettering=lettering):
            found = _texts(rng, lettering, before)
    return distinct(found, right, before)


def distinct(found: Iterable[WrongAnswer], right: StyledScene, before: StyledScene) -> tuple[WrongAnswer, ...]:
    """Each scene once, without the right one and the one before the edit."""
    labels: dict[StyledScene, str] = {}
    for label, scene in found:
        if scene not in (right, before):
            labels.setdefault(scene, label)
    return tuple((label, scene) for scene, label in labels.items())


def _some(rng: random.Random, of: Sequence[_T], n: int, *without: _T) -> list[_T]:
    """`n` of them, or all that there are."""
    left = [x for x in of if x not in without]
    return rng.sample(left, min(n, len(left)))


def tints(rng: random.Random, color: str, n: int, *without: str) -> list[str]:
    """`n` other colours: the nearest to it (in RGB, green and red weighing more than blue), and others by chance."""
    left = [c for c in COLORS if c not in (color, *without)]
    near = min(
        left, key=lambda c: sum(w * (a - b) ** 2 for w, a, b in zip((3, 4, 2), COLORS[c], COLORS[color], strict=True))
    )
    return [near, *_some(rng, left, n - 1, near)] if n else []


def like(rng: random.Random, kind: str, n: int) -> list[str]:
    """`n` other kinds: the nearest silhouette, the round one, and others by chance."""
    near = similar(kind)
    first = list(dict.fromkeys((near[0], ROUND if kind != ROUND else near[1], near[1])))
    return (first + _some(rng, near, n, *first))[:n]


def _others(look: StyledScene, *without: Thing | None) -> list[Thing]:
    """Objects that can be seen, other than these."""
    return [t for t in look.scene.things if t not in without and visible_share(t, look.scene) > 0.5]


def _swaps(rng: random.Random, old: Thing | None, new: Thing | None, before: StyledScene) -> Iterator[WrongAnswer]:
    if new is None:
        assert old is not None
        yield from _left_standing(rng, old, before)
    elif old is None or old.kind != new.kind:
        yield from _wrong_comers(rng, old, new, before)
    else:
        yield from _wrong_changes(rng, old, new, before)


def _variants(
    rng: random.Random, old: Thing | None, new: Thing, before: StyledScene, kinds: int, colors: int
) -> Iterator[WrongAnswer]:
    """`new` with another kind, colour or texture."""
    guises = [replace(new, kind=kind) for kind in like(rng, new.kind, kinds + 1)]
    for guise in [guise for guise in guises if guise != old][:kinds]:
        yield "kind", Swap(old, guise).on(before)
    usual = [old.color] if old and old.color != new.color else []
    for color in (usual + tints(rng, new.color, colors, *usual))[:colors]:
        yield "color", Swap(old, replace(new, color=color)).on(before)


def _wrong_comers(rng: random.Random, old: Thing | None, new: Thing, before: StyledScene) -> Iterator[WrongAnswer]:
    """For something new, in place of another or of nothing."""
    yield from _variants(rng, old, new, before, 4, 3)
    for texture in _some(rng, TEXTURES, 1, new.texture):
        yield "texture", Swap(old, replace(new, texture=texture)).on(before)
    if old is None:
        here = new.x, new.y
        for x, y in _some(rng, tuple(PLACES.values()), 2, here):
            yield "place", Swap(None, replace(new, x=x, y=y)).on(before)
        for other in _others(before)[-2:]:
            yield "object", Swap(other, _as(new, other)).on(before)
        return
    yield "object", Swap(old, None).on(before)
    for other in sorted(_others(before, old), key=lambda thing: thing.name != new.name)[:2]:
        if other.name == new.name:  # both are there: the two may be taken for each other
            reverse = Swap(other, replace(other, kind=old.kind, color=old.color))
            yield "object", reverse.on(before)
            yield "object", reverse.on(Swap(old, new).on(before))
        else:
            yield "object", Swap(other, _as(new, other)).on(before)


def _as(new: Thing, there: Thing) -> Thing:
    """`new`, where another object is."""
    return replace(there, kind=new.kind, color=new.color, texture=new.texture, wears=new.wears)


def _left_standing(rng: random.Random, old: Thing, before: StyledScene) -> Iterator[WrongAnswer]:
    """For nothing in place of an object: something is left, or another went."""
    yield from _variants(rng, old, old, before, 3, 3)
    for texture in _some(rng, TEXTURES, 1, old.texture):
        yield "texture", Swap(old, replace(old, texture=texture)).on(before)
    x, y = max(PLACES.values(), key=lambda place: abs(place[0] - old.x) + abs(place[1] - old.y))
    yield "place", Swap(None, replace(old, x=x, y=y)).on(Swap(old, None).on(before))
    yield "object", Swap(old, replace(old, obscured=True)).on(before)
    for other in _others(before, old)[-2:]:
        yield "object", Swap(other, None).on(before)
        yield "object", Swap(other, None).on(Swap(old, None).on(before))


def _wrong_changes(rng: random.Random, old: Thing, new: Thing, before: StyledScene) -> Iterator[WrongAnswer]:
    """For an object that keeps its kind: another colour, texture or accessory, or pixels over it."""
    if new.obscured:
        clear = replace(new, obscured=False)
        yield from _variants(rng, old, clear, before, 3, 2)
        yield "style", Restyle("pixel art").on(before)
        for color in tints(rng, new.color, 2):
            yield "color", Swap(old, replace(new, color=color)).on(before)
    else:
        few = new.wears != old.wears  # there, it is the accessory that goes wrong
        yield from _variants(rng, old, new, before, 2 if few else 3, 2 if few else 4)
        for texture in _some(rng, TEXTURES, 1 if few else 2, new.texture):
            yield "texture", Swap(old, replace(new, texture=texture)).on(before)
    if new.wears != old.wears:
        yield from _wrong_wear(rng, old, new, before)
    yield "object", Swap(old, None).on(before)
    for other in _others(before, old)[-2:]:
        if new.obscured:
            same = replace(other, obscured=True)
        elif new.color != old.color:
            same = replace(other, color=new.color)
        elif new.texture != old.texture:
            same = replace(other, texture=new.texture)
        else:
            same = replace(other, wears=new.wears)
            if (
                same.wears != other.wears
                and visible_wear_share(same if same.wears else other, before.scene, behind=other) < 0.5
            ):
                continue
        if same != other:
            yield "object", Swap(other, same).on(before)
            yield "object", Swap(other, same).on(Swap(old, new).on(before))


def _wrong_wear(rng: random.Random, old: Thing, new: Thing, before: StyledScene) -> Iterator[WrongAnswer]:
    wear = new.wears or old.wears
    assert wear is not None
    for kind in _some(rng, tuple(WEARABLES), 3, wear.kind):
        yield "kind", Swap(old, replace(new, wears=Wear(kind, wear.color))).on(before)
    for color in tints(rng, wear.color, 3):
        yield "color", Swap(old, replace(new, wears=Wear(wear.kind, color))).on(before)
    yield "object", Swap(old, replace(new, wears=None)).on(before)


def _bystanders(rng: random.Random, right: StyledScene) -> Iterator[WrongAnswer]:
    """The right picture, where an object was changed as well."""
    for thing in _others(right)[-1:]:
        yield "object", Swap(thing, None).on(right)
        yield "color", Swap(thing, replace(thing, color=rng.choice([c for c in COLORS if c != thing.color]))).on(right)
        yield "kind", Swap(thing, replace(thing, kind=rng.choice([k for k in KINDS if k != thing.kind]))).on(right)


def _styles(rng: random.Random, style: str, before: StyledScene) -> Iterator[WrongAnswer]:
    for other in _some(rng, tuple(STYLES), 8, style):
        yield "style", Restyle(other).on(before)
    for name in _some(rng, tuple(BACKGROUNDS), 1, before.scene.background):
        yield "background", Ground(name).on(before)


def _grounds(rng: random.Random, name: str, before: StyledScene) -> Iterator[WrongAnswer]:
    for other in _some(rng, tuple(BACKGROUNDS), 6, name):
        yield "background", Ground(other).on(before)
    for style in _some(rng, ("night", "sunset", "fog", "cartoon"), 2):
        yield "style", Restyle(style).on(before)
    yield from _bystanders(rng, Ground(name).on(before))


def _texts(rng: random.Random, lettering: Lettering | None, before: StyledScene) -> Iterator[WrongAnswer]:
    asked = lettering or before.scene.lettering
    assert asked is not None
    words = [w for w in CAPTION_WORDS if w != asked.word]
    near = max(
        words, key=lambda w: (len(w) == len(asked.word), sum(a == b for a, b in zip(w, asked.word, strict=False)))
    )
    for word in (near, *_some(rng, words, 4, near)):
        yield "word", Text(replace(asked, word=word)).on(before)
    for color in tints(rng, asked.color, 2):
        yield "color", Text(replace(asked, color=color)).on(before)
    yield "place", Text(replace(asked, place="bottom" if asked.place == "top" else "top")).on(before)
    yield "word", Text(None).on(before)
    yield from _bystanders(rng, Text(lettering).on(before))
