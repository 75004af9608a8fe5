"""Files to `Video`s: a first pass over the packets finds every frame's time, frames are decoded when asked for.

The first pass (`timeline`) does not decode unless the packets leave a doubt. Frames are found by their time stamp, so a
range that begins late is reached by a seek and is still exact.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from opensama.media import PICTURE_SUFFIXES
from opensama.media.video_io import images
from opensama.media.video_io.alpha import RGB, decoded
from opensama.media.video_io.frame_format import FrameFormat, OneSize, Size, check_size, frame_format_of
from opensama.media.video_io.hdr import mastering_of
from opensama.media.video_io.opening import check_readable, open_container, video_stream
from opensama.media.video_io.stills import check_no_tiles, is_film
from opensama.media.video_io.timeline import Timeline, broken_frame, largest, timeline_of
from opensama.values import Progress, Transparency, UserError, Video, background_color
from opensama.values.video import chosen_frames

_SEEK_FROM = 48  # frames; nearer ones are reached as fast by decoding


def read_video(
    path: str | Path,
    *,
    fps: Fraction | float | None = None,
    cover: Size | None = None,
    background: str = "white",
    threads: int | None = None,
) -> Video:
    """A video file, an image, or a folder of images as a lazy `Video`.

    `fps` is for images, which have no time of their own (24 if not given). With `cover`, width and height, frames come
    scaled to fill these and cut around the middle, by one thread: for training, which reads several files at once. Else
    there are as many `threads` as help (0), or as are given. The path may lead into a plain tar as into a folder.
    Transparent places show the `background`, a CSS name or #rrggbb.
    Raises `UserError` for what is not a video.
    """
    path, below = Path(path), background_color(background)
    if path.is_dir():
        return images.read_folder(path, fps, cover, below)
    check_readable(path)
    suffix = path.suffix.lower()
    if suffix in PICTURE_SUFFIXES and not (suffix == ".avif" and is_film(path)):
        return images.read_images([path], path, fps, cover, below)
    with open_container(path) as container:
        named = container.format.name in images.DEMUXERS
        if named or (container.metadata.get("major_brand") == "avif" and not is_film(path)):
            return images.read_images([path], path, fps, cover, below)
        check_no_tiles(container, path)
        stream = video_stream(container, path)
        check_size(stream.codec_context.width, stream.codec_context.height, path)
        has_audio = any(audio.codec_context is not None for audio in container.streams.audio)
        timeline = timeline_of(path, container, stream)
    with open_container(path) as container:
        stream = video_stream(container, path)
        frame = _first_frame(path, container, stream)
        look = frame_format_of(
            frame,
            stream.sample_aspect_ratio,
            path,
            codec=stream.codec_context.codec.canonical_name,
            size=largest(timeline.sizes) if timeline.sizes else None,
        )
    threads = (1 if cover else 0) if threads is None else threads
    frames = FileFrames(path, timeline, look, cover, below, threads)
    shows_through = look.alpha and not timeline.sizes  # letterboxed, they are composed once and for all
    return Video(
        width=(cover or look.shown)[0],
        height=(cover or look.shown)[1],
        timestamps=tuple(stamp - timeline.origin for stamp in timeline.stamps),
        time_base=timeline.time_base,
        duration=timeline.duration,
        source=frames,
        bit_depth=look.bit_depth,
        color=look.color,
        has_audio=has_audio,
        path=path,
        origin=timeline.origin * timeline.time_base,
        extra=mastering_of(frame),
        notes=timeline.notes,
        transparency=Transparency(replace(frames, alpha=True), below) if shows_through else None,
    )


def check_frames(
    video: Video, progress: Callable[[Progress], None] | None = None, span: tuple[int, int] | None = None
) -> None:
    """Decodes a file's frames once, or those from start to stop, for nothing but the `UserError` that names the first
    one that is broken.

    Frames that do not come from a file of moving pictures are believed.
    """
    if not isinstance(video.source, FileFrames):
        return
    (start, stop), begun = span or (0, video.frame_count), time.monotonic()
    for done, _ in enumerate(video.source.decoded(start, stop), 1):
        if progress is not None and time.monotonic() - begun > 1:
            progress(Progress("Checking", done, stop - start, time.monotonic() - begun))


# --- the frames


def _first_frame(path: Path, container: av.container.InputContainer, stream: av.VideoStream) -> av.VideoFrame:
    try:
        for frame in decoded(container, stream):
            return frame
    except av.error.FFmpegError as error:
        raise UserError(broken_frame(path, 0)) from error
    raise UserError(f"{path} has no frames that can be decoded; choose another video.")


@dataclass(frozen=True)
class FileFrames:
    """The frames of a file by their numbers, or (`alpha`) how much of each shows. A gap or an error names the frame."""

    path: Path
    timeline: Timeline
    look: FrameFormat
    cover: Size | None
    background: RGB
    threads: int
    alpha: bool = False

    def __call__(self, start: int, stop: int) -> Iterator[np.ndarray]:
        return map(self._converter(), self.decoded(start, stop))

    def some(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        """The frames of these rising numbers; those between are not converted."""
        return map(self._converter(), chosen_frames(self.decoded(numbers[0], numbers[-1] + 1), numbers))

    def decoded(self, start: int, stop: int) -> Iterator[av.VideoFrame]:
        """The frames as the decoder gives them."""
        if start == stop:
            return
        expected = start
        for place in _places_to_begin(self.timeline, start):
            for index, frame in _numbered(self.path, self.timeline, place, self.threads):
                if index < start:
                    continue
                if index != expected:
                    break
                yield frame
                expected += 1
                if expected == stop:
                    return
            if expected > start:
                break
        raise UserError(broken_frame(self.path, expected))

    def _converter(self) -> Callable[[av.VideoFrame], np.ndarray]:
        if self.timeline.sizes:
            return OneSize(self.look, self.cover, self.background)
        to_rgb = self.look.converter(self.cover, self.background)
        return to_rgb.alpha if self.alpha else to_rgb


def _places_to_begin(timeline: Timeline, start: int) -> list[int | None]:
    """The key frame before `start`, the one before that (should the first not decode cleanly), the beginning."""
    position = bisect_right(timeline.keys, start, key=lambda key: key[0])
    near = timeline.keys[max(0, position - 2) : position]
    return [*(seek_to for index, seek_to in reversed(near) if index >= _SEEK_FROM), None]


def _numbered(
    path: Path, timeline: Timeline, place: int | None, threads: int = 0
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Decoded frames with their numbers, from a stamp to seek or from the beginning; no threads are as many as help."""
    number = {} if timeline.by_count else {stamp: i for i, stamp in enumerate(timeline.stamps)}
    at = -1
    with open_container(path) as container:
        stream = video_stream(container, path)
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = threads
        try:
            if place is not None:
                container.seek(place, stream=stream, backward=True)
            for count, frame in enumerate(decoded(container, stream)):
                at = count if timeline.by_count else number.get(frame.pts, -1) if frame.pts is not None else -1
                yield at, frame
        except av.error.FFmpegError as error:
            raise UserError(broken_frame(path, at + 1)) from error
