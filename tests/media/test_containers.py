"""MOV, MKV and WebM beside MP4: the ending of the name chooses, pictures, times and sound come back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from opensama.media.video_io import read_video, write_video
from opensama.media.video_io.containers import FORMATS, Encoding
from opensama.values import UserError, Video
from tests.media.making import away, hear, make_video, picture, probe, silent

MILLISECONDS = Fraction(1, 1000)


def smooth(count: int = 5, size: tuple[int, int] = (64, 48)) -> Video:
    return Video.from_frames([picture(index, *size) for index in range(count)], 25)


@pytest.mark.parametrize(
    ("ending", "size", "codec", "pixels"),
    [
        (".mp4", (64, 48), "h264", "yuv420p"),
        (".m4v", (64, 48), "h264", "yuv420p"),
        (".MKV", (64, 48), "h264", "yuv420p"),
        (".mov", (64, 48), "prores", "yuv422p10le"),
        (".mov", (63, 47), "prores", "yuv444p12le"),
        (".webm", (64, 48), "vp9", "yuv420p"),
        (".webm", (63, 47), "vp9", "yuv420p"),
    ],
)
def test_the_ending_chooses_the_codec(
    ending: str, size: tuple[int, int], codec: str, pixels: str, tmp_path: Path
) -> None:
    video = smooth(size=size)
    report = write_video(video, tmp_path / f"out{ending}", on_note=silent)
    assert report.frame_count == 5
    found = probe(tmp_path / f"out{ending}")
    assert (found["codec"], found["pixels"], found["size"]) == (codec, pixels, size)
    assert found["stamps"] == [Fraction(n, 25) for n in range(5)]
    for mine, given in zip(read_video(tmp_path / f"out{ending}").frames(), video.frames(), strict=True):
        assert away(mine, given) < 2.5


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler") or os.geteuid() != 0, reason="about root's threads on Linux")
def test_no_codec_leaves_this_process_in_the_real_time_class(tmp_path: Path) -> None:
    """SVT-AV1 does: with two cores, such a process leaves nothing for the others."""

    def frames(start: int, stop: int) -> Iterator[np.ndarray]:
        for frame in smooth(12).frames(start, stop):
            seen.update(map(os.sched_getscheduler, map(int, os.listdir("/proc/self/task"))))
            yield frame

    seen: set[int] = set()
    write_video(smooth(12).with_frames(frames), tmp_path / "out.mp4", codec="av1")
    assert "dav1d" in probe(tmp_path / "out.mp4")["codec"]
    assert seen == {os.SCHED_OTHER} == {os.sched_getscheduler(0)}


@pytest.mark.parametrize(
    ("ending", "pixels", "notes"), [(".mkv", "yuv420p10le", 0), (".mov", "yuv422p10le", 0), (".webm", "yuv420p", 1)]
)
def test_ten_bits_stay_or_a_line_says_so(ending: str, pixels: str, notes: int, tmp_path: Path) -> None:
    deep = np.stack([picture(index, 96, 64).astype(np.uint16) * 257 for index in range(3)])
    report = write_video(Video.from_frames(deep, 10), tmp_path / f"out{ending}", on_note=silent)
    assert len(report.notes) == notes
    assert probe(tmp_path / f"out{ending}")["pixels"] == pixels
    assert away(read_video(tmp_path / f"out{ending}").array(), (deep // 257).astype(float)) < 2.5


@pytest.mark.parametrize("ending", [".mkv", ".webm", ".mov"])
def test_a_variable_rate_stays(ending: str, tmp_path: Path) -> None:
    stamps = [0, 100, 200, 333, 400, 700, 801, 900]
    source = make_video(tmp_path / "in.mp4", stamps=stamps, last=100, time_base=MILLISECONDS)
    write_video(read_video(source), tmp_path / f"out{ending}")
    assert probe(tmp_path / f"out{ending}")["stamps"] == [stamp * MILLISECONDS for stamp in stamps]
    assert read_video(tmp_path / f"out{ending}").duration == 1


@pytest.mark.parametrize(
    ("ending", "sound", "kept"),
    [
        (".mkv", "aac", "aac"),
        (".mkv", "flac", "flac"),
        (".mkv", "libopus", "opus"),
        (".mkv", "pcm_mulaw", "aac"),
        (".mov", "aac", "aac"),
        (".mov", "pcm_s16le", "pcm_s16le"),
        (".mov", "pcm_s24le", "pcm_s24le"),
        (".mov", "flac", "pcm_s16le"),
        (".mov", "libopus", "pcm_s16le"),
        (".webm", "libopus", "opus"),
        (".webm", "aac", "opus"),
        (".webm", "pcm_s16le", "opus"),
    ],
)
def test_sound_is_kept_or_made_what_the_file_takes(ending: str, sound: str, kept: str, tmp_path: Path) -> None:
    inside = tmp_path / ("in.mov" if sound.startswith("pcm") else "in.mkv")
    source = make_video(inside, stamps=range(0, 1000, 100), last=100, time_base=MILLISECONDS, sound=sound, rate=48_000)
    notes: list[str] = []
    report = write_video(read_video(source), tmp_path / f"out{ending}", on_note=notes.append)
    assert len(notes) == (0 if report.sound.startswith("copied") else 1)
    found = probe(tmp_path / f"out{ending}")
    assert found["sound"] == [kept]
    assert found["stamps"][0] == 0
    onsets = []
    for path in (source, tmp_path / f"out{ending}"):
        begin, samples = hear(path)
        envelope = np.convolve(np.abs(samples), np.ones(200) / 200, "same")
        quiet = int((0.25 - begin) * 48_000)  # the second beep begins a third of a second in
        onsets.append(begin + (quiet + int(np.argmax(envelope[quiet:] > 0.1))) / 48_000)
    assert onsets[1] == pytest.approx(onsets[0], abs=0.005)


def test_frames_that_matroska_cannot_tell_apart_are_said_at_once(tmp_path: Path) -> None:
    video = Video.from_frames([picture(index, 64, 48) for index in range(4)], 5000)
    with pytest.raises(UserError, match="WebM files tell no two frames apart"):
        write_video(video, tmp_path / "out.webm")
    write_video(video, tmp_path / "out.mp4")
    assert not (tmp_path / "out.webm").exists()


def test_an_ending_that_is_not_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"end it in one of \.mp4, \.m4v, \.mov, \.mkv, \.webm, a picture in \.png"):
        write_video(smooth(), tmp_path / "out.avi")


@pytest.mark.parametrize(("ending", "pixels"), [(".mov", "yuva444p10le"), (".webm", "yuva420p")])
def test_alpha_asks_for_pixels_that_have_it(ending: str, pixels: str) -> None:
    assert Encoding.of(smooth(), FORMATS[ending], 80, False, alpha=True).pixel_format == pixels
    with pytest.raises(UserError, match=r"ends in \.mov or \.webm"):
        Encoding.of(smooth(), FORMATS[".mp4"], 80, False, alpha=True)


@pytest.mark.parametrize(("size", "ahead"), [((1280, 720), None), ((1920, 1080), "20"), ((7680, 4320), "10")])
def test_h264_looks_ahead_at_fewer_large_frames(size: tuple[int, int], ahead: str | None) -> None:
    video = replace(smooth(), width=size[0], height=size[1])
    assert Encoding.of(video, FORMATS[".mp4"], 80, False, alpha=False).options.get("rc-lookahead") == ahead
