"""Files to `Video`s: a first pass over the packets finds every frame's time, frames are decoded when asked for.

The first pass does not decode unless the packets leave a doubt (no time stamps, a broken beginning, a codec with hidden
frames). Frames are found by their time stamp, so a range that begins late is reached by a seek and is still exact.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np

from opensama.media.video_io import images
from opensama.media.video_io.alpha import decoded
from opensama.media.video_io.hdr import mastering_of
from opensama.media.video_io.look import Size, check_size, look_of
from opensama.media.video_io.member import size_of
from opensama.media.video_io.opening import check_readable, opened, video_stream
from opensama.media.video_io.pyav import clock_of
from opensama.media.video_io.stills import check_no_tiles, is_film
from opensama.values import Transparency, UserError, Video, background_color

Convert = Callable[[av.VideoFrame], np.ndarray]

# One shown frame for each packet, once the first key frame has come, and packets that know when they are shown.
_ONE_FRAME_A_PACKET = {"h264", "hevc", "vp9", "av1", "prores", "gif", "mjpeg", "ffv1", "png", "dnxhd", "rawvideo"}
_KNOWS_WHEN = {"mov", "matroska", "mpegts", "gif", "flv"}
_SEEK_FROM = 48  # frames; nearer ones are reached as fast by decoding


def read_video(
    path: str | Path,
    *,
    fps: Fraction | float | None = None,
    cover: Size | None = None,
    background: str = "white",
) -> Video:
    """A video file, an image, or a folder of images as a lazy `Video`.

    `fps` is for images, which have no time of their own (24 if not given). With `cover`, width and height, frames come
    scaled to fill these and cut around the middle, by one thread: for training, which reads several files at once. The
    path may lead into a plain tar as into a folder. Transparent places show the `background`, a CSS name or #rrggbb.
    Raises `UserError` for what is not a video.
    """
    path, below = Path(path), background_color(background)
    if path.is_dir():
        return images.read_folder(path, fps, cover, below)
    check_readable(path)
    suffix = path.suffix.lower()
    if suffix in images.SUFFIXES and not (suffix == ".avif" and is_film(path)):
        return images.read_images([path], path, fps, cover, below)
    with opened(path) as container:
        named = container.format.name in images.DEMUXERS
        if named or (container.metadata.get("major_brand") == "avif" and not is_film(path)):
            return images.read_images([path], path, fps, cover, below)
        check_no_tiles(container, path)
        stream = video_stream(container, path)
        check_size(stream.codec_context.width, stream.codec_context.height, path)
        has_audio = any(audio.codec_context is not None for audio in container.streams.audio)
        timeline = _scan(path, container, stream)
    with opened(path) as container:
        stream = video_stream(container, path)
        frame = _first_frame(path, container, stream)
        look = look_of(frame, stream.sample_aspect_ratio, path, codec=stream.codec_context.codec.canonical_name)
    convert, alpha = lambda: look.converter(cover, below), lambda: look.converter(cover, below).alpha
    quick = cover is not None
    return Video(
        width=(cover or look.shown)[0],
        height=(cover or look.shown)[1],
        timestamps=tuple(stamp - timeline.origin for stamp in timeline.stamps),
        time_base=timeline.time_base,
        duration=timeline.duration,
        source=lambda start, stop: _frames(path, timeline, convert, start, stop, quick),
        bit_depth=look.bit_depth,
        color=look.color,
        has_audio=has_audio,
        path=path,
        origin=timeline.origin * timeline.time_base,
        extra=mastering_of(frame),
        transparency=Transparency(lambda start, stop: _frames(path, timeline, alpha, start, stop, quick), below)
        if look.alpha
        else None,
    )


# --- when the frames are shown


@dataclass(frozen=True)
class _Timeline:
    stamps: list[int]  # as in the file, in order of showing
    time_base: Fraction
    duration: Fraction
    origin: int = 0  # this stamp is called zero
    keys: list[tuple[int, int]] = field(default_factory=list)  # key frames: index of frame, where to seek
    by_count: bool = False  # the stamps are made up: frames are counted, never sought


def _scan(path: Path, container: av.container.InputContainer, stream: av.VideoStream) -> _Timeline:
    """Every shown frame's time, from the packets alone where these can be trusted."""
    time_base = clock_of(stream)
    ends_at = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    if _is_a(container, {"mov"}) and ends_at > size_of(path):
        raise UserError(_cut_off(path))
    shown: dict[int, int] = {}  # stamp: duration
    keys: list[tuple[int, int]] = []
    trusted = stream.codec_context.codec.canonical_name in _ONE_FRAME_A_PACKET and _is_a(container, _KNOWS_WHEN)
    try:
        for packet in container.demux(stream):
            if packet.size == 0:
                trusted = trusted and packet.dts is None  # the empty packet that ends the stream has no time
                continue
            if packet.is_corrupt and not _is_a(container, {"mpegts"}):  # broadcasts have gaps and go on
                raise UserError(_cut_off(path))
            if packet.is_corrupt or packet.pts is None or packet.pts in shown or not (keys or packet.is_keyframe):
                trusted = False
            elif packet.is_keyframe:
                keys.append((packet.pts, packet.pts if packet.dts is None else min(packet.pts, packet.dts)))
            elif packet.pts < keys[0][0]:
                trusted = False
            if not trusted:
                break
            if packet.pts is not None and not packet.is_discard:
                shown[packet.pts] = packet.duration or 0
    except av.error.FFmpegError as error:
        raise UserError(_cut_off(path)) from error
    if not trusted:
        return _scan_by_decoding(path)
    if not shown:
        raise UserError(f"{path} has no frames; choose a video that has at least one.")
    stamps = sorted(shown)
    end = stamps[-1] + _last_duration(container, stream, stamps, shown[stamps[-1]])
    _check_whole(path, container, end * time_base)
    return _Timeline(
        stamps,
        time_base,
        (end - stamps[0]) * time_base,
        _origin(container, stream, stamps[0]),
        sorted((bisect_left(stamps, stamp), seek_to) for stamp, seek_to in keys),
    )


