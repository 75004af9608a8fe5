"""Sound whose times or format are not what its file says: edited all the same, in step, and one line says so."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from opensama.media.video_io import read_video, write_video
from opensama.media.video_io.writing import WriteReport
from tests.media.making import hear, make_video, onsets, probe, with_edits

MILLISECONDS = Fraction(1, 1000)
SECOND = range(0, 1000, 40)


def rewritten(source: Path, ending: str = ".mp4") -> tuple[Path, WriteReport, list[str]]:
    notes: list[str] = []
    path = source.with_name(f"out{ending}")
    report = write_video(read_video(source), path, on_note=notes.append, overwrite=True)
    return path, report, notes


def rises(path: Path) -> bool:
    with av.open(str(path)) as container:
        stamps = [packet.dts for packet in container.demux(audio=0) if packet.dts is not None]
    return all(a < b for a, b in pairwise(stamps))


def beeps_after_pictures(path: Path) -> list[float]:
    """Seconds from the first picture to each beep."""
    return [onset - float(probe(path)["stamps"][0]) for onset in onsets(path)]


@pytest.mark.parametrize(("sound", "made"), [("aac", "copied aac"), ("mp2", "mp2 made aac"), ("ac3", "copied ac3")])
def test_joined_recordings_stay_in_step(sound: str, made: str, tmp_path: Path) -> None:
    part = make_video(
        tmp_path / "part.ts", stamps=SECOND, last=40, time_base=MILLISECONDS, sound=sound, options={"bf": "0"}
    )
    source = tmp_path / "joined.ts"
    source.write_bytes(part.read_bytes() * 3)
    path, report, notes = rewritten(source)
    assert report.frame_count == 75
    assert report.sound == made
    assert sum("clock goes back" in note for note in notes) == 1
    assert rises(path)
    one = beeps_after_pictures(rewritten(part, ".mkv")[0])
    assert len(one) == 3
    expected = [beep + second for second in range(3) for beep in one]
    assert beeps_after_pictures(path) == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(("sound", "made"), [("aac", "copied aac"), ("pcm_s16le", "pcm_s16le made aac")])
def test_sound_outside_of_the_edits_is_dropped(sound: str, made: str, tmp_path: Path) -> None:
    ending = ".mp4" if sound == "aac" else ".mov"
    plain = make_video(
        tmp_path / f"plain{ending}",
        stamps=range(0, 4000, 40),
        last=40,
        time_base=MILLISECONDS,
        sound=sound,
        rate=48_000,
        options={"bf": "0", "g": "5"},
    )
    source = with_edits(plain, tmp_path / f"cut{ending}", [(0, 0.6), (1.88, 4)])
    path, report, notes = rewritten(source)
    assert report.sound == made
    assert report.frame_count == 68
    assert sum("edit list" in note for note in notes) == 1
    assert rises(path)
    beeps = [n / 3 for n in range(12)]
    kept = [beep for beep in beeps if beep < 0.6] + [beep - 1.28 for beep in beeps if beep > 1.88]
    assert [beep for beep in onsets(path) if beep > 0.1] == pytest.approx([b for b in kept if b > 0.1], abs=0.03)


def test_frames_without_a_time_follow_the_one_before(tmp_path: Path) -> None:
    source = make_video(
        tmp_path / "in.asf", codec="wmv2", stamps=SECOND, last=40, time_base=MILLISECONDS, sound="wmav2"
    )
    path, report, notes = rewritten(source)
    assert report.sound == "wmav2 made aac"
    assert notes == ["The sound (wmav2) was made AAC, because MP4 players do not play it as it is."]
    assert beeps_after_pictures(path)[-2:] == pytest.approx(beeps_after_pictures(source)[-2:], abs=0.01)


@pytest.mark.parametrize("sound", ["aac", "mp2", "ac3"])
@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".mov", ".webm"])
def test_sound_that_turns_from_mono_to_stereo(sound: str, ending: str, tmp_path: Path) -> None:
    def part(name: str, first: int, layout: str) -> bytes:
        return make_video(
            tmp_path / name,
            stamps=range(first, first + 1000, 40),
            last=40,
            time_base=MILLISECONDS,
            sound=sound,
            sound_start=first / 1000,
            layout=layout,
            options={"bf": "0"},
        ).read_bytes()

    source = tmp_path / "in.ts"
    source.write_bytes(part("a.ts", 0, "mono") + part("b.ts", 1000, "stereo"))
    path, report, notes = rewritten(source, ending)
    assert report.sound.startswith(f"{sound} made")
    assert sum("changes on the way (mono at 44100 Hz and stereo at 44100 Hz)" in note for note in notes) == 1
    with av.open(str(path)) as container:
        assert container.streams.audio[0].codec_context.layout.name == "stereo"
    samples = hear(path)[1]
    assert len(samples) / (48_000 if ending == ".webm" else 44_100) == pytest.approx(
        3, abs=0.1
    )  # the second part sounds for two seconds
    assert np.abs(samples[: len(samples) // 2]).max() > 0.1
    assert np.abs(samples[len(samples) // 2 :]).max() > 0.1
    assert len(onsets(path)) == 9


@pytest.mark.parametrize(
    ("codec", "ending", "first"),
    [("mp2", ".mp4", "mono"), ("mp2", ".mov", "stereo"), ("aac", ".webm", "stereo"), ("ac3", ".mp4", "mono")],
)
def test_mono_is_as_loud_as_the_stereo_beside_it(codec: str, ending: str, first: str, tmp_path: Path) -> None:
    """A steady tone that is alike on both sides of the stereo part."""
    parts = [first, "stereo" if first == "mono" else "mono"]
    source = tmp_path / "in.ts"
    source.write_bytes(
        b"".join(humming(tmp_path / f"{i}.ts", codec, layout, i).read_bytes() for i, layout in enumerate(parts))
    )
    path, _, notes = rewritten(source, ending)
    assert any("changes on the way" in note for note in notes)
    with av.open(str(path)) as container:
        change = av.AudioResampler(format="fltp")
        sound = [part.to_ndarray() for frame in container.decode(audio=0) for part in change.resample(frame)]
    left, right = np.concatenate(sound, 1)
    rate = 48_000
    for samples in (left, right):
        loud = [np.sqrt(np.mean(samples[int(a * rate) : int((a + 0.5) * rate)] ** 2)) for a in (0.25, 1.25)]
        assert loud == pytest.approx([0.3 / np.sqrt(2)] * 2, rel=0.03)


def humming(path: Path, codec: str, layout: str, second: int) -> Path:
    """One second of a tone with a peak of 0.3 beside still pictures, from that second on."""
    rate, channels = 48_000, 1 if layout == "mono" else 2
    with av.open(str(path), "w") as container:
        film = container.add_stream("libx264", rate=25, options={"bf": "0"})
        film.width, film.height, film.pix_fmt = 64, 48, "yuv420p"
        voice = container.add_stream(codec, rate=rate, layout=layout)
        assert isinstance(voice, av.AudioStream)
        voice.codec_context.bit_rate = 192_000
        voice.codec_context.open()
        for index in range(25):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8), format="rgb24")
            frame.pts, frame.time_base = second * 25 + index, Fraction(1, 25)
            container.mux(film.encode(frame))
        container.mux(film.encode(None))
        change = av.AudioResampler(format=voice.codec_context.format.name, layout=layout, rate=rate)
        block = voice.codec_context.frame_size
        for begin in range(0, rate, block):
            tone = 0.3 * np.sin(2 * np.pi * 440 * (second * rate + np.arange(begin, min(begin + block, rate))) / rate)
            heard = av.AudioFrame.from_ndarray(
                np.stack([tone.astype(np.float32)] * channels), format="fltp", layout=layout
            )
            heard.sample_rate, heard.pts, heard.time_base = rate, second * rate + begin, Fraction(1, rate)
            for changed in change.resample(heard):
                container.mux(voice.encode(changed))
        container.mux(voice.encode(None))
    return path


def test_transport_streams_with_mp2_are_what_the_first_frame_says(tmp_path: Path) -> None:
    source = make_video(
        tmp_path / "in.ts", codec="mpeg2video", stamps=range(25), time_base=Fraction(1, 25), sound="mp2"
    )
    path, report, notes = rewritten(source)
    assert report.sound == "mp2 made aac"
    assert len(notes) == 1
    start = float(read_video(source).origin)
    heard = [beep - start for beep in onsets(source)]
    assert onsets(path) == pytest.approx(heard, abs=0.005)


@pytest.mark.parametrize(("layout", "made"), [("quad", "4.0"), ("6.1", "7.1"), ("5.1", "5.1")])
def test_channels_that_aac_does_not_have_are_said(layout: str, made: str, tmp_path: Path) -> None:
    source = make_video(
        tmp_path / "in.mkv", stamps=SECOND, last=40, time_base=MILLISECONDS, sound="flac", layout="stereo"
    )
    with av.open(str(source)) as given, av.open(str(tmp_path / "wide.mkv"), "w") as output:
        pictures = output.add_stream_from_template(given.streams.video[0])
        sound = output.add_stream("flac", rate=44_100, layout=layout)
        change = av.AudioResampler(format="s16", layout=layout, rate=44_100)
        for packet in given.demux():
            if packet.stream.type == "audio":
                for frame in packet.decode():
                    output.mux([p for part in change.resample(frame) for p in sound.encode(part)])
            elif packet.size:
                packet.stream = pictures
                output.mux(packet)
        output.mux(sound.encode(None))
    path, _, notes = rewritten(tmp_path / "wide.mkv")
    with av.open(str(path)) as container:
        assert container.streams.audio[0].codec_context.layout.name == made
    assert len(notes) == 1
    assert (f"It is {made} at 44100 Hz now." in notes[0]) is (made != layout)


@pytest.mark.parametrize(
    ("source", "sound", "rate", "ending", "made"),
    [
        ("film.mp4", "aac", 44_100, ".mp4", "copied aac"),
        ("film.mp4", "aac", 44_100, ".mkv", "copied aac"),
        ("film.mov", "pcm_s16le", 48_000, ".mov", "copied pcm_s16le"),
        ("film.mov", "pcm_s16le", 48_000, ".mp4", "pcm_s16le made aac"),
        ("film.mkv", "libopus", 48_000, ".webm", "copied opus"),
    ],
)
def test_a_clip_takes_its_own_sound_along(
    source: str, sound: str, rate: int, ending: str, made: str, tmp_path: Path
) -> None:
    """Frames 30 to 79 of 100 at 25 a second: 1.2 to 3.2 s, with the beeps that lie there, each third of a second."""
    film = make_video(
        tmp_path / source, stamps=range(0, 4000, 40), last=40, time_base=MILLISECONDS, sound=sound, rate=rate
    )
    clip = read_video(film).clip(30, 80, sound=True)
    path, notes = tmp_path / f"clip{ending}", list[str]()
    report = write_video(clip, path, on_note=notes.append)
    assert (report.frame_count, report.sound) == (50, made)
    assert not any("edit list" in note for note in notes)
    begins, heard = hear(path)
    assert begins == pytest.approx(0, abs=0.03)
    assert heard.shape[-1] / rate == pytest.approx(2, abs=0.06)
    expected = [n / 3 - 1.2 for n in range(4, 10)]
    assert beeps_after_pictures(path) == pytest.approx(expected, abs=0.03)
    assert not read_video(film).clip(30, 80).has_audio
