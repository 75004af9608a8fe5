"""The probes on hand-made regions: right answers score their ideal, each failure its own number."""

from __future__ import annotations

import pytest
import torch

from opensama.evaluation.world.probes import IDEAL, color_drift, ghost, probe, sharpness


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
        for name, value in probe(family, thirds).items():
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
    assert set(probe("remove", thirds)) == {"ghost"}
    assert set(probe("replace", thirds)) == {"color_drift", "sharpness"}
    assert set(probe("style", thirds)) == {"color_drift"}
    assert probe("add", []) == {}
