"""The clip that the page offers to try: drawn by the world, with a chord that fades.

python -m tests.apps.sample_clip src/opensama/apps/service/static/sample.mp4
"""

from __future__ import annotations

import random
import sys
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from opensama.media.video_io import write_video
from opensama.values import Video
from opensama.world import render, sample_scene, to_uint8
from opensama.world.scenes import FPS
from tests.media.making import add_sound

SEED, FRAMES, SIZE, RATE = 100, 33, (216, 384), 44_100
CHORD = 220.0, 277.18, 329.63, 440.0  # Hz: A major


def chord(seconds: float) -> np.ndarray:
    """Its samples, from -1 to 1."""
    at = np.arange(round(seconds * RATE)) / RATE
    tones = sum(np.sin(2 * np.pi * tone * at) * np.exp(-at * (1 + place / 3)) for place, tone in enumerate(CHORD))
    return (0.12 * tones * np.minimum(1, at * 40)).astype(np.float32)


def main(out: Path) -> None:
    frames = np.asarray(to_uint8(render([sample_scene(random.Random(SEED))], FRAMES, *SIZE)[0]))
    with TemporaryDirectory() as folder:
        silent = Path(folder) / "silent.mp4"
        write_video(Video.from_frames(frames, Fraction(FPS)), silent, quality=60)
        add_sound(silent, out, rate=RATE, wave=chord(FRAMES / FPS))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
