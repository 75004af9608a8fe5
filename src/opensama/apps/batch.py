"""`opensama batch`: a table of edits, made one after the other with the model loaded once; killed, it goes on.

    table -> items -> those that are not done, by shape -> checked, edited, written, recorded -> results.jsonl

An item is a plain value and so is its record, so that other processes can make edits as this one does.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from opensama.apps.batch_state import (
    STATE_FOLDER,
    BatchState,
    asked_of,
    check_own,
    check_table,
    keep_table,
    outcome_of,
    stamps,
    sweep,
    write_results,
)
from opensama.apps.batch_table import BatchItem, read_batch
from opensama.apps.edit_settings import FLAG, EditSettings, LoadSettings
from opensama.apps.options import OUT, as_options, check_writable_folder
from opensama.apps.progress import Display, duration, loading
from opensama.runtime import DISK_FULL, world_size
from opensama.values import UserError, counted

if TYPE_CHECKING:
    from opensama.apps.edit_checks import Job, Writing
    from opensama.models.registry import ModelEntry
    from opensama.pipeline.editor import Editor

_SHOWN = 20  # failures that are told at the end


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
    """
    settings, load_settings = settings or EditSettings(), load_settings or LoadSettings()
    from opensama.models.registry import find

    entry = find(model)
    settings.request(jobs, "what is wrong for every row")
    check_writable_folder(out)
    items = read_batch(jobs, out, settings, model, anyway)
    check_table(jobs, out)
    if not (out / STATE_FOLDER).exists():
        check_own(items, {})
    load_settings.check(entry, anyway)
    if world_size() > 1:
        raise UserError("Processes of torchrun share one edit: start opensama batch without torchrun.")
    with BatchState(out) as state:
        check_own(items, state.records)
        keep_table(jobs, out)
        sweep(items, out)
        return _Batch(items, state, out, model, entry, load_settings, anyway, retry_failed).run()


