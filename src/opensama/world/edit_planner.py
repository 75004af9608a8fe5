"""Drawing an edit by a seed: a scene that suits it, what changes, and the instruction in words."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from opensama.world import phrasing
from opensama.world.backgrounds import BACKGROUNDS
from opensama.world.edits import CONTROL_FAMILIES, EDIT_FAMILIES, OBJECT_FAMILIES, EditPart, EditPlan, pairs
from opensama.world.letters import CAPTION_WORDS
from opensama.world.phrasing import Split
from opensama.world.scenes import (
    COLORS,
    DEFAULT_SIZE,
    PLACES,
    TEXTURES,
    TIERS,
    Scene,
    Thing,
    TierName,
    Wear,
    an,
    sample_lettering,
    sample_scene,
)
from opensama.world.styled_scenes import (
    HOURS,
    WEATHERS,
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

KEEP_COLORS = ("watercolor", "cartoon", "sunset", "rain")  # through which colours and small things stay what they are
_SEEN = ((0.0, 0.65), (0.5, 0.4), (1.0, 0.4))  # seconds, and how much of an edited object is seen there at least


def plan_edit(
    seed: int | str,
    split: Split = "train",
    family: str | None = None,
    photos: Sequence[Path] | None = None,
    tier: TierName = "full",
) -> EditPlan:
    """One edit, the same for the same arguments. Without a family, one of the tier's is drawn."""
    name = f"{'' if tier == 'full' else f'{tier}/'}{split}/{family}/{seed}"
    rng = random.Random(name)
    known = TIERS[tier].families
    family = family or rng.choice(known)
    if family not in known + CONTROL_FAMILIES:
        raise ValueError(f"unknown family {family!r}: choose one of {', '.join(known + CONTROL_FAMILIES)}")
    while True:
        try:
            return _draw(rng, split, family, photos, name, tier)
        except _Unsuitable:
            continue


class _Unsuitable(Exception):
    """This scene does not suit this edit: draw another."""


@dataclass(frozen=True)
class _Request:
    family: str
    edited: str
    text: str
    change: Change


def _draw(
    rng: random.Random, split: Split, family: str, photos: Sequence[Path] | None, name: str, tier: TierName
) -> EditPlan:
    if family == "two":
        one = rng.choice((*OBJECT_FAMILIES, "add"))
        families = [one, rng.choice([f for f in EDIT_FAMILIES if f not in (one, "two")])]
        rng.shuffle(families)
    else:
        families = ["replace" if family == "swapped" else family]
    subjects = sum(f in OBJECT_FAMILIES for f in families) + (family == "swapped")
    scene = sample_scene(rng, rng.choice(pairs(split, tier)) if subjects else None, photos, tier)
    planner = _EditPlanner(rng, split, scene, joined=family == "two", tier=tier)
    if family == "absent":
        request = planner.ask(rng.choice([f for f in OBJECT_FAMILIES if f in TIERS[tier].families]), planner.nobody())
        return EditPlan(family, phrasing.as_sentence(request.text), StyledScene(scene), StyledScene(scene), ())
    if "text" in families:
        planner.write()
    chosen = planner.choose(subjects)
    if family == "swapped":
        old, other = (planner.bare(thing) for thing in chosen)
        parts = [planner.swap(old, other)]
    else:
        who = dict(zip([f for f in families if f in OBJECT_FAMILIES], chosen, strict=True))
        if "accessory" in who:
            who["accessory"] = planner.dress(who["accessory"])
        parts = [planner.ask(f, who[f]) if f in who else planner.ask(f) for f in families]
    text = parts[0].text if len(parts) == 1 else phrasing.join(rng, split, parts[0].text, parts[1].text)
    source = StyledScene(planner.scene)
    changes = [p.change for p in parts]
    return EditPlan(
        family,
        phrasing.as_sentence(text),
        source,
        _after(source, changes),
        tuple(
            EditPart(
                p.family, p.edited, phrasing.as_sentence(p.text), p.change,
                _after(source, changes[:i] + changes[i + 1 :]), f"{name}/{i}",
            )
            for i, p in enumerate(parts)
        ),
    )  # fmt: skip


def _after(look: StyledScene, changes: Sequence[Change]) -> StyledScene:
    for change in changes:
        look = change.on(look)
    return look


