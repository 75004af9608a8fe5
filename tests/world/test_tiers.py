"""The world's tiers: core is a small part of the world, and full is what it was before there were tiers."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opensama.evaluation.world import calibrate
from opensama.world import COLORS, CONTROL_FAMILIES, KINDS, TIERS, pairs, plan_edit

CORE = TIERS["core"]


def test_the_full_world_draws_what_it_always_drew():
    said = hashlib.sha256()
    for split in ("train", "test"):
        for family in (None, *TIERS["full"].families, *CONTROL_FAMILIES):
            for seed in range(8):
                plan = plan_edit(seed, split, family)
                places = [(thing.full_name, round(thing.x, 6), thing.wears) for thing in plan.source.scene.things]
                said.update(repr((plan.instruction, plan.caption, places)).encode())
    assert said.hexdigest() == "7cf819a3ec2a571c154e5d1c0457240b8a8a3bbb063c38087ea5f52f13cb0c29"


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    split=st.sampled_from(["train", "test"]),
    family=st.sampled_from((*CORE.families, *CONTROL_FAMILIES)),
)
def test_core_is_small_and_plain(seed, split, family):
    plan = plan_edit(seed, split, family, tier="core")
    assert plan == plan_edit(seed, split, family, tier="core")
    before, after = plan.source.scene, plan.target.scene
    assert 1 <= len(before.things) <= 2
    assert before.lettering is None
    for thing in (*before.things, *after.things):
        assert thing.kind in CORE.kinds
        assert thing.color in CORE.colors
        assert (thing.texture, thing.wears, thing.obscured) == ("plain", None, False)
    come = [thing for thing in after.things if thing not in before.things]
    if family != "swapped":
        assert all((thing.kind, thing.color) in pairs(split) for thing in come)


def test_core_has_twelve_clear_kinds_and_both_sides_of_the_split():
    assert len(set(CORE.kinds) & set(KINDS)) == 12
    assert len(set(CORE.colors) & set(COLORS)) == 8
    assert {kind for kind, _ in pairs("test", "core")} == {kind for kind, _ in pairs("train", "core")} == {*CORE.kinds}
    assert not set(pairs("test", "core")) & set(pairs("train"))
    with pytest.raises(ValueError, match="unknown family 'text'"):
        plan_edit(0, "train", "text", tier="core")


def test_the_measure_judges_edits_of_the_core():
    found = calibrate(lambda frames: frames, n=1, tier="core", families=("recolor",), frames=3, size=64)
    assert found.shares()["all"]["exact"] == (1, 1)
    assert found.shares()["all"]["copy"] == (0, 1)
