"""How far a long job is, and what ends one: a mistake that the person can mend, or a wish to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np

_T = TypeVar("_T")


class UserError(ValueError):
    """Something that the person can mend. The message is one sentence: what is wrong, and how to mend it."""


class Cancelled(Exception):
    """Raised by a progress callback to stop an edit; it comes out of the call that was running."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Half a sentence for who mistyped a name: the nearest that there is, or all of them."""
    from difflib import get_close_matches

    known = list(known)
    near = get_close_matches(word.lower(), known, 1, 0.6)
    return f"did you mean {near[0]}?" if near else f"choose {', '.join(known)}."


def how_many(number: int, noun: str) -> str:
    """`1 item`, `1,200 items`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


@dataclass(frozen=True)
class Progress:
    """How far a long job is: `done` of `total` of a stage, counted in `unit`, `seconds` since the stage began."""

    stage: str
    done: int
    total: int
    seconds: float = 0.0
    unit: str = ""
    preview: Callable[[], np.ndarray] | None = field(default=None, compare=False, repr=False)
    """Makes a small picture `h w 3`, uint8, of what the edit looks like by now, where there is something to see."""
    edit: tuple[int, int] = (0, 1)
    """Which edit of a chain is made, from 0 on, and of how many; `stage` says so in words."""

    @property
    def fraction(self) -> float:
        return self.done / self.total if self.total else 0.0


def counted(items: Sequence[_T], stage: str, progress: Callable[[Progress], None] | None) -> Iterator[_T]:
    """The items one after another; `progress` hears of each when the next is asked for."""
    began = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        if progress is not None:
            progress(Progress(stage, done, len(items), time.monotonic() - began))
