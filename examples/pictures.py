"""Draws the pictures of README and docs/evaluate.md with the embedded model, from clips that this project renders.

    python examples/pictures.py [--model tiny] [--out docs/images] [--seed 0] [--families style,remove]
        [--readme recolor,night]

`families.png`: one edit of each family, source, edit and exact answer below each other, the middle frame. For README
source and edit of three of them as strips of three moments. `opensama gallery` shows them all in motion, with scores.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from textwrap import wrap

import numpy as np
from PIL import Image, ImageDraw

from opensama import EditRequest, Video, load
from opensama.pipeline.editor import Editor
from opensama.world import EDIT_FAMILIES, EditSample, sample_edit

GAP = 6
PICKS = (0, 8, 16)
README = {"recolor": ("recolor", 11), "sunset": ("style", 42), "sepia": ("style", 45)}  # name: family and seed


def strip(clip: np.ndarray) -> np.ndarray:
    """Three frames of [t h w 3] side by side on white."""
    gap = np.full((clip.shape[1], GAP, 3), 255, np.uint8)
    return np.concatenate([part for i in PICKS for part in (clip[i], gap)][:-1], 1)


def edit(editor: Editor, family: str, seed: int, size: int) -> tuple[EditSample, np.ndarray]:
    sample = sample_edit(seed, "test", family, frames=17, size=size)
    edited = editor.edit(EditRequest(Video.from_frames(sample.source, fps=16), sample.instruction))
    return sample, np.stack(list(edited.frames()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--families", default=",".join(EDIT_FAMILIES), help="columns of families.png")
    parser.add_argument("--readme", default=",".join(README), help="edits that README shows")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    editor = load(options.model)

    def save(name: str, picture: Image.Image) -> None:
        picture.quantize(192).save(options.out / f"{name}.png", optimize=True)

    side, top, families = 128, 44, options.families.split(",")
    sheet = Image.new("RGB", (len(families) * (side + GAP) - GAP, top + 3 * (side + GAP) - GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for column, family in enumerate(families):
        sample, edited = edit(editor, family, options.seed, side)
        x = column * (side + GAP)
        for line, words in enumerate(wrap(sample.instruction, 23)[:4]):
            draw.text((x, 10 * line), words, fill="black")
        for row, clip in enumerate((sample.source, edited, sample.target)):
            sheet.paste(Image.fromarray(clip[PICKS[1]]), (x, top + row * (side + GAP)))
        print(f"{family}: {sample.instruction}")
    save("families", sheet)
    for name in options.readme.split(","):
        sample, edited = edit(editor, *README[name], 2 * side)
        save(f"readme-{name}-before", Image.fromarray(strip(sample.source)))
        save(f"readme-{name}-after", Image.fromarray(strip(edited)))
        print(f"README, {name}: {sample.instruction}")


if __name__ == "__main__":
    main()
