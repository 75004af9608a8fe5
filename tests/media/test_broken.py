"""Every broken file is one clear sentence, and a broken frame is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from opensama.media.video_io import read_video, write_video
from opensama.values import UserError
from tests.media.broken import CORPUS, broken_in_the_middle


@pytest.mark.parametrize(("make", "words"), CORPUS, ids=[make.__name__ for make, _ in CORPUS])
def test_reading_it_is_one_sentence(make: Callable[[Path], Path], words: str, tmp_path: Path) -> None:
    path = make(tmp_path)
    with pytest.raises(UserError, match=words) as caught:
        read_video(path)
    said = str(caught.value)
    assert path.name in said
    assert said.endswith(".")
    assert "\n" not in said


def test_a_broken_frame_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    video = read_video(broken_in_the_middle(tmp_path))
    assert video.frame_count == 40
    assert sum(1 for _ in video.frames(0, 20)) == 20
    with pytest.raises(UserError, match=r"frame 2[0-9] cannot be decoded"):
        list(video.frames())
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match="cannot be decoded"):
        write_video(video, tmp_path / "out.mp4")
    assert sorted(tmp_path.iterdir()) == before
