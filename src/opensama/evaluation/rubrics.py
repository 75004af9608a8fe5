"""What a judge is told, in our own words, in the style of each benchmark; and how its answer is read.

The wording decides the marks: numbers that are to stand beside published ones need the authors' own text, which a
person may have and we may not print. `Rubric.with_text` takes it: `{instruction}` in it is filled in, or the
instruction follows at its end. Answers to either wording are read by the same parsers, which match names loosely.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Literal

from opensama.evaluation.aggregation import RECO_GROUPS
from opensama.vlm import BadAnswer, answer_json, spoken

Parser = Literal["labels", "groups", "bracket"]
SLOT = re.compile(r"\{(?:instruction|edit_prompt|prompt)\}|<(?:instruction|edit_prompt)>")


@dataclass(frozen=True)
class Mark:
    """One mark of an answer: its name in results, what the answer calls it, and its range."""

    name: str
    label: str
    low: float
    high: float
    pattern: str = ""
    """What its label looks like in other wordings, as a regular expression; without one, the label itself."""


@dataclass(frozen=True)
class Rubric:
    """One question: the text after the pictures, and the marks that it asks for."""

    name: str
    text: str
    marks: tuple[Mark, ...]
    parser: Parser = "labels"

    def filled(self, instruction: str) -> str:
        """The text with the instruction in its place."""
        plain = instruction.replace("<image>", "(image)")
        filled, places = SLOT.subn(lambda _: plain, self.text)
        return filled if places else f"{filled.rstrip()}\n\nInstruction: {plain}"

    def with_text(self, text: str) -> Rubric:
        return replace(self, text=text.replace("<image>", "(image)"))

    def read(self, answer: str) -> dict[str, float]:
        """The marks of an answer. BadAnswer where one is missing, twice and different, or out of its range."""
        answer = spoken(answer)
        marks = PARSERS[self.parser](answer, self.marks)
        for mark in self.marks:
            if not mark.low <= marks[mark.name] <= mark.high:
                raise BadAnswer(f"{mark.label} is {marks[mark.name]:g}, not from {mark.low:g} to {mark.high:g}")
        return marks


NUMBER = r"(-?\d+(?:\.\d+)?)"


def read_labels(answer: str, marks: tuple[Mark, ...]) -> dict[str, float]:
    """A JSON object with the labels as names, or lines `label: number`."""
    try:
        said: dict[str, Any] = answer_json(answer)
    except BadAnswer:
        said = {}
    found: dict[str, float] = {}
    for mark in marks:
        pattern = mark.pattern or re.escape(mark.label)
        values = {_number(value) for name, value in said.items() if re.search(pattern, str(name), re.IGNORECASE)}
        if not said:
            line = rf"^[\s*#>\"\-\d.)]*[^:\n]{{0,40}}?(?:{pattern})[^:\n]{{0,40}}[:=]\s*[*\"\s]*{NUMBER}"
            values = {float(value) for value in re.findall(line, answer, re.IGNORECASE | re.MULTILINE)}
        values.discard(None)
        if len(values) != 1:
            raise BadAnswer(f"the answer has {'several marks' if values else 'no mark'} for {mark.label}")
        found[mark.name] = float(values.pop() or 0)
    return found


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, dict):
        return _number(value.get("score"))
    told = re.match(rf"\s*{NUMBER}", value) if isinstance(value, str) else None
    return float(told[1]) if told else None


def read_groups(answer: str, marks: tuple[Mark, ...]) -> dict[str, float]:
    """ReCo-Bench's object: each group's `scores`, three in order. Only the first object of the answer counts."""
    try:
        said = answer_json(answer)
    except BadAnswer:
        said = _first_object(answer)
    found: dict[str, float] = {}
    for key, (_, names) in RECO_GROUPS.items():
        group = said.get(key)
        scores = group.get("scores") if isinstance(group, dict) else None
        if not isinstance(scores, list) or len(scores) != len(names):
            raise BadAnswer(f"the answer has no {len(names)} scores for {key}")
        numbers = [_number(score) for score in scores]
        if None in numbers:
            raise BadAnswer(f"a score of {key} is no number")
        found |= {name: float(number or 0) for name, number in zip(names, numbers, strict=True)}
    return found


def _first_object(answer: str) -> dict[str, Any]:
    depth, begin = 0, answer.find("{")
    for at in range(max(begin, 0), len(answer)):
        depth += {"{": 1, "}": -1}.get(answer[at], 0)
        if depth == 0:
            return answer_json(answer[begin : at + 1])
    raise BadAnswer("the answer has no JSON object")


def read_bracket(answer: str, marks: tuple[Mark, ...]) -> dict[str, float]:
    """`[n] explanation`; else a number with which the answer begins or after `score`."""
    (mark,) = marks
    alone = rf"^\s*\**{NUMBER}(?=[\s*/.,:;)-]|$)(?!\s*%)"
    for pattern in (rf"\[\s*{NUMBER}\s*\]", alone, rf"(?i:score|rating)\D{{0,12}}{NUMBER}"):
        if told := re.search(pattern, answer):
            return {mark.name: float(told[1])}
    raise BadAnswer("the answer has no mark in brackets")


PARSERS = {"labels": read_labels, "groups": read_groups, "bracket": read_bracket}


# --- VIE-Bench: 1 to 10

_VIE = (
    Mark("instruct", "instruct follow score (1-10)", 1, 10, r"instruct.{0,12}follow"),
    Mark("preservation", "preservation score (1-10)", 1, 10, r"preserv"),
    Mark("quality", "quality score (1-10)", 1, 10, r"quality"),
)
_VIE_LIKE = Mark("similarity", "similarity score (1-10)", 1, 10, r"similar")
_VIE_TEXT = """You rate how well a video was edited by an instruction. You have seen, in this order, {order}.

