"""Images as frames: a folder of them in natural order, or a single one as a still."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from opensama.media.video_io.color import Orientation
from opensama.media.video_io.look import Size, check_size, look_of
from opensama.media.video_io.member import open_file
from opensama.media.video_io.opening import check_readable
from opensama.values import ColorInfo, UserError, Video, frame_rate

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
FPS = Fraction(24)
"""Frames a second of images, which have no time of their own."""


def read_folder(folder: Path, fps: Fraction | float | None = None, cover: Size | None = None) -> Video:
    """The images of a folder, by name with numbers in their order (2 before 10)."""
    try:
        found = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != "."]
    except PermissionError as error:
        raise UserError(f"The folder {folder} may not be read; change its permissions.") from error
    if not found:
        raise UserError(f"The folder {folder} has no images ({', '.join(sorted(SUFFIXES))}); choose another.")
    return read_images(sorted(found, key=_natural), folder, fps, cover)


def read_images(
    paths: Sequence[Path], name: Path, fps: Fraction | float | None = None, cover: Size | None = None
) -> Video:
    """Image files of one size as a silent video."""
    rate = FPS if fps is None else frame_rate(fps)
    for path in paths:
        check_readable(path)
    size = _header_size(paths[0])
    check_size(*size, paths[0])
    for path in paths[1:]:
        if (other := _header_size(path)) != size:
            raise UserError(
                f"{path} is {other[0]}x{other[1]} pixels, the images before it {size[0]}x{size[1]}; "
                "give images of one size."
            )
    look = look_of(_decode(paths[0]), None, paths[0], _exif(paths[0]))

    def source(start: int, stop: int) -> Iterator[np.ndarray]:
        for path in paths[start:stop]:
            frame = _decode(path)
            found = look_of(frame, None, path, _exif(path))
            yield replace(found, bit_depth=look.bit_depth).converter(cover)(frame)

    return Video(
        width=(cover or look.shown)[0],
        height=(cover or look.shown)[1],
        timestamps=tuple(range(len(paths))),
        time_base=1 / rate,
        duration=len(paths) / rate,
        source=source,
        bit_depth=look.bit_depth,
        color=ColorInfo(),
        path=name,
    )


def _decode(path: Path) -> av.VideoFrame:
    """The one frame; opened as a stream, so that a % in the name stays a %."""
    try:
        with open_file(path) as file, av.open(file, "r", metadata_errors="ignore") as container:
            for frame in container.decode(video=0):
                return frame
    except (av.error.FFmpegError, IndexError) as error:
        raise UserError(f"{path} is not an image that can be read; replace or remove it.") from error
    raise UserError(f"{path} is not an image that can be read; replace or remove it.")


def _header_size(path: Path) -> tuple[int, int]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is checked next
            with open_file(path) as file, Image.open(file) as image:
                size, moves = image.size, image.format in ("PNG", "WEBP") and getattr(image, "is_animated", False)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is not an image that can be read; replace or remove it.") from error
    if moves:  # FFmpeg's decoders would give the first picture of one, and nothing of the other
        raise UserError(f"{path} is an animation in an image file, which cannot be read; make it a GIF or MP4 first.")
    return size


# EXIF's eight ways to hold a camera.
_TURNS = {
    1: (0, False),
    2: (0, True),
    3: (2, False),
    4: (2, True),
    5: (1, True),
    6: (3, False),
    7: (3, True),
    8: (1, False),
}


def _exif(path: Path) -> Orientation:
    try:
        with open_file(path) as file, Image.open(file) as image:
            return Orientation(*_TURNS.get(image.getexif().get(0x0112, 1), (0, False)))
    except (OSError, ValueError, SyntaxError):
        return Orientation()


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name.lower())]
