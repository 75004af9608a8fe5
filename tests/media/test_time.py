"""When frames are shown, in files whose clocks begin late, stand still, go back, or count what is no frame."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from opensama.media.video_io import read_video, write_video
from opensama.media.video_io.clock import rising
from opensama.values import UserError, Video
from tests.media.fields import field_coded
from tests.media.making import away, make_video, picture, silent

MILLISECONDS = Fraction(1, 1000)
VP8 = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0", "auto-alt-ref": "0", "b": "400000"}


def times(video: Video) -> list[float]:
    return [round(float(stamp * video.time_base), 6) for stamp in video.timestamps]


# --- clocks that begin late


@pytest.mark.parametrize("name", ["late.webm", "late.mkv", "late.mp4", "late.mov", "late.ts", "late.flv"])
@pytest.mark.parametrize("sound", [False, True])
def test_a_clock_that_begins_late_begins_at_zero(name: str, sound: bool, tmp_path: Path) -> None:
    how: dict[str, Any] = {"codec": "libvpx-vp9", "options": {"deadline": "realtime"}} if name == "late.webm" else {}
    voice = ("libopus" if name == "late.webm" else "aac") if sound else None
    stamps = range(10_000, 11_000, 40)
    base = Fraction(1, 90_000) if name == "late.ts" else MILLISECONDS
    if name == "late.ts":
        stamps = range(900_000, 990_000, 3600)
    step = stamps[1] - stamps[0]
    rate = 48_000 if voice == "libopus" else 44_100
    path = make_video(
        tmp_path / name, stamps=stamps, last=step, time_base=base, sound=voice, sound_start=10.0, rate=rate, **how
    )
    video = read_video(path)
    assert (video.frame_count, video.duration, video.fps) == (25, 1, 25)
    assert 0 <= video.timestamps[0] * video.time_base < Fraction(1, 20)
    if not sound:
        assert video.timestamps[0] == 0
    report = write_video(video, tmp_path / "out.mp4", on_note=silent)
    assert report.frame_count == 25
    assert read_video(tmp_path / "out.mp4").duration == 1


def test_a_duration_is_an_end_or_a_length(tmp_path: Path) -> None:
    """FFmpeg writes where a file ends on its own clock, others how long it is; one that is cut off is still found."""
    path = make_video(tmp_path / "end.mkv", stamps=range(10_000, 14_000, 40), last=40, time_base=MILLISECONDS)
    data = path.read_bytes()
    at = data.index(b"\x44\x89\x88") + 3  # Segment, Info, Duration: a double
    assert struct.unpack(">d", data[at : at + 8])[0] == 14_000
    length = tmp_path / "length.mkv"
    length.write_bytes(data[:at] + struct.pack(">d", 4000.0) + data[at + 8 :])
    for whole in (path, length):
        video = read_video(whole)
        assert (video.frame_count, video.duration, video.timestamps[0]) == (100, 4, 0)
        cut = tmp_path / f"cut-{whole.name}"
        cut.write_bytes(whole.read_bytes()[: len(data) // 2])
        with pytest.raises(UserError, match="cut off"):
            read_video(cut)


def test_a_later_segment_of_a_stream_is_as_long_as_it_plays(tmp_path: Path) -> None:
    """The head of a fragmented MP4 with one of its later fragments, as players of HLS and DASH keep them."""
    whole = make_video(
        tmp_path / "whole.mp4",
        stamps=range(100),
        time_base=Fraction(1, 25),
        options={"g": "25", "sc_threshold": "0", "bf": "0"},
        sound="aac",
        container_options={"movflags": "frag_keyframe+empty_moov+default_base_moof"},
    ).read_bytes()
    places = [at - 4 for at in range(len(whole)) if whole[at : at + 4] == b"moof"]
    assert len(places) >= 3
    part = tmp_path / "part.mp4"
    part.write_bytes(whole[: places[0]] + whole[places[2] :])
    video = read_video(part)
    assert (video.frame_count, video.duration, video.fps) == (50, 2, 25)
    assert 0 <= video.timestamps[0] * video.time_base < Fraction(1, 10)
    begins = float(video.origin + video.timestamps[0] * video.time_base)  # in the file: sound is put in step by it
    assert begins == pytest.approx(2 + 1024 / 44_100, abs=1e-4)  # AAC begins with 1024 samples that nobody hears
    assert away(next(video.frames()), picture(50, 64, 48)) < 6


def test_a_late_picture_keeps_its_place_after_the_sound(tmp_path: Path) -> None:
    """A clock that begins at zero with sound is right: the picture comes when it comes."""
    for name in ("in.mp4", "in.mkv"):
        path = make_video(tmp_path / name, stamps=range(3, 15), sound="aac")
        assert times(read_video(path))[0] == 0.3


# --- stamps that are there twice, not at all, or go back


def test_only_the_repeated_frame_moves(tmp_path: Path) -> None:
    """A recording of a screen: one frame a second, then thirty, one time twice, no duration in the head."""
    stamps = [0, 1000, 2000, 3000, *(4000 + round(i * 100 / 3) for i in range(60))]
    stamps.insert(20, stamps[19])
    path = written(tmp_path / "screen.webm", stamps)
    video = read_video(path)
    assert video.frame_count == len(stamps) == 65
    seen = [stamp * video.time_base for stamp in video.timestamps]
    moved = [index for index, stamp in enumerate(stamps) if seen[index] != Fraction(stamp, 1000)]
    assert moved == [20]
    assert seen[19] < seen[20] < seen[21]
    assert abs(video.duration - 6) < Fraction(2, 1000)
    for index in (18, 20, 22, 64):
        assert away(next(video.frames(index, index + 1)), picture(index, 64, 48)) < 12


def written(path: Path, stamps: Sequence[int]) -> Path:
    """VP8 frames with these milliseconds, whatever they are."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libvpx", rate=30, options=VP8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 30)
        packets = []
        for index in range(len(stamps)):
            frame = av.VideoFrame.from_ndarray(picture(index, 64, 48), format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, 30)
            packets += stream.encode(frame)
        for packet, stamp in zip(packets + stream.encode(None), stamps, strict=True):
            packet.pts = packet.dts = stamp
            packet.duration = 0
            packet.time_base = MILLISECONDS
            container.mux(packet)
    return path


