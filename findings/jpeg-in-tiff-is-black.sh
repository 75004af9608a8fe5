#!/usr/bin/env bash
# FFmpeg decodes a TIFF with JPEG compression to a black picture, without an error.
#
# One would expect: the picture, or an error that says the compression is not supported.
# What happens (PyAV 18.1.0, Pillow 12.0.0, libavcodec 62.28.102), white of 64x48 saved by Pillow as JPEG within TIFF:
#   Pillow reads 255 to 255
#   FFmpeg reads 0 to 0 in a frame of rgb24, is_corrupt False
# Scanners and slide archives write such files.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env; env/bin/pip install -q av==18.1.0 numpy==2.3.5 pillow==12.0.0
env/bin/python - <<'P'
import av, numpy as np
from PIL import Image, __version__

print("PyAV", av.__version__, "Pillow", __version__, "libavcodec", *av.library_versions["libavcodec"], sep=" ")
Image.new("RGB", (64, 48), "white").save("white.tif", compression="jpeg")
pillow = np.asarray(Image.open("white.tif"))
with av.open("white.tif") as container:
    frame = next(container.decode(video=0))
ours = frame.to_ndarray()
print("Pillow reads", pillow.min(), "to", pillow.max())
corrupt = frame.is_corrupt
print(f"FFmpeg reads {ours.min()} to {ours.max()} in a frame of {frame.format.name}, is_corrupt {corrupt}")
assert pillow.min() == 255 and ours.max() == 0 and not corrupt, "this has changed"
P
