"""A chain of stages over records, in this process or on a cluster by Ray Data, with one result. The only door to Ray.

    stages = [Stage("basic", basic), Stage("caption", caption, setup=partial(open_vlm, url), cpus=0.1)]
    report = run_graph(stages, items, Path("out"), runner="ray")

A stage takes an item (a dictionary that JSON can hold: a `Record`'s fields, and working keys that no record has) and
gives an item, several, or None. `Drop` takes an item out for a reason that is counted; any other exception is written
to its `error`, and the run goes on. What came of one of the items given, all of it, is one line of `out/state/`: killed
at any point, a second call makes what is missing, and tries again what failed. Whoever was quicker, the manifest keeps
the order of the items given.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from opensama.curation.ledger import Entry, Ledger
from opensama.values import Progress, UserError

Item = dict[str, Any]
Result = Item | Sequence[Item] | None
_Row = dict[str, Any]  # an item under way: item, key, path, share, tally, end

STUCK = 25  # failures one after another, of one stage and for one reason: it is not the items
OBJECT_STORE = 256 * 2**20  # bytes of a Ray of our own: rows are small, frames never travel


class Drop(Exception):
    """Raised in a stage: the item leaves. The reason is counted, so it names a kind ("too short"), not an item."""


@dataclass(frozen=True)
class Stage:
    """One step: `run(item)`, or `run(state, item)` where `setup` makes a state, once a worker (a model, a client).

    Functions are importable by name. Settings are bound with `functools.partial` and are, with `version`, what the
    stage is: where they change, everything is made anew. What `setup` binds does not count.
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
    """What a stage did, over all calls that made this result; `seconds` are the workers' summed."""

    name: str
    taken: int = 0
    given: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    failed: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class GraphReport:
    """What a run did. Where it `stopped` early (quota spent, server gone), `left` items wait for the next call."""

    stages: tuple[StageReport, ...]
    items: int
    records: int
    failed: int
    left: int
    stopped: str
    seconds: float  # of this call

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def table(self) -> str:
        """For people: stage by stage, what was dropped and why."""
        wide = max(len(stage.name) for stage in self.stages) + 2
        lines = [f"{'stage':<{wide}}{'in':>9}{'out':>9}{'failed':>8}{'seconds':>10}  dropped"]
        for stage in self.stages:
            counts = f"{stage.taken:>9,}{stage.given:>9,}{stage.failed:>8,}{stage.seconds:>10,.1f}"
            why = ", ".join(f"{reason} {count:,}" for reason, count in sorted(stage.dropped.items()))
            lines.append(f"{stage.name:<{wide}}{counts}  {why}".rstrip())
        return "\n".join(lines)


