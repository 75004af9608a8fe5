"""Sound beside new pictures: copied as it is where the players of the file play it, else made anew; in sync either way.

What is copied and what is made is in `containers`. In MP4, Opus, Vorbis, FLAC, ALAC and PCM are made AAC, because MP4
either cannot hold them or phones and Apple's players do not play them from it. Sound outside of an edit list is
dropped, and times always rise, whatever the file says.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from typing import cast

import av

from opensama.media.video_io.containers import FileFormat
from opensama.media.video_io.keeping import language_in
from opensama.media.video_io.opening import open_container
from opensama.media.video_io.probing import Track, probe
from opensama.media.video_io.pyav import as_fraction, tick_of
from opensama.values import Video

_AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
_SAMPLES = {"aac": 1024, "mp2": 1152, "mp3": 1152, "ac3": 1536, "eac3": 1536}  # in a packet
_BY_CHANNELS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 7: "7.1", 8: "7.1"}
_LAYOUTS = {
    "aac": ("mono", "stereo", "3.0", "4.0", "5.0", "5.1", "7.1"),
    "libopus": ("mono", "stereo", "3.0", "quad", "5.0", "5.1", "6.1", "7.1"),
}
_LEAD_IN = 4096  # samples that an edit list may leave out at the beginning because they only warm the decoder up
_BEFORE = 2  # seconds of sound before a clip that are looked at, since packets may come late
_APART = Fraction(1, 10)  # seconds by which times must be moved to be worth a word


class Sound:
    """All sound tracks of the file that a video came from, given out packet by packet in step with the pictures."""

    def __init__(
        self, source: av.container.InputContainer | None, video: Video, kind: FileFormat, heard: dict[int, Track]
    ) -> None:
        streams = [] if source is None else list(source.streams.audio)
        until = video.duration if video.is_clip else None
        self._tracks: dict[int, _Copied | _Made] = {}
        self._left_out: list[str] = []
        for stream in streams:
            track = heard.get(stream.index)
            if track is None:
                self._left_out.append("A sound track in an unknown format was left out.")
            elif _is_copied(stream, kind, track):
                self._tracks[stream.index] = _Copied(stream, kind, track, until)
            elif track.formats:
                self._tracks[stream.index] = _Made(stream, kind, track, until)
            else:
                name = stream.codec_context.codec.canonical_name
                self._left_out.append(f"A sound track ({name}) cannot be decoded and was left out.")
        self._packets: Iterator[av.Packet] = iter(())
        if source is not None and self._tracks:
            wanted = [stream for stream in streams if stream.index in self._tracks]
            # The empty packet that ends a stream has its index only here.
            self._packets = (packet for packet in source.demux(wanted) if packet.stream.index in self._tracks)
        self._next: av.Packet | None = None

    @classmethod
    @contextmanager
    def of(cls, video: Video, kind: FileFormat) -> Iterator[Sound]:
        if video.has_audio and video.path is not None:
            heard = probe(video.path, video)
            with open_container(video.path) as source:
                yield cls(source, video, kind, heard)
        else:
            yield cls(None, video, kind, {})

    @property
    def notes(self) -> list[str]:
        """One sentence for each thing a person should know, however many tracks it happened to."""
        said = [note for track in self._tracks.values() for note in track.notes]
        return list(dict.fromkeys((*said, *self._left_out)))

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
                if self._next is not None:
                    self._tracks[self._next.stream.index].receive(self._next)
            if self._next is None:
                break
            packet, track = self._next, self._tracks[self._next.stream.index]
            if seconds is not None and track.due > seconds:
                return
            self._next = None
            track.pass_on(packet, output)

    def finish(self, output: av.container.OutputContainer) -> None:
        """Ends each track where it is, for a rehearsal: nothing more is written."""
        for track in self._tracks.values():
            track.pass_on(None, output)
        self._packets, self._next = iter(()), None


def _is_copied(stream: av.AudioStream, kind: FileFormat, track: Track) -> bool:
    """A packet that is copied must be what the head of the new file says of the whole track."""
    if stream.codec_context.codec.canonical_name not in kind.copied or len(track.formats) > 1:
        return False
    rate = stream.codec_context.sample_rate  # 0 where only frames would say it, and there are none
    return rate > 0 and (not track.formats or track.formats[0].rate == rate)


class _Track:
    """One sound track; times come out in ticks of one sample. Of a clip, only what lies from zero `until` its end."""

    def __init__(self, stream: av.AudioStream, kind: FileFormat, heard: Track, until: Fraction | None = None) -> None:
        self.source, self.kind, self.heard, self.until = stream, kind, heard, until
        self.name = stream.codec_context.codec.canonical_name
        self.rate = stream.codec_context.sample_rate
        self.time_base = tick_of(stream)
        self.due = Fraction(-1)
        """When the packet at hand is to be written, on the video's clock."""
        self.outside = self.damaged = 0
        self.broken: Fraction | None = None
        """Seconds at which the track could not be written on."""
        self.moved = Fraction(0)
        self._piece = 0
        self._raw: Fraction | None = None

    @property
    def notes(self) -> list[str]:
        said = []
        if self.outside:
            said.append("Sound that the file's edit list leaves out was left out.")
        if len(self.heard.offsets) > 1:
            said.append("The file's clock goes back, as in joined recordings: the sound was kept in step.")
        elif self.moved > _APART:
            said.append("Times of the sound that go back were made to rise.")
        if self.damaged:
            said.append("Damaged pieces of the sound were left out.")
        if self.broken is not None:
            said.append(f"The sound ({self.name}) could not be written beyond {float(self.broken):.1f} s.")
        return said

    def receive(self, packet: av.Packet) -> None:
        """Notes when the packet is due, once for each packet, in the file's order."""
        stamp = packet.dts if packet.dts is not None else packet.pts
        if stamp is None or packet.is_discard:
            self.due = Fraction(-1)
            return
        raw = stamp * self.time_base
        if self._raw is not None and raw < self._raw - Fraction(1, 2):
            self._piece = min(self._piece + 1, len(self.heard.offsets) - 1)
        self._raw = raw
        self.due = raw - self.offset

    def pass_on(self, packet: av.Packet | None, output: av.container.OutputContainer) -> None:
        """Writes the packet, or what becomes of it; None ends the track. A track that fails just ends."""
        if self.broken is not None:
            return
        if self.until is not None and packet is not None and packet.size and not -_BEFORE <= self.due < self.until:
            return
        try:
            self._write(packet, output)
        except (av.error.FFmpegError, ValueError) as error:
            if isinstance(error, OSError):  # the disk's fault
                raise
            self.broken = max(Fraction(0), self.due)

    def _write(self, packet: av.Packet | None, output: av.container.OutputContainer) -> None:
        raise NotImplementedError

    @property
    def offset(self) -> Fraction:
        """Seconds in the file that are zero of the video, in the piece at hand."""
        return self.heard.offsets[self._piece]

    def _describe(self, target: av.AudioStream) -> None:
        for key in ("language", "title"):
            if value := self.source.metadata.get(key):
                target.metadata[key] = language_in(self.kind, value) if key == "language" else value
        target.disposition = self.source.disposition


