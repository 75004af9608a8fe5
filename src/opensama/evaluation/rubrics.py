"""What a judge is told, and how its answer is read; each benchmark's own words stand in its file.

The texts are ours, in the style of each benchmark. The wording decides the marks: numbers that are to stand beside
published ones need the authors' own text, which a person may have and we may not print. `ScoringRubric.with_text` takes
it: `{instruction}` in it is filled in, or the instruction follows at its end. Answers to either wording are read by the
same parsers, which match names loosely.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from opensama.vlm import BadAnswer, answer_json, strip_reasoning

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


Parser = Callable[[str, tuple[Mark, ...]], dict[str, float]]
NUMBER = r"(-?\d+(?:\.\d+)?)"


def read_labels(answer: str, marks: tuple[Mark, ...]) -> dict[str, float]:
    """A JSON object with the labels as names, or lines `label: number`."""
    try:
        said = answer_json(answer)
    except BadAnswer:
        said = {}
    found: dict[str, float] = {}
    for mark in marks:
        pattern = mark.pattern or re.escape(mark.label)
        values = {number_in(value) for name, value in said.items() if re.search(pattern, str(name), re.IGNORECASE)}
        if not said:
            line = rf"^[\s*#>\"\-\d.)]*[^:\n]{{0,40}}?(?:{pattern})[^:\n]{{0,40}}[:=]\s*[*\"\s]*{NUMBER}"
            values = {float(value) for value in re.findall(line, answer, re.IGNORECASE | re.MULTILINE)}
        values.discard(None)
        if len(values) != 1:
            raise BadAnswer(f"the answer has {'several marks' if values else 'no mark'} for {mark.label}")
        found[mark.name] = float(values.pop() or 0)
    return found


def number_in(value: object) -> float | None:
    """The number that a value of a JSON answer is, begins with (`8/10`), or has under `score`; None without one."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, dict):
        return number_in(value.get("score"))
    told = re.match(rf"\s*{NUMBER}", value) if isinstance(value, str) else None
    return float(told[1]) if told else None


def read_bracket(answer: str, marks: tuple[Mark, ...]) -> dict[str, float]:
    """`[n] explanation`; else a number with which the answer begins or after `score`."""
    (mark,) = marks
    alone = rf"^\s*\**{NUMBER}(?=[\s*/.,:;)-]|$)(?!\s*%)"
    for pattern in (rf"\[\s*{NUMBER}\s*\]", alone, rf"(?i:score|rating)\D{{0,12}}{NUMBER}"):
        if told := re.search(pattern, answer):
            return {mark.name: float(told[1])}
    raise BadAnswer("the answer has no mark in brackets")


@dataclass(frozen=True)
class ScoringRubric:
    """One question: the text after the pictures, and the marks that it asks for."""

    name: str
    text: str
    marks: tuple[Mark, ...]
    parse: Parser = read_labels
    """How marks are found in an answer; BadAnswer where they are not."""

    def filled(self, instruction: str) -> str:
        """The text with the instruction in its place."""
        plain = instruction.replace("<image>", "(image)")
        filled, places = SLOT.subn(lambda _: plain, self.text)
        return filled if places else f"{filled.rstrip()}\n\nInstruction: {plain}"

    def with_text(self, text: str) -> ScoringRubric:
        return replace(self, text=text.replace("<image>", "(image)"))

    def read(self, answer: str) -> dict[str, float]:
        """The marks of an answer. BadAnswer where one is missing, twice and different, or out of its range."""
        answer = strip_reasoning(answer)
        marks = self.parse(answer, self.marks)
        for mark in self.marks:
            if not mark.low <= marks[mark.name] <= mark.high:
                raise BadAnswer(f"{mark.label} is {marks[mark.name]:g}, not from {mark.low:g} to {mark.high:g}")
        return marks
