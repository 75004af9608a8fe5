"""Each metric on inputs whose truth is known: exact edits of the drawn world, and harm done by hand."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from opensama.evaluation.metrics import METRIC_CONTROLS, METRICS, measure_edit, measure_with_controls
from opensama.values import UserError, Video
from opensama.world import EditSample, sample_edit

FRAMES = 17


@cache
def sample(family: str = "recolor", seed: int = 0) -> EditSample:
    return sample_edit(seed, "test", family, frames=FRAMES, size=(128, 192))


def video(frames: np.ndarray, fps: int = 16) -> Video:
    return Video.from_frames(frames, fps=fps)


def noisy(frames: np.ndarray, level: float, seed: int = 0) -> np.ndarray:
    """With gaussian noise, on grey-ish frames so that none of it is cut off."""
    noise = np.random.default_rng(seed).normal(0, level, frames.shape)
    return np.clip(np.rint(frames + noise), 0, 255).astype(np.uint8)


def soft(frames: np.ndarray) -> np.ndarray:
    """The same with all levels from 64 to 192: harm is not cut off at the ends."""
    return (64 + frames.astype(np.float32) / 2).astype(np.uint8)


def test_doing_nothing_is_told_from_an_edit() -> None:
    one = video(sample().source)
    found = measure_with_controls(one, one)
    assert found.values == found.controls["copy"]
    assert found.values["edited_share"] == found.values["edit_strength"] == 0
    assert found.values["flicker"] == found.values["warp_error"] == 0
    assert found.values["unedited_psnr"] == 100
    assert found.values["motion_fidelity"] == pytest.approx(1)
    assert found.values.keys() == METRICS.keys()


def test_controls_fall_where_they_should() -> None:
    found = measure_with_controls(video(sample("add", 4).source), video(sample("add", 4).target))
    edit, copy, black, shuffled = (found.values, *(found.controls[name] for name in METRIC_CONTROLS))
    assert 0 < edit["edited_share"] < black["edited_share"] == 1
    assert copy["edit_strength"] < edit["edit_strength"] < black["edit_strength"]
    assert "unedited_psnr" not in black, "nothing is left of which it could be said"
    assert shuffled["flicker"] > 1
    assert shuffled["warp_error"] > edit["warp_error"] + 0.5
    assert "motion_fidelity" not in black, "there is nothing to follow"
    assert shuffled["motion_fidelity"] < edit["motion_fidelity"] - 0.3
    assert shuffled["motion_smoothness"] < copy["motion_smoothness"] - 0.003


@pytest.mark.parametrize("family", ["replace", "add", "remove", "recolor"])
def test_the_unchanged_region_is_found(family: str) -> None:
    """An exact edit leaves the rest alone to the bit; the share is what it changed and a rim."""
    pair = sample(family, 1)
    found = measure_edit(video(pair.source), video(pair.target), ["unedited_psnr", "unedited_ssim", "edited_share"])
    changed = (np.abs(pair.source.astype(int) - pair.target).max(-1) > 20).mean()
    assert found["unedited_psnr"] > 45
    assert found["unedited_ssim"] > 0.995
    assert changed < found["edited_share"] < 3 * changed + 0.05


@pytest.mark.parametrize("level", [2.0, 5.0])
def test_noise_has_its_psnr_in_the_unchanged_region(level: float) -> None:
    pair = sample("replace", 1)
    source, edited = soft(pair.source), soft(pair.target)
    found = measure_edit(video(source), video(noisy(edited, level)), ["unedited_psnr"])
    assert found["unedited_psnr"] == pytest.approx(20 * np.log10(255 / level), abs=0.3)


def test_ssim_is_scikit_images() -> None:
    similarity = pytest.importorskip("skimage.metrics").structural_similarity
    cv2 = pytest.importorskip("cv2")
    first, second = sample().source[:1], noisy(sample().source[:1], 8)
    gray = [cv2.cvtColor(frames[0], cv2.COLOR_RGB2GRAY) for frames in (first, second)]
    _, full = similarity(*gray, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True)
    found = measure_edit(video(first), video(second), ["edit_strength", "unedited_ssim"])
    assert 1 - found["edit_strength"] == pytest.approx(full.mean(), abs=1e-4)
    assert found["unedited_ssim"] == pytest.approx(full.mean(), abs=1e-2), "noise is no edit"


def test_flicker_added_by_hand_is_measured() -> None:
    """Every second frame 6 levels brighter: on a still picture 6 levels from frame to frame, flow or not."""
    still = np.repeat(soft(sample().source[:1]), FRAMES, 0)
    flickering = still.copy()
    flickering[1::2] += 6
    found = measure_edit(video(still), video(flickering), ["flicker", "warp_error"])
    assert found == pytest.approx({"flicker": 6, "warp_error": 6}, abs=0.2)


def test_flicker_is_found_under_motion_and_an_edit_is_not_flicker() -> None:
    pair = sample("recolor", 2)
    source, edited = soft(pair.source), soft(pair.target)
    flickering = edited.copy()
    flickering[1::2] += 6
    steady = measure_edit(video(source), video(edited), ["warp_error", "flicker"])
    harmed = measure_edit(video(source), video(flickering), ["warp_error", "flicker"])
    assert abs(steady["warp_error"]) < 0.3
    assert harmed["warp_error"] - steady["warp_error"] == pytest.approx(6, abs=1.5)


def test_motion_that_is_undone_or_frozen_is_not_faithful() -> None:
    source = sample("style", 3).source
    values = {
        name: measure_edit(video(source), video(frames), ["motion_fidelity"])["motion_fidelity"]
        for name, frames in {
            "darker": soft(source),
            "frozen": np.repeat(source[:1], FRAMES, 0),
            "backwards": np.concatenate([source[:1], source[:0:-1]]),
        }.items()
    }
    assert values["darker"] > 0.9
    assert values["frozen"] < 0.5
    assert values["backwards"] < 0.5


def test_a_jerk_is_not_smooth() -> None:
    """A pattern that glides evenly, and the same with every second step missing and doubled."""
    rng = np.random.default_rng(0)
    cv2 = pytest.importorskip("cv2")
    wide = cv2.resize(rng.integers(0, 255, (24, 60, 3), np.uint8), (480, 192), interpolation=cv2.INTER_CUBIC)
    even = np.stack([wide[:, 2 * i : 2 * i + 256] for i in range(FRAMES)])
    jerky = even[[i - i % 2 for i in range(FRAMES)]]
    smooth = measure_edit(video(even), video(even), ["motion_smoothness"])["motion_smoothness"]
    jerks = measure_edit(video(even), video(jerky), ["motion_smoothness"])["motion_smoothness"]
    assert smooth > 0.99
    assert jerks < smooth - 0.01


def test_one_frame_is_measured_as_far_as_it_goes() -> None:
    pair = sample()
    found = measure_edit(video(pair.source[:1]), video(pair.target[:1]))
    assert found.keys() == {"unedited_psnr", "unedited_ssim", "edited_share", "edit_strength"}


def test_every_metric_says_what_it_is() -> None:
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.says
        assert metric.higher_is_better is not None or metric.best != "higher"
        assert len(metric.cannot_see) > 10
        assert metric.range[0] < metric.range[1]
        assert metric.cost > 0


@pytest.mark.parametrize(("wish", "sentence"), [(["psnr"], "no metric 'psnr'"), (["flicker", "x"], "no metric 'x'")])
def test_an_unknown_metric_is_named(wish: list[str], sentence: str) -> None:
    one = video(sample().source[:2])
    with pytest.raises(UserError, match=sentence):
        measure_edit(one, one, wish)
