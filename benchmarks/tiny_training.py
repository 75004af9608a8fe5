"""How many edits a second the embedded model's stages train on, on one core and on the same machine, side by side.

    python benchmarks/tiny_training.py [--steps 3]

A step is forward and backward; times are seconds of the processor, so that other work on the machine matters less. The
ratio is to whole frames with semantic tokens, as the stage `images` trains. The data are random numbers of the right
shapes; drawing is not counted.
"""

from __future__ import annotations

import argparse
import time

import torch

from opensama.models.registry import TINY
from opensama.pipeline.sama import SamaPipeline
from opensama.training.drawn import PICTURE_SHIFT
from opensama.training.optim import make_optimizers
from opensama.training.pool import LatentPool
from opensama.training.sources import PoolStream
from opensama.training.tiny import drawn_stage

POOL = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    assert TINY.folder is not None
    model = SamaPipeline.from_pretrained(TINY.folder)
    for module in (model.transformer, model.text_encoder):
        module.float()
    text = {"ids": torch.randint(2, 900, (POOL, 40)), "mask": (torch.arange(40) < 14).long().expand(POOL, 40)}

    def made(frames: int) -> LatentPool:
        edits = {key: torch.randn(POOL, 192, frames, 8, 8).half() for key in ("source", "target")}
        change, semantic = (torch.rand(POOL, frames, 8, 8) > 0.8).half(), torch.randn(POOL, 17, 96).half()
        captions = {f"caption_{key}": value for key, value in text.items()}
        return LatentPool(edits | text | captions | {"change": change, "semantic": semantic})

    pool, clips = made(1), made(5)
    ways = {
        "whole frames": PoolStream(pool, 32, 1.0),
        "windows": PoolStream(pool, 128, 1.0, sides=(4,)),
        "pictures": PoolStream(pool, 64, 1.0, pictures=True, shift=PICTURE_SHIFT),
        "whole clips": PoolStream(clips, 8, 1.0, cut=False),
        "their windows": PoolStream(clips, 25, 1.0, cut=False, sides=(4,)),
    }
    print(f"{'':<14}{'batch':>6}{'s a step':>10}{'optimizer':>11}{'edits a second':>16}{'ratio':>7}")
    first = None
    for name, stream in ways.items():
        stage = drawn_stage(name, model.transformer, model.text_encoder, model.tokenizer, [stream])
        weights = {f"{m}.{k}": p for m, module in stage.modules().items() for k, p in module.named_parameters()}
        optimizers = make_optimizers(weights, lr=1e-5, muon=1e-5, betas=(0.9, 0.99), weight_decay=0.0)
        taken, updates = [], []
        for i in range(steps + 1):  # the first one warms up
            begun = time.process_time()
            stage.step(i)["loss"].backward()
            taken.append(time.process_time() - begun)
            begun = time.process_time()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            updates.append(time.process_time() - begun)
        step, update = min(taken[1:]), min(updates[1:])
        rate = stream.batch / (step + update)
        first = first or rate
        print(f"{name:<14}{stream.batch:>6}{step:>10.2f}{update:>11.2f}{rate:>16.1f}{rate / first:>7.2f}", flush=True)


if __name__ == "__main__":
    main()
