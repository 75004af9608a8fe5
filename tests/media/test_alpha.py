"""Transparent places show the background that was asked for, wherever a file keeps its alpha."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from opensama.media.video_io import read_video, write_video
from opensama.media.video_io.alpha import composed, lifted
from opensama.values import UserError, Video, background_color
from tests.media.making import make_video, silent

GREEN = "#008000"


def disk(index: int = 0, width: int = 96, height: int = 64) -> np.ndarray:
    """Red within a disk that fades at its rim, hidden blue outside: `h w 4` of straight colours."""
    y, x = np.mgrid[:height, :width]
    away = np.hypot(x - 30 - index, y - height / 2)
    picture = np.where((away < 26)[..., None], [230, 40, 30], [0, 0, 255])
    return np.dstack([picture, np.clip((24 - away) * 32, 0, 255)]).astype(np.uint8)


def on(background: tuple[int, int, int], picture: np.ndarray) -> np.ndarray:
    share = picture[..., 3:] / 255
    return picture[..., :3] * share + np.array(background) * (1 - share)


def make_clear(path: Path, codec: str, pixels: str, options: dict[str, str] | None = None, count: int = 6) -> Path:
    """The disk as it moves."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=10, options=options or {})
        stream.width, stream.height, stream.pix_fmt = 96, 64, pixels
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(disk(index), format="rgba").reformat(format=pixels)
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


VP = {"crf": "4", "b": "4M", "auto-alt-ref": "0", "deadline": "realtime"}
KINDS: list[tuple[str, str, str, dict[str, str]]] = [
    ("a.webm", "libvpx-vp9", "yuva420p", {**VP, "b": "0"}),
    ("vp8.webm", "libvpx", "yuva420p", VP),
    ("a.mkv", "libvpx-vp9", "yuva420p", {**VP, "b": "0"}),
    ("a.mov", "prores_ks", "yuva444p10le", {"profile": "4444"}),
    ("png.mov", "png", "rgba", {}),
    ("animation.mov", "qtrle", "argb", {}),
    ("ffv1.mkv", "ffv1", "yuva420p", {}),
    ("ffv1-10.mkv", "ffv1", "yuva444p10le", {}),
    ("rgb-12.mkv", "ffv1", "gbrap12le", {}),
    ("a.apng", "apng", "rgba", {}),
]


@pytest.mark.parametrize(("name", "codec", "pixels", "options"), KINDS, ids=[kind[0] for kind in KINDS])
def test_transparent_places_show_the_background(
    name: str, codec: str, pixels: str, options: dict[str, str], tmp_path: Path
) -> None:
    path = make_clear(tmp_path / name, codec, pixels, options)
    for background, color in (("white", (255, 255, 255)), (GREEN, (0, 128, 0))):
        video = read_video(path, background=background)
        assert video.frame_count == 6
        assert video.transparency is not None
        assert video.transparency.background == color
        assert video.transparency.any(6)
        shares = list(video.transparency.source(1, 6))
        for index, frame in enumerate(video.frames(1), 1):
            unit = 257 if frame.dtype == np.uint16 else 1
            wanted = disk(index)
            wrong = np.abs(frame / unit - on(color, wanted))
            assert wrong.mean() < 3
            assert wrong[:, 72:].max() <= 1, "hidden colours stay hidden"
            assert shares[index - 1].dtype == frame.dtype
            assert np.abs(shares[index - 1] / unit - wanted[..., 3]).mean() < 1.5
    covered = next(read_video(path, cover=(48, 32), background=GREEN).frames())
    assert np.abs(covered[:, 40:] / (257 if covered.dtype == np.uint16 else 1) - [0, 128, 0]).max() <= 1


