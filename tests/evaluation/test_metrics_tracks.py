"""Tracks against the drawn world's known motion: a point of the ground or of an object is known at every time."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import numpy as np
import pytest

from opensama.evaluation.metrics.tracks import LENGTH, details, followed
from opensama.world import Scene, render, sample_scene, to_uint8
from opensama.world.render import screen, stand
from opensama.world.scenes import FPS

cv2 = pytest.importorskip("cv2")

HEIGHT, WIDTH = 240, 416


def known_tracks(scene: Scene, points: np.ndarray) -> np.ndarray:
    """Where points `n (x, y)` of the first frame are in each frame `t n (x, y)`; NaN where the world does not say:
    near an outline, whose parts are the shape's own, and what comes to lie under another object."""
    across, up, unit = screen(HEIGHT, WIDTH)
    x, y = (points[:, 0] - WIDTH / 2 + 0.5) / unit, -(points[:, 1] - HEIGHT / 2 + 0.5) / unit
    begin = scene.camera(0.0)
    owner = np.full(len(points), -1)
    for number, thing in enumerate(scene.things):  # back to front
        ax, ay, size, _ = stand(thing, begin, 0.0)
        far = np.hypot(x - ax, y - ay) / size
        owner = np.where(far < 0.6, number, np.where(far < 1.5, -2, owner))
    tracks = []
    for frame in range(LENGTH + 1):
        camera = scene.camera(frame / FPS)
        to_x = (x / begin.zoom + begin.x - camera.x) * camera.zoom
        to_y = (y / begin.zoom + begin.y - camera.y) * camera.zoom
        stands = [stand(thing, camera, frame / FPS) for thing in scene.things]
        for number, thing in enumerate(scene.things):
            ax, ay, a_size, a_turn = stand(thing, begin, 0.0)
            bx, by, b_size, b_turn = stands[number]
            scale, turn = b_size / a_size, b_turn - a_turn
            cos, sin = scale * math.cos(turn), scale * math.sin(turn)
            to_x = np.where(owner == number, bx + cos * (x - ax) - sin * (y - ay), to_x)
            to_y = np.where(owner == number, by + sin * (x - ax) + cos * (y - ay), to_y)
        for number, (bx, by, size, _) in enumerate(stands):
            owner = np.where((owner < number) & (np.hypot(to_x - bx, to_y - by) < 1.5 * size), -2, owner)
        place = np.stack([to_x * unit + WIDTH / 2 - 0.5, -to_y * unit + HEIGHT / 2 - 0.5], -1)
        tracks.append(np.where(owner[:, None] == -2, np.nan, place))
    return np.stack(tracks)


def test_tracks_follow_the_worlds_motion() -> None:
    """After a whole track of sixteen steps the points are, in the mean, less than a pixel from where they should be."""
    rng = random.Random(1)
    errors, moved, asked = [], [], 0
    while len(errors) < 6:
        scene = sample_scene(rng)
        if scene.lettering is not None or any(thing.obscured for thing in scene.things):
            continue
        frames = to_uint8(render([scene], LENGTH + 1, HEIGHT, WIDTH))[0]
        gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
        points = details(gray[0])
        truth = known_tracks(scene, points)
        for first, second in pairwise(gray):
            points = followed(points, first, second)
        asked += np.isfinite(truth[-1]).all(1).sum()
        off = np.linalg.norm(points - truth[-1], axis=-1)
        if np.isfinite(off).any():
            errors.append(off[np.isfinite(off)])
            moved.append(np.linalg.norm(truth[-1] - truth[0], axis=-1)[np.isfinite(off)])
    assert np.concatenate(moved).mean() > 5, "there is motion to be followed"
    assert sum(map(len, errors)) > 0.6 * asked, "few are lost"
    assert np.median(np.concatenate(errors)) < 0.2
    assert np.concatenate(errors).mean() < 1, [round(float(each.mean()), 2) for each in errors]


def test_a_shift_is_followed_and_what_leaves_is_lost() -> None:
    rng = np.random.default_rng(0)
    wide = cv2.resize(rng.integers(0, 255, (30, 60), np.uint8), (300, 150), interpolation=cv2.INTER_CUBIC)
    first, second = wide[20:120, 40:240], wide[23:123, 47:247]  # seven to the left, three up
    points = np.asarray([[100, 50], [60.5, 70.25], [3, 50], [np.nan, np.nan]], np.float32)
    found = followed(points, np.ascontiguousarray(first), np.ascontiguousarray(second))
    assert found[:2] == pytest.approx(points[:2] - (7, 3), abs=0.1)
    assert np.isnan(found[2:]).all()


def test_there_are_no_details_in_nothing() -> None:
    assert details(np.full((60, 100), 90, np.uint8)).shape == (0, 2)
