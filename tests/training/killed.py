"""A training that is killed again and again, apart from pytest since it forks.

`kill_one`: one process, ten kills. `kill_two`: two that shard the weights, four kills, and an unbroken run.
"""

from __future__ import annotations

import datetime
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from opensama.training.checkpoint import PARTIAL, latest_checkpoint
from opensama.training.config import MeshSettings
from opensama.training.loop import LoopConfig, Trainer
from opensama.training.parallel import parallelise
from opensama.training.stage import TrainingStage

STEPS = 240
STEPS_OF_TWO = 60


class Net(nn.Module):
    """A matrix for AdamW and one for Muon."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.blocks = nn.Linear(64, 256), nn.ModuleList([nn.Linear(256, 256)])

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks[0](self.first(x).relu())


class Noisy(TrainingStage):
    """Draws on torch's own random state, each process on its own, so that a resumed run must have that back too."""

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        super().__init__("noisy")
        torch.manual_seed(0)
        self.model, self.rank, self.world = Net(), rank, world
        torch.manual_seed(rank)

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def step(self, index: int) -> dict[str, Tensor]:
        x = torch.randn(8, 64, generator=torch.Generator().manual_seed(index)).tensor_split(self.world)[self.rank]
        answer = self.model(x + 0.1 * torch.randn_like(x))
        return {"loss": (answer - x.sum(1, keepdim=True)).square().mean()}


def config(save_every: float, steps: int = STEPS) -> LoopConfig:
    return LoopConfig(
        steps=steps, lr=0.01, muon=0.01, accumulate=2, skip_norm=1.2, spike_after=5, save_every=save_every
    )


def train(folder: Path, save_every: float) -> None:
    Trainer(Noisy(), config(save_every), folder).run()


def train_of_two(folder: Path, save_every: float, store: Path, rank: int) -> None:
    """One of two processes that hold half of the weights each."""
    files = dist.FileStore(str(store), 2)
    dist.init_process_group("cpu:gloo", store=files, rank=rank, world_size=2, timeout=datetime.timedelta(minutes=1))
    stage = Noisy(rank, 2)
    parallelise(stage.model, MeshSettings(shard=2, checkpointing="none"), "float32")
    trainer = Trainer(stage, config(save_every, STEPS_OF_TWO), folder)
    if rank == 0:
        print("from", trainer.progress.step, flush=True)
    trainer.run()
    dist.destroy_process_group()


def child(folder: Path, *of_two: object, save_every: float = 0.0) -> int:
    """Trains in a process of its own, by default with a checkpoint after every step."""
    number = os.fork()
    if number == 0:
        try:
            if of_two:
                train_of_two(folder, save_every, *of_two)  # type: ignore[arg-type]
            else:
                train(folder, save_every)
        except BaseException:  # a process that was forked ends here, whatever happened
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return number


def both(folder: Path, run: int, save_every: float = 0.0) -> list[int]:
    return [
        child(folder, folder.with_name(f"{folder.name}-store-{run}"), rank, save_every=save_every) for rank in (0, 1)
    ]


def half_written(folder: Path) -> list[Path]:
    return list((folder / "noisy").glob(f"step-*{PARTIAL}"))


def how(status: int) -> str:
    return "killed" if os.WIFSIGNALED(status) else f"ended {os.waitstatus_to_exitcode(status)}"


def kill_one(folder: Path, seed: int) -> None:
    """Each run comes further than the one before, by one step and a moment, so none ends before it is killed."""
    moments = random.Random(seed)
    for time_to_kill in range(10):
        before = latest_checkpoint(folder / "noisy")
        number = child(folder)
        while latest_checkpoint(folder / "noisy") == before:
            go_on(number)
        time.sleep(moments.uniform(0.0, 0.02))
        while time_to_kill % 2 and not half_written(folder):  # every second kill comes while a checkpoint is written
            go_on(number)
        os.kill(number, signal.SIGKILL)
        _, status = os.waitpid(number, 0)
        print(how(status), "writing" if half_written(folder) else "between", flush=True)
    _, status = os.waitpid(child(folder, save_every=1e9), 0)
    print("finished", status)


def go_on(number: int) -> None:
    """Waits a little for a process that is expected to run."""
    time.sleep(0.001)
    if os.waitpid(number, os.WNOHANG)[0]:
        raise RuntimeError("the training ended before it was killed: give it more steps")


def kill_two(folder: Path, seed: int) -> None:
    """Kills both at once, the second and then the first, and inside a checkpoint's write both, the first and then the
    second. Each time it says what is on disk, and the next run where it begins; at the end one runs unbroken."""
    moments = random.Random(seed)
    for run, first in enumerate([(0, 1), (1,), (0, 1), (0,)]):
        numbers = both(folder, run)
        before = latest_checkpoint(folder / "noisy")
        while latest_checkpoint(folder / "noisy") == before:  # it comes further each time
            time.sleep(0.001)
        time.sleep(moments.uniform(0.0, 0.05))
        if run > 1:
            stop_inside_a_write(folder, [numbers[rank] for rank in first])
        for rank in first:
            os.kill(numbers[rank], signal.SIGKILL)
        if len(first) == 1:  # the one that is left may notice, but must not go on alone
            time.sleep(moments.uniform(0.0, 0.1))
            os.kill(numbers[1 - first[0]], signal.SIGKILL)
        ends = [how(os.waitpid(number, 0)[1]) for number in numbers]
        path = latest_checkpoint(folder / "noisy")
        state = "writing" if half_written(folder) else "between"
        print(*ends, state, path and path.name, sep="; ", flush=True)
    for where in (folder, folder.with_name("whole")):
        print(*(how(os.waitpid(number, 0)[1]) for number in both(where, 9, save_every=1e9)), sep="; ", flush=True)


def stop_inside_a_write(folder: Path, numbers: list[int]) -> None:
    """Halts processes, the first of which writes checkpoints' ends, while one is written."""
    while True:
        while not half_written(folder):
            time.sleep(0.001)
        for number in numbers:
            os.kill(number, signal.SIGSTOP)
        if half_written(folder):
            return
        for number in numbers:  # too late: it had just been renamed
            os.kill(number, signal.SIGCONT)


def in_a_file(kill: Callable[[Path, int], None], folder: Path, seed: int, said: Path) -> None:
    """What `kill` prints, and its processes do, in a file."""
    torch.set_num_threads(1)
    with said.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.stdout, sys.stderr = file, file
        kill(folder, seed)
