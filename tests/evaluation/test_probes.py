"""The probes on hand-made regions: right answers score their ideal, each failure its own number."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from opensama.evaluation.world import answer_key
from opensama.evaluation.world.probes import IDEAL, color_drift, ghost, lattice, probe_part, sharpness
from opensama.world import sample_edit


@pytest.fixture
def thirds():
    """Three of output, right, before and region; the output is the right answer."""
    generator = torch.Generator().manual_seed(0)
    right = [50 + 10 * torch.randn(2, 3, 8, 8, generator=generator) for _ in range(3)]
    region = torch.zeros(2, 8, 8)
    region[:, 2:6, 2:6] = 1
    return [(r.clone(), r, r + 20 * torch.randn(2, 3, 8, 8, generator=generator), region) for r in right]


def test_the_right_answer_is_ideal(thirds):
    for family in ("add", "remove", "style"):
        for name, value in probe_part(family, thirds).items():
            assert value == pytest.approx(IDEAL[name], abs=1e-4)


def test_a_color_that_strays(thirds):
    for i, third in enumerate(thirds):
        third[0][:, 1] += 30 * i
    assert color_drift(thirds) == pytest.approx(20)
    for third in thirds:
        third[0][:, 0] += 7  # wrong everywhere alike is no drift
    assert color_drift(thirds) == pytest.approx(20)


def test_a_blurry_addition(thirds):
    soft = [(0.5 * o + 0.5 * o.mean((2, 3), keepdim=True), r, b, w) for o, r, b, w in thirds]
    assert sharpness(soft) == pytest.approx(0.25, abs=1e-3)


def test_a_ghost(thirds):
    assert ghost([(b, r, b, w) for _, r, b, w in thirds]) == pytest.approx(1)
    assert ghost([(r + 0.3 * (b - r), r, b, w) for _, r, b, w in thirds]) == pytest.approx(0.3)


def test_what_is_asked_of_whom(thirds):
    assert set(probe_part("remove", thirds)) == {"ghost"}
    assert set(probe_part("replace", thirds)) == {"color_drift", "sharpness"}
    assert set(probe_part("style", thirds)) == {"color_drift"}
    assert probe_part("add", []) == {}


def test_cells_that_show():
    generator = torch.Generator().manual_seed(1)
    right = torch.rand(3, 3, 48, 64, generator=generator)
    assert lattice(right, right) == pytest.approx(1)
    assert lattice(0.5 * right, right) == pytest.approx(1), "contrast is no lattice"
    cells = torch.rand(3, 1, 3, 4, generator=generator)
    shaded = right + 0.5 * cells.repeat_interleave(16, 2).repeat_interleave(16, 3)
    assert lattice(shaded, right) > 1.3
    moved = right + 0.5 * cells.repeat_interleave(16, 2).repeat_interleave(16, 3).roll((5, 7), (2, 3))
    assert lattice(moved, right) == pytest.approx(1, abs=0.1), "edges elsewhere are none either"
    assert lattice(right[..., :15, :15], right[..., :15, :15]) == 1


def test_a_style_has_its_lattice_measured():
    sample = sample_edit(0, "test", "style", 5, 64, "core")
    key = answer_key(sample, lambda frames: frames)
    assert key.judge(sample.target).probes["lattice"] == pytest.approx(1, abs=0.02)
    blocks = np.kron(np.random.default_rng(0).integers(0, 60, (5, 4, 4, 1)), np.ones((1, 16, 16, 1)))
    spoilt = (sample.target * 0.7 + blocks).astype(np.uint8)
    assert key.judge(spoilt).probes["lattice"] > 1.5
