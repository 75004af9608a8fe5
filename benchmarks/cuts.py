"""Where a film's cuts are: ours against PySceneDetect's own command, CPU seconds in one run.

    python benchmarks/cuts.py [--minutes 10] [--width 1280 --height 720] [FILM]

Ours is the pass of `opensama curate clips` without its optical flow: the same detector over small frames. The film,
where none is given, is of drawn shots of three seconds, coded once and repeated packet by packet.
"""

from __future__ import annotations

import argparse
import csv
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
from media import RATE, repeat_packets

from opensama.curation.scenes import SHORTEST, Cuts, small_frames
from opensama.media.video_io import read_video
from opensama.world import render, sample_scene, to_uint8

SHOTS, SHOT_FRAMES = 8, 72


def film(path: Path, minutes: float, width: int, height: int) -> None:
    with av.open(str(path), "w") as sink:
        stream = sink.add_stream("libx264", rate=RATE, options={"preset": "veryfast", "crf": "20", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        coded = []
        for shot in range(SHOTS):
            drawn = to_uint8(render([sample_scene(random.Random(shot))], 25, height, width))[0]
            for i in range(SHOT_FRAMES):
                coded += stream.encode(av.VideoFrame.from_ndarray(drawn[abs(i % 48 - 24)], format="rgb24"))
        coded += stream.encode(None)
        repeat_packets(sink, stream, coded, minutes)


def ours(path: Path) -> list[int]:
    cuts = Cuts()
    for frame in small_frames(read_video(path)):
        cuts.add(frame)
    return cuts.starts


def peers(path: Path, folder: Path) -> list[int]:
    detect = Path(sys.executable).with_name("scenedetect")
    words = f"-i {path} -o {folder} -m {SHORTEST} detect-adaptive list-scenes -q -s -f cuts.csv".split()
    subprocess.run([detect, *words], check=True, capture_output=True)
    with open(folder / "cuts.csv", newline="") as file:
        return [int(row["Start Frame"]) - 1 for row in csv.DictReader(file)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("film", type=Path, nargs="?")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=720)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = options.film or folder / "film.mp4"
        if options.film is None:
            film(path, options.minutes, options.width, options.height)
        began, clock = time.process_time(), time.perf_counter()
        found = ours(path)
        our_seconds, our_clock = time.process_time() - began, time.perf_counter() - clock
        clock = time.perf_counter()
        known = peers(path, folder)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        peer_seconds, peer_clock = used.ru_utime + used.ru_stime, time.perf_counter() - clock
    near = sum(any(abs(cut - other) <= 1 for other in known) for cut in found)
    print(f"{len(found)} scenes by ours, {len(known)} by PySceneDetect, {near} within a frame of each other")
    print(f"ours {our_seconds:.1f} s, PySceneDetect {peer_seconds:.1f} s: ratio {our_seconds / peer_seconds:.2f}")
    print(f"by the clock {our_clock:.1f} s and {peer_clock:.1f} s: ratio {our_clock / peer_clock:.2f}")


if __name__ == "__main__":
    main()
