"""The world's scores: the right answer passes, doing nothing fails, and keeping is measured outside the change."""

from __future__ import annotations

import json

import numpy as np
import pytest

from opensama.evaluation.world import evaluate_world, grow, psnr, score, wilson
from opensama.values import EditRequest, Video
from opensama.world import FAMILIES, sample_edit


@pytest.fixture(scope="module")
def sample():
    return sample_edit(5, "test", "recolor", frames=5)


def test_the_answer_passes_and_the_source_fails(sample):
    right, copy = score(sample, sample.target), score(sample, sample.source)
    assert right.success
    assert right.ratio == 0
    assert not copy.success
    assert copy.ratio == pytest.approx(1)
    assert copy.kept == 99


def test_half_an_answer_fails(sample):
    half = ((sample.source.astype(int) + sample.target) // 2).astype(np.uint8)
    assert score(sample, half).ratio == pytest.approx(0.25, abs=0.02)
    late = sample.target.copy()
    late[:2] = sample.source[:2]
    assert not score(sample, late).success


def test_kept_sees_damage_outside_only(sample):
    damaged = sample.target.copy()
    far = ~grow(sample.mask, 4)
    damaged[far] = 255 - damaged[far]
    scored = score(sample, damaged)
    assert scored.success
    assert scored.kept < 15


def test_grow_reaches_squares():
    mask = np.zeros((1, 9, 9), bool)
    mask[0, 4, 4] = True
    assert grow(mask, 2).sum() == 25
    assert mask.sum() == 1


def test_psnr():
    a = np.zeros((1, 2, 2, 3), np.uint8)
    assert psnr(a, a) == 99
    assert psnr(a, a + 255) == pytest.approx(0)


def test_wilson():
    assert wilson(0, 0) == (0, 1)
    low, high = wilson(50, 100)
    assert (low, high) == (pytest.approx(0.4038, abs=1e-3), pytest.approx(0.5962, abs=1e-3))
    assert wilson(10, 10)[1] == 1


def test_a_perfect_editor_and_a_lazy_one():
    answers = {}
    for i in range(10):
        s = sample_edit(f"0-{i}", "test", FAMILIES[i % 5], frames=3, size=48)
        answers[s.instruction] = s.target

    def perfect(request: EditRequest) -> Video:
        return Video.from_frames(answers[request.instruction], fps=16)

    report = evaluate_world(perfect, n=10, frames=3, size=48, full_every=0, reconstruct=lambda x: x)
    assert report.to_dict()["overall"]["success"] == 1
    assert set(report.to_dict()["families"]) == set(FAMILIES)
    lazy = evaluate_world(lambda r: r.video, n=5, frames=3, size=48, full_every=1)
    found = json.loads(json.dumps(lazy.to_dict()))
    assert found["overall"]["success"] == 0
    assert found["overall"]["kept_full_db"] == 99
    assert found["controls"]["copy"]["success"] == 0
    assert "overall" in lazy.table()
    assert "copy" in lazy.table()
