"""Images as frames: a folder of them in natural order, or a single one as a still."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from opensama.media import PICTURE_SUFFIXES
from opensama.media.video_io.alpha import RGB, WHITE
from opensama.media.video_io.color import ToRGB
from opensama.media.video_io.frame_format import Size, frame_format_of
from opensama.media.video_io.opening import check_readable
from opensama.media.video_io.stills import header_of_still, read_still
from opensama.values import ColorInfo, Transparency, UserError, Video, frame_rate

DEMUXERS = {"png_pipe", "jpeg_pipe", "webp_pipe", "bmp_pipe", "tiff_pipe"}
"""FFmpeg's names of the same formats, whatever the file is called."""
_STILL = "png"
"""The codec by whose habits a picture's grey goes: all of its range."""
_FPS = Fraction(24)
"""Frames a second of images, which have no time of their own."""


def read_folder(
    folder: Path, fps: Fraction | float | None = None, cover: Size | None = None, background: RGB = WHITE
) -> Video:
    """The images of a folder, by name with numbers in their order (2 before 10)."""
    try:
        found = [path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES and path.name[0] != "."]
    except PermissionError as error:
        raise UserError(f"The folder {folder} may not be read; change its permissions.") from error
    if not found:
        raise UserError(f"The folder {folder} has no images ({', '.join(sorted(PICTURE_SUFFIXES))}); choose another.")
    return read_images(sorted(found, key=_natural), folder, fps, cover, background)


def read_images(
    paths: Sequence[Path],
    name: Path,
    fps: Fraction | float | None = None,
    cover: Size | None = None,
    background: RGB = WHITE,
) -> Video:
    """Image files of one size as a silent video."""
    rate = _FPS if fps is None else frame_rate(fps)
    for path in paths:
        check_readable(path)
    frame, orientation = read_still(paths[0])
    look = frame_format_of(frame, None, paths[0], orientation, _STILL)
    clear = look.alpha
    for path in paths[1:]:
        other, alpha = header_of_still(path)
        clear = clear or alpha
        if other != look.shown:
            raise UserError(
                f"{path} is {other[0]}x{other[1]} pixels, the images before it {look.shown[0]}x{look.shown[1]}; "
                "give images of one size."
            )

    def opened(start: int, stop: int) -> Iterator[tuple[ToRGB, av.VideoFrame]]:
        for path in paths[start:stop]:
            frame, orientation = read_still(path)
            found = frame_format_of(frame, None, path, orientation, _STILL)
            yield replace(found, bit_depth=look.bit_depth).converter(cover, background), frame

    def source(start: int, stop: int) -> Iterator[np.ndarray]:
        return (convert(frame) for convert, frame in opened(start, stop))

    def shares(start: int, stop: int) -> Iterator[np.ndarray]:
        return (convert.alpha(frame) for convert, frame in opened(start, stop))

    return Video(
        width=(cover or look.shown)[0],
        height=(cover or look.shown)[1],
        timestamps=tuple(range(len(paths))),
        time_base=1 / rate,
        duration=len(paths) / rate,
        source=source,
        bit_depth=look.bit_depth,
        color=look.color if look.color.is_hdr else ColorInfo(),
        path=name,
        transparency=Transparency(shares, background) if clear else None,
    )


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name.lower())]