class _Copied(_Track):
    """The packets as they are. Coarse clocks (Matroska's milliseconds) are made even again by counting samples."""

    @property
    def summary(self) -> str:
        return f"copied {self.name}"

    def add_to(self, output: av.container.OutputContainer) -> None:
        self._target = output.add_stream_from_template(self.source)
        self._target.time_base = Fraction(1, self.rate)
        self._describe(self._target)
        self._usual = self.source.codec_context.frame_size or _SAMPLES.get(self.name, 0)
        self._samples = self._usual if self.time_base > Fraction(1, self.rate) else 0
        self._expected = 0
        self._last: int | None = None
        self._end = None  # MP4 may end inside a packet: that is kept
        stream = self.source
        if stream.duration and stream.start_time is not None and self.time_base <= Fraction(1, self.rate):
            self._end = round(((stream.start_time + stream.duration) * self.time_base - self.offset) * self.rate)
        if self.until is not None:
            self._end = min(self._end or round(self.until * self.rate), round(self.until * self.rate))

    def _write(self, packet: av.Packet | None, output: av.container.OutputContainer) -> None:
        if packet is None or packet.size == 0:
            return
        began = self._last is not None
        stamp = packet.pts if packet.pts is not None else packet.dts
        told = Fraction(self._expected) if stamp is None else (stamp * self.time_base - self.offset) * self.rate
        at = round(told)
        if packet.is_discard and (began or not -_LEAD_IN <= at < 0):
            self.outside += began
            return
        expected = self._expected if began else -_skipped(packet)
        if self._samples and abs(told - expected) <= self.time_base * self.rate + 1:
            at = expected
        duration = self._samples or round((packet.duration or 0) * self.time_base * self.rate) or self._usual
        if self.until is not None and at + duration <= -self._usual:  # one more warms the decoder up
            return
        if self.kind.milliseconds and at < 0 and (self.name != "opus" or self.until is not None):  # no times below zero
            if at + duration <= 0:
                return
            duration, at = at + duration, 0
        if self._last is not None and at <= self._last:
            self.moved += Fraction(self._last + 1 - at, self.rate)
            if at + duration <= self._last + 1:
                return
            duration, at = at + duration - self._last - 1, self._last + 1
        self._expected, self._last = at + (self._samples or duration), at
        if self._end is not None and at < self._end and self._piece == len(self.heard.offsets) - 1:
            duration = min(duration, self._end - at)
        packet.pts = packet.dts = at
        packet.duration = duration
        packet.time_base = Fraction(1, self.rate)
        packet.stream = self._target
        try:
            output.mux(packet)
        except av.error.InvalidDataError:
            self.damaged += 1


