"""Files that are no videos, or no longer: each made by a function, with a part of the sentence that should be said."""

from __future__ import annotations

import wave
import zipfile
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np

from tests.media.heif import make_tiled
from tests.media.making import make_video, picture


def nothing_there(folder: Path) -> Path:
    return folder / "nothing.mp4"


def empty_file(folder: Path) -> Path:
    (folder / "empty.mp4").touch()
    return folder / "empty.mp4"


def text_named_mp4(folder: Path) -> Path:
    path = folder / "letter.mp4"
    path.write_text("Dear reader, this is not a video.\n" * 50)
    return path


def text(folder: Path) -> Path:
    path = folder / "letter.txt"
    path.write_text("FFmpeg would draw this as a picture of a terminal.\n" * 50)
    return path


def noise_named_mp4(folder: Path) -> Path:
    path = folder / "noise.mp4"
    path.write_bytes(np.random.default_rng(0).integers(0, 256, 20_000).astype(np.uint8).tobytes())
    return path


def noise_named_png(folder: Path) -> Path:
    return noise_named_mp4(folder).rename(folder / "noise.png")


def lfs_pointer(folder: Path) -> Path:
    """What a clone without git-lfs leaves in place of a large file."""
    path = folder / "holiday.mp4"
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4d' * 32}\nsize 1048576\n")
    return path


def lfs_pointer_in_place_of_a_picture(folder: Path) -> Path:
    return lfs_pointer(folder).rename(folder / "holiday.jpg")


def web_page(folder: Path) -> Path:
    path = folder / "download.mp4"
    path.write_text("<!DOCTYPE html>\n<html><head><title>404</title></head><body>Not found.</body></html>\n")
    return path


def download_that_never_came(folder: Path) -> Path:
    """Room that a download manager set aside."""
    path = folder / "later.mkv"
    path.write_bytes(bytes(100_000))
    return path


def archive_named_mp4(folder: Path) -> Path:
    path = folder / "clip.mp4"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("clip.txt", "Dear reader")
    return path


def header_only(folder: Path) -> Path:
    path = folder / "head.mp4"
    path.write_bytes(make_video(folder / "whole.mp4").read_bytes()[:40])
    return path


def cut_before_index(folder: Path) -> Path:
    """The index of an MP4 stands at its end unless asked for otherwise."""
    data = make_video(folder / "whole.mp4").read_bytes()
    path = folder / "cut.mp4"
    path.write_bytes(data[: len(data) // 2])
    return path


def cut_after_index(folder: Path) -> Path:
    data = make_video(folder / "whole.mp4", container_options={"movflags": "+faststart"}).read_bytes()
    path = folder / "cut-fast.mp4"
    path.write_bytes(data[:-400])
    return path


def cut_matroska(folder: Path) -> Path:
    data = make_video(folder / "whole.mkv", stamps=range(60)).read_bytes()
    path = folder / "cut.mkv"
    path.write_bytes(data[: len(data) // 2])
    return path


def sound_only(folder: Path) -> Path:
    path = folder / "song.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16_000))
    return path


def sound_only_mp4(folder: Path) -> Path:
    path = folder / "song.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44_100, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        frame.rate = 44_100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def song_with_cover(folder: Path) -> Path:
    """The cover of a song is a video stream to FFmpeg."""
    path = folder / "cover.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        voice = container.add_stream("aac", rate=44_100, layout="stereo")
        cover = container.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 16, 16, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        frame.rate = 44_100
        container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")))
        container.mux(voice.encode(frame))
        container.mux(voice.encode(None))
    return path


def zero_frames(folder: Path) -> Path:
    path = folder / "zero.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.open()
        container.start_encoding()
    return path


def zero_frames_mp4(folder: Path) -> Path:
    path = folder / "zero.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    return path


def too_wide(folder: Path) -> Path:
    return make_video(folder / "wide.mkv", codec="ffv1", size=(16_000, 16), stamps=[0])


def folder_without_images(folder: Path) -> Path:
    (folder / "papers").mkdir()
    (folder / "papers" / "letter.txt").write_text("Dear reader")
    return folder / "papers"


def folder_of_two_sizes(folder: Path) -> Path:
    from PIL import Image

    (folder / "images").mkdir()
    for index, width in enumerate((32, 32, 40)):
        Image.new("RGB", (width, 24)).save(folder / "images" / f"{index}.png")
    return folder / "images"


def half_a_photo(folder: Path) -> Path:
    from PIL import Image

    path = folder / "photo.jpg"
    Image.fromarray(picture(3, 160, 120)).save(path, quality=95)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def folder_with_half_a_photo(folder: Path) -> Path:
    from PIL import Image

    (folder / "photos").mkdir()
    Image.fromarray(picture(3, 160, 120)).save(folder / "photos" / "1.jpg", quality=95)
    half_a_photo(folder).rename(folder / "photos" / "2.jpg")
    return folder / "photos"


def photo_in_tiles(folder: Path) -> Path:
    return make_tiled(folder / "telephone.heic", picture(3, 150, 100))


CORPUS: list[tuple[Callable[[Path], Path], str]] = [
    (nothing_there, "no file"),
    (empty_file, "is empty"),
    (text_named_mp4, "not a video"),
    (text, "not a video"),
    (noise_named_mp4, "not a video"),
    (noise_named_png, "not an image"),
    (lfs_pointer, "is a Git LFS pointer to 1,048,576 bytes"),
    (lfs_pointer_in_place_of_a_picture, "is a Git LFS pointer to 1,048,576 bytes"),
    (web_page, "is a web page"),
    (download_that_never_came, "nothing but zeros"),
    (archive_named_mp4, "not a video but a ZIP archive"),
    (header_only, "cut off"),
    (cut_before_index, "cut off"),
    (cut_after_index, "cut off"),
    (cut_matroska, "cut off"),
    (sound_only, "no video stream"),
    (sound_only_mp4, "no video stream"),
    (song_with_cover, "no video stream"),
    (zero_frames, "no frames"),
    (zero_frames_mp4, "no (frames|video stream)"),
    (too_wide, "16000x16"),
    (folder_without_images, "no images"),
    (folder_of_two_sizes, "40x24"),
    (half_a_photo, "is damaged"),
    (folder_with_half_a_photo, r"2\.jpg is damaged"),
    (photo_in_tiles, "made of tiles"),
]
"""Reading any of these is a `UserError` whose sentence holds the words beside it."""


def broken_in_the_middle(folder: Path) -> Path:
    """An MP4 that opens and has every packet, some of them overwritten from the middle on."""
    path = make_video(folder / "middle.mp4", stamps=range(40), options={"g": "5", "bf": "0"})
    with av.open(str(path)) as container:
        places = [(p.pos, p.size) for p in container.demux(video=0) if p.size and p.pos is not None]
    data = bytearray(path.read_bytes())
    for position, size in places[20:26]:
        data[position : position + size] = b"\xff" * size
    path.write_bytes(data)
    return path
