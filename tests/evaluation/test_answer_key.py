"""The answer key: which frames and boxes are looked at, what is right, what is nearest, and what is kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from opensama.evaluation.world import AnswerKey, PartCandidates
from opensama.evaluation.world.answer_key import (
    UNCHANGED_DB,
    box_around,
    grown,
    looked_at,
    middles,
    psnr,
    thirds,
    to_float,
)
from opensama.evaluation.world.clips import style_key
from opensama.evaluation.world.likeness import half, structure, to_lab
from opensama.evaluation.world.scores import answer_key
from opensama.evaluation.world.styling import blurred, border, tint, without_particles
from opensama.world import render_styled, sample_edit, to_uint8


def same(frames):
    return frames


@pytest.fixture(scope="module")
def replaced():
    sample = sample_edit(5, "test", "replace", frames=13, size=64)
    return sample, answer_key(sample, same)


@pytest.mark.parametrize("family", ["style", "recolor", "remove"])
def test_what_the_autoencoder_does_not_show_is_not_right(family: str) -> None:
    """Of an autoencoder that gives grey whatever it is given, no output says whether the edit was done."""
    sample = sample_edit(5, "test", family, frames=5, size=64)
    key = answer_key(sample, lambda frames: torch.full_like(frames, 0.5))
    for output in (sample.target, sample.source, np.full_like(sample.source, 128)):
        verdict = key.judge(output)
        assert not verdict.success
        assert verdict.parts[0].nearest == ("hidden",)
        assert verdict.parts[0].lead == 0


def test_thirds_and_the_frames_looked_at():
    assert thirds(17) == (range(6), range(6, 11), range(11, 17))
    assert looked_at(17) == ((0, (0, 4)), (4, (2, 4)), (12, (1, 4)))
    for t in (1, 5, 9, 13, 17, 21, 33, 81):
        assert len(thirds(t)) == len(looked_at(t))
        for span, (start, picks) in zip(thirds(t), looked_at(t), strict=True):
            assert start % 4 == 0
            assert {start + p for p in picks} <= set(span)


def test_a_box_is_of_whole_steps_and_within_the_frame():
    mask = torch.zeros(2, 64, 48, dtype=torch.bool)
    mask[0, 20:25, 1], mask[1, 60, 40] = True, True
    box = box_around(mask, 4)
    assert (box.top, box.left, box.height, box.width) == (16, 0, 48, 48)
    assert box.cut(mask).sum() == mask.sum()
    small = box_around(mask[:1], 4)
    assert (small.top, small.left, small.height, small.width) == (16, 0, 16, 16)


def test_grown_reaches_squares():
    mask = torch.zeros(1, 9, 9, dtype=torch.bool)
    mask[0, 4, 4] = True
    assert grown(mask, 2).sum() == 25
    assert grown(mask, 0).sum() == 1


def test_psnr():
    a = torch.zeros(1, 3, 2, 2)
    assert psnr(a, a) == 99
    assert psnr(a, a + 0.1) == pytest.approx(20)
    assert psnr(a, a + 0.1, torch.zeros(1, 2, 2, dtype=torch.bool)) == 99


def test_the_answer_is_right_and_the_source_is_not(replaced):
    sample, key = replaced
    right, copy = key.judge(sample.target), key.judge(sample.source)
    assert right.success
    assert right.parts[0].lead == pytest.approx(1, abs=0.05)
    assert right.parts[0].nearest == ("right",) * 3
    assert not any(copy.thirds)
    assert copy.parts[0].nearest == ("undone",) * 3


def test_each_wrong_answer_is_nearest_to_itself(replaced):
    sample, key = replaced
    part = sample.plan.parts[0]
    looks = [look for _, look in part.wrong]
    drawn = to_uint8(render_styled(looks, *sample.source.shape[:3]))
    for (label, _), output in zip(part.wrong, drawn, strict=True):
        verdict = key.judge(output)
        assert not verdict.success, label
        assert verdict.parts[0].nearest.count(label) >= 2, label
        assert "right" not in verdict.parts[0].nearest, label


def test_one_wrong_third_is_enough(replaced):
    sample, key = replaced
    for i, span in enumerate(thirds(13)):
        late = sample.target.copy()
        late[list(span)] = sample.source[list(span)]
        assert key.judge(late).thirds == tuple(j != i for j in range(3))


def test_kept_sees_damage_outside_only(replaced):
    sample, key = replaced
    still = key.still.numpy()
    damaged = sample.target.copy()
    damaged[still] = 255 - damaged[still]
    verdict = key.judge(damaged)
    assert max(verdict.kept) < 20
    assert not any(verdict.thirds)
    inside = sample.target.copy()
    inside[~still] = 0
    assert min(key.judge(inside).kept) > 40


def test_what_cannot_be_told_apart_is_not_asked(replaced):
    sample, _ = replaced
    source, answer = to_float(sample.source), to_float(sample.target)
    question = PartCandidates("replace", "x", source, ("twin", "other"), torch.stack((answer + 0.004, 1 - answer)))
    for third in AnswerKey(source, answer, [question], same).thirds[0]:
        assert third.labels[:3] == ("right", "undone", "other")
        assert set(third.labels[3:]) == {"half"}


def test_half_an_edit_is_nearest_to_half(replaced):
    sample, key = replaced
    for side in (slice(0, 32), slice(32, None)):
        half = sample.target.copy()
        middle = middles(torch.from_numpy(sample.mask).float())[:, 0].round().int().tolist()
        for t, x in enumerate(middle):
            part = slice(0, x) if side.start == 0 else slice(x, None)
            half[t, :, part] = sample.source[t, :, part]
        verdict = key.judge(half)
        assert not verdict.success
        assert "half" in verdict.parts[0].nearest


def test_the_middle_of_a_region():
    region = torch.zeros(2, 8, 8)
    region[0, 2:4, 5:7] = 1
    assert middles(region).tolist() == [[6, 3], [4, 4]]


@pytest.mark.parametrize("style", ["snow", "rain", "watercolor", "pencil sketch", "night", "fog"])
def test_a_style_is_more_than_its_tint(style):
    """A blurred style, one without its flakes, or one in a margin alone is nearer to it than to any other style."""
    source = sample_edit(4, "test", "style", frames=5, size=64).source
    key = style_key(source, style, same)
    clip, answer = to_float(source), key.answer
    assert key.judge(to_uint8(answer)).success
    wrong = {"blurred": blurred(answer, 4 / 128), "border": border(clip, answer, 0.1)}
    light = without_particles(style, clip)
    wrong |= {} if light is None else {"light": light}
    wrong |= {} if style in ("night", "fog") else {"tint": tint(clip, answer)}
    for name, output in wrong.items():
        assert not key.judge(to_uint8(output)).success, name


def test_a_style_of_the_wrong_colour_is_wrong_though_nearest():
    """A reddish night has the right edges and is nearer to night than to any other style: an absolute error tells."""
    key = style_key(sample_edit(4, "test", "style", frames=5, size=64).source, "night", same)
    reddish = (key.answer + torch.tensor((0.35, -0.1, -0.1)).view(3, 1, 1)).clamp(0, 1)
    edges, strength, off = structure(*(half(to_lab(frames)) for frames in (reddish, key.answer)))
    assert (edges > 0.95, 0.6 < strength < 1.6, off > 16) == (True, True, True)
    part = key.judge(to_uint8(reddish)).parts[0]
    assert part.lead > 0.25
    assert part.nearest == ("structure",)
    assert not part.right


def test_nothing_to_do_must_leave_everything():
    sample = sample_edit(3, "test", "absent", frames=5, size=64)
    key = answer_key(sample, same)
    assert key.judge(sample.source).success
    noisy = np.clip(sample.source.astype(int) + 18, 0, 255).astype(np.uint8)
    verdict = key.judge(noisy)
    assert verdict.still < UNCHANGED_DB
    assert not verdict.success


def test_both_parts_must_be_right():
    sample = sample_edit(2, "test", "two", frames=5, size=64)
    key = answer_key(sample, same)
    assert key.judge(sample.target).success
    for i, part in enumerate(sample.plan.parts):
        verdict = key.judge(to_uint8(render_styled([part.before], 5, 64, 64)[0]))
        assert [p.right for p in verdict.parts] == [j != i for j in range(2)]


def test_an_output_of_another_size_is_refused(replaced):
    sample, key = replaced
    with pytest.raises(ValueError, match="must agree"):
        key.judge(sample.target[:, :32])
