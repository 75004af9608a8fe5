"""Sound beside new pictures: the same bits where MP4 players take them, the same moment everywhere."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from opensama.media.video_io import read_video, write_video
from tests.media.making import away, hear, make_video, probe, same_times, silent

MILLISECONDS = Fraction(1, 1000)


@pytest.mark.parametrize("start", [0.0, 0.4])
@pytest.mark.parametrize("first", [0, 500])
@pytest.mark.parametrize(
    ("name", "sound"),
    [
        ("in.mp4", "aac"),
        ("in.mkv", "aac"),
        ("in.ts", "aac"),
        ("in.mp4", "libmp3lame"),
        ("in.mkv", "ac3"),
        ("in.mp4", "eac3"),
    ],
)
def test_sound_is_copied_in_step(name: str, sound: str, first: int, start: float, tmp_path: Path) -> None:
    stamps = [first + step for step in (0, 100, 200, 333, 400, 700, 800, 900)]
    source = make_video(
        tmp_path / name, stamps=stamps, last=100, time_base=MILLISECONDS, sound=sound, sound_start=start
    )
    video = read_video(source)
    report = write_video(video, tmp_path / "out.mp4", on_note=silent, overwrite=True)
    assert report.sound.startswith("copied")
    assert not report.notes
    before, heard = hear(source)
    after, again = hear(tmp_path / "out.mp4")
    early = round((before - float(video.origin) - after) * 44_100)
    if (
        start > first / 1000 and name == "in.mkv"
    ):  # what Matroska has the decoder drop before a late beginning, MP4 plays: silence
        priming = {"aac": 1024, "ac3": 256}[sound]
        assert abs(early - priming) <= 64
        again = again[priming:]
    else:
        assert abs(early) <= 64
    length = min(len(heard), len(again))
    assert abs(len(heard) - len(again)) <= 1024
    if name != "in.mkv" or sound == "aac":  # Matroska's milliseconds do not say to the sample where AC-3 begins
        assert np.array_equal(heard[:length], again[:length])
    same_times(video, tmp_path / "out.mp4")


@pytest.mark.parametrize(
    ("name", "sound", "rate"),
    [
        ("in.webm", "libopus", 48_000),
        ("in.mkv", "flac", 44_100),
        ("in.mov", "pcm_s16le", 48_000),
        ("in.avi", "pcm_s16le", 22_050),
    ],
)
@pytest.mark.parametrize("start", [0.0, 0.4])
def test_other_sound_becomes_aac_with_a_note(name: str, sound: str, rate: int, start: float, tmp_path: Path) -> None:
    start = 0.0 if name.endswith(".avi") else start
    codec = "libvpx-vp9" if name.endswith(".webm") else "libx264"
    stamps = range(0, 2000, 100) if not name.endswith(".avi") else range(20)
    base = MILLISECONDS if not name.endswith(".avi") else Fraction(1, 10)
    source = make_video(
        tmp_path / name,
        codec=codec,
        stamps=stamps,
        last=stamps[1],
        time_base=base,
        sound=sound,
        sound_start=start,
        rate=rate,
    )
    notes: list[str] = []
    report = write_video(read_video(source), tmp_path / "out.mp4", on_note=notes.append)
    assert report.sound.endswith("made aac")
    assert len(notes) == 1
    assert probe(tmp_path / "out.mp4")["sound"] == ["aac"]
    onsets = []
    for path in (source, tmp_path / "out.mp4"):
        begin, samples = hear(path)
        envelope = np.convolve(np.abs(samples), np.ones(200) / 200, "same")
        # The second beep: from silence to sound a third of a second in.
        quiet = int((start + 0.25 - begin) * rate)
        onsets.append(begin + (quiet + int(np.argmax(envelope[quiet:] > 0.1))) / rate)
    assert onsets[0] == pytest.approx(start + 1 / 3, abs=0.02)
    assert onsets[1] == pytest.approx(onsets[0], abs=0.004)


def test_footage_with_sound_comes_back(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="footage is drawn with torch, which `make media` does without")
    from tests import footage

    source = footage.record(tmp_path / "in.mp4", footage.shot(1, 9))
    video = read_video(source)
    report = write_video(video, tmp_path / "out.mp4")
    before, after = probe(source), probe(tmp_path / "out.mp4")
    assert before["stamps"] == after["stamps"]
    assert before["end"] == after["end"] == after["stream_end"]
    assert before["file_seconds"] == after["file_seconds"]
    assert before["size"] == after["size"]
    assert before["color"] == after["color"]
    assert report.sound == "copied aac"
    assert hear(source)[0] == hear(tmp_path / "out.mp4")[0]
    assert np.array_equal(hear(source)[1], hear(tmp_path / "out.mp4")[1])
    for mine, given_frame in zip(read_video(tmp_path / "out.mp4").frames(0, 3), video.frames(0, 3), strict=True):
        assert away(mine, given_frame) < 3


def test_sound_without_a_single_frame_is_left_out(tmp_path: Path) -> None:
    """A transport stream says a rate in its sound alone: where none can be decoded there is none to copy it by."""
    stamps = list(range(0, 800, 100))
    source = make_video(tmp_path / "in.ts", stamps=stamps, last=100, time_base=MILLISECONDS, sound="aac")
    source.write_bytes(source.read_bytes().replace(b"\xff\xf1", bytes(2)))
    report = write_video(read_video(source), tmp_path / "out.mp4", on_note=silent)
    assert report.sound == "none"
    assert "A sound track (aac) cannot be decoded and was left out." in report.notes
    assert len(list(read_video(tmp_path / "out.mp4").frames())) == 8
