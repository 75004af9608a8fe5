"""Several edits that one instruction asks for, told apart by rules: nothing is learnt here, and nobody is asked.

    Remove the ball, make the sky pink and add snow.  ->  Remove the ball. | Make the sky pink. | Add snow.

An edit ends where a separator (a full stop, `;`, `,`, `and`, `then`) stands before a verb of editing that has an object
of its own. It goes on where what follows would not stand alone: `add a hat and make it red`, `remove the cup and put a
star there`, `let him take the cup and drop it`. Where the rules are not sure, the instruction stays whole. Of several
lines each is an edit, whatever stands in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_VERBS = (
    "add|insert|remove|delete|erase|eliminate|replace|swap|exchange|substitute|change|turn|transform|convert|make|"
    "render|apply|give|lend|bring|recolor|recolour|colorize|colourise|stylize|restyle|pixelate|obscure|censor|blur|"
    "brighten|darken|lighten|sharpen|enlarge|shrink|resize|rotate|relight|put|use|get rid of|take away|take off"
)
"""Of editing, and hardly ever nouns."""
_NOUNS_TOO = (
    "place|draw|write|show|play|paint|color|colour|let|have|hand|pull|take|set|switch|hide|cover|mask|dress|"
    "wrap|fill|move|drop|tint|light|animate|crop|cut|zoom|flip|clean|surround|decorate|adjust|increase|decrease|reduce"
)
"""Verbs that count where an object's beginning follows."""
_OBJECT = (
    r"(?:the|an?|this|that|these|those|it|them|him|her|his|its|their|my|our|your|some|more|all|every|everything|"
    r"everyone|each|there|several|many|two|three|four|five|another)\b(?! (?:bit|little|lot)\b)|[\d\ue000]"
)
_PLACED = r"(?:[\w-]+ ){1,3}(?:on|in|at|over|under|behind|around) (?:the|an?|my|his|her|their)\b"
_ACTIONS = (
    "take|put|turn|throw|pick|give|hold|show|open|close|push|pull|bring|lift|move|walk|run|jump|dance|drink|eat|sit|"
    "stand|wave|smile|drop|play|talk|sing|ride|drive|fly"
)
_LIGHT = "night|day|noon|morning|evening|dusk|dawn|sunset|sunrise|winter|summer|autumn|spring|snow|rain|fog"

_NUMBER = r"(?:(?:\(?\d{1,2}[.)]|[-*\u2022])\s+)?"
_LINKS = r"(?:(?:and|then|also|next|finally|lastly|afterwards|after that|first|secondly|second|third)\b,?\s+)*"
_POLITE = r"(?:(?:please|kindly|(?:could|can|would|will) you|i(?: want|'d like) you to)\b,?\s+)*"
_VERB = (
    rf"(?:(?:{_VERBS})\s+(?=[\w\ue000])|(?:{_NOUNS_TOO})\s+(?={_OBJECT})|place\s+(?={_PLACED}))"
    r"(?!(?:sure|certain|nothing|not)\b)"
)


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.IGNORECASE)


_BEGINNING = _pattern(f"{_NUMBER}{_LINKS}{_POLITE}{_LINKS}{_VERB}")
_LEAD = _pattern(f"{_NUMBER}{_LINKS}")
_SEPARATOR = _pattern(r"(?P<end>[.!?]+\s+|;\s*)|,\s+|\s+(?=(?:and|then)\s)|\s+(?=\(?\d{1,2}[.)]\s)")
_LISTED = re.compile(r"(?:^|[.;!?,:)])\s*\(?\d{1,2}\.$")
"""The full stop of `2.` is no sentence's."""
_QUOTED = re.compile(
    "\"[^\"]*\"|\u201c[^\u201d]*\u201d|\u00ab[^\u00bb]*\u00bb|(?<!\\w)'[^']*'(?!\\w)|\u2018[^\u2019]*\u2019(?!\\w)"
)
_SCENE_AS_IT = _pattern(
    rf"\bit (?:(?:in|into|at|to|an?|be|look|look like)(?: [\w-]+){{0,4}}? (?:style|look|{_LIGHT})|{_LIGHT})\b"
)
_FROM_BEFORE = _pattern(
    r"\b(?:it|them|they|him|she|he|too|as well|likewise|the rest|everything else|the others?|other ones?|another one|"
    r"the same)\b|\bthere\b(?! (?:be|is|are|should)\b)|^\W*\w+ (?:its|their|his|her)\b|\bher$"
)
"""What speaks of something that was named before."""
_CAUSING = _pattern(
    rf"{_NUMBER}{_LINKS}{_POLITE}(?:make|let|have)\s.*?(?<!\bthe)(?<!\ba)(?<!\ban)\s(?:{_ACTIONS})\b(?!-)"
)
"""Somebody is to do something, so that a second verb is more likely his."""
_UNFINISHED = _pattern(
    rf"{_NUMBER}{_LINKS}{_POLITE}"
    r"(?:make|let|have|give|turn|change|replace|swap|exchange|set|put|place)\s+(?:the|an?)\s+[\w-]+"
)


def split_by_rules(instruction: str) -> tuple[str, ...]:
    """The edits of an instruction, each a sentence; what is one edit comes out as it is. Empty where a number of a
    list, or what stands between two `;`, says nothing."""
    lines = [line.strip() for line in instruction.splitlines() if line.strip()]
    if len(lines) > 1:
        return tuple(_pattern(_NUMBER).sub("", f"{line} ", count=1).strip() for line in lines)
    parts = list(_parts(instruction))
    return tuple(map(_as_sentence, parts)) if parts[1:] else (instruction,)


def join_edits(edits: Iterable[str]) -> str:
    """One instruction that the rules split into these again."""
    return "\n".join(" ".join(edit.split()) for edit in edits)


def _parts(text: str) -> Iterator[str]:
    hidden = _QUOTED.sub(lambda found: "\ue000" * len(found[0]), text)
    first = _BEGINNING.match(hidden)
    if first is None:
        yield text
        return
    cuts, begun = list[re.Match[str]](), first.end()
    for cut in _SEPARATOR.finditer(hidden):
        beginning = _BEGINNING.match(hidden, cut.end())
        of_a_list = _LISTED.search(hidden, 0, cut.start() + 1)
        if cut.start() >= begun and not of_a_list and (beginning or hidden[cut.end() : cut.end() + 1] == ";"):
            cuts.append(cut)
            begun = beginning.end() if beginning else 0
    start, stops = 0, [*(cut.start() for cut in cuts), len(hidden)]
    for cut, stop in zip(cuts, stops[1:], strict=True):
        before, after = hidden[start : cut.start()], hidden[cut.end() : stop]
        if not _goes_on(before, after, bool(cut["end"])):
            yield text[start : cut.start()]
            start = cut.end()
    yield text[start:]


def _goes_on(before: str, after: str, ended: bool) -> bool:
    """Whether two clauses are one edit; `ended` by more than a comma or a word."""
    said = re.split(r"[.!?]+\s", _LEAD.sub("", after, count=1).lstrip())[0].rstrip(" .!?,;")
    if _FROM_BEFORE.search(_SCENE_AS_IT.sub("", said)):
        return True
    return not ended and bool(_CAUSING.match(before) or _UNFINISHED.fullmatch(before))


def _as_sentence(text: str) -> str:
    said = _LEAD.sub("", text.strip(), count=1).rstrip(" ,;")
    if not said:
        return ""
    return f"{said[0].upper()}{said[1:]}{'' if said[-1] in '.!?' else '.'}"
