"""One picture from a file: whole or refused, upright, as deep as it is.

Pillow decodes and says when a picture is damaged, which FFmpeg's decoders mostly do not: they draw what there is, with
grey or black where nothing is. FFmpeg decodes what has more bits than Pillow keeps, and is believed where both agree.
"""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
from PIL import Image

from opensama.media.video_io.color import Orientation, bit_depth_of
from opensama.media.video_io.frame_format import check_size
from opensama.media.video_io.member import first_bytes_of, open_file
from opensama.media.video_io.pyav import open_input
from opensama.values import UserError

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
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
PILLOW_RAISES = (
    OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error, RuntimeError, Image.DecompressionBombError,
)  # fmt: skip
"""What a file that is damaged, or no picture, makes of Pillow: each of its formats has errors of its own."""
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"BM", b"II*\0", b"MM\0*")


def read_still(path: Path) -> tuple[av.VideoFrame, Orientation]:
    """The picture as it is stored, and how it is turned upright. UserError if it is damaged or no picture."""
    with _opened(path) as image:
        raw = [tile[3] if isinstance(tile[3], str) else tile[3][0] for tile in getattr(image, "tile", ()) if tile[3]]
        _load(image, path)
        check_still_is_whole(path)
        frame = None
        if image.format == "AVIF" or (any(";16" in str(mode) for mode in raw) and image.mode[0] != "I"):
            frame = _deep(image, path)
        return frame or _shallow(image, path), _orientation(image)


def header_of_still(path: Path) -> tuple[tuple[int, int], bool]:
    """Width and height as people see it, and whether it may be transparent. UserError if it is no picture, moves, or is
    seen to be damaged."""
    with _opened(path) as image:
        if image.format not in ("JPEG", "MPO", "PNG", "WEBP"):  # of these the parts are counted in place of decoding
            _load(image, path)
        width, height = image.size
        turned, alpha = _orientation(image).turns % 2, bool(image.has_transparency_data)
    check_still_is_whole(path)
    return (height, width) if turned else (width, height), alpha


def check_still_is_whole(path: Path) -> None:
    """Raises `UserError` for a JPEG, PNG, WebP or AVIF that was cut off or not filled to its end, without decoding."""
    with open_file(path) as file:
        data = file.read()
    whole = True  # for all that is known
    if data[:3] == b"\xff\xd8\xff":
        whole = _jpeg_ends(data)
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        whole = _png_ends(data)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":  # a last byte that only fills up may be absent
        whole = 8 + int.from_bytes(data[4:8], "little") <= len(data) + 1 and not _ends_in_zeros(data)
    elif data[4:12] in (b"ftypavif", b"ftypmif1"):
        whole = not _ends_in_zeros(data)
    if not whole:
        raise UserError(_damaged(path))


def is_film(path: Path) -> bool:
    """Whether an AVIF holds more than one picture."""
    try:
        with open_file(path) as file, Image.open(file) as image:
            return bool(getattr(image, "is_animated", False))
    except PILLOW_RAISES:
        return False


def check_no_tiles(container: av.container.InputContainer, path: Path) -> None:
    """Raises `UserError` for a picture in tiles (HEIC of a telephone), of which FFmpeg gives each as a stream."""
    if any(stream.disposition & av.stream.Disposition.dependent for stream in container.streams.video):
        raise UserError(
            f"{path} is a picture made of tiles (HEIC), which cannot be read; save it as JPEG or PNG first."
        )


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the size is checked here; odd metadata is no matter
            with open_file(path) as file, Image.open(file) as image:
                check_size(*image.size, path)
                if image.format in ("PNG", "WEBP", "AVIF") and getattr(image, "is_animated", False):
                    raise UserError(
                        f"{path} is an animation in an image file, which cannot be read; make it a GIF or MP4 first."
                    )
                yield image
    except UserError:
        raise
    except PILLOW_RAISES as error:
        head = first_bytes_of(path, 12)
        if head.startswith(_BEGINNINGS) or head[4:] in (b"ftypavif", b"ftypmif1"):
            raise UserError(
                f"{path} is damaged, or a kind of picture that cannot be read; copy it again, or save it as PNG."
            ) from error
        raise UserError(f"{path} is not an image that can be read; replace or remove it.") from error


def _load(image: Image.Image, path: Path) -> None:
    try:
        image.load()
    except PILLOW_RAISES as error:
        raise UserError(_damaged(path)) from error


def _damaged(path: Path) -> str:
    return f"{path} is damaged: the picture does not go to its end; copy or download it again."


def _orientation(image: Image.Image) -> Orientation:
    try:
        return Orientation(*_TURNS.get(image.getexif().get(0x0112, 1), (0, False)))
    except PILLOW_RAISES:
        return Orientation()


def _shallow(image: Image.Image, path: Path) -> av.VideoFrame:
    """As Pillow decoded it: 8 bits a colour, or grey of 16."""
    if image.mode.startswith("I;16"):
        return av.VideoFrame.from_ndarray(np.asarray(image).astype("<u2"), format="gray16le")
    if image.mode in ("I", "F"):
        raise UserError(f"{path} holds 32-bit numbers, not colours; save it with 8 or 16 bits a colour.")
    mode, name = ("RGBA", "rgba") if image.has_transparency_data else ("RGB", "rgb24")
    try:
        return av.VideoFrame.from_ndarray(np.array(image.convert(mode)), format=name)
    except ValueError as error:
        raise UserError(f"{path} has colours ({image.mode}) that cannot be read; save it as RGB.") from error


def _deep(image: Image.Image, path: Path) -> av.VideoFrame | None:
    """FFmpeg's frame, if it has more than 8 bits and shows what Pillow shows."""
    try:
        with open_file(path) as file, open_input(file) as container:
            frame = next(container.decode(video=0))
    except (av.error.FFmpegError, StopIteration, IndexError):
        return None
    same_size, alpha = (frame.width, frame.height) == image.size, image.has_transparency_data
    if bit_depth_of(frame.format) <= 8 or not same_size or (alpha and image.format == "AVIF"):
        return None
    if image.format == "AVIF":  # whose tiles have another size, and whose alpha is another stream
        return frame
    seen, expected = frame.to_ndarray(format="rgb48le").astype(np.uint16) >> 8, np.asarray(image.convert("RGB"))
    return frame if np.abs(seen.astype(np.int16) - expected).max() <= 1 else None


# --- whether a file's parts go to its end


def _jpeg_ends(data: bytes) -> bool:
    """Whether the marker of the picture's end comes after its last scan."""
    at = 2
    while at < len(data) - 1 and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xD9:
            return True
        if marker == 0xFF:  # filling
            at += 1
            continue
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xDA:  # coded data up to the next marker that is no restart
            found = _MARKER.search(data, at)
            if found is None:
                return False
            at = found.start()
    return False


def _ends_in_zeros(data: bytes) -> bool:
    """Programs that reserve a file's length before they have its bytes leave these."""
    return len(data) - len(data.rstrip(b"\0")) > len(data) // 4


def _png_ends(data: bytes) -> bool:
    """Every chunk that matters is whole, up to the last."""
    at = 8
    while at + 12 <= len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8])
        if at + 12 + length > len(data):
            return False
        checked, said = data[at + 4 : at + 8 + length], data[at + 8 + length : at + 12 + length]
        if name[0] < 97 and zlib.crc32(checked) != int.from_bytes(said, "big"):  # small letters: may be left out
            return False
        if name == b"IEND":
            return True
        at += 12 + length
    return False
