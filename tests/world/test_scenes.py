"""Scenes: what is drawn at random, how it moves, and how it is put in words."""

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opensama.world.backgrounds import BACKGROUNDS, PAINTERS
from opensama.world.scenes import COLORS, NO_MOTION, TEXTURES, Lettering, Motion, Scene, Thing, Wear, sample_scene

PHOTO = Path("field.jpg")
SCENES = [sample_scene(random.Random(i)) for i in range(400)]


def test_there_is_enough_to_draw():
    assert len(COLORS) == 10
    assert len(TEXTURES) == 4
    assert len(BACKGROUNDS) >= 10
    assert {b.painter for b in BACKGROUNDS.values()} == set(PAINTERS)


@given(
    motion=st.builds(
        Motion, st.floats(-1, 1), st.floats(0, 9), st.floats(-9, 9), drift=st.floats(-2, 2), bounce=st.booleans()
    ),
)
def test_a_motion_starts_at_zero_and_keeps_its_bounds(motion):
    assert motion.at(0) == pytest.approx(0, abs=1e-12)
    for s in (0.3, 1.0, 2.5):
        assert abs(motion.at(s) - motion.drift * s) <= 2 * abs(motion.reach) + 1e-9


def test_a_bounce_turns_back_at_the_ground():
    hop = Motion(reach=0.5, rate=math.pi, bounce=True)
    assert [round(hop.at(s), 3) for s in (0, 0.5, 1, 1.5)] == [0, 0.5, 0, 0.5]


def test_the_first_frame_shows_things_at_their_own_places():
    for scene in SCENES:
        camera = scene.camera(0.0)
        assert (camera.x, camera.y, camera.zoom) == pytest.approx((0, 0, 1))


def test_captions_say_all_that_can_be_seen():
    ball = Thing("ball", "red", 0, 0, texture="striped", wears=Wear("hat", "blue"))
    scene = Scene(
        (ball, Thing("arrow", "orange", 0.5, 0)), "room", (), (), lettering=Lettering("HELLO", "white", "top")
    )
    assert scene.caption == 'A striped red ball with a blue hat and an orange arrow in a room. It says "HELLO".'
    assert scene.on("desert").caption.endswith('in a desert. It says "HELLO".')
    assert Scene((), "desert", (), ()).caption == "Nothing in front of hills."
    glasses = Thing("ball", "red", 0, 0, wears=Wear("glasses", "black"), obscured=True)
    assert Scene((glasses,), "room", (), (), photo=PHOTO).caption == (
        "A pixelated red ball with black glasses in front of a photo."
    )


def test_a_named_background_takes_the_place_of_any_other():
    scene = sample_scene(random.Random(3), photos=[PHOTO])
    there = scene.on("sea")
    assert (there.palette, there.waves) == (BACKGROUNDS["sea"].palette, BACKGROUNDS["sea"].waves)
    assert there.photo is None
    assert there.things == scene.things


def test_random_scenes_are_as_varied_as_they_should_be():
    things = [t for s in SCENES for t in s.things]

    def share(found: list[bool]) -> float:
        return sum(found) / len(found)

    assert set(Counter(len(s.things) for s in SCENES)) == {1, 2, 3, 4}
    assert {s.background for s in SCENES} == set(BACKGROUNDS)
    assert share([t.texture != "plain" for t in things]) == pytest.approx(0.4, abs=0.07)
    assert share([t.wears is not None for t in things]) == pytest.approx(0.15, abs=0.06)
    assert share([s.lettering is not None for s in SCENES]) == pytest.approx(0.12, abs=0.06)
    assert share([s.palette == BACKGROUNDS[s.background].palette for s in SCENES]) == pytest.approx(1 / 3, abs=0.08)
    assert 0.1 < share([s.still for s in SCENES]) < 0.4
    quick = [any(fastest(t) > 0.75 for t in s.things) for s in SCENES]
    assert 0.12 < share(quick) < 0.5
    assert max(fastest(t) for t in things) > 1.4


def fastest(thing: Thing) -> float:
    """The greatest speed over the first second, in half-heights a second."""
    places = [(thing.along_x.at(i / 16), thing.along_y.at(i / 16)) for i in range(17)]
    return max(16 * math.dist(a, b) for a, b in pairwise(places))


def test_no_two_things_of_a_scene_share_their_name_and_all_stay_mainly_in_view():
    gone = 0
    for scene in SCENES:
        assert len({t.name for t in scene.things}) == len(scene.things)
        for thing in scene.things:
            for i in range(17):
                camera = scene.camera(i / 16)
                x = (thing.x + thing.along_x.at(i / 16) - camera.x) * camera.zoom
                y = (thing.y + thing.along_y.at(i / 16) - camera.y) * camera.zoom
                gone += max(abs(x), abs(y)) > 1
    assert gone < 0.01 * 17 * sum(len(s.things) for s in SCENES)


def test_the_asked_object_is_there_uncovered_and_not_small():
    for i in range(200):
        scene = sample_scene(random.Random(i), ("star", "blue"))
        index, star = next((i, t) for i, t in enumerate(scene.things) if t.name == "blue star")
        assert star.size >= 0.3
        for other in scene.things[index + 1 :]:
            assert math.hypot(star.x - other.x, star.y - other.y) > 0.75 * (star.size + other.size)


def test_photos_stand_behind_half_of_the_scenes():
    scenes = [sample_scene(random.Random(i), photos=[PHOTO]) for i in range(100)]
    assert 30 < sum(s.photo == PHOTO for s in scenes) < 70
    assert all(s.background in BACKGROUNDS for s in scenes)


def test_a_still_camera_is_known_as_one():
    scene = Scene((), "room", (), ())
    assert scene.still
    assert scene.pan_x is NO_MOTION
    assert not Scene((), "room", (), (), shake=0.02).still