@dataclass
class _Batch:
    """A call of the command, everything being checked that is wrong for all."""

    items: Sequence[BatchItem]
    state: BatchState
    out: Path
    model: str
    entry: ModelEntry
    load_settings: LoadSettings
    anyway: bool
    retry_failed: bool
    editor: Editor | None = None
    seconds_of_loading: float = 0.0
    made: int = 0
    stopped: str = ""
    heard: set[str] = field(default_factory=set)
    asked: dict[str, dict[str, Any]] = field(default_factory=dict)

    def run(self) -> int:
        begun = time.perf_counter()
        own = self.entry.defaults
        defaults = {
            "steps": own.steps, "guidance": own.guidance, "shift": own.shift, "size": round(own.area**0.5),
            "preserve": own.preserve, "negative_prompt": own.negative_prompt,
        }  # fmt: skip
        how = self.load_settings
        model = {
            "name": os.path.abspath(self.model) if self._is_path() else self.model, "dtype": how.dtype,
            "float8": how.float8, "lora": [os.path.abspath(lora) for lora in how.lora or ()],
            "weights": how.weights and os.path.abspath(how.weights), "base": how.base and os.path.abspath(how.base),
        }  # fmt: skip
        self.asked = {item.name: asked_of(item, model, defaults) for item in self.items}
        try:
            with Display() as show:
                looked = counted(self.items, "Looking at results", show if self.state.records else None)
                open_items = self._by_shape([item for item in looked if self._is_open(item)])
            for number, item in enumerate(open_items, 1):
                self._edit(item, f"{number} of {len(open_items)}")
        except (UserError, OSError) as error:
            if not disk_is_full(error):
                raise
            self.stopped = f"the disk is full ({self.out})"
        return self._sum_up(time.perf_counter() - begun)

    def _is_path(self) -> bool:
        """Whether the model was named by its folder or file."""
        from opensama.models.registry import entries

        return os.path.exists(self.model) and self.model not in [entry.name for entry in entries()]

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
                self._failed(item, error)
                continue
            shape = (item.settings.size, video.width, video.height, video.frame_count, span)
            shapes.setdefault(shape, []).append(item)
        return [item for alike in shapes.values() for item in alike]

    def _edit(self, item: BatchItem, number: str) -> None:
        from opensama.apps.edit import edit_one, tell

        with Display() as show:
            try:
                writing = item.settings.writing(overwrite=True)
                job = self._checked(item, writing, show)
            except UserError as error:
                self._failed(item, error)
                return
            editor = self.editor = self.editor or self._loaded(show)
            try:
                notes = self._notes(item, job)
                tell((note for note in notes if note not in self.heard), show)
                self.heard.update(notes)
                self.state.begin(item, self.asked[item.name])
                figures = edit_one(editor, job, writing, show, self.heard)
                self._check_unchanged(item)
            except Exception as error:  # whatever it is, the others go on
                if not disk_is_full(error):
                    for place in item.places:
                        place.unlink(missing_ok=True)
                self._failed(item, error)
                return
        video = job.source
        shape = {"width": video.width, "height": video.height, "frames": video.frame_count, "fps": float(video.fps)}
        self.state.end(item, self.asked[item.name], **figures, shape=shape)
        self.made += 1
        print(f"{number}, edited in {duration(figures['seconds'])}: {item.out}", flush=True)

    def _checked(self, item: BatchItem, writing: Writing, show: Display) -> Job:
        """The item with all that is in its files looked at. UserError for what makes it fail."""
        from opensama.apps.edit_checks import check_job

        self._check_unchanged(item)
        settings = item.settings
        job = check_job(
            item.video,
            replace(item.request, progress=show),
            item.out,
            writing,
            span=settings.span,
            compare=settings.compare,
        )
        return replace(job, request=settings.completed(job.request, self.model, self.anyway))

    def _check_unchanged(self, item: BatchItem) -> None:
        with suppress(OSError, UserError):
            if stamps(item.sources) == self.asked[item.name]["sources"]:
                return
        raise UserError(f"{item.video} changed while the batch ran; the same command edits it as it is then.")

    def _notes(self, item: BatchItem, job: Job) -> list[str]:
        """What is to be known before an edit, of its video and of the model."""
        from opensama.models.vocabulary import politeness_note
        from opensama.pipeline.advice import advice
        from opensama.pipeline.enhance import enhanced_note

        of_video = [f"{item.video}: {note}" for note in job.source.notes]
        said = politeness_note(self.model, item.left_out), enhanced_note(job.request)
        of_model = [*said, *advice(self.entry, job.request)]
        return [note for note in (*of_video, *of_model) if note]

    def _loaded(self, show: Display) -> Editor:
        begun = time.perf_counter()
        loading(self.model)
        editor = self.load_settings.load(self.model, self.anyway, show.note)
        self.seconds_of_loading = time.perf_counter() - begun
        return editor

    def _failed(self, item: BatchItem, error: Exception) -> None:
        """Records why, or ends the run where it is no fault of the item's."""
        if disk_is_full(error):
            raise error
        sentence = as_options(str(error)) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        self.state.end(item, self.asked[item.name], error=sentence)
        print(f"{item.video}: left out", file=sys.stderr, flush=True)

    def _sum_up(self, seconds: float) -> int:
        """Writes the results, says how the batch stands, and gives the exit code."""
        from opensama.apps.cli import complain, ended

        records = [self.state.of(item, self.asked[item.name]) for item in self.items]
        outcomes = Counter(map(outcome_of, records))
        failures = []
        for item, record in zip(self.items, records, strict=True):
            if record is not None and record["outcome"] == "failed":
                named = str(item.video) in record["error"]
                failures.append(f"row {item.row}: {'' if named else f'{item.video}: '}{record['error']}")
        report = self._report(outcomes, seconds)
        try:
            write_results(records, self.items, self.out, report)
        except OSError as error:
            if not disk_is_full(error):
                raise
            self.stopped = self.stopped or f"the disk is full ({self.out})"
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

    def _report(self, outcomes: Mapping[str, int], seconds: float) -> dict[str, object]:
        edited = seconds - self.seconds_of_loading
        return {
            "items": len(self.items), "done": outcomes["done"], "failed": outcomes["failed"], "left": outcomes["left"],
            "stopped": self.stopped, "made": self.made, "seconds": round(seconds, 2),
            "loading_seconds": round(self.seconds_of_loading, 2),
            "edits_an_hour": round(3600 * self.made / edited, 1) if self.made else None,
        }  # fmt: skip


def disk_is_full(error: BaseException | None) -> bool:
    """Whether an error says so, or one that it was made of."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            return True
        error = error.__cause__
    return False
