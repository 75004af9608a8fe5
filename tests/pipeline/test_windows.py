"""Windows over long clips: nothing is lost, twins agree, weights sum to one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from opensama.pipeline.windows import WindowPlan, latent_count
from opensama.values import frames_up


@st.composite
def plans(draw) -> WindowPlan:
    length = draw(st.integers(2, 21))
    overlap = draw(st.integers(1, length - 2)) if length > 2 else 0
    return WindowPlan.of(draw(st.integers(1, 400)), 4 * (length - 1) + 1, overlap)


def twins(plan: WindowPlan) -> dict[int, list[tuple[int, int]]]:
    """For every latent of the clip the (window, place) that hold it; first latents of later windows hold none."""
    found: dict[int, list[tuple[int, int]]] = {}
    for w, start in enumerate(plan.starts):
        for i in range(plan.length):
            if i > 0 or w == 0:
                found.setdefault(start + i, []).append((w, i))
    return found


@given(plans())
def test_every_latent_is_held_and_weights_sum_to_one(plan):
    held = twins(plan)
    assert sorted(held) == list(range(latent_count(plan.frames)))
    assert plan.total == latent_count(plan.frames)
    for places in held.values():
        assert sum(float(plan.weights[w, i]) for w, i in places) == pytest.approx(1)
        assert all(plan.weights[w, i] > 0 for w, i in places)


@given(plans())
@settings(deadline=None)
def test_blending_makes_twins_equal_and_leaves_first_latents(plan):
    velocity = torch.randn(len(plan), 2, plan.length, 1, 1)
    blended = plan.blend(velocity)
    assert torch.equal(blended[:, :, 0], velocity[:, :, 0])
    for places in twins(plan).values():
        values = [blended[w, :, i] for w, i in places]
        assert all(torch.equal(value, values[0]) for value in values)
    constant = torch.full_like(velocity, 3.0)
    torch.testing.assert_close(plan.blend(constant), constant)


@given(plans())
@settings(deadline=None)
def test_noise_is_the_same_for_twins(plan):
    clip = torch.randn(1, 2, plan.total, 1, 1)
    windows = plan.split(clip)
    assert windows.shape == (len(plan), 2, plan.length, 1, 1)
    for latent, places in twins(plan).items():
        assert all(torch.equal(windows[w, :, i], clip[0, :, latent]) for w, i in places)


@given(plans())
@settings(deadline=None)
def test_gather_then_stitch_gives_every_frame_back_once(plan):
    clip = torch.arange(plan.frames, dtype=torch.float32).view(1, -1, 1, 1)
    read = []

    def frames():
        for i in range(plan.frames):
            read.append(i)
            yield clip[:, i]

    windows = list(plan.gather(frames()))
    assert read == list(range(plan.frames))
    for start, window in zip(plan.starts, windows, strict=True):
        wanted = (torch.arange(plan.window_frames) + 4 * start).clamp(max=plan.frames - 1)
        assert window.shape[1] == plan.window_frames
        assert torch.equal(window[0, :, 0, 0], wanted.float())
    chunks = list(plan.stitch(iter(windows)))
    assert all(chunk.shape[1] <= plan.window_frames for chunk in chunks)
    torch.testing.assert_close(torch.cat(chunks, dim=1), clip)


@given(plans())
@settings(deadline=None)
def test_a_windows_own_first_frame_is_not_seen(plan):
    """Later windows' first frames, which stand alone in their latent, count nothing in the crossfade."""
    windows = torch.zeros(len(plan), 1, plan.window_frames, 1, 1)
    windows[1:, :, 0] = 1
    assert not torch.cat(list(plan.stitch(iter(windows))), dim=1).any()


def test_windows_start_at_multiples_of_four_and_overlap():
    plan = WindowPlan.of(49, 17, 2)
    assert plan.starts == (0, 2, 4, 6, 8)
    assert WindowPlan.of(17, 17, 2).starts == (0,)
    assert WindowPlan.of(3, 17, 2).length == 2
    assert WindowPlan.of(81 + 64, 81, 4).starts == (0, 16)


@given(st.integers(1, 1000))
def test_latents_hold_the_padded_frames(frames):
    assert 4 * (latent_count(frames) - 1) + 1 == frames_up(frames)


@pytest.mark.parametrize(("frames", "window", "overlap"), [(0, 17, 2), (9, 16, 2), (40, 17, 4), (40, 17, -1)])
def test_impossible_plans_are_refused(frames, window, overlap):
    with pytest.raises(ValueError, match="window"):
        WindowPlan.of(frames, window, overlap)