def run_graph(
    stages: Sequence[Stage],
    items: Iterable[Item],
    out: Path,
    *,
    runner: Literal["local", "ray"] = "local",
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> GraphReport:
    """Runs every item through the stages; writes out/manifest.parquet, out/failed.jsonl and out/report.json.

    `workers` are threads of this process (1 if not given), or the CPUs of a Ray of our own (if not given, all of this
    machine's, or the cluster that RAY_ADDRESS names). A spent quota raises nothing: what is done is written, see
    `stopped`.
    """
    if workers is not None and workers < 1:
        raise UserError(f"There must be at least one worker, not {workers}.")
    began = time.monotonic()
    given = _keyed(items)
    with Ledger(out / "state", _fingerprint(stages)) as ledger:
        rows = [
            {"item": item, "key": key, "path": [], "share": [1, 1], "tally": [], "end": None}
            for key, item in given.items()
            if not ledger.has(key)
        ]
        run = _by_ray if runner == "ray" else _here
        stopped, done = "", 0
        with closing(run(stages, rows, workers)) as leaves:
            watch = _Watch(stages)
            gathering: dict[str, list[_Row]] = {}
            for leaf in leaves:
                if stopped := watch(leaf):
                    break
                mates = gathering.setdefault(leaf["key"], [])
                mates.append(leaf)
                if sum(Fraction(*mate["share"]) for mate in mates) == 1:
                    ledger.append(_entry(leaf["key"], gathering.pop(leaf["key"]), stages))
                    done += 1
                    if progress is not None:
                        progress(Progress("curate", done, len(rows), time.monotonic() - began))
        return _write(out, ledger, list(given), stages, stopped, began)


def _keyed(items: Iterable[Item]) -> dict[str, Item]:
    """Items by a name that depends on their content alone, so that more may be given in the next call."""
    out: dict[str, Item] = {}
    times: Counter[str] = Counter()
    for item in items:
        key = hashlib.sha256(json.dumps(item, sort_keys=True).encode()).hexdigest()[:20]
        times[key] += 1
        out[key if times[key] == 1 else f"{key}#{times[key]}"] = item
    return out


class _Watch:
    """What ends a run early: a worker says so, or a stage fails and fails for the same reason."""

    def __init__(self, stages: Sequence[Stage]):
        self.names = [stage.name for stage in stages]
        self.last, self.times = "", 0

    def __call__(self, leaf: _Row) -> str:
        match leaf["end"]:
            case ["quota", reason]:
                return str(reason)
            case ["user", reason]:
                raise UserError(reason)
            case ["broken", reason]:
                raise RuntimeError(reason)
            case ["failed", stage, reason]:
                same = f"{self.names[stage]}: {reason}"
                self.times = self.times + 1 if same == self.last else 1
                self.last = same
                return f"{self.times} items one after another failed, {same}" if self.times == STUCK else ""
        self.last, self.times = "", 0
        return ""


# --- one stage, one item


class _Worker:
    """A stage with its state, made when the first item comes. Gives the rows that come of a row."""

    def __init__(self, index: int, stage: Stage):
        self.index, self.stage = index, stage
        self.state: Any = None
        self.ready = stage.setup is None

    def __call__(self, row: _Row) -> list[_Row]:
        if row["end"] is not None:
            return [row]
        if not self.ready:
            assert self.stage.setup is not None
            try:
                self.state, self.ready = self.stage.setup(), True
            except UserError as error:
                return [row | {"end": ["user", str(error)]}]
            except Exception as error:
                return [row | {"end": ["broken", f"{self.stage.name} cannot begin: {_said(error)}"]}]
        began = time.perf_counter()
        end: list[Any] | None = None
        results: list[Item] = []
        try:
            result = (
                self.stage.run(row["item"]) if self.stage.setup is None else self.stage.run(self.state, row["item"])
            )
            results = [] if result is None else [result] if isinstance(result, dict) else list(result)
            results = json.loads(json.dumps(results))  # the same in one process as between several
            end = None if results else ["dropped", self.index, self.stage.name]
        except Drop as drop:
            end = ["dropped", self.index, str(drop)]
        except Exception as error:
            end = ["quota", str(error)] if _ends_run(error) else ["failed", self.index, _said(error)]
        tally = [*row["tally"], [self.index, len(results), time.perf_counter() - began]]
        if end is not None:
            return [row | {"tally": tally, "end": end}]
        share = Fraction(*row["share"]) / len(results)
        return [
            row
            | {
                "item": item,
                "path": [*row["path"], number] if len(results) > 1 else row["path"],
                "share": [share.numerator, share.denominator],
                "tally": tally if number == 0 else [],  # so that each call is counted once
            }
            for number, item in enumerate(results)
        ]


def _ends_run(error: Exception) -> bool:
    from opensama.vlm import VlmQuota

    return isinstance(error, VlmQuota)


def _said(error: Exception) -> str:
    text = " ".join(str(error).split()) or "no reason given"
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


# --- the two runners: rows in, leaves out, in any order


def _here(stages: Sequence[Stage], rows: Sequence[_Row], workers: int | None) -> Generator[_Row]:
    """In this process, on threads if more than one worker is wanted. On a GPU one worker of a stage has room."""
    threads = workers or 1
    crews = [_Crew(index, stage, 1 if stage.gpus else threads) for index, stage in enumerate(stages)]

    def follow(row: _Row) -> list[_Row]:
        found = [row]
        for crew in crews:
            with crew.worker() as worker:
                found = [child for parent in found for child in worker(parent)]
        return found

    if threads == 1:
        for row in rows:
            yield from follow(row)
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting: set[Future[list[_Row]]] = set()
        try:
            for row in rows:
                waiting.add(pool.submit(follow, row))
                if len(waiting) >= 2 * threads:
                    ready, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in ready:
                        yield from future.result()
            for future in as_completed(waiting):
                yield from future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class _Crew:
    """The workers of one stage, made when they are needed, lent to threads."""

    def __init__(self, index: int, stage: Stage, most: int):
        self.make = partial(_Worker, index, stage)
        self.free = threading.Semaphore(most)
        self.idle: list[_Worker] = []

    @contextmanager
    def worker(self) -> Iterator[_Worker]:
        with self.free:
            worker = self.idle.pop() if self.idle else self.make()
            try:
                yield worker
            finally:
                self.idle.append(worker)


def _by_ray(stages: Sequence[Stage], rows: Sequence[_Row], workers: int | None) -> Generator[_Row]:
    """On Ray Data: tasks, and pools of actors for stages with a state; Ray holds back whoever is too quick."""
    try:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray
        import ray.data
    except ImportError:
        raise UserError("Ray is not installed; run: pip install 'opensama[cluster]'") from None
    if not rows:
        return
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # our own progress is shown
    began = not ray.is_initialized()
    if began:
        _begin_ray(workers)
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.max_errored_blocks = -1  # a worker that dies takes its rows along, not the run; they are made next time
        there = ray.cluster_resources()
        fit = {
            "CPU": _fit(there.get("CPU", 1), [(stage.cpus, stage.setup is None) for stage in stages]),
            "GPU": _fit(there.get("GPU", 0), [(stage.gpus, stage.setup is None) for stage in stages]),
        }
        if any(stage.gpus for stage in stages) and not there.get("GPU"):
            raise UserError(
                "Some stages need a GPU and Ray finds none; add a node that has one, or run --runner local."
            )
        texts = [{"row": json.dumps(row)} for row in rows]
        data: Any = ray.data.from_items(texts, override_num_blocks=min(len(texts), 10_000))
        for index, stage in enumerate(stages):
            needs: dict[str, Any] = {"num_cpus": stage.cpus * fit["CPU"], "num_gpus": stage.gpus * fit["GPU"]}
            if stage.memory:
                needs["memory"] = stage.memory
            if stage.setup is None:
                data = data.flat_map(_task, fn_args=(index, stage), **needs)
                continue
            if index and stages[index - 1].setup is None:  # many items of one long video go to many workers
                data = data.repartition(target_num_rows_per_block=1)
            most = max(1, int(_most(there, needs)))
            pool = ray.data.ActorPoolStrategy(min_size=1, max_size=most)
            data = data.flat_map(_Actor, fn_constructor_args=(index, stage), compute=pool, **needs)
        for out in data.iter_rows():
            yield json.loads(out["row"])
    finally:
        if began:
            ray.shutdown()


def _begin_ray(workers: int | None) -> None:
    """Joins the cluster that RAY_ADDRESS names, or begins one on this machine. UserError where neither is to be had."""
    import ray

    address = os.environ.get("RAY_ADDRESS", "")
    own: dict[str, Any] = {"num_cpus": workers, "object_store_memory": OBJECT_STORE, "include_dashboard": False}
    if address and workers is not None:
        raise UserError("RAY_ADDRESS names a cluster, which has its own workers; leave --workers away.")
    try:
        if address:
            _knock(address)
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **({} if address else own))
    except Exception as error:  # Ray's own are of many types, Exception itself among them
        ray.shutdown()  # what had begun
        if address:
            advice = "start the cluster (ray start --head), mend or unset RAY_ADDRESS, or run with --runner local"
            raise UserError(f"No Ray cluster answers at RAY_ADDRESS={address} ({_said(error)}): {advice}.") from error
        advice = "its logs are under /tmp/ray, or under RAY_TMPDIR if that is set; --runner local does without it"
        raise UserError(f"Ray does not start on this machine ({_said(error)}): {advice}.") from error


