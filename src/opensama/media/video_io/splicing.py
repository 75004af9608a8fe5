"""A span of a file edited, all else of the file copied packet by packet.

    source    I b b P b b P | I b b P b b P | I b b P        packets in the order of decoding
    written   I b b P . . . . i p p p p p p | I b b P        . copied, i p encoded anew

Encoded again is what the span needs: from the last place at or before it where the packets so far are the frames so far
(these decode without what follows), up to the first place behind it where decoding can begin. New packets take the
decoding times of those in whose place they come, and have no B-frames, so that times are right at both joints. Their
parameter sets have numbers that the source's do not have, and stand beside these in the head of the file: a player may
seek anywhere. Where HEVC begins anew with pictures that are shown before the key frame (an open group), these are
encoded too, and the sequence is ended before the key frame.
"""

from __future__ import annotations

import errno
import io
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.video.frame import PictureType

from opensama.media.video_io.bitstream import HEVC_END_OF_SEQUENCE, Entry, NalHead, after_start_codes, entry_of
from opensama.media.video_io.color import FromRGB, tag
from opensama.media.video_io.containers import FORMATS, Encoding, FileFormat, common_ticks, own_priority
from opensama.media.video_io.edit_record import MATROSKA_TAG, append_record, tags_of
from opensama.media.video_io.hevc_ids import X265, Renumbering
from opensama.media.video_io.keeping import dynamic_notes, is_of_ours
from opensama.media.video_io.opening import open_container, video_stream
from opensama.media.video_io.pyav import as_fraction, tick_of
from opensama.media.video_io.reading import FileFrames
from opensama.media.video_io.timeline import Timeline, timeline_of
from opensama.values import Span, UserError, Video

NEAR_LOSSLESS = 95
"""The least quality of what is encoded again: frames beside the span are coded for a second time."""
_YUV = {"yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le"}
_PIXELS = {"h264": _YUV, "hevc": _YUV, "vp9": {"yuv420p"}, "av1": {"yuv420p", "yuv420p10le"}}
_PROFILES = {
    "Baseline": "baseline", "Constrained Baseline": "baseline", "Main": "main", "High": "high", "High 10": "high10",
    "High 4:2:2": "high422", "High 4:4:4 Predictive": "high444",
}  # fmt: skip
_DEMUXERS = {"mp4": "mov", "mov": "mov", "matroska": "matroska", "webm": "matroska"}


class NotSpliced(Exception):
    """Why all must be encoded, as the end of a sentence."""


