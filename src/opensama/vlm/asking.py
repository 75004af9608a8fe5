"""What is asked and what comes back: questions with pictures, answers as text or as one JSON object."""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from opensama.values import Video

if TYPE_CHECKING:
    import numpy as np

IMAGE = "<image>"
"""In a question's text: here the next of its images is shown."""
NESTED = 8  # braces that are tried as the end of an object that is not quite JSON
SEEK_FROM = 48  # frames between two wanted ones; nearer ones are reached faster by decoding


class VlmRefused(Exception):
    """The model, or the filter before it, would not answer this question for what it holds: a verdict, which lasts."""


class VlmFailed(Exception):
    """No whole answer came, for a reason that may be mended: the request was not taken, the answer cut off or empty.

    `said` is the part of the answer that came.
    """

    def __init__(self, reason: str, said: str = "") -> None:
        super().__init__(reason)
        self.said = said


class VlmUnavailable(Exception):
    """Nobody answered, after all retries."""


class VlmQuota(Exception):
    """The budget or the account's quota is spent: stop here, and go on another time."""


class BadAnswer(ValueError):
    """An answer that is not what was asked for."""


@dataclass(frozen=True, eq=False)
class Question:
    """Text with images (uint8 `h w 3`), shown where the text says `IMAGE`, or before the text if it never does."""

    text: str
    images: tuple[np.ndarray, ...] = ()
    system: str = ""
    max_tokens: int = 512
    temperature: float = 0.0
    turn: int = 0
    """The same question in another turn is asked, and kept, apart."""

    def __post_init__(self) -> None:
        if self.text.count(IMAGE) not in (0, len(self.images)):
            raise ValueError(f"the text has {self.text.count(IMAGE)} places for {len(self.images)} images")
        for image in self.images:
            if image.dtype.name != "uint8" or image.ndim != 3 or image.shape[2] != 3:
                raise ValueError(f"images are uint8 (h, w, 3), not {image.dtype} {image.shape}")

    def parts(self) -> list[str | np.ndarray]:
        """Text and images in the order in which they are to be read."""
        texts = self.text.split(IMAGE) if IMAGE in self.text else [""] * len(self.images) + [self.text]
        parts: list[str | np.ndarray] = [texts[0]]
        for image, text in zip(self.images, texts[1:], strict=True):
            parts += [image, text]
        return [part for part in parts if not isinstance(part, str) or part.strip()]

    def digest(self, model: str) -> str:
        """SHA-256 of everything that decides the answer."""
        found = hashlib.sha256()
        for image in self.images:
            found.update(f"{image.shape}".encode())
            found.update(image.tobytes())
        rest = [self.text, self.system, model, self.max_tokens, float(self.temperature), self.turn]
        found.update(json.dumps(rest).encode())
        return found.hexdigest()


class Vlm(Protocol):
    """Who can be asked."""

    @property
    def name(self) -> str:
        """What answers are kept under."""
        ...

    def ask(self, question: Question) -> str:
        """The answer. Raises VlmRefused, VlmFailed, VlmUnavailable or VlmQuota."""
        ...


@dataclass(frozen=True)
class ScriptedVlm:
    """A function that answers, for tests and for the drawn world."""

    function: Callable[[Question], str]
    name: str = "scripted"

    def ask(self, question: Question) -> str:
        return self.function(question)


def answer_json(text: str) -> dict[str, Any]:
    """The one JSON object of an answer, bare, in a fence or among words. BadAnswer if there is none, or several.

    Thoughts before `</think>` do not count. Of several objects the one in a fence, or behind "final answer", is it.
    """
    said = spoken(text)
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


def spoken(text: str) -> str:
    """An answer without the thoughts before it; empty where these do not end.

    An end that stands within an object, as one of its words, ends no thoughts.
    """
    ends = [match.end() for match in re.finditer("</think>", text)]
    for begin, end in reversed(list(zip([0, *ends], ends, strict=False))):
        if not any(start < end < stop for _, start, stop in _spans(text, begin)):
            return text[end:]
    return "" if text.lstrip().startswith("<think>") else text


def looks_cut(text: str) -> bool:
    """Whether an answer that was kept without its reason to end says nothing, or ends within an object."""
    said = spoken(text)
    return not said.strip() or said.count("{") > said.count("}")


def finished(text: str, *, cut: bool, limit: int, ended: str) -> str:
    """An answer as it came, with whether `limit` tokens cut it off, and why it ended in the server's own words.

    VlmFailed for one that says nothing, or was cut off before its point: an object or a mark that it begins with is
    whole all the same.
    """
    text = whole(text)
    said = spoken(text).strip()
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


def whole(text: str) -> str:
    """The text with a question mark for each half of a character ("\\ud83d" alone), which no file can hold."""
    return text.encode("utf-8", "replace").decode()


def _objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(whole(json.dumps(value, ensure_ascii=False))) for value, _, _ in _spans(text)]


def _spans(text: str, place: int = 0) -> Iterator[tuple[dict[str, Any], int, int]]:
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


def frames_for(
    video: Video, number: int = 8, side: int = 448, *, start: float | None = None, end: float | None = None
) -> tuple[np.ndarray, ...]:
    """Up to `number` frames from first to last, evenly spread, the longer side at most `side`: uint8 `h w 3`.

    `start` and `end` are seconds, see `Video.frame_range`.
    """
    first, stop = video.frame_range(start, end)
    count = max(1, min(number, stop - first))
    wanted = [first + round(i * (stop - 1 - first) / max(1, count - 1)) for i in range(count)]
    if count > 1 and (wanted[-1] - wanted[0]) / (count - 1) > SEEK_FROM:
        return tuple(_small(frame, side) for i in wanted for frame in video.frames(i, i + 1))
    every = enumerate(video.frames(wanted[0], wanted[-1] + 1), wanted[0])
    keep = set(wanted)
    return tuple(_small(frame, side) for i, frame in every if i in keep)


def _small(frame: np.ndarray, side: int) -> np.ndarray:
    import numpy as np
    from PIL import Image

    if frame.dtype != np.uint8:
        frame = (frame // 257).astype(np.uint8)
    height, width = frame.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return np.ascontiguousarray(frame)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0))
