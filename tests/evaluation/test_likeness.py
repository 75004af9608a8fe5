"""Likeness on hand-made pictures: colours, edges, moves, and whose region counts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from opensama.evaluation.world.likeness import (
    COARSE,
    REACH,
    distances,
    features,
    finer,
    half,
    moved_views,
    nearest_distances,
    to_lab,
)


def disk(
    x: float, y: float, radius: float = 6, color: tuple[float, float, float] = (1, 0, 0), side: int = 32
) -> Tensor:
    """[1 3 side side] in L a b."""
    line = torch.arange(side) + 0.5
    cover = (radius - torch.hypot(line - x, line[:, None] - y) + 0.5).clamp(0, 1)
    return to_lab(torch.full((1, 3, side, side), 0.5) * (1 - cover) + torch.tensor(color).view(3, 1, 1) * cover)


def test_lab_of_known_colors():
    rgb = torch.tensor([[1.0, 1, 1], [0, 0, 0], [1, 0, 0], [0, 0, 1]]).view(4, 3, 1, 1)
    known = torch.tensor([[100.0, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20], [32.30, 79.19, -107.86]])
    assert torch.allclose(to_lab(rgb).view(4, 3), known, atol=0.1)


def test_edges_are_of_light_alone():
    flat = torch.zeros(1, 3, 4, 4)
    flat[:, 1, :, 2:] = 30  # a step of hue
    assert not features(flat)[:, 3:].any()
    flat[:, 0, :, 2:] = 10
    assert features(flat)[0, 3, 0].tolist() == [0, 10, 0, 0]
    assert not features(flat)[:, 4].any()


def test_half_is_the_mean():
    assert half(torch.arange(4.0).view(1, 2, 2)).item() == 1.5


def test_moves_are_as_far_as_they_say_and_no_further():
    assert len(COARSE) == 49 * 3
    assert COARSE[:, :2].abs().max().item() == pytest.approx(REACH)
    assert [0, 0, 1] in COARSE.tolist()
    fine = finer(COARSE)
    for moves in (COARSE, fine):
        assert moves[:, :2].abs().max() <= REACH + 1e-6
        assert moves[:, 2].min().item() == pytest.approx(0.85)
        assert moves[:, 2].max().item() == pytest.approx(1.15)
    assert len(fine) > 4 * len(COARSE)


def test_a_move_brings_a_displaced_disk_back():
    here, there = disk(16, 16), disk(18, 15)
    back = moved_views(there, (16, 16), torch.tensor([[-2 / 32, 1 / 32, 1.0], [0, 0, 1]]), side=32)
    assert (back[0] - here).abs().mean() < 0.1 * (back[1] - here).abs().mean()
    larger = disk(16, 16, 6.9)
    smaller = moved_views(larger, (16, 16), torch.tensor([[0, 0, 1 / 1.15], [0, 0, 1]]), side=32)
    assert (smaller[0] - here).abs().mean() < 0.2 * (smaller[1] - here).abs().mean()


def test_distances_are_the_weighted_mean_square():
    a, b = disk(16, 16), disk(16, 16, color=(0, 0, 1))
    weights = torch.ones(2, 1, 32, 32)
    to_right, to_each = distances(a[None], torch.stack((a, b)), weights)[:, 0]
    by_hand = sum((features(x) - features(y)).square().sum(1).mean() for x, y in ((a, b), (half(a), half(b)))) / 2
    assert to_right.tolist() == pytest.approx([0, 0], abs=0.01)
    assert to_each[1].item() == pytest.approx(by_hand.item(), rel=1e-3)


def test_only_the_region_counts():
    a, b = disk(8, 8), disk(8, 8)
    b[..., 20:] = 0
    weights = torch.zeros(2, 1, 32, 32)
    weights[..., :16] = 1
    assert distances(a[None], torch.stack((a, b)), weights)[1, 0].max() < 0.01


def test_a_displaced_right_shape_is_nearer_than_a_wrong_one_in_place():
    line = torch.arange(32) + 0.5
    square = disk(16, 16)
    inside = ((line - 16).abs() < 5.3) & ((line[:, None] - 16).abs() < 5.3)
    square = torch.where(inside, to_lab(torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)), disk(16, 16, 0))
    weights = torch.ones(2, 1, 32, 32)
    output, candidates = disk(17.5, 15)[0][None], torch.stack((disk(16, 16), square))
    to_right, to_each = nearest_distances(output, (16, 16), 32, candidates, weights, free=True)
    assert to_right[1] < 0.5 * to_each[1]
    stiff = nearest_distances(output, (16, 16), 32, candidates, weights, free=False)
    assert stiff[0, 1] > 3 * to_right[1]
