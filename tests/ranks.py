"""Processes of their own that start quickly: one that is killed, one that knows nothing, several that train together.

Each is forked from a server that has imported the libraries once, where `torch.multiprocessing.spawn` and torchrun have
every process import them anew.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch.multiprocessing

T = TypeVar("T")
_IMPORTED = [
    "torch",
    "diffusers.models",
    "transformers",
    "opensama.apps.train",
    "opensama.apps.edit",
    "opensama.training.loop",
    "opensama.pipeline.editor",
    "opensama.media.video_io.writing",
]
multiprocessing.set_forkserver_preload(_IMPORTED)


def in_ranks(function: Callable[..., None], arguments: Sequence[object], processes: int = 2) -> None:
    """Calls `function(rank, *arguments)` in processes of their own. An error in one of them is raised here."""
    torch.multiprocessing.start_processes(function, tuple(arguments), processes, start_method="forkserver")


def from_server(function: Callable[..., object], *arguments: object) -> multiprocessing.process.BaseProcess:
    """One process that calls `function(*arguments)`, begun."""
    process = multiprocessing.get_context("forkserver").Process(target=function, args=arguments)
    process.start()
    return process


def answer_of(function: Callable[..., T], *arguments: object) -> T:
    """What `function(*arguments)` returns, called in a process that has done nothing else."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("forkserver")) as pool:
        return pool.submit(function, *arguments).result()


def command_from_server(
    command: Sequence[str | Path], out: Path, err: Path, first: str = ""
) -> multiprocessing.process.BaseProcess:
    """`opensama COMMAND`, begun, with its output in two files; `first` is Python that limits the process before."""
    return from_server(_command, [str(part) for part in command], out, err, first)


def _command(command: list[str], out: Path, err: Path, first: str) -> None:
    sys.stdout, sys.stderr = out.open("w", buffering=1), err.open("w", buffering=1)
    sys.argv = ["opensama", *command]
    exec(first)
    from opensama.apps.cli import main

    sys.exit(main())


def command_in_ranks(command: Sequence[str | Path], processes: int) -> None:
    """`torchrun --standalone --nproc-per-node PROCESSES -m opensama.apps.cli COMMAND`, on CPUs."""
    import opensama.apps.cli

    launch = ["--standalone", "--nproc-per-node", str(processes), "--start-method", "forkserver", "--run-path"]
    process = from_server(_torchrun, [*launch, opensama.apps.cli.__file__, *map(str, command)])
    process.join()
    assert process.exitcode == 0


def _torchrun(arguments: list[str]) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    from torch.distributed.elastic.rendezvous import dynamic_rendezvous
    from torch.distributed.run import main

    dynamic_rendezvous.get_method_name = lambda depth=2: ""  # for a log; it looks through every module for seconds
    main(arguments)
