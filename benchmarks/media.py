"""Reading and writing a video against plain PyAV doing the same in one run.

    python benchmarks/media.py [--frames 200] [--width 1280 --height 720]

A drawn clip is written once; then each side decodes it to RGB, and decodes it and encodes it again (libx264, the same
quality). Last, frames of random 10-bit colours become RGB, and RGB 10 bit: there the peer is swscale at full accuracy,
which is up to four codes off (findings/swscale-ten-bit-white.sh). CPU seconds, and ours as a multiple of the peer's.
Ours converts colours by the stream's own matrix at full accuracy, keeps every time stamp and reads the result back,
which the peer does not.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Interpolation

from opensama import Video
from opensama.media import read_video, write_video
from opensama.media.video_io.color import FromRGB, Orientation, ToRGB
from opensama.values import ColorInfo
from opensama.world import sample_edit

DEEP = "yuv420p10le"


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


def ten_bits(width: int, height: int, frames: int) -> list[tuple[str, Callable[[], object], Callable[[], object]]]:
    picture = np.random.default_rng(0).integers(0, 65_536, (height, width, 3)).astype(np.uint16)
    to_rgb, of_rgb = ToRGB(width, height, ColorInfo(), True, Orientation()), FromRGB(DEEP, ColorInfo(), width, height)
    frame, exact = of_rgb(picture), Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT

    def peer_write() -> None:
        rgb = av.VideoFrame.from_ndarray(picture, format="rgb48le")
        rgb.reformat(format=DEEP, src_color_range=2, dst_color_range=1, dst_colorspace=1, interpolation=exact)

    def peer_read() -> None:
        frame.reformat(format="rgb48le", dst_color_range=2, interpolation=exact).to_ndarray()

    def often(work: Callable[[], object]) -> Callable[[], object]:
        return lambda: [work() for _ in range(frames)]

    return [
        ("10 bit to RGB", often(lambda: to_rgb(frame)), often(peer_read)),
        ("RGB to 10 bit", often(lambda: of_rgb(picture)), often(peer_write)),
    ]


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
            *ten_bits(options.width, options.height, options.frames),
        ):
            a, b = seconds(mine), seconds(peer)
            print(f"{name:<20}{a:>8.2f}{b:>8.2f}{a / b:>8.2f}")


if __name__ == "__main__":
    main()
