"""Processes of their own that start quickly, such as several that train together.

Each is forked from a server that has imported the libraries once, where `torch.multiprocessing.spawn` and torchrun have
every process import them anew.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable, Sequence

import torch.multiprocessing

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


def command_in_ranks(command: Sequence[str], processes: int) -> None:
    """`torchrun --nproc-per-node PROCESSES -m opensama.apps.cli COMMAND`, on CPUs."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    in_ranks(_command, (list(map(str, command)), processes, port), processes)


def _command(rank: int, command: list[str], processes: int, port: int) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
    from opensama.apps.cli import main

    assert main(command) == 0
