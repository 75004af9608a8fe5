"""What a person should hear of a model: before an edit what it cannot do, after it how much it did."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from opensama.models.registry import ModelEntry, words_of
from opensama.pipeline.buckets import Placement
from opensama.pipeline.changes import HARDLY
from opensama.values import EditedVideo, EditRequest, Video

GRAIN = 1.2  # of 255, see `grain`: footage has this and more, two thirds of our drawings have less


def advice(entry: ModelEntry, request: EditRequest) -> list[str]:
    """Sentences about a request, its video being read, that this model will not do justice to."""
    video, said = request.video, []
    assert isinstance(video, Video)
    if shows_footage(entry, video):
        can = _listed(entry.footage)
        said.append(f"{entry.name} edits drawings; of footage it changes the light: {can} come out, little else does.")
    side, trained = request.size, round(entry.defaults.area**0.5)
    if side is not None and not trained / 2 <= side <= 2 * trained:
        said.append(f"{entry.name} works at `size={trained}` or so; expect little of {side}, which is far from it.")
    steps, guidance = entry.defaults.steps, entry.defaults.guidance
    if entry.folder is not None and entry.footage:  # measured: benchmarks/steps.py
        if request.steps is not None and request.steps > 2 * steps:
            said.append(f"More steps make {entry.name} slower and no better: its own number is {steps}.")
        if request.guidance is not None and request.guidance > 1.5 * guidance:
            said.append(f"Guidance above {guidance:g} burns {entry.name}'s pictures: {guidance:g} is its own.")
    if request.speed == "fast" and entry.defaults.cache is None:
        said.append(f"No step cache was measured on {entry.name}, so `speed=fast` leaves no blocks out.")
    return said


def closing_advice(entry: ModelEntry, request: EditRequest, changed: float) -> str:
    """One sentence after an edit that changed footage and that this model is no good for; nothing after any other."""
    assert isinstance(request.video, Video)
    if (
        changed < HARDLY
        or {*entry.footage} & {*words_of(request.instruction)}
        or not shows_footage(entry, request.video)
    ):
        return ""
    return (
        f"{entry.name} was made for drawings, and such an edit mostly harms footage: look before you keep it. It can "
        f"give footage {_listed(entry.footage)}; objects in footage are for a released model, as `model=sama-14b`."
    )


def shows_footage(entry: ModelEntry, video: Video) -> bool:
    """Whether a model that edits drawings is given something else, by the first frame."""
    return bool(entry.footage) and grain(next(video.frames(0, 1))) >= GRAIN


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def grain(frame: np.ndarray) -> float:
    """How restless a picture is at 128 x 128: the median of a pixel's distance to its four neighbours' sum, of 255."""
    height, width = frame.shape[:2]
    placement = Placement.of(width, height, 128 * 128, 16)
    light = placement.leave(placement.enter(frame)).mean(0) * 127.5
    middle = light[1:-1, 1:-1]
    return float((4 * middle - light[:-2, 1:-1] - light[2:, 1:-1] - light[1:-1, :-2] - light[1:-1, 2:]).abs().median())


def change_sentences(edited: EditedVideo, request: EditRequest) -> list[str]:
    """Of each edit of a chain how much it changed, and last of all together."""
    each = zip(request.single_edits(), edited.chain, strict=False)
    said = [f"{n}. {one.instruction} {change_sentence(after, one)}" for n, (one, after) in enumerate(each, 1)]
    return [*said, change_sentence(edited, request)]


def change_sentence(edited: EditedVideo, request: EditRequest) -> str:
    """`96.2 % of the picture changed`, or of the mask or the box, and what to do where that is as good as nothing."""
    free = (
        "the box" if request.box is not None else "the picture" if request.mask is None else "what the mask leaves free"
    )
    if request.edits and all(edit.box is not None or edit.mask is not None for edit in request.edits):
        free = "what the regions leave free"
    said = f"{100 * edited.changed:.1f} % of {free} changed"
    if edited.changed >= HARDLY:
        return said
    return f"{said}: the model made nothing of the instruction; say it otherwise, or try another `seed` or `model`"
