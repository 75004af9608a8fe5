"""The process that owns a device: it loads a model, takes jobs from the queue, and edits them one after the other.

It may be killed at any moment. A file has its name only when it is whole, an output is done when its line of JSON lies
beside it, and the row says that the job is done last; so whoever takes the job up again makes only what is missing. An
output that was broken off goes on after its last forward pass (`pipeline.unfinished`).
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import io
import json
import multiprocessing
import os
import signal
import sqlite3
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from opensama.apps.batch_worker import disk_is_full
from opensama.apps.edit_settings import LoadSettings
from opensama.apps.jobs.limits import JobLimits, Refusal, RefusalCode
from opensama.apps.jobs.store import JobStore, VideoJob
from opensama.apps.jobs.words import StoredWish, plain
from opensama.apps.progress import Display
from opensama.apps.records import OutputFigures
from opensama.pipeline.batch import ActorLost
from opensama.runtime import sync_folder, whole_file
from opensama.values import Cancelled, Progress, UserError

if TYPE_CHECKING:
    from opensama.pipeline.editor import Editor

IDLE = 0.1  # seconds between two looks at an empty queue
_PATIENCE = 5.0  # seconds until a full disk is tried again
_EVERY = 0.2  # seconds between two reports
_SHARES = {"Checking": (0, 2), "Reading": (2, 8), "Editing": (8, 85), "Decoding": (85, 92), "Writing": (92, 99)}
"""Of the stages in the progress of an output, in percent."""


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker is told when it begins: where the queue is, and what it may load."""

    folder: Path
    models: Mapping[str, str]
    load: LoadSettings
    limits: JobLimits
    anyway: bool = False
    webhooks: tuple[str, ...] = ()
    """The addresses that a request may name, to be told when its job is over."""

    @property
    def keep(self) -> float:
        """Seconds for which a finished job is kept."""
        return 3600 * self.limits.keep_hours

    def lock(self, number: int) -> Path:
        """Held by the worker of that number while it lives, so that two never work under one number."""
        return self.folder / f"worker-{number}.lock"


def work(settings: WorkerSettings, number: int) -> None:
    """Works until the process that began it is gone. What a `multiprocessing` process is to call."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the service, which ends this process
    signal.signal(signal.SIGTERM, _leave)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with settings.lock(number).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        store = JobStore(settings.folder)
        QueueWorker(settings, number, store).run()


def _leave(*_: object) -> NoReturn:
    """Told to end: what the libraries hold is given back, and the job is taken up again."""
    raise SystemExit(0)


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)  # whatever is being computed: the job is taken up again


class QueueWorker:
    """Takes jobs from the queue one after the other, and says in their rows how they ended."""

    def __init__(self, settings: WorkerSettings, number: int, store: JobStore) -> None:
        self.settings, self.number, self.store = settings, number, store
        self.model, self.shape = next(iter(settings.models)), ""
        self.editor_of = LoadedModel(settings)

    def run(self) -> None:
        try:
            self.prepare()
        except UserError as error:  # each job is told; another model may do
            print(f"worker {self.number}: {error}", file=sys.stderr, flush=True)
        while True:
            try:
                job = self.store.claim(self.number, self.model, self.shape)
                if job is None:
                    self.rest()
                else:
                    self.take(job)
            except sqlite3.OperationalError as error:  # the disk is full: the queue is as it was
                print(f"worker {self.number}: {error}", file=sys.stderr, flush=True)
                time.sleep(_PATIENCE)

    def take(self, job: VideoJob) -> None:
        """Makes a job's outputs, and says in its row how it ended."""
        folder, keep = self.store.files(job.id), self.settings.keep
        show = JobDisplay(self.store, job, self.settings.limits.job_seconds)
        try:
            outputs = [self._output(job, index, show) for index in range(job.outputs)]
            ended = self.store.finish(job, {"outputs": outputs, "notes": list(dict.fromkeys(show.notes))}, keep)
            self.shape = job.shape
        except Cancelled:
            ended = False
        except ActorLost:
            raise
        except Exception as error:  # whatever it is, the others go on
            code, sentence, log = fault_of(error, folder)
            print(log, end="", file=sys.stderr, flush=True)
            ended = self.store.fail(job, code, sentence, keep)
        if not ended:
            self.store.let_go(job)

    def _output(self, job: VideoJob, index: int, show: JobDisplay) -> OutputFigures:
        """The figures of an output, which is made if it is not there."""
        folder = self.store.files(job.id)
        done = folder / f"result-{index}.json"
        if done.exists():
            return json.loads(done.read_text())
        show.index = index
        figures = self.make(job, index, show)
        sync_folder(folder)
        with whole_file(done) as temporary:
            temporary.write_text(json.dumps(figures))
        return figures

    # --- what is done elsewhere where the model is

    def rest(self) -> None:
        """The queue is empty."""
        time.sleep(IDLE)

    def prepare(self) -> None:
        """Loads the first model. UserError where it cannot be."""
        self.editor_of(self.model)

    def make(self, job: VideoJob, index: int, show: JobDisplay) -> OutputFigures:
        """Makes an output, and gives its figures."""
        editor = self.editor_of(job.model, show)
        self.model = job.model
        return make_output(editor, StoredWish.of(job.asked, self.store.files(job.id)), index, show)