def _knock(address: str) -> None:
    """OSError or ValueError where nobody listens: Ray itself would try for a quarter of an hour."""
    place = urlsplit(address if "://" in address else f"//{address}")
    if place.hostname and place.port:  # "auto" and "local" have none
        socket.create_connection((place.hostname, place.port), timeout=10).close()


def _fit(there: float, wanted: list[tuple[float, bool]]) -> float:
    """What shares are multiplied with, so that a worker of each pool and one task fit at once.

    `wanted`: each stage's share, and whether it is a task, which takes it only while it runs.
    """
    least = sum(share for share, task in wanted if not task) + max((share for share, task in wanted if task), default=0)
    return min(1.0, there / least) if least and there else 1.0


def _most(there: dict[str, float], needs: dict[str, Any]) -> float:
    pairs = (("CPU", "num_cpus"), ("GPU", "num_gpus"), ("memory", "memory"))
    return min((there.get(name, 0) / needs[need] for name, need in pairs if needs.get(need)), default=1)


def _task(out: dict[str, str], index: int, stage: Stage) -> list[dict[str, str]]:
    return [{"row": json.dumps(row)} for row in _Worker(index, stage)(json.loads(out["row"]))]


class _Actor:
    def __init__(self, index: int, stage: Stage):
        self.worker = _Worker(index, stage)

    def __call__(self, out: dict[str, str]) -> list[dict[str, str]]:
        return [{"row": json.dumps(row)} for row in self.worker(json.loads(out["row"]))]


