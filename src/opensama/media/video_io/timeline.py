"""When a file's frames are shown: from its packets where these can be trusted, else by decoding everything.

Packets are trusted where one of them is one shown frame and knows its time. Fields of interlaced pictures, hidden
frames, packets without a time or with one that is there twice, a broken beginning and a change of size leave a doubt:
then what the decoder gives is counted. An empty packet shows the frame before on; it is no frame.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import accumulate, pairwise
from math import floor
from pathlib import Path

import av

from opensama.media.video_io.clock import rising, usual_step
from opensama.media.video_io.frame_format import Size, check_size
from opensama.media.video_io.member import size_of
from opensama.media.video_io.opening import open_container, video_stream
from opensama.media.video_io.pyav import as_fraction, is_repeat, tick_of
from opensama.media.video_io.sizes import SizeWatch
from opensama.values import UserError

# One shown frame for each packet, once the first key frame has come, and packets that know when they are shown.
_ONE_FRAME_A_PACKET = {"h264", "hevc", "vp9", "av1", "prores", "gif", "mjpeg", "ffv1", "png", "dnxhd", "rawvideo"}
_KNOWS_WHEN = {"mov", "matroska", "mpegts", "gif", "flv"}
_AT_ZERO = Fraction(1, 20)  # seconds: a clock that begins no later begins at zero
_NO_LEAD = Fraction(1, 100)  # seconds that sound may begin before the first picture: Opus is given 6.5 ms to warm up
_GIF_LEAST, _GIF_INSTEAD = Fraction(2, 100), Fraction(1, 10)  # seconds
_INTERLACED = "The pictures are interlaced (two half-pictures each, one after the other) and are edited as they are."


@dataclass(frozen=True)
class Timeline:
    """The shown frames of a file, in order."""

    stamps: list[int]  # on the file's clock
    time_base: Fraction
    duration: Fraction  # seconds from the first frame's beginning to the last one's end
    origin: int = 0  # this stamp is called zero
    keys: list[tuple[int, int]] = field(default_factory=list)  # key frames: index of frame, where to seek
    by_count: bool = False  # the stamps are made up: frames are counted, never sought
    sizes: tuple[Size, ...] = ()  # coded sizes, the most frequent first, where there are several
    notes: tuple[str, ...] = ()
    cut: bool = False  # whether an edit list leaves out packets behind the last frame


def timeline_of(path: Path, container: av.container.InputContainer, stream: av.VideoStream) -> Timeline:
    """Every shown frame's time. UserError if the file ends before its last frame, or has none."""
    time_base = tick_of(stream)
    ends_at = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    if is_a(container, {"mov"}) and ends_at > size_of(path):
        raise UserError(_cut_off(path))
    shown: dict[int, int] = {}  # stamp: duration
    keys: list[tuple[int, int]] = []
    codec, shown_on = stream.codec_context.codec.canonical_name, 0
    left_out = -(2**63)  # the latest of what is
    trusted = codec in _ONE_FRAME_A_PACKET and is_a(container, _KNOWS_WHEN) and not _interlaced(stream)
    sizes = SizeWatch(codec)
    try:
        for packet in container.demux(stream) if trusted else ():
            if packet.size == 0:
                shown_on = max(shown_on, _end_of(packet))
                continue
            if packet.is_corrupt and not is_a(container, {"mpegts"}):  # broadcasts have gaps and go on
                raise UserError(_cut_off(path))
            if packet.is_corrupt or packet.pts is None or packet.pts in shown or not (keys or packet.is_keyframe):
                trusted = False
            elif packet.is_keyframe:
                keys.append((packet.pts, packet.pts if packet.dts is None else min(packet.pts, packet.dts)))
                sizes.look(packet)
            elif packet.pts < keys[0][0]:
                trusted = False
            if not trusted or sizes.changed:
                trusted = False
                break
            if packet.pts is not None and packet.is_discard:
                left_out = max(left_out, packet.pts)
            elif packet.pts is not None:
                shown[packet.pts] = packet.duration or 0
    except av.error.FFmpegError as error:
        raise UserError(_cut_off(path)) from error
    if not trusted:
        return _by_decoding(path)
    if not shown:
        raise UserError(f"{path} has no frames; choose a video that has at least one.")
    stamps = sorted(shown)
    durations = [shown[stamp] for stamp in stamps]
    end = max(stamps[-1] + _last_duration(container, stream, stamps, durations), shown_on)
    check_video_is_whole(path, container, end * time_base)
    timeline = Timeline(
        stamps,
        time_base,
        (end - stamps[0]) * time_base,
        _origin(container, stream, stamps[0]),
        sorted((bisect_left(stamps, stamp), seek_to) for stamp, seek_to in keys),
        cut=left_out > stamps[-1],
    )
    return _as_browsers(timeline, end) if is_a(container, {"gif"}) else timeline