@dataclass(frozen=True)
class Splice:
    """Frames `start`..`stop` of a file to encode, in the order of showing; all other packets are copied."""

    video: Video
    span: Span
    frames: FileFrames
    kind: FileFormat
    plan: Encoding
    codec: str
    profile: str
    """Of H.264, as x264 calls it."""
    head: bytes
    """The source's extradata."""
    start: int
    stop: int
    ended: bool
    """Whether the sequence is to be ended before the copying goes on."""
    left_out: tuple[int, ...] = ()
    """Data tracks that such a file does not take."""

    @classmethod
    def of(
        cls, video: Video, kind: FileFormat, quality: float, even: bool = False, codec: str | None = None
    ) -> Splice | None:
        """The plan for a video that was edited in a `span` only; None where nothing says so.

        Raises NotSpliced where it cannot be done.
        """
        span = video.span
        if span is None or not isinstance(span.source.source, FileFrames):
            return None
        frames = span.source.source
        with open_container(frames.path) as container:
            stream = video_stream(container, frames.path)
            context = stream.codec_context
            name, pixels = context.codec.canonical_name, context.pix_fmt or ""
            if _DEMUXERS[kind.muxer] not in container.format.name.split(","):
                raise NotSpliced(f"{kind.name} is another kind of file")
            if name not in _PIXELS or pixels not in _PIXELS[name]:
                raise NotSpliced(f"no encoder here makes {name} with the pixel format {pixels} to go with it")
            if codec not in (None, name):
                raise NotSpliced(f"the codec {codec} was asked for")
            _check_pictures(span.source, frames, even)
            profile, head = _PROFILES.get(context.profile or "", ""), bytes(context.extradata or b"")
            if name == "h264" and not profile:
                raise NotSpliced(f"no encoder here makes the profile {context.profile} of H.264")
            if dynamic_notes(next(iter(container.decode(stream)), None)):
                raise NotSpliced("its metadata changes from frame to frame")
        if name in ("h264", "hevc") and not NalHead(name, head).length:
            raise NotSpliced("its parameter sets are not where they can be added to")
        try:
            best = Encoding.of(span.source, FORMATS[".mkv"], max(quality, NEAR_LOSSLESS), even=False, codec=name)
        except UserError as error:
            raise NotSpliced(f"it is too small for {name}") from error
        plan = replace(best, pixel_format=pixels, notes=())
        splice = cls(video, span, frames, kind, plan, name, profile, head, *_joints(frames, span, name, head))
        if splice.stop - splice.start == len(frames.timeline.stamps):
            raise NotSpliced("decoding can begin nowhere else in it")
        return splice._tried()

    @property
    def note(self) -> str:
        name = self.frames.path.name
        return f"Only the frames {self.start}:{self.stop} were encoded again; all else is copied from {name}."

    def write(self, path: Path) -> tuple[str, list[str]]:
        """Copies the file, with the span's packets in place of its own; what became of the sound, and notes come out.

        NotSpliced if it turns out that the file cannot be joined.
        """
        with open_container(self.frames.path) as source:
            container, places, encoder = self._output(f"file:{path.absolute()}", source)
            try:
                self._copy(source, container, places, encoder)
            except BaseException:
                with suppress(Exception):
                    container.close()
                raise
            container.close()
            sound = ", ".join(f"copied {track.codec_context.codec.canonical_name}" for track in source.streams.audio)
            gone = [source.streams[index].metadata.get("handler_name", "data") for index in self.left_out]
        append_record(path, self.video, self.kind)
        self._check(path)
        note = f"Left out, because {self.kind.name} is written without: data tracks ({', '.join(gone)})."
        return sound or "none", [note] if gone else []

    def _output(
        self, place: str | io.BytesIO, source: av.container.InputContainer
    ) -> tuple[av.container.OutputContainer, dict[int, av.stream.Stream], _Encoder]:
        """An open file with the source's tags, chapters and streams: their places by index, and the pictures' encoder.

        The head is written with the first packet.
        """
        pictures = video_stream(source, self.frames.path)
        encoder = _Encoder(self, tick_of(pictures))
        options = {}
        if not self.kind.milliseconds:
            ticks, rates = (
                encoder.tick.denominator,
                [track.codec_context.sample_rate for track in source.streams.audio if track.codec_context],
            )
            options = {"video_track_timescale": str(ticks), "movie_timescale": str(common_ticks(ticks, rates))}
            if isinstance(place, str):
                options["movflags"] = "+faststart"
        container = av.open(place, "w", format=self.kind.muxer, options=options)
        container.metadata.update({key: tag for key, tag in source.metadata.items() if key.upper() != MATROSKA_TAG})
        container.metadata.update(tags_of(self.video, self.kind))
        if chapters := source.chapters():
            container.set_chapters(chapters)
        places = {}
        for stream in source.streams:
            if _is_made_anew(stream) or stream.index in self.left_out:
                continue
            if self.kind.milliseconds and stream.disposition & av.stream.Disposition.attached_pic:
                container.add_attachment(*_cover(self.frames.path, stream))
                continue
            target = container.add_stream_from_template(stream, opaque=True)
            target.metadata.update(stream.metadata)
            if "name" in stream.metadata:
                target.metadata["title"] = stream.metadata["name"]  # as MP4's reader and its writer call one thing
            target.disposition = stream.disposition
            places[stream.index] = target
            context = target.codec_context
            if stream.index == pictures.index:
                assert isinstance(context, av.VideoCodecContext)
                context.extradata = encoder.head
                if not self.kind.milliseconds:
                    context.codec_tag = pictures.codec_context.codec_tag
                rate = as_fraction(pictures.average_rate or 0)
                if rate and _is_even(self.frames.timeline, rate):
                    context.framerate = rate
        return container, places, encoder

    def _tried(self) -> Splice:
        """Itself, without data tracks if it must be. NotSpliced where other streams do not go into such a file, or the
        encoder does not make such pictures."""
        with open_container(self.frames.path) as source:
            data = tuple(stream.index for stream in source.streams if stream.type == "data")
            for splice in (self, replace(self, left_out=data)):
                with suppress(av.error.FFmpegError, ValueError):
                    container, _, _ = splice._output(io.BytesIO(), source)
                    container.start_encoding()
                    container.close()
                    return splice
        raise NotSpliced(f"{self.kind.name} does not take all that is in it as it is")

    def _copy(
        self,
        source: av.container.InputContainer,
        container: av.container.OutputContainer,
        places: Mapping[int, av.stream.Stream],
        new: _Encoder,
    ) -> None:
        stamps, index = self.frames.timeline.stamps, video_stream(source, self.frames.path).index
        begin, end = stamps[self.start], stamps[self.stop] if self.stop < len(stamps) else None
        held: av.Packet | None = None  # the key frame behind the span, while pictures shown before it are replaced
        left = self.stop - self.start
        for packet in source.demux([source.streams[index] for index in places]):
            if not packet.size or packet.stream_index not in places:
                continue
            target = places[packet.stream_index]
            if packet.has_sidedata("new_extradata"):
                raise NotSpliced("what its packets are changes on the way")
            if packet.stream_index == index:
                assert packet.pts is not None
                ours = begin <= packet.pts and (end is None or packet.pts < end)
                if left and (ours or packet.pts == end):
                    held = packet if packet.pts == end else held
                    dts, packet, left = packet.dts, next(new), left - 1
                    packet.dts = dts
                elif held is not None and ours:
                    held.dts, packet, held = packet.dts, held, None
            packet.stream = target
            container.mux(packet)
        if left or held is not None:
            raise NotSpliced("its packets come in another order than they did")

    def _check(self, path: Path) -> None:
        """NotSpliced unless the frames of the new file are shown when the source's are."""
        with open_container(path) as container:
            stream = video_stream(container, path)
            shown = timeline_of(path, container, stream)
        old = self.frames.timeline
        if len(shown.stamps) != len(old.stamps):
            raise OSError(errno.EIO, f"{len(shown.stamps)} of {len(old.stamps)} frames arrived")
        if any(a * shown.time_base != b * old.time_base for a, b in zip(shown.stamps, old.stamps, strict=True)):
            raise NotSpliced(f"{self.kind.name} does not keep its times")


