"""Sound beside new pictures: copied as it is where MP4 players play it, else made AAC; in sync either way.

Copied: AAC, MP3, AC-3 and E-AC-3. Made AAC with one line of note: everything else, such as Opus, Vorbis, FLAC, ALAC and
PCM, which MP4 either cannot hold or phones and Apple's players do not play from it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from typing import cast

import av

from opensama.media.video_io.opening import opened
from opensama.media.video_io.pyav import clock_of
from opensama.values import Video

COPIED = {"aac", "mp3", "mp3float", "ac3", "eac3"}
_AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
_SAMPLES = {"aac": 1024, "mp3": 1152, "ac3": 1536, "eac3": 1536}  # in a packet
_BY_CHANNELS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}
_AAC_LAYOUTS = ("mono", "stereo", "3.0", "4.0", "5.0", "5.1", "7.1")


class Sound:
    """All sound tracks of the file that a video came from, given out packet by packet in step with the pictures."""

    def __init__(self, source: av.container.InputContainer | None, video: Video) -> None:
        streams = [] if source is None else list(source.streams.audio)
        self._tracks: dict[int, _Copied | _MadeAAC] = {}
        for stream in streams:
            if stream.codec_context is not None:
                kind = _Copied if stream.codec_context.name in COPIED else _MadeAAC
                self._tracks[stream.index] = kind(stream, video.origin)
        self.notes = [track.note for track in self._tracks.values() if track.note]
        if len(self._tracks) < len(streams):
            self.notes.append("A sound track in an unknown format was left out.")
        self._packets: Iterator[av.Packet] = iter(())
        if source is not None and self._tracks:
            wanted = [stream for stream in streams if stream.index in self._tracks]
            # The empty packet that ends a stream has its index only here.
            self._packets = (packet for packet in source.demux(wanted) if packet.stream.index in self._tracks)
        self._next: av.Packet | None = None

    @classmethod
    @contextmanager
    def of(cls, video: Video) -> Iterator[Sound]:
        if video.has_audio and video.path is not None:
            with opened(video.path) as source:
                yield cls(source, video)
        else:
            yield cls(None, video)

    @property
    def rates(self) -> list[int]:
        return [track.rate for track in self._tracks.values()]

    @property
    def summary(self) -> str:
        return ", ".join(track.summary for track in self._tracks.values()) or "none"

    def add_to(self, output: av.container.OutputContainer) -> None:
        for track in self._tracks.values():
            track.add_to(output)

    def mux_until(self, output: av.container.OutputContainer, seconds: Fraction | None) -> None:
        """Writes the sound up to that time of the video, or (None) all the rest."""
        while True:
            if self._next is None:
                self._next = next(self._packets, None)
            if self._next is None:
                break
            packet, track = self._next, self._tracks[self._next.stream.index]
            if seconds is not None and track.begins(packet) > seconds:
                return
            self._next = None
            for written in track.packets(packet):
                output.mux(written)


class _Track:
    """One sound track; times come out in ticks of one sample."""

    note = ""

    def __init__(self, stream: av.AudioStream, origin: Fraction) -> None:
        self.source, self.origin = stream, origin
        self.name = stream.codec_context.name.removesuffix("float")
        self.rate = stream.codec_context.sample_rate
        self.time_base = clock_of(stream)

    def begins(self, packet: av.Packet) -> Fraction:
        """Seconds on the video's clock; packets without a time are due at once."""
        stamp = packet.dts if packet.dts is not None else packet.pts
        return stamp * self.time_base - self.origin if stamp is not None else Fraction(-1)

    def _describe(self, target: av.AudioStream) -> None:
        if language := self.source.metadata.get("language"):
            target.metadata["language"] = language


