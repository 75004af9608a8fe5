"""Dense flow against motion that is known: the drawn world's, a shift, a turned camera; and what the filter drops."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opensama.curation.scenes import mean_speed, moving
from opensama.curation.stage import Drop
from opensama.media.motion import Flow
from opensama.world import Scene, render, sample_scene, to_uint8
from opensama.world.render import screen, stand
from opensama.world.scenes import FPS

HEIGHT, WIDTH = 144, 256


def known_flow(scene: Scene, frame: int) -> np.ndarray:
    """Where each pixel goes until the next frame [h w (right, down)]: by the camera, or with the object it is of."""
    now, then = frame / FPS, (frame + 1) / FPS
    here, there = scene.camera(now), scene.camera(then)
    across, up, unit = (value if isinstance(value, float) else value.numpy() for value in screen(HEIGHT, WIDTH))
    x, y = np.broadcast_arrays(across[None, :], up[:, None])
    to_x = (x / here.zoom + here.x - there.x) * there.zoom
    to_y = (y / here.zoom + here.y - there.y) * there.zoom
    for thing in scene.things:
        ax, ay, a_size, a_turn = stand(thing, here, now)
        bx, by, b_size, b_turn = stand(thing, there, then)
        inside = np.hypot(x - ax, y - ay) < 0.75 * a_size  # the middle of it: its outline is the shape's own
        scale, turn = b_size / a_size, b_turn - a_turn
        cos, sin = scale * math.cos(turn), scale * math.sin(turn)
        to_x = np.where(inside, bx + cos * (x - ax) - sin * (y - ay), to_x)
        to_y = np.where(inside, by + sin * (x - ax) + cos * (y - ay), to_y)
    return np.stack([(to_x - x) * unit, -(to_y - y) * unit], -1)


def test_flow_finds_the_worlds_motion() -> None:
    """The mean end-point error over scenes of many kinds is under a pixel, on frames as small as the filter's."""
    rng, flow = random.Random(0), Flow()
    errors, motions, found = [], [], []
    for _ in range(12):
        scene = sample_scene(rng)
        frames = to_uint8(render([scene], 17, HEIGHT, WIDTH))[0]
        for frame in (2, 7, 12):
            estimate, truth = flow(frames[frame], frames[frame + 1]), known_flow(scene, frame)
            errors.append(np.linalg.norm(estimate - truth, axis=-1).mean())
            motions.append(np.linalg.norm(truth, axis=-1).mean())
            found.append(np.linalg.norm(estimate, axis=-1).mean())
    assert np.mean(motions) > 1.0, "there is motion to be found"
    assert np.mean(errors) < 0.6
    assert np.mean(errors) < np.mean(motions) / 2
    assert np.corrcoef(motions, found)[0, 1] > 0.9


def textured(seed: int) -> np.ndarray:
    """A large picture with detail everywhere."""
    import cv2

    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (60, 90, 3), np.uint8)
    return np.asarray(cv2.resize(coarse, (360, 240), interpolation=cv2.INTER_CUBIC))


@settings(max_examples=20)
@given(st.integers(-10, 10), st.integers(-10, 10), st.integers(0, 5))
def test_a_shift_is_found(right: int, down: int, seed: int) -> None:
    picture = textured(seed)
    first = picture[40:184, 40:296]
    second = picture[40 - down : 184 - down, 40 - right : 296 - right]
    error = np.linalg.norm(Flow()(first, second) - (right, down), axis=-1)
    assert np.median(error) < 0.3
    assert error[16:-16, 16:-16].mean() < 0.4


def test_speed_knows_no_size_and_no_rate() -> None:
    flow = np.full((90, 160, 2), (3.0, 4.0))
    assert mean_speed(flow, 0.1) == pytest.approx(5 / math.hypot(90, 160) / 0.1)
    assert mean_speed(np.full((180, 320, 2), (6.0, 8.0)), 0.1) == pytest.approx(mean_speed(flow, 0.1))
    assert mean_speed(flow / 2, 0.05) == pytest.approx(mean_speed(flow, 0.1))


def test_the_filter_drops_the_still_and_the_blurred() -> None:
    item = {"scores": {"motion": 0.1}}
    assert moving(item, low=0.05, high=0.2) == item
    with pytest.raises(Drop, match="too little motion"):
        moving(item, low=0.15, high=0.2)
    with pytest.raises(Drop, match="too much motion"):
        moving(item, low=0.01, high=0.05)
