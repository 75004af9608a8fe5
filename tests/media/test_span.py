"""A video of which a span was edited: what the span does not need is copied bit for bit, and both joints decode.

The files have a key frame every six frames, and the edit turns colours into their negatives.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from opensama.media.video_io import WriteReport, check_frames, read_video, write_video
from opensama.values import Span, UserError, Video
from tests.media.making import away, make_video, silent, with_edits
from tests.media.test_keeping import inside, rich

N = 26
QUICK = {"preset": "ultrafast"}
X264 = {**QUICK, "g": "6", "bf": "2", "b_strategy": "0"}
X265 = {"preset": "ultrafast", "x265-params": "keyint=6:min-keyint=6:bframes=2:b-adapt=0:log-level=none"}
CLOSED = {**X265, "x265-params": f"{X265['x265-params']}:open-gop=0"}
VP9 = {"g": "6", "cpu-used": "8", "deadline": "realtime"}
HEVC: dict[str, Any] = {"codec": "libx265", "size": (96, 80), "options": X265}
AV1: dict[str, Any] = {"codec": "libsvtav1", "options": {"preset": "12", "g": "6"}}
FILES: dict[str, dict[str, Any]] = {
    "h264.mp4": {"options": X264, "sound": "aac"},
    "fragments.mp4": {
        "options": X264,
        "time_base": Fraction(1, 24),
        "container_options": {"movflags": "frag_keyframe+empty_moov"},
    },
    "turned-ten-bit.mov": {"options": X264, "pixels": "yuv420p10le", "turn": {"degrees": 90}},
    "variable.mp4": {
        "options": {**X264, "bf": "0"},
        "stamps": [100 * i + 30 * (i % 3) for i in range(N)],
        "time_base": Fraction(1, 1000),
    },
    "h264.mkv": {"options": X264, "stamps": [round(i * 1000 / 24) for i in range(N)], "time_base": Fraction(1, 1000)},
    "open-groups.mp4": {**HEVC, "sound": "aac"},
    "closed-groups.mkv": {**HEVC, "pixels": "yuv420p10le", "options": CLOSED},
    "vp9.webm": {"codec": "libvpx-vp9", "options": VP9, "sound": "libopus", "rate": 48000},
    "av1.mp4": AV1,
    "av1.webm": {**AV1, "sound": "libopus", "rate": 48000},
}  # fmt: skip


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The file of a name, made once."""
    folder, made = tmp_path_factory.mktemp("films"), dict[str, Path]()

    def film(name: str) -> Path:
        if name not in made:
            made[name] = make_video(folder / name, **{"stamps": range(N), **FILES[name]})
        return made[name]

    return film


def remade(source: Path, path: Path, tag: str) -> Path:
    """The pictures' packets in another file, under another name of their codec."""
    with av.open(str(source)) as given, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(given.streams.video[0], opaque=True)
        stream.codec_context.codec_tag = tag
        for packet in given.demux(video=0):
            if packet.size:
                packet.stream = stream
                container.mux(packet)
    return path


def edited(path: Path, start: int, stop: int) -> Video:
    source = read_video(path)

    def frames(first: int, last: int) -> Any:
        for index, frame in enumerate(source.frames(first, last), first):
            yield np.iinfo(frame.dtype).max - frame if start <= index < stop else frame

    return replace(source.with_frames(frames), span=Span(source, start, stop))


def packets(path: Path) -> dict[int, dict[Any, str]]:
    """Of each stream, what lies at which time."""
    found: dict[int, dict[Any, str]] = {}
    with av.open(str(path)) as container:
        for packet in container.demux():
            if packet.size and packet.time_base is not None:
                at = None if packet.pts is None else packet.pts * packet.time_base
                found.setdefault(packet.stream_index, {})[at] = sha256(bytes(packet)).hexdigest()
    return found


def decoded(path: Path) -> list[tuple[Any, np.ndarray]]:
    with av.open(str(path)) as container:
        return [(frame.pts, frame.to_ndarray()) for frame in container.decode(video=0)]


