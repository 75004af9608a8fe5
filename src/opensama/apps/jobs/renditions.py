"""What a result is shown by: a picture of the middle of what was edited, a sheet or a strip of frames, itself beside
its source, and a preview that every browser plays. Made when asked for.

They are made in a process with limits, as uploads are looked at, and kept in the job's folder.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from opensama.apps.jobs.inspection import in_a_process, read_checked, with_suffix
from opensama.apps.jobs.limits import JobLimits
from opensama.apps.jobs.words import StoredWish
from opensama.apps.records import JobAsked
from opensama.runtime import whole_file
from opensama.values import UserError

Rendition = Literal["thumbnail", "spritesheet", "strip", "preview", "compare"]
_SIDE, _SHEET_SIDE, _ON_SHEET = 320, 240, 16  # pixels of a thumbnail and of a frame on a sheet; frames there
_STRIP_SIDE, _ON_STRIP = 120, 12
_PREVIEW = 1280  # pixels of a preview's longer side, at most
_STILLS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".tif", ".avif")


def rendition(kind: Rendition, folder: Path, asked: JobAsked, file: str, limits: JobLimits) -> Path:
    """The rendition of a `file` in a job's folder, its source or a result; made if it is not there."""
    for ending in (".png", ".mp4", ".webp", ".jpg"):
        if (made := _place(kind, folder / file, ending)).exists():
            return made
    seconds, memory = limits.inspect_seconds, limits.inspect_memory
    return folder / in_a_process(_make, folder, asked, file, kind, seconds=seconds, memory=memory)


def extract_frame(file: Path, frame: int, place: Path, limits: JobLimits) -> None:
    """One frame of a video as a PNG at `place`. UserError where the video has no such frame."""
    seconds, memory = limits.inspect_seconds, limits.inspect_memory
    in_a_process(_extract, file.parent, file.name, frame, str(place), None, seconds=seconds, memory=memory)


def leave_frame(upload: Path, frame: int, limits: JobLimits) -> None:
    """Puts one frame of a video from outside in its place; a picture stays. Refusal or UserError for what is wrong with
    it."""
    seconds, memory = limits.inspect_seconds, limits.inspect_memory
    file = with_suffix(upload)
    in_a_process(_extract, file.parent, file.name, frame, str(upload), limits, seconds=seconds, memory=memory)
    if not upload.exists():
        file.rename(upload)
    file.unlink(missing_ok=True)


def _extract(folder: Path, file: str, frame: int, place: str, limits: JobLimits | None) -> None:
    from opensama.media.video_io import read_video, write_video

    video = read_video(folder / file) if limits is None else read_checked(folder / file, limits)
    if limits is not None and video.frame_count == 1:
        return
    if not 0 <= frame < video.frame_count:
        raise UserError(f"The video has the frames 0 to {video.frame_count - 1}, and no {frame}.")
    picture = Path(place).with_suffix(".png")
    write_video(replace(video.clip(frame, frame + 1), notes=()), picture, record="none", on_note=lambda _: None)
    picture.rename(place)


def _place(kind: Rendition, file: Path, ending: str) -> Path:
    """`result-0.mp4` is shown by `thumbnail-0.webp`, and `source.mp4` by `thumbnail-source.webp`."""
    return file.with_name(f"{kind}-{file.stem.removeprefix('result-')}{ending}")


def _make(folder: Path, asked: JobAsked, file: str, kind: Rendition) -> str:
    import numpy as np
    from PIL import Image

    from opensama.media.frames import contact_sheet, evenly_spaced, fitted, of_depth, picked, side_by_side
    from opensama.media.video_io import read_video, write_video

    result = read_video(folder / file)
    still = result.frame_count == 1 and Path(file).suffix in _STILLS
    if kind in ("compare", "preview"):
        place = _place(kind, folder / file, ".png" if still else ".mp4")
        if kind == "compare":
            shown = side_by_side(read_video(folder / asked["source"]), result)
        else:
            scale = min(1.0, _PREVIEW / max(result.width, result.height))
            size = max(1, round(result.width * scale)), max(1, round(result.height * scale))
            small = result if scale == 1 else read_video(folder / file, cover=size)
            shown = small.with_frames(
                lambda start, stop: (of_depth(frame, np.uint8) for frame in small.frames(start, stop)), bit_depth=8
            )
            shown = replace(shown, transparency=None)
        write_video(replace(shown, notes=()), place, even=kind == "preview", overwrite=True, on_note=lambda _: None)
        return place.name
    if kind == "thumbnail":
        start, stop = StoredWish.of(asked, folder).settings.span(result) or (0, result.frame_count)
        picture, how = fitted(next(picked(result, [(start + stop) // 2])), _SIDE), "WEBP"
    else:
        number, side = (_ON_STRIP, _STRIP_SIDE) if kind == "strip" else (_ON_SHEET, _SHEET_SIDE)
        frames = [fitted(frame, side) for frame in picked(result, evenly_spaced(result.frame_count, number))]
        laid: dict[str, int] = {"columns": number, "gap": 0} if kind == "strip" else {}
        picture, how = contact_sheet(frames, **laid), "JPEG"
    place = _place(kind, folder / file, ".webp" if how == "WEBP" else ".jpg")
    with whole_file(place) as temporary:
        Image.fromarray(picture).save(temporary, how, quality=82)
    return place.name
