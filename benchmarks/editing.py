"""How long the embedded model takes for an edit, and what memory the whole command takes.

    python benchmarks/editing.py [--model tiny] [--frames 49] [--width 832 --height 480] [--threads 2]
    python benchmarks/editing.py --memory 49 600 [--against OTHER/src] [--width 1920 --height 1080]

Edits a drawn clip at full size, with `preserve`. The peer is the clip itself: seconds of work a second of video, at 16
frames a second. With `--memory`, `opensama edit` in a process of its own, from file to file, of so many frames each:
peak memory and seconds of the processor, in turns with those of another build's source folder.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import opensama
from opensama import EditRequest, Video, load
from opensama.media import write_video
from opensama.world import sample_edit

_COMMAND = """
import re, resource
from opensama.apps.cli import main
try:
    main()
finally:
    used = resource.getrusage(resource.RUSAGE_SELF)  # whose peak would be that of the process before, if higher
    peak = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]
    print(int(peak) / 1024, used.ru_utime + used.ru_stime)
"""


def whole_command(model: str, clip: Path, instruction: str, source: Path, threads: int) -> tuple[float, float]:
    """Peak MiB, and seconds of the processor, of an edit by the build in that source folder."""
    words = ["edit", clip, instruction, "--model", model, "--out", clip.with_name("edited.mp4"), "--overwrite"]
    done = subprocess.run(
        [sys.executable, "-c", _COMMAND, *map(str, words)], check=True, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": str(threads)},
    )  # fmt: skip
    peak, seconds = map(float, done.stdout.splitlines()[-1].split())
    return peak, seconds


def memory(options: argparse.Namespace) -> None:
    """The table of `--memory`; a clip swings to and fro over a few drawn frames."""
    builds = [Path(opensama.__file__).parents[1], *([options.against] if options.against else [])]
    sample = sample_edit(0, "test", "recolor", frames=9, size=(options.height, options.width))
    print("| frames | MiB | CPU s |" + " MiB, other build | CPU s | ratio of MiB |" * (len(builds) - 1))
    for count in options.memory:
        with tempfile.TemporaryDirectory() as folder:
            clip = Path(folder) / "clip.mp4"
            swing = [sample.source[8 - abs(8 - i % 16)] for i in range(count)]
            write_video(Video.from_frames(swing, fps=16), clip, on_note=lambda note: None)
            rows = [whole_command(options.model, clip, sample.instruction, at, options.threads) for at in builds]
        cells = [f"{count:,}", *(f"{cell:.{place}f}" for row in rows for place, cell in enumerate(row))]
        print(f"| {' | '.join([*cells, *(f'{rows[0][0] / row[0]:.2f}' for row in rows[1:])])} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--frames", type=int, default=49)
    parser.add_argument("--width", type=int, default=832)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", type=int, nargs="+", metavar="FRAMES")
    parser.add_argument("--against", type=Path, metavar="OTHER/src")
    options = parser.parse_args()
    if options.memory:
        memory(options)
        return
    torch.set_num_threads(options.threads)
    began = time.perf_counter()
    editor = load(options.model)
    loaded = time.perf_counter() - began
    sample = sample_edit(0, "test", "recolor", frames=options.frames, size=(options.height, options.width))
    video = Video.from_frames(sample.source, fps=16)
    began = time.perf_counter()
    frames = sum(1 for _ in editor.edit(EditRequest(video, sample.instruction)).frames())
    seconds = time.perf_counter() - began
    print(f"{frames} frames of {options.width}x{options.height} on {options.threads} threads")
    print(f"load {loaded:.1f} s (imports not counted)")
    print(f"edit {seconds:.1f} s   {seconds / (frames / 16):.1f} s a second of video")


if __name__ == "__main__":
    main()
