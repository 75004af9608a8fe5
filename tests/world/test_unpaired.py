"""Unpaired clips: one scene at two times, and an instruction that says what differs and no more."""

from __future__ import annotations

import torch

from opensama.world import render_styled
from opensama.world.scenes import FPS
from opensama.world.unpaired import LATER, movements, plan_unpaired, render_unpaired

PLANS = [plan_unpaired(seed) for seed in range(120)]


def test_the_same_for_the_same_seed():
    assert plan_unpaired(7) == PLANS[7] != plan_unpaired(7, "test")
    assert 0.5 < sum(plan.edit is not None for plan in PLANS) / len(PLANS) < 0.8
    assert all(plan.later in LATER for plan in PLANS)


def test_the_instruction_is_the_difference():
    """The edit in its own words, then what moved: read off where camera and objects are at the two times."""
    seen = set()
    for plan in PLANS:
        said = plan.instruction
        if plan.edit:
            assert said.startswith(plan.edit.instruction)
            said = said.removeprefix(plan.edit.instruction).strip()
        else:
            assert plan.source == plan.target
        scene, seconds = plan.target.scene, plan.later / FPS
        a, b = plan.source.scene.camera(0.0), scene.camera(seconds)
        for words, true in {
            "zoom in": b.zoom > a.zoom, "zoom out": b.zoom < a.zoom, "pan to the right": b.x > a.x,
            "pan to the left": b.x < a.x, "pan up": b.y > a.y, "pan down": b.y < a.y,
        }.items():  # fmt: skip
            if words in said.lower():
                seen.add(words)
                assert true, (plan.instruction, words)
        assert bool(said) == bool(movements(plan.source.scene, scene, plan.later))
    assert len(seen) == 6, seen


def test_the_second_clip_is_the_later_part_of_one_long_clip():
    plan = next(plan for plan in PLANS if plan.edit is None)
    drawn = render_unpaired([plan], 3, 32, 32)
    long = render_styled([plan.source], plan.later + 3, 32, 32)
    torch.testing.assert_close(drawn.source, long[:, :3])
    torch.testing.assert_close(drawn.target, long[:, plan.later :], atol=1e-4, rtol=0)
    assert (drawn.source - drawn.target).abs().max() > 0.05
