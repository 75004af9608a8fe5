"""Every frame of a video, small and quickly: for looking a video through, not for showing it.

FFmpeg scales before it converts colours, which is several times as fast as whole frames that are then made small. The
price: colours are by FFmpeg's default matrix, and frames lie as they are stored (a telephone's video on its side).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from PIL import Image

from opensama.media import PICTURE_SUFFIXES
from opensama.media.video_io.alpha import decoded
from opensama.media.video_io.opening import open_container, video_stream
from opensama.media.video_io.reading import FileFrames
from opensama.values import Video


def small_frames(video: Video, side: int = 256) -> Iterator[np.ndarray]:
    """All frames in order, uint8 RGB `h w 3`, the longer side `side` pixels. UserError names a damaged frame."""
    done = 0
    if (
        video.transparency is None
        and video.path is not None
        and video.path.is_file()
        and video.path.suffix.lower() not in PICTURE_SUFFIXES
    ):
        for frame in _quickly(video, video.path, side):
            yield frame
            done += 1
    for whole in video.frames(done) if done < video.frame_count else ():  # what the quick way did not reach
        deep = whole if whole.dtype == np.uint8 else (whole // 257).astype(np.uint8)
        yield np.asarray(Image.fromarray(deep).resize(_size(deep.shape[1], deep.shape[0], side), reducing_gap=2.0))


def _size(width: int, height: int, side: int) -> tuple[int, int]:
    scale = side / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _quickly(video: Video, path: Path, side: int) -> Iterator[np.ndarray]:
    """Frames as long as they come whole and in the order that the video knows."""
    if not isinstance(video.source, FileFrames) or video.source.timeline.by_count or video.source.timeline.sizes:
        return
    number = {stamp: i for i, stamp in enumerate(video.source.timeline.stamps)}
    with open_container(path) as container:
        stream = video_stream(container, path)
        stream.thread_type = "AUTO"
        expected = 0
        try:
            for frame in decoded(container, stream):
                index = number.get(frame.pts, -1) if frame.pts is not None else -1
                if index < expected:
                    continue  # frames before the first that is shown
                if index > expected:
                    return
                width, height = _size(video.width, video.height, side)
                if (frame.width > frame.height) != (video.width > video.height):
                    width, height = height, width
                yield frame.reformat(width, height, "rgb24", interpolation="AREA").to_ndarray()
                expected += 1
        except av.error.FFmpegError:
            return