class _Copied(_Track):
    """The packets as they are. Coarse clocks (Matroska's milliseconds) are made even again by counting samples."""

    @property
    def summary(self) -> str:
        return f"copied {self.name}"

    def add_to(self, output: av.container.OutputContainer) -> None:
        self._target = output.add_stream_from_template(self.source)
        self._target.time_base = Fraction(1, self.rate)
        self._describe(self._target)
        samples = self.source.codec_context.frame_size or _SAMPLES.get(self.name, 0)
        self._samples = samples if self.time_base > Fraction(1, self.rate) else 0
        self._expected, self._began = 0, False
        self._end = None  # MP4 may end inside a packet: that is kept
        stream = self.source
        if stream.duration and stream.start_time is not None and self.time_base <= Fraction(1, self.rate):
            self._end = round(((stream.start_time + stream.duration) * self.time_base - self.origin) * self.rate)

    def packets(self, packet: av.Packet) -> Iterator[av.Packet]:
        if packet.size == 0 or packet.pts is None:
            return
        exact = self.begins(packet) * self.rate
        stamp = round(exact)
        expected = self._expected if self._began else -_skipped(packet)
        if self._samples and abs(exact - expected) <= self.time_base * self.rate + 1:
            stamp = expected
        duration = self._samples or round((packet.duration or 0) * self.time_base * self.rate)
        self._expected, self._began = stamp + self._samples, True
        if self._end is not None and stamp < self._end:
            duration = min(duration, self._end - stamp)
        packet.pts = packet.dts = stamp
        packet.duration = duration
        packet.time_base = Fraction(1, self.rate)
        packet.stream = self._target
        yield packet


def _skipped(packet: av.Packet) -> int:
    """Samples that the decoder drops at the beginning, where the container says so."""
    if not packet.has_sidedata("skip_samples"):
        return 0
    return int(struct.unpack("<I", bytes(packet.get_sidedata("skip_samples"))[:4])[0])


class _MadeAAC(_Track):
    """Decoded, gaps filled with silence, encoded as AAC."""

    def __init__(self, stream: av.AudioStream, origin: Fraction) -> None:
        super().__init__(stream, origin)
        rate = self.rate
        self.rate = next((known for known in _AAC_RATES if known <= rate), _AAC_RATES[-1])
        name, channels = stream.codec_context.layout.name, stream.codec_context.channels
        self.layout = name if name in _AAC_LAYOUTS else _BY_CHANNELS.get(channels, "stereo")
        self.note = f"The sound ({self.name}) was made AAC, because MP4 players do not play it as it is."
        if (self.layout != _BY_CHANNELS.get(channels) and self.layout != name) or self.rate != rate:
            self.note += f" It is {self.layout} at {self.rate} Hz now."

    @property
    def summary(self) -> str:
        return f"{self.name} made aac"

    def add_to(self, output: av.container.OutputContainer) -> None:
        self._target = output.add_stream("aac", rate=self.rate, layout=self.layout)
        self._target.codec_context.bit_rate = 96_000 * max(1, self._target.codec_context.channels)
        self._target.codec_context.time_base = self._target.time_base = Fraction(1, self.rate)
        self._describe(self._target)
        graph = av.filter.Graph()
        steps = [
            graph.add_abuffer(template=self.source),
            graph.add("aresample", f"{self.rate}:async=1"),
            graph.add("aformat", f"sample_fmts=fltp:sample_rates={self.rate}:channel_layouts={self.layout}"),
            graph.add("asetnsamples", "n=1024:p=0"),
            graph.add("abuffersink"),
        ]
        graph.link_nodes(*steps).configure()
        self._graph = graph

    def packets(self, packet: av.Packet) -> Iterator[av.Packet]:
        last = packet.size == 0
        frames: list[av.AudioFrame] = []
        with suppress(av.error.InvalidDataError):  # a damaged packet is silence
            frames = cast(list[av.AudioFrame], packet.decode())
        for frame in frames:
            self._graph.push(frame)
        if last:
            self._graph.push(None)
        for frame in self._filtered():
            assert frame.pts is not None
            assert frame.time_base is not None
            frame.pts = round((frame.pts * frame.time_base - self.origin) * self.rate)
            frame.time_base = Fraction(1, self.rate)
            yield from self._target.encode(frame)
        if last:
            yield from self._target.encode(None)

    def _filtered(self) -> Iterator[av.AudioFrame]:
        while True:
            try:
                yield cast(av.AudioFrame, self._graph.pull())
            except (BlockingIOError, EOFError):
                return
