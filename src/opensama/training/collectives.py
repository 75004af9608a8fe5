"""Waiting for a process that works alone, longer than collectives may take.

A collective that is not joined within the default time (30 minutes, NCCL 10) ends all processes. What the first
process writes alone while the others wait, 28.6 GB of a 14B model, may take longer on a slow disk.
"""

from __future__ import annotations

from datetime import timedelta
from functools import lru_cache

import torch.distributed as dist

_PATIENCE = timedelta(hours=12)


def slow_group() -> dist.ProcessGroup | None:
    """A group of all processes whose collectives wait `_PATIENCE`; None in one process. Each has to ask at once."""
    return _patient(dist.group.WORLD) if dist.is_initialized() else None


def wait_for_all() -> None:
    """A barrier of all processes that waits up to twelve hours; nothing in one process."""
    if dist.is_initialized():
        dist.barrier(group=slow_group())


@lru_cache(maxsize=1)
def _patient(world: dist.ProcessGroup) -> dist.ProcessGroup:
    return dist.new_group(backend="gloo", timeout=_PATIENCE)
