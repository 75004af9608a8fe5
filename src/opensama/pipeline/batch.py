"""Many edits over the nodes of a Ray cluster, by actors that each hold a model. The door to Ray.

    with ray_cluster(without="leave out `ray`"):
        share = share_of(workers=None, on_gpu=True)          # how many actors there are, and what each of them gets
        for number, result in by_ray(partial(Worker, "tiny"), items, share, folder):  # on Ray Data, as they end
            ...
        actor = RayActor(Worker, "tiny", share=share)        # one on some node, for who hands out the work himself
        actor.call("edit", item)

A cluster that RAY_ADDRESS names is joined; else one begins on this machine, and ends with the block.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import socket
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypedDict, TypeVar
from urllib.parse import urlsplit

from opensama.runtime import install_line
from opensama.values import UserError

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.data import Dataset

STUCK = 25  # failures one after another, for one reason: it is not the items
ACTOR_TRIES = 3  # actors that an item may take down
OBJECT_STORE = 256 * 2**20  # bytes of a Ray of our own: what travels is small, or comes in pieces
_T = TypeVar("_T")
_R = TypeVar("_R")
_P = ParamSpec("_P")


class RepeatedFailures:
    """Counts failures that follow one another for the same reason."""

    def __init__(self) -> None:
        self._last, self._times = "", 0

    def __call__(self, reason: str) -> str:
        """Takes in why the next item failed, or "" where it did not. Why the run should stop, or nothing."""
        self._times = self._times + 1 if reason == self._last else 1
        self._last = reason
        return f"{self._times} items one after another failed, {reason}" if reason and self._times == STUCK else ""


@contextmanager
def ray_cluster(workers: int | None = None, *, without: str) -> Iterator[None]:
    """Ray while the block runs. `workers` are the CPUs of one that begins, by default all; `without` says in its
    errors how one does without Ray."""
    try:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray
    except ImportError:
        raise UserError(f"Ray is not installed; run: {install_line('cluster')}") from None
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS", "")
    own = {"num_cpus": workers, "object_store_memory": OBJECT_STORE, "include_dashboard": False}
    if address and workers is not None:
        raise UserError("RAY_ADDRESS names a cluster, which has its own workers; leave `workers` away.")
    try:
        if address:
            _check_listening(address)
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **({} if address else own))
    except Exception as error:  # Ray's own are of many types, Exception itself among them
        ray.shutdown()  # what had begun
        reason = f"{type(error).__name__}: {' '.join(str(error).split()) or 'no reason given'}"
        if address:
            advice = f"start the cluster (ray start --head), mend or unset RAY_ADDRESS, or {without}"
            raise UserError(f"No Ray cluster answers at RAY_ADDRESS={address} ({reason}): {advice}.") from error
        advice = f"its logs are under /tmp/ray, or under RAY_TMPDIR if that is set; or {without}"
        raise UserError(f"Ray does not start on this machine ({reason}): {advice}.") from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_listening(address: str) -> None:
    """OSError or ValueError where nobody listens: Ray itself would try for a quarter of an hour."""
    place = urlsplit(address if "://" in address else f"//{address}")
    if place.hostname and place.port:  # "auto" and "local" have none
        socket.create_connection((place.hostname, place.port), timeout=10).close()


@dataclass(frozen=True)
class ActorShare:
    """How many actors share a cluster, and the CPUs and GPUs of each."""

    actors: int
    cpus: float
    gpus: int


def share_of(workers: int | None, *, on_gpu: bool) -> ActorShare:
    """So many actors, or by default one for each GPU of the cluster, and where it has none (or not `on_gpu`) one for
    each node, which then has all its cores. UserError for more than there is room for."""
    import ray

    return fair_share([node["Resources"] for node in ray.nodes() if node["Alive"]], workers, on_gpu=on_gpu)


def fair_share(resources: Iterable[Mapping[str, float]], workers: int | None, *, on_gpu: bool) -> ActorShare:
    """The same of nodes with these resources, their CPU and GPU."""
    nodes = [node for node in resources if node.get("CPU")]
    gpus = [int(node.get("GPU", 0)) for node in nodes] if on_gpu else []
    if workers is not None and workers < 1:
        raise UserError(f"There must be at least one worker, not {workers}.")
    if not any(gpus):
        actors = workers or max(1, len(nodes))
        cpus = min((node["CPU"] for node in nodes), default=1.0) / math.ceil(actors / max(1, len(nodes)))
        return ActorShare(actors, math.floor(cpus) or cpus, 0)
    if workers is not None and workers > sum(gpus):
        raise UserError(f"Ray has {sum(gpus)} GPUs, too few for {workers} workers: give fewer, or leave out `workers`.")
    fair = min(node["CPU"] / count for node, count in zip(nodes, gpus, strict=True) if count)
    return ActorShare(workers or sum(gpus), math.floor(fair) or fair, 1)


# --- items by Ray Data


def by_ray(
    make: Callable[[], Callable[[_T], _R]],
    items: Sequence[_T],
    share: ActorShare,
    folder: Path,
    tries: int = ACTOR_TRIES,
) -> Generator[tuple[int, _R | None]]:
    """What an actor gives for each item, with the item's number, in the order in which they end.

    `make` is called once an actor and gives what is called with an item; both are importable by name. An item whose
    actor dies is tried again, by another, and gives None where it has taken down so many as `tries`: which is counted
    in files in the `folder`, which all nodes see.
    """
    import ray.data

    if not items:
        return
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # our own progress is shown
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    rows = [{"number": number, "item": pickle.dumps(item)} for number, item in enumerate(items)]
    pool = ray.data.ActorPoolStrategy(size=min(share.actors, len(rows)), max_tasks_in_flight_per_actor=1)
    with TemporaryDirectory(prefix="tries-", dir=folder) as counts:
        data = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            _Mapping, fn_constructor_args=(make, counts, tries), compute=pool, num_cpus=share.cpus, num_gpus=share.gpus
        )
        for row in ended_rows(data):
            yield row["number"], pickle.loads(row["result"])


def ended_rows(data: Dataset) -> Iterator[dict[str, Any]]:
    """Rows as soon as their block is made; Ray's `iter_rows` holds each back until the next one is."""
    for block in data.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow"):
        yield from block.to_pylist()