def _skipped(packet: av.Packet) -> int:
    """Samples that the decoder drops at the beginning, where the container says so."""
    if not packet.has_sidedata("skip_samples"):
        return 0
    return int(struct.unpack("<I", bytes(packet.get_sidedata("skip_samples"))[:4])[0])


class _Made(_Track):
    """Decoded, made alike where its format changes, gaps filled with silence, encoded as what the file takes."""

    def __init__(self, stream: av.AudioStream, kind: FileFormat, heard: Track, until: Fraction | None = None) -> None:
        super().__init__(stream, kind, heard, until)
        found = heard.widest
        self.encoder, self.samples = kind.encoder, "fltp"
        self.rate, self.layout = found.rate, found.layout
        if self.encoder == "pcm":
            self.encoder, self.samples = ("pcm_s16le", "s16") if found.bits == 16 else ("pcm_s24le", "s32")
        else:
            if self.encoder == "libopus":
                self.rate, self.samples = 48000, "flt"
            else:
                self.rate = next((known for known in _AAC_RATES if known <= found.rate), _AAC_RATES[-1])
            if self.layout not in _LAYOUTS[self.encoder]:
                self.layout = _BY_CHANNELS.get(found.channels, "7.1")
        self.made = "PCM" if kind.encoder == "pcm" else {"aac": "AAC", "libopus": "Opus"}[kind.encoder]
        self._change = _Change(self.samples, self.layout, self.rate)
        self._ends_at: Fraction | None = None

    @property
    def notes(self) -> list[str]:
        said, found = super().notes, self.heard.widest
        if len(self.heard.formats) > 1:
            several = " and ".join(f"{heard.layout} at {heard.rate} Hz" for heard in self.heard.formats[:3])
            said.insert(
                0, f"The sound ({self.name}) changes on the way ({several}) and was made {self.made} throughout."
            )
        else:
            why = self.kind.reason
            if self.name in self.kind.copied:
                why = "its packets are not what the file says of them"
            said.insert(0, f"The sound ({self.name}) was made {self.made}, because {why}.")
        given = _BY_CHANNELS.get(found.channels, "") if "channels" in found.layout else found.layout  # "2 channels"
        other_layout = self.layout.split("(")[0] != given.split("(")[0]
        if other_layout or (self.rate != found.rate and self.encoder != "libopus"):
            said[0] += f" It is {self.layout} at {self.rate} Hz now."
        return said

    @property
    def summary(self) -> str:
        return f"{self.name} made {self.made.lower()}"

    def add_to(self, output: av.container.OutputContainer) -> None:
        self._target = cast(av.AudioStream, output.add_stream(self.encoder, rate=self.rate, layout=self.layout))
        context = self._target.codec_context
        context.format = self.samples
        if self.made != "PCM":
            context.bit_rate = 96_000 * max(1, context.channels)
        context.time_base = self._target.time_base = Fraction(1, self.rate)
        self._describe(self._target)
        context.open()
        graph = av.filter.Graph()
        steps = [
            graph.add_abuffer(
                format=self.samples, layout=self.layout, sample_rate=self.rate, time_base=Fraction(1, self.rate)
            ),
            graph.add("aresample", f"{self.rate}:async=1:min_hard_comp=0.02"),
            graph.add("aformat", f"sample_fmts={self.samples}:channel_layouts={self.layout}"),
            *(() if self.until is None else (graph.add("atrim", f"start=0:end={float(self.until)}"),)),
            graph.add("asetnsamples", f"n={context.frame_size or 1024}:p=0"),
            graph.add("abuffersink"),
        ]
        graph.link_nodes(*steps).configure()
        self._graph = graph

    def _write(self, packet: av.Packet | None, output: av.container.OutputContainer) -> None:
        """Decodes, makes alike, encodes and muxes; None or the empty packet ends the track."""
        last = packet is None or packet.size == 0
        frames: list[av.AudioFrame] = []
        if packet is not None:
            with suppress(av.error.FFmpegError):  # a damaged packet is silence
                frames = cast(list[av.AudioFrame], packet.decode())
            self.outside += packet.is_discard and self._ends_at is not None
        for frame in frames:
            self._place(frame)
            for changed in self._change(frame):
                self._graph.push(changed)
        if last:
            for changed in self._change(None):
                self._graph.push(changed)
            self._graph.push(None)
        for ready in self._filtered():
            output.mux(self._target.encode(ready))
        if last:
            output.mux(self._target.encode(None))

    def _place(self, frame: av.AudioFrame) -> None:
        """Puts the frame on the video's clock, in samples; frames without a time follow the one before."""
        if frame.pts is None or frame.time_base is None:
            begins = self._ends_at if self._ends_at is not None else Fraction(0)
        else:
            begins = frame.pts * as_fraction(frame.time_base) - self.offset
        self._ends_at = begins + Fraction(frame.samples, frame.sample_rate)
        frame.pts, frame.time_base = round(begins * frame.sample_rate), Fraction(1, frame.sample_rate)

    def _filtered(self) -> Iterator[av.AudioFrame]:
        while True:
            try:
                yield cast(av.AudioFrame, self._graph.pull())
            except (BlockingIOError, EOFError):
                return


