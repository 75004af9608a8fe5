"""Opening files, and saying in one sentence why one cannot be opened."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av

from opensama.first_bytes import HEAD, is_address, kind_of, stand_in
from opensama.media.video_io.member import first_bytes_of, member_of, size_of
from opensama.media.video_io.pyav import open_input
from opensama.values import UserError

_NOT_PICTURES = {"tty", "bin", "xbin", "adf", "idf"}  # FFmpeg draws text files as pictures of a terminal


def check_readable(path: Path) -> None:
    """Raises `UserError` unless `path` is a file with something in it that may be read."""
    if member_of(path) is None:
        _check_there(path)
    if said := stand_in(first_bytes_of(path, HEAD), size_of(path)):
        raise UserError(f"{path} {said}.")


def _check_there(path: Path) -> None:
    if not path.exists():
        if is_address(path):
            raise UserError(f"{str(path).replace(':/', '://')} is an address: download it first, and give the file.")
        raise UserError(f"There is no file {path}; check the name and the folder.")
    if not path.is_file():
        raise UserError(f"{path} is not a regular file; give a video file, an image or a folder of images.")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path} may not be read; change its permissions.")


@contextmanager
def open_container(path: Path) -> Iterator[av.container.InputContainer]:
    """An open container; what FFmpeg says against it becomes a `UserError`."""
    member = member_of(path)
    try:
        # "file:" keeps names such as "concat:a.mp4" from being read as protocols.
        container = open_input(member.url if member else f"file:{path.absolute()}")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise UserError(_why_not(path, error)) from error
    try:
        if container.format.name in _NOT_PICTURES:
            raise UserError(f"{path} is not a video; give a video file, an image or a folder of images.")
        yield container
    finally:
        container.close()


def streams_in(path: Path) -> int:
    """How many streams a file has, of whatever kind. UserError for what is no container."""
    with open_container(path) as container:
        return len(container.streams)


def video_stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    """The film among a file's video streams: no cover or thumbnail, moving rather than still, then the largest, the
    longest, the default one, in this order."""
    beside = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    films = [stream for stream in container.streams.video if not stream.disposition & beside]
    if not films:
        held = "only sound" if container.streams.audio else "no pictures"
        raise UserError(f"{path} has no video stream ({held}); give a file with pictures.")
    known = [stream for stream in films if stream.codec_context is not None]
    if not known:
        raise UserError(f"{path} has video in a format that cannot be decoded here; convert it to H.264 first.")
    return max(known, key=_weight)


def _weight(stream: av.VideoStream) -> tuple[bool, int, int, bool]:
    default = bool(stream.disposition & av.stream.Disposition.default)
    return stream.frames != 1, stream.codec_context.width * stream.codec_context.height, stream.frames, default


def _not_a_video(path: Path, head: bytes) -> str:
    kind = kind_of(head)
    return f"{path} is not a video{f' but {kind}' if kind else ''}; give a video file, an image or a folder of images."


def _why_not(path: Path, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return f"{path} may not be read; change its permissions."
    if isinstance(error, EOFError):
        return f"{path} has no frames; choose a video that has at least one."
    if isinstance(error, av.error.InvalidDataError):
        head = first_bytes_of(path, HEAD)
        if head[4:8] in (b"ftyp", b"moov", b"mdat"):
            return f"{path} is cut off or damaged (its index is missing); copy or download it again."
        return _not_a_video(path, head)
    return f"{path} cannot be opened as a video ({getattr(error, 'strerror', None) or error}); choose another file."