@given(
    steps=st.lists(st.integers(1, 50), min_size=1, max_size=120),
    faults=st.lists(st.integers(0, 119), max_size=6),
    missing=st.booleans(),
)
def test_a_mended_stamp_moves_no_true_one(steps: list[int], faults: list[int], missing: bool) -> None:
    true = [sum(steps[:index]) for index in range(len(steps) + 1)]
    found: list[int | None] = list(true)
    wrong = sorted({1 + fault % len(steps) for fault in faults})[: max(1, len(true) // 10)]
    for index in wrong:
        found[index] = None if missing else found[index - 1]
    stamps, parts = rising(found, 10)
    assert len(stamps) == len(found)
    assert all(a < b for a, b in pairwise(stamps))
    assert [stamps[i] for i in range(len(true)) if i not in wrong] == [
        parts * true[i] for i in range(len(true)) if i not in wrong
    ]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([0, 10, 10, 20], [0, 10, 15, 20]),
        ([0, 1, 1, 2], [0, 2, 3, 4]),  # no room between: a tick becomes two
        ([0, 10, 900, 30, 40, 50, 60, 70, 80, 90, 100, 110], [*range(0, 120, 10)]),  # one that is far off
        ([None, None, 20, None, 40], [0, 10, 20, 30, 40]),
        ([None, None], [0, 10]),
        ([*range(0, 1000, 10)] * 2, [*range(0, 2000, 10)]),  # joined end to end: the clock goes on
        ([*range(500, 700, 10), *range(0, 200, 10), *range(7000, 7200, 10)], None),
    ],
)
def test_mended_stamps(found: list[int | None], expected: list[int] | None) -> None:
    stamps, _ = rising(found, 10)
    assert all(a < b for a, b in pairwise(stamps))
    if expected is not None:
        assert stamps == expected


def test_recordings_that_were_joined_go_on(tmp_path: Path) -> None:
    one = make_video(
        tmp_path / "one.ts",
        stamps=range(0, 144_000, 3600),
        last=3600,
        time_base=Fraction(1, 90_000),
        options={"bf": "0"},
    )
    joined = tmp_path / "joined.ts"
    joined.write_bytes(one.read_bytes() * 2)
    video = read_video(joined)
    assert (video.frame_count, float(video.duration)) == (80, pytest.approx(3.2, abs=0.002))
    assert times(video) == pytest.approx([index / 25 for index in range(80)], abs=0.002)
    assert away(next(video.frames(40)), picture(0, 64, 48)) < 6


# --- packets that are no frames


def test_two_fields_are_one_frame(tmp_path: Path) -> None:
    path = field_coded(tmp_path / "field.mts", frames=30)
    video = read_video(path)
    assert (video.frame_count, video.fps) == (30, 25)
    assert times(video) == pytest.approx([index / 25 for index in range(30)], abs=1e-5)
    levels = [float(frame.mean()) for frame in video.frames()]
    assert np.diff(levels).min() > 2  # each is a picture of its own, in order
    assert any("interlaced" in note for note in video.notes)


