"""What more denoising steps and more guidance make of an embedded model's edits of the drawn world.

    python benchmarks/steps.py [--model tiny] [-n 2]

For each setting, over `n` edits of each family: the squared error where the answer differs from the source, over the
source's own (median; a copy has 1, the exact answer 0), and the share of pixels with a channel at black or white that
is nowhere near that in the answer: burnt.
"""

from __future__ import annotations

import argparse

import numpy as np

from opensama import EditRequest, Video, load
from opensama.evaluation.world.scores import squared_error
from opensama.world import EDIT_FAMILIES, sample_edit
from opensama.world.scenes import FPS

STEPS, GUIDANCE = (1, 2, 4, 8, 16), (1.0, 2.0, 4.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("-n", type=int, default=2)
    options = parser.parse_args()
    editor = load(options.model)
    own = editor.entry.defaults
    settings = [(steps, own.guidance) for steps in STEPS] + [(own.steps, g) for g in GUIDANCE if g != own.guidance]
    samples = [sample_edit(f"0-{i}", "test", family, 17, 128) for family in EDIT_FAMILIES for i in range(options.n)]
    print(f"{options.model}, {len(samples)} edits\n{'steps':>6}{'guidance':>10}{'error':>8}{'burnt':>8}")
    for steps, guidance in settings:
        errors, burnt = [], []
        for sample in samples:
            video = Video.from_frames(sample.source, FPS)
            asked = EditRequest(video, sample.instruction, steps=steps, guidance=guidance, preserve=False)
            output = editor.edit(asked).array()
            errors.append(squared_error(sample.source, sample.target, output))
            ends = (output < 4) | (output > 251)
            near = (sample.target < 40) | (sample.target > 215)
            burnt.append((ends & ~near).any(-1).mean())
        print(f"{steps:>6}{guidance:>10g}{np.median(errors):>8.2f}{100 * np.mean(burnt):>7.1f}%", flush=True)


if __name__ == "__main__":
    main()