class _EditPlanner:
    """Makes a scene fit for an edit, and the edit and its words. Raises `_Unsuitable` where they do not go together."""

    def __init__(self, rng: random.Random, split: Split, scene: Scene, joined: bool, tier: TierName):
        self.rng, self.split, self.scene, self.joined = rng, split, scene, joined
        self.pairs, self.plain = pairs(split, tier), TIERS[tier].plain
        self.taken = {t.name for t in scene.things}  # names that stand for one object, or soon will

    def _say(self, key: str, **words: str) -> str:
        return phrasing.clause(self.rng, key, self.split, self.joined, **words)

    def _put(self, old: Thing, new: Thing) -> Thing:
        """Alters the source."""
        self.scene = Swap(old, new).on(StyledScene(self.scene)).scene
        return new

    # The scene.

    def choose(self, n: int) -> list[Thing]:
        """`n` objects that can be seen, with pairs of this side of the split."""
        mine = [t for t in self.scene.things if self._seen(t)]
        known = [t for t in mine if (t.kind, t.color) in self.pairs]
        if len(mine) < n or (n and not known):
            raise _Unsuitable
        if n < 2:
            return self.rng.sample(known, n)
        first = self.rng.choice(known)
        second = self.rng.choice([t for t in mine if t is not first])
        if second not in known:
            kind, color = self._new_pair()
            self.taken.discard(second.name)
            second = self._put(second, replace(second, kind=kind, color=color))
        return [first, second]

    def _seen(self, thing: Thing) -> bool:
        return all(visible_share(thing, self.scene, seconds) >= share for seconds, share in _SEEN)

    def bare(self, thing: Thing) -> Thing:
        return self._put(thing, replace(thing, texture="plain", wears=None))

    def nobody(self) -> Thing:
        """An object that is not there; often another of its kind or colour is."""
        like = self.rng.choice(self.scene.things)
        draw = self.rng.random()
        kind, color = self._new_pair(kind=like.kind if draw < 0.35 else None, color=like.color if draw > 0.65 else None)
        return Thing(kind, color, 0.0, 0.0)

    def dress(self, thing: Thing) -> Thing:
        """Half of those whose accessory will be edited wear one."""
        return self._put(thing, replace(thing, wears=self._wear() if self.rng.random() < 0.5 else None))

    def write(self) -> None:
        """A caption text, if there is none."""
        if not self.scene.lettering:
            self.scene = replace(self.scene, lettering=sample_lettering(self.rng))

    def _new_pair(
        self, *, kind: str | None = None, color: str | None = None, other: str | None = None
    ) -> tuple[str, str]:
        """A pair whose name is free, of this kind or colour, or of any kind but `other`; its name is taken then."""
        left = [
            (k, c)
            for k, c in self.pairs
            if (kind is None or k == kind)
            and (color is None or c == color)
            and k != other
            and f"{c} {k}" not in self.taken
        ]
        if not left:
            raise _Unsuitable
        k, c = self.rng.choice(left)
        self.taken.add(f"{c} {k}")
        return k, c

    def _texture(self) -> str:
        """Of something new."""
        return self.rng.choice(TEXTURES[1:]) if not self.plain and self.rng.random() < 0.15 else "plain"

    def _wear(self, *without: Wear | None) -> Wear:
        while True:
            wear = Wear(self.rng.choice(tuple(WEARABLES)), self.rng.choice(tuple(COLORS)))
            if all(w is None or (w.kind != wear.kind and w.color != wear.color) for w in without):
                return wear

    # The words.

    def call(self, thing: Thing) -> str:
        """A name that singles the object out: kind alone only where no other is of its kind."""
        alone = not any(t.kind == thing.kind for t in self.scene.things if t is not thing)
        draw = self.rng.random()
        if alone and not self.joined and draw < 0.25:
            return thing.kind
        return thing.full_name if draw > 0.6 else thing.name

    # The edits.

    def ask(self, family: str, *subject: Thing) -> _Request:
        return getattr(self, f"_{family}")(*subject)

    def _replace(self, old: Thing) -> _Request:
        texture = self._texture()
        said = "" if texture == "plain" else f"{texture} "
        if self.rng.random() < 0.4:
            kind, color = self._new_pair(color=old.color, other=old.kind)
            said += kind
        else:
            kind, color = self._new_pair(other=old.kind)
            said += f"{color} {kind}"
        new = replace(old, kind=kind, color=color, texture=texture, wears=None)
        text = self._say("replace", old=self.call(old), a_new=an(said))
        return _Request("replace", old.name, text, Swap(old, new))

    def swap(self, old: Thing, other: Thing) -> _Request:
        """One of two objects becomes like the other."""
        if old.kind == other.kind:
            raise _Unsuitable
        text = self._say("replace", old=old.name, a_new=an(other.name))
        return _Request("replace", old.name, text, Swap(old, replace(old, kind=other.kind, color=other.color)))

    def _add(self) -> _Request:
        texture = self._texture()
        kind, color = self._new_pair()
        gap = 0.55 if self.joined else 0.4  # the other part's object stays in sight
        free = [
            place
            for place, (x, y) in PLACES.items()
            if all(abs(t.x - x) > gap or abs(t.y - y) > gap for t in self.scene.things)
        ]
        if not free:
            raise _Unsuitable
        place = self.rng.choice(free)
        new = Thing(kind, color, *PLACES[place], DEFAULT_SIZE, texture=texture)
        if any(visible_share(new, self.scene, seconds, ()) < share for seconds, share in _SEEN):
            raise _Unsuitable
        return _Request("add", new.name, self._say("add", a_new=an(new.full_name), place=place), Swap(None, new))

    def _remove(self, old: Thing) -> _Request:
        return _Request("remove", old.name, self._say("remove", old=self.call(old)), Swap(old, None))

    def _recolor(self, old: Thing) -> _Request:
        _, color = self._new_pair(kind=old.kind)
        text = self._say("recolor", old=self.call(old), color=color)
        return _Request("recolor", old.name, text, Swap(old, replace(old, color=color)))

    def _retexture(self, old: Thing) -> _Request:
        texture = self.rng.choice([t for t in TEXTURES if t != old.texture])
        text = self._say("retexture", old=self.call(old), texture=texture)
        return _Request("retexture", old.name, text, Swap(old, replace(old, texture=texture)))

    def _accessory(self, old: Thing) -> _Request:
        if old.wears is None:
            wear = self._wear()
            text = self._say("put on", old=self.call(old), a_wear=_a_wear(wear))
        else:
            worn = old.wears.kind if self.rng.random() < 0.6 else old.wears.name
            if self.rng.random() < 0.5:
                wear = None
                text = self._say("take off", old=self.call(old), wear=worn)
            else:
                wear = self._wear(old.wears)
                text = self._say("change wear", old=self.call(old), wear=worn, a_wear=_a_wear(wear))
        new = replace(old, wears=wear)
        worn_by = [thing for thing in (old, new) if thing.wears and old in self.scene.things]
        if any(visible_wear_share(thing, self.scene, s, old) < share for thing in worn_by for s, share in _SEEN):
            raise _Unsuitable
        return _Request("accessory", old.name, text, Swap(old, new))

    def _obscure(self, old: Thing) -> _Request:
        text = self._say("obscure", old=self.call(old))
        return _Request("obscure", old.name, text, Swap(old, replace(old, obscured=True)))

    def _background(self) -> _Request:
        name = self.rng.choice([b for b in BACKGROUNDS if b != self.scene.background])
        return _Request("background", name, self._say("background", ground=_ground(name)), Ground(name))

    def _style(self) -> _Request:
        style = self.rng.choice(KEEP_COLORS if self.joined else tuple(STYLES))
        return _Request("style", style, style_clause(self.rng, self.split, style, self.joined), Restyle(style))

    def _text(self) -> _Request:
        old = self.scene.lettering
        assert old is not None
        if self.rng.random() < 0.3:
            return _Request("text", old.word, self._say("no text", read=old.word), Text(None))
        word = self.rng.choice([w for w in CAPTION_WORDS if w != old.word])
        text = self._say("new text", read=old.word, said=word)
        return _Request("text", old.word, text, Text(replace(old, word=word)))


def style_clause(rng: random.Random, split: Split, style: str, joins: bool = False) -> str:
    """What asks for a style, without capital and full stop."""
    key = "hour" if style in HOURS else "weather" if style in WEATHERS else "look"
    return phrasing.clause(rng, key, split, joins, style=style, a_style=an(style))


def _a_wear(wear: Wear) -> str:
    return wear.name if wear.kind == "glasses" else an(wear.name)


def _ground(name: str) -> str:
    """A background's name in a sentence."""
    if name == "sea":
        return "the sea"
    return name if name == "outer space" or name.endswith("s") else an(name)
