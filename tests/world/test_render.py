"""Rendering: each thing where it should be, on any size of frame, alone or in a batch."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import Tensor

from opensama.values import UserError
from opensama.world.backgrounds import BACKGROUNDS
from opensama.world.photos import load_photo
from opensama.world.render import frame_times, paint_background, paint_scene, render
from opensama.world.scenes import (
    COLORS,
    TEXTURES,
    Lettering,
    Motion,
    Scene,
    Thing,
    Wear,
    sample_scene,
)
from opensama.world.wearables import WEARABLES

ROOM = Scene((), "room", (), ()).on("room")
BALL = Thing("ball", "red", 0.0, 0.0, 0.4)


def shown(*things: Thing, **scene: object) -> Tensor:
    """[t 3 h w] of things in the room."""
    return render([replace(ROOM, things=things, **scene)], 5, 64, 64)[0]  # type: ignore[arg-type]


def differs(a: Tensor, b: Tensor) -> Tensor:
    """[t h w] where two clips are not the same."""
    return (a - b).abs().amax(1) > 0.02


def middle(where: Tensor) -> tuple[float, float]:
    """Mean column and row of a mask [h w], from -1 to 1 to the right and up."""
    rows, columns = where.nonzero().float().T
    return float(columns.mean() + 0.5) / 32 - 1, 1 - float(rows.mean() + 0.5) / 32


@pytest.mark.parametrize("size", [(64, 64), (48, 96), (80, 40)])
def test_a_batch_draws_what_each_draws_alone(size):
    scenes = [sample_scene(random.Random(i)) for i in range(6)]
    together = render(scenes, 3, *size)
    assert together.shape == (6, 3, 3, *size)
    assert together.min() >= 0
    assert together.max() <= 1
    for drawn, scene in zip(together, scenes, strict=True):
        torch.testing.assert_close(render([scene], 3, *size)[0], drawn)


def test_a_background_is_left_as_it_is_and_later_frames_can_be_drawn_by_themselves():
    for scene in (sample_scene(random.Random(i)) for i in range(5)):
        seconds = frame_times(3, start=3)
        behind = paint_background(scene, seconds, 48, 48)
        kept = behind.clone()
        torch.testing.assert_close(paint_scene(behind, scene, seconds), render([scene], 6, 48, 48)[0, 3:])
        torch.testing.assert_close(behind, kept)


@pytest.mark.parametrize("name", BACKGROUNDS)
def test_backgrounds_follow_the_camera(name):
    """A pan by whole pixels moves the picture by these pixels, and nothing else."""
    scene = replace(ROOM.on(name), pan_x=Motion(drift=1.0))  # two of 64 pixels every frame
    first, later = paint_background(scene, torch.tensor([0.0, 0.25]), 64, 64)
    torch.testing.assert_close(later[..., :-8], first[..., 8:], atol=1e-3, rtol=0)


def test_named_backgrounds_differ():
    drawn = torch.stack([render([ROOM.on(name)], 1, 64, 64)[0, 0] for name in BACKGROUNDS])
    apart = (drawn[:, None] - drawn[None]).square().mean((2, 3, 4))
    assert (apart + torch.eye(len(drawn))).min() > 0.01


def test_a_thing_stands_and_moves_where_the_scene_says():
    clip = shown(replace(BALL, x=-0.4, y=0.3, along_x=Motion(drift=2.0)))
    moved = differs(clip, shown())
    assert middle(moved[0]) == pytest.approx((-0.4, 0.3), abs=0.02)
    assert middle(moved[4]) == pytest.approx((0.1, 0.3), abs=0.02)


def test_a_thing_that_leaves_is_cut_at_the_edge():
    clip = shown(replace(BALL, x=0.5, along_x=Motion(drift=8.0)))
    assert not differs(clip, shown())[4].any()


def test_what_is_in_front_covers():
    red, blue = BALL, replace(BALL, color="blue", kind="box")
    clip = shown(red, blue)[0, :, 32, 44]
    torch.testing.assert_close(clip, shown(blue)[0, :, 32, 44])


@pytest.mark.parametrize("color", COLORS)
def test_textures_can_be_told_apart_in_every_colour(color):
    clips = [shown(replace(BALL, color=color, texture=texture))[0] for texture in TEXTURES]
    inside = differs(clips[0][None], shown()[:1])[0]
    for i, a in enumerate(clips):
        for b in clips[:i]:
            assert (a - b).abs().amax(0)[inside].mean() > 0.08


def test_textures_turn_with_their_object():
    half = Motion(drift=3.14159265 / 0.25)  # half a turn at the fifth frame
    clip = shown(Thing("star", "red", 0, 0, 0.4, texture="striped", turn=half)) - shown()
    torch.testing.assert_close(clip[4], clip[0].flip(-1, -2), atol=0.35, rtol=0)
    assert (clip[4] - clip[0].flip(-1, -2)).abs().mean() < 0.01


@pytest.mark.parametrize("kind", WEARABLES)
def test_an_accessory_rides_on_its_object(kind):
    moving = replace(BALL, y=-0.2, along_x=Motion(drift=1.0))
    bare, worn = shown(moving), shown(replace(moving, wears=Wear(kind, "blue")))
    added = differs(worn, bare)
    tall = 0.8 * 64 / 2 * 0.85  # the ball's height in pixels
    rows = added[0].any(1).nonzero()
    assert int(rows.max() - rows.min()) + 1 >= 0.33 * tall
    assert middle(added[4])[0] - middle(added[0])[0] == pytest.approx(0.25, abs=0.03)


def test_an_obscured_object_is_blocks_of_means():
    clip, plain = shown(replace(BALL, obscured=True))[0], shown(BALL)[0]
    changed = differs(clip[None], plain[None])[0]
    y, x = torch.meshgrid(*[(torch.arange(64) + 0.5) / 32 - 1] * 2, indexing="ij")
    assert not changed[torch.hypot(x, y) > 1.15 * 0.4 + 0.05].any()
    block = clip[:, 32:36, 32:36]
    torch.testing.assert_close(block, plain[:, 32:36, 32:36].mean((1, 2), keepdim=True).expand_as(block))


@pytest.mark.parametrize(("place", "half"), [("top", slice(0, 32)), ("bottom", slice(32, 64))])
def test_a_caption_is_fixed_to_the_screen(place, half):
    text = Lettering("HELLO", "yellow", place)
    pan = Motion(drift=0.5)
    added = differs(shown(lettering=text, pan_x=pan), shown(pan_x=pan))
    assert added[:, half].sum() == added.sum()
    rows = added[0].any(1).nonzero()
    assert 0.17 * 64 <= int(rows.max() - rows.min()) + 1 <= 0.3 * 64
    clip = shown(lettering=text, pan_x=pan)
    yellow = (clip - torch.tensor(COLORS["yellow"]).view(3, 1, 1)).abs().amax(1) < 0.01
    assert yellow[0].sum() > 30
    assert (yellow[0] == yellow[4]).all()


def test_six_letters_fit_a_square_frame():
    bare, said = (render([replace(ROOM, lettering=text)], 1)[0] for text in (None, Lettering("WINDOW", "red", "top")))
    columns = differs(said, bare)[0].any(0).nonzero()
    assert columns.min() >= 2
    assert columns.max() <= 125


def test_a_photo_stands_behind(tmp_path):
    red, blue = (Image.new("RGB", (60, 40), color) for color in ((255, 0, 0), (0, 0, 255)))
    red.paste(blue.crop((0, 0, 30, 40)), (30, 0))
    red.save(tmp_path / "halves.png")
    clip = render([replace(ROOM, photo=tmp_path / "halves.png", pan_x=Motion(drift=1.0))], 17, 32, 32)[0]
    torch.testing.assert_close(clip[0, :, :, 3], torch.tensor([1.0, 0, 0])[:, None].expand(-1, 32))
    assert (clip[0, 2, 5] > 0.5).tolist() == [False] * 16 + [True] * 16
    assert (clip[16, 2, 5] > 0.5).all()  # panned by half a frame


def test_a_file_that_is_no_photo_is_said_plainly(tmp_path):
    (tmp_path / "broken.jpg").write_text("not a photo")
    with pytest.raises(UserError, match="cannot be read"):
        load_photo(tmp_path / "broken.jpg", 32)