The instruction: {{instruction}}

Give each of these a whole number from 1 to 10; 1 to 3 means not met, 4 to 6 met in part, 7 to 10 met in full or nearly.
- instruct follow: is exactly what was asked for done, all of it, and nothing else instead?
- preservation: is everything that the instruction leaves alone as it was in the first video, in place and in motion?
- quality: does the second video look real and pleasing, its parts joined without seams, flicker or smears?{more}

Answer with one JSON object and nothing else:
{{"instruction": "<the instruction>", {marks}, "reason": "<what decided the marks>"}}"""


def _vie(order: str, more: str, marks: tuple[Mark, ...], name: str) -> Rubric:
    asked = ", ".join(f'"{mark.label}": <n>' for mark in marks)
    return Rubric(name, _VIE_TEXT.format(order=order, more=more, marks=asked), marks)


VIE = _vie("the original video and the edited video", "", _VIE, "vie")
VIE_REFERENCE = _vie(
    "a reference picture, the original video and the edited video",
    "\n- similarity: is the thing that came in the very one of the reference picture, in shape, colour and detail?",
    (*_VIE, _VIE_LIKE),
    "vie-reference",
)


# --- OpenVE-Bench: 1 to 5

_DONE = (
    "1: nothing was changed, or the wrong thing. 2: an attempt that misses most of it. 3: the right thing, with "
    "remains of the old one, with changes nobody asked for, or only for a while. 4: all of it but a small detail. "
    "5: exactly what was asked and nothing more, from the first frame to the last."
)
_SEAMLESS = (
    "1: broken, torn, or flickering all the time. 2: seams and jumps at first glance. 3: edges, colours or sharpness "
    "that do not fit, or a light shimmer. 4: flaws only on a close look. 5: nobody would know that it was edited."
)
_PHYSICS = (
    "1: floats, slides or stands in impossible space. 2: light, shadow or scale plainly wrong. 3: believable, with "
    "shadows, contacts or overlaps that fail now and then. 4: small slips. 5: lit, grounded, covered and moved as the "
    "scene demands."
)
_STYLE_KEPT = (
    "1: another scene. 2: main shapes lost or moved. 3: shapes kept, details or motion altered. 4: nearly all kept. "
    "5: layout, shapes and motion are those of the original."
)
_STEADY = "1: flickers all the time. 2: often. 3: visible changes of look. 4: rare. 5: one steady look throughout."
_STILL_THERE = (
    "1: much of the rest is altered. 2: several other things. 3: some, noticeably. 4: traces. 5: all is as it was."
)
_WELL_MADE = (
    "1: unwatchable. 2: strong artefacts or flicker. 3: visible ones. 4: slight ones. 5: clean and steady throughout."
)
_STYLE_DONE = (
    "1: the look is the old one, or another one. 2: a tint of it. 3: recognisable, but uneven over the picture or over "
    "time. 4: clear, small parts missing. 5: palette, strokes and texture of the style everywhere, all the time."
)

_LETTERS = (
    "Font, size, colour and place as asked, else as before. 1: none of them. 2: one. 3: most, with letters that break "
    "or flicker. 4: all but a trifle. 5: all, sharp and steady throughout."
)

_SHORT = (
    ("Instruction Compliance", _DONE, r"instruction compliance"),
    ("Consistency & Detail Fidelity", _STILL_THERE, r"consistency.{1,5}detail"),
    ("Visual Quality & Stability", _WELL_MADE, r"visual quality"),
)
_LONG = {
    "global_style": (
        ("Style Fidelity", _STYLE_DONE, ""),
        ("Content Preservation", _STYLE_KEPT, ""),
        ("Temporal Stability", _STEADY, ""),
    ),
    "background_change": (
        ("Instruction Compliance", _DONE, ""),
        ("Visual & Temporal Seamlessness", _SEAMLESS, r"seamless"),
        ("Physical Consistency", _PHYSICS, r"physical"),
    ),
    "subtitle_edit": (
        ("Prompt Compliance", "The text must read exactly as asked, letter by letter. " + _DONE, ""),
        ("Attribute Fidelity", _LETTERS, r"attribute"),
        ("Integrity of Unedited Content", _STILL_THERE, r"integrity"),
    ),
    "camera_edit": (
        ("Prompt Compliance", "Shot size, angle and framing must be those asked for. " + _DONE, ""),
        ("Visual Quality & Stability", _WELL_MADE, r"visual quality"),
        ("Consistency & Detail Fidelity", "Scene and subject must stay the same ones. " + _STILL_THERE, r"consistency"),
    ),
    "creative_edit": (
        ("Prompt Compliance", _DONE, ""),
        ("Temporal & Visual Coherence", _SEAMLESS, r"coherence"),
        ("Physical Plausibility & Detail Preservation", _PHYSICS, r"physical"),
    ),
}
_LOCAL = (
    ("Prompt Compliance", _DONE, r"(?:prompt|instruction) compliance"),
    ("Visual Naturalness & Temporal Stability", _SEAMLESS, r"naturalness|seamless"),
    ("Physical & Detail Fidelity", _PHYSICS, r"physical"),
)
_OPENVE_TEXT = """You assess an edited video beside its original. You have seen the original first and the edit second.
The task: {task}. The instruction: {{instruction}}

