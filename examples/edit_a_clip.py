"""Edits a video in a few lines of Python; without a file, a drawn clip is edited.

python examples/edit_a_clip.py [VIDEO "INSTRUCTION"] [--model tiny] [--out edited.mp4]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import opensama
from opensama.world import sample_edit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", nargs="?", type=Path)
    parser.add_argument("instruction", nargs="?", default="Make the scene look like sunset.")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--out", type=Path, default=Path("edited.mp4"))
    options = parser.parse_args()

    video: opensama.Video | Path
    if options.video is None:
        video = opensama.Video.from_frames(sample_edit(0, family="style").source, fps=16)
    else:
        video = options.video
    edited = opensama.edit(video, options.instruction, model=options.model)
    edited.save(options.out, overwrite=True)
    print(f"{edited.frame_count} frames of {edited.width}x{edited.height} in {options.out}")


if __name__ == "__main__":
    main()
