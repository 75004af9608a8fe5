"""One stage of a graph: a function from an item to what becomes of it, and the worker that runs it on a row.

A stage takes an item and gives an item, several, or None. `Drop` takes an item out for a reason that is counted; any
other exception is written to its `error`, and the run goes on.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, Generic, Literal, TypedDict, TypeVar

from opensama.values import UserError

_M = TypeVar("_M", covariant=True)
GraphItem = dict[str, Any]
"""JSON: the fields of a `Record`, and working keys of the stages (they begin with an underscore), which none has."""


class RowEnd(TypedDict):
    """Why a row goes no further. "quota" ends the run; so do "user" and "broken", with an error."""

    kind: Literal["dropped", "failed", "quota", "user", "broken"]
    stage: int
    reason: str


class StageCall(TypedDict):
    """One call of a stage: its number, the items that it gave, and the seconds that it took."""

    stage: int
    given: int
    seconds: float


class GraphRow(TypedDict):
    """An item on its way, as JSON: which of the items given it comes of (`key`), as which of the results of each stage
    that gave several (`path`) and as what share of it (numerator, denominator); the calls made; the end, if it has one.
    """

    item: GraphItem
    key: str
    path: list[int]
    share: list[int]
    calls: list[StageCall]
    end: RowEnd | None


class Drop(Exception):
    """Raised in a stage: the item leaves. The reason is counted, so it names a kind ("too short"), not an item."""


@dataclass(frozen=True)
class GraphStage:
    """One step: `run(item)`, or `run(state, item)` where `setup` makes a state, once a worker (a model, a client).

    Functions are importable by name. Settings are bound with `functools.partial` and are, with `version`, what the
    stage is: where they change, everything is made anew. What `setup` binds does not count.
    """

    name: str
    run: Callable[..., GraphItem | Sequence[GraphItem] | None]
    setup: Callable[[], object] | None = None
    cpus: float = 1
    gpus: float = 0
    memory: float = 0
    """Bytes that a worker needs."""
    version: str = "1"


@dataclass(frozen=True)
class StageState(Generic[_M]):
    """What a worker of a stage with a model holds: the folder where an item's paths begin, and the model."""

    folder: str
    model: _M


def make_state(folder: str, model: Callable[[], _M]) -> StageState[_M]:
    """The state with a model that is made here, in the worker."""
    return StageState(folder, model())


class StageWorker:
    """A stage with its state, made when the first item comes. Gives the rows that come of a row."""

    def __init__(self, index: int, stage: GraphStage):
        self.index, self.stage = index, stage
        self.state: object = None
        self.ready = stage.setup is None

    def __call__(self, row: GraphRow) -> list[GraphRow]:
        if row["end"] is not None:
            return [row]
        if not self.ready:
            assert self.stage.setup is not None
            try:
                self.state, self.ready = self.stage.setup(), True
            except UserError as error:
                return [row | {"end": self._end("user", str(error))}]
            except Exception as error:
                return [row | {"end": self._end("broken", f"{self.stage.name} cannot begin: {reason_of(error)}")}]
        began = time.perf_counter()
        end: RowEnd | None = None
        results: list[GraphItem] = []
        try:
            result = (
                self.stage.run(row["item"]) if self.stage.setup is None else self.stage.run(self.state, row["item"])
            )
            results = [] if result is None else [result] if isinstance(result, dict) else list(result)
            results = json.loads(json.dumps(results))  # the same in one process as between several
            end = None if results else self._end("dropped", self.stage.name)
        except Drop as drop:
            end = self._end("dropped", str(drop))
        except Exception as error:
            end = self._end("quota", str(error)) if _ends_run(error) else self._end("failed", reason_of(error))
        call = StageCall(stage=self.index, given=len(results), seconds=time.perf_counter() - began)
        calls = [*row["calls"], call]
        if end is not None:
            return [row | {"calls": calls, "end": end}]
        share = Fraction(*row["share"]) / len(results)
        return [
            row
            | {
                "item": item,
                "path": [*row["path"], number] if len(results) > 1 else row["path"],
                "share": [share.numerator, share.denominator],
                "calls": calls if number == 0 else [],  # so that each call is counted once
            }
            for number, item in enumerate(results)
        ]

    def _end(self, kind: Literal["dropped", "failed", "quota", "user", "broken"], reason: str) -> RowEnd:
        return RowEnd(kind=kind, stage=self.index, reason=reason)


def _ends_run(error: Exception) -> bool:
    from opensama.vlm import VlmQuota

    return isinstance(error, VlmQuota)


def reason_of(error: Exception) -> str:
    """An error in one line: a person's own mistake as it is said, another with its type."""
    text = " ".join(str(error).split()) or "no reason given"
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def stages_fingerprint(stages: Sequence[GraphStage]) -> str:
    """A name for stages and settings, 16 hexadecimal digits; the same in every process.

    ValueError for a bound setting whose text is another in every process.
    """
    parts = []
    for stage in stages:
        bound: list[object] = []
        run = stage.run
        while isinstance(run, partial):
            bound.append([run.args, run.keywords])
            run = run.func
        parts.append([stage.name, stage.version, json.dumps(bound, default=repr, sort_keys=True)])
    text = json.dumps(parts)
    if " at 0x" in text:
        raise ValueError(f"a setting of {text} has no lasting name: bind plain values, or make it in `setup`")
    return hashlib.sha256(text.encode()).hexdigest()[:16]
