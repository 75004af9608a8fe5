"""Edits at a frame rate of the model's own: which frames it sees, and what comes to the frames between."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

import opensama
from opensama.apps.cli import main
from opensama.media.video_io import read_video, write_video
from opensama.pipeline.buckets import Placement
from opensama.pipeline.frame_rate import BetweenCompositor, PickedFrames
from opensama.pipeline.preserve import ChangeCounter, Compositor, FrameBuffer, PreserveSettings, change, luminance
from opensama.values import EditRequest, Progress, UserError, Video
from opensama.world import apply_style, plan_edit, render_edits, to_uint8
from tests.pipeline.test_preserve import blurred, psnr

SIDE, FRAMES = 192, 9


def silent(frames: int, fps: float) -> Video:
    return Video.from_frames(np.zeros((frames, 2, 2, 3), np.uint8), fps)


@pytest.mark.parametrize(
    ("frames", "fps", "model_fps", "picked"),
    [
        (9, 32, 16, (0, 2, 4, 6, 8)),
        (10, 24, 16, (0, 2, 3, 5, 6, 8, 9)),  # 1.5 apart: the first and the last are among them
        (6, 30, None, (0, 1, 2, 3, 4, 5)),
        (5, 16, 16, (0, 1, 2, 3, 4)),
        (3, 8, 16, (0, 1, 1, 2, 2)),  # as released: a slow clip's frames come twice
        (2, 30, 1, (0, 1)),
        (1, 25, 16, (0,)),
    ],
)
def test_the_frames_that_a_model_sees(frames, fps, model_fps, picked):
    video = silent(frames, fps)
    found = PickedFrames.of(video, 0, frames, model_fps)
    assert found.picked == picked
    assert found.are_all == (picked == tuple(range(frames)))
    assert list(found.pick(iter(range(frames)))) == list(picked)


def test_a_frame_between_lies_by_its_time_between_two_that_are_seen():
    stamps = (0, 1, 5, 6, 10)  # of twentieths of a second, from the third frame of the video on
    video = Video(2, 2, (-9, -3, *stamps), Fraction(1, 20), Fraction(1), lambda a, b: iter(()))
    picked = PickedFrames.of(video, 2, 7, 4)
    assert picked.picked == (0, 2, 4)
    shares = [share for _, _, share in map(picked.around, range(5))]
    assert [picked.around(i)[:2] for i in range(5)] == [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2)]
    assert shares == pytest.approx([0, 1 / 5, 0, 1 / 5, 0])


def carried_edits(family: str, seed: int) -> dict[str, float]:
    """PSNR in dB, where the right answer differs from the source nearby, of every second frame of a drawn edit.

    The right answer, softened and noisy, stands in for a model: it saw all of them (`edited`), or those beside
    (`carried`); `held`: the edit of the frame before on this one. `kept`: of the rest, the share that is the source's.
    """
    batch = render_edits([plan_edit(seed, "train", family)], FRAMES, SIDE, SIDE)
    source, target = to_uint8(batch.source[0]), to_uint8(batch.target[0])
    place = Placement.of(SIDE, SIDE, 128 * 128, 16)
    rebuilt, edit = (blurred(torch.stack([place.enter(f) for f in frames], 1)) for frames in (source, target))
    edit = edit + 0.02 * torch.randn(edit.shape, generator=torch.Generator().manual_seed(0))
    m = change(edit, rebuilt)

    def buffers(every: int) -> tuple[FrameBuffer, FrameBuffer]:
        frames = len(range(0, FRAMES, every))
        one, two = FrameBuffer(frames, 3, *m.shape[1:]), FrameBuffer(frames, 2, *m.shape[1:])
        one.append(edit[:, ::every])
        two.append(torch.cat([luminance(rebuilt), m[None]])[:, ::every])
        return one, two

    counter = ChangeCounter()
    counter.add(m)
    rule = counter.rule(PreserveSettings())
    whole, seen = Compositor(place, *buffers(1), rule), Compositor(place, *buffers(2), rule)
    picked = PickedFrames.of(Video.from_frames(source, 32), 0, FRAMES, 16)
    between = BetweenCompositor(picked, place, *buffers(2), rule)
    found: dict[str, list[float]] = {"edited": [], "carried": [], "held": [], "kept": []}
    for i in range(1, FRAMES, 2):
        made = {"edited": whole.frame(i, source[i]), "carried": between.frame(i, source[i]),
                "held": seen.frame(i // 2, source[i])}  # fmt: skip
        near = batch.mask[0, i - 1 : i + 2, 0].any(0)[None].float()
        near = torch.nn.functional.max_pool2d(near, 13, 1, 6)[0].bool().numpy()
        for name, frame in made.items():
            found[name].append(psnr(frame, target[i], near))
        kept = (made["carried"] == source[i]).all(2)[~near]
        found["kept"].append(float(kept.mean()) if len(kept) else 1.0)
        assert np.array_equal(between.frame(i - 1, source[i - 1]), seen.frame(i // 2, source[i - 1]))
    return {name: float(np.mean(values)) for name, values in found.items()}


@pytest.mark.parametrize(
    ("family", "seed", "lost", "won"),  # dB: at most against all frames edited, at least against the edit held
    [("replace", 1, 1.0, 10), ("accessory", 0, 0.5, 7), ("recolor", 0, 1.0, 2.5), ("style", 0, 0, 1.5)],
)
def test_the_change_moves_with_the_source(family, seed, lost, won):
    found = carried_edits(family, seed)
    assert found["carried"] > found["edited"] - lost, found
    assert found["carried"] > found["held"] + won, found
    assert found["kept"] == 1


def test_what_flow_of_the_source_cannot_know():
    """What was behind a removed thing does not move with it: that is guessed, and better than the edit held."""
    found = carried_edits("remove", 0)
    assert found["held"] + 1 < found["carried"] < found["edited"] - 4, found


def test_no_change_is_the_source_itself_between_too():
    source = np.stack(
        [np.roll(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8), i, 1) for i in range(3)]
    )
    place = Placement.of(64, 64, 64 * 64, 16)
    rebuilt = torch.stack([place.enter(f) for f in source[::2]], 1)
    edit, guide, counter = FrameBuffer(2, 3, 64, 64), FrameBuffer(2, 2, 64, 64), ChangeCounter()
    m = change(rebuilt, rebuilt)
    counter.add(m)
    edit.append(rebuilt)
    guide.append(torch.cat([luminance(rebuilt), m[None]]))
    picked = PickedFrames.of(Video.from_frames(source, 32), 0, 3, 16)
    between = BetweenCompositor(picked, place, edit, guide, counter.rule(PreserveSettings()))
    assert np.array_equal(between.frame(1, source[1]), source[1])


@pytest.mark.parametrize(("frames", "fps", "model_fps", "seen"), [(9, 30, 15, 5), (5, 8, 16, 9)])
def test_through_the_editor(frames, fps, model_fps, seen):
    """The embedded model on a drawn clip: as near to the right answer between the frames that it saw as at these. Of a
    slow clip, whose frames it sees twice, each comes to its own place."""
    batch = render_edits([plan_edit(3, "train", "replace")], frames, 128, 128)
    source, told = Video.from_frames(to_uint8(batch.source[0]), fps), list[Progress]()
    request = EditRequest(source, "Make the scene look like sepia.", model_fps=model_fps, progress=told.append)
    edited = opensama.load("tiny", device="cpu").edit(request)
    assert {p.total for p in told if p.stage == "Editing"} == {seen}
    assert (edited.shape, edited.timestamps) == (source.shape, source.timestamps)
    right = to_uint8(apply_style("sepia", batch.source)[0])
    found = [psnr(frame, one) for frame, one in zip(edited.frames(), right, strict=True)]
    assert min(found[1::2]) > min(found[::2]) - 1 > 25, found


def test_what_is_asked_is_checked(folder, picture, tmp_path):
    clip, out = tmp_path / "clip.mp4", tmp_path / "out.mp4"
    write_video(Video.from_frames(picture(8, 32, 32), 30), clip)
    with pytest.raises(UserError, match="leave `preserve` on"):
        EditRequest(clip, "Make it blue.", model_fps=16, preserve=False)
    with pytest.raises(UserError, match="model fps must be a number from 1 to 240"):
        EditRequest(clip, "Make it blue.", model_fps=0)
    assert main(["edit", str(clip), "Make it blue.", "-m", str(folder), "-o", str(out), "--model-fps", "16"]) == 0
    assert read_video(out).shape == (8, 32, 32)
