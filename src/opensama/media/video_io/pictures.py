"""One frame to a PNG, JPEG or WebP: as deep as the source, with its colour profile, its camera's notes and its alpha.

| ending | bits a colour | transparency | quality |
|---|---|---|---|
| .png | 8 or 16 | kept | without loss |
| .jpg .jpeg | 8, 4:4:4 | none | as asked |
| .webp | 8 | kept | as asked, 100 is without loss |
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from opensama.media.frames import of_depth
from opensama.media.video_io.alpha import lifted
from opensama.media.video_io.edit_record import xmp_of
from opensama.media.video_io.member import open_file
from opensama.media.video_io.stills import PILLOW_RAISES
from opensama.values import UserError, Video

_ENDINGS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""By the ending of the name, what Pillow calls the format."""
_PNG_XMP = "XML:com.adobe.xmp"
_TURNED = 0x0112  # EXIF's tag for how the camera was held; what is written is upright


def is_picture(path: Path) -> bool:
    """Whether the name is that of a picture that can be written."""
    return path.suffix.lower() in _ENDINGS


@dataclass(frozen=True)
class PictureCoding:
    """How a frame becomes a picture."""

    codec: str
    pixel_format: str
    """FFmpeg's name of what the file holds: rgb24, rgba, rgb48be, rgba64be."""
    profile: bytes | None
    exif: bytes | None

    @classmethod
    def of(cls, video: Video, path: Path, quality: float, even: bool) -> PictureCoding:
        """UserError unless the video is one frame, and all that was asked for can be done to it."""
        name = _ENDINGS[path.suffix.lower()]
        if video.frame_count != 1:
            raise UserError(
                f"{path} holds one picture and the video has {video.frame_count} frames; end the name in .mp4, .mov, "
                ".mkv or .webm."
            )
        if not 0 <= quality <= 100:
            raise UserError(f"The quality must be from 0 to 100, not {quality:g}.")
        if even:
            raise UserError(f"{path} is a picture, which may have odd sides; leave `even=True` out.")
        alpha, deep = video.transparency is not None and name != "JPEG", video.bit_depth > 8 and name == "PNG"
        pixel_format = ("rgba64be" if alpha else "rgb48be") if deep else "rgba" if alpha else "rgb24"
        return cls(name.lower(), pixel_format, *_beside(video.path))


def write_picture(video: Video, temporary: Path, how: PictureCoding, quality: float) -> None:
    """Writes the video's one frame."""
    (frame,) = video.frames()
    if "a" in how.pixel_format:
        clear = video.transparency
        assert clear is not None
        (alpha,) = clear.source(0, 1)
        share = of_depth(alpha, frame.dtype)
        frame = np.dstack([lifted(frame, share, clear.background), share])
    if how.pixel_format.endswith("be"):
        temporary.write_bytes(_deep_png(frame, how, xmp_of(video)))
        return
    picture, packet = Image.fromarray(of_depth(frame, np.uint8)), xmp_of(video)
    coding: dict[str, dict[str, object]] = {
        "png": {},
        "jpeg": {"quality": max(1, round(quality)), "subsampling": 0, "optimize": True},
        "webp": {"quality": round(quality), "lossless": quality == 100, "exact": True},
    }
    kept: dict[str, object] = {"icc_profile": how.profile, "exif": how.exif}
    if packet and how.codec == "png":
        kept["pnginfo"] = info = PngInfo()
        info.add_itxt(_PNG_XMP, packet.decode())
    elif packet:
        kept["xmp"] = packet
    options = coding[how.codec] | {key: value for key, value in kept.items() if value}
    picture.save(temporary, _ENDINGS["." + how.codec], **options)


def _beside(path: Path | None) -> tuple[bytes | None, bytes | None]:
    """The colour profile and the EXIF data of the picture that was read, the latter without its turn."""
    if path is None or path.is_dir():
        return None, None
    try:
        with open_file(path) as file, Image.open(file) as image:
            profile, exif = image.info.get("icc_profile"), image.getexif()
            exif.pop(_TURNED, None)
            return profile, exif.tobytes() if len(exif) else None
    except PILLOW_RAISES:
        return None, None


def _deep_png(frame: np.ndarray, how: PictureCoding, packet: bytes | None) -> bytes:
    """A PNG of 16 bits a colour, which Pillow does not write; profile and EXIF go behind its header."""
    height, width = frame.shape[:2]
    context = cast(av.VideoCodecContext, av.CodecContext.create("png", "w"))
    context.width, context.height, context.pix_fmt = width, height, how.pixel_format
    context.framerate = Fraction(1)
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format=how.pixel_format)
    picture.pts = 0
    whole = io.BytesIO(b"".join(bytes(packet) for packet in (*context.encode(picture), *context.encode(None))))
    signature_and_header = whole.read(8 + 25)
    added = b""
    if how.profile:
        added += _chunk(b"iCCP", b"icc\0\0" + zlib.compress(how.profile))
    if how.exif:
        added += _chunk(b"eXIf", how.exif.removeprefix(b"Exif\0\0"))
    if packet:
        added += _chunk(b"iTXt", _PNG_XMP.encode() + bytes(5) + packet)
    return signature_and_header + added + whole.read()


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
