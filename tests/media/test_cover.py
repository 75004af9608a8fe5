"""Frames read at another size are those that whole frames would become, whatever the file; tars read as folders do."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from opensama.media.frames import cover, to_frames, to_pixels
from opensama.media.video_io import read_video
from tests.media.making import make_video, picture

FILES: dict[str, dict[str, Any]] = {
    "plain": {},
    "turned": {"turn": {"degrees": 90}},
    "mirrored": {"turn": {"degrees": 180, "hflip": True}},
    "ten bits": {"pixels": "yuv420p10le"},
    "BT.709, full": {"color": (1, 2, 1, 1)},
    "odd": {"pixels": "yuv444p", "size": (127, 95)},
}


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (33, 31), (200, 100)])
@pytest.mark.parametrize("name", FILES)
def test_cover_is_the_middle_of_the_whole_frame(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", stamps=range(3), **{"size": (128, 96), **FILES[name]})
    whole, small = read_video(path), read_video(path, cover=size)
    assert (small.width, small.height, small.timestamps) == (*size, whole.timestamps)
    depth = whole.bit_depth
    expected = to_frames(cover(to_pixels(whole.frames()), size[1], size[0]), bit_depth=depth)
    found = small.array()
    assert found.dtype == expected.dtype
    unit = 1 if depth == 8 else 257
    assert np.abs(found.astype(int) - expected.astype(int)).mean() < 1.5 * unit
    np.testing.assert_array_equal(np.stack(list(small.frames(2))), found[2:])


def test_images_are_covered_too(tmp_path: Path) -> None:
    clear = np.dstack([picture(3, 64, 48), np.full((48, 64), 255, np.uint8)])
    clear[:, :8, 3] = 0
    Image.fromarray(clear).save(tmp_path / "clear.png")
    (frame,) = read_video(tmp_path / "clear.png", cover=(32, 24)).frames()
    assert frame.shape == (24, 32, 3)
    assert frame[:, :3].min() > 250, "what is transparent is white"


def test_a_tar_is_read_as_a_folder_is(tmp_path: Path) -> None:
    make_video(tmp_path / "a.mp4", stamps=range(60), options={"g": "12"}, sound="aac")
    Image.fromarray(picture(3, 64, 48)).save(tmp_path / "b.png")
    (tmp_path / "none.mp4").touch()
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        for name in ("a.mp4", "b.png", "none.mp4"):
            tar.add(tmp_path / name, f"within/{name}")
    for name in ("a.mp4", "b.png"):
        beside, inside = read_video(tmp_path / name), read_video(tmp_path / "all.tar" / "within" / name)
        assert (inside.timestamps, inside.duration, inside.has_audio) == (
            beside.timestamps,
            beside.duration,
            beside.has_audio,
        )
        np.testing.assert_array_equal(inside.array(), beside.array())
    late = read_video(tmp_path / "all.tar/within/a.mp4").frames(55, 57)
    np.testing.assert_array_equal(np.stack(list(late)), read_video(tmp_path / "a.mp4").array()[55:57])
    with pytest.raises(ValueError, match="is empty"):
        read_video(tmp_path / "all.tar/within/none.mp4")
