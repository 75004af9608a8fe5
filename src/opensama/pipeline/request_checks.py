"""What a request asks for, its video being read and all that can be wrong in it found, before a model is loaded.

Nothing here needs PyTorch, so that a mistake is answered before it is imported.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from opensama.media.motion import opencv
from opensama.media.video_io import check_frames, read_video
from opensama.models.families import find_family
from opensama.models.registry import ModelEntry
from opensama.pipeline.masks import limits_of
from opensama.values import EditRequest, UserError, Video, background_color

if TYPE_CHECKING:
    import numpy as np


def check_request(request: EditRequest, decoded: tuple[int, int] | None = None) -> EditRequest:
    """The request with its video read, and all that can be wrong in it found before a model is loaded.

    The frames that are edited, or those `decoded`, start and stop, are decoded once for that, and the mask's. The
    video's notes say what a person should know: how it was read, what shows through, how much of the frame a mask or a
    box leaves to the edit.
    """
    video = source_of(request)
    span = request.frame_range(video)
    limited = [(one, limits_of(one, video)) for one in request.single_edits()]
    check_frames(video, request.progress, decoded or span)
    said = list(video.notes)
    clear = video.transparency
    if request.alpha == "flatten" and clear is not None and clear.any(video.frame_count):
        name = video.path.name if video.path else "The video"
        named = background_color(request.background) == clear.background
        shown = request.background if named else "#{:02x}{:02x}{:02x}".format(*clear.background)
        said.append(
            f"{name} has transparent places, {shown} in the result; `background` chooses, `alpha=keep` keeps them."
        )
    for number, (one, limits) in enumerate(limited, 1):
        if one.mask is not None or one.box is not None:
            region = f"The {'box' if one.mask is None else 'mask'}{f' of edit {number}' if request.edits else ''}"
            said.append(f"{region} covers {format_share(limits.covered())} of the frame.")
    reference_pictures(request)
    return replace(request, video=replace(video, notes=tuple(said)))


def check_family(entry: ModelEntry, request: EditRequest, anyway: bool = False) -> None:
    """UserError for what is asked of a model whose family knows no such thing; and, unless `anyway`, for a size that it
    is known to fail at, as far as the video's shape tells."""
    family = find_family(entry.family)
    if request.size is not None and entry.defaults.least_side is not None and not anyway:
        _check_side(entry, request, request.size, entry.defaults.least_side)
    if request.references and not family.takes_references:
        raise UserError(f"{entry.name} takes no pictures beside the video: leave `references` out.")
    if request.task is not None and request.task not in family.tasks:
        wanted = f"choose {', '.join(family.tasks)}" if family.tasks else "leave `task` out"
        raise UserError(f"{entry.name} knows no task {request.task!r}: {wanted}.")
    if request.model_fps is not None:
        opencv()


def _check_side(entry: ModelEntry, request: EditRequest, size: int, least: int) -> None:
    """UserError where the longer side at model size is below `least`; of a video that is not read, in any shape."""
    from opensama.pipeline.buckets import closest  # with PyTorch

    video = request.video
    widest, square = ((video.width, video.height),) * 2 if isinstance(video, Video) else ((2, 1), (1, 1))

    def side(size: int, shape: tuple[int, int]) -> int:
        return max(closest(*shape, size**2, entry.defaults.multiple))

    if (longer := side(size, widest)) < least:
        enough = 1 + max(one for one in range(size, least + 32) if side(one, square) < least)
        most = "" if isinstance(video, Video) else "at most "
        raise UserError(
            f"{entry.name} is known to fail where the longer side that it works at is below {least} pixels, and "
            f"`size={size}` makes it {most}{longer}: ask for `size={enough}` or more, leave it out, or add"
            " `anyway=True`."
        )


def reference_pictures(request: EditRequest) -> list[np.ndarray]:
    """The pictures of a request [h w 3], read from their files. UserError for what is no single picture."""
    read = []
    for picture in request.references:
        if isinstance(picture, str | Path):
            video = read_video(picture, background=request.background)
            if video.frame_count != 1:
                raise UserError(f"{picture} has {video.frame_count} frames, and a reference is one picture.")
            picture = next(video.frames(0, 1))
        read.append(picture)
    return read


def format_share(share: float) -> str:
    """`12.5 %`; what is too little for that is not called nothing."""
    return f"{100 * share:.1f} %" if not 0 < share < 0.001 else "less than 0.1 %"


def source_of(request: EditRequest) -> Video:
    """The video to edit, on the request's background. UserError if transparency is to be kept and there is none."""
    video = request.video
    if not isinstance(video, Video):
        video = read_video(video, background=request.background)
    if request.alpha == "keep" and video.transparency is None:
        raise UserError(f"{video.path or 'The video'} has no transparency to keep; leave `alpha=keep` out.")
    return video
