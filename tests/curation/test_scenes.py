"""Cuts where they are and nowhere else; times that name frames exactly; small frames that are the video's own."""

from __future__ import annotations

import json
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from opensama.curation.scenes import Cuts, frame_clock, frame_time, scenes, seconds_of
from opensama.curation.stage import Drop
from opensama.media.frames import resize_frame
from opensama.media.video_io import read_video, write_video
from opensama.media.video_io.small import small_frames
from opensama.values import UserError, Video
from opensama.vlm import frames_for
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
    parts = [list(small_frames(read_video(REAL / f"{name}--source.mp4"), 256)) for name in names]
    parts = [[resize_frame(frame, 144, 256) for frame in part] for part in parts]
    expected = np.cumsum([0, *(len(part) for part in parts)])[:-1].tolist()
    assert find_cuts(frame for part in parts for frame in part) == expected


def test_scenes_name_their_frames(film: tuple[Path, list[np.ndarray]]) -> None:
    path, parts = film
    found = scenes(item(path))
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
    (scene,) = scenes(item(shots.write(tmp_path / "still.mp4", [still])))
    assert scene["scores"]["motion"] < 0.001


def test_a_video_of_one_frame_has_no_scene(tmp_path: Path) -> None:
    with pytest.raises(Drop):
        scenes(item(shots.write(tmp_path / "one.mp4", [shots.shot(3, 1)])))


def test_an_unreadable_video_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(UserError, match="0 bytes"):
        scenes(item(tmp_path / "empty.mp4"))


@pytest.mark.parametrize("fps", [Fraction(24), Fraction(30000, 1001), Fraction(25, 2)])
def test_the_clock_keeps_every_bit(fps: Fraction, tmp_path: Path) -> None:
    video = read_video(shots.write(tmp_path / "a.mp4", [shots.shot(1, 20)], fps))
    times = seconds_of(video)
    clock = json.loads(json.dumps(frame_clock(video, 5, 20)))
    assert [frame_time(clock, frame) for frame in range(16)] == times[5:21]


def test_the_clock_of_a_video_of_uneven_frames(tmp_path: Path) -> None:
    even = Video.from_frames(shots.shot(1, 6), fps=10)
    uneven = Video(even.width, even.height, (0, 1, 3, 4, 8, 9), even.time_base, Fraction(1), even.source)
    write_video(uneven, tmp_path / "uneven.mp4")
    video = read_video(tmp_path / "uneven.mp4")
    assert [frame_time(frame_clock(video, 1, 6), frame) for frame in range(6)] == seconds_of(video)[1:]
    assert seconds_of(video) == pytest.approx([0, 0.1, 0.3, 0.4, 0.8, 0.9, 1.0])


def test_small_frames_are_the_videos_own(film: tuple[Path, list[np.ndarray]]) -> None:
    video = read_video(film[0])
    small = list(small_frames(video, 128))
    assert len(small) == video.frame_count
    assert small[0].shape == (72, 128, 3)
    for quick, whole in list(zip(small, video.frames(), strict=True))[::20]:
        assert np.abs(quick.astype(int) - resize_frame(whole, 72, 128)).mean() < 6


def test_small_frames_of_frames_in_memory() -> None:
    part = shots.shot(1, 3)
    small = list(small_frames(Video.from_frames(part, fps=24), 128))
    assert [frame.shape for frame in small] == [(72, 128, 3)] * 3
    assert np.abs(small[1].astype(int) - resize_frame(part[1], 72, 128)).mean() < 6
