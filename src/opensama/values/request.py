"""EditRequest: one edit to make, checked when it is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from opensama.values.numbers import check_int, check_number, whole_numbers
from opensama.values.progress import Progress, UserError
from opensama.values.video import Video, background_color

if TYPE_CHECKING:
    import numpy as np

MAX_INSTRUCTION = 2_000
"""Characters. The text encoders read 512 tokens; what is longer would be cut without a word."""


SPEEDS = ("exact", "balanced", "fast")
"""The model's own way, and two that trade quality for time."""
MAX_EDITS = 10
"""That one instruction may be split into."""


@dataclass(frozen=True, eq=False)
class SubEdit:
    """One of the edits that an instruction asks for, with its region; without one it has the request's."""

    instruction: str
    mask: str | Path | np.ndarray | None = None
    box: tuple[int, int, int, int] | None = None


@dataclass(frozen=True, eq=False)
class EditRequest:
    """One edit to make. None means the model's own default. A wrong value is a `UserError`."""

    video: Video | Path | str
    instruction: str
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    shift: float | None = None
    source_guidance: float | None = None
    """s_I of separate guidance on source and text; None is single guidance."""
    negative_prompt: str | None = None
    frames: tuple[int, int] | None = None
    """Edit only frames start:stop; the rest passes through."""
    size: int | None = None
    """The model works on about size x size pixels, in the video's own shape."""
    mask: str | Path | np.ndarray | None = None
    """Where the edit may change pixels (white), an image or a video, or an array `h w` or `t h w`."""
    box: tuple[int, int, int, int] | None = None
    """The same as a rectangle: x, y, width, height in pixels of the video."""
    references: Sequence[Path | str | np.ndarray] = ()
    """Pictures of what the instruction speaks of, as files or arrays `h w 3`, for models that take some."""
    task: str | None = None
    """What kind of edit it is, for models that were trained with different words before the prompts of each."""
    model_fps: float | None = None
    """The model sees so many frames a second, and what it changed is carried to the frames between; None: all."""
    speed: str = "exact"
    """`exact`: the model's own way; `balanced` and `fast` trade quality for time, see `opensama.pipeline.speed`."""
    preserve: bool | None = None
    """Keep the source's own pixels where the edit left them alone."""
    background: str = "white"
    """What shows through transparent places: a CSS name or #rrggbb; not for a Video, which is composed already."""
    alpha: str = "flatten"
    """`keep`: the result has the source's transparency, for .mov and .webm files; `flatten`: none."""
    edits: Sequence[SubEdit] = ()
    """What the instruction was split into, two edits or more; see `opensama.pipeline.split`."""
    one_pass: bool = False
    """Whether these are made in one pass by the whole instruction, within the regions of all; else they are a chain,
    each a pass over the result of the one before."""
    original_instruction: str | None = None
    """What a person said, where `instruction` is that in other words, see `opensama.pipeline.enhance`."""
    progress: Callable[[Progress], None] | None = None
    """Called as the edit goes on; may raise `Cancelled`."""

    def __post_init__(self) -> None:
        if not isinstance(self.video, Video | Path | str) or not str(self.video):
            raise UserError("The video to edit is missing; give a file, a folder of images or a Video.")
        if not isinstance(self.instruction, str) or not self.instruction.strip():
            raise UserError("The instruction is empty; say what to change, as in: Make the scene look like sunset.")
        if len(self.instruction) > MAX_INSTRUCTION:
            raise UserError(
                f"The instruction has {len(self.instruction):,} characters; say it in at most {MAX_INSTRUCTION:,}."
            )
        check_int("seed", self.seed, 0, 2**63 - 1)
        check_int("steps", self.steps, 1, 1000)
        check_int("size", self.size, 16, 4096)
        check_number("guidance", self.guidance, 0, 100)
        check_number("source guidance", self.source_guidance, 0, 100)
        check_number("shift", self.shift, 1e-3, 100)
        check_number("model fps", self.model_fps, 1, 240)
        if self.model_fps is not None and self.preserve is False:
            raise UserError("With `model_fps` changes are carried into the source's own frames: leave `preserve` on.")
        background_color(self.background)
        if self.speed not in SPEEDS:
            raise UserError(f"There is no speed {str(self.speed)[:40]!r}: choose {', '.join(SPEEDS)}.")
        if self.alpha not in ("flatten", "keep"):
            raise UserError(f"Alpha is either flatten or keep, not {self.alpha!r}.")
        if self.negative_prompt is not None and not isinstance(self.negative_prompt, str):
            raise UserError(f"The negative prompt must be text, not {self.negative_prompt!r}.")
        if self.negative_prompt is not None and len(self.negative_prompt) > MAX_INSTRUCTION:
            raise UserError(f"The negative prompt is too long; say it in at most {MAX_INSTRUCTION:,} characters.")
        if self.task is not None and not isinstance(self.task, str):
            raise UserError(f"The task must be a name, not {self.task!r}.")
        self._check_references()
        if self.frames is not None:
            start, stop = whole_numbers("frames", self.frames, "start, stop")
            if not 0 <= start < stop:
                raise UserError(f"Frames {start}:{stop} are not a range; give A:B with 0 <= A < B.")
        check_region(self.mask, self.box)
        self._check_edits()

    def _check_references(self) -> None:
        if isinstance(self.references, str | Path) or not isinstance(self.references, Sequence):
            raise UserError(f"References are several pictures; give a list of them, not {self.references!r}.")
        for picture in self.references:
            if isinstance(picture, str | Path):
                continue
            import numpy as np

            if not isinstance(picture, np.ndarray):
                raise UserError(f"A reference must be a file or a numpy array, not a {type(picture).__name__}.")
            if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype.kind != "u" or not picture.size:
                raise UserError(f"A reference is {picture.dtype} {picture.shape}; give unsigned integers (h, w, 3).")

    def _check_edits(self) -> None:
        count = len(self.edits)
        if count == 1 or count > MAX_EDITS:
            raise UserError(f"The instruction asks for {count} edits, and 2 to {MAX_EDITS} can be split: say fewer.")
        for number, edit in enumerate(self.edits, 1):
            if not edit.instruction.strip():
                raise UserError(f"Edit {number} of {count} is empty: say what to change, or leave it out.")
            check_region(edit.mask, edit.box)

    def single_edits(self) -> list[EditRequest]:
        """A request for each of the edits, of this request's video; itself where it is one."""
        if not self.edits:
            return [self]
        own = [edit if edit.mask is not None or edit.box is not None else self for edit in self.edits]
        return [
            replace(self, instruction=edit.instruction, mask=of.mask, box=of.box, edits=())
            for edit, of in zip(self.edits, own, strict=True)
        ]

    def frame_range(self, video: Video) -> tuple[int, int]:
        """The frames to edit, checked against the video."""
        if self.frames is None:
            return 0, video.frame_count
        start, stop = self.frames
        if stop > video.frame_count:
            raise UserError(f"Frames {start}:{stop} lie outside the video, which has frames 0:{video.frame_count}.")
        return start, stop


def check_region(mask: str | Path | np.ndarray | None, box: Sequence[int] | None) -> None:
    """UserError for a mask or a box that is none, whatever the video's size."""
    if mask is not None and box is not None:
        raise UserError("A mask and a box were both given; choose one.")
    if box is not None:
        x, y, width, height = whole_numbers("box", box, "x, y, width, height")
        if min(x, y) < 0 or min(width, height) < 1:
            raise UserError(f"The box {x},{y},{width},{height} is empty or begins outside; give X,Y,W,H in pixels.")
    if mask is not None and not isinstance(mask, str | Path):
        import numpy as np

        if not isinstance(mask, np.ndarray):
            raise UserError(f"The mask must be a file or a numpy array, not a {type(mask).__name__}.")
        if mask.ndim not in (2, 3) or not mask.size or mask.dtype.kind not in "buif":
            raise UserError(f"The mask is {mask.dtype} {mask.shape}; give numbers or bools, (h, w) or (t, h, w).")
