"""Pretext tasks: what is kept, what is never touched, and that a seed says all."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from opensama.pretext import (
    PAPER_SHARES,
    PRETEXT_TASKS,
    CubeInpainting,
    Mixture,
    PretextTask,
    SpeedPerturbation,
    TubeShuffle,
)
from opensama.values import UserError

SEEDS = st.integers(0, 2**63 - 1)
FRAMES = st.integers(1, 30)
SIDES = st.integers(1, 12)
ALL = sorted(PRETEXT_TASKS)
EVERY = dict.fromkeys(ALL, 1.0)


def clip(t: int, h: int = 4, w: int = 6, c: int = 2) -> Tensor:
    """A video whose every value is its own, and none is black."""
    return torch.arange(1, c * t * h * w + 1, dtype=torch.float32).view(c, t, h, w)


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


@given(name=st.sampled_from(ALL), t=FRAMES, h=SIDES, w=SIDES, seed=SEEDS)
def test_every_task_takes_every_shape_and_leaves_the_video_alone(name: str, t: int, h: int, w: int, seed: int) -> None:
    video = clip(t, h, w)
    before = video.clone()
    source = PRETEXT_TASKS[name](video, seeded(seed))
    assert torch.equal(video, before)
    assert source.dtype == video.dtype
    assert source.shape[0] == 2
    assert source.shape[2:] == (h, w)
    half = 4 * ((max(round(t / 2), 1) - 1) // 4) + 1
    assert source.shape[1] == (half if name == "speed" else t)
    if name != "tube":
        assert torch.equal(source[:, 0], video[:, 0])


@given(name=st.sampled_from(ALL), b=st.integers(1, 3), t=FRAMES, seed=SEEDS)
def test_a_batch_is_its_videos_drawn_in_turn(name: str, b: int, t: int, seed: int) -> None:
    videos = torch.stack([clip(t) * (i + 1) for i in range(b)])
    one, many = seeded(seed), seeded(seed)
    torch.testing.assert_close(
        PRETEXT_TASKS[name](videos, many),
        torch.stack([PRETEXT_TASKS[name](video, one) for video in videos]),
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float64])
def test_number_types_and_memory_layouts_change_nothing(name: str, dtype: torch.dtype) -> None:
    video = (clip(13, 4, 4, 1) % 200 + 1).to(dtype)
    interleaved = torch.stack([video[0], video[0]], -1).permute(3, 0, 1, 2)
    expected = PRETEXT_TASKS[name](interleaved.contiguous(), seeded(3))
    assert expected.dtype == dtype
    assert torch.equal(PRETEXT_TASKS[name](interleaved, seeded(3)), expected)


@pytest.mark.parametrize("name", ALL)
def test_no_pixel_is_read_to_decide_anything(name: str) -> None:
    """On the meta device there are no values, so whatever passes here runs on any device without waiting for it."""
    source = PRETEXT_TASKS[name](torch.empty(1, 3, 17, 8, 8, device="meta"), seeded(0))
    assert source.device.type == "meta"
    assert source.shape == PRETEXT_TASKS[name](torch.empty(1, 3, 17, 8, 8), seeded(0)).shape


@pytest.mark.parametrize("name", ALL)
def test_only_videos_are_taken(name: str) -> None:
    with pytest.raises(ValueError, match=r"\(3, 8, 8\)"):
        PRETEXT_TASKS[name](torch.zeros(3, 8, 8), seeded(0))


# Cube inpainting


@given(t=st.integers(2, 81), ratio=st.floats(0, 1), seed=SEEDS)
def test_a_cube_is_one_block_of_black_frames_past_the_first(t: int, ratio: float, seed: int) -> None:
    video = clip(t, 2, 2)
    source = CubeInpainting(ratio)(video, seeded(seed))
    hidden = [i for i in range(t) if bool((source[:, i] == -1).all())]
    assert len(hidden) == min(round(ratio * t), t - 1)
    assert 0 not in hidden
    assert hidden == list(range(hidden[0], hidden[-1] + 1)) if hidden else True
    kept = [i for i in range(t) if i not in hidden]
    assert torch.equal(source[:, kept], video[:, kept])


def test_a_cube_starts_anywhere_it_may() -> None:
    starts = Counter(CubeInpainting().block(10, seeded(seed)).start for seed in range(700))
    assert sorted(starts) == [1, 2, 3, 4, 5, 6, 7]
    assert min(starts.values()) > 60


@pytest.mark.parametrize(
    ("video", "black", "value"),
    [
        (torch.full((1, 9, 2, 2), 7, dtype=torch.uint8), None, 0),
        (torch.full((1, 9, 2, 2), 0.5), None, -1),
        (torch.full((1, 9, 2, 2), 0.5), 0.0, 0),
    ],
)
def test_black_follows_the_range(video: Tensor, black: float | None, value: float) -> None:
    assert CubeInpainting(black=black)(video, seeded(0)).min() == value


# Speed perturbation


@pytest.mark.parametrize(("t", "released", "whole"), [(81, 37, 41), (77, 37, 37), (49, 21, 25), (17, 5, 9), (9, 1, 5)])
def test_speed_keeps_as_many_frames_as_the_release(t: int, released: int, whole: int) -> None:
    video = clip(t, 1, 1)
    for task, left in ((SpeedPerturbation(), released), (SpeedPerturbation(whole=True), whole)):
        assert torch.equal(task(video, seeded(0)), video[:, ::2][:, :left])


@given(t=st.integers(1, 200), factor=st.floats(1, 8), whole=st.booleans())
def test_speed_only_drops_frames(t: int, factor: float, whole: bool) -> None:
    kept = SpeedPerturbation(factor, whole).kept(t)
    assert kept[0] == 0
    assert len(kept) % 4 == 1
    assert kept[-1] < t
    assert all(a < b for a, b in pairwise(kept))


# Tube shuffle


@given(t=FRAMES, h=SIDES, w=SIDES, splits=st.tuples(*[st.integers(1, 4)] * 3), seed=SEEDS)
def test_tubes_are_only_moved_and_what_does_not_divide_stays(
    t: int, h: int, w: int, splits: tuple[int, int, int], seed: int
) -> None:
    video = clip(t, h, w)
    task = TubeShuffle(splits)
    source = task(video, seeded(seed))
    for n, (channel, given_channel) in enumerate(zip(source, video, strict=True)):
        assert torch.equal(channel.flatten().sort().values, given_channel.flatten()), n
    size = [n // s for n, s in zip((t, h, w), splits, strict=True)]
    if 0 in size:
        assert torch.equal(source, video)
        return
    whole = [n * s for n, s in zip(size, splits, strict=True)]
    rest = torch.ones(t, h, w, dtype=torch.bool)
    rest[: whole[0], : whole[1], : whole[2]] = False
    assert torch.equal(source[:, rest], video[:, rest])
    restored = source.clone()
    for place, tube in enumerate(task.order(seeded(seed))):
        task.tube(restored, tube, size).copy_(task.tube(source, place, size))
    assert torch.equal(restored, video)


@pytest.mark.parametrize("t", [5, 81])
def test_all_eight_tubes_go_everywhere_although_frames_are_4k_plus_1(t: int) -> None:
    video = clip(t, 2, 2, 1)
    size = [t // 2, 1, 1]
    task = TubeShuffle()
    first = {float(task.tube(video, tube, size)[0, 0, 0, 0]): tube for tube in range(8)}
    seen = Counter()
    for seed in range(200):
        source = task(video, seeded(seed))
        assert torch.equal(source[:, -1], video[:, -1])
        seen.update((place, first[float(task.tube(source, place, size)[0, 0, 0, 0])]) for place in range(8))
    assert len(seen) == 64


# The mixture


@given(t=st.integers(1, 20), seed=SEEDS)
def test_a_sample_is_a_function_of_its_seed(t: int, seed: int) -> None:
    video = clip(t)
    first, again = Mixture(EVERY).apply(video, seed), Mixture(dict(reversed(EVERY.items()))).apply(video, seed)
    assert torch.equal(first.source, again.source)
    assert first[1:] == again[1:]
    assert first.prefix == (f"{PRETEXT_TASKS[first.name].prompt} " if first.name != "none" else "")


@settings(max_examples=10)
@given(seed=st.integers(0, 2**62))
def test_global_chance_is_neither_used_nor_moved(seed: int) -> None:
    state = torch.random.get_rng_state()
    source = Mixture(EVERY).apply(clip(9), seed).source
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(3)
    assert torch.equal(Mixture(EVERY).apply(clip(9), seed).source, source)


def test_the_papers_shares_come_out() -> None:
    mixture, video = Mixture(), torch.zeros(1, 1, 1, 1)
    drawn = Counter(mixture.apply(video, seed).name for seed in range(4000))
    for name, share in PAPER_SHARES.items():
        assert drawn[name] == pytest.approx(400 * share, abs=110), name


def test_the_papers_tokens_stand_before_the_caption() -> None:
    prefixes = {name: Mixture({name: 1}).apply(clip(9), 0).prefix for name in PAPER_SHARES}
    assert prefixes == {
        "none": "",
        "cube": "[Complete the missing regions in the video.] ",
        "speed": "[Restore the video to normal playback speed.] ",
        "tube": "[Restore the correct spatio-temporal order of the video segments.] ",
    }


def test_untouched_is_the_video_itself() -> None:
    video = clip(5)
    assert Mixture({"none": 3}).apply(video, 0).source is video


def test_tasks_can_be_set_and_added() -> None:
    class Backwards(PretextTask):
        name = "backwards"
        prompt = "[Play the video forwards.]"

        def corrupt(self, video: Tensor, generator: Generator) -> Tensor:
            return video.flip(1)

    mixture = Mixture({"backwards": 1, "cube": 0}, [Backwards(), CubeInpainting(0.5)])
    assert mixture.apply(clip(3), 1).prefix == "[Play the video forwards.] "
    half = Mixture({"cube": 1}, [CubeInpainting(0.5)]).apply(clip(8), 1).source
    assert int((half == -1).all(dim=(0, 2, 3)).sum()) == 4


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"cubes": 1}, "did you mean cube"),
        ({"zzz": 1}, "choose none, cube, speed, tube"),
        ({"cube": -1}, "zero or more"),
        ({"cube": float("nan")}, "zero or more"),
        ({"cube": 0}, "is empty"),
        ({}, "is empty"),
    ],
)
def test_a_wrong_mixture_is_said_in_a_sentence(shares: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Mixture(shares)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: CubeInpainting(1.2),
        lambda: CubeInpainting(float("nan")),
        lambda: SpeedPerturbation(0.5),
        lambda: TubeShuffle((0, 2, 2)),
    ],
)
def test_a_wrong_setting_is_said_in_a_sentence(wrong: object) -> None:
    with pytest.raises(UserError, match="must lie from"):
        wrong()  # type: ignore[operator]
