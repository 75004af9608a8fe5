"""What a result is shown by: a picture of its middle, a sheet of frames, itself beside its source. Made when asked for.

They are made in a process with limits, as uploads are looked at, and kept in the job's folder.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from opensama.apps.jobs.inspection import in_a_process
from opensama.apps.jobs.limits import JobLimits
from opensama.apps.jobs.words import StoredWish
from opensama.runtime import whole_file

Rendition = Literal["thumbnail", "spritesheet", "compare"]
_SIDE, _SHEET_SIDE, _ON_SHEET = 320, 240, 16  # pixels of a thumbnail and of a frame on a sheet; frames there


def rendition(kind: Rendition, folder: Path, asked: dict[str, Any], index: int, limits: JobLimits) -> Path:
    """The file of a finished output's rendition, made if it is not there."""
    place = rendition_path(kind, folder, asked, index)
    if not place.exists():
        in_a_process(_make, folder, asked, kind, index, seconds=limits.inspect_seconds, memory=limits.inspect_memory)
    return place


def rendition_path(kind: Rendition, folder: Path, asked: dict[str, Any], index: int) -> Path:
    still = StoredWish.of(asked, folder).out(index).suffix in (".png", ".jpg", ".jpeg", ".webp")
    ending = {"thumbnail": ".webp", "spritesheet": ".jpg", "compare": ".png" if still else ".mp4"}[kind]
    return folder / f"{kind}-{index}{ending}"


def _make(folder: Path, asked: dict[str, Any], kind: Rendition, index: int) -> dict[str, Any]:
    from PIL import Image

    from opensama.media.frames import contact_sheet, evenly_spaced, fitted, picked, side_by_side
    from opensama.media.video_io import read_video, write_video

    wish = StoredWish.of(asked, folder)
    result, place = read_video(wish.out(index)), rendition_path(kind, folder, asked, index)
    if kind == "compare":
        pair = replace(side_by_side(read_video(wish.source), result), notes=())
        write_video(pair, place, overwrite=True, on_note=lambda _: None)
        return {}
    if kind == "thumbnail":
        picture, how = next(picked(result, [result.frame_count // 2])), "WEBP"
        picture = fitted(picture, _SIDE)
    else:
        frames = picked(result, evenly_spaced(result.frame_count, _ON_SHEET))
        picture, how = contact_sheet([fitted(frame, _SHEET_SIDE) for frame in frames]), "JPEG"
    with whole_file(place) as temporary:
        Image.fromarray(picture).save(temporary, how, quality=82)
    return {}
