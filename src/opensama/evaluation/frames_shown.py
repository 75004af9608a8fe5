"""Which frames of a source and its edit a judge is shown, and how they lie beside each other in a question.

A `FrameSampling` picks frames by number; a `Presentation` reads them and writes the questions: source first and edit
second, pairs joined side by side, or one question a pair.

Letters: `h w` rows and columns. Frames are uint8 RGB `h w 3`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from opensama.evaluation.items import BenchmarkItem
from opensama.evaluation.rubrics import ScoringRubric
from opensama.media.frames import fitted, picked
from opensama.media.video_io import read_video
from opensama.values import UserError, Video
from opensama.vlm import IMAGE, Question

if TYPE_CHECKING:
    import numpy as np

PAIR_HEIGHT = 224  # ReCo-Bench: rows of a pair when it is stored
PAIR_LEAST = 512  # and pixels of its shorter side when it is shown

ShownQuestion = tuple[ScoringRubric, Question]


@dataclass(frozen=True)
class FrameSampling:
    """Which frames a judge sees, and how large."""

    says: str
    pick: Callable[[int, float], list[int]]
    """Number of frames and frames a second of a clip -> rising frame numbers."""
    side: int = 640
    """Pixels of the longer side, at most."""


@dataclass(frozen=True)
class Presentation(ABC):
    """How source and edit are shown. `needs` says which files cannot be shown."""

    sampling: FrameSampling
    needs: ClassVar[str] = "missing or broken"

    @abstractmethod
    def questions(
        self, item: BenchmarkItem, source: Video, edited: Video, rubrics: Sequence[ScoringRubric]
    ) -> Iterator[ShownQuestion]:
        """Each rubric's question with its pictures. UserError where source and edit cannot be shown together."""

    def shows_copy(self, asked: Sequence[ShownQuestion]) -> bool:
        """Whether the pictures prove that nothing was edited, so that nobody need be asked."""
        return False


class SourceThenEdit(Presentation):
    """The source's frames in order, then the edit's; before both a reference picture, where the item has one."""

    def questions(
        self, item: BenchmarkItem, source: Video, edited: Video, rubrics: Sequence[ScoringRubric]
    ) -> Iterator[ShownQuestion]:
        side = self.sampling.side
        before, after = (
            frames_at(video, self.sampling.pick(video.frame_count, float(video.fps)), side)
            for video in (source, edited)
        )
        picture: tuple[np.ndarray, ...] = ()
        shown = ""
        if place := item.notes.get("reference_image"):
            picture = frames_at(read_video(place), [0], side)
            shown = f"The reference picture:\n{IMAGE}\n"
        shown += f"The original video, {len(before)} frames in order:\n{IMAGE * len(before)}\n"
        shown += f"The edited video, {len(after)} frames in order:\n{IMAGE * len(after)}\n"
        for rubric in rubrics:
            yield rubric, Question(shown + rubric.filled(item.instruction), (*picture, *before, *after))


class SideBySide(Presentation):
    """Each frame joined to the edit's, source left, edit right. Takes clips of equal length and height only."""

    needs = "missing, broken or of unequal length"

    def questions(
        self, item: BenchmarkItem, source: Video, edited: Video, rubrics: Sequence[ScoringRubric]
    ) -> Iterator[ShownQuestion]:
        if (source.frame_count, source.height) != (edited.frame_count, edited.height):
            raise UserError(
                f"the edit has {edited.frame_count} frames of {edited.height} rows, its source {source.frame_count} of "
                f"{source.height}; side by side only equal ones can be shown"
            )
        wanted = self.sampling.pick(source.frame_count, float(source.fps))
        pairs = [_joined(*pair) for pair in zip(*(frames_at(v, wanted, None) for v in (source, edited)), strict=True)]
        for rubric in rubrics:
            yield rubric, Question(IMAGE * len(pairs) + "\n" + rubric.filled(item.instruction), tuple(pairs))

    def shows_copy(self, asked: Sequence[ShownQuestion]) -> bool:
        pairs = [image for _, question in asked for image in question.images]
        return all(
            pair.shape[1] % 2 == 0 and bool((pair[:, : pair.shape[1] // 2] == pair[:, pair.shape[1] // 2 :]).all())
            for pair in pairs
        )


class FrameByFrame(Presentation):
    """One question for each pair of frames of the shorter clip's length."""

    def questions(
        self, item: BenchmarkItem, source: Video, edited: Video, rubrics: Sequence[ScoringRubric]
    ) -> Iterator[ShownQuestion]:
        wanted = self.sampling.pick(min(source.frame_count, edited.frame_count), float(source.fps))
        shown = (frames_at(video, wanted, self.sampling.side) for video in (source, edited))
        for before, after in zip(*shown, strict=True):
            for rubric in rubrics:
                text = f"Before:\n{IMAGE}\nAfter:\n{IMAGE}\n{rubric.filled(item.instruction)}"
                yield rubric, Question(text, (before, after))


def _joined(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    import numpy as np

    halves = [_scaled(half, PAIR_HEIGHT / half.shape[0]) for half in (left, right)]  # apart: no seam between them
    grow = max(1.0, PAIR_LEAST / min(PAIR_HEIGHT, halves[0].shape[1] + halves[1].shape[1]))
    return np.concatenate([_scaled(half, grow) for half in halves], axis=1)


def frames_at(video: Video, wanted: Sequence[int], side: int | None) -> tuple[np.ndarray, ...]:
    """Those frames (rising numbers), uint8 `h w 3`, the longer side at most `side`."""
    return tuple(frame if side is None else fitted(frame, side) for frame in picked(video, wanted))


def _scaled(frame: np.ndarray, scale: float) -> np.ndarray:
    import numpy as np
    from PIL import Image

    height, width = (max(1, round(side * scale)) for side in frame.shape[:2])
    if frame.shape[:2] == (height, width):
        return np.ascontiguousarray(frame)
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))