def _as_browsers(gif: Timeline, end: int) -> Timeline:
    """A GIF with pictures that are to be shown for less than 0.02 s: browsers show such a picture for 0.1 s."""
    steps = [(b - a) * gif.time_base for a, b in pairwise([*gif.stamps, end])]
    if min(steps) >= _GIF_LEAST:
        return gif
    slowed = [_GIF_INSTEAD if step < _GIF_LEAST else step for step in steps]
    stamps = [int(stamp / gif.time_base) for stamp in accumulate(slowed, initial=Fraction(0))]
    note = "The GIF asks for pictures of less than 0.02 s: each of them is shown for 0.1 s, as in browsers."
    return Timeline(stamps[:-1], gif.time_base, stamps[-1] * gif.time_base, by_count=True, notes=(note,))


def _by_decoding(path: Path) -> Timeline:
    """The same by decoding everything."""
    with open_container(path) as container:
        stream = video_stream(container, path)
        stream.thread_type = "AUTO"
        time_base = tick_of(stream)
        found: list[int | None] = []
        durations: list[int] = []
        sizes: Counter[Size] = Counter()
        shown_on, interlaced = 0, False
        try:
            for packet in container.demux(stream):
                if is_repeat(packet):
                    shown_on = max(shown_on, _end_of(packet))
                    continue
                for frame in packet.decode():
                    assert isinstance(frame, av.VideoFrame)
                    found.append(frame.pts)
                    durations.append(frame.duration or 0)
                    sizes[frame.width, frame.height] += 1
                    interlaced = interlaced or frame.interlaced_frame
        except av.error.FFmpegError as error:
            raise UserError(broken_frame(path, len(found))) from error
        if not found:
            raise UserError(f"{path} has no frames that can be decoded; choose another video.")
        known = sorted({stamp for stamp in found if stamp is not None})
        parts = 1
        if len(known) == len(found):  # at worst in another order: AVI knows no order of showing
            stamps, by_count = known, known != found
        else:
            stamps, parts = rising(found, usual_step(found, _step_said(stream)))
            time_base, by_count = time_base / parts, True
        rest = durations[-1] if shown_on else 0
        rest = rest or _last_duration(container, stream, [stamp // parts for stamp in stamps], durations)
        end = max(stamps[-1] + rest * parts, shown_on * parts)
        if shown_on and is_a(container, {"ogg"}) and container.duration:  # repeats at the end are not written at all
            end = max(end, floor(Fraction(container.duration, 1_000_000) / time_base))
        check_video_is_whole(path, container, end * time_base)
        for width, height in sizes:
            check_size(width, height, path)
        timeline = Timeline(
            stamps,
            time_base,
            (end - stamps[0]) * time_base,
            _origin(container, stream, stamps[0] // parts) * parts,
            by_count=by_count,
            notes=(_INTERLACED,) if interlaced else (),
        )
    if len(sizes) == 1:
        return timeline
    several = tuple(size for size, _ in sizes.most_common())
    width, height = largest(several)
    note = f"The pictures change their size ({_listed(several)}): all are shown in {width}x{height}, with black beside."
    return replace(timeline, sizes=several, notes=(*timeline.notes, note))


def largest(sizes: Sequence[Size]) -> Size:
    """The one with the most pixels."""
    return max(sizes, key=lambda size: size[0] * size[1])


def _listed(sizes: Sequence[Size]) -> str:
    named = [f"{width}x{height}" for width, height in sizes]
    return ", ".join(named if len(named) <= 4 else [*named[:3], f"{len(named) - 3} more"])


def is_a(container: av.container.InputContainer, formats: set[str]) -> bool:
    return not formats.isdisjoint(container.format.name.split(","))


def _end_of(packet: av.Packet) -> int:
    return 0 if packet.pts is None else packet.pts + (packet.duration or 0)


def _interlaced(stream: av.VideoStream) -> bool:
    """Whether fields are coded, each of which may have a packet of its own."""
    return int(getattr(stream.codec_context, "field_order", 0) or 0) > 1


def _step_said(stream: av.VideoStream) -> int:
    rate = stream.average_rate or stream.guessed_rate or Fraction(24)
    return max(1, round(1 / (as_fraction(rate) * tick_of(stream))))


def _last_duration(
    container: av.container.InputContainer, stream: av.VideoStream, stamps: list[int], durations: list[int]
) -> int:
    """How long the last frame is shown, in ticks of the stream.

    A whole MP4 says where its track ends. Elsewhere a packet's own duration counts if those of the others are true,
    since many are guesses from the average rate; then what the head says; then the usual step.
    """
    last, usual = stamps[-1], usual_step(stamps, 0)
    if is_a(container, {"mov"}) and stream.frames and stream.duration and stream.start_time is not None:
        rest = stream.start_time + stream.duration - last
        if rest > 0:
            return rest
    steps = [b - a for a, b in pairwise(stamps)]
    true = sum(abs(step - said) <= 1 for step, said in zip(steps, durations, strict=False))
    if durations[-1] > 0 and 2 * true >= len(steps):
        return durations[-1]
    for end in _ends_said(stream, stamps[0]):
        if 0 < end - last <= 2 * max(usual, steps[-1] if steps else 0):
            return end - last
    return usual or max(1, durations[-1] or _step_said(stream))


def _ends_said(stream: av.VideoStream, first: int) -> list[int]:
    """Where Matroska's tag says that the track ends: writers mean its end, or its length, by DURATION."""
    said = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)\s*", stream.metadata.get("DURATION", ""))
    if said is None:
        return []
    ticks = round((int(said[1]) * 3600 + int(said[2]) * 60 + Fraction(said[3])) / tick_of(stream))
    return [ticks, first + ticks]


def _origin(container: av.container.InputContainer, stream: av.VideoStream, first: int) -> int:
    """The stamp to call zero.

    A clock that begins at zero is kept, with a picture that comes later than the sound. Where the whole file begins
    later (broadcasts, a part of a stream, a recording that was joined late), zero is where picture or sound begins.
    """
    ticks = tick_of(stream)
    begins = [audio.start_time * tick_of(audio) for audio in container.streams.audio if audio.start_time is not None]
    if not begins:
        return first
    begin = min(first * ticks, *begins)
    if begin <= _AT_ZERO:
        return min(0, first)
    return first if first * ticks - begin < _NO_LEAD else floor(begin / ticks)


def check_video_is_whole(path: Path, container: av.container.InputContainer, end: Fraction) -> None:
    """Raises `UserError` if a file ends well before its head says: the head of Matroska and FLV has a duration.

    Some writers mean by it how long the file is, others where it ends on its own clock. The file is whole by either.
    """
    if not is_a(container, {"matroska", "flv"}) or not container.duration:
        return
    begin, said = Fraction(container.start_time or 0, 1_000_000), Fraction(container.duration, 1_000_000)
    promised = said if said > begin else begin + said
    tolerance = max(Fraction(1, 2), said / 50)
    if promised - end <= tolerance:
        return
    with open_container(path) as again:  # is it the sound that goes on?
        for packet in again.demux():
            if packet.pts is not None and packet.time_base is not None:
                end = max(end, (packet.pts + (packet.duration or 0)) * as_fraction(packet.time_base))
    if promised - end > tolerance:
        raise UserError(_cut_off(path))


def broken_frame(path: Path, index: int) -> str:
    return f"{path} is damaged: frame {index} cannot be decoded; copy or download the file again."


def _cut_off(path: Path) -> str:
    return f"{path} is cut off: it ends before its last frame; copy or download it again."
