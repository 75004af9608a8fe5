"""What else a file holds: kept where the new file can hold it, else named in one line."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from opensama.media.video_io import read_video, write_video
from opensama.media.video_io.keeping import _STYLE
from tests.media.making import make_video

TAGS = {"title": "Holiday", "artist": "Ana", "date": "2024-05-06", "comment": "by the sea", "custom": "seven"}
CHAPTERS = [(0, 1500, "Arrival"), (1500, 4000, "Beach")]
LINES = [(500, 1500, "Hello there"), (2000, 3000, "Second\nline")]


def rich(folder: Path, name: str = "in.mkv") -> Path:
    """Four seconds with two tracks of sound, subtitles, chapters, tags and a timecode."""
    base = Fraction(1, 1000)
    plain = make_video(
        folder / "plain.mp4", stamps=range(0, 4000, 40), last=40, time_base=base, sound="aac", options={"bf": "0"}
    )
    with av.open(str(plain)) as first, av.open(str(plain)) as second, av.open(str(folder / name), "w") as output:
        output.metadata.update(TAGS)
        chapters: list[Any] = [
            {"id": n, "start": a, "end": b, "time_base": base, "metadata": {"title": title}}
            for n, (a, b, title) in enumerate(CHAPTERS)
        ]
        output.set_chapters(chapters)
        pictures: Any = output.add_stream_from_template(first.streams.video[0])
        pictures.metadata["timecode"] = "01:00:00:00"
        sounds: list[Any] = [output.add_stream_from_template(c.streams.audio[0]) for c in (first, second)]
        for sound, language in zip(sounds, ("deu", "fra"), strict=True):
            sound.metadata["language"] = language
        sounds[1].metadata["title"] = "Commentary"
        text: Any = output.add_stream("srt")
        text.codec_context.subtitle_header = _STYLE
        text.metadata["language"], text.time_base = "deu", base
        for packet in first.demux():
            if packet.size:
                packet.stream = pictures if packet.stream.type == "video" else sounds[0]
                output.mux(packet)
        for packet in second.demux(audio=0):
            if packet.size:
                packet.stream = sounds[1]
                output.mux(packet)
        for begin, end, words in LINES:
            line: Any = av.Packet(words.encode())
            line.stream, line.time_base, line.pts, line.dts, line.duration = text, base, begin, begin, end - begin
            output.mux(line)
    return folder / name


def inside(path: Path) -> dict[str, Any]:
    with av.open(str(path)) as container:
        words = []
        for packet in container.demux():
            if packet.stream.type != "subtitle":
                continue
            data = bytes(packet)
            if packet.pts is not None and packet.time_base is not None and len(data) > 2:
                data = data if path.suffix == ".mkv" else data[2 : 2 + int.from_bytes(data[:2], "big")]
                words.append((round(packet.pts * packet.time_base * 1000), packet.duration, data.decode()))
        return {
            "tags": {key.lower(): value for key, value in container.metadata.items()},
            "chapters": [
                (
                    round(c["start"] * c["time_base"] * 1000),
                    round(c["end"] * c["time_base"] * 1000),
                    c["metadata"]["title"],
                )
                for c in container.chapters()
            ],
            "languages": [stream.metadata.get("language") for stream in container.streams.audio],
            "titles": [stream.metadata.get("title") for stream in container.streams.audio],
            "timecode": {s.metadata.get("timecode") or s.metadata.get("TIMECODE") for s in container.streams} - {None},
            "lines": [(begin, begin + length, text) for begin, length, text in words],
        }


@pytest.mark.parametrize("given", ["in.mkv", "in.mp4"])
@pytest.mark.parametrize(
    ("ending", "german", "left_out"),
    [(".mp4", "deu", ["custom"]), (".mov", "ger", ["custom"]), (".mkv", "deu", []), (".webm", "deu", ["subtitles"])],
)
def test_what_the_new_file_holds_is_kept_and_the_rest_named(
    given: str, ending: str, german: str, left_out: list[str], tmp_path: Path
) -> None:
    if given == "in.mp4":  # never had it
        left_out = [name for name in left_out if name != "custom"]
    source = rich(tmp_path)
    if given == "in.mp4":
        write_video(read_video(source), tmp_path / given, on_note=lambda note: None)
        source = tmp_path / given
    report = write_video(read_video(source), tmp_path / f"out{ending}", on_note=lambda note: None)
    said = [note for note in report.notes if "left out" in note.lower()]
    assert len(said) == len(left_out)
    assert all(name in note for name, note in zip(left_out, said, strict=True))
    found = inside(tmp_path / f"out{ending}")
    kept = {key: value for key, value in TAGS.items() if key != "custom" or (given == "in.mkv" and ending == ".mkv")}
    assert {key: found["tags"].get(key) for key in kept} == kept
    assert found["chapters"] == CHAPTERS
    assert found["languages"] == [german, "fra"]
    assert found["timecode"] == {"01:00:00:00"}
    if "subtitles" not in left_out:
        assert [text for _, _, text in found["lines"]] == [text for _, _, text in LINES]
        for line, (begin, end, _) in zip(
            found["lines"], LINES, strict=True
        ):  # Matroska's clock begins with the sound's
            assert line[:2] == pytest.approx((begin, end), abs=30)
    if given == "in.mkv" and ending in (".mkv", ".webm"):
        assert found["titles"] == [None, "Commentary"]


def test_a_clip_takes_what_lies_in_its_time(tmp_path):
    """From 1 to 2.4 s: the ends of what began before, the beginnings of what goes on; the source's timecode is wrong
    there."""
    clip = read_video(rich(tmp_path)).clip(25, 60, sound=True)
    write_video(clip, tmp_path / "clip.mp4", on_note=lambda note: None)
    found = inside(tmp_path / "clip.mp4")
    inner = [(max(0, a - 1000), min(1400, b - 1000), title) for a, b, title in CHAPTERS if a < 2400 and b > 1000]
    lines = [(0, 500, LINES[0][2]), (1000, 1400, LINES[1][2])]
    for got, expected in ((found["chapters"], inner), (found["lines"], lines)):
        assert [row[2] for row in got] == [row[2] for row in expected]
        for row, wanted in zip(got, expected, strict=True):
            assert row[:2] == pytest.approx(wanted[:2], abs=30)  # Matroska's clock begins with the sound's
    assert found["timecode"] == set()


def test_a_second_picture_track_is_named_by_its_codec_not_by_who_decodes_it(tmp_path):
    with av.open(str(tmp_path / "two.mp4"), "w") as output:
        tracks: list[Any] = [output.add_stream("libx264", rate=10), output.add_stream("libsvtav1", rate=10)]
        for track, (width, height) in zip(tracks, ((128, 96), (64, 64)), strict=True):
            track.width, track.height, track.pix_fmt = width, height, "yuv420p"
        for track in tracks:
            for _ in range(4):
                output.mux(track.encode(av.VideoFrame(track.width, track.height, "yuv420p")))
            output.mux(track.encode(None))
    notes: list[str] = []
    write_video(read_video(tmp_path / "two.mp4"), tmp_path / "out.mp4", on_note=notes.append)
    assert notes == ["Left out, because MP4 is written without: a second video track (av1)."]
