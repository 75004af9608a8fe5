#!/usr/bin/env bash
# torchcodec 0.13.0: VideoEncoder writes HD with BT.601's matrix and says nothing of it, so players show other colours.
#
# Guess, written down first: RGB frames of 1920x1080 become BT.709, as HD is read where a file does not say, or the file says
# which matrix it has. Read by BT.709, the colours are the ones that went in.
#
# Seen with torchcodec 0.13.0: the matrix is BT.601 at every size and the stream has no color_space, color_primaries or
# color_transfer. torchcodec and PyAV read the file back alike, as BT.601; a player that takes HD for BT.709 shows green
# (0, 200, 0) with a touch of red and red darker.
#   torchcodec 0.13.0, 1920x1080
#   expected: a stream tagged bt709, or untagged numbers of BT.709: luma of (0, 200, 0) is 139
#   color_space 2 (unspecified), luma 117 (BT.601 has 117, BT.709 has 139)
#   read as BT.709 it is off by up to 32 of 255
set -euo pipefail
command -v ffmpeg >/dev/null || { echo "needs ffmpeg with its shared libraries, which torchcodec loads"; exit 1; }
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q torch==2.13.0 torchcodec==0.13.0 numpy==2.3.5 av==18.1.0
cd "$place"
"$place/venv/bin/python" - <<'PYTHON'
import av
import torch
import torchcodec
from av.video.reformatter import Colorspace
from torchcodec.encoders import VideoEncoder

green = (0, 200, 0)
print(f"torchcodec {torchcodec.__version__.partition('+')[0]}, 1920x1080")


def luma(red, blue):
    """Limited range, 8 bit, ITU-T H.273."""
    kr, kb = red, blue
    return round(16 + 219 * (kr * green[0] + (1 - kr - kb) * green[1] + kb * green[2]) / 255)


sd, hd = luma(0.299, 0.114), luma(0.2126, 0.0722)
print(f"expected: a stream tagged bt709, or untagged numbers of BT.709: luma of {green} is {hd}")
frames = torch.tensor(green, dtype=torch.uint8)[None, :, None, None].expand(3, 3, 1080, 1920).contiguous()
VideoEncoder(frames, frame_rate=24).to_file("green.mp4")
with av.open("green.mp4") as file:
    frame = next(file.decode(video=0))
    got = int(frame.to_ndarray()[540, 960])
    tagged = int(frame.colorspace)
    as_hd = frame.to_ndarray(format="rgb24", src_colorspace=Colorspace.ITU709)[540, 960].astype(int)
print(f"color_space {tagged} (unspecified), luma {got} (BT.601 has {sd}, BT.709 has {hd})")
off = int(abs(as_hd - green).max())
print(f"read as BT.709 it is off by up to {off} of 255")
assert tagged == 2 and abs(got - sd) <= 1 and abs(got - hd) > 10 and off > 10
PYTHON
