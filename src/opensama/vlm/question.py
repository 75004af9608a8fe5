"""A question with images, whoever answers it, and the errors that stand for no answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np

IMAGE = "<image>"
"""In a question's text: here the next of its images is shown."""


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
