"""Draws the pictures of README and docs/evaluate.md with the embedded model, from clips that this project renders.

    python examples/pictures.py [--model tiny] [--out docs/images] [--seed 0]

For each family of edits a sheet: source, edit and exact answer, three moments each. For the README, source and edit as
strips of their own.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from opensama import EditRequest, Video, load
from opensama.evaluation.world.scores import squared_error
from opensama.pipeline.editor import Editor
from opensama.world import FAMILIES, EditSample, sample_edit

GAP = 6
PICKS = (0, 8, 16)
README = {"recolor": 7, "remove": 26, "style": 5}  # family: seed


def strip(clip: np.ndarray) -> np.ndarray:
    """Three frames of [t h w 3] side by side on white."""
    gap = np.full((clip.shape[1], GAP, 3), 255, np.uint8)
    return np.concatenate([part for i in PICKS for part in (clip[i], gap)][:-1], 1)


def edit(editor: Editor, family: str, seed: int) -> tuple[EditSample, np.ndarray]:
    sample = sample_edit(seed, "test", family, frames=17, size=256)
    edited = editor.edit(EditRequest(Video.from_frames(sample.source, fps=16), sample.instruction))
    return sample, np.stack(list(edited.frames()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    editor = load(options.model)

    def save(name: str, picture: Image.Image) -> None:
        picture.quantize(192).save(options.out / f"{name}.png", optimize=True)

    for family in FAMILIES:
        sample, edited = edit(editor, family, options.seed)
        rows = [strip(clip) for clip in (sample.source, edited, sample.target)]
        gap = np.full((GAP, rows[0].shape[1], 3), 255, np.uint8)
        body = np.concatenate([part for r in rows for part in (r, gap)][:-1])
        sheet = Image.new("RGB", (body.shape[1], body.shape[0] + 26), "white")
        sheet.paste(Image.fromarray(body), (0, 26))
        ImageDraw.Draw(sheet).text((4, 6), f"{sample.instruction}   (rows: source, edit, exact answer)", fill="black")
        save(family, sheet)
        error = squared_error(sample.source, sample.target, edited)
        print(f"{family}: {sample.instruction}  error {error:.2f} of the source's")
    for family, seed in README.items():
        sample, edited = edit(editor, family, seed)
        save(f"readme-{family}-before", Image.fromarray(strip(sample.source)))
        save(f"readme-{family}-after", Image.fromarray(strip(edited)))
        print(f"README, {family}: {sample.instruction}")


if __name__ == "__main__":
    main()