class _Row(TypedDict):
    number: int
    item: bytes


class _Result(TypedDict):
    number: int
    result: bytes


class _Mapping(Generic[_T, _R]):
    """A worker in an actor, which Ray Data begins again when it dies, and gives the same item as often as that."""

    def __init__(self, make: Callable[[], Callable[[_T], _R]], counts: str, tries: int) -> None:
        self.make, self.counts, self.tries = make, counts, tries
        self.worker: Callable[[_T], _R] | None = None

    def __call__(self, row: _Row) -> _Result:
        with open(os.path.join(self.counts, str(row["number"])), "a") as file:
            tried = file.tell()
            file.write("x")
        result = None
        if tried < self.tries:
            self.worker = self.worker or self.make()
            result = self.worker(pickle.loads(row["item"]))
        return {"number": row["number"], "result": pickle.dumps(result)}


# --- one actor


class ActorLost(Exception):
    """An actor is no more, or its node is not."""


class RayActor(Generic[_T]):
    """An object of a class on some node, of whose methods at most three are called at a time."""

    def __init__(self, kind: type[_T], *arguments: object, share: ActorShare) -> None:
        import ray

        options = {"num_cpus": share.cpus, "num_gpus": share.gpus, "max_concurrency": 3, "max_restarts": 0}
        self._handle = ray.remote(kind).options(**options).remote(*arguments)

    def begin(self, method: Callable[Concatenate[_T, _P], _R], *arguments: _P.args, **named: _P.kwargs) -> RayCall[_R]:
        """The call of a method of the class, without waiting for it."""
        return RayCall(getattr(self._handle, method.__name__).remote(*arguments, **named))

    def call(self, method: Callable[Concatenate[_T, _P], _R], *arguments: _P.args, **named: _P.kwargs) -> _R:
        """What the method returns. ActorLost where there is nobody to answer."""
        return self.begin(method, *arguments, **named).result()

    def kill(self) -> None:
        import ray

        if ray.is_initialized():
            ray.kill(self._handle)


class RayCall(Generic[_R]):
    """A method of an actor at work."""

    def __init__(self, reference: ObjectRef) -> None:
        self._reference = reference

    def is_over(self, seconds: float) -> bool:
        """Whether it has ended, or ends in so many seconds."""
        import ray

        return bool(ray.wait([self._reference], timeout=seconds)[0])

    def result(self) -> _R:
        """What it returns, or the error that it raises. ActorLost where the actor is no more."""
        import ray

        try:
            return ray.get(self._reference)
        except ray.exceptions.RayTaskError as error:
            raise error.cause or error from None
        except ray.exceptions.RayError as error:
            raise ActorLost(str(error)) from error
