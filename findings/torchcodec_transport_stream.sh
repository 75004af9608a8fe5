#!/usr/bin/env bash
# torchcodec 0.13.0: frames of an MPEG transport stream with B-frames are others than asked for, in the exact seek mode.
#
# Guess, written down first: `seek_mode="exact"` has scanned the file, so frame i is the i-th picture in order of time, whatever
# the container. The same packets in MP4 and in a transport stream give the same pictures.
#
# Seen with torchcodec 0.13.0 and FFmpeg 5.1: in MP4 they do. In the transport stream the decoder counts 100 frames and knows
# when they are shown, yet hands out frame 50, the next key frame, when asked for frame 0 or 30, without a word; later frames
# and get_all_frames raise. Encoded without B-frames the stream is right. (decord 0.6.0 gives frame 50 for frame 0, too.)
#   torchcodec 0.13.0
#   expected: frames 0, 30, 50 and 99 are those pictures in each file, and all 100 frames come
#   mp4: 0 30 50 99, all: 100
#   ts: 50 50 RuntimeError RuntimeError, all: RuntimeError
#   ts without B-frames: 0 30 50 99, all: 100
set -euo pipefail
command -v ffmpeg >/dev/null || { echo "needs ffmpeg with its shared libraries, which torchcodec loads"; exit 1; }
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q torch==2.13.0 torchcodec==0.13.0 numpy==2.3.5 av==18.1.0
cd "$place"
encode="ffmpeg -v error -f lavfi -i testsrc2=s=128x96:r=25:d=4 -c:v libx264 -g 50 -pix_fmt yuv420p"
$encode -bf 3 with.mp4
$encode -bf 0 without.mp4
for name in with without; do ffmpeg -v error -i $name.mp4 -c copy $name.ts; done
"$place/venv/bin/python" - <<'PYTHON'
import av
import numpy as np
import torchcodec
from torchcodec.decoders import VideoDecoder

print(f"torchcodec {torchcodec.__version__.partition('+')[0]}")
print("expected: frames 0, 30, 50 and 99 are those pictures in each file, and all 100 frames come")


def asked(path: str) -> str:
    """Which pictures, by their number in time, come for frames 0, 30, 50 and 99, and how many in all; or what is raised."""
    with av.open(path) as file:
        pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]).astype(int)

    def found(number: int) -> str:
        picture = VideoDecoder(path, dimension_order="NHWC", seek_mode="exact").get_frame_at(number).data.numpy()
        return str(np.abs(pictures - picture).mean((1, 2, 3)).argmin())

    def every() -> str:
        return str(len(VideoDecoder(path).get_all_frames().data))

    words = []
    for call in (*(lambda number=number: found(number) for number in (0, 30, 50, 99)), every):
        try:
            words.append(call())
        except RuntimeError as error:
            words.append(type(error).__name__)
    return " ".join(words[:-1]) + f", all: {words[-1]}"


results = {path: asked(path) for path in ("with.mp4", "with.ts", "without.ts")}
for name, path in (("mp4", "with.mp4"), ("ts", "with.ts"), ("ts without B-frames", "without.ts")):
    print(f"{name}: {results[path]}")
assert results["with.mp4"] == results["without.ts"] == "0 30 50 99, all: 100"
assert results["with.ts"].startswith("50 50 ") and results["with.ts"].endswith("RuntimeError")
PYTHON
