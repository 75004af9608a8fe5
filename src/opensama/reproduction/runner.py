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
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor

from opensama.runtime import whole_file
from opensama.values import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_log = logging.getLogger(__name__)
RunResult = dict[str, Any]
"""What a run's result.json holds, by the experiment that wrote it."""


class Run(NamedTuple):
    """One run: an arm's name and a seed."""

    arm: str
    seed: int


class Experiment(Protocol):
    """A paper's variants in small. Its methods are called in processes of their own."""

    @property
    def out(self) -> Path: ...
    @property
    def budget(self) -> DataclassInstance: ...
    @property
    def pools(self) -> Sequence[str]:
        """Names of the data that all runs read."""
        ...

    def waves(self) -> Sequence[Sequence[Run]]:
        """All runs; those of a wave need nothing of each other, and may need those of the waves before."""
        ...

    def draw_pool(self, name: str) -> object:
        """Draws and encodes one of the pools, unless it is there."""
        ...

    def train_prior(self, seed: int) -> object:
        """Trains what a seed's arms begin from, unless it is there."""
        ...

    def train_run(self, run: Run) -> RunResult:
        """Trains and scores a run and writes its result."""
        ...

    def success(self, result: RunResult) -> float:
        """The share of test edits that came out right in the end."""
        ...


def run_experiment(experiment: Experiment, *, workers: int = 2) -> None:
    """Carries out all runs that have no result yet, in so many processes of one thread each."""
    out = experiment.out
    write_plan(out, experiment.budget)
    waves = [[run for run in wave if not result_file(out, run).exists()] for wave in experiment.waves()]
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
    context = get_context("forkserver")
    context.set_forkserver_preload(["opensama.reproduction.sama", "opensama.reproduction.icve"])
    return ProcessPoolExecutor(n, context, initializer=torch.set_num_threads, initargs=(1,))


def write_plan(out: Path, budget: DataclassInstance) -> None:
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


def result_file(out: Path, run: Run) -> Path:
    """Where a run's result lies."""
    return out / "runs" / f"{re.sub('[^a-zA-Z0-9+]+', '-', run.arm)}-{run.seed}" / "result.json"


def read_results_of(out: Path, arm: str, seeds: Sequence[int]) -> list[RunResult]:
    """An arm's results, one a seed, as many as there are."""
    files = [result_file(out, Run(arm, seed)) for seed in seeds]
    return [json.loads(file.read_text()) for file in files if file.exists()]


def check_complete(out: Path, waves: Sequence[Sequence[Run]]) -> None:
    """UserError where a run has no result."""
    missing = [run for wave in waves for run in wave if not result_file(out, run).exists()]
    if missing:
        first = f"{missing[0].arm} (seed {missing[0].seed})"
        raise UserError(f"{out} lacks {len(missing)} runs, such as {first}: run opensama reproduce first.")


def write_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Writes a whole safetensors file, its folder with it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as part:
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, part)


def write_json(value: object, file: Path) -> None:
    """Writes a whole JSON file."""
    with whole_file(file) as part:
        part.write_text(json.dumps(value))
