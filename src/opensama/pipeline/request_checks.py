"""What a request asks for, its video being read and all that can be wrong in it found, before a model is loaded.

Nothing here needs PyTorch, so that a mistake is answered before it is imported.
"""

from __future__ import annotations

from dataclasses import replace

from opensama.media.video_io import check_frames, read_video
from opensama.pipeline.masks import limits_of
from opensama.values import EditRequest, UserError, Video, background_color


def check_request(request: EditRequest) -> EditRequest:
    """The request with its video read, and all that can be wrong in it found before a model is loaded.

    The video's frames are decoded once for that, and the mask's. The video's notes say what a person should know: how
    it was read, what shows through, how much of the frame a mask or a box leaves to the edit.
    """
    video = source_of(request)
    request.frame_range(video)
    limits = limits_of(request, video)
    check_frames(video, request.progress)
    said = list(video.notes)
    clear = video.transparency
    if request.alpha == "flatten" and clear is not None and clear.any(video.frame_count):
        name = video.path.name if video.path else "The video"
        named = background_color(request.background) == clear.background
        shown = request.background if named else "#{:02x}{:02x}{:02x}".format(*clear.background)
        said.append(
            f"{name} has transparent places, {shown} in the result; `background` chooses, `alpha=keep` keeps them."
        )
    if request.mask is not None or request.box is not None:
        said.append(
            f"The {'box' if request.mask is None else 'mask'} covers {format_share(limits.covered())} of the frame."
        )
    return replace(request, video=replace(video, notes=tuple(said)))


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
