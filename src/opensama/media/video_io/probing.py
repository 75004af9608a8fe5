"""What a file's sound really is: found on its packets and decoded frames, since headers are often wrong.

One pass over the packets, before anything is made: each track's formats (a frame is decoded wherever the packets' own
heads change), and where joined recordings set their clocks back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av

from opensama.media.video_io.opening import open_container, video_stream
from opensama.media.video_io.pyav import as_fraction
from opensama.values import Video

_BACK = Fraction(1, 2)  # seconds by which a clock must go back to count as set back, not as an overlap
_STAMPED_BY_OTHERS = {"mov"}  # edit lists make these clocks
_HEADS = 40  # packets without a decodable frame before a track counts as undecodable


@dataclass(frozen=True)
class Heard:
    """The format of decoded sound."""

    rate: int
    layout: str
    channels: int
    bits: int
    """Of a sample: 16, or 24 for all that is deeper."""


@dataclass
class Track:
    """What is known of one sound track."""

    index: int
    formats: list[Heard] = field(default_factory=list)
    """In order of appearance; none if nothing can be decoded."""
    offsets: list[Fraction] = field(default_factory=list)
    """Seconds to take from its times, one for each piece between two settings back of the clock."""

    @property
    def widest(self) -> Heard:
        """The format that loses nothing of the others."""
        widest = max(self.formats, key=lambda heard: heard.channels)
        rate, bits = max(heard.rate for heard in self.formats), max(heard.bits for heard in self.formats)
        return Heard(rate, widest.layout, widest.channels, bits)


def probe(path: Path, video: Video) -> dict[int, Track]:
    """The tracks by index of stream."""
    with open_container(path) as container:
        streams: list[av.stream.Stream] = [s for s in container.streams.audio if s.codec_context is not None]
        tracks = {stream.index: Track(stream.index) for stream in streams}
        pictures = None
        if _STAMPED_BY_OTHERS.isdisjoint(container.format.name.split(",")):
            pictures = video_stream(container, path)
            streams.append(pictures)
        heads: dict[int, bytes | None] = {}
        tries: dict[int, int] = {}
        clocks = {stream.index: _Pieces() for stream in streams}
        for packet in container.demux(streams):
            index = packet.stream_index
            if packet.size == 0 or index not in clocks:
                continue
            clocks[index].add(packet)
            track = tracks.get(index)
            if track is None:
                continue
            head = packet_header(packet)
            if head == heads.get(index, b"?") or tries.get(index, 0) > _HEADS:
                continue
            tries[index] = tries.get(index, 0) + 1
            if (heard := _decoded(packet)) is not None:
                heads[index], tries[index] = head, 0
                if heard not in track.formats:
                    track.formats.append(heard)
        for index, track in tracks.items():
            track.offsets = _offsets(clocks[index], None if pictures is None else clocks[pictures.index], video)
        return tracks


def packet_header(packet: av.Packet) -> bytes:
    """The bits of a packet's own head that say its format; empty where the container alone says it."""
    if packet.has_sidedata("new_extradata"):
        return bytes(packet.get_sidedata("new_extradata"))
    name, data = packet.stream.codec_context.codec.canonical_name, bytes(packet)[:8]
    if len(data) < 8:
        return b""
    if name == "aac" and data[0] == 0xFF and data[1] & 0xF6 == 0xF0:  # ADTS: profile, rate, channels
        return bytes([data[2] & 0xFD, data[3] & 0xC0])
    if name in ("mp1", "mp2", "mp3") and data[0] == 0xFF and data[1] & 0xE0 == 0xE0:  # version, rate, channels
        return bytes([data[1] & 0x1E, data[2] & 0x0C, data[3] & 0xC0 == 0xC0])
    if name == "ac3" and data[:2] == b"\x0b\x77":  # rate, channels
        return bytes([data[4] & 0xC0, data[6] & 0xE0])
    if name == "eac3" and data[:2] == b"\x0b\x77":
        return bytes([data[4] & 0xFF])
    return b""


def _decoded(packet: av.Packet) -> Heard | None:
    try:
        for frame in packet.decode():
            if isinstance(frame, av.AudioFrame):
                deep = frame.format.bits > 16 and packet.stream.codec_context.codec.canonical_name in _DEEP
                return Heard(frame.sample_rate, frame.layout.name, frame.layout.nb_channels, 24 if deep else 16)
    except av.error.FFmpegError:
        pass
    return None


_DEEP = {
    "flac", "alac", "wavpack", "tta", "truehd", "mlp", "pcm_bluray", "pcm_dvd", "pcm_s24le", "pcm_s24be", "pcm_s32le",
    "pcm_s32be", "pcm_f32le", "pcm_f32be", "pcm_f64le", "pcm_f64be",
}  # fmt: skip
"""Codecs whose samples may really have more than 16 bits; lossy ones decode to floats without having more."""


class _Pieces:
    """The pieces of one stream between two settings back of its clock."""

    def __init__(self) -> None:
        self.starts: list[Fraction] = []
        self.counts: list[int] = []
        """Packets before each piece."""
        self._packets, self._last, self.end = 0, Fraction(0), Fraction(0)
        self.ends: list[Fraction] = []

    def add(self, packet: av.Packet) -> None:
        stamp = packet.dts if packet.dts is not None else packet.pts
        if stamp is not None and packet.time_base is not None and not packet.is_discard:
            tick = as_fraction(packet.time_base)
            now = stamp * tick
            if not self.starts or now < self._last - _BACK:
                if self.starts:
                    self.ends.append(self.end)
                shown = packet.pts if packet.pts is not None else stamp
                self.starts.append(shown * tick)
                self.counts.append(self._packets)
            self._last, self.end = now, now + (packet.duration or 0) * tick
        self._packets += 1

    @property
    def packets(self) -> int:
        return self._packets


def _offsets(sound: _Pieces, pictures: _Pieces | None, video: Video) -> list[Fraction]:
    """Each piece of sound is moved as the pictures beside it; where these have other pieces, it follows the last."""
    offsets = [video.origin]
    for piece in range(1, len(sound.starts)):
        if pictures is not None and len(pictures.starts) == len(sound.starts):
            frame = round(pictures.counts[piece] * video.frame_count / pictures.packets)
            shown = video.timestamps[min(frame, video.frame_count - 1)] * video.time_base
            offsets.append(pictures.starts[piece] - shown)
        else:
            offsets.append(sound.starts[piece] - (sound.ends[piece - 1] - offsets[-1]))
    return offsets
