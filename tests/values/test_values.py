"""The values check themselves, compute, and cost nothing to import."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opensama.values import (
    Cancelled,
    ColorInfo,
    EditRequest,
    Progress,
    UserError,
    Video,
    frames_down,
    frames_up,
)


def frames(count: int = 5, height: int = 4, width: int = 6) -> np.ndarray:
    return np.arange(count, dtype=np.uint8)[:, None, None, None] + np.zeros((count, height, width, 3), np.uint8)


def at_times(timestamps: tuple[int, ...], duration: Fraction) -> Video:
    """Five frames with sound, at those tenths of a second."""
    video = replace(Video.from_frames(frames(), 10), timestamps=timestamps, duration=duration)
    return replace(video, has_audio=True, path=Path("a.mp4"))


def test_importing_costs_nothing() -> None:
    code = "import sys, opensama.values; print([m for m in ('numpy', 'torch', 'av', 'PIL') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@given(st.integers(1, 10_000), st.sampled_from([1, 2, 4, 8]))
def test_frames_up_and_down(count: int, temporal: int) -> None:
    up, down = frames_up(count, temporal), frames_down(count, temporal)
    assert down <= count <= up < count + temporal
    assert (up - 1) % temporal == (down - 1) % temporal == 0


def test_a_video_in_memory() -> None:
    video = Video.from_frames(frames(), 29.97)
    assert (video.width, video.height, video.frame_count, video.shape) == (6, 4, 5, (5, 4, 6))
    assert video.fps == Fraction(2997, 100)
    assert video.duration == 5 / video.fps
    assert video.durations == (1,) * 5
    assert video.is_constant_rate
    assert [int(frame[0, 0, 0]) for frame in video.frames(1, 4)] == [1, 2, 3]
    assert np.array_equal(video.array(), frames())
    assert (video.bit_depth, video.has_audio, video.path) == (8, False, None)
    assert Video.from_frames(frames().astype(np.uint16), 24).bit_depth == 10
    assert "5 frames" in repr(video)


def test_fps_of_television() -> None:
    assert Video.from_frames(frames(), np.float32(24)).fps == 24
    assert Video.from_frames(frames(), 0.001).fps == Fraction(1, 1000)
    assert Video.from_frames(frames(), 30_000 / 1001).fps == Fraction(30_000, 1001)


@pytest.mark.parametrize(
    ("given_frames", "fps", "words"),
    [
        ([], 24, "at least one frame"),
        (frames(), 0, "frame rate"),
        (frames(), 0.0001, "frame rate"),
        (frames(), float("nan"), "frame rate"),
        (frames(), float("inf"), "frame rate"),
        (frames()[..., :1], 24, "Frame 0"),
        ([frames()[0], frames(1, 8, 8)[0]], 24, "Frame 1"),
        (frames().astype(np.float32), 24, "uint8 or uint16"),
    ],
)
def test_frames_that_make_no_video(given_frames: Any, fps: float, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Video.from_frames(given_frames, fps)


def test_times_must_make_sense() -> None:
    video = Video.from_frames(frames(), 10)
    with pytest.raises(UserError, match="no frames"):
        replace(video, timestamps=())
    with pytest.raises(ValueError, match="rise"):
        replace(video, timestamps=(0, 2, 2, 3, 4))
    with pytest.raises(ValueError, match="last frame"):
        replace(video, duration=Fraction(4, 10))


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (0, 6), (6, 6)])
def test_ranges_outside(start: int, stop: int) -> None:
    with pytest.raises(UserError, match="0:5"):
        Video.from_frames(frames(), 10).frames(start, stop)


def test_with_frames_keeps_time_and_sound() -> None:
    video = at_times((2, 3, 5, 6, 9), Fraction(8, 10))

    def doubled(start: int, stop: int) -> Iterator[np.ndarray]:
        for frame in video.frames(start, stop):
            yield frame.repeat(2, axis=1)

    wider = video.with_frames(doubled, width=12)
    assert (wider.width, wider.height, wider.timestamps) == (12, 4, video.timestamps)
    assert (wider.has_audio, wider.path, wider.duration) == (True, Path("a.mp4"), video.duration)
    assert wider.array(2, 4).shape == (2, 4, 12, 3)
    with pytest.raises(ValueError, match="shape"):
        list(video.with_frames(doubled).frames())
    with pytest.raises(ValueError, match="gave 3"):
        list(video.with_frames(lambda a, b: iter(frames(3))).frames())
    # A source that goes on too long is stopped, one that is not asked is not called.
    assert len(list(video.with_frames(lambda a, b: iter(frames(9))).frames(1, 3))) == 2
    assert not list(video.with_frames(lambda a, b: iter([])).frames(2, 2))


def test_clip() -> None:
    video = at_times((2, 3, 5, 6, 7), Fraction(8, 10))
    clip = video.clip(1, 4)
    assert clip.timestamps == (0, 2, 3)
    assert (clip.duration, clip.durations) == (Fraction(4, 10), (2, 1, 1))
    assert not clip.has_audio
    assert [int(frame[0, 0, 0]) for frame in clip.frames(1)] == [2, 3]
    assert video.clip(4).duration == Fraction(3, 10)
    with pytest.raises(UserError, match="0:5"):
        video.clip(3, 3)


def test_untagged_colours_are_what_players_assume() -> None:
    untagged = ColorInfo("unspecified", "unspecified", "unspecified", "unspecified")
    assert untagged.matrix_for(640, 480) == "smpte170m"
    assert untagged.matrix_for(1280, 720) == untagged.matrix_for(720, 1280) == "bt709"
    assert replace(untagged, transfer="smpte2084").matrix_for(640, 480) == "bt2020nc"
    assert ColorInfo("bt470bg").matrix_for(1920, 1080) == "bt470bg"


def test_progress() -> None:
    assert Progress("denoise", 2, 10).fraction == 0.2
    assert not issubclass(Cancelled, UserError)


def test_a_request_checks_itself() -> None:
    request = EditRequest("a.mp4", "Turn into watercolor style.", frames=(1, 3), size=128, box=(0, 0, 2, 2), guidance=5)
    assert request.frame_range(Video.from_frames(frames(), 10)) == (1, 3)
    assert EditRequest("a.mp4", "x").frame_range(Video.from_frames(frames(), 10)) == (0, 5)
    with pytest.raises(UserError, match="0:2"):
        request.frame_range(Video.from_frames(frames(2), 10))


def test_numpys_numbers_are_numbers() -> None:
    box = tuple(np.array([0, 0, 2, 2]))
    EditRequest("a.mp4", "x", seed=np.int64(3), guidance=np.float32(2), box=box, frames=tuple(np.arange(2)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"video": ""}, "missing"),
        ({"video": None}, "missing"),
        ({"instruction": ""}, "empty"),
        ({"instruction": " \n"}, "empty"),
        ({"instruction": "a" * 10_000}, "10,000 characters"),
        ({"seed": -1}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"steps": 0}, "steps"),
        ({"steps": True}, "steps"),
        ({"guidance": float("nan")}, "guidance"),
        ({"guidance": -1.0}, "guidance"),
        ({"source_guidance": float("inf")}, "source guidance"),
        ({"shift": 0.0}, "shift"),
        ({"size": 8}, "size"),
        ({"negative_prompt": "a" * 10_000}, "negative prompt"),
        ({"frames": (3, 3)}, "3:3"),
        ({"frames": (-1, 3)}, "-1:3"),
        ({"box": (0, 0, 0, 5)}, "box"),
        ({"box": (-1, 0, 5, 5)}, "box"),
        ({"box": (0, 0, 5, 5), "mask": "mask.png"}, "choose one"),
        ({"mask": np.zeros((2, 2, 2, 2))}, r"float64 \(2, 2, 2, 2\)"),
        ({"mask": np.zeros((0, 2))}, r"\(0, 2\)"),
        ({"mask": np.array([["white"]])}, "numbers or bools"),
        ({"mask": [[0, 1]]}, "not a list"),
        ({"box": (1, 2, 3)}, "x, y, width, height"),
        ({"box": (0, 0, 2.5, 5)}, "whole numbers"),
        ({"box": "0,0,5,5"}, "whole numbers"),
        ({"frames": (1,)}, "start, stop"),
        ({"frames": 5}, "whole numbers"),
        ({"negative_prompt": 5}, "text"),
    ],
)
def test_wrong_requests(wrong: dict[str, Any], words: str) -> None:
    fields: dict[str, Any] = {"video": "a.mp4", "instruction": "Make it red."} | wrong
    with pytest.raises(UserError, match=words) as caught:
        EditRequest(**fields)
    assert str(caught.value).endswith(".")


def test_a_stretch_of_seconds_is_frames():
    video = Video.from_frames(frames(10), 10)
    assert video.frame_range() == video.frame_range(None, 99.0) == (0, 10)
    assert video.frame_range(0.4) == (4, 10)
    assert video.frame_range(0.4000001, 0.7) == video.frame_range(0.36, 0.74) == (4, 7)
    assert video.frame_range(99.0, 100.0) == (9, 10), "at least one"
    assert video.frame_range(0.4, 0.4) == (4, 5)
    cinema, ntsc = (Video.from_frames(frames(96), rate) for rate in (24, Fraction(30000, 1001)))
    assert cinema.frame_range(0.542, 1.083) == (13, 26), "0.5416 and 1.0833 s, rounded to milliseconds"
    assert ntsc.frame_range(0.567, 1.134) == (17, 34), "0.56723 and 1.13447 s"


@given(st.data())
def test_rounded_times_name_the_frames_that_they_were_made_from(data):
    """At any rate, also a varying one, wherever the clock begins, rounded to milliseconds or to single precision."""
    base = data.draw(st.sampled_from([Fraction(1, 1000), Fraction(1, 24), Fraction(1001, 30000), Fraction(1, 90000)]))
    steps = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=40))
    unit = max(1, round(Fraction(1, 200) / base))  # no frame is shorter than five milliseconds
    edges = [data.draw(st.integers(0, 3)) * unit]
    for step in steps:
        edges.append(edges[-1] + step * unit)
    video = replace(
        Video.from_frames(frames(len(steps)), 1),
        timestamps=tuple(edges[:-1]),
        time_base=base,
        duration=(edges[-1] - edges[0]) * base,
    )
    first = data.draw(st.integers(0, len(steps) - 1))
    stop = data.draw(st.integers(first + 1, len(steps)))
    for name in (lambda x: x, lambda x: round(x, 3), np.float32):
        assert video.frame_range(*(float(name(float(edges[i] * base))) for i in (first, stop))) == (first, stop)