def test_a_gif_and_pictures_show_it_too(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.where(disk(i)[..., 3:] > 127, disk(i), 0)) for i in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100, disposal=2)
    (tmp_path / "folder").mkdir()
    for index in range(3):
        frames[index].convert("RGB" if index == 0 else "RGBA").save(tmp_path / "folder" / f"{index}.png")
    frames[0].save(tmp_path / "a.webp", lossless=True)
    frames[0].save(tmp_path / "a.tif")
    for name, clear in (("a.gif", range(3)), ("folder", range(1, 3)), ("a.webp", range(1)), ("a.tif", range(1))):
        video = read_video(tmp_path / name, background=GREEN)
        assert video.transparency is not None
        assert video.transparency.any(video.frame_count)
        shares = list(video.transparency.source(0, video.frame_count))
        for index, frame in enumerate(video.frames()):
            assert np.array_equal(frame[5, 90], [0, 128, 0] if index in clear else [0, 0, 0])
            assert shares[index][5, 90] == (0 if index in clear else 255)
            assert shares[index][32, 30] == 255


def make_animation(path: Path, count: int = 20, clear: bool = True, **how: Any) -> Path:
    """The disk as an animated AVIF: a still of the first frame, the film, and the alpha of both in other streams."""
    frames = [Image.fromarray(disk(index)).convert("RGBA" if clear else "RGB") for index in range(count)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100, quality=95, speed=10, **how)
    return path


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
def test_an_animated_avif_hides_what_its_alpha_stream_hides(subsampling: str, tmp_path: Path) -> None:
    path = make_animation(tmp_path / "a.avif", subsampling=subsampling)
    for background, color in (("white", (255, 255, 255)), (GREEN, (0, 128, 0))):
        video = read_video(path, background=background)
        assert (video.frame_count, video.duration) == (20, 2)
        assert video.transparency is not None
        shares = list(video.transparency.source(0, 20))
        for index, frame in enumerate(video.frames()):
            wrong = np.abs(frame - on(color, disk(index)))
            assert wrong.mean() < 3
            assert wrong[:, 80:].max() <= 1, "hidden colours stay hidden"
            assert np.abs(shares[index] - disk(index)[..., 3].astype(float)).mean() < 1.5
    late = next(read_video(path).frames(17, 18))
    assert np.abs(late - on((255, 255, 255), disk(17))).mean() < 3
    covered = next(read_video(path, cover=(48, 32), background=GREEN).frames())
    assert np.abs(covered[:, 42:].astype(int) - [0, 128, 0]).max() <= 1


def test_an_avif_without_alpha_is_a_film_of_all_its_frames(tmp_path: Path) -> None:
    """Its first video stream is a still of one frame."""
    path = make_animation(tmp_path / "a.avif", clear=False)
    with av.open(str(path)) as container:
        assert [stream.frames for stream in container.streams.video] == [1, 20]
    video = read_video(path)
    assert (video.frame_count, video.duration, video.transparency) == (20, 2, None)
    for index in (0, 7, 19):
        assert np.abs(next(video.frames(index)) - disk(index)[..., :3].astype(float)).mean() < 6
    report = write_video(video, tmp_path / "out.mp4", on_note=silent)
    assert report.frame_count == read_video(tmp_path / "out.mp4").frame_count == 20


def test_a_still_avif_hides_what_its_alpha_hides(tmp_path: Path) -> None:
    Image.fromarray(disk()).save(tmp_path / "a.avif", quality=95, speed=10)
    video = read_video(tmp_path / "a.avif", background=GREEN)
    assert video.transparency is not None
    wrong = np.abs(next(video.frames()) - on((0, 128, 0), disk()))
    assert wrong.mean() < 3
    assert wrong[:, 72:].max() <= 1
    (alpha,) = video.transparency.source(0, 1)
    assert np.abs(alpha - disk()[..., 3].astype(float)).mean() < 1.5


def test_what_is_opaque_is_said_to_be(tmp_path: Path) -> None:
    assert read_video(make_video(tmp_path / "a.mp4")).transparency is None
    video = read_video(make_video(tmp_path / "a.gif", codec="gif", pixels="rgb8"))
    assert video.transparency is not None
    assert not video.transparency.any(video.frame_count)


