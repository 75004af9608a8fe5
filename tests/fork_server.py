"""The server that processes of tests are forked from (`multiprocessing`'s forkserver), itself forked from the tests'.

It knows all that the collected tests have imported, before any of them ran. Otherwise each process of pytest would
start one that imports torch, diffusers and transformers anew: 12 seconds on one core.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import warnings
from multiprocessing import forkserver, util
from typing import Any

import pytest


def start() -> None:
    """Starts it, where forks are sound; elsewhere, and under `spawn`, nothing changes."""
    if sys.platform != "linux":
        return
    multiprocessing.set_forkserver_preload([])
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a thread of xdist's reads what its controller sends
        patch.setattr(util, "spawnv_passfds", _fork)
        forkserver.ensure_running()


def _fork(path: Any, arguments: list[Any], passed: list[int]) -> int:
    """As `util.spawnv_passfds`: a process that runs the Python code that `arguments` end with, with some files open."""
    if pid := os.fork():
        return pid
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for fd in map(int, os.listdir("/proc/self/fd")):
            if fd > 2 and fd not in (null, *passed):
                os.dup2(null, fd)  # not closed: objects that hold the number would close whatever has it next
        sys.stdout, sys.stderr = (os.fdopen(fd, "w", closefd=False) for fd in (1, 2))
        forkserver._forkserver.__init__()  # type: ignore[misc] # what is half begun, and locked, in this process's image
        warnings.resetwarnings()  # as a Python that has just begun
        for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", kind)
        if conversion := sys.modules.get("transformers.conversion_mapping"):
            conversion.get_checkpoint_conversion_mapping("")  # a second's work of whoever reads a text encoder first
        exec(arguments[-1], {})
    finally:
        os._exit(0)
