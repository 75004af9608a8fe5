"""Edits with exact answers: what is asked, of which scene, and what comes out.

What an instruction leaves open follows a fixed rule. A new object takes the old one's place, size, motion and depth
and, unless another is named, its colour; it is plain and wears nothing unless that is said. An added object stands in
front of all others at the named place of the first frame, at the default size, and moves with the scene. A new colour
leaves texture and accessory, a new texture leaves the rest; a named background looks as its name says; a new caption
text takes the old one's place and colour; a style is a function of the frames.

`train` and `test` are apart in two ways: a fifth of the (kind, colour) pairs is edited, or comes in, only in `test`;
and a third or so of the phrasings (see `phrasing`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

from opensama.world.kinds import KINDS
from opensama.world.phrasing import Split
from opensama.world.scenes import COLORS, TIERS, TierName
from opensama.world.styled_scenes import Change, StyledScene
from opensama.world.wrong_answers import WrongAnswer, wrong_answers

EDIT_FAMILIES = TIERS["full"].families
OBJECT_FAMILIES = ("replace", "remove", "recolor", "retexture", "accessory", "obscure")  # of an object that is there
CONTROL_FAMILIES = ("absent", "swapped")


def held_out(kind: str, color: str) -> bool:
    """Whether this pair is edited only in `test` (two of the ten colours of each kind)."""
    return (3 * KINDS.index(kind) + tuple(COLORS).index(color)) % 5 == 0


@lru_cache
def pairs(split: Split, tier: TierName = "full") -> tuple[tuple[str, str], ...]:
    """The (kind, colour) pairs that are edited on this side of the split."""
    there = TIERS[tier]
    return tuple((k, c) for k in there.kinds for c in there.colors if held_out(k, c) == (split == "test"))


@dataclass(frozen=True)
class EditPart:
    """One of the one or two edits that an instruction asks for."""

    family: str
    edited: str  # the object, style, background or word that it is about
    instruction: str  # what asks for this part alone
    change: Change
    before: StyledScene  # the right answer without this part
    seed: str

    @cached_property
    def wrong(self) -> tuple[WrongAnswer, ...]:
        """At least eight looks, each with what is wrong with it, that are right in all but this part."""
        return wrong_answers(self.change, self.before, self.seed)


@dataclass(frozen=True)
class EditPlan:
    """An edit before it is drawn."""

    family: str
    instruction: str
    source: StyledScene
    target: StyledScene
    parts: tuple[EditPart, ...]

    @property
    def caption(self) -> str:
        """The target in words."""
        return self.target.caption

    @property
    def edited(self) -> str:
        return " and ".join(part.edited for part in self.parts)
