"""A chain of stages over records: in this process, or on a cluster by Ray Data, with the same result. The only door to Ray.

    stages = [Stage("basic", basic), Stage("caption", caption, setup=partial(open_vlm, url), cpus=0.1)]
    report = run_graph(stages, items, Path("out"), runner="ray")

A stage takes an item (a dictionary that JSON can hold: a `Record`'s fields and working keys, which begin with "_") and
gives an item, several, or None. `Drop` takes an item out with a reason that is counted; any other exception is written
to its `error`, and the run goes on. Each first item is followed by all that come of it, and what came of it is one line of
`out/state/`: killed at any point, a second call does what is missing, and tries again what failed. Whoever was quicker,
the manifest has the order of the items given.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Literal

from opensama.values import Progress, UserError

Item = dict[str, Any]
Result = Item | Sequence[Item] | None


class Drop(Exception):
    """Raised in a stage: the item leaves. The reason is counted, so it names a kind ("too short"), not an item."""


@dataclass(frozen=True)
class Stage:
    """One step: `run(item)`, or `run(state, item)` where `setup` makes a state, once a worker (models, clients).

    Functions are importable by name; settings are bound with `functools.partial` and count, with `version`, as part of
    what the stage is: where they change, everything is done anew. What `setup` binds does not count.
    """

    name: str
    run: Callable[..., Result]
    setup: Callable[[], Any] | None = None
    cpus: float = 1
    gpus: float = 0
    memory: float = 0
    """Bytes that a worker needs."""
    version: str = "1"


@dataclass
class StageReport:
    """What a stage did, over all calls that made this result."""

    name: str
    taken: int = 0
    given: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    failed: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class GraphReport:
    """What a run did. Where it `stopped` (the VLM's quota), `left` items wait for the next call."""

    stages: tuple[StageReport, ...]
    items: int
    records: int
    failed: int
    left: int
    stopped: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def run_graph(
    stages: Sequence[Stage],
    items: Iterable[Item],
    out: Path,
    *,
    runner: Literal["local", "ray"] = "local",
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> GraphReport:
    """Runs every item through the stages: out/manifest.parquet, out/failed.jsonl and out/report.json.

    `workers`: threads in this process (1 if not given), or the CPUs of a Ray of its own (not given: all of this machine,
    or the cluster that RAY_ADDRESS names). A spent VLM quota ends the run without an exception: see `stopped`.
    """
    raise NotImplementedError
