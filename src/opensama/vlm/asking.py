"""What is asked and what comes back: questions with pictures, answers as text or as one JSON object."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from opensama.values import Video

if TYPE_CHECKING:
    import numpy as np

IMAGE = "<image>"
"""In a question's text: here the next of its images is shown."""
SEEK_FROM = 48  # frames between two wanted ones; nearer ones are reached faster by decoding


class VlmRefused(Exception):
    """The model would not answer this question; another may be answered."""


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
        """The answer. Raises VlmRefused, VlmUnavailable or VlmQuota."""
        ...


@dataclass(frozen=True)
class ScriptedVlm:
    """A function that answers, for tests and for the drawn world."""

    function: Callable[[Question], str]
    name: str = "scripted"

    def ask(self, question: Question) -> str:
        return self.function(question)


def answer_json(text: str) -> dict[str, Any]:
    """The one JSON object of an answer, bare, in a fence or among words. BadAnswer if there is none, or several."""
    found = _objects(text)
    if len(found) != 1:  # some models reason aloud before they answer
        found = _objects(text.rpartition("</think>")[2])
    if len(found) != 1:
        short = text if len(text) <= 120 else text[:117] + "..."
        raise BadAnswer(f"the answer has {len(found) or 'no'} JSON object{'s' * (len(found) > 1)}: {short!r}")
    return found[0]


def whole(text: str) -> str:
    """The text with a question mark for each half of a character ("\\ud83d" alone), which no file can hold."""
    return text.encode("utf-8", "replace").decode()


def _objects(text: str) -> list[dict[str, Any]]:
    decoder = json.JSONDecoder()
    found: list[dict[str, Any]] = []
    place = text.find("{")
    while place >= 0:
        try:
            value, end = decoder.raw_decode(text, place)
            found.append(json.loads(whole(json.dumps(value, ensure_ascii=False))))
        except (ValueError, RecursionError):
            end = place + 1
        place = text.find("{", end)
    return found


def frames_for(
    video: Video, number: int = 8, side: int = 448, *, start: float | None = None, end: float | None = None
) -> tuple[np.ndarray, ...]:
    """Up to `number` frames from first to last, evenly spread, the longer side at most `side`: uint8 `h w 3`.

    `start` and `end` are seconds: only frames shown between them count (at least one).
    """
    seconds = [float(stamp * video.time_base) for stamp in video.timestamps]
    inside = [i for i, at in enumerate(seconds) if (start is None or at >= start - 1e-6) and (end is None or at < end)]
    inside = inside or [min(range(len(seconds)), key=lambda i: abs(seconds[i] - (start or 0.0)))]
    count = max(1, min(number, len(inside)))
    wanted = [inside[round(i * (len(inside) - 1) / max(1, count - 1))] for i in range(count)]
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
