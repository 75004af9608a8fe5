"""Runs an experiment: its data, a prior for each seed, then its arms, shared among processes, each scored and kept.

    OUT/plan.json                     the budget, fixed before anything is trained; a folder goes on only with its own
    OUT/machine.json                  what it ran on
    OUT/pools/*.safetensors           the data, drawn once for all
    OUT/prior-SEED/                   the text-to-video weights that all arms of a seed begin from
    OUT/runs/ARM-SEED/result.json     what came of a run; a run that has it is done

Killed at any point, a second call goes on.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from opensama.data.prefetch import one_core_processes
from opensama.runtime import whole_file
from opensama.values import UserError

_log = logging.getLogger(__name__)
RunResult = dict[str, Any]
"""What a run's result.json holds, by the experiment that wrote it."""


class Run(NamedTuple):
    """One run: an arm's name and a seed."""

    arm: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class MicroBudget:
    """Steps of the prior, the data, the test, and the model's size: what both papers' budgets say, each in its way."""

    prior: int
    clips: int
    width: int = 128
    layers: int
    items: int = 40
    """Test edits of each family."""
    seeds: int = 3
    """Runs of each arm of which more than one is asked for."""
    lr: float = 1e-3
    shift: float = 5.0


@dataclass(frozen=True)
class Experiment(ABC):
    """A paper's variants in small. Its methods are called in processes of their own."""

    out: Path
    budget: MicroBudget
    """Of the experiment's own kind."""

    pools: ClassVar[Sequence[str]]
    """Names of the data that all runs read."""

    @property
    @abstractmethod
    def waves(self) -> Sequence[Sequence[Run]]:
        """All runs; those of a wave need nothing of each other, and may need those of the waves before."""

    @abstractmethod
    def draw_pool(self, name: str) -> None:
        """Draws and encodes one of the pools, unless it is there."""

    @abstractmethod
    def make_prior(self, seed: int, folder: Path) -> torch.nn.Module:
        """Trains what a seed's arms begin from: text-to-video on plain clips."""

    @abstractmethod
    def make_run(self, run: Run, folder: Path) -> RunResult:
        """Trains and scores a run."""

    @abstractmethod
    def success(self, result: RunResult) -> float:
        """The share of test edits that came out right in the end."""

    def prior_file(self, seed: int) -> Path:
        """Where the weights lie that a seed's arms begin from."""
        return self.out / f"prior-{seed}" / "prior.safetensors"

    def result_file(self, arm: str, seed: int) -> Path:
        """Where a run's result lies."""
        return self.out / "runs" / f"{re.sub('[^a-zA-Z0-9+]+', '-', arm)}-{seed}" / "result.json"

    def train_prior(self, seed: int) -> None:
        """Trains and writes a seed's prior, unless it is there."""
        file = self.prior_file(seed)
        if not file.exists():
            torch.manual_seed(seed)
            write_tensors(self.make_prior(seed, file.parent).state_dict(), file)
            _remove_checkpoints(file.parent)

    def train_run(self, run: Run) -> RunResult:
        """A run's result, which is written when the run is made."""
        file = self.result_file(*run)
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.manual_seed(run.seed)
            write_json(run._asdict() | self.make_run(run, file.parent), file)
            _remove_checkpoints(file.parent)
        return dict(json.loads(file.read_text()))

    def missing(self) -> list[list[Run]]:
        """The runs that have no result yet, wave by wave."""
        return [[run for run in wave if not self.result_file(*run).exists()] for wave in self.waves]

    def results(self, arm: str) -> list[RunResult]:
        """An arm's results, one a seed, as many as there are. UserError where runs are missing."""
        if missing := [run for wave in self.missing() for run in wave]:
            first = f"{missing[0].arm} (seed {missing[0].seed})"
            raise UserError(f"{self.out} lacks {len(missing)} runs, such as {first}: run opensama reproduce first.")
        seeds = sorted({run.seed for wave in self.waves for run in wave if run.arm == arm})
        return [json.loads(self.result_file(arm, seed).read_text()) for seed in seeds]


def run_experiment(experiment: Experiment, *, workers: int = 2) -> None:
    """Carries out all runs that have no result yet, in so many processes of one thread each."""
    out = experiment.out
    write_plan(out, experiment.budget)
    waves = experiment.missing()
    wanted = [run for wave in waves for run in wave]
    if not wanted:
        return
    write_json({"machine": platform_name(), "workers": workers}, out / "machine.json")
    began, done = time.monotonic(), 0
    with processes(workers) as pool:
        list(pool.map(experiment.draw_pool, experiment.pools))
        list(pool.map(experiment.train_prior, sorted({run.seed for run in wanted})))
        _log.info("data and priors are ready after %.1f minutes", (time.monotonic() - began) / 60)
        for wave in waves:
            jobs = {pool.submit(experiment.train_run, run): run for run in wave}
            for job in as_completed(jobs):
                done += 1
                right = 100 * experiment.success(job.result())
                minutes = (time.monotonic() - began) / done * (len(wanted) - done) / 60
                left = f"{minutes:.0f} minutes" if minutes >= 1.5 else "a minute or less"
                counted = f"{done} of {len(wanted)}: {jobs[job].arm}, seed {jobs[job].seed}"
                _log.info("%s: %.1f %% right; about %s left", counted, right, left)


def processes(n: int) -> ProcessPoolExecutor:
    """Of one thread each, from one that has imported everything and done nothing."""
    return one_core_processes(n, ["opensama.reproduction.sama", "opensama.reproduction.icve"])


def write_plan(out: Path, budget: MicroBudget) -> None:
    """Writes the budget down, before anything is trained. UserError where the folder was begun with another."""
    out.mkdir(parents=True, exist_ok=True)
    plan = out / "plan.json"
    if plan.exists() and json.loads(plan.read_text()) != asdict(budget):
        raise UserError(f"{out} was begun with another budget (see {plan}): choose another folder.")
    write_json(asdict(budget), plan)


def platform_name() -> str:
    """The processor, in words."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines()] if info.exists() else []
    return f"{os.cpu_count()} cores" + (f" of {names[4]}" if len(names) > 4 else "")


def write_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Writes a whole safetensors file, its folder with it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as part:
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, part)


def write_json(value: object, file: Path) -> None:
    """Writes a whole JSON file."""
    with whole_file(file) as part:
        part.write_text(json.dumps(value))


def _remove_checkpoints(folder: Path) -> None:
    """Takes the checkpoints of a run's stages away."""
    for step in folder.glob("**/step-*"):
        shutil.rmtree(step)
