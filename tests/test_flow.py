"""The path from noise to data, guidance and losses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from opensama.flow import (
    add_noise,
    flow_loss,
    guide,
    guide_separately,
    sample_sigma,
    semantic_loss,
    shift_sigma,
    velocity,
)


def test_the_path_runs_from_data_to_noise_at_the_velocity():
    data, noise = torch.randn(2, 3, 1, 4, 4), torch.randn(2, 3, 1, 4, 4)
    torch.testing.assert_close(add_noise(data, noise, torch.tensor([0.0, 1.0]))[0], data[0])
    torch.testing.assert_close(add_noise(data, noise, torch.tensor([0.0, 1.0]))[1], noise[1])
    early, late = (add_noise(data, noise, torch.full((2,), s)) for s in (0.2, 0.7))
    torch.testing.assert_close(late - early, 0.5 * velocity(data, noise))


@given(shift=st.floats(1, 12), sigma=st.floats(0, 1))
def test_shift_keeps_the_ends_and_moves_towards_noise(shift, sigma):
    moved = shift_sigma(torch.tensor(sigma), shift).item()
    assert sigma - 1e-6 <= moved <= 1
    assert shift_sigma(torch.tensor(0.0), shift) == 0
    assert shift_sigma(torch.tensor(1.0), shift) == pytest.approx(1)


@pytest.mark.parametrize("how", ["uniform", "logit_normal", "mode"])
def test_noise_levels_are_seeded_and_within_bounds(how):
    draw = [sample_sigma(500, how=how, shift=3, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(*draw)
    assert 0 <= draw[0].min() <= draw[0].max() <= 1
    assert draw[0].mean() > 0.6


def test_mode_prefers_the_middle_and_a_mean_moves_the_logit_normal():
    """Mode's levels are those of its equation; a mean of 0.5 makes sigmoid(0.5) the median."""
    g = torch.Generator().manual_seed(0)
    mode = sample_sigma(20_000, how="mode", generator=g)
    middle = ((mode > 0.35) & (mode < 0.65)).float().mean()
    u = torch.linspace(0, 1, 100_001)
    levels = 1 - u - 1.29 * (torch.cos(torch.pi / 2 * u) ** 2 - 1 + u)  # arXiv 2403.03206, equation 20
    assert middle == pytest.approx(float(((levels > 0.35) & (levels < 0.65)).float().mean()), abs=0.02)
    assert middle > 0.5
    moved = sample_sigma(20_000, how="logit_normal", mean=0.5, generator=g)
    assert moved.median() == pytest.approx(0.6225, abs=0.01)


def test_unknown_time_sampling_is_named():
    with pytest.raises(ValueError, match="'cosine'"):
        sample_sigma(2, how="cosine")  # type: ignore[arg-type]


@given(scale=st.floats(1, 9))
def test_separate_guidance_contains_the_single_one(scale):
    full, no_text, no_source = (torch.full((1,), v) for v in (1.0, 0.25, -2.0))
    both = guide_separately(full, no_text, no_source, source_scale=0, text_scale=scale - 1)
    torch.testing.assert_close(both, guide(full, no_text, scale))
    more = guide_separately(full, no_text, no_source, source_scale=1, text_scale=scale - 1)
    torch.testing.assert_close(more - both, full - no_source)


def test_emphasis_is_relative_within_a_sample():
    prediction, target = torch.zeros(2, 3, 1, 1, 2), torch.zeros(2, 3, 1, 1, 2)
    prediction[0, :, 0, 0, 0] = 1  # wrong where it changed
    prediction[1, :, 0, 0, 1] = 1  # wrong elsewhere
    weight = torch.tensor([[[[9.0, 1.0]]], [[[9.0, 1.0]]]])
    assert flow_loss(prediction, target) == pytest.approx(0.5)
    assert flow_loss(prediction[:1], target[:1], weight[:1]) == pytest.approx(0.9)
    assert flow_loss(prediction, target, weight) == pytest.approx(0.5)
    assert flow_loss(prediction, target, 7 * weight) == pytest.approx(0.5)


def test_semantic_loss_is_absolute():
    assert semantic_loss(torch.tensor([0.0, 3.0]), torch.tensor([1.0, 1.0])) == pytest.approx(1.5)
