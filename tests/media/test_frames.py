"""Frames for models and for people: types, sizes, lengths, and pictures of many."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from opensama.media.frames import (
    contact_sheet,
    cover,
    crop_middle,
    evenly_spaced,
    picked,
    resize,
    resize_frame,
    side_by_side,
    to_frames,
    to_pixels,
)
from opensama.media.video_io import read_video
from opensama.media.video_io.color import ToRGB
from opensama.values import UserError, Video
from tests.media.making import picture


@pytest.mark.parametrize(("dtype", "depth"), [(np.uint8, 8), (np.uint16, 10)])
def test_pixels_and_back(dtype: type, depth: int) -> None:
    frames = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (3, 4, 6, 3), endpoint=True).astype(dtype)
    frames[0, 0, 0] = 0
    frames[0, 0, 1] = np.iinfo(dtype).max
    pixels = to_pixels(frames)
    assert pixels.shape == (1, 3, 3, 4, 6)
    assert pixels.dtype == torch.float32
    assert (pixels.min(), pixels.max()) == (-1, 1)
    assert np.array_equal(to_frames(pixels, bit_depth=depth), frames)
    assert to_frames(pixels * 2)[0, 0, 1].tolist() == [255, 255, 255]  # what is outside is clamped
    with pytest.raises(ValueError, match="pixels are"):
        to_frames(pixels[0])


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20), st.integers(1, 20))
def test_sizes(h: int, w: int, height: int, width: int) -> None:
    flat = torch.full((1, 3, 2, h, w), 0.25)
    for made in (resize(flat, height, width), cover(flat, height, width)):
        assert made.shape == (1, 3, 2, height, width)
        assert torch.allclose(made, torch.tensor(0.25), atol=1e-5)


def test_resize_keeps_places_and_crop_the_middle() -> None:
    pixels = to_pixels([picture(0, 64, 48)])
    back = resize(resize(pixels, 96, 128), 48, 64)
    assert float((back - pixels).abs().mean()) < 0.02
    assert resize(pixels, 48, 64) is pixels
    assert torch.equal(crop_middle(pixels, 46, 60), pixels[..., 1:47, 2:62])
    with pytest.raises(ValueError, match="cannot cut"):
        crop_middle(pixels, 49, 10)


def test_compare_is_source_left_result_right() -> None:
    source = Video.from_frames([picture(index, 64, 48) for index in range(5)], 10)
    source = replace(source, has_audio=True, path=Path("a.mp4"))
    result = Video.from_frames([np.full((24, 16, 3), 60 * index, np.uint8) for index in range(3)], 10)
    both = side_by_side(source, result)
    assert (both.width, both.height, both.frame_count, both.has_audio) == (64 + 32, 48, 5, True)
    for index, frame in enumerate(both.frames()):
        assert np.array_equal(frame[:, :64], picture(index, 64, 48))
        assert np.array_equal(frame[:, 64:], np.full((48, 32, 3), 60 * min(index, 2), np.uint8))
    assert np.array_equal(next(both.frames(4)), both.array()[4])
    deep = side_by_side(source, Video.from_frames(np.full((5, 48, 64, 3), 65_535, np.uint16), 10))
    assert deep.bit_depth == 10
    assert np.array_equal(next(deep.frames())[:, :64], picture(0, 64, 48).astype(np.uint16) * 257)


def test_only_frames_that_are_wanted_are_turned_into_rgb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Video.from_frames([picture(index, 64, 48) for index in range(12)], 8).save(tmp_path / "a.mp4")
    video, turned = read_video(tmp_path / "a.mp4"), []
    convert = ToRGB.__call__
    monkeypatch.setattr(ToRGB, "__call__", lambda self, frame: turned.append(frame) or convert(self, frame))
    found = list(picked(video, [1, 4, 9]))
    assert len(turned) == 3
    assert np.array_equal(found, video.array()[[1, 4, 9]])
    assert np.array_equal(list(picked(video.clip(1), [0, 3, 8])), found)
    with pytest.raises(UserError, match="lie outside the video"):
        list(picked(video, [1, 4, 12]))


def test_contact_sheet() -> None:
    frames = [np.full((10, 20, 3), index, np.uint8) for index in range(5)]
    sheet = contact_sheet(frames, columns=2, gap=4)
    assert sheet.shape == (3 * 14 - 4, 2 * 24 - 4, 3)
    assert (sheet[14:24, 24:44] == 3).all()
    assert (sheet[28:38, 24:44] == 255).all()
    assert contact_sheet(frames[:1]).shape == (10, 20, 3)
    assert contact_sheet([frames[0].astype(np.uint16) + np.uint16(65_535)]).max() == 255
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([])


def test_spread_and_resize_frame() -> None:
    assert evenly_spaced(10, 4) == [0, 3, 6, 9]
    assert evenly_spaced(3, 9) == [0, 1, 2]
    assert evenly_spaced(7, 1) == [0]
    assert resize_frame(picture(0, 64, 48), 24, 32).shape == (24, 32, 3)
    deep = resize_frame(np.full((4, 4, 3), 40_000, np.uint16), 8, 8)
    assert deep.dtype == np.uint16
    assert np.abs(deep.astype(int) - 40_000).max() <= 1
