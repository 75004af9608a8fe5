"""What a person may choose in the three curation commands, with defaults and bounds. Wrong values are `UserError`s.

The classes import nothing heavy: the command line builds its options from their fields and their sections `Parameters`.
"""

from __future__ import annotations

from dataclasses import dataclass

from opensama.values import UserError, frames_down

LOW_MOTION, HIGH_MOTION = 0.01, 0.6  # frame diagonals a second: our own, the paper does not give its thresholds
MOST_KINDS = 4  # of edits that can be made of an element


@dataclass(frozen=True)
class ClipRules:
    """Which videos and scenes are kept, and how they are cut into clips.

    Parameters
    ----------
    frames
        Of each clip; models take 4k+1.
    pairs
        Of each scene, at most; no clip is in two.
    min_seconds
        Shorter videos are left out.
    max_seconds
        Longer videos are left out.
    min_side
        Pixels that the shorter side must have.
    min_fps
        Frames a second that a video must have.
    max_fps
        Frames a second that it may have.
    low_motion
        Scenes with less are left out; in frame diagonals a second, the mean over the picture.
    high_motion
        Scenes with more are left out.
    rewritten
        Share of instructions that get another verb.
    seed
        Of the choice of clips and verbs.
    """

    frames: int = 81
    pairs: int = 1
    min_seconds: float = 1.0
    max_seconds: float = 6 * 3600.0
    min_side: int = 240
    min_fps: float = 15.0
    max_fps: float = 61.0
    low_motion: float = LOW_MOTION
    high_motion: float = HIGH_MOTION
    rewritten: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        _check_range("setting frames", self.frames, 1, 100_000)
        _check_range("setting min_side", self.min_side, 1, 8192)
        _check_range("setting pairs", self.pairs, 1, 10_000)
        _check_range("setting rewritten", self.rewritten, 0, 1)
        for least, most in (("min_seconds", "max_seconds"), ("min_fps", "max_fps"), ("low_motion", "high_motion")):
            if not 0 <= getattr(self, least) <= getattr(self, most):
                raise UserError(
                    f"{least} is {getattr(self, least):g} and {most} {getattr(self, most):g}: "
                    "the first must not be below 0 nor above the second."
                )


@dataclass(frozen=True)
class FilterSettings:
    """How a vision-language model is asked to score pairs.

    Parameters
    ----------
    turns
        How often each question is asked; the scores are averaged.
    frames
        Of each clip that the VLM sees.
    side
        Pixels of their longer side, at most.
    temperature
        Of the VLM's answers.
    thrifty
        Ask no further once a score has missed its threshold.
    """

    turns: int = 3
    frames: int = 8
    side: int = 448
    temperature: float = 0.7  # ours: the paper names none, and turns at 0 would all be the same
    thrifty: bool = False

    def __post_init__(self) -> None:
        _check_range("number of turns", self.turns, 1, 100)
        _check_range("number of frames", self.frames, 1, 256)
        _check_range("side of a frame", self.side, 28, 4096)
        _check_range("temperature", self.temperature, 0, 2)


@dataclass(frozen=True)
class PairOptions:
    """How many pairs are made of a clip, and which of them are kept. The papers leave all of it open.

    Parameters
    ----------
    elements
        Things in a clip that are edited, at most, beside its background.
    each
        Kinds of edit made of each.
    frames
        Of a clip, at most.
    short_side
        Pixels; larger clips are made smaller.
    balance
        The most pairs of a type, in medians of all types; 0 keeps all.
    reverse
        Make of each edit the pair in the other direction, too.
    turns
        How often the judge is asked; 0 leaves the quality filter out.
    seed
        Of all choices.
    """

    elements: int = 3
    each: int = 1
    frames: int = 81
    short_side: int = 720
    balance: float = 2.0
    reverse: bool = True
    turns: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.frames < 5 or frames_down(self.frames) != self.frames:
            raise UserError(f"The number of frames must be 4k+1 and at least 5, such as 81, not {self.frames}.")
        _check_range("number of elements", self.elements, 1, 100)
        _check_range("number of edits of each", self.each, 1, MOST_KINDS)
        _check_range("short side", self.short_side, 64, 8192)
        _check_range("number of turns", self.turns, 0, 100)
        check_balance(self.balance)


def check_balance(ratio: float) -> None:
    """UserError for a ratio that is neither 0 nor from 1 to 1000."""
    if ratio and not 1 <= ratio <= 1000:
        raise UserError(f"The balance must be from 1 to 1000 times the median, or 0 for none, not {ratio:g}.")


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise UserError(f"The {name} must be from {low:,} to {high:,}, not {value:g}.")
