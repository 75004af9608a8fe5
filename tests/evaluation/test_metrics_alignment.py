"""Sizes, lengths, rates and shapes that differ; memory that does not grow; the command."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from opensama.apps.cli import main
from opensama.evaluation.metrics import METRICS, align, measure_edit, measure_with_controls
from opensama.evaluation.metrics.alignment import pair_numbers
from opensama.media import write_video
from opensama.values import UserError, Video
from opensama.world import sample_edit

cv2 = pytest.importorskip("cv2")


@cache
def edit() -> tuple[np.ndarray, np.ndarray]:
    one = sample_edit(1, "test", "recolor", frames=9, size=(120, 180))
    return one.source, one.target


def video(frames: np.ndarray, fps: Fraction | float = 16) -> Video:
    return Video.from_frames(frames, fps=fps)


def scaled(frames: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.stack([cv2.resize(frame, (width, height), interpolation=cv2.INTER_CUBIC) for frame in frames])


# --- time


@settings(max_examples=60, deadline=None)
@example(4, 5, 30, 24)  # as many until the end of the shorter one, not as many in all
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([8, 16, 24, 25, 30]), st.sampled_from([12, 16, 24, 60]))
def test_frames_are_paired_with_what_shows_their_time(few: int, many: int, rate: int, other: int) -> None:
    picture = np.zeros((1, 8, 8, 3), np.uint8)
    one, two = video(np.repeat(picture, few, 0), rate), video(np.repeat(picture, many, 0), other)
    pairs, how = pair_numbers(one, two)
    assert pairs[0] == (0, 0)
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(pairs))
    if few == many:
        assert how == "number"
        assert len(pairs) == few
    else:
        assert how == "time"
        assert len(pairs) <= min(few, many)
        assert all(abs(a / rate - b / other) <= 1 / min(rate, other) for a, b in pairs)
        assert [(b, a) for a, b in pairs] == list(pair_numbers(two, one)[0])


def test_an_edit_at_half_the_rate_is_measured_by_time() -> None:
    source, target = edit()
    whole = measure_edit(video(source[::2], 8), video(target[::2], 8))
    half = measure_with_controls(video(source, 16), video(target[::2], 8))
    assert half.alignment.paired == "time"
    assert half.alignment.numbers == tuple((2 * i, i) for i in range(5))
    assert half.values == whole
    assert measure_with_controls(video(source[::2], 8), video(target, 16)).alignment.numbers == tuple(
        (i, 2 * i) for i in range(5)
    )


def test_the_same_frames_at_another_rate_are_paired_by_number() -> None:
    source, target = edit()
    assert measure_edit(video(source, 24), video(target, 16)) == measure_edit(video(source), video(target))


def test_what_is_left_over_is_told() -> None:
    source, target = edit()
    found = measure_with_controls(video(source), video(target[:6]))
    assert len(found.alignment) == 6
    assert found.alignment.left_over == pytest.approx(1 / 3)
    assert "33 % of the longer video left over" in found.alignment.describe()
    assert found.values == measure_edit(video(source[:6]), video(target[:6]))


def test_time_stamps_that_are_not_even_are_kept_to() -> None:
    source, _ = edit()
    uneven = replace(video(source), timestamps=(0, 1, 2, 3, 4, 8, 12, 14, 16), duration=Fraction(17, 16))
    pairs, how = pair_numbers(uneven, video(np.repeat(source[:1], 17, 0)))
    assert how == "time"
    assert pairs == tuple(enumerate(uneven.timestamps))


# --- place


@pytest.mark.parametrize("size", [(360, 240), (270, 180), (90, 60)])
def test_other_sizes_are_laid_on_the_source(size: tuple[int, int]) -> None:
    source, _ = edit()
    found = measure_with_controls(video(source), video(scaled(source, *size)))
    assert found.alignment.fit == "whole"
    assert found.alignment.size == (180, 120)
    assert found.values["edited_share"] < 0.1
    assert found.values["motion_fidelity"] > 0.9
    assert found.values["unedited_psnr"] > 28


@pytest.mark.parametrize("fit", ["stretched", "cropped", "padded"])
def test_another_shape_is_understood(fit: str) -> None:
    source, _ = edit()
    wide = {
        "stretched": scaled(source, 216, 120),
        "cropped": source[:, 10:110],
        "padded": np.pad(source, ((0, 0), (0, 0), (18, 18), (0, 0))),
    }[fit]
    found = measure_with_controls(video(source), video(wide))
    assert found.alignment.fit == fit
    assert found.values["edited_share"] < 0.05


def test_the_side_is_bounded() -> None:
    source, _ = edit()
    assert align(video(source), video(source), side=90).size == (90, 60)
    with pytest.raises(UserError, match="from 32 to 4096"):
        align(video(source), video(source), side=8)


def test_deep_colour_is_measured_in_eight_bits() -> None:
    source, target = edit()
    deep = Video.from_frames(target.astype(np.uint16) * 257, fps=16)
    assert measure_edit(video(source), deep) == measure_edit(video(source), video(target))


# --- memory

GROWTH = """
import resource, sys
from fractions import Fraction
import numpy as np
from opensama.evaluation.metrics import measure_with_controls as compare
from opensama.values import Video

rng = np.random.default_rng(0)
wide = rng.integers(0, 255, (480, 1400, 3), np.uint8)

def made(count):
    def source(start, stop):
        return (np.ascontiguousarray(wide[:, 2 * (i % 200) : 2 * (i % 200) + 832]) for i in range(start, stop))
    return Video(832, 480, tuple(range(count)), Fraction(1, 24), Fraction(count, 24), source)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

compare(made(4), made(4))
before = peak()
compare(made(30), made(30))
print(peak() - before)
"""


def test_memory_does_not_grow_with_the_video() -> None:
    """Twenty-six more pairs of 832x480 would be 59 MiB as they come, 14 MiB as they are looked at."""
    done = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 8, f"{done.stdout.strip()} MiB more"


# --- the command


def test_the_command_measures_one_edit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = [tmp_path / "source.mp4", tmp_path / "ours.mp4"]
    for file, frames in zip(pair, edit(), strict=True):
        write_video(video(frames), file)
    assert main(["evaluate", "metrics", *map(str, pair), "--json", str(tmp_path / "one.json")]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in METRICS)
    one = json.loads((tmp_path / "one.json").read_text())
    assert one["values"].keys() == METRICS.keys()
    assert one["controls"]["copy"]["edit_strength"] == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "Give a source and an edited video"),
        (["a.mp4"], "Give a source and an edited video"),
        (["a.mp4", "b.mp4"], "There is no file a.mp4"),
        (["a.mp4", "b.mp4", "--metrics", "beauty"], "There is no metric 'beauty'"),
        (["a.mp4", "b.mp4", "--json", "nowhere/x.json"], "There is no folder"),
    ],
)
def test_wrong_wishes_are_said(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "metrics", *arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_every_metric_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "metrics", "--explain"]) == 0
    out = capsys.readouterr().out
    assert out.count("cannot see:") == len(METRICS)
