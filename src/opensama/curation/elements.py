"""What is in a clip: foreground elements and background by their names, their masks over time, and a planned edit."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

EDIT_KINDS = ("remove", "replace", "recolor", "background")
"""Edits that are made, by their task names."""
REVERSE_KINDS = {"remove": "add", "replace": "replace", "recolor": "recolor", "background": "background"}
"""The task of the edit back."""
_ASKED = {
    "remove": "Remove the {element}.",
    "replace": "Replace the {element} with {new}.",
    "recolor": "Make the {element} {new}.",
    "background": "Change the background to {new}.",
}
BACKGROUND = "background"  # the kind, and the name of everything that is not in front


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames in memory, uint8 [t h w 3], frames a second, and the file that they come from."""

    path: Path
    frames: np.ndarray
    fps: float


@dataclass(frozen=True)
class Element:
    """Something in the foreground, by a name that singles it out."""

    name: str
    person: bool = False


@dataclass(frozen=True)
class Elements:
    """What is in front, and words for what is behind."""

    foreground: tuple[Element, ...]
    background: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Masklet:
    """The mask of one element over time (the word of the SAM 2 paper), bool [t h w]."""

    name: str
    masks: np.ndarray
    score: float
    """How sure the detector is, 0 to 1."""
    ambiguous: int = 0
    """Other things that match the name about as well: then the name does not single it out."""


@dataclass(frozen=True)
class PlannedEdit:
    """What is to be made of a clip: the kind of edit, the element, and the edited clip in words."""

    kind: str
    element: str
    new: str
    """What comes in its place; empty where nothing does."""
    caption: str
    before: str = ""
    """The clip as it is, in words."""

    @property
    def asked(self) -> str:
        """What an editor is told to do."""
        return _ASKED[self.kind].format(element=self.element, new=self.new)

    def to_dict(self) -> dict[str, str]:
        return asdict(self)
