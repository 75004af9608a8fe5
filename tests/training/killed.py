"""A training that is killed ten times, apart from pytest since it forks: python -m tests.training.killed FOLDER SEED"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from opensama.training.checkpoint import PARTIAL
from opensama.training.loop import LoopConfig, Trainer

STEPS = 60


class Noisy:
    """Draws on torch's own random state, so that a resumed run must have that back too."""

    name = "noisy"

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.ModuleDict({"first": nn.Linear(64, 256), "blocks": nn.ModuleList([nn.Linear(256, 256)])})

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def step(self, index: int) -> dict[str, Tensor]:
        x = torch.randn(8, 64, generator=torch.Generator().manual_seed(index))
        hidden = self.model["first"](x + 0.1 * torch.randn_like(x)).relu()
        return {"loss": (self.model["blocks"][0](hidden) - x.sum(1, keepdim=True)).square().mean()}


def train(folder: Path, save_every: float) -> None:
    config = LoopConfig(
        steps=STEPS, lr=0.01, muon=0.01, accumulate=2, spike_norm=1.2, spike_after=5, save_every=save_every
    )
    Trainer(Noisy(), config, folder, lambda _: None).run()


def child(folder: Path) -> int:
    """Trains in a process of its own, with a checkpoint after every step."""
    number = os.fork()
    if number == 0:
        train(folder, 0.0)
        os._exit(0)
    return number


def main(folder: Path, seed: int) -> None:
    torch.set_num_threads(1)
    moments = random.Random(seed)
    for time_to_kill in range(10):
        number = child(folder)
        time.sleep(moments.uniform(0.01, 0.4))
        while time_to_kill % 2 and not list((folder / "noisy").glob(f"step-*{PARTIAL}")):
            time.sleep(0.0002)  # every second kill comes while a checkpoint is written
        os.kill(number, signal.SIGKILL)
        _, status = os.waitpid(number, 0)
        left = len(list((folder / "noisy").glob(f"step-*{PARTIAL}")))
        print("killed" if os.WIFSIGNALED(status) else "ended", "writing" if left else "between", flush=True)
    _, status = os.waitpid(child(folder), 0)
    print("finished", status)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