Give three whole numbers from 1 to 5:
{asked}

The second and the third may not be higher than the first: an edit that was not made cannot be well made.
Say in one line of at most {words} words what you saw, then end with these three lines:
{lines}"""


def openve(task: str, long: bool) -> Rubric:
    """The rubric of a type: the short form has one for all."""
    rows = _LONG.get(task, _LOCAL) if long else _SHORT
    names = ("compliance", "second", "third")
    marks = tuple(Mark(name, label, 1, 5, pattern) for name, (label, _, pattern) in zip(names, rows, strict=True))
    asked = "\n".join(f"{number}. {label}. {bands}" for number, (label, bands, _) in enumerate(rows, 1))
    lines = "\n".join(f"{mark.label}: <n>" for mark in marks)
    said = task.replace("_", " ") if long else "an edit by instruction"
    words = 30 if task == "global_style" else 20
    text = _OPENVE_TEXT.format(task=said, asked=asked, lines=lines, words=words)
    return Rubric(f"openve-{'long' if long else 'short'}" + f"-{task}" * long, text, marks)


# --- ReCo-Bench: nine marks, 1 to 10, or all 0

_RECO_SAID = {
    "SA": "is the very thing done that was asked for, not something like it",
    "SP": "in the right place and to the right extent, no more and no less",
    "CP": "is what the instruction leaves alone as it was",
    "VF": "are single frames sharp and free of artefacts",
    "TS": "are pixels steady from frame to frame, without flicker or drift",
    "ES": "does the edit last through the whole clip, with the same look",
    "AN": "do light, shadow and texture of what is new fit the scene",
    "SN": "are size and proportion believable",
    "MN": "does it move, touch and follow the camera as things do",
}
_RECO_TEXT = """Each picture shows two frames of the same moment side by side: on the left the original video, on the
right its edit. The pictures follow each other in time. Judge the edit in three groups of three marks, each a whole
number from 1 (useless) to 10 (nothing to object to). Be strict: an object that melts, a doubled outline, a colour cast
nobody asked for, or an edit that comes and goes is a bad case and gets 4 or less where it belongs.

