"""A question with images, whoever answers it, and the errors that stand for no answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from opensama.values import Video

if TYPE_CHECKING:
    import numpy as np

IMAGE = "<image>"
"""In a question's text: here the next of its images is shown."""
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


@dataclass(frozen=True, eq=False)
class Question:
    """Text with images (uint8 `h w 3`), shown where the text says `IMAGE`, or before the text if it never does."""

    text: str
    images: tuple[np.ndarray, ...] = ()
    system: str = ""
    max_tokens: int = 512
    temperature: float = 0.0
    turn: int = 0
    """Which repetition of the question this is: each is asked, and cached, on its own."""

    def __post_init__(self) -> None:
        if self.text.count(IMAGE) not in (0, len(self.images)):
            raise ValueError(f"the text has {self.text.count(IMAGE)} places for {len(self.images)} images")
        for image in self.images:
            if image.dtype.name != "uint8" or image.ndim != 3 or image.shape[2] != 3:
                raise ValueError(f"images are uint8 (h, w, 3), not {image.dtype} {image.shape}")

    def parts(self) -> list[str | np.ndarray]:
        """Text and images (uint8 `h w 3`) in reading order, without empty texts."""
        texts = self.text.split(IMAGE) if IMAGE in self.text else [""] * len(self.images) + [self.text]
        parts: list[str | np.ndarray] = [texts[0]]
        for image, text in zip(self.images, texts[1:], strict=True):
            parts += [image, text]
        return [part for part in parts if not isinstance(part, str) or part.strip()]

    def digest(self, model: str) -> str:
        """SHA-256, in hexadecimal, of everything that decides the answer."""
        found = hashlib.sha256()
        for image in self.images:
            found.update(f"{image.shape}".encode())
            found.update(image.tobytes())
        rest = [self.text, self.system, model, self.max_tokens, float(self.temperature), self.turn]
        found.update(json.dumps(rest).encode())
        return found.hexdigest()


class Vlm(Protocol):
    """A vision-language model, wherever it runs. Threads may ask at once."""

    @property
    def name(self) -> str:
        """The model's name, a part of the cache's keys."""
        ...

    def ask(self, question: Question) -> str:
        """The answer. Raises VlmRefused, VlmFailed, VlmUnavailable or VlmQuota."""
        ...


@dataclass(frozen=True)
class ScriptedVlm:
    """A function in place of a model, for tests and for the drawn world."""

    function: Callable[[Question], str]
    name: str = "scripted"

    def ask(self, question: Question) -> str:
        return self.function(question)


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
