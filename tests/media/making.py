"""Video files made by the tests, straight through PyAV: any codec, time stamps, turn, colours and sound."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from opensama.media.video_io import read_video
from opensama.values import Video


def picture(index: int, width: int, height: int) -> np.ndarray:
    """A smooth picture `h w 3` uint8 that tells corners and frames apart: the upper left's grey says which frame."""
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([50 + 150 * x / width, 50 + 150 * y / height, np.full_like(x, 120)], -1)
    smooth[: height // 2, : width // 2] = (index * 37) % 200 + 30
    return smooth.astype(np.uint8)


def make_video(
    path: Path,
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    size: tuple[int, int] = (64, 48),
    stamps: Sequence[int] = range(12),
    last: int = 1,
    time_base: Fraction = Fraction(1, 10),
    options: dict[str, str] | None = None,
    turn: dict[str, Any] | None = None,
    pixel_shape: Fraction | None = None,
    color: tuple[int, int, int, int] | None = None,
    sound: str | None = None,
    sound_start: float = 0.0,
    rate: int = 44_100,
    layout: str = "stereo",
    container_options: dict[str, str] | None = None,
) -> Path:
    """`stamps` are in `time_base`, the last frame lasts `last`; `color` is matrix, range, primaries, transfer."""
    steps = [b - a for a, b in zip(stamps, [*stamps[1:], stamps[-1] + last], strict=True)]
    duration_at = dict(zip(stamps, steps, strict=True))
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream: Any = container.add_stream(
            codec, rate=Fraction(len(stamps)) / (sum(steps) * time_base), options=options or {}
        )
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        stream.codec_context.time_base = time_base
        if pixel_shape:
            stream.codec_context.sample_aspect_ratio = pixel_shape
        if color:
            context = stream.codec_context
            context.colorspace, context.color_range, context.color_primaries, context.color_trc = color
        if turn:
            stream.set_display_rotation(**turn)
        voice: Any = container.add_stream(sound, rate=rate, layout=layout) if sound else None
        if voice is not None and sound == "wmav2":
            voice.codec_context.bit_rate = 128_000
        packets = []
        for index, stamp in enumerate(stamps):
            frame = av.VideoFrame.from_ndarray(picture(index, *size), format="rgb24").reformat(
                format=pixels,
                dst_colorspace=color[0] if color else None,
                src_color_range=2,
                dst_color_range=color[1] if color else 1,
            )
            frame.pts, frame.time_base = stamp, time_base
            packets += stream.encode(frame)
        for packet in (*packets, *stream.encode(None)):
            packet.duration = duration_at[packet.pts]
            container.mux(packet)
        if voice is not None:
            for packet in _sing(voice, float((stamps[-1] + last) * time_base), sound_start, rate, layout):
                container.mux(packet)
    return path


def _sing(
    voice: Any, seconds: float, start: float, rate: int, layout: str = "stereo", wave: np.ndarray | None = None
) -> list[av.Packet]:
    """A beeping tone of that length, or a `wave` of one's own, float32."""
    time = np.arange(int(seconds * rate)) / rate
    if wave is None:
        wave = (0.3 * np.sin(2 * np.pi * 440 * time) * (np.sin(2 * np.pi * 3 * time) > 0)).astype(np.float32)
    if not voice.codec_context.is_open:
        voice.codec_context.open()
    block = voice.codec_context.frame_size or 1024
    change = av.AudioResampler(format=voice.codec_context.format.name, layout=layout, rate=rate)
    packets: list[av.Packet] = []
    for begin in range(0, len(wave), block):
        frame = av.AudioFrame.from_ndarray(np.stack([wave[begin : begin + block]] * 2), format="fltp", layout="stereo")
        frame.rate, frame.pts, frame.time_base = rate, round(start * rate) + begin, Fraction(1, rate)
        for changed in change.resample(frame):
            packets += voice.encode(changed)
    return packets + voice.encode(None)


def add_sound(source: Path, path: Path, sound: str = "aac", rate: int = 44_100, wave: np.ndarray | None = None) -> Path:
    """The video of `source` as it is, beside a tone as long as it, or a `wave`."""
    with av.open(str(source)) as inside, av.open(str(path), "w") as container:
        given = inside.streams.video[0]
        stream: Any = container.add_stream_from_template(given)
        voice: Any = container.add_stream(sound, rate=rate, layout="stereo")
        for packet in inside.demux(given):
            if packet.size:
                packet.stream = stream
                container.mux(packet)
        assert given.duration is not None
        assert given.time_base is not None
        for packet in _sing(voice, float(given.duration * given.time_base), 0.0, rate, wave=wave):
            container.mux(packet)
    return path


def hear(path: Path) -> tuple[float, np.ndarray]:
    """When the sound begins, in seconds, and its samples, channels averaged."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    change = av.AudioResampler(format="fltp")
    parts = [changed.to_ndarray().mean(0) for frame in frames for changed in change.resample(frame)]
    assert frames[0].pts is not None
    assert frames[0].time_base is not None
    return float(frames[0].pts * frames[0].time_base), np.concatenate(parts)


def probe(path: Path) -> dict[str, Any]:
    """What a player reads from a file: time stamps in seconds, where frames, stream and file end, codec, colours."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        base = stream.time_base
        assert base is not None
        packets = sorted((p.pts * base, (p.duration or 0) * base) for p in container.demux(stream) if p.pts is not None)
        context = stream.codec_context
        return {
            "stamps": [stamp for stamp, _ in packets],
            "end": packets[-1][0] + packets[-1][1],
            "stream_end": ((stream.start_time or 0) + (stream.duration or 0)) * base,
            "file_seconds": (container.duration or 0) / 1e6,
            "size": (context.width, context.height),
            "codec": context.name,
            "tag": context.codec_tag,
            "pixels": context.pix_fmt,
            "color": tuple(
                int(n) for n in (context.colorspace, context.color_range, context.color_primaries, context.color_trc)
            ),
            "b_frames": context.has_b_frames,
            "sound": [audio.codec_context.name for audio in container.streams.audio],
        }


def away(got: np.ndarray, expected: np.ndarray) -> float:
    """Mean absolute difference in 8-bit levels."""
    bits = 257 if got.dtype == np.uint16 else 1
    return float(np.abs(got.astype(float) / bits - expected).mean())


def silent(note: str) -> None:
    """Notes are read from the report."""


def same_times(video: Video, path: Path) -> None:
    """The file's time stamps and end are the video's, exactly, in packets, stream and file."""
    found = probe(path)
    stamps = [stamp * video.time_base for stamp in video.timestamps]
    assert found["stamps"] == stamps
    assert found["end"] == found["stream_end"] == stamps[0] + video.duration
    again = read_video(path)
    assert again.duration == video.duration
    assert again.frame_count == video.frame_count
    if not video.has_audio:
        assert found["file_seconds"] == pytest.approx(float(video.duration), abs=2e-6)


def with_edits(source: Path, path: Path, pieces: Sequence[tuple[float, float]]) -> Path:
    """The MP4 `source` (its index at the end) with an edit list that shows only these pieces, seconds from and to."""

    def boxes(data: bytes) -> list[tuple[bytes, bytes]]:
        found = []
        while data:
            size = int.from_bytes(data[:4], "big")
            found.append((data[4:8], data[8:size]))
            data = data[size:]
        return found

    def box(name: bytes, body: bytes) -> bytes:
        return (len(body) + 8).to_bytes(4, "big") + name + body

    movie = next(body for name, body in boxes(source.read_bytes()) if name == b"moov")
    movie_ticks = int.from_bytes(dict(boxes(movie))[b"mvhd"][12:16], "big")

    def edited(track: bytes) -> bytes:
        parts = dict(boxes(track))
        ticks = int.from_bytes(dict(boxes(parts[b"mdia"]))[b"mdhd"][12:16], "big")
        first = int.from_bytes(dict(boxes(parts[b"edts"]))[b"elst"][12:16], "big")  # where the media really begin
        rows = b"".join(
            round((end - begin) * movie_ticks).to_bytes(4, "big")
            + (first + round(begin * ticks)).to_bytes(4, "big")
            + b"\0\1\0\0"
            for begin, end in pieces
        )
        edits = box(b"edts", box(b"elst", bytes(4) + len(pieces).to_bytes(4, "big") + rows))
        return b"".join(edits if name == b"edts" else box(name, body) for name, body in boxes(track))

    whole = b"".join(box(name, edited(body) if name == b"trak" else body) for name, body in boxes(movie))
    path.write_bytes(
        b"".join(box(name, whole if name == b"moov" else body) for name, body in boxes(source.read_bytes()))
    )
    return path


def onsets(path: Path) -> list[float]:
    """When each beep begins, in seconds of the file."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        frames, end = [], 0.0
        for packet in container.demux(stream):
            for frame in packet.decode():
                begin = end if frame.time is None else frame.time
                end = begin + frame.samples / frame.sample_rate
                change = av.AudioResampler(format="fltp", layout="mono", rate=frame.sample_rate)
                samples = np.concatenate([part.to_ndarray()[0] for part in change.resample(frame)])
                frames.append((begin + np.arange(len(samples)) / frame.sample_rate, samples))
    times, samples = np.concatenate([t for t, _ in frames]), np.concatenate([s for _, s in frames])
    loud = np.convolve(np.abs(samples), np.ones(400) / 400, "same") > 0.05
    starts = times[1:][loud[1:] & ~loud[:-1]]
    return [float(t) for k, t in enumerate(starts) if k == 0 or t - starts[k - 1] > 0.1]
