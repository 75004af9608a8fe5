"""What is read is what is in the file, and what is written keeps it: frames, times, size, turn, colours, sound."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opensama.media.video_io import read_video, write_video
from opensama.values import ColorInfo, UserError, Video
from tests.media.making import away, make_video, picture, probe, same_times, silent

MILLISECONDS = Fraction(1, 1000)


# --- reading

FORMATS: list[tuple[str, dict[str, Any]]] = [
    ("h264.mp4", {}),
    ("h264.mkv", {"time_base": MILLISECONDS, "stamps": range(0, 1200, 100), "last": 100}),
    ("h264.ts", {"time_base": Fraction(1, 90_000), "stamps": range(0, 108_000, 9000), "last": 9000}),
    ("h264-10.mp4", {"pixels": "yuv420p10le"}),
    ("h264-444.mp4", {"pixels": "yuv444p", "size": (63, 47)}),
    ("h265.mp4", {"codec": "libx265", "options": {"x265-params": "log-level=error"}}),
    (
        "h265-10.mkv",
        {"codec": "libx265", "pixels": "yuv420p10le", "size": (64, 64), "options": {"x265-params": "log-level=error"}},
    ),
    (
        "h265-12.mp4",
        {"codec": "libx265", "pixels": "yuv420p12le", "size": (64, 64), "options": {"x265-params": "log-level=error"}},
    ),
    ("vp9.webm", {"codec": "libvpx-vp9", "options": {"crf": "20", "b": "0", "deadline": "realtime"}}),
    ("av1.mp4", {"codec": "libsvtav1", "size": (64, 64), "options": {"preset": "12", "crf": "20"}}),
    ("prores.mov", {"codec": "prores_ks", "pixels": "yuv422p10le"}),
    ("moving.gif", {"codec": "gif", "pixels": "rgb8"}),
    ("mpeg4.avi", {"codec": "mpeg4", "options": {"q": "2"}}),
    ("h264.avi", {}),
]


@pytest.mark.parametrize(("name", "how"), FORMATS, ids=[name for name, _ in FORMATS])
def test_every_format_gives_its_frames(name: str, how: dict[str, Any], tmp_path: Path, capfd: Any) -> None:
    video = read_video(make_video(tmp_path / name, **how))
    width, height = how.get("size", (64, 48))
    assert (video.width, video.height, video.frame_count) == (width, height, 12)
    assert video.bit_depth == (12 if "-12" in name else 10 if "-10" in name or "prores" in name else 8)
    if not name.endswith(".avi"):  # AVI knows no B-frames: its clock begins a frame late
        assert video.timestamps[0] * video.time_base == 0
        assert video.duration == Fraction(12, 10)
        assert video.fps == 10
    limit = 40 if name.endswith(".gif") else 6  # a GIF has 256 colours
    for _ in range(2):  # as often as one likes
        frames = list(video.frames())
        assert [away(frame, picture(index, width, height)) < limit for index, frame in enumerate(frames)] == [True] * 12
    assert frames[0].dtype == (np.uint16 if video.bit_depth > 8 else np.uint8)
    assert np.array_equal(video.array(5, 7), np.stack(frames[5:7]))


@pytest.mark.parametrize("flips", [{}, {"hflip": True}, {"vflip": True}], ids=["plain", "hflip", "vflip"])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_turned_video_is_upright_and_stays_so(degrees: int, flips: dict[str, bool], tmp_path: Path) -> None:
    video = read_video(make_video(tmp_path / "turned.mp4", turn={"degrees": degrees, **flips}, stamps=range(2)))
    expected = np.rot90(picture(0, 64, 48), degrees // 90)
    expected = expected[:, ::-1] if "hflip" in flips else expected[::-1] if "vflip" in flips else expected
    assert (video.width, video.height) == ((48, 64) if degrees % 180 else (64, 48))
    assert away(next(video.frames()), expected) < 4
    write_video(video, tmp_path / "out.mp4")
    again = read_video(tmp_path / "out.mp4")
    assert again.shape == video.shape
    assert away(next(again.frames()), expected) < 4


@pytest.mark.parametrize(("shape", "width"), [(Fraction(4, 3), 96), (Fraction(8, 9), 64), (Fraction(16, 15), 76)])
def test_pixels_that_are_not_square_become_so(shape: Fraction, width: int, tmp_path: Path) -> None:
    video = read_video(make_video(tmp_path / "wide.mp4", size=(72, 48), pixel_shape=shape))
    assert (video.width, video.height) == (width, 48)
    write_video(video, tmp_path / "out.mp4")
    assert read_video(tmp_path / "out.mp4").shape == video.shape


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("closed.mp4", {"options": {"g": "12"}}),
        ("open.mp4", {"options": {"g": "12", "x264-params": "open-gop=1:bframes=3:scenecut=0"}}),
        ("refresh.mp4", {"options": {"g": "12", "x264-params": "intra-refresh=1"}}),
        (
            "open.mkv",
            {
                "options": {"g": "12", "x264-params": "open-gop=1:bframes=3:scenecut=0"},
                "time_base": MILLISECONDS,
                "stamps": range(0, 13_000, 100),
                "last": 100,
            },
        ),
        ("open-h265.mp4", {"codec": "libx265", "options": {"x265-params": "log-level=error:keyint=12:open-gop=1"}}),
        ("vp9.webm", {"codec": "libvpx-vp9", "options": {"g": "12", "deadline": "realtime", "crf": "30", "b": "0"}}),
        (
            "h264.ts",
            {
                "options": {"g": "12"},
                "time_base": Fraction(1, 90_000),
                "stamps": range(0, 1_170_000, 9000),
                "last": 9000,
            },
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_late_range_is_exact(name: str, how: dict[str, Any], tmp_path: Path, capfd: Any) -> None:
    """Reached by a seek or not: the same bits as by decoding from the beginning."""
    how = {"stamps": range(130)} | how
    video = read_video(make_video(tmp_path / name, **how))
    whole = video.array()
    assert len(whole) == 130
    for start, stop in ((0, 3), (47, 50), (59, 62), (60, 61), (61, 64), (72, 73), (95, 130), (129, 130), (7, 7)):
        assert [np.array_equal(a, b) for a, b in zip(video.frames(start, stop), whole[start:stop], strict=True)] == [
            True
        ] * (stop - start)
    with pytest.raises(UserError, match="frames 0:130"):
        video.frames(100, 131)


def test_images_are_frames(tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "100% images"
    folder.mkdir()
    for index in range(11):
        Image.fromarray(picture(index, 30, 20)).save(folder / f"frame {index} of 100%03d.png")
    (folder / ".hidden.png").touch()
    (folder / "notes.txt").write_text("not an image")
    video = read_video(folder, fps=5)
    assert (video.frame_count, video.width, video.height, video.fps, video.has_audio) == (11, 30, 20, 5, False)
    assert all(np.array_equal(frame, picture(index, 30, 20)) for index, frame in enumerate(video.frames()))
    assert np.array_equal(next(video.frames(10)), picture(10, 30, 20))
    with pytest.raises(UserError, match="frame rate"):
        read_video(folder, fps=0)


def test_a_single_image_is_one_frame(tmp_path: Path) -> None:
    from PIL import Image

    clear = Image.fromarray(picture(3, 30, 20)).convert("RGBA")
    clear.putalpha(Image.fromarray(np.where(np.arange(30) < 15, 0, 255).astype(np.uint8)[None].repeat(20, 0)))
    clear.save(tmp_path / "clear.png")
    frame = next(read_video(tmp_path / "clear.png").frames())
    assert (frame[:, :15] == 255).all()  # transparent is white
    assert np.array_equal(frame[:, 15:], picture(3, 30, 20)[:, 15:])

    turned = Image.Exif()
    turned[0x0112] = 6  # stored lying on its side
    Image.fromarray(picture(3, 32, 16)).save(tmp_path / "turned.jpg", exif=turned, quality=95)
    video = read_video(tmp_path / "turned.jpg")
    assert (video.width, video.height, video.frame_count) == (16, 32, 1)
    assert away(next(video.frames()), np.rot90(picture(3, 32, 16), -1)) < 5

    grey = (np.linspace(0, 65_535, 600).reshape(20, 30)).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    video = read_video(tmp_path / "deep.png")
    assert video.bit_depth == 16
    assert np.abs(next(video.frames())[..., 0].astype(int) - grey).max() <= 64
    report = write_video(video, tmp_path / "still.mp4", on_note=silent)
    assert (report.frame_count, report.pixel_format) == (1, "yuv420p10le")
    assert "16 bits" in report.notes[0]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_images_of_every_kind(mode: str, tmp_path: Path) -> None:
    from PIL import Image

    image = Image.fromarray(picture(3, 30, 20)).convert("L" if mode == "I;16" else mode)
    expected = np.asarray(image.convert("RGB"))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    image.save(tmp_path / "still.png")
    frame = next(read_video(tmp_path / "still.png").frames())
    assert np.array_equal(frame // 257 if frame.dtype == np.uint16 else frame, expected)


@pytest.mark.parametrize("name", ["moving.png", "moving.webp"])
def test_an_animated_image_is_no_still(name: str, tmp_path: Path) -> None:
    from PIL import Image

    first, *rest = (Image.fromarray(picture(index, 30, 20)) for index in range(3))
    first.save(tmp_path / name, save_all=True, append_images=rest, duration=100)
    with pytest.raises(UserError, match="animation"):
        read_video(tmp_path / name)


# --- times


@pytest.mark.parametrize(
    ("base", "stamps", "last"),
    [
        (Fraction(1, 24), range(30), 1),
        (Fraction(1001, 30_000), range(25), 1),
        (Fraction(1, 12_288), range(0, 512 * 20, 512), 512),
        (Fraction(1, 1000), [0, 33, 67, 100, 250, 251, 900], 77),
        (Fraction(1, 90_000), [4500, 9000, 20_001, 20_002, 33_333, 70_000], 12_345),
        (Fraction(1, 10), [7], 3),
        (Fraction(1000), [0, 1, 2], 1),
        (Fraction(1, 1_000_000), range(5), 1),
        (Fraction(1, 1_000_000_000), [0, 40_000_000, 5_040_000_000], 40_000_000),
    ],
)
def test_written_times_are_exact(base: Fraction, stamps: list[int], last: int, tmp_path: Path) -> None:
    frames = [picture(index, 64, 48) for index in range(len(stamps))]
    duration = (stamps[-1] - stamps[0] + last) * base
    video = replace(Video.from_frames(frames, 24), timestamps=tuple(stamps), time_base=base, duration=duration)
    write_video(video, tmp_path / "out.mp4")
    same_times(video, tmp_path / "out.mp4")
    assert all(away(a, b) < 4 for a, b in zip(read_video(tmp_path / "out.mp4").frames(), frames, strict=True))


def test_b_frames_do_not_shorten_the_last(tmp_path: Path) -> None:
    video = read_video(make_video(tmp_path / "in.mp4", stamps=range(40)))
    assert probe(tmp_path / "in.mp4")["b_frames"]
    write_video(video, tmp_path / "out.mp4")
    assert probe(tmp_path / "out.mp4")["b_frames"]
    same_times(video, tmp_path / "out.mp4")
    assert read_video(tmp_path / "out.mp4").duration == 4


@pytest.mark.parametrize("b_frames", ["0", "3"])
@pytest.mark.parametrize("name", ["in.mp4", "in.mkv"])
def test_a_variable_rate_stays(name: str, b_frames: str, tmp_path: Path) -> None:
    stamps = [200, 233, 267, 300, 700, 701, 990, 1100, 1120]
    source = make_video(
        tmp_path / name, stamps=stamps, last=80, time_base=MILLISECONDS, options={"bf": b_frames}, sound="aac"
    )
    video = read_video(source)
    assert [stamp * video.time_base for stamp in video.timestamps] == [stamp * MILLISECONDS for stamp in stamps]
    if b_frames == "0":  # with them MP4 itself does not tell
        assert video.duration == Fraction(1)
    write_video(video, tmp_path / "out.mp4", overwrite=True)
    same_times(video, tmp_path / "out.mp4")


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    steps=st.lists(st.integers(1, 5000), min_size=1, max_size=6),
    base=st.fractions(Fraction(1, 90_000), Fraction(1, 10), max_denominator=90_000),
    start=st.integers(0, 3000),
    deep=st.booleans(),
    even=st.booleans(),
)
def test_anything_goes_and_comes_back(
    size: tuple[int, int], steps: list[int], base: Fraction, start: int, deep: bool, even: bool, tmp_path: Path
) -> None:
    width, height = size
    stamps = [start + sum(steps[:index]) for index in range(len(steps))]
    frames = [picture(index, width, height) for index in range(len(steps))]
    if deep:
        frames = [frame.astype(np.uint16) * np.uint16(257) for frame in frames]
    video = replace(Video.from_frames(frames, 24), timestamps=tuple(stamps), time_base=base, duration=sum(steps) * base)
    write_video(video, tmp_path / "out.mp4", overwrite=True, even=even, on_note=silent)
    same_times(video, tmp_path / "out.mp4")
    again = read_video(tmp_path / "out.mp4")
    assert (again.width, again.height) == ((width + width % 2, height + height % 2) if even else size)
    assert again.bit_depth == video.bit_depth
    for index, frame in enumerate(again.frames()):
        assert away(frame[:height, :width], picture(index, width, height)) < (40 if even or min(size) < 8 else 12)


def test_a_trimmed_file_shows_what_its_edit_list_says(tmp_path: Path) -> None:
    """Phones trim without encoding again: the frames before the cut are in the file and are not shown."""
    import av

    whole = make_video(tmp_path / "whole.mp4", stamps=range(30), options={"g": "30", "bf": "0"})
    with av.open(str(whole)) as inside, av.open(str(tmp_path / "trimmed.mp4"), "w") as container:
        given = inside.streams.video[0]
        stream = container.add_stream_from_template(given)
        assert given.time_base is not None
        shift = round(10 / (10 * given.time_base))
        for packet in inside.demux(given):
            if packet.pts is not None and packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                container.mux(packet)
    video = read_video(tmp_path / "trimmed.mp4")
    assert (video.frame_count, video.timestamps[0], video.duration) == (20, 0, 2)
    assert away(next(video.frames()), picture(10, 64, 48)) < 4
    assert away(next(video.frames(15)), picture(25, 64, 48)) < 4
    write_video(video, tmp_path / "out.mp4")
    same_times(video, tmp_path / "out.mp4")


# --- colours and depth


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("full", [1, 2])
@pytest.mark.parametrize("matrix", [1, 5, 6, 9])
def test_matrix_and_range_stay(matrix: int, full: int, bits: int, tmp_path: Path) -> None:
    color = (matrix, full, 9 if matrix == 9 else matrix, 14 if matrix == 9 else 1)
    pixels = "yuv420p" if bits == 8 else "yuv420p10le"
    source = make_video(tmp_path / "in.mp4", color=color, stamps=range(2), size=(64, 64), pixels=pixels)
    assert probe(source)["color"] == color
    video = read_video(source)
    assert away(next(video.frames()), picture(0, 64, 64)) < 4
    assert video.color.range == ("limited", "full")[full - 1]
    write_video(video, tmp_path / "out.mp4")
    assert probe(tmp_path / "out.mp4")["color"] == color
    assert away(next(read_video(tmp_path / "out.mp4").frames()), picture(0, 64, 64)) < 4


def test_colours_without_a_name_stay_without(tmp_path: Path) -> None:
    video = read_video(make_video(tmp_path / "in.mp4", stamps=range(2)))
    assert video.color == ColorInfo("unspecified", "unspecified", "unspecified", "unspecified")
    write_video(video, tmp_path / "out.mp4")
    assert probe(tmp_path / "out.mp4")["color"] == (2, 0, 2, 2)
    assert away(next(read_video(tmp_path / "out.mp4").frames()), next(video.frames())) < 1.5
    wider = video.with_frames(lambda a, b: iter([np.zeros((48, 1400, 3), np.uint8)] * (b - a)), width=1400)
    assert wider.color.matrix == "smpte170m"  # a player would take 1400 pixels for BT.709


def test_ten_bits_become_hevc(tmp_path: Path) -> None:
    ramp = np.linspace(10_000, 50_000, 128).astype(np.uint16)
    frames = [np.broadcast_to(ramp[None, :, None], (64, 128, 3)).copy()] * 3
    report = write_video(Video.from_frames(frames, 24), tmp_path / "out.mp4")
    found = probe(tmp_path / "out.mp4")
    assert (found["codec"], found["tag"], found["pixels"]) == ("hevc", "hvc1", "yuv420p10le")
    assert not report.notes
    again = next(read_video(tmp_path / "out.mp4").frames())
    assert len(np.unique(again[32, :, 0])) > 100  # eight bits hold 79 levels of this ramp
    assert np.abs(again.astype(int) - frames[0]).mean() < 200
    # Frames of eight bits in a video of ten are written as ten.
    video = read_video(tmp_path / "out.mp4")
    plain = video.with_frames(lambda a, b: iter([np.full((64, 128, 3), 100, np.uint8)] * (b - a)))
    write_video(plain, tmp_path / "plain.mp4")
    assert read_video(tmp_path / "plain.mp4").bit_depth == 10
    assert away(next(read_video(tmp_path / "plain.mp4").frames()), np.full((64, 128, 3), 100)) < 1


def test_twelve_bits_become_ten_with_a_note(tmp_path: Path) -> None:
    options = {"x265-params": "log-level=error"}
    source = make_video(
        tmp_path / "in.mp4", codec="libx265", pixels="yuv420p12le", size=(64, 64), options=options, stamps=range(8)
    )
    notes: list[str] = []
    report = write_video(read_video(source), tmp_path / "out.mp4", on_note=notes.append)
    assert probe(tmp_path / "out.mp4")["pixels"] == "yuv420p10le"
    assert list(report.notes) == notes
    assert "12 bits" in notes[0]


def test_hdr_stays_hdr(tmp_path: Path) -> None:
    mastering = "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50):max-cll=1000,400"
    source = make_video(
        tmp_path / "in.mp4",
        codec="libx265",
        pixels="yuv420p10le",
        size=(64, 64),
        color=(9, 1, 9, 16),
        options={"x265-params": f"log-level=error:{mastering}"},
        stamps=range(8),
    )
    video = read_video(source)
    assert video.color.is_hdr
    write_video(video, tmp_path / "out.mp4")
    again = read_video(tmp_path / "out.mp4")
    assert probe(tmp_path / "out.mp4")["color"] == (9, 1, 9, 16)
    assert ":".join(f"{key}={value}" for key, value in video.extra.items()) == mastering
    assert again.extra == video.extra


@pytest.mark.parametrize(
    ("size", "even", "pixels", "shown", "noted"),
    [
        ((65, 48), False, "yuv444p", (65, 48), "`even=True`"),
        ((64, 47), False, "yuv444p", (64, 47), "`even=True`"),
        ((65, 47), True, "yuv420p", (66, 48), "Padded"),
        ((2, 2), False, "yuv420p", (2, 2), None),
        ((1, 1), False, "yuv444p", (1, 1), "`even=True`"),
        ((64, 48), True, "yuv420p", (64, 48), None),
    ],
)
def test_odd_sizes(
    size: tuple[int, int], even: bool, pixels: str, shown: tuple[int, int], noted: str | None, tmp_path: Path
) -> None:
    video = Video.from_frames([picture(index, *size) for index in range(3)], 10)
    report = write_video(video, tmp_path / "out.mp4", even=even, on_note=silent)
    found = probe(tmp_path / "out.mp4")
    assert (found["pixels"], found["size"], found["codec"], found["tag"]) == (pixels, shown, "h264", "avc1")
    assert [noted in note for note in report.notes if noted] == [True] * len(report.notes)
    assert bool(report.notes) == bool(noted)
    assert away(next(read_video(report.path).frames())[: size[1], : size[0]], picture(0, *size)) < 30


def test_quality_is_size(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3)).astype(np.uint8)
    sizes = []
    for quality in (0, 50, 100):
        write_video(Video.from_frames(frames, 10), tmp_path / "out.mp4", quality=quality, overwrite=True)
        sizes.append((tmp_path / "out.mp4").stat().st_size)
    assert sizes[0] < sizes[1] < sizes[2]
    assert (tmp_path / "out.mp4").read_bytes().find(b"moov") < 100  # players need not load the end first
    with pytest.raises(UserError, match="quality"):
        write_video(Video.from_frames(frames, 10), tmp_path / "out.mp4", quality=101, overwrite=True)


# --- when it cannot be written


def small() -> Video:
    return Video.from_frames([picture(index, 64, 48) for index in range(5)], 10)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("out.avi", "end it in one of .mp4"),
        ("out", "end it in one of .mp4"),
        ("none/out.mp4", "no folder"),
        ("there.mp4", "exists"),
        ("folder.mp4", "not a regular file"),
    ],
)
def test_impossible_places(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "there.mp4").write_bytes(b"precious")
    (tmp_path / "folder.mp4").mkdir()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=words):
        write_video(small(), tmp_path / name)
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "there.mp4").read_bytes() == b"precious"


def test_the_source_may_be_overwritten(tmp_path: Path) -> None:
    path = make_video(tmp_path / "in.mp4", sound="aac")
    write_video(read_video(path), path, overwrite=True)
    assert read_video(path).frame_count == 12
    assert list(tmp_path.iterdir()) == [path]
    assert oct(path.stat().st_mode & 0o777) == oct(0o666 & ~current_umask())


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, UserError])
def test_an_interruption_leaves_nothing(error: type[BaseException], tmp_path: Path) -> None:
    def source(start: int, stop: int) -> Iterator[np.ndarray]:
        yield from small().frames(start, 3)
        raise error("stop")

    with pytest.raises(error, match="stop"):
        write_video(small().with_frames(source), tmp_path / "out.mp4")
    assert not list(tmp_path.iterdir())


IN_A_PROCESS = """
import os, resource, sys
from pathlib import Path
import numpy as np
from opensama.media.video_io import write_video
from opensama.values import UserError, Video
folder, how = Path(sys.argv[1]), sys.argv[2]
if how == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
elif os.geteuid() == 0:
    os.setuid(65534)
frames = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3)).astype(np.uint8)
try:
    write_video(Video.from_frames(frames, 10), folder / "out.mp4")
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("how", "words"), [("full", "disk is full"), ("guarded", "not writable"), ("hidden", "not writable")]
)
def test_full_and_guarded_places(how: str, words: str, tmp_path: Path) -> None:
    folder = tmp_path / "place"
    folder.mkdir(mode=0o555 if how == "guarded" else 0o755)
    for parent in (p for p in (tmp_path, *tmp_path.parents) if p.is_relative_to(tempfile.gettempdir())):
        if parent != Path(tempfile.gettempdir()):
            parent.chmod(0o755)
    if how == "hidden":  # its own folder may not be entered
        tmp_path.chmod(0o600)
    done = subprocess.run([sys.executable, "-c", IN_A_PROCESS, str(folder), how], capture_output=True, text=True)
    tmp_path.chmod(0o755)
    assert words in done.stdout, done.stderr
    assert not list(folder.iterdir())
