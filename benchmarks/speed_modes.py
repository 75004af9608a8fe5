"""What `--speed` saves and costs: time, forward passes, and scores on the drawn world.

    python benchmarks/speed_modes.py [--model tiny] [--steps 20] [--guidance 1.5] [-n 1] [--parts] [--cache 0.1 ...]

The model is sampled at `--steps` steps with `--guidance`, as a released one is, and in cheaper ways; `--parts` prints
each part of the modes alone as well, `--cache` step caches of these thresholds. Every row edits the same drawn clips,
each clip in all ways after one another:

    passes   forward passes of a transformer
    blocks   the share of their blocks that was computed
    time     seconds of the processor over the first row's, one thread
    error    squared error in the changed region over the source's own: a copy has 1, the exact answer 0 (median)
    moved    distance from the first row's edit, root mean square in codes of 255
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from opensama import Editor, EditRequest, Video, load
from opensama.evaluation.world.scores import squared_error
from opensama.models.parallel import blocks
from opensama.pipeline.speed import SPEED_MODES, SpeedMode
from opensama.world import EDIT_FAMILIES, sample_edit
from opensama.world.scenes import FPS


@dataclass
class Row:
    """One way to edit, and what was found."""

    name: str
    mode: SpeedMode
    cache: float | None = None
    steps: int | None = None
    seconds: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    moved: list[float] = field(default_factory=list)
    passes: int = 0
    computed: int = 0


def table(options: argparse.Namespace, own: float | None) -> list[Row]:
    """The rows to print."""
    balanced, fast = SPEED_MODES["balanced"], SPEED_MODES["fast"]
    rows = [Row("exact", SPEED_MODES["exact"])]
    if options.parts:
        rows += [
            Row("unipc, all steps", SpeedMode(sampler="unipc")),
            Row("half the steps", SpeedMode(steps=0.5)),
            Row("half the steps, unipc", SpeedMode(steps=0.5, sampler="unipc")),
            Row("four tenths, unipc", SpeedMode(steps=0.4, sampler="unipc")),
            Row("guided in six tenths", SpeedMode(guided=0.6)),
            Row("guided in four tenths", SpeedMode(guided=0.4)),
            Row("a tenth of the steps, unguided", SpeedMode(steps=0.1, guided=0)),  # as few-step LoRAs are used
        ]
    rows += [Row(f"cache of {one:g}", SpeedMode(cached=True), one) for one in options.cache]
    return [*rows, Row("balanced", balanced, own), Row("fast", fast, own)]


def edit(editor: Editor, row: Row, request: EditRequest, options: argparse.Namespace) -> np.ndarray:
    """The row's edit, counted."""
    pipe = editor.pipeline
    defaults = replace(pipe.defaults, steps=options.steps, guidance=options.guidance, cache=row.cache)
    pipe.register_to_config(defaults=defaults.to_dict())
    began = time.process_time()
    with patch.dict(SPEED_MODES, balanced=row.mode):
        frames = editor.edit(replace(request, speed="balanced")).array()
    row.seconds.append(time.process_time() - began)
    return frames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=1.5)
    parser.add_argument("-n", type=int, default=1, help="clips of each family of edits")
    parser.add_argument("--families", nargs="+", default=EDIT_FAMILIES)
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--cache", type=float, nargs="*", default=[])
    options = parser.parse_args()
    torch.set_num_threads(1)
    editor = load(options.model, device="cpu")
    rows = table(options, editor.pipeline.defaults.cache)
    model: Any = editor.pipeline.transformer
    counted = [0, 0]
    inner: list[Any] = list(blocks(model))[1:]  # a cache computes the first one always

    def count(place: int) -> None:
        counted[place] += 1

    hooks = [model.proj_out.register_forward_hook(lambda *_: count(0))]
    hooks += [block.attn1.to_q.register_forward_hook(lambda *_: count(1)) for block in inner]
    for family in options.families:
        for i in range(options.n):
            sample = sample_edit(f"0-{i}", "test", family, 17, 128)
            request = EditRequest(Video.from_frames(sample.source, FPS), sample.instruction, preserve=False)
            first = None
            for row in rows:
                counted[:] = 0, 0
                frames = edit(editor, row, request, options)
                row.passes, row.computed = row.passes + counted[0], row.computed + counted[1]
                first = frames if first is None else first
                row.errors.append(squared_error(sample.source, sample.target, frames))
                row.moved.append(float(np.sqrt(np.square(frames.astype(np.float32) - first).mean())))
    clips = len(rows[0].seconds)
    print(f"{options.model}, {clips} clips, {options.steps} steps, guidance {options.guidance:g}\n")
    print("| | passes | blocks | time | error | moved |\n|---|---:|---:|---:|---:|---:|")
    for row in rows:
        share = (row.passes + row.computed) / (row.passes * (1 + len(inner)))
        ratio = np.median(np.array(row.seconds) / rows[0].seconds)
        print(
            f"| {row.name} | {row.passes / clips:.0f} | {100 * share:.0f} % | {ratio:.2f} | {np.median(row.errors):.3f}"
            f" | {np.mean(row.moved):.1f} |",
            flush=True,
        )
    for hook in hooks:
        hook.remove()


if __name__ == "__main__":
    main()
