#!/usr/bin/env bash
# Theora repeats a frame by a packet of no bytes. Guess: decoding such a stream gives a frame for each packet, or skips
# those. Seen with PyAV 18.1.0: the demuxer hands the empty packets out with their times, and the decoder's way in
# refuses the first of them as an invalid argument, so that container.decode() ends after one frame of a good file.
# Needs Debian's ffmpeg, which has an encoder for Theora.
#
#   PyAV 18.1.0
#   expected: 25 frames from 25 packets
#   packets: 25, of which 22 hold nothing
#   frames before the error: 1 (ArgumentError)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q av==18.1.0
ffmpeg -v error -f lavfi -i "color=gray:s=64x48:r=25:d=1,geq=lum='if(eq(N,24),200,60)':cb=128:cr=128" -c:v libtheora -q:v 8 "$folder/still.ogv"
cat > "$folder/look.py" <<'P'
import sys

import av

path = sys.argv[1]
with av.open(path) as container:
    sizes = [packet.size for packet in container.demux(video=0) if packet.pts is not None]
print(f"PyAV {av.__version__}")
print(f"expected: {len(sizes)} frames from {len(sizes)} packets")
print(f"packets: {len(sizes)}, of which {sizes.count(0)} hold nothing")
frames, error = 0, "no error"
try:
    with av.open(path) as container:
        for _ in container.decode(video=0):
            frames += 1
except av.error.FFmpegError as raised:
    error = type(raised).__name__
print(f"frames before the error: {frames} ({error})")
sys.exit(error != "ArgumentError" or 0 not in sizes or frames >= len(sizes))
P
"$folder/venv/bin/python" "$folder/look.py" "$folder/still.ogv"
