"""What people may say: a small grammar a family of edits, with combinations kept apart for `test`.

A pattern holds choices in brackets, `[add|insert] {a_new} {place}[| of the video]`; each way through it is a phrasing.
Where the numbers of the choices taken (from 0) add up to 2 modulo 3, the phrasing is for `test` only, all others are
for `train`: a test phrasing is then a new combination of known words. Patterns that begin with `!` are statements,
which do not join with others in one sentence.
"""

from __future__ import annotations

import itertools
import random
import re
from typing import Literal

Split = Literal["train", "test"]

GRAMMAR: dict[str, tuple[str, ...]] = {
    "replace": (
        "[replace|swap|exchange] the {old} with {a_new}[| in the video]",
        "[change|turn|transform] the {old} into {a_new}[| in the video]",
        "[put|place] {a_new} [in place of|instead of] the {old}",
        "[remove|take away|erase] the {old} and [put|place] {a_new} there",
        "!there should be {a_new} [in place of|instead of] the {old}[| in the video]",
    ),
    "add": (
        "[add|insert] {a_new}[| in the video] {place}",
        "[put|place|draw] {a_new} {place}[| of the video]",
        "[show|add] {a_new} {place} of the [video|scene]",
        "![I want|there should be] {a_new} {place}[| of the video]",
    ),
    "remove": (
        "[remove|delete|erase] the {old}[| from the video| from the scene]",
        "[take away|get rid of] the {old}[| in the video]",
        "make the {old} [disappear|vanish|go away][| from the video]",
        "[show|play] the [video|scene] without the {old}",
    ),
    "recolor": (
        "[make|paint|color|turn] the {old} {color}[| in the video]",
        "[change|turn] the color of the {old} to {color}[| in the video]",
        "[change|recolor] the {old} to {color}[| in the video]",
        "!the {old} [should|must] be {color}[| in the video]",
    ),
    "retexture": (
        "[make|turn] the {old} {texture}[| in the video]",
        "give the {old} a {texture} [look|surface][| in the video]",
        "change the [look|surface] of the {old} to {texture}[| in the video]",
        "let the {old} [be|look] {texture}[| in the video]",
        "!the {old} [should|must] [be|look] {texture}",
    ),
    "put on": (
        "[put|place] {a_wear} on the {old}[| in the video]",
        "[give|hand] the {old} {a_wear}[| to wear]",
        "[let|have|make] the {old} wear {a_wear}[| in the video]",
        "!the {old} [should|must] [wear|have] {a_wear}",
    ),
    "take off": (
        "[remove|take away|take] the {wear} from the {old}[| in the video]",
        "[take|pull] the {wear} off the {old}[| in the video]",
        "make the {wear} of the {old} [disappear|vanish][| from the video]",
        "!the {old} [should|must] be without the {wear}[| in the video]",
    ),
    "change wear": (
        "[replace|swap|exchange] the {wear} of the {old} with {a_wear}[| in the video]",
        "[change|turn] the {wear} of the {old} into {a_wear}[| in the video]",
        "[let|have] the {old} wear {a_wear} [instead of|in place of] the {wear}",
        "[put|place] {a_wear} on the {old} [instead of|in place of] the {wear}",
    ),
    "background": (
        "[change|switch|set] the background to {ground}[| in the video]",
        "[replace|swap] the background with {ground}[| in the video]",
        "make {ground} the [background|backdrop][| of the video]",
        "use {ground} as the [background|backdrop][| of the video]",
        "!the background should [be|show] {ground}[| in the video]",
    ),
    "look": (
        "[turn|change] [|it |the video ]into {style} style",
        "[make|render|show] [it|the video] in {style} style",
        "apply {a_style} [style|look][| to the video]",
        "[give|lend] [it|the video] {a_style} [style|look]",
    ),
    "hour": (
        "[change|turn] the [video|scene] to {style}",
        "[set|show|put] the [video|scene] at {style}",
        "[make|let] [it|the video|the scene] look like {style}",
        "!it should [be|look like] {style}[| in the video]",
    ),
    "weather": (
        "[add|bring] {style}[| to the video| to the scene]",
        "[show|put|set] the [video|scene] in {style}",
        "[change|turn] the weather [to|into] {style}",
        "![let there|there should] be {style}[| in the video]",
    ),
    "new text": (
        '[change|set|switch] the [text|word|caption] to "{said}"',
        '[replace|swap] the [text|word] "{read}" with "{said}"',
        '[change|turn] "{read}" into "{said}"[| in the video]',
        '[make|let] the [text|word] say "{said}"',
        '!the [text|word|caption] should [say|read] "{said}"',
    ),
    "no text": (
        "[remove|delete|erase] the [text|word|caption][| from the video]",
        '[remove|delete|erase] the [text|word] "{read}"',
        "[take away|get rid of] the [text|caption][| in the video]",
        "make the [text|word] [disappear|vanish][| from the video]",
    ),
    "obscure": (
        "[pixelate|obscure|censor] the {old}[| in the video]",
        "[hide|obscure|censor] the {old} for [privacy|safety]",
        "[cover|mask] the {old} with [pixels|a mosaic][| in the video]",
        "hide the {old} behind [pixels|a mosaic][| in the video]",
        "make the {old} [anonymous|unrecognizable][| for privacy| in the video]",
    ),
    "two": (
        "[|first ]{a}[ and|,|;] then {b}",
        "{a}[ and|, and] [|also ]{b}",
    ),
}


def expand(pattern: str) -> list[tuple[str, Split]]:
    """All phrasings of a pattern, and which side of the split each is on."""
    parts = re.split(r"\[(.*?)\]", pattern.lstrip("!"))
    choices = [part.split("|") if i % 2 else [part] for i, part in enumerate(parts)]
    out: list[tuple[str, Split]] = []
    for taken in itertools.product(*(range(len(c)) for c in choices)):
        text = "".join(c[i] for c, i in zip(choices, taken, strict=True))
        out.append((text, "test" if sum(taken) % 3 == 2 else "train"))
    return out


def phrasings(key: str, split: Split, joins: bool = False) -> tuple[str, ...]:
    """The phrasings of a key of `GRAMMAR` on one side; with `joins`, only those that can be part of a sentence."""
    patterns = [p for p in GRAMMAR[key] if not (joins and p.startswith("!"))]
    return tuple(text for p in patterns for text, side in expand(p) if side == split)


_SENTENCES = {(key, split): phrasings(key, split) for key in GRAMMAR for split in ("train", "test")}
_CLAUSES = {(key, split): phrasings(key, split, True) for key in GRAMMAR for split in ("train", "test")}


def clause(rng: random.Random, key: str, split: Split, joins: bool = False, **words: str) -> str:
    """A drawn phrasing with its words, without capital and full stop."""
    return rng.choice((_CLAUSES if joins else _SENTENCES)[key, split]).format(**words)


def join(rng: random.Random, split: Split, first: str, second: str) -> str:
    """Two clauses as one, the way "two" in `GRAMMAR` says it."""
    return rng.choice(_SENTENCES["two", split]).format(a=first, b=second)


def as_sentence(text: str) -> str:
    """With a capital and a full stop."""
    return f"{text[0].upper()}{text[1:]}."
