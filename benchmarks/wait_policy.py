"""What OpenMP's threads cost while they wait, alone and beside a busy neighbour: for an edit, and for training.

    python benchmarks/wait_policy.py [--rounds 3] [--steps 6]

Every figure is of fresh processes, since the policy is read when PyTorch is loaded; the policies take turns, and the
median of the rounds is printed. `library` is what PyTorch's OpenMP does by itself; it is what the ratios refer to. The
neighbour is one process that never rests. Five minutes on two cores; nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median

POLICIES = {"library": {}, "passive": {"OMP_WAIT_POLICY": "passive"}, "active": {"OMP_WAIT_POLICY": "active"}}
READ = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
# PyTorch comes first, so that the command leaves the policy as it finds it.
EDIT = "import sys, torch; from opensama.apps.cli import main; sys.exit(main(sys.argv[1:]))"


def draw(path: Path) -> str:
    """Writes the clip to edit, 33 frames of 416x240; its instruction comes out."""
    from opensama.media import write_video
    from opensama.values import Video
    from opensama.world import sample_edit

    sample = sample_edit(0, "test", "recolor", frames=33, size=(240, 416))
    write_video(Video.from_frames(sample.source, 16), path)
    return sample.instruction


def train(steps: int) -> None:
    """Steps of the embedded model on edits of single frames, random numbers, after one that warms up."""
    import torch

    from opensama.models.registry import TINY
    from opensama.pipeline.sama import SamaPipeline
    from opensama.runtime import quiet_loading
    from opensama.training.optim import make_optimizers
    from opensama.training.sources import PoolStream
    from opensama.training.tiny import drawn_stage

    assert TINY.folder is not None
    with quiet_loading():
        model = SamaPipeline.from_pretrained(TINY.folder)
    for module in (model.transformer, model.text_encoder):
        module.float()
    n = 32
    pool = {key: torch.randn(n, 192, 1, 8, 8).half() for key in ("source", "target")}
    pool |= {"ids": torch.randint(2, 900, (n, 40)), "mask": (torch.arange(40) < 14).long().expand(n, 40)}
    pool |= {"change": (torch.rand(n, 1, 8, 8) > 0.8).half(), "semantic": torch.randn(n, 17, 96).half()}
    stage = drawn_stage("x", model.transformer, model.text_encoder, model.tokenizer, [PoolStream(pool, 32, 1.0)])
    weights = {f"{m}.{k}": p for m, module in stage.modules().items() for k, p in module.named_parameters()}
    optimizers = make_optimizers(weights, lr=1e-5, muon=1e-5, betas=(0.9, 0.99), weight_decay=0.0)
    for i in range(steps + 1):
        if i == 1:
            began, used = time.perf_counter(), time.process_time()
        stage.step(i)["loss"].backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    print(time.perf_counter() - began, time.process_time() - used)


def measured(command: list[str], policy: dict[str, str]) -> tuple[float, float]:
    """Seconds by the clock and of the processor; of training what its process says of its steps."""
    environment = {key: value for key, value in os.environ.items() if key not in READ} | policy
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    said = subprocess.run([sys.executable, *command], env=environment, check=True, capture_output=True, text=True)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if "--train" in command:
        clock, processor = said.stdout.split()
        return float(clock), float(processor)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        train(options.steps)
        return
    found: dict[tuple[str, str, str], list[tuple[float, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        instruction = draw(clip)
        edit = [
            "-c",
            EDIT,
            "edit",
            str(clip),
            instruction,
            "--anyway",
            "--overwrite",
            "-o",
            str(clip.with_name("o.mp4")),
        ]
        works = {"edit": edit, "train": [__file__, "--train", "--steps", str(options.steps)]}
        for _ in range(options.rounds):
            for beside in ("alone", "neighbour"):
                busy = [sys.executable, "-c", "while True: pass"]
                neighbour = subprocess.Popen(busy) if beside == "neighbour" else None
                try:
                    for policy, settings in POLICIES.items():
                        for work, command in works.items():
                            took = measured(command, settings)
                            found[work, beside, policy].append(took)
                            print(work, beside, policy, *(f"{t:.1f}" for t in took), file=sys.stderr, flush=True)
                finally:
                    if neighbour is not None:
                        neighbour.kill()
                        neighbour.wait()
    print("| | | policy | seconds | times the library's | processor seconds | times the library's |")
    print("|---|---|---|---:|---:|---:|---:|")
    for (work, beside, policy), times in found.items():
        clock, processor = (median(column) for column in zip(*times, strict=True))
        first = [median(column) for column in zip(*found[work, beside, "library"], strict=True)]
        ratios = f"{clock:.1f} | {clock / first[0]:.2f} | {processor:.1f} | {processor / first[1]:.2f}"
        print(f"| {work} | {beside} | {policy} | {ratios} |")


if __name__ == "__main__":
    main()