class _Encoder(Iterator[av.Packet]):
    """The span's new packets in the order of showing, ready to stand between the source's."""

    def __init__(self, splice: Splice, tick: Fraction) -> None:
        self.splice, self.tick, self.head = splice, tick, splice.head
        plan, codec, source = splice.plan, splice.codec, splice.span.source
        self._context = context = cast(av.VideoCodecContext, av.CodecContext.create(plan.codec, "w"))
        context.width, context.height, context.pix_fmt = (
            splice.frames.look.stored[0],
            splice.frames.look.stored[1],
            plan.pixel_format,
        )
        context.time_base, context.framerate = tick, source.fps.limit_denominator(100_000)
        context.flags |= av.codec.context.Flags.global_header
        tag(context, plan.color)
        self._nals = NalHead(codec, splice.head) if codec in ("h264", "hevc") else None
        self._renumber: Callable[[bytes], bytes] = bytes
        options = dict(plan.options)
        if self._nals is not None:
            number = max(set(range(1, 16)) - self._nals.numbers(), default=0)
            if not number:
                raise NotSpliced("it has no number left for other parameter sets")
            if codec == "h264":
                options |= {"bf": "0", "profile": splice.profile, "x264-params": f"sps-id={number}"}
            else:
                known = {"log-level": "error", **source.extra, **X265}
                options["x265-params"] = ":".join(f"{key}={value}" for key, value in known.items())
                self._renumber = Renumbering(number)
        context.options = options
        with own_priority():
            context.open()
        if self._nals is not None:
            sets = filter(self._nals.is_set, after_start_codes(context.extradata or b""))
            self.head = self._nals.with_sets(map(self._renumber, sets))
        self._packets = self._made()

    def __next__(self) -> av.Packet:
        return next(self._packets)

    def _made(self) -> Iterator[av.Packet]:
        timeline, splice = self.splice.frames.timeline, self.splice
        ends = [*timeline.stamps[1:], timeline.stamps[0] + round(timeline.duration / timeline.time_base)]
        for index, coded in enumerate(self._coded(), splice.start):
            data = bytes(coded)
            if self._nals is not None:
                nals = [self._renumber(nal) for nal in after_start_codes(data) if not self._nals.is_set(nal)]
                if splice.ended and index == splice.stop - 1:
                    nals.append(HEVC_END_OF_SEQUENCE)
                data = self._nals.join(nals)
            packet = av.Packet(data)
            packet.time_base, packet.pts, packet.is_keyframe = self.tick, timeline.stamps[index], coded.is_keyframe
            packet.duration = ends[index] - timeline.stamps[index]
            assert coded.pts == packet.pts
            yield packet

    def _coded(self) -> Iterator[av.Packet]:
        stamps, start = self.splice.frames.timeline.stamps, self.splice.start
        for stamp, frame in zip(stamps[start : self.splice.stop], self._pictures(), strict=True):
            frame.pts, frame.time_base, frame.pict_type = stamp, self.tick, PictureType.NONE
            yield from self._context.encode(frame)
        yield from self._context.encode(None)

    def _pictures(self) -> Iterator[av.VideoFrame]:
        """Those of the span made from its colours, the others as they were decoded."""
        frames, span, look = self.splice.frames, self.splice.span, self.splice.frames.look
        convert = FromRGB(self.splice.plan.pixel_format, look.color, look.width, look.height)
        yield from frames.decoded(self.splice.start, span.start)
        for picture in self.splice.video.frames(span.start, span.stop):
            yield convert(look.orientation.undo(picture))
        yield from frames.decoded(span.stop, self.splice.stop)


