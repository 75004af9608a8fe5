"""Reading and writing a video against plain PyAV doing the same in one run.

    python benchmarks/media.py [--frames 200] [--width 1280 --height 720]
    python benchmarks/media.py --span 4 [--minutes 10] [--width 1920 --height 1080]

A drawn clip is written once; then each side decodes it to RGB, and decodes it and encodes it again (libx264, the same
quality). Last, frames of random 10-bit colours become RGB, and RGB 10 bit: there the peer is swscale at full accuracy,
which is up to four codes off (findings/swscale-ten-bit-white.sh). CPU seconds, and ours as a multiple of the peer's.
Ours converts colours by the stream's own matrix at full accuracy, keeps every time stamp and reads the result back,
which the peer does not.

With `--span`, so many seconds in the middle of a long H.264 file of two-second groups get other colours, without a
model, and the file is written: with all else copied, and with all of it encoded again, which is measured on `--frames`
frames and multiplied. Seconds of the clock with reading, checking and reading back, peak memory of each length's own
process, and the neighbours' PSNR.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation

from opensama import Video
from opensama.media.video_io import check_frames, read_video, write_video
from opensama.media.video_io.color import FromRGB, Orientation, ToRGB
from opensama.values import ColorInfo, Span
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


RATE, GROUP = 24, 48


def long_film(path: Path, minutes: float, width: int, height: int) -> None:
    """Four seconds of a drawn clip, coded once with B-frames and repeated packet by packet."""
    few = sample_edit(0, "test", "recolor", frames=17, size=(height, width)).source
    options = {"preset": "veryfast", "crf": "20", "g": str(GROUP), "bf": "2", "sc_threshold": "0"}
    with av.open(str(path), "w") as sink:
        stream = sink.add_stream("libx264", rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        coded = []
        for i in range(2 * GROUP):
            coded += stream.encode(av.VideoFrame.from_ndarray(few[min(i % 32, 32 - i % 32)], format="rgb24"))
        coded += stream.encode(None)
        repeat_packets(sink, stream, coded, minutes)


def repeat_packets(sink: Any, stream: Any, coded: list[av.Packet], minutes: float) -> None:
    """So many minutes of the same packets, one a frame, again and again."""
    for turn in range(round(minutes * 60 * RATE) // len(coded)):
        for one in coded:
            packet = av.Packet(bytes(one))
            packet.stream, packet.time_base, packet.is_keyframe = stream, one.time_base, one.is_keyframe
            assert one.pts is not None
            assert one.dts is not None
            packet.pts, packet.dts = one.pts + turn * len(coded), one.dts + turn * len(coded)
            packet.duration = 1
            sink.mux(packet)


def edit_span(path: Path, out: Path, seconds_long: float, copying: bool) -> None:
    """Reads, checks, edits and writes as `opensama edit` does, with other colours in place of a model."""
    source = read_video(path)
    start = source.frame_count // 2 + GROUP // 2
    stop = min(source.frame_count, start + round(seconds_long * RATE))
    check_frames(source, span=(start, stop) if copying else None)

    def frames(first: int, last: int) -> Iterator[np.ndarray]:
        for index, frame in enumerate(source.frames(first, last), first):
            yield 255 - frame if start <= index < stop else frame

    video = source.with_frames(frames)
    video = replace(video, span=Span(source, start, stop)) if copying else video
    write_video(video, out, on_note=lambda note: None)


def measured(answers: Any, *work: Any) -> None:
    began = time.perf_counter()
    edit_span(*work)
    status = Path("/proc/self/status").read_text()  # getrusage counts what the process was forked from
    answers.put((time.perf_counter() - began, int(status.split("VmHWM:")[1].split()[0]) / 1024))


def alone(*work: Any) -> tuple[float, float]:
    """Seconds, and peak MiB of a process of its own."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=measured, args=(answers, *work))
    process.start()
    answer = answers.get()
    process.join()
    return answer


def neighbours(path: Path, out: Path) -> list[float]:
    """PSNR in dB of the frames that were coded a second time though nobody edited them; edited ones fall far below."""
    found = []
    with av.open(str(path)) as a, av.open(str(out)) as b:
        for old, new in zip(a.decode(video=0), b.decode(video=0), strict=True):
            error = np.square(old.to_ndarray().astype(np.float32) - new.to_ndarray()).mean()
            if 0 < error < 255**2 / 1000:
                found.append(float(10 * np.log10(255**2 / error)))
    return found


def spans(seconds_long: float, minutes: float, frames: int, width: int, height: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole, short, sample = (Path(folder) / name for name in ("whole.mp4", "short.mp4", "sample.mp4"))
        out = Path(folder) / "out.mp4"
        long_film(whole, minutes, width, height)
        long_film(short, minutes / 10, width, height)
        long_film(sample, max(frames, 2 * GROUP) / RATE / 60, width, height)
        print(f"{seconds_long:g} seconds of {minutes:g} minutes of {width}x{height} at {RATE} frames a second, H.264")
        print(f"{'':<36}{'seconds':>9}{'peak MiB':>10}")
        ours, peak = alone(whole, out, seconds_long, True)
        print(f"{'the span encoded, all else copied':<36}{ours:>9.1f}{peak:>10.0f}")
        out.unlink()
        less, small = alone(short, out, seconds_long, True)
        print(f"{f'the same of {minutes / 10:g} minutes':<36}{less:>9.1f}{small:>10.0f}")
        found = neighbours(short, out)
        out.unlink()
        part, all_peak = alone(sample, out, seconds_long, False)
        count, total = read_video(sample).frame_count, read_video(whole).frame_count
        print(f"{f'all encoded again ({count} frames)':<36}{part:>9.1f}{all_peak:>10.0f}")
        print(
            f"all encoded again would take {part * total / count:.0f} seconds: {part * total / count / ours:.0f} times"
        )
        print(f"neighbours: {len(found)} frames, PSNR {np.mean(found):.1f} dB on average, {min(found):.1f} at least")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=720)
    parser.add_argument("--span", type=float)
    parser.add_argument("--minutes", type=float, default=10)
    options = parser.parse_args()
    if options.span:
        spans(options.span, options.minutes, options.frames, options.width, options.height)
        return
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