{asked}

If the right half is the same as the left in all pictures, nothing was edited: all nine marks are then 0.

Answer with one JSON object and nothing else:
{answer}

instruction: {{instruction}}"""


def _reco(task: str) -> Rubric:
    said = _RECO_SAID | ({"CP": "are layout and shapes those of the original"} if task == "style" else {})
    blocks = [
        f"{key}, in this order:\n" + "\n".join(f"- {name}: {said[name]}?" for name in names)
        for key, (_, names) in RECO_GROUPS.items()
    ]
    answer = ", ".join(f'"{key}": {{"scores": [<n>, <n>, <n>], "reasoning": "<one sentence>"}}' for key in RECO_GROUPS)
    marks = tuple(Mark(name, name, 0, 10) for _, names in RECO_GROUPS.values() for name in names)
    text = _RECO_TEXT.format(asked="\n\n".join(blocks), answer="{" + answer + "}")
    return Rubric(f"reco-{task}" if task == "style" else "reco", text, marks, "groups")


RECO, RECO_STYLE = _reco(""), _reco("style")


# --- IVEBench: two questions, 1 to 5, and EditVerseBench: three marks, 0 to 3, for each pair of frames

IVE = (
    Rubric(
        "ive-instruction",
        "The first video is the original, the second its edit by this instruction: {instruction}\n"
        "How near is the second video to what carrying out the instruction on the first should give? "
        "1: it has nothing to do with it. 2: little of it. 3: somewhat. 4: mostly. 5: perfectly.\n"
        "Answer with the mark in square brackets and then a short explanation, as in: [3] The colour is right, but ...",
        (Mark("instruction_satisfaction", "instruction satisfaction", 1, 5),),
        "bracket",
    ),
    Rubric(
        "ive-content",
        "The first video is the original, the second its edit by this instruction: {instruction}\n"
        "Apart from what the instruction asks for, how much of the first video is kept in the second? "
        "1: a small part or none. 2: about half. 3: most. 4: nearly all. 5: all, to the detail.\n"
        "Answer with the mark in square brackets and then a short explanation, as in: [3] The street is kept, but ...",
        (Mark("content_fidelity", "content fidelity", 1, 5),),
        "bracket",
    ),
)
EDITVERSE = Rubric(
    "editverse",
    "The first picture is a frame before an edit, the second the same frame after it. The instruction: {instruction}\n"
    "Give three whole numbers from 0 (failed) over 1 (poor) and 2 (good) to 3 (perfect):\n"
    "- prompt following: is what was asked for done?\n- edit quality: is the edit clean, without artefacts?\n"
    "- background consistency: is what should stay the same?\n"
    'Answer with one JSON object: {"prompt following": <n>, "edit quality": <n>, "background consistency": <n>, '
    '"reason": "<one sentence>"}',
    (
        Mark("following", "prompt following", 0, 3, r"prompt.follow|following"),
        Mark("quality", "edit quality", 0, 3, r"edit.quality"),
        Mark("background", "background consistency", 0, 3, r"background"),
    ),
)
