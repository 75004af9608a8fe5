"""How long a run's items take to lay out before the first step: a million clips, each seen in four ways.

    python benchmarks/items.py [rows]

The peer, in the same run: lengths found by running the pretext task on an empty clip, as it was done before, on a
thousand of the rows. The ratio is of seconds a row.
"""

from __future__ import annotations

import random
import resource
import sys
import time

import torch

from opensama.data.samples import (
    BatchSampler,
    Layout,
    Shape,
    TrainingItem,
    TrainingRow,
    seed_of,
    shapes_of,
    training_length,
)
from opensama.pretext import Mixture

SIZES = [(1920, 1080, 300), (1280, 720, 97), (720, 1280, 81), (640, 480, 49)]
VARIANTS = 4


def rows(count: int) -> list[TrainingRow]:
    return [
        TrainingRow(line, None, f"clips/{line}.mp4", "a clip", SIZES[line % len(SIZES)]) for line in range(1, count + 1)
    ]


def one_by_one(layout: Layout, few: list[TrainingRow]) -> list[TrainingItem]:
    """What the layout did before."""
    out = []
    for row in few:
        assert row.size is not None
        frames = training_length(min(row.size[2], layout.frames))
        for variant in range(layout.variants):
            seed = seed_of(layout.seed, row.line, variant)
            source = layout.pretext.apply(torch.empty(1, frames, 1, 1), seed).source.shape[1]
            width, height = layout.bucket(*row.size[:2])
            out.append(TrainingItem(row, Shape(width, height, frames, source), seed, f"{row.line}.{variant}"))
    return out


def main(count: int) -> None:
    layout = Layout(lambda w, h: (832, 480) if w > h else (480, 832), 81, Mixture(), VARIANTS)
    given, few = rows(count), rows(1000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    items = layout.items(given, lambda row, reason: None)
    taken = time.process_time() - began
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 1e6
    for number in random.Random(0).sample(range(len(items)), 50):  # the lengths are those that the tasks leave
        item = items[number]
        corrupted = layout.pretext.apply(torch.empty(1, item.shape.frames, 1, 1), item.seed).source
        assert corrupted.shape[1] == item.shape.source_frames
    began = time.process_time()
    one_by_one(layout, few)
    peer = (time.process_time() - began) / len(few)
    began = time.process_time()
    BatchSampler(shapes_of(items), "video", 2, 0)
    batches = time.process_time() - began
    print(f"{count:,} rows, {len(items):,} items: {taken:.2f} s of CPU, {memory:,.0f} MB; batches {batches:.2f} s")
    print(f"one by one: {peer * count:,.0f} s; ratio {peer * count / taken:,.0f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
