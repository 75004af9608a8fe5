#!/usr/bin/env bash
# Packets copied from one MP4 into another, whose track counts in the same ticks. Guess: every picture keeps its time.
# Seen with PyAV 18.1.0 (libavformat 62.12): pictures of a fragmented file with B-frames, which has no edit list, come
# out a third of a millisecond early, so that their times are no multiples of the frame's length any more. The writer
# expresses the first picture's delay as an empty edit, and edits count in the movie's ticks, thousandths of a second,
# whatever the track counts in. With `movie_timescale` set to the track's own ticks the times are kept.
#
#   PyAV 18.1.0
#   expected: the source's first stamps both times
#   source: 1/12 1/8 1/6 in ticks of 1/12288
#   copied: 1020/12288 1532/12288 2044/12288, off by 1/3072 s
#   copied with movie_timescale=12288: 1/12 1/8 1/6
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q av==18.1.0 numpy==2.3.5
cat > "$folder/look.py" <<'P'
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

folder = Path(sys.argv[1])


def make(path: Path) -> None:
    with av.open(str(path), "w", options={"movflags": "frag_keyframe+empty_moov"}) as container:
        stream = container.add_stream("libx264", rate=24, options={"bf": "2", "b_strategy": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(24):
            picture = np.full((48, 64, 3), index * 10, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def copy(source: Path, path: Path, **options: str) -> None:
    with av.open(str(source)) as given, av.open(str(path), "w", options=options) as container:
        stream = container.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.size:
                packet.stream = stream
                container.mux(packet)


def stamps(path: Path) -> tuple[list[Fraction], Fraction]:
    with av.open(str(path)) as container:
        tick = container.streams.video[0].time_base
        return sorted(p.pts * tick for p in container.demux(video=0) if p.size)[:3], tick


make(folder / "source.mp4")
copy(folder / "source.mp4", folder / "copied.mp4")
wanted, tick = stamps(folder / "source.mp4")
copy(folder / "source.mp4", folder / "finer.mp4", movie_timescale=str(tick.denominator))
print(f"PyAV {av.__version__}")
print("expected: the source's first stamps both times")
print("source:", *wanted, "in ticks of", tick)
found, again = stamps(folder / "copied.mp4")
parts = [f"{int(stamp / tick)}/{tick.denominator}" for stamp in found]
print("copied:", ", ".join(parts).replace(",", "") + f", off by {abs(found[0] - wanted[0])} s")
finer, _ = stamps(folder / "finer.mp4")
print(f"copied with movie_timescale={tick.denominator}:", *finer)
if again != tick or found == wanted or abs(found[0] - wanted[0]) > Fraction(1, 1000) or finer != wanted:
    sys.exit("this is no longer what happens")
P
"$folder/venv/bin/python" "$folder/look.py" "$folder"
