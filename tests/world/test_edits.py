"""Every edit has one exact answer, train and test are apart, and wrong answers are wrong."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from opensama.world import (
    CONTROL_FAMILIES,
    EDIT_FAMILIES,
    KINDS,
    STYLES,
    TEXTURES,
    held_out,
    pairs,
    plan_edit,
    render_edits,
    render_styled,
    sample_edit,
)
from opensama.world.edits import OBJECT_FAMILIES
from opensama.world.render import frame_times, paint_background
from opensama.world.styled_scenes import StyledScene, Swap
from opensama.world.wrong_answers import like

SEEDS = st.integers(0, 10**6)
SPLITS = st.sampled_from(["train", "test"])
LABELS = {"kind", "color", "texture", "style", "place", "object", "word", "background"}
QUICK = settings(max_examples=60, deadline=None)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, split=SPLITS, family=st.sampled_from(EDIT_FAMILIES + CONTROL_FAMILIES))
def test_the_same_seed_is_the_same_edit_and_the_mask_is_where_it_differs(seed, split, family):
    one, two = (sample_edit(seed, split, family, frames=2, size=(64, 64)) for _ in range(2))
    assert one.plan == two.plan
    assert [p.wrong for p in one.plan.parts] == [p.wrong for p in two.plan.parts]
    np.testing.assert_array_equal(one.target, two.target)
    assert one.source.shape == one.target.shape == (2, 64, 64, 3)
    differs = np.abs(one.source.astype(int) - one.target).max(-1)
    assert (differs[~one.mask] <= 6).all()
    assert (differs[one.mask] >= 5).all()
    if family == "absent":
        assert not one.mask.any(), one.plan.instruction
    else:
        assert one.mask[0].sum() >= 20, f"nothing changes: {one.instruction}"


@QUICK
@given(seed=SEEDS, split=SPLITS, family=st.sampled_from([f for f in EDIT_FAMILIES if f != "two"]))
def test_a_plan_is_its_parts(seed, split, family):
    one = plan_edit(seed, split, family)
    (part,) = one.parts
    assert one.source != one.target
    assert part.before == one.source
    assert part.change.on(part.before) == one.target
    two = plan_edit(seed, split, "two")
    first, second = two.parts
    assert first.family != second.family
    assert first.before == second.change.on(two.source)
    assert second.before == first.change.on(two.source)
    assert first.change.on(first.before) == second.change.on(second.before) == two.target
    assert len({two.source, two.target, first.before, second.before}) == 4


@QUICK
@given(seed=SEEDS, split=SPLITS, family=st.sampled_from([*EDIT_FAMILIES, "swapped"]))
def test_wrong_looks_are_many_and_wrong(seed, split, family):
    plan = plan_edit(seed, split, family)
    for part in plan.parts:
        looks = [look for _, look in part.wrong]
        assert len(looks) >= 8, part
        assert len(set(looks)) == len(looks)
        assert not {plan.target, part.before} & set(looks)
        labels = [label for label, _ in part.wrong]
        assert set(labels) <= LABELS
        if part.family in ("replace", "add"):
            assert labels.count("kind") >= 4
            assert labels.count("color") >= 3
            assert {"place", "object"} & set(labels)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, family=st.sampled_from([*EDIT_FAMILIES, "swapped"]))
def test_wrong_looks_look_wrong(seed, family):
    plan = plan_edit(seed, "test", family)
    for part in plan.parts:
        right, *wrong = render_styled([plan.target, part.before, *(look for _, look in part.wrong)], 1)
        for (label, _), frames in zip([("before", part.before), *part.wrong], wrong, strict=True):
            seen = ((frames - right).abs().amax(1) > 0.06).sum()
            assert seen >= 40, f"{plan.instruction} {label}: {seen} pixels differ"


def test_the_most_similar_and_the_roundest_kind_are_among_the_wrong_ones():
    import random

    from opensama.world.kinds import similar

    for kind in KINDS:
        others = like(random.Random(0), kind, 4)
        assert len(set(others)) == 4
        assert kind not in others
        assert similar(kind)[0] in others
        assert "ball" in others or kind == "ball"


def changed(plan):
    """Objects that go and that come, part by part."""
    return [(part.change.old, part.change.new) for part in plan.parts if isinstance(part.change, Swap)]


@QUICK
@given(seed=SEEDS, split=SPLITS, family=st.sampled_from(EDIT_FAMILIES))
def test_train_and_test_edit_different_pairs(seed, split, family):
    for old, new in changed(plan_edit(seed, split, family)):
        for thing in (old, new):
            assert thing is None or held_out(thing.kind, thing.color) == (split == "test")


def test_the_split_holds_out_two_colors_of_each_kind():
    assert not set(pairs("train")) & set(pairs("test"))
    assert len(pairs("train")) == 8 * len(KINDS)
    assert {kind for kind, _ in pairs("test")} == set(KINDS)


@QUICK
@given(seed=SEEDS, split=SPLITS, family=st.sampled_from([*OBJECT_FAMILIES, "two", "swapped"]))
def test_an_instruction_names_one_object_only(seed, split, family):
    plan = plan_edit(seed, split, family)
    things = plan.source.scene.things
    for old, _ in changed(plan):
        if old is None:
            continue
        if not re.search(rf"\bthe ({'|'.join(TEXTURES)})? ?{old.name}\b", plan.instruction, re.IGNORECASE):
            assert re.search(rf"\bthe {old.kind}\b", plan.instruction, re.IGNORECASE), plan.instruction
            assert sum(t.kind == old.kind for t in things) == 1, plan.instruction
        assert sum(t.name == old.name for t in things) == 1


@QUICK
@given(seed=SEEDS, split=SPLITS)
def test_an_absent_object_is_absent(seed, split):
    plan = plan_edit(seed, split, "absent")
    assert plan.source == plan.target
    assert plan.parts == ()
    said = plan.instruction.lower()
    for thing in plan.source.scene.things:
        assert f"the {thing.name}" not in said
        if f"the {thing.kind}" in said:
            pytest.fail(f"{said} {thing.name}")


@QUICK
@given(seed=SEEDS, split=SPLITS)
def test_swapped_roles_have_both_objects_and_the_reverse_among_the_wrong_ones(seed, split):
    plan = plan_edit(seed, split, "swapped")
    ((old, new),) = changed(plan)
    source, target = ([t.name for t in look.scene.things] for look in (plan.source, plan.target))
    assert old.name in source
    assert new.name in source
    assert target.count(new.name) == 2
    assert old.name not in target
    wrong = [sorted(t.name for t in look.scene.things) for _, look in plan.parts[0].wrong]
    assert sorted(old.name if name == new.name else name for name in source) in wrong  # the reversed edit
    assert sorted(source) in wrong  # each taken for the other


@QUICK
@given(seed=SEEDS, split=SPLITS, family=st.sampled_from(["replace", "recolor", "retexture", "accessory", "obscure"]))
def test_what_is_left_open_stays(seed, split, family):
    plan = plan_edit(seed, split, family)
    ((old, new),) = changed(plan)
    for name in ("x", "y", "size", "along_x", "along_y", "turn"):
        assert getattr(old, name) == getattr(new, name)
    before, after = plan.source.scene, plan.target.scene
    assert before.things.index(old) == after.things.index(new)
    assert (before.background, before.palette, before.lettering) == (after.background, after.palette, after.lettering)
    if family == "replace":
        assert new.wears is None
        assert new.texture == "plain" or new.texture in plan.instruction
        assert new.color == old.color or new.color in plan.instruction
    else:
        fields = {"recolor": "color", "retexture": "texture", "accessory": "wears", "obscure": "obscured"}
        same = [name for f, name in fields.items() if f != family]
        assert all(getattr(old, name) == getattr(new, name) for name in same)


@QUICK
@given(seed=SEEDS, split=SPLITS, family=st.sampled_from(EDIT_FAMILIES + CONTROL_FAMILIES))
def test_instructions_read_well(seed, split, family):
    text = plan_edit(seed, split, family).instruction
    assert text[0].isupper()
    assert text.endswith(".")
    assert not re.search(r"  |[{}\[\]|]|\ba [aeiou]|\ban [^aeiou]|\bthe (the|an?)\b|\ba (green hills|glasses)", text), (
        text
    )


def test_every_family_and_style_is_drawn():
    plans = [plan_edit(i) for i in range(300)]
    assert {p.family for p in plans} == set(EDIT_FAMILIES)
    styles = {part.edited for i in range(200) for part in plan_edit(i, "test", "style").parts}
    assert styles == set(STYLES)


def test_removing_the_only_object_leaves_the_background():
    plans = (plan_edit(i, "test", "remove") for i in range(200))
    plan = next(p for p in plans if len(p.source.scene.things) == 1 and not p.source.scene.lettering)
    alone = paint_background(plan.source.scene, frame_times(3), 128, 128)[None]
    torch.testing.assert_close(render_edits([plan], 3).target, alone)


def test_a_batch_draws_what_each_draws_alone():
    looks = [look for i in range(8) for plan in [plan_edit(i)] for look in (plan.source, plan.target)]
    together = render_styled(looks, 2, 64, 64)
    for drawn, look in zip(together, looks, strict=True):
        torch.testing.assert_close(drawn, render_styled([look], 2, 64, 64)[0], atol=2e-5, rtol=0)


def test_a_later_start_draws_the_later_frames():
    plan = plan_edit(3, "test", "style")
    whole = render_styled([plan.source, StyledScene(plan.source.scene, "rain")], 6, 64, 64)
    torch.testing.assert_close(
        render_styled([plan.source, StyledScene(plan.source.scene, "rain")], 2, 64, 64, start=4), whole[:, 4:]
    )


def test_unknown_family_is_named():
    with pytest.raises(ValueError, match="unknown family 'fly'"):
        plan_edit(0, "test", "fly")