def frames_encoded(report: WriteReport) -> tuple[int, int]:
    """What the report says of it."""
    (note,) = (note for note in report.notes if note.startswith("Only the frames "))
    start, stop = note.split()[3].split(":")
    return int(start), int(stop)


def check_joined(source: Path, out: Path, span: tuple[int, int]) -> tuple[int, int]:
    """Writes the edit of a span, and holds it against the source: the frames that were encoded again come out."""
    video = edited(source, *span)
    start, stop = frames_encoded(write_video(video, out, overwrite=True, on_note=silent))
    old, new = packets(source), packets(out)
    (at,) = (s.index for s in av.open(str(source)).streams.video)
    shown = sorted(decoded(source), key=lambda frame: frame[0])
    again = decoded(out)
    with av.open(str(source)) as container:
        tick = container.streams.video[0].time_base
    assert tick is not None
    replaced = {pts * tick for pts, _ in shown[start:stop]}
    assert {key: value for key, value in old[at].items() if key not in replaced}.items() <= new[at].items()
    assert [new[index] for index in new if index != at] == [old[index] for index in old if index != at]
    assert [pts for pts, _ in again] == [pts for pts, _ in shown]
    assert {i for i in range(len(shown)) if (shown[i][1] != again[i][1]).any()} == {*range(start, stop)}
    for index, (got, wanted) in enumerate(zip(read_video(out).frames(), video.frames(), strict=True)):
        limit = 6 if span[0] <= index < span[1] else 1.5
        assert away(got, wanted / (257 if wanted.dtype == np.uint16 else 1)) < limit, index
    return start, stop


