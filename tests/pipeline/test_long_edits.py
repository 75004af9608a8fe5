"""Long films, by what people report of windows elsewhere. Longer ones: `python benchmarks/long.py`."""

from __future__ import annotations

import resource

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import opensama
from benchmarks.long import Seams
from opensama.models.registry import TINY
from opensama.pipeline.windows import WindowPlan
from opensama.values import EditRequest, Video
from opensama.world import sample_edit
from opensama.world.scenes import FPS
from tests.ranks import answer_of

FRAMES = 49
PLAN = WindowPlan.of(FRAMES, TINY.defaults.window, TINY.defaults.overlap)


@pytest.fixture(scope="module")
def sample():
    return sample_edit("long", "test", "style", FRAMES, 128)


def _edits(source: np.ndarray, instruction: str) -> tuple[np.ndarray, list[float]]:
    """The edit, and peak MiB of this process after it, and after one of nine windows."""
    torch.set_num_threads(1)
    editor, results, peaks = opensama.load("tiny", device="cpu"), [], []
    for frames in (source, np.concatenate([source, source[:32]])):
        video = Video.from_frames(frames, FPS)
        results.append(editor.edit(EditRequest(video, instruction, steps=1, preserve=False)).array())
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return results[0], peaks


@pytest.fixture(scope="module")
def edits(sample) -> tuple[np.ndarray, list[float]]:
    return answer_of(_edits, sample.source, sample.instruction)


@pytest.fixture(scope="module")
def seams(sample, edits) -> Seams:
    """Of an edit in five windows."""
    assert len(PLAN) == 5
    return Seams.of(PLAN, sample.source, sample.target, edits[0])


def test_memory_does_not_grow_with_the_film(edits):
    short, long = edits[1]
    assert long - short < 38, f"{long - short:.0f} MiB more for 32 frames more"  # 23; where one pass takes all, 53


def test_the_edit_is_as_strong_in_every_window(seams):
    assert seams.weakest > 0.85
    assert seams.strongest < 1.15


def test_seams_are_not_seen(seams):
    assert seams.seam < 1.05
    assert seams.jump < 1.05


def test_nothing_repeats_each_window(seams):
    assert seams.variety > 0.4  # it is as much too faint as the edit is


def test_colours_do_not_drift(seams):
    assert seams.drift < 4


@given(st.integers(1, 3000), st.sampled_from([(17, 2), (81, 4), (61, 4), (81, 19), (5, 0)]))
def test_size_and_overlap_are_never_changed_in_silence(frames, asked):
    window, overlap = asked
    plan = WindowPlan.of(frames, window, overlap)
    if frames > window:
        assert plan.window_frames == window
        shared = [a + plan.length - 1 - b for a, b in zip(plan.starts, plan.starts[1:], strict=False)]
        assert min(shared) >= overlap
        assert set(shared[:-1]) <= {overlap}
    else:
        assert len(plan) == 1


class TestWhatTheFiguresSee:
    """Each figure moves with the fault that it is there for, and with no other."""

    @pytest.fixture
    def good(self, sample) -> np.ndarray:
        """An answer that is nearly right everywhere."""
        noise = np.random.default_rng(0).normal(0, 6, sample.target.shape)
        return np.clip(0.5 * (sample.target + 0.0) + 0.5 * sample.source + noise, 0, 255)

    def found(self, sample, result: np.ndarray) -> Seams:
        return Seams.of(PLAN, sample.source, sample.target, np.clip(result, 0, 255).astype(np.uint8))

    def test_nothing_in_a_good_edit(self, sample, good):
        seams = self.found(sample, good)
        assert (seams.seam, seams.jump, seams.weakest, seams.strongest) == pytest.approx((1, 1, 1, 1), abs=0.05)
        assert seams.variety == pytest.approx(1, abs=0.4)
        assert seams.drift < 4

    def test_a_flash_at_each_beginning(self, sample, good):
        for start in PLAN.starts[1:]:
            good[4 * start] += 30
        seams = self.found(sample, good)
        assert seams.seam > 1.05
        assert seams.jump > 1.2

    def test_a_window_that_hardly_edits(self, sample, good):
        good[8:16] = 0.2 * good[8:16] + 0.8 * sample.source[8:16]
        assert self.found(sample, good).weakest < 0.5

    def test_the_first_window_over_and_over(self, sample, good):
        for start in PLAN.starts[1:]:
            good[4 * start : 4 * start + 8] = good[:8]
        assert self.found(sample, good).variety < 0.3

    def test_a_colour_that_creeps_in(self, sample, good):
        good[..., 0] += np.linspace(0, 40, FRAMES)[:, None, None]
        assert self.found(sample, good).drift > 8
