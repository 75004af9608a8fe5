"""Reading a model's answer: reasoning is left out, one JSON object or mark is found, and a truncated answer is told."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator

from opensama.vlm.question import VlmFailed

NESTED = 8  # braces that are tried as the end of an object that is not quite JSON


class BadAnswer(ValueError):
    """An answer that is not what was asked for."""


def answer_json(text: str) -> dict[str, object]:
    """The one JSON object of an answer, bare, in a fence or among words. BadAnswer if there is none, or several.

    Reasoning before `</think>` does not count. Of several objects the one in a fence, or behind "final answer", is it.
    """
    said = strip_reasoning(text)
    found = _objects(said)
    if len(found) > 1 and all(value == found[0] for value in found):
        found = found[:1]
    for part in (_FENCE.findall(said), _FINAL.split(said)[1:]):
        if len(found) > 1 and len(part) == 1 and len(marked := _objects(part[0])) == 1:
            found = marked
    if len(found) != 1:
        short = said if len(said) <= 120 else said[:117] + "..."
        raise BadAnswer(f"the answer has {len(found) or 'no'} JSON object{'s' * (len(found) > 1)}: {short!r}")
    return found[0]


def strip_reasoning(text: str) -> str:
    """An answer without the reasoning up to `</think>`; empty where that does not end.

    A `</think>` inside an object, as one of its words, does not count.
    """
    ends = [match.end() for match in re.finditer("</think>", text)]
    for begin, end in reversed(list(zip([0, *ends], ends, strict=False))):
        if not any(start < end < stop for _, start, stop in _spans(text, begin)):
            return text[end:]
    return "" if text.lstrip().startswith("<think>") else text


def check_answer(text: str, *, cut: bool, limit: int, ended: str) -> str:
    """The answer, checked: VlmFailed where it says nothing, or was truncated before its point.

    `cut` says whether `limit` tokens truncated it, `ended` is the finish reason in the server's own words. A truncated
    answer that begins with its object or its mark counts as whole.
    """
    text = replace_surrogates(text)
    said = strip_reasoning(text).strip()
    if not said and not cut:
        raise VlmFailed(f"the model answered nothing ({ended})", text)
    begins = said.removeprefix("```json").lstrip()
    at_once = re.match(r"\[\s*\d+(\.\d+)?\s*\]", begins) or (begins.startswith("{") and len(_objects(said)) == 1)
    if cut and not at_once:
        raise VlmFailed(f"the answer was cut off at {limit:,} tokens ({ended}): allow more, or let it think less", text)
    return text


def number_of(value: object) -> float | None:
    """A mark as models write it: 9, "9", "9/10", "9 out of 10". None for anything else."""
    if isinstance(value, str):
        told = _MARK.fullmatch(value)
        return float(told[1]) if told else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL | re.IGNORECASE)
_FINAL = re.compile(r"final answer", re.IGNORECASE)
_MARK = re.compile(r"\s*(-?\d+(?:\.\d+)?)\s*(?:(?:/|out of)\s*10(?:\.0)?)?\s*", re.IGNORECASE)


def replace_surrogates(text: str) -> str:
    """The text with a question mark for each half of a character ("\\ud83d" alone), which no file can hold."""
    return text.encode("utf-8", "replace").decode()


def _objects(text: str) -> list[dict[str, object]]:
    return [json.loads(replace_surrogates(json.dumps(value, ensure_ascii=False))) for value, _, _ in _spans(text)]


def _spans(text: str, place: int = 0) -> Iterator[tuple[dict[str, object], int, int]]:
    """The objects from a place on, none within another, with where they begin and end."""
    decoder = json.JSONDecoder()
    place = text.find("{", place)
    while place >= 0:
        try:
            value, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            value, end = _literal(text, place)
        if isinstance(value, dict):
            yield value, place, end
        place = text.find("{", end)


def _literal(text: str, place: int) -> tuple[object, int]:
    """An object as Python prints it, or with a comma too many, and its end; else None, and the next place."""
    end = text.find("}", place) + 1
    for _ in range(NESTED):
        if not end:
            break
        try:
            value = ast.literal_eval(text[place:end])
            json.dumps(value)
            return value, end
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            end = text.find("}", end) + 1
    return None, place + 1
