#!/usr/bin/env bash
# diffusers 0.42.1: frames as uint8 arrays, what every reader of videos gives, are taken for numbers from 0 to 1. In silence
# they enter an autoencoder 256 times too bright, and leave `export_to_video` with their colours turned over.
#
# Guess, written down first: arrays of uint8 are scaled by 255 as PIL pictures are, both for `preprocess_video`, through
# which video-to-video pipelines take their source, and for `export_to_video`; or they are refused.
#
# Seen with diffusers 0.42.1, no warning in either case:
#   the same five frames for VideoProcessor.preprocess_video: PIL -1.0 to 1.0, uint8 array -1.0 to 509.0, uint8 tensor -1.0 to 509.0
#   expected: export_to_video writes grey 200 as 200
#   grey 200 of a uint8 array comes back as 55, of a float array 200 / 255 as 200
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q torch==2.13.0 diffusers==0.42.1 numpy==2.3.5 pillow==12.0.0 imageio==2.37.2 imageio-ffmpeg==0.6.0 av==18.1.0
cd "$place"
"$place/venv/bin/python" - <<'PYTHON'
import warnings

import av
import diffusers
import numpy as np
import torch
from diffusers.utils import export_to_video
from diffusers.video_processor import VideoProcessor
from PIL import Image


def written(frames):
    export_to_video(frames, "out.mp4", fps=24)
    with av.open("out.mp4") as file:
        return int(next(file.decode(video=0)).to_ndarray(format="rgb24")[32, 48, 0])


print(f"diffusers {diffusers.__version__}")
frames = np.zeros((5, 64, 96, 3), np.uint8)
frames[:, :, 48:] = 255
grey = np.full((5, 64, 96, 3), 200, np.uint8)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    processor, ranges = VideoProcessor(vae_scale_factor=8), []
    for kind, given in (
        ("PIL", [Image.fromarray(frame) for frame in frames]),
        ("uint8 array", frames),
        ("uint8 tensor", torch.from_numpy(frames).permute(0, 3, 1, 2)),
    ):
        pixels = processor.preprocess_video(given, 64, 96)
        ranges.append((kind, float(pixels.min()), float(pixels.max())))
    print("preprocess_video: " + ", ".join(f"{kind} {low} to {high}" for kind, low, high in ranges))
    as_bytes, as_floats = written(grey), written(grey / 255)
    print(f"grey 200 of a uint8 array comes back as {as_bytes}, of a float array 200 / 255 as {as_floats}")
about = [str(warning.message) for warning in said if "uint8" in str(warning.message) or "range" in str(warning.message)]
print(f"warnings about it: {len(about)}")
assert [high for _, _, high in ranges] == [1.0, 509.0, 509.0] and not about
assert abs(as_bytes - 55) <= 1 and abs(as_floats - 200) <= 1
PYTHON
