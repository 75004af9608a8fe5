"""The world: every edit has one exact answer, and train and test are apart."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from opensama.world import (
    COLORS,
    FAMILIES,
    KINDS,
    PHRASINGS,
    STYLES,
    apply_style,
    held_out,
    pairs,
    plan_edit,
    render,
    render_edits,
    sample_edit,
)
from opensama.world.render import frame_times, paint_background
from opensama.world.scenes import SceneBatch
from opensama.world.shapes import atlas


def test_there_is_enough_to_draw():
    assert len(KINDS) >= 12
    assert len(COLORS) == 10
    assert len(STYLES) >= 8
    assert all(len(phrases) >= 10 for phrases in PHRASINGS.values())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), split=st.sampled_from(["train", "test"]), family=st.sampled_from(FAMILIES))
def test_the_same_seed_is_the_same_edit_and_the_mask_is_where_it_differs(seed, split, family):
    one, two = (sample_edit(seed, split, family, frames=2, size=(48, 80)) for _ in range(2))
    assert one.plan == two.plan
    np.testing.assert_array_equal(one.target, two.target)
    assert one.source.shape == one.target.shape == (2, 48, 80, 3)
    differs = np.abs(one.source.astype(int) - one.target).max(-1)
    assert (differs[~one.mask] <= 6).all()
    assert (differs[one.mask] >= 5).all()
    assert one.mask.any(), f"nothing changes: {one.instruction}"


@pytest.mark.parametrize("family", ["replace", "remove", "recolor", "add"])
def test_only_the_edited_object_changes(family):
    plan = plan_edit(3, "test", family)
    before, after = list(plan.source.things), list(plan.target.things)
    shared = [t for t in before if t in after]
    assert len(before) - len(shared) == (0 if family == "add" else 1)
    assert len(after) - len(shared) == (0 if family == "remove" else 1)
    assert plan.source.background == plan.target.background
    if family in ("replace", "recolor"):
        old = next(t for t in before if t not in after)
        new = next(t for t in after if t not in before)
        assert (old.x, old.y, old.size, old.along_x, old.turn) == (new.x, new.y, new.size, new.along_x, new.turn)
        assert before.index(old) == after.index(new)  # the same depth


def test_removing_the_only_object_leaves_the_background():
    plan = next(p for p in (plan_edit(i, "test", "remove") for i in range(50)) if len(p.source.things) == 1)
    drawn = render_edits([plan], 3)
    alone = paint_background(SceneBatch.pack([plan.source]), frame_times(3), 128, 128)
    torch.testing.assert_close(drawn.target, alone)


def test_train_and_test_edit_different_pairs():
    assert not set(pairs("train")) & set(pairs("test"))
    assert len(pairs("train")) + len(pairs("test")) == len(KINDS) * len(COLORS)
    assert {kind for kind, _ in pairs("test")} == {kind for kind, _ in pairs("train")} == set(KINDS)
    for split in ("train", "test"):
        for family in ("replace", "add", "remove", "recolor"):
            for i in range(40):
                plan = plan_edit(i, split, family)
                changed = set(plan.source.things) ^ set(plan.target.things)
                assert all(held_out(t.kind, t.color) == (split == "test") for t in changed), plan.instruction


def test_test_phrasings_are_new_but_their_words_are_known():
    for phrases in PHRASINGS.values():
        known = set(re.findall(r"[a-z]+|\{\w+\}", " ".join(phrases[:-2]).lower()))
        for phrase in phrases[-2:]:
            assert phrase not in phrases[:-2]
            assert set(re.findall(r"[a-z]+|\{\w+\}", phrase.lower())) <= known, phrase


def test_an_instruction_names_one_object_only():
    for i in range(200):
        plan = plan_edit(i, "train", "remove")
        named = [t for t in plan.source.things if t.name in plan.instruction]
        if not named:
            named = [t for t in plan.source.things if re.search(rf"\b{t.kind}\b", plan.instruction)]
        assert len(named) == 1, plan.instruction
        assert named[0] not in plan.target.things


def test_silhouettes_fit_the_unit_disc_and_differ():
    inside = atlas()[:, 0] < 0
    side = inside.shape[-1]
    y, x = torch.meshgrid(*[torch.linspace(-1.3, 1.3, side)] * 2, indexing="ij")
    assert not (inside & (torch.hypot(x, y) > 1.2)).any()
    flat = inside.flatten(1).float()
    overlap = flat @ flat.T
    iou = overlap / (flat.sum(1)[:, None] + flat.sum(1)[None] - overlap)
    assert (iou - 2 * torch.eye(len(KINDS))).max() < 0.9


@pytest.mark.parametrize("style", list(STYLES))
def test_styles_keep_shape_and_range_and_change_the_picture(style):
    frames = render([plan_edit(1).source], 3, 64, 96)
    out = apply_style(style, frames)
    assert out.shape == frames.shape
    assert 0 <= out.min()
    assert out.max() <= 1
    assert (out - frames).square().mean() > 1e-3


@pytest.mark.parametrize("style", ["watercolor", "pencil sketch", "pixel art", "cartoon"])
def test_drawn_styles_are_more_than_a_recolouring(style):
    """No affine map of the source's colours comes within 30 dB of them."""
    frames = render([plan_edit(i).source for i in range(6)], 1)
    out = apply_style(style, frames)
    x = frames.movedim(2, -1).reshape(-1, 3).double()
    y = out.movedim(2, -1).reshape(-1, 3).double()
    x = torch.cat((x, torch.ones(len(x), 1, dtype=torch.double)), 1)
    left = (y - x @ torch.linalg.lstsq(x, y).solution).square().mean()
    assert -10 * torch.log10(left) < 30, "an affine recolouring explains it"


def test_particles_are_functions_of_place_and_time():
    frames = render([plan_edit(2).source], 9, 64, 64)
    whole = apply_style("snow", frames)
    part = apply_style("snow", frames[:, 4:], 4)
    torch.testing.assert_close(whole[:, 4:], part)


def test_a_batch_draws_what_each_draws_alone():
    plans = [plan_edit(i) for i in range(6)]
    together = render_edits(plans, 2, 64, 64)
    for i, plan in enumerate(plans):
        alone = render_edits([plan], 2, 64, 64)
        torch.testing.assert_close(together.target[i : i + 1], alone.target, atol=2e-5, rtol=0)


def test_unknown_family_is_named():
    with pytest.raises(ValueError, match="unknown family 'fly'"):
        plan_edit(0, "test", "fly")
