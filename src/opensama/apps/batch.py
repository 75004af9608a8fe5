"""`opensama batch`: a table of edits, made one after the other with the model loaded once; killed, it goes on.

    table -> items -> those that are not done, by shape -> checked, edited, written, recorded -> results.jsonl

An item is a plain value and so is its record: with --ray other processes, on other nodes, make the edits as this one
does (`BatchWorker`), and this one records them.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from opensama.apps.batch_state import (
    STATE_FOLDER,
    BatchEnd,
    BatchState,
    ItemAsked,
    asked_of,
    check_own,
    check_table,
    keep_table,
    outcome_of,
    sweep,
    write_results,
)
from opensama.apps.batch_table import BatchItem, read_batch
from opensama.apps.batch_worker import BatchWorker, RayBatchWorker, RemoteEnd, disk_is_full, failure
from opensama.apps.edit_settings import FLAG, EditSettings, LoadSettings
from opensama.apps.options import OUT, check_writable_folder
from opensama.apps.progress import Display, duration
from opensama.pipeline.batch import ACTOR_TRIES, RepeatedFailures
from opensama.runtime import world_size
from opensama.values import UserError, counted

if TYPE_CHECKING:
    from opensama.models.registry import ModelEntry

_GIVEN_UP = f"The edit ended its worker {ACTOR_TRIES} times; it is not tried again."
_SHOWN = 20  # failures that are told at the end
_REPORTING = 50  # parts of the time, of which writing how the batch stands may take one


def batch_command(
    jobs: Path,
    /,
    *,
    out: Annotated[Path, OUT],
    model: Annotated[str, Parameter(name=["--model", "-m"])] = "tiny",
    retry_failed: Annotated[bool, FLAG] = False,
    settings: EditSettings | None = None,
    anyway: Annotated[bool, FLAG] = False,
    load_settings: LoadSettings | None = None,
    ray: Annotated[bool, FLAG] = False,
    workers: int | None = None,
) -> int:
    """Make a table of edits: `opensama batch jobs.csv --out edited`.

    The model is loaded once. What fails is recorded, and the others go on. Killed at any point, the same command goes
    on.

    Parameters
    ----------
    jobs
        The table: .csv, .jsonl or .parquet, with the columns video and instruction and any of out (the result's name),
        seed, steps, guidance, frames, from, to, mask, box and what else is a setting from --seed to --even; the options
        are for rows that say nothing of their own. Paths in it begin at its folder.
    out
        Folder of the results, and of results.jsonl, failed.jsonl, manifest.parquet and report.json. Killed at any
        point, the same command goes on there.
    model
        A name that `opensama models list` shows, a pipeline folder, or a file of weights.
    retry_failed
        Try again what failed before. Rows that were changed since then are tried in any case.
    anyway
        Edit, though instructions have words that the model does not know, the model is known to fail at such sizes, or
        it needs more memory or disk than this machine has.
    ray
        Let the workers of a Ray cluster make the edits, each with a model of its own: of the cluster that RAY_ADDRESS
        names, or of one that begins on this machine. All its nodes must see the files under the same names.
    workers
        How many these are. By default one for each GPU of the cluster, or where it has none, for each node.
    """
    settings, load_settings = settings or EditSettings(), load_settings or LoadSettings()
    from opensama.models.registry import find

    load_settings.check_ray(ray, workers)
    entry = find(model)
    settings.request(jobs, "what is wrong for every row")
    check_writable_folder(out)
    items = read_batch(jobs, out, settings, model, anyway)
    check_table(jobs, out)
    if not (out / STATE_FOLDER).exists():
        check_own(items, {})
    load_settings.check(entry, anyway or ray)  # Ray's workers are elsewhere
    if world_size() > 1:
        raise UserError("Processes of torchrun share one edit: start opensama batch without torchrun.")
    with BatchState(out) as state:
        check_own(items, state.records)
        keep_table(jobs, out)
        sweep(items, out)
        worker = BatchWorker(model, load_settings, anyway)
        return _Batch(items, state, out, entry, worker, retry_failed, ray, workers).run()


@dataclass
class _Batch:
    """A call of the command, everything being checked that is wrong for all."""

    items: Sequence[BatchItem]
    state: BatchState
    out: Path
    entry: ModelEntry
    worker: BatchWorker
    retry_failed: bool
    ray: bool
    workers: int | None
    made: int = 0
    seconds_of_loading: float = 0.0
    stopped: str = ""
    heard: set[str] = field(default_factory=set)
    asked: dict[str, ItemAsked] = field(default_factory=dict)
    repeated: RepeatedFailures = field(default_factory=RepeatedFailures)
    began: float = field(default_factory=time.perf_counter)
    reported: float = 0.0
    seconds_of_reporting: float = 0.0

    def run(self) -> int:
        own = self.entry.defaults
        defaults = {
            "steps": own.steps, "guidance": own.guidance, "shift": own.shift, "size": round(own.area**0.5),
            "preserve": own.preserve, "negative_prompt": own.negative_prompt,
        }  # fmt: skip
        how, name = self.worker.load_settings, self.worker.model
        model = {
            "name": os.path.abspath(name) if self._is_path() else name, "dtype": how.dtype,
            "float8": how.float8, "lora": [os.path.abspath(lora) for lora in how.lora or ()],
            "weights": how.weights and os.path.abspath(how.weights), "base": how.base and os.path.abspath(how.base),
        }  # fmt: skip
        self.asked = {item.name: asked_of(item, model, defaults) for item in self.items}
        try:
            with Display() as show:
                looked = counted(self.items, "Looking at results", show if self.state.records else None)
                open_items = self._by_shape([item for item in looked if self._is_open(item)])
            if open_items:
                self._report()
                (self._edit_on_ray if self.ray else self._edit_here)(open_items)
        except (UserError, OSError) as error:
            if not disk_is_full(error):
                raise
            self.stopped = f"the disk is full ({self.out})"
        except KeyboardInterrupt:
            self._report()
            raise
        return self._sum_up()

    def _is_path(self) -> bool:
        """Whether the model was named by its folder or file."""
        from opensama.models.registry import entries

        model = self.worker.model
        return os.path.exists(model) and model not in [entry.name for entry in entries()]

    def _is_open(self, item: BatchItem) -> bool:
        """Whether an item is to be edited now."""
        record = self.state.of(item, self.asked[item.name])
        if record is not None and record["outcome"] == "failed":
            return self.retry_failed
        return not self.state.is_done(item, self.asked[item.name])

    def _by_shape(self, items: Sequence[BatchItem]) -> list[BatchItem]:
        """Items of one size and length after one another, the shapes as they come; those without one have failed."""
        from opensama.media.video_io import read_video

        shapes = dict[tuple[object, ...], list[BatchItem]]()
        for item in items:
            try:
                video = read_video(item.video)
                span = item.settings.span(video)
            except UserError as error:
                self._record(item, failure(error))
                continue
            shape = (item.settings.size, video.width, video.height, video.frame_count, span)
            shapes.setdefault(shape, []).append(item)
        return [item for alike in shapes.values() for item in alike]

    def _edit_here(self, items: Sequence[BatchItem]) -> None:
        for number, item in enumerate(items, 1):
            asked = self.asked[item.name]

            def begin(item: BatchItem = item, asked: ItemAsked = asked) -> None:
                self.state.begin(item, asked)
                item.clear()

            with Display() as show:
                told = self.worker.edit(item, asked, show, begin, self.heard)
            self.seconds_of_loading = self.worker.seconds_of_loading
            self._take(item, told, f"{number} of {len(items)}")
            if self.stopped:
                return

    def _edit_on_ray(self, items: Sequence[BatchItem]) -> None:
        """The same by actors. All are noted as begun before, for this process hears of an edit at its end."""
        from opensama.apps.edit import tell
        from opensama.pipeline.batch import by_ray, ray_cluster, share_of

        with ray_cluster(without="leave out `ray`"):
            share = share_of(self.workers, on_gpu=self.worker.load_settings.device != "cpu")
            for item in items:
                self.state.begin(item, self.asked[item.name])
            make = partial(RayBatchWorker, self.worker, Path.cwd())
            given = [(item, self.asked[item.name]) for item in items]
            with closing(by_ray(make, given, share, self.state.folder)) as results:
                for count, (number, answer) in enumerate(results, 1):
                    if isinstance(answer, Exception):
                        raise answer
                    end: RemoteEnd = answer or RemoteEnd({"error": _GIVEN_UP})
                    with Display() as show:
                        tell((note for note in end.notes if note not in self.heard), show)
                    self.heard.update(end.notes)
                    self.seconds_of_loading = max(self.seconds_of_loading, end.loading_seconds)
                    self._take(items[number], end.told, f"{count} of {len(items)}")
                    if self.stopped:
                        return

    def _take(self, item: BatchItem, told: BatchEnd, number: str) -> None:
        """Records how an edit ended, and says so."""
        self._record(item, told)
        if "error" not in told:
            self.made += 1
            print(f"{number}, edited in {duration(told['seconds'])}: {item.out}", flush=True)
        self.stopped = self.repeated(told.get("error", ""))
        if time.perf_counter() - self.reported > _REPORTING * self.seconds_of_reporting:
            self._report()

    def _record(self, item: BatchItem, told: BatchEnd) -> None:
        self.state.end(item, self.asked[item.name], told)
        if "error" in told:
            print(f"{item.video}: left out", file=sys.stderr, flush=True)

    def _report(self) -> None:
        """Writes how the batch stands, for people and programs."""
        begun = time.perf_counter()
        records = [self.state.of(item, self.asked[item.name]) for item in self.items]
        outcomes = Counter(map(outcome_of, records))
        seconds = begun - self.began
        edited = seconds - self.seconds_of_loading
        report = {
            "items": len(self.items), "done": outcomes["done"], "failed": outcomes["failed"], "left": outcomes["left"],
            "stopped": self.stopped, "made": self.made, "seconds": round(seconds, 2),
            "loading_seconds": round(self.seconds_of_loading, 2),
            "edits_an_hour": round(3600 * self.made / edited, 1) if self.made else None,
        }  # fmt: skip
        write_results(records, self.items, self.out, report)
        self.reported = time.perf_counter()
        self.seconds_of_reporting = self.reported - begun

    def _sum_up(self) -> int:
        """Writes the results, says how the batch stands, and gives the exit code."""
        from opensama.apps.cli import complain, ended

        try:
            self._report()
        except OSError as error:
            if not disk_is_full(error):
                raise
            self.stopped = self.stopped or f"the disk is full ({self.out})"
        records = [self.state.of(item, self.asked[item.name]) for item in self.items]
        outcomes = Counter(map(outcome_of, records))
        failures = []
        for item, record in zip(self.items, records, strict=True):
            if record is not None and record["outcome"] == "failed":
                named = str(item.video) in record["error"]
                failures.append(f"row {item.row}: {'' if named else f'{item.video}: '}{record['error']}")
        now = f", {self.made} of them now" if self.made != outcomes["done"] else ""
        after = f"{now}, after {duration(self.seconds_of_loading)} of loading" if self.made else ""
        print(f"edited {outcomes['done']} of {len(self.items)}{after}: {self.out / 'results.jsonl'}")
        for sentence in failures[:_SHOWN]:
            print(f"failed: {sentence}", file=sys.stderr)
        if self.stopped:
            return ended(self.stopped, outcomes["left"])
        if not failures:
            return 0
        return complain(
            f"{len(failures)} of {len(self.items)} failed; {self.out / 'failed.jsonl'} says why, and --retry-failed "
            "tries them again."
        )
