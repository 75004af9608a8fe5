#!/usr/bin/env bash
# PySceneDetect 0.7: in a file of variable frame rate `frame_num` is no frame's number.
#
# Expected: a scene that begins with the 76th frame of a file of 90 has `frame_num` 75, and the last scene ends at 90,
#           with either backend: 0.7 is the release that takes time stamps as they are.
# Seen:     the times are right (3.5 s), and the frame numbers are times multiplied by a rate: 66 through OpenCV, which
#           names the average rate, 105 through PyAV, which names the rate of the first part; there the last scene
#           ends at "frame" 148 of 90, and the file is said to last 3 s, of 5. Cutting by `frame_num` cuts elsewhere.
#
# Output (scenedetect-headless 0.7, opencv-python-headless 4.13.0.92, PyAV 18.1.0):
#   scenedetect 0.7, 90 frames, a cut before frame 75 at 3.5 s
#   opencv: rate 75/4, duration 4.8 s, scene 2 from frame_num 66 (3.5 s) to 90
#   pyav: rate 30, duration 3.0 s, scene 2 from frame_num 105 (3.5 s) to 148
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q scenedetect-headless==0.7 opencv-python-headless==4.13.0.92 av==18.1.0
cat > cut.py <<'PYTHON'
from fractions import Fraction

import av
import numpy as np
import scenedetect
from scenedetect import ContentDetector, SceneManager, open_video

pictures = np.random.default_rng(0).integers(0, 255, (2, 12, 20, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
with av.open("clip.mp4", "w") as file:
    stream = file.add_stream("libx264", rate=30, width=160, height=96, pix_fmt="yuv420p", time_base=Fraction(1, 30))
    for index in range(90):  # 60 frames at 30 a second, then 30 at 10 a second, as a telephone does when it gets dark
        frame = av.VideoFrame.from_ndarray(pictures[int(index >= 75)])
        frame.pts, frame.time_base = index if index < 60 else 60 + 3 * (index - 60), Fraction(1, 30)
        file.mux(stream.encode(frame))
    file.mux(stream.encode())

print(f"scenedetect {scenedetect.__version__}, 90 frames, a cut before frame 75 at 3.5 s")
seen = {}
for backend in ("opencv", "pyav"):
    video, manager = open_video("clip.mp4", backend=backend), SceneManager()
    manager.add_detector(ContentDetector())
    manager.detect_scenes(video)
    start, end = manager.get_scene_list()[1]
    seen[backend] = start.frame_num, round(start.seconds, 3), end.frame_num, round(video.duration.seconds, 3)
    print(
        f"{backend}: rate {video.frame_rate}, duration {video.duration.seconds} s, "
        f"scene 2 from frame_num {start.frame_num} ({start.seconds} s) to {end.frame_num}"
    )
assert seen == {"opencv": (66, 3.5, 90, 4.8), "pyav": (105, 3.5, 148, 3.0)}, "it is different now"
PYTHON
venv/bin/python cut.py
