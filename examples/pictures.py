"""Draws the README's pictures: for each family of edits the source, the embedded model's edit, and the exact answer.

python examples/pictures.py [--model tiny] [--out docs/images] [--seed 0]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from opensama import EditRequest, Video, load
from opensama.evaluation.world import score
from opensama.world import FAMILIES, sample_edit

GAP = 6


def row(frames: list[np.ndarray]) -> np.ndarray:
    """Frames [h w 3] side by side on white."""
    gap = np.full((frames[0].shape[0], GAP, 3), 255, np.uint8)
    return np.concatenate([part for frame in frames for part in (frame, gap)][:-1], 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    editor = load(options.model)
    for family in FAMILIES:
        sample = sample_edit(options.seed, "test", family, frames=17, size=256)
        video = Video.from_frames(sample.source, fps=16)
        edited = np.stack(list(editor.edit(EditRequest(video, sample.instruction)).frames()))
        picks = (0, 8, 16)
        rows = [row([clip[i] for i in picks]) for clip in (sample.source, edited, sample.target)]
        gap = np.full((GAP, rows[0].shape[1], 3), 255, np.uint8)
        body = np.concatenate([part for r in rows for part in (r, gap)][:-1])
        sheet = Image.new("RGB", (body.shape[1], body.shape[0] + 26), "white")
        sheet.paste(Image.fromarray(body), (0, 26))
        ImageDraw.Draw(sheet).text((4, 6), f"{sample.instruction}   (rows: source, edit, exact answer)", fill="black")
        path = options.out / f"{family}.png"
        sheet.save(path, optimize=True)
        print(f"{path}: {sample.instruction}  error ratio {score(sample, edited).ratio:.2f}")


if __name__ == "__main__":
    main()
