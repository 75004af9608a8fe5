"""Videos of several shots, made of the drawn world, for the tests of curation."""

from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path

import numpy as np

from opensama.media.video_io import write_video
from opensama.values import Video
from opensama.world import render, sample_scene, to_uint8

SIZE = (96, 160)


def shot(seed: int, frames: int) -> np.ndarray:
    """One scene with a moving camera [t h w 3] uint8."""
    rng = random.Random(seed)
    scene = sample_scene(rng)
    while scene.still:
        scene = sample_scene(rng)
    return np.asarray(to_uint8(render([scene], frames, *SIZE))[0])


def write(path: Path, shots: list[np.ndarray], fps: Fraction | int = 24) -> Path:
    """Shots one behind the other as a file."""
    write_video(Video.from_frames(np.concatenate(shots), fps=Fraction(fps)), path)
    return path


def cut_points(shots: list[np.ndarray]) -> list[int]:
    return [0, *np.cumsum([len(frames) for frames in shots])[:-1].tolist()]
