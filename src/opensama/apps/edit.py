"""`opensama edit`: a video file and an instruction in, an edited video file out.

Cheap checks come first: the request, the place to write and the source are looked at before PyTorch is imported, so
that a mistake costs a tenth of a second.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from opensama.values import UserError


def edit(
    video: Path,
    instruction: str,
    /,
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    model: Annotated[str, Parameter(name=["--model", "-m"])] = "tiny",
    seed: int = 0,
    steps: int | None = None,
    guidance: float | None = None,
    frames: str | None = None,
    size: int | None = None,
    mask: Path | None = None,
    box: str | None = None,
    compare: Annotated[bool, Parameter(negative=())] = False,
    preserve: bool | None = None,
    quality: int | None = None,
    overwrite: Annotated[bool, Parameter(negative=())] = False,
    even: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Edit a video by an instruction.

    Example: opensama edit holiday.mp4 "Turn into watercolor style."

    Parameters
    ----------
    video
        The video file (or a folder of numbered pictures) to edit.
    instruction
        What to change, in words.
    output
        Where to write the result; by default NAME-edited.mp4 beside the source.
    model
        A name that `opensama models list` shows, or a pipeline folder.
    seed
        The same seed gives the same edit.
    steps
        Denoising steps: more is slower and often better. By default the model's own number.
    guidance
        How strongly the instruction acts. By default the model's own.
    frames
        Edit only the frames A:B, from A up to but not including B, counted from 0; the rest passes through. Either may
        be left out.
    size
        The area at which the model works, as the side of a square: 128 means 128 x 128 pixels in the video's own shape.
    mask
        A picture or a video: only where it is white may anything change.
    box
        Only inside this rectangle may anything change: X,Y,W,H in pixels of the source.
    compare
        Also write source and result side by side, as NAME-compare.mp4 beside the result.
    preserve
        Keep the source's own pixels where the edit left the picture alone. By default the model's own choice.
    quality
        The encoder's constant rate factor, 0 (lossless, huge) to 51 (small, poor).
    overwrite
        Replace the output where it exists.
    even
        Pad odd sizes to even ones, which every player plays.
    """
    raise UserError("not here yet")


def parse_range(text: str, count: int) -> tuple[int, int]:
    """`A:B` as frame numbers, A included, B not; either end may be left out. Raises UserError outside 0..count."""
    first, colon, last = text.partition(":")
    try:
        if not colon:
            raise ValueError
        start = int(first) if first.strip() else 0
        stop = int(last) if last.strip() else count
    except ValueError:
        raise UserError(f"--frames wants A:B with whole numbers, as in 0:49, not {shorten(text)!r}") from None
    if not 0 <= start < stop <= count:
        raise UserError(f"--frames {shorten(text)} lies outside the video: it has the frames 0:{count}")
    return start, stop


def parse_box(text: str) -> tuple[int, int, int, int]:
    """`X,Y,W,H` in pixels; whether it lies inside the picture is the request's to say."""
    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError:
        raise UserError(
            f"--box wants X,Y,W,H with four whole numbers, as in 10,20,200,100, not {shorten(text)!r}"
        ) from None
    return x, y, width, height


def default_output(source: Path) -> Path:
    """`holiday.mov` gives `holiday-edited.mp4` beside it; a folder of pictures gives a file beside the folder."""
    source = Path(os.path.normpath(source))
    return source.with_name(f"{source.name if source.is_dir() else source.stem}-edited.mp4")


def shorten(text: str, limit: int = 40) -> str:
    """The beginning of what was typed, for a message that stays one sentence."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
