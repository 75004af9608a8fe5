"""Kinds differ in their silhouettes, accessories sit where they are seen, and the tables hold what was drawn."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from opensama.world.fields import EXTENT, arc, box, circle, plane, polygon, subtract, turned, union
from opensama.world.kinds import KINDS, SHAPES, atlas, overlaps, silhouettes, similar
from opensama.world.wearables import SEATS, WEAR_SEATS, WEARABLES, wear_atlas, worn

FINE = 200  # points over the atlas's window in tests that look at the drawings themselves,
HALF = 100  # and where each kind is looked at with each accessory


@cache
def covered(kind: str) -> Tensor:
    return SHAPES[kind](*plane(EXTENT, EXTENT, HALF, HALF))[0] < 0


def covered_by(kind: str, wearable: str) -> Tensor:
    """What the accessory covers in its wearer's frame, over twice the window (a hat rises above the unit disc)."""
    x, y = plane(2 * EXTENT, 2 * EXTENT, 2 * HALF, 2 * HALF)
    cx, cy, radius = worn(kind, wearable)
    return WEARABLES[wearable]((x - cx) / radius, (y - cy) / radius)[0] < 0


def height(mask: Tensor) -> int:
    rows = mask.any(1).nonzero()
    return int(rows[-1] - rows[0]) + 1


def test_there_are_32_kinds_of_one_word() -> None:
    assert len(KINDS) == 32
    assert all(kind.isalpha() and kind.islower() for kind in KINDS)


def test_no_two_silhouettes_overlap_by_more_than_seven_tenths() -> None:
    both = overlaps() - torch.eye(len(KINDS))
    first, second = divmod(int(both.argmax()), len(KINDS))
    assert both.max() <= 0.7, f"{KINDS[first]} and {KINDS[second]} overlap by {both.max():.3f}"


def test_silhouettes_are_brought_to_one_area_inside_their_window() -> None:
    masks = silhouettes(48)
    areas = masks.sum((1, 2))
    assert areas.max() / areas.min() < 1.03
    assert masks[:, [0, -1]].sum() == 0
    assert masks[:, :, [0, -1]].sum() == 0


def test_a_silhouette_overlaps_itself_wholly_and_others_the_same_both_ways() -> None:
    assert overlaps().diagonal().min() > 0.999
    assert torch.equal(overlaps(), overlaps().T)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_fills_the_unit_disc_and_shows_its_second_shade(kind: str) -> None:
    x, y = plane(EXTENT, EXTENT, FINE, FINE)
    body, detail = SHAPES[kind](x, y)
    reach = torch.hypot(x, y)[body < 0].max()
    assert 0.8 < reach < 1.15
    assert 0.01 < float(((detail < 0) & (body < 0)).sum() / (body < 0).sum()) < 0.75


def test_similar_names_all_others_the_nearest_first() -> None:
    for kind in KINDS:
        others = similar(kind)
        row = overlaps()[KINDS.index(kind)]
        assert sorted((*others, kind)) == sorted(KINDS)
        assert [float(row[KINDS.index(k)]) for k in others] == sorted(
            (float(row[KINDS.index(k)]) for k in others), reverse=True
        )
    assert "heart" in similar("ball")[:3]


def test_the_tables_hold_what_was_drawn() -> None:
    x, y = plane(EXTENT, EXTENT, 96, 96)
    assert atlas().shape == (len(KINDS), 2, 96, 96)
    assert wear_atlas().shape == (len(WEARABLES), 2, 96, 96)
    assert torch.allclose(atlas()[KINDS.index("boot")], torch.stack(SHAPES["boot"](x, y)).float())
    assert atlas(side=40).shape[-2:] == (40, 40)
    assert atlas()[KINDS.index("mushroom"), 0, 24, 48] < 0 < atlas()[KINDS.index("mushroom"), 0, 72, 30]  # cap on top


@pytest.mark.parametrize("wearable", WEARABLES)
def test_an_accessory_is_seen_on_every_kind(wearable: str) -> None:
    for kind in KINDS:
        wearer = torch.zeros(2 * HALF, 2 * HALF, dtype=torch.bool)
        wearer[HALF // 2 : -HALF // 2, HALF // 2 : -HALF // 2] = covered(kind)
        accessory = covered_by(kind, wearable)
        assert height(accessory) >= 0.35 * height(wearer), f"a {wearable} is too small for a {kind}"
        assert (accessory & wearer).sum() > 0.02 * accessory.sum(), f"a {wearable} does not touch its {kind}"
        assert not accessory[[0, -1]].any()
        assert not accessory[:, [0, -1]].any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_hat_sits_on_the_rim(kind: str) -> None:
    assert set(SEATS) == set(KINDS)
    x, y = (torch.tensor([v], dtype=torch.float64) for v in SEATS[kind][0])
    column = torch.linspace(0, 0.25, 26, dtype=torch.float64)
    body = SHAPES[kind]
    assert body(x, y)[0] < 0.03, "on the object"
    assert body(x + 0 * column, y + column)[0].max() > 0, "with the rim not far above"


def test_what_is_worn_in_the_middle_is_not_on_top() -> None:
    assert {fit.on for fit in WEAR_SEATS.values()} == {"top", "middle"}
    assert all(SEATS[kind][1][1] < SEATS[kind][0][1] for kind in KINDS)
    assert worn("ball", "glasses")[:2] == SEATS["ball"][1]
    assert worn("ball", "hat")[1] > SEATS["ball"][0][1]


def test_the_pieces_are_distances() -> None:
    x, y = plane(1, 1, 41, 41)
    inside = polygon(x, y, (-0.5, -0.3), (0.5, -0.3), (0.5, 0.3), (-0.5, 0.3))
    assert torch.allclose(inside, box(x, y, 0, 0, 0.5, 0.3), atol=1e-6)
    hoop = subtract(circle(x, y, 0, 0, 0.6), circle(x, y, 0, 0, 0.4))
    assert float((arc(x, y, 0, 0, 0.5, 0.5, 0, 360, 0.1, steps=60) - hoop).abs()[torch.hypot(x, y) > 0.1].max()) < 0.01
    u, v = turned(x, y, 90)
    assert torch.allclose(box(u, v, 0, 0, 0.5, 0.3), box(x, y, 0, 0, 0.3, 0.5), atol=1e-6)
    assert torch.equal(union(x, y), torch.minimum(x, y))