def test_an_empty_packet_shows_the_frame_before_on(tmp_path: Path) -> None:
    """Theora's way to repeat a frame, which FFmpeg's decoder refuses as a packet."""
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        assert not os.environ.get("CI"), "CI installs ffmpeg"
        pytest.skip("ffmpeg is not installed")
    grey = "color=gray:s=64x48:r=25:d=2,geq=lum='if(between(N,10,12),235,60)':cb=128:cr=128"
    sound = ["-f", "lavfi", "-i", "sine=d=2", "-c:a", "libvorbis"]
    path = tmp_path / "still.ogv"
    command = [ffmpeg, "-v", "error", "-f", "lavfi", "-i", grey, *sound, "-c:v", "libtheora", "-q:v", "8", str(path)]
    subprocess.run(command, check=True)
    video = read_video(path)
    assert abs(video.duration - 2) <= Fraction(1, 25)
    shown = {}
    for stamp, frame in zip(times(video), video.frames(), strict=True):
        shown[stamp] = bool(frame.mean() > 150)
    assert shown[0.4] is True
    assert shown[0.52] is False
    assert max(stamp for stamp, bright in shown.items() if bright) <= 0.48


def test_a_gif_of_hundredths_is_as_slow_as_in_browsers(tmp_path: Path) -> None:
    first, *rest = (Image.fromarray(picture(index, 30, 20)) for index in range(6))
    for hundredths, each in ((1, 0.1), (2, 0.02), (3, 0.03)):
        first.save(tmp_path / "fast.gif", save_all=True, append_images=rest, duration=10 * hundredths)
        video = read_video(tmp_path / "fast.gif")
        assert times(video) == pytest.approx([index * each for index in range(6)])
        assert float(video.duration) == pytest.approx(6 * each)
        assert bool(video.notes) == (hundredths < 2)
        assert away(next(video.frames(4)), picture(4, 30, 20)) < 40


# --- the right stream, and one size


def test_the_film_is_taken_not_what_lies_before_it(tmp_path: Path) -> None:
    for name, size in (("still.mp4", (128, 96)), ("preview.mp4", (32, 24)), ("preview.mkv", (32, 24))):
        path = tmp_path / name
        with av.open(str(path), "w") as container:
            before: Any = container.add_stream("libx264", rate=10)
            film: Any = container.add_stream("libx264", rate=10)
            before.width, before.height = size
            film.width, film.height = 64, 48
            before.pix_fmt = film.pix_fmt = "yuv420p"
            for stream, frames in ((before, 1 if "still" in name else 20), (film, 20)):
                for index in range(frames):
                    frame = av.VideoFrame.from_ndarray(picture(index, stream.width, stream.height), format="rgb24")
                    container.mux(stream.encode(frame.reformat(format="yuv420p")))
                container.mux(stream.encode(None))
        video = read_video(path)
        assert (video.width, video.height, video.frame_count) == (64, 48, 20), name
        assert away(next(video.frames(15)), picture(15, 64, 48)) < 6


def changing(path: Path, codec: str, sizes: Sequence[tuple[int, int]], each: int = 10, rate: int = 10) -> Path:
    """One stream whose pictures have these sizes in turn, `each` frames of one."""
    options = VP8 if codec.startswith("libvpx") else {"bf": "0", "x264-params": "repeat-headers=1"}
    with av.open(str(path), "w") as container:
        stream: Any = None
        for part, (width, height) in enumerate(sizes):
            encoder: Any = av.CodecContext.create(codec, "w")
            encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
            encoder.time_base, encoder.framerate, encoder.options = Fraction(1, rate), Fraction(rate), options
            if stream is None:
                stream = container.add_stream(codec, rate=rate)
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            packets = []
            for index in range(part * each, (part + 1) * each):
                frame = av.VideoFrame.from_ndarray(picture(index, width, height), format="rgb24")
                frame = frame.reformat(format="yuv420p")
                frame.pts, frame.time_base = index, Fraction(1, rate)
                packets += encoder.encode(frame)
            for packet in packets + encoder.encode(None):
                packet.stream, packet.time_base = stream, Fraction(1, rate)
                container.mux(packet)
    return path


@pytest.mark.parametrize(
    ("name", "codec"), [("in.webm", "libvpx"), ("in.webm", "libvpx-vp9"), ("in.ts", "libx264"), ("in.mkv", "libvpx")]
)
def test_pictures_that_change_their_size_are_letterboxed(name: str, codec: str, tmp_path: Path) -> None:
    video = read_video(changing(tmp_path / name, codec, [(64, 48), (96, 96), (96, 32)]))
    assert (video.width, video.height, video.frame_count) == (96, 96, 30)
    frames = video.array()
    assert away(frames[15], picture(15, 96, 96)) < 12
    wide, black = frames[25, 32:64], np.concatenate([frames[25, :31], frames[25, 65:]])
    assert away(wide, picture(25, 96, 32)) < 12
    assert black.max() <= 2
    standard = np.asarray(Image.fromarray(picture(5, 64, 48)).resize((96, 72), Image.Resampling.BICUBIC))
    assert away(frames[5, 12:84], standard) < 12
    (note,) = video.notes
    assert "change their size" in note
    assert "96x96" in note
    report = write_video(video, tmp_path / "out.mp4", on_note=silent)
    assert note in report.notes
    covered = read_video(tmp_path / name, cover=(48, 48))
    assert away(next(covered.frames(15, 16)), picture(15, 48, 48)) < 14
