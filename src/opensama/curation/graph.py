"""A chain of stages over items, in this process or on a cluster by Ray Data, with one result. The only door to Ray.

    stages = [GraphStage("basic", basic), GraphStage("caption", caption, setup=partial(open_vlm, url), cpus=0.1)]
    report = run_graph(stages, items, Path("out"), runner="ray")

See `stage.py` for what a stage takes and gives. What came of one of the items given, all of it, is one line of
`out/state/`: killed at any point, a second call makes what is missing, and tries again what failed. Whoever was
quicker, the manifest keeps the order of the items given.
"""

from __future__ import annotations

import hashlib
import json
import logging
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
from typing import TYPE_CHECKING, Literal

from opensama.curation.run_state import Outcome, RunState
from opensama.curation.stage import GraphItem, GraphRow, GraphStage, RowEnd, StageWorker, reason_of, stages_fingerprint
from opensama.pipeline.batch import RepeatedFailures, ended_rows, ray_cluster
from opensama.values import Progress, UserError

if TYPE_CHECKING:
    from ray.data import Dataset


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
    stages: Sequence[GraphStage],
    items: Iterable[GraphItem],
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
    with RunState(out / "state", stages_fingerprint(stages)) as state:
        rows = [
            GraphRow(item=item, key=key, path=[], share=[1, 1], calls=[], end=None)
            for key, item in given.items()
            if not state.has(key)
        ]
        run = _by_ray if runner == "ray" else _here
        stopped, done = "", 0
        with closing(run(stages, rows, workers)) as results:
            stop = _StopRule(stages)
            waiting: dict[str, list[GraphRow]] = {}  # rows of items that are not complete
            for row in results:
                if stopped := stop(row["end"]):
                    break
                siblings = waiting.setdefault(row["key"], [])
                siblings.append(row)
                if sum(Fraction(*sibling["share"]) for sibling in siblings) == 1:
                    state.append(_outcome(row["key"], waiting.pop(row["key"]), stages))
                    done += 1
                    if progress is not None:
                        progress(Progress("curate", done, len(rows), time.monotonic() - began))
        return _write(out, state, list(given), stages, stopped, began)


def _keyed(items: Iterable[GraphItem]) -> dict[str, GraphItem]:
    """Items by a name that depends on their content alone, so that more may be given in the next call."""
    out: dict[str, GraphItem] = {}
    times: Counter[str] = Counter()
    for item in items:
        key = hashlib.sha256(json.dumps(item, sort_keys=True).encode()).hexdigest()[:20]
        times[key] += 1
        out[key if times[key] == 1 else f"{key}#{times[key]}"] = item
    return out


class _StopRule:
    """What ends a run early: a worker says so, or a stage fails and fails for the same reason."""

    def __init__(self, stages: Sequence[GraphStage]):
        self.names = [stage.name for stage in stages]
        self.repeated = RepeatedFailures()

    def __call__(self, end: RowEnd | None) -> str:
        """Why the run stops, or nothing. UserError and RuntimeError where a stage cannot begin."""
        kind, reason = (end["kind"], end["reason"]) if end else ("", "")
        if kind == "quota":
            return reason
        if kind == "user":
            raise UserError(reason)
        if kind == "broken":
            raise RuntimeError(reason)
        return self.repeated(f"{self.names[end['stage']]}: {reason}" if end and kind == "failed" else "")


# --- the two runners: rows in, rows that have ended or passed all stages out, in any order


def _here(stages: Sequence[GraphStage], rows: Sequence[GraphRow], workers: int | None) -> Generator[GraphRow]:
    """In this process, on threads if more than one worker is wanted. On a GPU one worker of a stage has room."""
    threads = workers or 1
    pools = [_WorkerPool(index, stage, 1 if stage.gpus else threads) for index, stage in enumerate(stages)]

    def follow(row: GraphRow) -> list[GraphRow]:
        found = [row]
        for pool in pools:
            with pool.worker() as worker:
                found = [child for parent in found for child in worker(parent)]
        return found

    if threads == 1:
        for row in rows:
            yield from follow(row)
        return
    with ThreadPoolExecutor(threads) as executor:
        waiting: set[Future[list[GraphRow]]] = set()
        try:
            for row in rows:
                waiting.add(executor.submit(follow, row))
                if len(waiting) >= 2 * threads:
                    ready, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in ready:
                        yield from future.result()
            for future in as_completed(waiting):
                yield from future.result()
        finally:
            executor.shutdown(wait=True, cancel_futures=True)


class _WorkerPool:
    """The workers of one stage, made when they are needed, taken by threads and given back."""

    def __init__(self, index: int, stage: GraphStage, most: int):
        self.make = partial(StageWorker, index, stage)
        self.free = threading.Semaphore(most)
        self.idle: list[StageWorker] = []

    @contextmanager
    def worker(self) -> Iterator[StageWorker]:
        with self.free:
            worker = self.idle.pop() if self.idle else self.make()
            try:
                yield worker
            finally:
                self.idle.append(worker)