def _last_duration(
    container: av.container.InputContainer, stream: av.VideoStream, stamps: list[int], packet_duration: int
) -> int:
    """How long the last frame is shown: MP4 says where the track ends, others say it on the packet, or not at all."""
    if _is_a(container, {"mov"}) and stream.duration and stream.start_time is not None:
        rest = stream.start_time + stream.duration - stamps[-1]
        if rest > 0:
            return rest
    if packet_duration > 0:
        return packet_duration
    return _usual_duration(stream, stamps)


def _usual_duration(stream: av.VideoStream, stamps: list[int]) -> int:
    """The middle one of the frame durations."""
    steps = sorted(b - a for a, b in pairwise(stamps))
    if steps:
        return steps[len(steps) // 2]
    rate = stream.average_rate or stream.guessed_rate or Fraction(24)
    return max(1, round(1 / (rate * stream.time_base))) if stream.time_base else 1


def _origin(container: av.container.InputContainer, stream: av.VideoStream, first: int) -> int:
    """The stamp to call zero: in broadcast streams where picture or sound begin, else 0 unless the first is below."""
    assert stream.time_base is not None
    if _is_a(container, {"mpegts", "mpeg"}):
        begins = [first * stream.time_base]
        for audio in container.streams.audio:
            if audio.start_time is not None and audio.time_base is not None:
                begins.append(audio.start_time * audio.time_base)
        return min(begins) // clock_of(stream)
    return min(0, first)


def _is_a(container: av.container.InputContainer, formats: set[str]) -> bool:
    return not formats.isdisjoint(container.format.name.split(","))


def _check_whole(path: Path, container: av.container.InputContainer, end: Fraction) -> None:
    """Matroska and FLV say in their head how long they are; one that ends much earlier was cut off."""
    if not _is_a(container, {"matroska", "flv"}) or not container.duration:
        return
    begin = Fraction(container.start_time or 0, 1_000_000)
    promised = begin + Fraction(container.duration, 1_000_000)
    tolerance = max(Fraction(1, 2), promised / 50)
    if promised - end <= tolerance:
        return
    with opened(path) as again:  # is it the sound that goes on?
        for packet in again.demux():
            if packet.pts is not None and packet.time_base is not None:
                end = max(end, (packet.pts + (packet.duration or 0)) * packet.time_base)
    if promised - end > tolerance:
        raise UserError(_cut_off(path))


def _scan_by_decoding(path: Path) -> _Timeline:
    """The same by decoding everything; frames without a time follow their predecessor."""
    with opened(path) as container:
        stream = video_stream(container, path)
        stream.thread_type = "AUTO"
        assert stream.time_base is not None
        rate = stream.average_rate or stream.guessed_rate or Fraction(24)
        usual = max(1, round(1 / (rate * stream.time_base)))
        stamps: list[int] = []
        last_duration, by_count = 0, False
        found: list[int | None] = []
        try:
            for frame in decoded(container, stream):
                found.append(frame.pts)
                last_duration = frame.duration or 0
        except av.error.FFmpegError as error:
            raise UserError(_broken_frame(path, len(found))) from error
        if not found:
            raise UserError(f"{path} has no frames that can be decoded; choose another video.")
        known = sorted({stamp for stamp in found if stamp is not None})
        if len(known) == len(found):  # at worst in another order: AVI knows no order of showing
            stamps, by_count = known, known != found
        else:
            for stamp in found:
                rises = stamp is not None and (not stamps or stamp > stamps[-1])
                stamps.append(stamp if rises and stamp is not None else stamps[-1] + usual if stamps else 0)
            by_count = True
        end = stamps[-1] + (last_duration or _usual_duration(stream, stamps))
        _check_whole(path, container, end * stream.time_base)
        origin = _origin(container, stream, stamps[0])
        duration = (end - stamps[0]) * stream.time_base
        return _Timeline(stamps, clock_of(stream), duration, origin, by_count=by_count)


# --- the frames


def _first_frame(path: Path, container: av.container.InputContainer, stream: av.VideoStream) -> av.VideoFrame:
    try:
        for frame in decoded(container, stream):
            return frame
    except av.error.FFmpegError as error:
        raise UserError(_broken_frame(path, 0)) from error
    raise UserError(f"{path} has no frames that can be decoded; choose another video.")


def _frames(
    path: Path, timeline: _Timeline, converter: Callable[[], Convert], start: int, stop: int, alone: bool
) -> Iterator[np.ndarray]:
    """Frames start:stop, exactly these: a gap or an error names the frame."""
    convert = converter()
    expected = start
    for place in _places_to_begin(timeline, start):
        for index, frame in _numbered(path, timeline, place, threads=1 if alone else 0):
            if index < start:
                continue
            if index != expected:
                break
            yield convert(frame)
            expected += 1
            if expected == stop:
                return
        if expected > start:
            break
    raise UserError(_broken_frame(path, expected))


def _places_to_begin(timeline: _Timeline, start: int) -> list[int | None]:
    """The key frame before `start`, the one before that (should the first not decode cleanly), the beginning."""
    position = bisect_right(timeline.keys, start, key=lambda key: key[0])
    near = timeline.keys[max(0, position - 2) : position]
    return [*(seek_to for index, seek_to in reversed(near) if index >= _SEEK_FROM), None]


def _numbered(
    path: Path, timeline: _Timeline, place: int | None, threads: int = 0
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Decoded frames with their numbers, from a stamp to seek or from the beginning; no threads are as many as help."""
    number = {} if timeline.by_count else {stamp: i for i, stamp in enumerate(timeline.stamps)}
    at = -1
    with opened(path) as container:
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
            raise UserError(_broken_frame(path, at + 1)) from error


def _broken_frame(path: Path, index: int) -> str:
    return f"{path} is damaged: frame {index} cannot be decoded; copy or download the file again."


def _cut_off(path: Path) -> str:
    return f"{path} is cut off: it ends before its last frame; copy or download it again."