# --- whether it can be done, and where


def _check_pictures(source: Video, frames: FileFrames, even: bool) -> None:
    """NotSpliced unless frames are shown as they are stored, but for being turned."""
    look, timeline = frames.look, frames.timeline
    if timeline.cut:
        raise NotSpliced("its edit list leaves out what comes last")
    if timeline.by_count:
        raise NotSpliced("its packets do not say when its frames are shown")
    if look.alpha:
        raise NotSpliced("it has transparent places")
    if frames.cover or look.stored != (look.width, look.height):
        raise NotSpliced("its pictures are shown in another size than they are stored")
    if even and (look.width % 2 or look.height % 2):
        raise NotSpliced("its sides are to be made even")
    if source.timestamps != tuple(stamp - timeline.origin for stamp in timeline.stamps):
        raise NotSpliced("its times were changed")


def _is_made_anew(stream: av.stream.Stream) -> bool:
    """Timecode and the titles of chapters are written from the tags."""
    return stream.type == "data" and is_of_ours(stream)


def _cover(path: Path, stream: av.stream.Stream) -> tuple[str, str, bytes]:
    """Name, kind and data of a picture that Matroska has attached, which FFmpeg reads as a stream."""
    with open_container(path) as container:
        data = next(container.demux(container.streams[stream.index]))
        return stream.metadata.get("filename", "cover"), stream.metadata.get("mimetype", "image/jpeg"), bytes(data)


def _is_even(timeline: Timeline, rate: Fraction) -> bool:
    """Whether frames come at a constant rate, but for what the file's clock rounds."""
    step = 1 / (rate * timeline.time_base)
    return all(abs(stamp - timeline.stamps[0] - index * step) <= 1 for index, stamp in enumerate(timeline.stamps))


def _joints(frames: FileFrames, span: Span, codec: str, head: bytes) -> tuple[int, int, bool]:
    """`start`, `stop` and `ended` of a Splice."""
    near = [place for index, place in frames.timeline.keys if index <= span.start][-1:]
    for place in (*near, None):
        with open_container(frames.path) as container:
            stream = video_stream(container, frames.path)
            if place is not None:
                container.seek(place, stream=stream, backward=True)
            found = _search(container.demux(stream), frames.timeline.stamps, span, codec, head)
        if found is not None:
            return found
    raise NotSpliced("its frames are in an order that leaves no place to join it")


def _search(
    packets: Iterator[av.Packet], stamps: Sequence[int], span: Span, codec: str, head: bytes
) -> tuple[int, int, bool] | None:
    """The joints from packets that begin at or before the span; None if these do not show them."""
    order: list[int] = []  # stamps in the order of decoding
    outside: list[bool] = []  # of what the file shows
    at: int | None = None  # the packet where copying may go on
    how = Entry.NOWHERE
    for packet in packets:
        if not packet.size:
            continue
        if packet.pts is None:
            return None
        if at is not None and packet.pts > order[at]:
            if codec == "hevc" or at == len(order) - 1:
                break
            at = None  # pictures that are shown before it may need what was before
        order.append(packet.pts)
        outside.append(packet.is_discard)
        behind = packet.is_keyframe and not packet.is_discard and bisect_left(stamps, packet.pts) >= span.stop
        if at is None and behind:
            how = entry_of(codec, bytes(packet), head)
            at = None if how is Entry.NOWHERE else len(order) - 1
    if at is not None and codec != "hevc" and at < len(order) - 1:
        at = None
    stamped = np.array(order)
    end = stamped[at] if at is not None else np.iinfo(np.int64).max
    least = np.minimum.accumulate(stamped[::-1])[::-1]
    most = np.concatenate([[np.iinfo(np.int64).min], np.maximum.accumulate(stamped)[:-1]])
    cuts = np.flatnonzero((most < least) & (least <= stamps[span.start]))
    if not len(cuts):
        return None
    cut = int(cuts[-1])
    begin = int(least[cut])
    start, stop = bisect_left(stamps, begin), len(stamps) if at is None else bisect_left(stamps, int(end))
    before = start - bisect_left(stamps, int(stamped.min()))
    replaced = int((stamped[cut:] < end).sum())
    if before != cut - sum(outside[:cut]) or replaced != stop - start or any(outside[cut:]):
        return None
    return start, stop, at is not None and how is Entry.AFTER_END
