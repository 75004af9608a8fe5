"""Every code of a pixel format is the colour that ITU-T H.273 says, and comes back as the same code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from opensama.media.video_io import read_video, write_video
from opensama.media.video_io.color import FromRGB
from opensama.media.video_io.matrix import KR_KB, Coding
from opensama.values import ColorInfo, Video
from tests.media.making import probe, silent

MATRICES = {"bt709": 1, "smpte170m": 6, "bt2020nc": 9}


def store(path: Path, pixels: str, planes: list[np.ndarray], codec: str = "ffv1", **context: Any) -> Path:
    """One frame of exactly these codes, `h w` each (of chroma's size in the chroma planes), without loss."""
    height, width = planes[0].shape
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=5, options={"qp": "0"} if codec == "libx264" else {})
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        for name, value in context.items():
            setattr(stream.codec_context, name, value)
        frame = av.VideoFrame(width, height, pixels)
        for plane, codes in zip(frame.planes, planes, strict=True):
            dtype = np.uint16 if "le" in pixels else np.uint8
            np.frombuffer(plane, dtype).reshape(plane.height, -1)[:, : codes.shape[1]] = codes  # type: ignore[call-overload]
        frame.pts = 0
        if "color_range" in context:
            frame.color_range = context["color_range"]
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def to_rgb(y: np.ndarray, cb: np.ndarray, cr: np.ndarray, matrix: str, full: bool, bits: int) -> np.ndarray:
    """The equations in double precision."""
    (kr, kb), step = KR_KB[matrix], 1 << bits - 8
    top, centre = (1 << bits) - 1, 128 * step
    luma = y / top if full else (y - 16 * step) / (219 * step)
    b, r = ((c - centre) / (top if full else 224 * step) for c in (cb, cr))
    red, blue = luma + 2 * (1 - kr) * r, luma + 2 * (1 - kb) * b
    return np.stack([red, (luma - kr * red - kb * blue) / (1 - kr - kb), blue], -1)


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le", "yuv444p12le"])
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", MATRICES)
def test_every_luma_code_is_its_grey(matrix: str, full: bool, pixels: str, tmp_path: Path) -> None:
    bits = 12 if "12" in pixels else 10 if "10" in pixels else 8
    y = np.tile(np.arange(1 << bits), (4, 1))
    chroma = np.full((2 if "420" in pixels else 4, (1 << bits) // (1 if "444" in pixels else 2)), 1 << bits - 1)
    named = {"colorspace": MATRICES[matrix], "color_range": 1 + full}
    (frame,) = read_video(store(tmp_path / "a.mkv", pixels, [y, chroma, chroma], **named)).frames()
    neutral = np.full_like(y, 1 << bits - 1)
    expected = np.clip(to_rgb(y, neutral, neutral, matrix, full, bits), 0, 1) * np.iinfo(frame.dtype).max
    assert np.abs(frame - expected).max() <= 1


@pytest.mark.parametrize("pixels", ["yuv444p", "yuv444p10le", "yuv444p12le"])
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", MATRICES)
def test_colours_are_the_equations(matrix: str, full: bool, pixels: str, tmp_path: Path) -> None:
    bits = 12 if "12" in pixels else 10 if "10" in pixels else 8
    planes = list(np.random.default_rng(0).integers(0, 1 << bits, (3, 64, 64)))
    named = {"colorspace": MATRICES[matrix], "color_range": 1 + full}
    (frame,) = read_video(store(tmp_path / "a.mkv", pixels, planes, **named)).frames()
    exact = to_rgb(*planes, matrix, full, bits)
    thinkable = (exact.min(-1) > -0.5) & (exact.max(-1) < 1.5)  # most codes are no colour at all
    wrong = np.abs(frame - np.iinfo(frame.dtype).max * np.clip(exact, 0, 1))[thinkable]
    assert len(wrong) > 1000
    assert wrong.max() <= 1


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv444p", "yuv420p10le", "yuv444p10le"])
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", MATRICES)
def test_every_grey_is_written_as_its_code(matrix: str, full: bool, pixels: str) -> None:
    bits = 10 if "10" in pixels else 8
    top = 65_535 if bits == 10 else 255
    grey = np.tile(np.rint(np.linspace(0, top, 1024)).astype(np.uint16 if bits == 10 else np.uint8), (4, 1))
    color = ColorInfo(matrix, "full" if full else "limited")
    frame = FromRGB(pixels, color, 1024, 4)(np.repeat(grey[..., None], 3, 2))
    dtype = np.uint16 if bits == 10 else np.uint8
    y, cb, cr = (np.frombuffer(p, dtype).reshape(p.height, -1)[:, : p.width] for p in frame.planes)  # type: ignore[call-overload]
    black, white = Coding(matrix, full, bits).luma
    assert np.abs(y - (black + white * (grey / top))).max() < 0.52
    assert set(np.unique(cb)) == set(np.unique(cr)) == {1 << bits - 1}


@pytest.mark.parametrize("bits", [8, 10, 12])
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", KR_KB)
def test_legal_codes_come_back(matrix: str, full: bool, bits: int) -> None:
    """Through RGB of 16 bits and back: every code of grey, and of colours that RGB holds."""
    coding = Coding(matrix, full, bits)
    black, white = coding.luma
    y = np.arange(black, black + white + 1).astype(np.uint16)[None]
    neutral = np.full_like(y, 1 << bits - 1)
    colours = np.random.default_rng(0).integers(6_000, 60_000, (60, 70, 3)).astype(np.uint16)
    for codes in ((y, neutral, neutral), coding.of_rgb(colours)):
        back = coding.of_rgb(coding.to_rgb(*codes))
        assert [np.array_equal(a, b) for a, b in zip(back, codes, strict=True)] == [True] * 3


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
def test_white_of_a_model_is_legal_white(full: bool, tmp_path: Path) -> None:
    frames = np.full((4, 64, 64, 3), 65_535, np.uint16)
    video = Video.from_frames(frames, 10)
    video = replace(video, color=ColorInfo(range="full" if full else "limited"))
    write_video(video, tmp_path / "white.mp4", on_note=silent)
    with av.open(str(tmp_path / "white.mp4")) as container:
        luma = np.frombuffer(next(container.decode(video=0)).planes[0], np.uint16)  # type: ignore[call-overload]
    assert set(luma) == {1023 if full else 940}
    again = read_video(tmp_path / "white.mp4")
    assert again.bit_depth == 10
    assert again.array().min() == 65_535


@pytest.mark.parametrize(
    ("pixels", "codec", "named", "full"),
    [
        ("gray", "libx264", 1, False),
        ("gray", "libx264", 2, True),
        ("gray", "libx264", 0, False),
        ("gray10le", "libx264", 1, False),
        ("gray10le", "libx264", 2, True),
        ("gray10le", "libx264", 0, False),
        ("gray", "ffv1", 1, False),
        ("gray", "ffv1", 0, True),
        ("gray10le", "ffv1", 1, False),
        ("gray12le", "ffv1", 2, True),
        ("gray16le", "ffv1", 0, True),
    ],
)
def test_grey_has_a_range_too(pixels: str, codec: str, named: int, full: bool, tmp_path: Path) -> None:
    bits = int(pixels.removeprefix("gray").removesuffix("le") or 8)
    count = 1 << min(bits, 12)
    y = np.tile(np.arange(count) << bits - min(bits, 12), (16, 1))
    video = read_video(store(tmp_path / "grey.mkv", pixels, [y], codec, color_range=named))
    (frame,) = video.frames()
    assert video.bit_depth == bits
    top = np.iinfo(frame.dtype).max
    step = 1 << bits - 8
    expected = np.clip(y / ((1 << bits) - 1) if full else (y - 16 * step) / (219 * step), 0, 1) * top
    assert np.abs(frame - expected[..., None]).max() <= 1
    small = next(read_video(tmp_path / "grey.mkv", cover=(count // 2, 8)).frames())
    half = (expected[::2, ::2] + expected[::2, 1::2]) / 2
    inside = np.flatnonzero((half[0] > top / 50) & (half[0] < top * 0.98))[8:-8]
    assert np.abs(small[:, inside, 0] - half[:, inside]).max() <= 2 * top / count + 1
    write_video(video, tmp_path / "out.mp4", quality=100, on_note=silent)
    if codec == "ffv1":  # FFmpeg decodes grey H.264 as 4:2:0, whose names stay as they are
        assert probe(tmp_path / "out.mp4")["color"] == (1, 1, 1, 1)
    back = next(read_video(tmp_path / "out.mp4").frames())
    assert np.abs(back.astype(int) - frame).mean() < top / 150
