#!/usr/bin/env bash
# Matroska's Duration, "of the Segment", written by FFmpeg for a file whose clock begins late. Guess: four seconds of
# pictures that begin at ten seconds have a Duration of 4 s, or the demuxer turns it into that, since it knows where
# the file starts. Seen with PyAV 18.1.0: it is 14 s, an end and not a length, while MP4 of the same packets says 4 s;
# start + duration is 24 s for a file that ends at 14 s. So a check for downloads that broke off calls it broken.
#
#   PyAV 18.1.0
#   expected: start 10.0, duration 4.0 in both
#   late.mkv: start 10.0, duration 14.0, last picture ends at 14.0
#   late.mp4: start 10.0, duration 4.0, last picture ends at 14.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q av==18.1.0 numpy==2.3.5
cat > "$folder/look.py" <<'P'
import sys
from fractions import Fraction

import av
import numpy as np


def write(path):
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 25)
        for index in range(100):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 2 * index, np.uint8), format="rgb24")
            frame.pts, frame.time_base = 250 + index, Fraction(1, 25)
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode(None))


print(f"PyAV {av.__version__}")
print("expected: start 10.0, duration 4.0 in both")
seen = {}
for name in ("late.mkv", "late.mp4"):
    write(f"{sys.argv[1]}/{name}")
    with av.open(f"{sys.argv[1]}/{name}") as container:
        ends = [float((p.pts + p.duration) * p.time_base) for p in container.demux(video=0) if p.pts is not None]
        seen[name] = (container.start_time / 1e6, container.duration / 1e6, round(max(ends), 3))
    start, duration, end = seen[name]
    print(f"{name}: start {start}, duration {duration}, last picture ends at {end}")
sys.exit(seen != {"late.mkv": (10.0, 14.0, 14.0), "late.mp4": (10.0, 4.0, 14.0)})
P
"$folder/venv/bin/python" "$folder/look.py" "$folder"
