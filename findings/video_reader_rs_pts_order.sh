#!/usr/bin/env bash
# video-reader-rs 0.4.1: `get_pts` numbers frames as they lie in the file, `decode` and `get_batch` as they are shown, so with
# B-frames a frame's time is another frame's.
#
# Guess, written down first: get_pts([i]) is the time of the frame that get_batch([i]) gives.
#
# Seen with 0.4.1 (0.4.3, 0.4.4 and 0.4.5 cannot be imported on Linux: "libsharpyuv-...so.0: cannot open shared object file",
# which their wheels carry where the loader does not look; with LD_LIBRARY_PATH 0.4.5 gives the same times):
#   video-reader-rs 0.4.1, 60 frames at 24 a second, up to three B-frames
#   expected: frame k at k/24 s, as PyAV says
#   get_batch: frames in the order in which they are shown
#   get_pts, in 24ths of a second: 0 1 3 2 5 4 7 6 8 10 (the order of the packets)
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q video-reader-rs==0.4.1 numpy==2.3.5 av==18.1.0
cd "$place"
"$place/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import av
import numpy as np
from video_reader import PyVideoReader

print(f"video-reader-rs {version('video-reader-rs')}, 60 frames at 24 a second, up to three B-frames")
with av.open("clip.mp4", "w") as sink:
    stream = sink.add_stream("libx264", rate=24, options={"bf": "3", "g": "30"})
    stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
    for i in range(60):
        picture = np.zeros((64, 96, 3), np.uint8)
        picture[:, :48] = 4 * i  # a frame's number, in its left half
        sink.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
    sink.mux(stream.encode(None))
with av.open("clip.mp4") as file:
    shown = [round(float(frame.time) * 24, 3) for frame in file.decode(video=0)]
with av.open("clip.mp4") as file:
    stored = [round(float(packet.pts * packet.time_base) * 24) for packet in file.demux(video=0) if packet.pts is not None]
assert shown == list(range(60)) and stored != shown
print("expected: frame k at k/24 s, as PyAV says")
frames = PyVideoReader("clip.mp4").get_batch(list(range(10)))
numbers = [round(float(frame[32, 10, 0]) / 4) for frame in frames]
assert numbers == list(range(10))
print("get_batch: frames in the order in which they are shown")
times = [round(t * 24) for t in PyVideoReader("clip.mp4").get_pts(list(range(10)))]
print("get_pts, in 24ths of a second:", *times)
assert times == stored[:10]
PYTHON
