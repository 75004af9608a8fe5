"""Reading and writing a video against plain PyAV doing the same in one run.

    python benchmarks/media.py [--frames 200] [--width 1280 --height 720]

A drawn clip is written once; then each side decodes it to RGB, and decodes it and encodes it again (libx264, the same
quality). CPU seconds, and ours as a multiple of the peer's. Ours converts colours by the stream's own matrix at full
accuracy, keeps every time stamp and reads the result back, which the peer does not.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av

from opensama import Video
from opensama.media import read_video, write_video
from opensama.world import sample_edit


def peer_decode(path: Path) -> int:
    with av.open(str(path)) as source:
        source.streams.video[0].thread_type = "AUTO"
        return sum(frame.to_ndarray(format="rgb24").shape[0] > 0 for frame in source.decode(video=0))


def peer_copy(path: Path, out: Path) -> None:
    with av.open(str(path)) as source, av.open(str(out), "w") as sink:
        given = source.streams.video[0]
        given.thread_type = "AUTO"
        stream = sink.add_stream("libx264", rate=Fraction(given.average_rate or 16), options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = given.width, given.height, "yuv420p"
        for frame in source.decode(video=0):
            rgb = frame.to_ndarray(format="rgb24")
            sink.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        sink.mux(stream.encode(None))


def seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=720)
    options = parser.parse_args()
    few = sample_edit(0, "test", "recolor", frames=17, size=(options.height, options.width)).source
    swing = [few[min(i % 32, 32 - i % 32)] for i in range(options.frames)]
    with tempfile.TemporaryDirectory() as folder:
        clip, ours, theirs = (Path(folder) / name for name in ("clip.mp4", "ours.mp4", "theirs.mp4"))
        write_video(Video.from_frames(swing, fps=24), clip)
        print(f"{options.frames} frames of {options.width}x{options.height}, CPU seconds")
        print(f"{'':<20}{'ours':>8}{'PyAV':>8}{'ratio':>8}")
        for name, mine, peer in (
            ("decode", lambda: sum(1 for _ in read_video(clip).frames()), lambda: peer_decode(clip)),
            ("decode and encode", lambda: write_video(read_video(clip), ours), lambda: peer_copy(clip, theirs)),
        ):
            a, b = seconds(mine), seconds(peer)
            print(f"{name:<20}{a:>8.2f}{b:>8.2f}{a / b:>8.2f}")


if __name__ == "__main__":
    main()
