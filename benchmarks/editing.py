"""How long the embedded model takes for an edit, and for each of its parts.

    python benchmarks/editing.py [--model tiny] [--frames 49] [--width 832 --height 480] [--threads 2]

Edits a drawn clip at full size, with `preserve`. The peer is the clip itself: seconds of work a second of video, at 16
frames a second.
"""

from __future__ import annotations

import argparse
import time

import torch

from opensama import EditRequest, Video, load
from opensama.world import sample_edit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--frames", type=int, default=49)
    parser.add_argument("--width", type=int, default=832)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
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