@pytest.mark.parametrize("name", FILES)
def test_all_but_what_the_span_needs_is_copied_and_decodes_as_before(films, tmp_path, name):
    """At the beginning, over a key frame, within a group, at the end; never more than the groups that are touched."""
    for span in ((0, 2), (5, 7), (14, 15), (24, 26)):
        start, stop = check_joined(films(name), tmp_path / name, span)
        assert span[0] - 4 < start <= span[0]
        assert stop == min(N, -(-span[1] // 6) * 6)


@pytest.mark.parametrize("name", ["h264.mp4", "closed-groups.mkv", "av1.mp4"])
def test_players_may_seek_from_the_span_to_anywhere(films, tmp_path, name):
    """By one decoder, which knows the span's parameter sets from then on, as players do."""
    write_video(edited(films(name), 8, 10), tmp_path / name, on_note=silent)
    shown = dict(decoded(tmp_path / name))
    with av.open(str(tmp_path / name)) as container:
        stream = container.streams.video[0]
        for index in (8, 18, 9, 1, 10):
            container.seek(sorted(shown)[index], stream=stream, backward=True)
            frames = list(islice(container.decode(stream), 6))
            assert sorted(shown)[index] in [frame.pts for frame in frames]
            assert all((frame.to_ndarray() == shown[frame.pts]).all() for frame in frames)


def test_a_sequence_ends_before_an_open_group(films, tmp_path):
    """H.265 begins a new one nowhere else, and only there may other parameter sets hold."""
    named = remade(films("open-groups.mp4"), tmp_path / "hvc1.mp4", tag="hvc1")
    write_video(edited(named, 8, 10), tmp_path / "out.mp4", on_note=silent)
    with av.open(str(tmp_path / "out.mp4")) as container:
        coded = [bytes(packet) for packet in container.demux(video=0)]
        assert container.streams.video[0].codec_context.codec_tag == "hvc1"  # as the source's: Apple's players want it
    assert [index for index, packet in enumerate(coded) if packet.endswith(b"\0\0\0\2\x48\1")] == [11]


def test_what_an_edit_list_leaves_out_stays_left_out(tmp_path):
    whole = make_video(tmp_path / "whole.mp4", stamps=range(N), options=X264)
    cut = with_edits(whole, tmp_path / "cut.mp4", [(0.9, 2.6)])
    assert read_video(cut).frame_count == 17
    assert check_joined(cut, tmp_path / "out.mp4", (5, 6)) == (4, 9)


def test_subtitles_chapters_tags_and_both_sounds_are_the_same(tmp_path):
    source, out = rich(tmp_path), tmp_path / "out.mkv"
    video = edited(source, 10, 12)
    frames_encoded(write_video(video, out, on_note=silent))
    old, new = inside(source), inside(out)
    assert old == {**new, "tags": {**new["tags"], "encoder": old["tags"]["encoder"]}}
    before, after = packets(source), packets(out)
    assert [after[index] for index in (1, 2, 3)] == [before[index] for index in (1, 2, 3)]


@pytest.mark.parametrize(
    ("name", "out", "how", "why"),
    [
        ("h264.mkv", "out.mp4", {}, "MP4 is another kind of file"),
        ("h264.mp4", "out.mp4", {"codec": "av1"}, "the codec av1 was asked for"),
        ("wide.mp4", "out.mp4", {}, "its pictures are shown in another size than they are stored"),
        ("mpeg4.mp4", "out.mp4", {}, "no encoder here makes mpeg4 with the pixel format yuv420p to go with it"),
        ("shorter.mp4", "out.mp4", {}, "its edit list leaves out what comes last"),
        ("one-group.mp4", "out.mp4", {}, "decoding can begin nowhere else in it"),
    ],
)
def test_where_it_cannot_be_done_all_is_encoded_and_one_sentence_says_why(films, tmp_path, name, out, how, why):
    other = {
        "wide.mp4": {"pixel_shape": Fraction(4, 3)},
        "mpeg4.mp4": {"codec": "mpeg4"},
        "one-group.mp4": {},
        "shorter.mp4": {"options": X264},
    }
    source = make_video(tmp_path / name, **other[name]) if name in other else films(name)
    if name == "shorter.mp4":
        source = with_edits(source, tmp_path / "cut.mp4", [(0, 0.9)])
    video = edited(source, 0, 3)
    report = write_video(video, tmp_path / out.replace("out", "result"), on_note=silent, **how)
    assert f"All frames are encoded again, not only the span's: {why}." in report.notes
    shown = read_video(report.path)
    assert all(
        away(got, wanted) < 6
        for got, wanted in zip(shown.frames(), video.frames(), strict=True)
        if got.shape == wanted.shape
    )
    assert shown.frame_count == video.frame_count


def test_an_open_group_of_h264_is_encoded_up_to_where_decoding_can_begin(tmp_path):
    """Its pictures refer to those before, so copying begins only at an IDR picture, of which there is none."""
    options = {"x264-params": "open-gop=1:keyint=6:min-keyint=3:bframes=2:b-adapt=0:scenecut=0", **QUICK}
    source = make_video(tmp_path / "open.mp4", stamps=range(N), options=options)
    start, stop = check_joined(source, tmp_path / "out.mp4", (9, 10))
    assert (start > 5, stop) == (True, N)


def test_damage_elsewhere_is_no_matter_and_in_the_span_is_found(films, tmp_path):
    data = bytearray(films("h264.mp4").read_bytes())
    with av.open(str(films("h264.mp4"))) as container:
        places = [(p.pos, p.size) for p in container.demux(video=0) if p.pos is not None and p.size and p.is_keyframe]
    begin, size = places[3]  # of the frames 18 to 23
    data[begin + 8 : begin + size] = bytes(size - 8)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(data)
    check_frames(read_video(broken), span=(2, 12))
    with pytest.raises(UserError, match=r"frame \d+ cannot be decoded"):
        check_frames(read_video(broken), span=(2, 20))


def test_a_change_of_anything_else_makes_it_a_video_of_its_own(films):
    video = edited(films("h264.mp4"), 2, 4)
    assert video.with_frames(video.source).span is None
    assert video.clip(1, 3).span is None
