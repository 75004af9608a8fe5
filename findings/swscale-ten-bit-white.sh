#!/usr/bin/env bash
# White of 16-bit RGB becomes luma code 943 in 10-bit limited range, where ITU-T H.273 has 940; 8 bit is right.
#
# One would expect: 65535 65535 65535 is code 940 (235 x 4), and code 940 is 65535 again, as in 8 bit.
# What happens (PyAV 18.1.0, libswscale 9.5.102):
#   8 bit: white is luma 235, luma 235 is 255
#   10 bit: white is luma 943, luma 940 is 65283 of 65535
# 943 is 4 x 235 + 3, three codes above legal white.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env; env/bin/pip install -q av==18.1.0 numpy==2.3.5
env/bin/python - <<'P'
import av, numpy as np
from av.video.reformatter import Interpolation

print("PyAV", av.__version__, "libswscale", ".".join(map(str, av.library_versions["libswscale"])))
exact = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
to_yuv = dict(src_color_range=2, dst_color_range=1, dst_colorspace=1, interpolation=exact)
to_rgb = dict(src_color_range=1, dst_color_range=2, src_colorspace=1, interpolation=exact)
found = []
kinds = ((8, "rgb24", "yuv444p", np.uint8, 235), (10, "rgb48le", "yuv444p10le", np.uint16, 940))
for bits, rgb, yuv, kind, legal in kinds:
    top = np.iinfo(kind).max
    white = av.VideoFrame.from_ndarray(np.full((64, 64, 3), top, kind), format=rgb)
    luma = int(np.frombuffer(white.reformat(format=yuv, **to_yuv).planes[0], kind)[0])
    frame = av.VideoFrame(64, 64, yuv)
    for plane, code in zip(frame.planes, (legal, 128 << bits - 8, 128 << bits - 8)):
        np.frombuffer(plane, kind)[:] = code
    back = int(frame.reformat(format=rgb, **to_rgb).to_ndarray()[32, 32, 0])
    print(f"{bits} bit: white is luma {luma}, luma {legal} is {back} of {top}")
    found.append((luma, back))
assert found == [(235, 255), (943, 65283)], "this has changed"
P
