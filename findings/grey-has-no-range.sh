#!/usr/bin/env bash
# A grey frame that says it is of limited range is converted to RGB as if it were of full range.
#
# One would expect: luma 16 and 235 of a frame marked limited are black and white, as they are in 4:2:0 beside neutral
# chroma; at the least when the caller names the range as well.
# What happens (PyAV 18.1.0, libswscale 9.5.102):
#   yuv420p, limited: luma 16 is 0, luma 235 is 255
#   gray, limited: luma 16 is 16, luma 235 is 235
# So a monochrome AV1, HEVC or FFV1 video looks washed out, black is dark grey.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env; env/bin/pip install -q av==18.1.0 numpy==2.3.5
env/bin/python - <<'P'
import av, numpy as np

print("PyAV", av.__version__, "libswscale", ".".join(map(str, av.library_versions["libswscale"])))
found = []
for name in ("yuv420p", "gray"):
    frame = av.VideoFrame(64, 64, name)
    for index, plane in enumerate(frame.planes):
        codes = np.frombuffer(plane, np.uint8).reshape(plane.height, -1)
        codes[:] = 128
        if index == 0:
            codes[:, :32], codes[:, 32:] = 16, 235
    frame.color_range = 1  # limited
    rgb = frame.reformat(format="rgb24", src_color_range=1, dst_color_range=2).to_ndarray()
    print(f"{name}, limited: luma 16 is {rgb[30, 4, 0]}, luma 235 is {rgb[30, 60, 0]}")
    found.append((int(rgb[30, 4, 0]), int(rgb[30, 60, 0])))
assert found == [(0, 255), (16, 235)], "this has changed"
P
