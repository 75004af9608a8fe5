"""Masks are measured, filtered, grown and used to put pictures together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opensama.curation.masks import (
    MaskRules,
    boxes,
    changed,
    grow,
    load_masks,
    measure_masks,
    put_together,
    save_masks,
    soft,
)

SIZE = (6, 40, 60)


def square(left: int = 20, top: int = 10, side: int = 16, step: int = 1, frames: slice = slice(None)) -> np.ndarray:
    """A square that moves to the right."""
    out = np.zeros(SIZE, bool)
    for i in range(SIZE[0])[frames]:
        out[i, top : top + side, left + step * i : left + step * i + side] = True
    return out


def test_a_square_is_measured() -> None:
    found = measure_masks(square())
    assert found.area == pytest.approx(16 * 16 / (40 * 60))
    assert found.presence == 1
    assert found.steadiness == pytest.approx(15 / 17)
    assert found.border == 0


@pytest.mark.parametrize(
    ("masks", "refusal"),
    [
        (square(), None),
        (square(frames=slice(0, 3)), "mask: not there for long enough"),
        (np.zeros(SIZE, bool), "mask: not there for long enough"),
        (square(side=3), "mask: too small"),
        (np.ones(SIZE, bool), "mask: too large"),
        (square(left=0, step=7, side=8), "mask: jumps"),
        (square(left=0, top=0, side=29, step=0), "mask: cut off by the frame"),
    ],
)
def test_masks_that_cannot_be_edited_are_refused_with_a_reason(masks: np.ndarray, refusal: str | None) -> None:
    assert MaskRules().refusal(masks) == refusal


def test_a_background_needs_room_and_something_before_it() -> None:
    rules = MaskRules()
    assert rules.refusal_of_background(~square()) is None
    assert rules.refusal_of_background(square(side=12)) == "mask: too little background"
    assert rules.refusal_of_background(np.ones(SIZE, bool)) == "mask: nothing in front of the background"


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.03, 0.1]))
def test_growing_adds_all_within_the_margin_and_nothing_else(seed: int, margin: float) -> None:
    masks = np.random.default_rng(seed).random((2, 20, 24)) > 0.98
    radius = max(1, round(margin * 20)) if margin else 0
    wanted = np.zeros_like(masks)
    for i, y, x in np.argwhere(masks):
        wanted[i, max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1] = True
    assert np.array_equal(grow(masks, margin), wanted)


def test_a_box_holds_the_mask_of_its_frame() -> None:
    masks = np.zeros((3, 10, 12), bool)
    masks[0, 2, 3] = masks[0, 6, 8] = masks[2, 9, 11] = True
    found = boxes(masks)
    assert found[0].sum() == 5 * 6
    assert found[0, 2:7, 3:9].all()
    assert not found[1].any()
    assert found[2].sum() == 1


@given(st.integers(0, 2**32 - 1))
def test_nothing_outside_the_mask_changes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    source, painted = (rng.integers(0, 256, (3, 40, 60, 3), dtype=np.uint8) for _ in range(2))
    masks = grow(rng.random((3, 40, 60)) > 0.997, 0.1)
    out = put_together(source, painted, masks)
    assert np.array_equal(out[~masks], source[~masks])
    full = soft(masks) == 1
    assert np.array_equal(out[full], painted[full])
    low, high = np.minimum(source, painted), np.maximum(source, painted)
    assert ((low <= out) & (out <= high)).all()


def test_an_edge_is_soft_inside_a_large_mask_and_hard_in_a_thin_one() -> None:
    large = np.zeros((1, 400, 400), bool)
    large[:, 100:300, 100:300] = True
    weights = soft(large)
    assert weights[0, 200, 200] == 1
    assert 0 < weights[0, 200, 101] < weights[0, 200, 103] <= 1
    assert not weights[~large].any()
    thin = np.zeros((1, 400, 400), bool)
    thin[:, 100:300, 100:102] = True
    assert np.array_equal(soft(thin), thin.astype(np.float32))
    everything = np.ones((1, 400, 400), bool)
    assert (soft(everything) == 1).all()  # the frame's own rim is no edge


def test_change_is_measured_inside_and_outside() -> None:
    source = np.full((*SIZE, 3), 100, np.uint8)
    edited = source.copy()
    edited[square()] = 60
    edited[~square()] = 103
    assert changed(source, edited, square()) == (40, 3)


@given(st.integers(1, 5), st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_masks_come_back_from_the_disk(tmp_path_factory, t: int, h: int, w: int, seed: int) -> None:
    path: Path = tmp_path_factory.mktemp("masks") / "a.npz"
    masks = np.random.default_rng(seed).random((t, h, w)) > 0.5
    save_masks(path, masks)
    assert np.array_equal(load_masks(path), masks)
    assert [file.name for file in path.parent.iterdir()] == ["a.npz"]
