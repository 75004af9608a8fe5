"""A picture is read whole, as Pillow shows it and as deep as it is, or refused in one sentence."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from opensama.media.video_io import read_video, write_video
from opensama.values import UserError
from tests.media.heif import make_tiled
from tests.media.making import away, picture, silent

NOISE = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("a.jpg", {"quality": 95}),
    ("b.jpg", {"quality": 95, "progressive": True}),
    ("a.png", {}),
    ("a.webp", {"quality": 90}),
    ("b.webp", {"lossless": True}),
    ("a.avif", {}),
    ("a.bmp", {}),
    ("a.tif", {}),
    ("b.tif", {"compression": "tiff_lzw"}),
]


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def reserved(data: bytes) -> bytes:
    """As a download that was given its length at the beginning."""
    return data[: len(data) // 2] + bytes(len(data) - len(data) // 2)


@pytest.mark.parametrize("name", ["plain", "in a folder", "in a tar", "without a suffix"])
@pytest.mark.parametrize(("file", "how"), KINDS)
def test_half_a_picture_is_refused(file: str, how: dict[str, Any], name: str, tmp_path: Path) -> None:
    place = path = tmp_path / "pictures" / file
    path.parent.mkdir()
    Image.fromarray(NOISE).save(path, **how)
    data = path.read_bytes()
    if name == "in a folder":
        path.with_stem("0").write_bytes(data)
        place = path.parent
    elif name == "in a tar":
        place = tmp_path / "all.tar" / file
    elif name == "without a suffix":
        place = path.rename(path.with_suffix(""))
        path = place
    assert away(next(read_video(path).frames()), NOISE) < 60
    path.write_bytes(half(data))
    if name == "in a tar":
        with tarfile.open(tmp_path / "all.tar", "w") as tar:
            tar.add(path, file)
    with pytest.raises(UserError, match="is damaged") as caught:
        read_video(place)
    assert path.name in str(caught.value)


@pytest.mark.parametrize(("file", "how"), [kind for kind in KINDS if kind[0][2:] not in ("bmp", "tif")])
def test_a_picture_of_reserved_length_is_refused(file: str, how: dict[str, Any], tmp_path: Path) -> None:
    Image.fromarray(NOISE).save(tmp_path / file, **how)
    (tmp_path / file).write_bytes(reserved((tmp_path / file).read_bytes()))
    with pytest.raises(UserError, match="is damaged"):
        read_video(tmp_path / file)


@pytest.mark.parametrize(
    "damaged",
    [lambda data: data.replace(b"iloc", b"free"), lambda data: data[: data.index(b"mdat") + 4] + bytes(9999)],
    ids=["no place of its picture", "nothing but zeros"],
)
def test_an_avif_without_a_picture_is_refused(damaged: Callable[[bytes], bytes], tmp_path: Path) -> None:
    """Pillow raises a RuntimeError, which no other of its formats does: at opening, or at decoding."""
    path = tmp_path / "a.avif"
    Image.fromarray(NOISE).save(path)
    path.write_bytes(damaged(path.read_bytes()))
    with pytest.raises(RuntimeError, match="Failed to decode"), Image.open(path) as image:
        image.load()
    with pytest.raises(UserError, match="is damaged"):
        read_video(path)


def test_a_wrong_checksum_in_a_png_is_refused_and_what_follows_a_jpeg_is_not(tmp_path: Path) -> None:
    Image.fromarray(NOISE).save(tmp_path / "a.png")
    Image.fromarray(NOISE).save(tmp_path / "a.jpg", quality=95)
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(UserError, match="is damaged"):
        read_video(tmp_path / "a.png")
    with (tmp_path / "a.jpg").open("ab") as file:  # telephones put a short film there
        file.write(b"\0" * 5000)
    assert read_video(tmp_path / "a.jpg").frame_count == 1


def test_jpeg_within_tiff_is_as_pillow_reads_it(tmp_path: Path) -> None:
    Image.fromarray(picture(3, 64, 48)).save(tmp_path / "a.tif", compression="jpeg", quality=95)
    (frame,) = read_video(tmp_path / "a.tif").frames()
    with Image.open(tmp_path / "a.tif") as image:
        assert np.array_equal(frame, np.asarray(image))
    assert away(frame, picture(3, 64, 48)) < 3


@pytest.mark.parametrize(
    ("mode", "save"),
    [("CMYK", "a.jpg"), ("CMYK", "a.tif"), ("L", "a.jpg"), ("L", "a.webp"), ("1", "a.tif"), ("YCbCr", "a.tif")],
)
def test_other_colours_are_as_pillow_reads_them(mode: str, save: str, tmp_path: Path) -> None:
    Image.fromarray(picture(3, 64, 48)).convert(mode).save(tmp_path / save)
    (frame,) = read_video(tmp_path / save).frames()
    with Image.open(tmp_path / save) as image:
        assert np.array_equal(frame, np.asarray(image.convert("RGB")))


def test_numbers_of_32_bits_are_no_colours(tmp_path: Path) -> None:
    Image.fromarray(np.linspace(0, 1, 64 * 48, dtype=np.float32).reshape(48, 64)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match="32-bit numbers"):
        read_video(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("codec", "pixels"),
    [
        *(("png", pixels) for pixels in ("rgb48be", "rgba64be", "gray16be", "ya16be")),
        *(("tiff", pixels) for pixels in ("rgb48be", "rgba64be", "gray16be")),
    ],
)
def test_sixteen_bits_stay(codec: str, pixels: str, tmp_path: Path) -> None:
    """Exact to the last bit."""
    values = np.random.default_rng(0).integers(0, 65_536, (48, 64, 3)).astype(np.uint16)
    if "gray" in pixels or "ya" in pixels:
        values[:] = values[..., :1]
    channels = {"rgb48be": 3, "rgba64be": 4, "gray16be": 1, "ya16be": 2}[pixels]
    stored = np.concatenate(
        [values[..., : min(channels, 3) if channels > 2 else 1], np.full((48, 64, 1), 65_535, np.uint16)], -1
    )
    context: Any = av.CodecContext.create(codec, "w")
    name = pixels if codec == "png" else pixels.replace("be", "le")
    context.width, context.height, context.pix_fmt, context.time_base = 64, 48, name, 1
    frame = av.VideoFrame(64, 48, name)
    plane = np.frombuffer(frame.planes[0], ">u2" if "be" in name else "<u2").reshape(48, -1)  # type: ignore[call-overload]
    plane[:, : 64 * channels] = stored[..., :channels].reshape(48, -1)
    path = tmp_path / f"deep.{'png' if codec == 'png' else 'tif'}"
    path.write_bytes(b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)]))
    video = read_video(path)
    assert video.bit_depth == 16
    assert np.array_equal(next(video.frames()), values)


def test_pictures_of_a_folder_stand_alike(tmp_path: Path) -> None:
    lying = Image.Exif()
    lying[0x0112] = 6
    Image.fromarray(picture(0, 64, 48)).save(tmp_path / "0.jpg")
    Image.fromarray(picture(1, 64, 48)).save(tmp_path / "1.jpg", exif=lying)
    with pytest.raises(UserError, match=r"1\.jpg is 48x64 pixels, the images before it 64x48"):
        read_video(tmp_path)
    Image.fromarray(picture(1, 48, 64)).save(tmp_path / "1.jpg", exif=lying)
    assert read_video(tmp_path).array().shape == (2, 48, 64, 3)


@pytest.mark.parametrize("name", ["phone.heic", "phone", "phone.jpg"])
def test_a_heic_of_tiles_is_refused(name: str, tmp_path: Path) -> None:
    path = make_tiled(tmp_path / "phone.heic", picture(3, 150, 100)).rename(tmp_path / name)
    with pytest.raises(UserError, match=r"made of tiles|not an image"):
        read_video(path)


def test_an_avif_of_tiles_is_whole(tmp_path: Path, capfd: Any) -> None:
    video = read_video(make_tiled(tmp_path / "tiles.avif", picture(3, 150, 100)))
    assert (video.width, video.height, video.frame_count) == (150, 100, 1)
    assert away(next(video.frames()), picture(3, 150, 100)) < 2


def test_a_deep_avif_stays_deep_and_its_alpha_counts(tmp_path: Path, capfd: Any) -> None:
    with av.open(str(tmp_path / "deep.avif"), "w") as container:
        stream: Any = container.add_stream("libsvtav1", rate=1, options={"preset": "12", "crf": "5"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p10le"
        context = stream.codec_context
        context.colorspace, context.color_range, context.color_primaries, context.color_trc = 9, 1, 9, 16
        frame = av.VideoFrame.from_ndarray(picture(3, 64, 64), format="rgb24")
        frame = frame.reformat(format="yuv420p10le", src_color_range=2, dst_color_range=1, dst_colorspace=9)
        frame.pts = 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    video = read_video(tmp_path / "deep.avif")
    assert (video.bit_depth, video.frame_count, video.color.is_hdr) == (10, 1, True)
    assert away(next(video.frames()), picture(3, 64, 64)) < 3
    write_video(video, tmp_path / "deep.mp4", on_note=silent)
    assert read_video(tmp_path / "deep.mp4").color == video.color

    clear = np.dstack([picture(3, 64, 48), np.full((48, 64), 255, np.uint8)])
    clear[:, :20, 3] = 0
    Image.fromarray(clear).save(tmp_path / "clear.avif", quality=95)
    (frame,) = read_video(tmp_path / "clear.avif").frames()
    assert frame[:, :16].min() > 250
    assert away(frame[:, 24:], picture(3, 64, 48)[:, 24:]) < 4