class _Change:
    """Frames of any format to frames of one. Mono is as loud on two speakers as the stereo beside it."""

    def __init__(self, samples: str, layout: str, rate: int) -> None:
        self._samples, self._layout, self._rate = samples, layout, rate
        places = {channel.name for channel in av.AudioLayout(layout).channels}
        self._doubled = {"FL", "FR"} <= places and "FC" not in places
        self._given: tuple[str, str, int] | None = None
        self._resampler: av.AudioResampler | None = None

    def __call__(self, frame: av.AudioFrame | None) -> list[av.AudioFrame]:
        changed: list[av.AudioFrame] = []
        if self._doubled and frame is not None and frame.layout.nb_channels == 1:
            frame = _on_both_sides(frame)
        given = None if frame is None else (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._resampler is not None and given != self._given:
            changed += self._resampler.resample(None)
            self._resampler = None
        if frame is not None:
            if self._resampler is None:
                self._given, self._resampler = given, av.AudioResampler(self._samples, self._layout, self._rate)
            changed += self._resampler.resample(frame)
        return changed


def _on_both_sides(mono: av.AudioFrame) -> av.AudioFrame:
    """The same samples left and right: FFmpeg's resampler would keep the power, which is 3 dB less in each."""
    samples, planar = mono.to_ndarray(), mono.format.is_planar
    stereo = av.AudioFrame.from_ndarray(samples.repeat(2, 0 if planar else 1), format=mono.format.name, layout="stereo")
    stereo.sample_rate, stereo.pts, stereo.time_base = mono.sample_rate, mono.pts, mono.time_base
    return stereo
