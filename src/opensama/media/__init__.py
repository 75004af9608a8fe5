"""Video files in and out (`video_io`), and what is done to frames between (`frames`).

    from opensama.media import read_video, write_video

PyAV is imported when one of these is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opensama.media.video_io import WriteReport, read_video, write_video

__all__ = ["WriteReport", "read_video", "write_video"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'opensama.media' has no attribute {name!r}")
    from opensama.media import video_io

    return getattr(video_io, name)
