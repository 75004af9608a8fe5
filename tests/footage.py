"""Footage made from nothing: drawn things on a texture like a photograph, an unsteady hand, grain, and sound."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from opensama.media.video_io import write_video
from opensama.training.textures import dead_leaves
from opensama.values import Video
from opensama.world import render, sample_scene, to_uint8
from tests.media.making import add_sound

SIZE = (144, 192)
LEAVES = 128, 40  # pixels of the texture's side, and how many shapes lie over one another
SHAKE, NOISE = 0.004, 0.015


def shot(seed: int, frames: int, size: tuple[int, int] = SIZE, *, without_front: bool = False) -> np.ndarray:
    """One shot [t h w 3] uint8; `without_front` leaves out what stands in front, which is an edit of it."""
    scene = sample_scene(random.Random(seed))
    things = scene.things[:-1] if without_front else scene.things
    with TemporaryDirectory() as folder:
        photo = Path(folder) / f"{seed}.png"
        (texture,) = to_uint8(dead_leaves(1, *LEAVES, seed=seed))
        Image.fromarray(texture).save(photo)
        clean = render([replace(scene, things=things, photo=photo, shake=SHAKE, lettering=None)], frames, *size)[0]
    grain = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed)) * NOISE
    return np.asarray(to_uint8((clean + grain).clamp(0, 1)))


def record(path: Path, frames: np.ndarray, fps: Fraction | int = 16) -> Path:
    """The frames as an MP4, written by `write_video`, beside a beeping tone."""
    with TemporaryDirectory() as folder:
        silent = Path(folder) / "silent.mp4"
        write_video(Video.from_frames(frames, Fraction(fps)), silent)
        return add_sound(silent, path)
