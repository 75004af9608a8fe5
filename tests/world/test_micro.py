"""The micro world: few things, exact answers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opensama.evaluation.world.scores import answer_key, score_output
from opensama.world.micro import (
    MICRO_COLORS,
    MICRO_FAMILIES,
    MICRO_KINDS,
    MICRO_STYLES,
    plan_micro_clip,
    plan_micro_edit,
    sample_micro_edit,
)
from opensama.world.styled_scenes import Restyle, Swap


@given(seed=st.integers(0, 10**6), family=st.sampled_from(MICRO_FAMILIES), fast=st.booleans())
@settings(max_examples=60, deadline=None)
def test_edits_stay_inside_the_micro_world(seed, family, fast):
    plan = plan_micro_edit(seed, family, fast=fast)
    assert plan == plan_micro_edit(seed, family, fast=fast)
    assert len(plan.source.scene.things) in (1, 2)
    for look in (plan.source, plan.target, *(wrong for _, wrong in plan.parts[0].wrong)):
        assert len(look.scene.things) <= len(plan.source.scene.things)
        assert all(t.kind in MICRO_KINDS and t.color in MICRO_COLORS for t in look.scene.things)
        assert look.style is None or look.style in MICRO_STYLES
    (part,) = plan.parts
    wrong = [look for _, look in part.wrong]
    assert len(wrong) == len(set(wrong)) >= 3
    assert plan.target not in wrong
    assert plan.source not in wrong
    match part.change:
        case Restyle(style=style):
            assert family == "style"
            assert plan.target.style == style
        case Swap(old=old, new=None):
            assert family == "remove"
            assert old not in plan.target.scene.things
        case Swap(old=old, new=new):
            assert family == "recolor"
            assert (new.kind, new.x) == (old.kind, old.x)
            assert new.color != old.color
            assert new.color in plan.instruction


def test_fast_scenes_are_faster():
    def reach(fast):
        looks = [plan_micro_edit(i, "remove", fast=fast).source for i in range(40)]
        return sum(abs(t.along_x.rate) for look in looks for t in look.scene.things) / 40

    assert reach(True) > 2 * reach(False)


def test_the_key_tells_right_from_wrong():
    for i, family in enumerate(MICRO_FAMILIES):
        sample = sample_micro_edit(i, family)
        key = answer_key(sample, lambda video: video)
        assert score_output(sample, sample.target, key).success
        assert not score_output(sample, sample.source, key).success


def test_clips_have_captions_and_families_are_known():
    assert plan_micro_clip(3) == plan_micro_clip(3)
    assert any(color in plan_micro_clip(3).caption.lower() for color in MICRO_COLORS)
    with pytest.raises(ValueError, match="unknown family"):
        plan_micro_edit(0, "replace")