class LoadedModel:
    """The editor of one of the models that are served; another one that was loaded goes first."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        self.model = ""
        self._editor: Editor | None = None

    def __call__(self, model: str, show: Display | None = None) -> Editor:
        if self._editor is None or self.model != model:
            if show is not None:
                show(Progress("Loading the model", 0, 1))
            self._editor = None
            gc.collect()
            _empty_device()
            self._editor = self.settings.load.load(self.settings.models[model], self.settings.anyway, _log)
            self.model = model
        return self._editor


def make_output(editor: Editor, wish: StoredWish, index: int, show: Display) -> OutputFigures:
    """Makes one of a job's outputs, beside its source, and gives its figures."""
    from opensama.apps.edit import edit_one
    from opensama.apps.edit_checks import check_job
    from opensama.pipeline.advice import advice

    writing = wish.settings.writing(overwrite=True)
    request = wish.variant(index)
    checked = check_job(wish.source, replace(request, progress=show), wish.out(index), writing, span=wish.settings.span)
    with contextlib.redirect_stdout(io.StringIO()) as said:  # sentences for who looks at a terminal
        figures = edit_one(editor, checked, writing, show, set())
    for note in (*advice(editor.entry, checked.request), *said.getvalue().splitlines()):
        show.note(note)
    kept, psnr = _kept_figures(wish, checked.out)
    return {**figures, "seed": request.seed, "file": checked.out.name, "kept": kept, "kept_db": psnr}


def fault_of(error: Exception, folder: Path) -> tuple[RefusalCode, str, str]:
    """What made an edit fail: a code, a sentence without the job's `folder`, and what the log is to say."""
    if isinstance(error, UserError):
        code = error.code if isinstance(error, Refusal) else "disk_full" if disk_is_full(error) else "edit_failed"
        return code, plain(str(error), folder), ""
    if isinstance(error, OSError):
        sentence = f"The edit could not be written ({error.strerror or error}); try again later."
        return "disk_error", plain(sentence, folder), ""
    sentence = f"The edit failed inside the service ({type(error).__name__}); its log says more."
    return "internal_error", sentence, "".join(traceback.format_exception(error))


class JobDisplay(Display):
    """Reports an edit's progress to the queue, and stops the edit there where its job was deleted or takes too long."""

    def __init__(self, store: JobStore, job: VideoJob, seconds: float) -> None:
        super().__init__()
        self._until, self._seconds = time.monotonic() + seconds, seconds
        self.store, self.job, self.index = store, job, 0
        self.notes = [*job.asked["notes"], *job.media["notes"]]
        self._said, self._reported = set(), 0.0

    def __call__(self, progress: Progress) -> None:
        if not self.store.is_held(self.job):
            raise Cancelled
        now = time.monotonic()
        if now > self._until:
            raise Refusal("took_too_long", took_too_long(self._seconds))
        if now - self._reported >= _EVERY or progress.stage not in self._said:
            self._reported = now
            self._said.add(progress.stage)
            first, last = _SHARES.get(progress.stage.split()[0], (0, 2))
            share = _of_chain(first + (last - first) * progress.fraction, *progress.edit) / 100
            self.store.report(self.job, progress.stage, int(100 * (self.index + share) / self.job.outputs))

    def note(self, text: str) -> None:
        self.notes.append(plain(text, self.store.files(self.job.id)))


def took_too_long(seconds: float) -> str:
    """What is said of a job that was ended for its time."""
    return f"The edit took more than {seconds:g} s, and was ended; ask for fewer frames, steps or outputs."


def _of_chain(percent: float, edit: int, edits: int) -> float:
    """Of an output, where an edit alone would be at `percent` and this is one of a chain, from 0 on."""
    begin, end = _SHARES["Reading"][0], _SHARES["Decoding"][1]
    return begin + (edit * (end - begin) + percent - begin) / edits if edits > 1 else percent


def _kept_figures(wish: StoredWish, result: Path) -> tuple[float, float]:
    """What the written file kept of its source: a share of the picture, and how well, in dB."""
    from opensama.media.video_io import read_video
    from opensama.pipeline.changes import kept_part

    source, edited = (read_video(path, background=wish.settings.background) for path in (wish.source, result))
    share, psnr = kept_part(source, edited)
    return round(share, 4), round(psnr, 1)


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _empty_device() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