def _by_ray(stages: Sequence[GraphStage], rows: Sequence[GraphRow], workers: int | None) -> Generator[GraphRow]:
    """On Ray Data: tasks, and pools of actors for stages with a state; Ray holds back whoever is too quick."""
    if not rows:
        return
    with ray_cluster(workers, without="run with `runner=local`"):
        import ray
        import ray.data

        logging.getLogger("ray.data").setLevel(logging.ERROR)  # our own progress is shown
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
                "Some stages need a GPU and Ray finds none; add a node that has one, or run with `runner=local`."
            )
        texts = [{"row": json.dumps(row)} for row in rows]
        data: Dataset = ray.data.from_items(texts, override_num_blocks=min(len(texts), 10_000))
        for index, stage in enumerate(stages):
            needs = {"num_cpus": stage.cpus * fit["CPU"], "num_gpus": stage.gpus * fit["GPU"]}
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
        for out in ended_rows(data):
            yield json.loads(out["row"])


def _fit(there: float, wanted: list[tuple[float, bool]]) -> float:
    """What shares are multiplied with, so that a worker of each pool and one task fit at once.

    `wanted`: each stage's share, and whether it is a task, which takes it only while it runs.
    """
    least = sum(share for share, task in wanted if not task) + max((share for share, task in wanted if task), default=0)
    return min(1.0, there / least) if least and there else 1.0


def _most(there: dict[str, float], needs: dict[str, float]) -> float:
    pairs = (("CPU", "num_cpus"), ("GPU", "num_gpus"), ("memory", "memory"))
    return min((there.get(name, 0) / needs[need] for name, need in pairs if needs.get(need)), default=1)


def _task(out: dict[str, str], index: int, stage: GraphStage) -> list[dict[str, str]]:
    return [{"row": json.dumps(row)} for row in StageWorker(index, stage)(json.loads(out["row"]))]


class _Actor:
    def __init__(self, index: int, stage: GraphStage):
        self.worker = StageWorker(index, stage)

    def __call__(self, out: dict[str, str]) -> list[dict[str, str]]:
        return [{"row": json.dumps(row)} for row in self.worker(json.loads(out["row"]))]


# --- what comes of it


def _outcome(key: str, rows: list[GraphRow], stages: Sequence[GraphStage]) -> Outcome:
    """Everything that came of one item, its parts in the order in which the stages gave them."""
    from opensama.data.manifest import Record

    out = Outcome(key=key, records=[], failed=[], ends=[], calls=[call for row in rows for call in row["calls"]])
    for row in sorted(rows, key=lambda row: row["path"]):
        item, end = row["item"], row["end"]
        if end is None:
            try:
                out["records"].append(Record.from_dict(item).to_dict())
                continue
            except (ValueError, TypeError, KeyError) as error:
                end = RowEnd(kind="failed", stage=len(stages) - 1, reason=f"no record: {reason_of(error)}")
        out["ends"].append(end)
        if end["kind"] == "failed":
            item["error"] = {"stage": stages[end["stage"]].name, "reason": end["reason"]}
            kept = ("id", "kind", "target", "source", "error")
            out["failed"].append({name: item[name] for name in kept if name in item})
    return out


def _write(
    out: Path, state: RunState, keys: list[str], stages: Sequence[GraphStage], stopped: str, began: float
) -> GraphReport:
    """The three files from what is done, in the order of `keys`."""
    from opensama.data.manifest import Record, write_manifest
    from opensama.runtime import whole_file

    meta = {"made_by": "opensama curate", "stages": [[stage.name, stage.version] for stage in stages]}
    stream = (Record.from_dict(record) for outcome in state.outcomes(keys) for record in outcome["records"])
    records = write_manifest(out / "manifest.parquet", stream, meta)
    reports = tuple(StageReport(stage.name) for stage in stages)
    failures, left = 0, len(keys)
    with whole_file(out / "failed.jsonl") as temporary, temporary.open("w", encoding="utf-8") as lines:
        for outcome in state.outcomes(keys):
            left -= 1
            failures += len(outcome["failed"])
            lines.writelines(json.dumps(item) + "\n" for item in outcome["failed"])
            for call in outcome["calls"]:
                report = reports[call["stage"]]
                report.taken += 1
                report.given += call["given"]
                report.seconds += call["seconds"]
            for end in outcome["ends"]:
                report = reports[end["stage"]]
                if end["kind"] == "failed":
                    report.failed += 1
                else:
                    report.dropped[end["reason"]] = report.dropped.get(end["reason"], 0) + 1
    seconds = round(time.monotonic() - began, 3)
    whole = GraphReport(reports, len(keys), records, failures, left, stopped, seconds)
    with whole_file(out / "report.json") as temporary:
        temporary.write_text(json.dumps(asdict(whole), indent=1) + "\n", encoding="utf-8")
    return whole
