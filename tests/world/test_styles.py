"""Styles are functions of frames alone, the drawn ones are no recolourings, and particles keep to place and time."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from opensama.world.render import render
from opensama.world.scenes import sample_scene
from opensama.world.styles import STYLES, apply_style
from tests import footage

CLIPS = Path(__file__).parents[2].parent / "shared" / "clips"
DRAWN = ("watercolor", "pencil sketch", "cartoon", "pixel art")
FARTHER = 3.0  # dB between the best recolouring and what the autoencoder reaches


def drawn(seed: int, frames: int = 3, height: int = 64, width: int = 96) -> Tensor:
    return render([sample_scene(random.Random(seed))], frames, height, width)


@pytest.mark.parametrize("style", list(STYLES))
def test_styles_keep_shape_and_range_and_change_the_picture(style: str) -> None:
    frames = drawn(1)
    kept = frames.clone()
    out = apply_style(style, frames)
    assert out.shape == frames.shape
    assert 0 <= out.min()
    assert out.max() <= 1
    assert (out - frames).square().mean() > 1e-3
    assert torch.equal(frames, kept)


@pytest.mark.parametrize("style", list(STYLES))
def test_a_frame_looks_the_same_alone_and_in_its_clip(style: str) -> None:
    frames = drawn(2, 9)
    whole = apply_style(style, frames)
    part = apply_style(style, frames[:, 4:], 4)
    torch.testing.assert_close(whole[:, 4:], part, atol=2e-4, rtol=0)
    alone = apply_style(style, frames[0])
    torch.testing.assert_close(whole[0], alone, atol=2e-4, rtol=0)


@pytest.mark.parametrize("style", list(STYLES))
def test_a_style_follows_the_size_of_the_picture(style: str) -> None:
    """Twice as large, it is the same picture but for its edges: blocks, strokes and flakes grow along."""
    small = apply_style(style, drawn(3, 1, 128, 128))
    large = apply_style(style, drawn(3, 1, 256, 256))
    shrunk = torch.nn.functional.avg_pool2d(large[0], 2)[None]
    assert (small - shrunk).abs().mean() < 0.06


def test_particles_fall() -> None:
    grey = torch.full((9, 3, 64, 64), 0.4)
    for style in ("snow", "rain"):
        out = apply_style(style, grey)
        assert (out[8] - out[0]).abs().mean() > 0.02


def decibel(error: Tensor) -> float:
    return float(-10 * torch.log10(error.square().mean()))


def recoloured(source: Tensor, styled: Tensor) -> float:
    """PSNR of the best affine map of the source's colours, against the styled frames."""
    x = source.movedim(-3, -1).reshape(-1, 3).double()
    y = styled.movedim(-3, -1).reshape(-1, 3).double()
    x = torch.cat((x, torch.ones(len(x), 1, dtype=torch.double)), 1)
    return decibel(y - x @ torch.linalg.lstsq(x, y).solution)


@cache
def pipeline() -> Any:
    import opensama

    return opensama.load("tiny", device="cpu").pipeline


def through(styled: Tensor) -> float:
    """PSNR of the embedded model's autoencoder on styled frames [t 3 h w]."""
    with torch.no_grad():
        out = pipeline().decode_latents(pipeline().encode_video(styled.movedim(1, 0)[None] * 2 - 1))
    return decibel((out[0].movedim(0, 1).clamp(-1, 1) + 1) / 2 - styled)


@cache
def real(name: str) -> Tensor:
    """Five frames [t 3 128 128]."""
    from opensama.media.frames import cover, to_pixels
    from opensama.media.video_io import read_video

    frames = list(read_video(CLIPS / f"{name}--source.mp4").frames(0, 5))
    return (cover(to_pixels(frames), 128, 128)[0].movedim(0, 1) + 1) / 2


@cache
def filmed(seed: int) -> Tensor:
    """Five frames [t 3 128 128] with a photograph's texture, noise and camera shake."""
    return torch.from_numpy(footage.shot(seed, 5, (128, 128))).movedim(-1, 1) / 255


NEEDS_CLIPS = pytest.mark.skipif(not CLIPS.is_dir(), reason="the real clips (../shared/clips) are not here")


@pytest.mark.parametrize("style", DRAWN)
@pytest.mark.parametrize(
    ("clip", "names"),
    [
        (lambda seed: drawn(seed, 5, 128, 128)[0], range(4)),
        (filmed, range(2)),
        pytest.param(real, ("watercolor", "illustration", "snow", "boat"), marks=NEEDS_CLIPS),
    ],
    ids=["drawn", "filmed", "real"],
)
def test_drawn_styles_are_no_recolourings(clip: Any, names: Any, style: str) -> None:
    margins = []
    for name in names:
        source = clip(name)
        styled = apply_style(style, source)
        margins.append(through(styled) - recoloured(source, styled))
    assert min(margins) > FARTHER, margins
