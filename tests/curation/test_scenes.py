"""Cuts where they are and nowhere else; times that name frames exactly."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from opensama.curation.scenes import Cuts, scenes, seconds_of
from opensama.curation.stage import Drop
from opensama.media.frames import frames_for
from opensama.media.video_io import read_video, write_video
from opensama.values import UserError, Video
from tests import footage
from tests.curation import shots

REAL = Path(__file__).parents[2].parent / "shared" / "clips"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the real clips (../shared/clips) are not here")


def item(path: Path) -> dict[str, object]:
    return {"id": path.name, "target": path.name, "kind": "clip", "scores": {}, "notes": {}, "_path": str(path)}


def find_cuts(frames: Iterable[np.ndarray]) -> list[int]:
    cuts = Cuts()
    for frame in frames:
        cuts.add(frame)
    return cuts.starts


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[np.ndarray]]:
    parts = [shots.shot(seed, frames) for seed, frames in ((1, 40), (2, 33), (5, 50), (7, 24))]
    return shots.write(tmp_path_factory.mktemp("film") / "film.mp4", parts), parts


def test_cuts_are_where_the_shots_meet(film: tuple[Path, list[np.ndarray]]) -> None:
    assert find_cuts(np.concatenate(film[1])) == shots.cut_points(film[1])
    for part in film[1]:
        assert find_cuts(part) == [0]


def test_an_unsteady_hand_and_noise_are_no_cuts() -> None:
    parts = [footage.shot(seed, frames, (96, 160)) for seed, frames in ((1, 20), (3, 17), (2, 20))]
    assert find_cuts(np.concatenate(parts)) == shots.cut_points(parts)


@real
def test_cuts_between_real_shots() -> None:
    """Seven real clips one behind the other: each cut is found, none is where there is none."""
    names = ("boat", "boy", "brown-hat", "cows", "football", "snow", "swan")
    parts = [list(read_video(REAL / f"{name}--source.mp4", cover=(256, 144)).frames()) for name in names]
    expected = np.cumsum([0, *(len(part) for part in parts)])[:-1].tolist()
    assert find_cuts(frame for part in parts for frame in part) == expected


def test_scenes_name_their_frames(film: tuple[Path, list[np.ndarray]]) -> None:
    path, parts = film
    found = scenes(item(path), frames=17)
    assert [scene["frames"] for scene in found] == [len(part) for part in parts]
    assert [scene["id"] for scene in found] == [f"film.mp4/{number}" for number in range(4)]
    assert all(scene["scores"]["motion"] > 0 for scene in found)
    video = read_video(path)
    for scene, part in zip(found, parts, strict=True):
        start, end = scene["target_start"], scene["target_end"]
        first, *_, last = frames_for(video, len(part), 256, start=start, end=end)
        assert len(frames_for(video, 1000, 256, start=start, end=end)) == len(part)
        assert np.abs(first.astype(int) - part[0]).mean() < 6
        assert np.abs(last.astype(int) - part[-1]).mean() < 6


def test_a_picture_that_stands_still_has_no_motion(tmp_path: Path) -> None:
    still = np.repeat(shots.shot(3, 1), 30, 0)
    (scene,) = scenes(item(shots.write(tmp_path / "still.mp4", [still])), frames=9)
    assert scene["scores"]["motion"] < 0.001


def test_a_video_of_one_frame_has_no_scene(tmp_path: Path) -> None:
    with pytest.raises(Drop):
        scenes(item(shots.write(tmp_path / "one.mp4", [shots.shot(3, 1)])), frames=9)


def test_an_unreadable_video_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(UserError, match="0 bytes"):
        scenes(item(tmp_path / "empty.mp4"), frames=9)


def test_the_times_of_a_video_of_uneven_frames(tmp_path: Path) -> None:
    even = Video.from_frames(shots.shot(1, 6), fps=10)
    uneven = Video(even.width, even.height, (0, 1, 3, 4, 8, 9), even.time_base, Fraction(1), even.source)
    write_video(uneven, tmp_path / "uneven.mp4")
    video = read_video(tmp_path / "uneven.mp4")
    assert seconds_of(video) == pytest.approx([0, 0.1, 0.3, 0.4, 0.8, 0.9, 1.0])