def test_a_part_keeps_its_own_alpha(tmp_path: Path) -> None:
    video = read_video(make_clear(tmp_path / "a.mov", "qtrle", "argb"))
    part = video.clip(2, 5)
    assert part.transparency is not None
    assert video.transparency is not None
    whole = list(video.transparency.source(0, 6))
    assert np.array_equal(list(part.transparency.source(1, 3)), whole[3:5])
    assert video.with_frames(video.source, width=48).transparency is None


@pytest.mark.parametrize("name", ["", "nothing", "#12", "rgba(1,2,3,0)", "white!"])
def test_a_background_is_a_colour(name: str) -> None:
    with pytest.raises(UserError, match="is not a colour"):
        background_color(name)
    assert background_color("black") == (0, 0, 0)
    assert isinstance(Video.from_frames(np.zeros((1, 2, 2, 3), np.uint8), 1).transparency, type(None))


@pytest.mark.parametrize("out", ["out.mov", "out.webm"])
@pytest.mark.parametrize("source", ["a.webm", "a.mov", "rgb-12.mkv"])
def test_alpha_is_written_and_shows_the_same_on_any_background(source: str, out: str, tmp_path: Path) -> None:
    path = make_clear(tmp_path / source, *next(kind[1:] for kind in KINDS if kind[0] == source))
    report = write_video(read_video(path, background="yellow"), tmp_path / out, quality=95, on_note=silent)
    assert (report.codec, report.pixel_format) == {
        "out.mov": ("prores_ks", "yuva444p10le"),
        "out.webm": ("libvpx-vp9", "yuva420p"),
    }[out]
    for background, color in (("white", (255, 255, 255)), (GREEN, (0, 128, 0))):
        again = read_video(tmp_path / out, background=background)
        assert again.transparency is not None
        for index, (frame, alpha) in enumerate(zip(again.frames(), again.transparency.source(0, 6), strict=True)):
            unit = 257 if frame.dtype == np.uint16 else 1
            wrong = np.abs(frame / unit - on(color, disk(index)))
            assert wrong.mean() < 4
            assert wrong[:, 72:].max() <= 2
            assert np.abs(alpha / unit - disk(index)[..., 3]).mean() < 2


@pytest.mark.parametrize("share", [0, 1, 64, 128, 254, 255])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colours_are_lifted_off_their_background(dtype: Any, share: int) -> None:
    top = int(np.iinfo(dtype).max)
    picture = np.random.default_rng(0).integers(0, top + 1, (8, 8, 3)).astype(dtype)
    alpha = np.full((8, 8), share * (top // 255), dtype)
    shown = composed(picture, alpha, (10, 200, 90))
    straight = lifted(shown, alpha, (10, 200, 90))
    assert np.abs(composed(straight, alpha, (10, 200, 90)).astype(int) - shown).max() <= 1
    if share > 200:
        assert np.abs(straight.astype(int) - picture).max() <= 1


def test_prores_says_opaque_in_full(tmp_path: Path) -> None:
    """255 becomes 1023, not 1020 of 1023 as by swscale."""
    video = read_video(make_clear(tmp_path / "a.mov", "qtrle", "argb"))
    write_video(video, tmp_path / "out.mov", on_note=silent)
    with av.open(str(tmp_path / "out.mov")) as container:
        frame = next(container.decode(video=0))
        alpha = np.frombuffer(frame.planes[3], np.uint16).reshape(64, -1)  # type: ignore[call-overload]
    assert frame.format.name == "yuva444p12le"
    assert (alpha[32, 30], alpha[5, 90]) == (4095, 0)


def test_mp4_and_mkv_hold_none(tmp_path: Path) -> None:
    video = read_video(make_clear(tmp_path / "a.mov", "qtrle", "argb"), background=GREEN)
    for name in ("out.mp4", "out.mkv"):
        write_video(video, tmp_path / name, on_note=silent)
        again = read_video(tmp_path / name)
        assert again.transparency is None
        assert np.abs(next(again.frames())[:, 76:].astype(int) - [0, 128, 0]).max() <= 2
