#!/usr/bin/env bash
# decord 0.6.0: after a cut without encoding, which picture frame i is depends on what was read before.
#
# Guess, written down first: a second cut from a file's beginning without encoding (`ffmpeg -ss 1 -c copy`) stays in the file,
# hidden by an edit list: players do not show it, and PyAV and torchcodec do not hand it out. decord stands on FFmpeg, so it
# counts 75 frames of 100, or, if it looks past the list, 100 with the hidden ones first.
#
# Seen with decord 0.6.0: it counts 100, gives the first a time of -1 s, and hands out the 75 that are shown, then the last one
# again 25 times, when read in order. Frame 60 asked for at once is another picture than frame 60 read in order: it is found
# from the key frame before it, by numbers that count the hidden ones. A mask or a caption by number belongs to one of the two.
#   decord 0.6.0
#   expected: 75 frames, and frame 60 is the source's 85th however it is read
#   PyAV: 75 frames, from the source's 25th at 0.00 s to its 99th
#   decord: 100 frames, the first is the source's 25th, at -1.00 s
#   decord, in order: frame 60 is the source's 85th, frames 74 to 99 are its 99th
#   decord, at once: frame 60 is the source's 60th
set -euo pipefail
command -v ffmpeg >/dev/null || { echo "needs ffmpeg"; exit 1; }
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q decord==0.6.0 numpy==2.3.5 av==18.1.0
cd "$place"
ffmpeg -v error -f lavfi -i testsrc2=s=128x96:r=25:d=4 -c:v libx264 -g 50 -pix_fmt yuv420p whole.mp4
ffmpeg -v error -ss 1 -i whole.mp4 -c copy cut.mp4
"$place/venv/bin/python" - <<'PYTHON'
import av
import decord
import numpy as np

print(f"decord {decord.__version__}")
print("expected: 75 frames, and frame 60 is the source's 85th however it is read")


def decode(path):
    with av.open(path) as file:
        return [(frame.to_ndarray(format="rgb24").astype(int), float(frame.time)) for frame in file.decode(video=0)]


whole = np.stack([picture for picture, _ in decode("whole.mp4")])


def number(picture):
    return int(np.abs(whole - picture).mean((1, 2, 3)).argmin())


shown = decode("cut.mp4")
first, last, time = number(shown[0][0]), number(shown[-1][0]), shown[0][1]
print(f"PyAV: {len(shown)} frames, from the source's {first}th at {time:.2f} s to its {last}th")
assert (len(shown), first, last, time) == (75, 25, 99, 0)

reader = decord.VideoReader("cut.mp4", num_threads=1)
in_order = [number(reader[i].asnumpy()) for i in range(len(reader))]
time = float(reader.get_frame_timestamp(0)[0])
print(f"decord: {len(reader)} frames, the first is the source's {in_order[0]}th, at {time:.2f} s")
assert (len(reader), in_order[0], round(time, 2)) == (100, 25, -1)

print(f"decord, in order: frame 60 is the source's {in_order[60]}th, frames 74 to 99 are its {in_order[99]}th")
assert in_order[60] == 85 and set(in_order[74:]) == {99}

at_once = number(decord.VideoReader("cut.mp4", num_threads=1)[60].asnumpy())
print(f"decord, at once: frame 60 is the source's {at_once}th")
assert at_once == 60
PYTHON