# --- what comes of it


def _entry(key: str, leaves: list[_Row], stages: Sequence[Stage]) -> Entry:
    """Everything that came of one item, its parts in the order in which the stages gave them."""
    from opensama.data.manifest import Record

    records, failed, ends = [], [], []
    for leaf in sorted(leaves, key=lambda leaf: leaf["path"]):
        item, end = leaf["item"], leaf["end"]
        if end is None:
            try:
                records.append(Record.from_dict(item).to_dict())
                continue
            except (ValueError, TypeError, KeyError) as error:
                end = ["failed", len(stages) - 1, f"no record: {_said(error)}"]
        ends.append(end)
        if end[0] == "failed":
            item["error"] = {"stage": stages[end[1]].name, "reason": end[2]}
            failed.append({name: item[name] for name in ("id", "kind", "target", "source", "error") if name in item})
    tally = [entry for leaf in leaves for entry in leaf["tally"]]
    return {"key": key, "records": records, "failed": failed, "ends": ends, "tally": tally}


def _write(
    out: Path, ledger: Ledger, keys: list[str], stages: Sequence[Stage], stopped: str, began: float
) -> GraphReport:
    """The three files from what is done, in the order of `keys`."""
    from opensama.data.manifest import Record, write_manifest
    from opensama.runtime import whole_file

    meta = {"made_by": "opensama curate", "stages": [[stage.name, stage.version] for stage in stages]}
    stream = (Record.from_dict(record) for entry in ledger.entries(keys) for record in entry["records"])
    records = write_manifest(out / "manifest.parquet", stream, meta)
    reports = tuple(StageReport(stage.name) for stage in stages)
    failures, left = 0, len(keys)
    with whole_file(out / "failed.jsonl") as temporary, temporary.open("w", encoding="utf-8") as lines:
        for entry in ledger.entries(keys):
            left -= 1
            failures += len(entry["failed"])
            lines.writelines(json.dumps(item) + "\n" for item in entry["failed"])
            for index, given, seconds in entry["tally"]:
                reports[index].taken += 1
                reports[index].given += given
                reports[index].seconds += seconds
            for how, index, reason in entry["ends"]:
                if how == "failed":
                    reports[index].failed += 1
                else:
                    reports[index].dropped[reason] = reports[index].dropped.get(reason, 0) + 1
    seconds = round(time.monotonic() - began, 3)
    report = GraphReport(reports, len(keys), records, failures, left, stopped, seconds)
    with whole_file(out / "report.json") as temporary:
        temporary.write_text(json.dumps(report.to_dict(), indent=1) + "\n", encoding="utf-8")
    return report


def _fingerprint(stages: Sequence[Stage]) -> str:
    """A name for stages and settings; the same in every process."""
    parts = []
    for stage in stages:
        bound: list[Any] = []
        run = stage.run
        while isinstance(run, partial):
            bound.append([run.args, run.keywords])
            run = run.func
        parts.append([stage.name, stage.version, json.dumps(bound, default=repr, sort_keys=True)])
    text = json.dumps(parts)
    if " at 0x" in text:
        raise ValueError(f"a setting of {text} has no lasting name: bind plain values, or make it in `setup`")
    return hashlib.sha256(text.encode()).hexdigest()[:16]
