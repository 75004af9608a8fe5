"""Video files in and out (`video_io`), and what is done to frames between (`frames`).

    from opensama.media import read_video, write_video

PyAV is imported when one of these is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opensama.media.video_io import WriteReport, read_video, write_video

__all__ = ["PICTURE_SUFFIXES", "VIDEO_SUFFIXES", "WriteReport", "read_video", "write_video"]

VIDEO_SUFFIXES = (
    ".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".ogv", ".3gp",
)  # fmt: skip
"""What is taken for a video in a folder; a file that is named is read whatever its ending."""
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif")
"""What is read as one picture."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'opensama.media' has no attribute {name!r}")
    from opensama.media import video_io

    return getattr(video_io, name)
