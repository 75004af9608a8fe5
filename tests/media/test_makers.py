"""What another maker (the `ffmpeg` program) writes in many pixel formats is read as the picture that went in."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from opensama.media.video_io import read_video
from tests.media.making import picture

SIZE = (96, 64)
OPAQUE = [
    (
        "x264-422-10.mp4",
        "-vf scale=out_color_matrix=bt709:out_range=tv -colorspace bt709 -c:v libx264 -crf 5 -pix_fmt yuv422p10le",
    ),
    ("x264-444.mp4", "-c:v libx264 -crf 5 -pix_fmt yuv444p"),
    ("x265-422-12.mp4", "-c:v libx265 -x265-params log-level=none:crf=5 -pix_fmt yuv422p12le"),
    ("x265-gbrp10.mp4", "-c:v libx265 -x265-params log-level=none:crf=5 -pix_fmt gbrp10le"),
    ("x265-gray12.mp4", "-c:v libx265 -x265-params log-level=none:crf=5 -pix_fmt gray12le"),
    ("vp9-440.webm", "-c:v libvpx-vp9 -crf 5 -b:v 0 -pix_fmt yuv440p"),
    ("mjpeg.avi", "-c:v mjpeg -q:v 2 -pix_fmt yuvj422p"),
    ("mjpeg-tv.avi", "-c:v mjpeg -q:v 2 -strict -1 -pix_fmt yuv420p -color_range tv"),
    ("ffv1-420-9.mkv", "-c:v ffv1 -pix_fmt yuv420p9le"),
    ("v210.mov", "-c:v v210"),
    ("cfhdrgb.mov", "-c:v cfhd -pix_fmt gbrp12le"),
    ("bt2020-8.mp4", "-vf scale=out_color_matrix=bt2020 -colorspace bt2020nc -c:v libx264 -crf 5 -pix_fmt yuv420p"),
    ("full10.mp4", "-vf scale=out_range=pc -color_range pc -c:v libx264 -crf 5 -pix_fmt yuv420p10le"),
    ("pnggray16.mov", "-c:v png -pix_fmt gray16be"),
    ("dpx.mkv", "-c:v dpx -pix_fmt gbrp10le"),
]
CLEAR = [
    ("apng.apng", "-plays 0"),
    ("magica.avi", "-c:v magicyuv -pix_fmt yuva444p"),
    ("ffv1yuva422.mkv", "-c:v ffv1 -pix_fmt yuva422p10le"),
    ("pngya8.mov", "-c:v png -pix_fmt ya8"),
    ("pngya16.mov", "-c:v png -pix_fmt ya16be"),
    ("cfhda.mov", "-c:v cfhd -pix_fmt gbrap12le"),
    ("targa.mov", "-c:v targa -pix_fmt bgra"),
]
GREY = np.array([0.299, 0.587, 0.114])


def make(path: Path, arguments: str, frames: list[np.ndarray]) -> None:
    program = shutil.which("ffmpeg")
    if program is None:
        assert not os.environ.get("CI"), "CI installs ffmpeg"
        pytest.skip("the ffmpeg program is not here")
    pixels = "rgb24" if frames[0].shape[2] == 3 else "rgba"
    given = ["-f", "rawvideo", "-s", f"{SIZE[0]}x{SIZE[1]}", "-r", "10", "-pix_fmt", pixels, "-i", "-"]
    command = [program, "-v", "error", *given, *arguments.split(), str(path)]
    subprocess.run(command, input=b"".join(frame.tobytes() for frame in frames), check=True, capture_output=True)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "arguments"), OPAQUE, ids=[name for name, _ in OPAQUE])
def test_the_picture_is_the_one_that_went_in(
    name: str, arguments: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    frames = [picture(index, *SIZE) for index in range(5)]
    make(tmp_path / name, arguments, frames)
    video = read_video(tmp_path / name)
    assert video.frame_count == 5
    for frame, wanted in zip(video.frames(), frames, strict=True):
        expected = (wanted @ GREY)[..., None] if "gray" in name else wanted
        assert np.abs(frame / (257 if frame.dtype == np.uint16 else 1) - expected).mean() < 1.2


@pytest.mark.slow
@pytest.mark.parametrize(("name", "arguments"), CLEAR, ids=[name for name, _ in CLEAR])
def test_the_clear_picture_is_on_white(
    name: str, arguments: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    share = np.where(np.arange(SIZE[0]) < 48, 255, np.where(np.arange(SIZE[0]) < 72, 128, 0)).astype(np.uint8)
    frames = [np.dstack([picture(index, *SIZE), np.tile(share, (SIZE[1], 1))]) for index in range(5)]
    make(tmp_path / name, arguments, frames)
    video = read_video(tmp_path / name)
    assert video.transparency is not None
    assert video.transparency.any(video.frame_count)
    for frame, wanted in zip(video.frames(), frames, strict=False):
        colors = (wanted[..., :3] @ GREY)[..., None] if "ya" in name and name.startswith("png") else wanted[..., :3]
        expected = (colors * (share / 255.0)[:, None]) + 255 * (1 - share / 255.0)[:, None]
        assert np.abs(frame / (257 if frame.dtype == np.uint16 else 1) - expected).mean() < 1.2
