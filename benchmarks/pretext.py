"""How many frames of a clip become a source in a CPU second, against the same tasks done frame by frame with Pillow.

    python benchmarks/pretext.py [--frames 17] [--height 480 --width 832] [--threads 2] [--rounds 3]

Both sides make a clip in turns, from the same draws, and the sources are compared; the median of the rounds. Bytes
throughout: making them floats is the same work for both, and best left to the model's device. To be run on an idle
machine: threads that wait for a busy core are counted. Clips past 32 MB pay for fresh memory, more than for the task.

    tensor to tensor     the whole: Pillow's side makes pictures of the tensor first and a tensor of them at last
    pictures to tensor   Pillow's side is given pictures, as if decoded so
    pictures only        and leaves them so, which is no input of any model: a frame that moves in time costs nothing

"mixture" weighs the tasks by the paper's shares ("none" costs nobody anything and is left out).
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

from opensama.pretext import (
    PAPER_SHARES,
    PRETEXT_TASKS,
    CubeInpainting,
    PretextTask,
    SpeedPerturbation,
    TubeShuffle,
)

Pictures = list[Image.Image]
Work = Callable[[PretextTask, Generator], Any]


def pictures_of(task: PretextTask, frames: Pictures, generator: Generator) -> Pictures:
    """What `task` does to a clip, by Pillow, a picture at a time."""
    t, (w, h) = len(frames), frames[0].size
    match task:
        case CubeInpainting():
            hidden = task.block(t, generator)
            return [
                Image.new("RGB", (w, h)) if hidden.start <= i < hidden.stop else frame for i, frame in enumerate(frames)
            ]
        case SpeedPerturbation():
            return [frames[i] for i in task.kept(t)]
        case TubeShuffle(splits=(long, down, across)):
            length, tall, wide = t // long, h // down, w // across
            cells = list(itertools.product(range(long), range(down), range(across)))
            source = [frame.copy() for frame in frames]
            for place, tube in enumerate(task.order(generator)):
                (a, y, x), (b, v, u) = (cells[n] for n in (place, tube))
                box = (u * wide, v * tall, (u + 1) * wide, (v + 1) * tall)
                for i in range(length):
                    source[a * length + i].paste(frames[b * length + i].crop(box), (x * wide, y * tall))
            return source
    return list(frames)


def to_pictures(clip: Tensor) -> Pictures:
    return [Image.fromarray(frame) for frame in clip.permute(1, 2, 3, 0).numpy()]


def to_tensor(frames: Pictures) -> Tensor:
    """`3 t h w`."""
    return torch.from_numpy(np.stack([np.asarray(frame) for frame in frames])).permute(3, 0, 1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=832)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    frames, threads = options.frames, options.threads
    decoded = torch.randint(256, (frames, options.height, options.width, 3), dtype=torch.uint8)
    clip = decoded.permute(3, 0, 1, 2)
    pictures = to_pictures(clip)

    def seconds(work: Work, task: PretextTask) -> float:
        """CPU seconds of one clip."""
        began = time.process_time()
        work(task, Generator().manual_seed(0))
        return time.process_time() - began

    sides: list[Work] = [
        lambda task, g: task(clip, g),
        lambda task, g: to_tensor(pictures_of(task, to_pictures(clip), g)),
        lambda task, g: to_tensor(pictures_of(task, pictures, g)),
        lambda task, g: pictures_of(task, pictures, g),
    ]
    print(
        f"{frames} frames of {options.width}x{options.height}, {threads} threads; frames a CPU second, ours by theirs"
    )
    print(f"{'':<10}{'ours':>8}" + "".join(f"{n:>22}" for n in ("tensor to tensor", "to tensor", "pictures only")))
    spent: dict[str, list[float]] = {}
    for name, task in PRETEXT_TASKS.items():
        if name == "none":
            continue
        same = torch.equal(*(to(task, Generator().manual_seed(0)) for to in sides[:2]))
        turns = [[seconds(side, task) for side in sides] for _ in range(options.rounds + 1)][1:]
        spent[name] = [statistics.median(turn[i] for turn in turns) for i in range(len(sides))]
        print(line(name, frames, spent[name]) + ("" if same else "  THE SOURCES DIFFER"))
    shares = {name: share for name, share in PAPER_SHARES.items() if name in spent}
    print(
        line(
            "mixture",
            frames,
            [sum(s * spent[n][i] for n, s in shares.items()) / sum(shares.values()) for i in range(len(sides))],
        )
    )


def line(name: str, frames: int, seconds: list[float]) -> str:
    ours, *theirs = (frames / max(s, 1e-6) for s in seconds)
    return f"{name:<10}{ours:>8.0f}" + "".join(f"{min(rate, 1e6):>13.0f}{ours / rate:>8.2g}x" for rate in theirs)


if __name__ == "__main__":
    main()
