"""What intervals and verdicts say of numbers whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from opensama.reproduction.statistics import bootstrap_mean, detectable, paired_difference, smooth, spikes


def test_a_true_difference_is_found_and_none_is_not_made_up():
    rng = np.random.default_rng(0)
    base = rng.random((3, 120)) < 0.6
    better = base | (rng.random((3, 120)) < 0.5)
    assert paired_difference(better, base).tendency == "more"
    assert paired_difference(base, better).tendency == "less"
    wrong = 0
    for trial in range(100):
        a, b = (np.random.default_rng((trial, i)).random((3, 60)) < 0.6 for i in range(2))
        wrong += paired_difference(a, b).tendency != "cannot tell"
    assert wrong <= 15  # 5 in a hundred, and three seeds are few


def test_the_scatter_of_seeds_widens_the_interval():
    alike, apart = np.full((3, 100), 0.5), np.repeat([[0.2], [0.5], [0.8]], 100, axis=1)
    assert bootstrap_mean(alike).low == pytest.approx(0.5)
    e = bootstrap_mean(apart)
    assert e.mean == pytest.approx(0.5)
    assert e.low < 0.3 < 0.7 < e.high


def test_the_detectable_effect_is_found_in_four_of_five_cases():
    effect, items = detectable(120, 3), 120
    found = 0
    for trial in range(60):
        rng = np.random.default_rng(trial)
        draw = rng.random((3, items))
        gain = np.where(draw < 0.15 + effect / 2, 1, np.where(draw > 0.85 + effect / 2, -1, 0))
        found += paired_difference(gain, np.zeros_like(gain)).tendency == "more"
    assert 0.6 < found / 60 < 0.97


def test_spikes_are_counted_against_the_median_before_them():
    curve = np.ones(200)
    assert spikes(curve) == 0
    curve[[100, 150]] = 3
    assert spikes(curve) == pytest.approx(2 / 150)
    assert spikes(curve[:40]) == 0
    assert smooth(np.arange(100.0), 10)[0] == pytest.approx(4.5)
