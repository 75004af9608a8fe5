"""Pictures written as they were read, and films in each codec that a kind of file holds."""

from __future__ import annotations

from dataclasses import replace

import av
import numpy as np
import pytest
from PIL import Image, ImageCms

from opensama.media.video_io import read_video, write_video
from opensama.media.video_io.containers import FORMATS, HARDWARE, has_encoder, possible
from opensama.values import Transparency, UserError, Video

RNG = np.random.default_rng(0)


def smooth(frames: int = 1, height: int = 66, width: int = 80) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack(
        [np.stack([rows * 2 + i, columns * 2, rows + columns], -1).clip(0, 255) for i in range(frames)]
    ).astype(np.uint8)


def test_png_is_the_same_to_the_bit_deep_ones_too(tmp_path):
    picture = RNG.integers(0, 2**16, (1, 9, 7, 3), np.uint16)
    write_video(Video.from_frames(picture, 1, bit_depth=16), tmp_path / "deep.png")
    again = read_video(tmp_path / "deep.png")
    assert again.bit_depth == 16
    assert np.array_equal(again.array(), picture)
    write_video(Video.from_frames(smooth(), 1), tmp_path / "plain.png")
    assert np.array_equal(read_video(tmp_path / "plain.png").array(), smooth())


@pytest.mark.parametrize("ending", [".jpg", ".webp", ".png"])
def test_profile_and_notes_of_the_camera_stay_and_the_turn_goes(tmp_path, ending):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"  # lies on its side
    source = tmp_path / f"source{ending}"
    Image.fromarray(smooth()[0]).save(source, icc_profile=profile, exif=exif)
    video = read_video(source)
    for deep in (False, True) if ending == ".png" else (False,):
        pictures = video.array()
        changed = video.with_frames(lambda a, b, p=pictures: iter(p[a:b]))
        if deep:
            changed = video.with_frames(lambda a, b, p=pictures: iter(p[a:b].astype(np.uint16) * 257), bit_depth=16)
        out = tmp_path / f"out{deep}{ending}"
        write_video(changed, out, quality=95)
        with Image.open(out) as image:
            image.load()
            assert image.size == (video.width, video.height) == (66, 80)
            assert image.info["icc_profile"] == profile
            assert dict(image.getexif()) == {0x010F: "Maker"}
        assert np.abs(read_video(out).array()[..., 0] / (257 if deep else 1) - pictures[..., 0]).mean() < 3


@pytest.mark.parametrize("ending", [".png", ".webp"])
def test_alpha_stays_in_pictures_that_hold_it(tmp_path, ending):
    picture, alpha = np.full((1, 8, 8, 3), 200, np.uint8), np.full((1, 8, 8), 255, np.uint8)
    alpha[0, :4] = 0
    video = Video.from_frames(picture, 1)
    clear = Transparency(lambda a, b: iter(alpha[a:b]), (255, 255, 255))
    write_video(replace(video, transparency=clear), tmp_path / f"x{ending}", quality=100)
    with Image.open(tmp_path / f"x{ending}") as image:
        assert np.array_equal(np.asarray(image.convert("RGBA"))[..., 3], alpha[0])


def test_a_film_is_no_picture(tmp_path):
    with pytest.raises(UserError, match="3 frames"):
        write_video(Video.from_frames(smooth(3), 1), tmp_path / "x.png")
    with pytest.raises(UserError, match="no codec"):
        write_video(Video.from_frames(smooth(), 1), tmp_path / "x.png", codec="h264")
    assert not list(tmp_path.iterdir())


ALL = [(ending, codec) for ending, kind in FORMATS.items() if ending != ".m4v" for codec in kind.codecs]


@pytest.mark.parametrize(("ending", "codec"), ALL)
def test_every_codec_of_every_kind_of_file(tmp_path, ending, codec):
    """Frames, times and colours come back; more than 8 bit stay where the codec holds them."""
    path = tmp_path / f"x{ending}"
    for deep in (False, True):
        frames = smooth(18).astype(np.uint16) * 257 if deep else smooth(18)
        write_video(Video.from_frames(frames, 25), path, codec=codec, overwrite=True, on_note=lambda note: None)
        again = read_video(path)
        with av.open(str(path)) as container:
            assert container.streams.video[0].codec_context.codec.canonical_name == codec.removesuffix("-4444")
        assert (again.frame_count, float(again.fps)) == (18, 25)
        assert (again.bit_depth > 8) == (codec.startswith("prores") or (deep and codec != "vp9"))
        seen = again.array() // (257 if again.bit_depth > 8 else 1)
        assert np.abs(seen.astype(int) - smooth(18)).mean() < 3


def test_a_codec_that_is_not_possible_is_answered_by_those_that_are(tmp_path):
    video = Video.from_frames(smooth(2), 25)
    absent = next((f"hevc_{maker}" for maker in HARDWARE if not has_encoder(f"hevc_{maker}")), None)
    for codec in ("h265", "vp9", *([absent] if absent else [])):
        with pytest.raises(UserError, match="choose h264, hevc") as caught:
            write_video(video, tmp_path / "x.mp4", codec=codec)
        assert all(name in str(caught.value) for name in possible(FORMATS[".mp4"]))
    assert not has_encoder("libx264")
    assert not list(tmp_path.iterdir())
