"""Intervals against known values."""

from __future__ import annotations

import pytest

from opensama.evaluation.statistics import paired, wilson


def test_wilson():
    assert wilson(0, 0) == (0, 1)
    low, high = wilson(50, 100)
    assert (low, high) == (pytest.approx(0.4038, abs=1e-3), pytest.approx(0.5962, abs=1e-3))
    assert wilson(10, 10)[1] == 1


def test_pairs():
    assert paired([], []) == (0, 0, 0)
    assert paired([1, 0, 1], [1, 0, 1]) == (0, 0, 0)
    mean, low, high = paired([1.0] * 50 + [0.0] * 50, [0.0] * 100)
    assert mean == -0.5
    assert (low, high) == (pytest.approx(-0.6, abs=0.02), pytest.approx(-0.4, abs=0.02))
