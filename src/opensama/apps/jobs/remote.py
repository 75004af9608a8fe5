"""Workers of the queue on the nodes of a Ray cluster. The queue stays here, and so do the jobs' files.

    a thread of this process: claims a job -> sends its files -> follows the edit -> fetches the result, ends the job
    an actor on some node:                    writes them       edits              reads it in pieces

So a node sees the job at hand and no other, needs no folder that is shared, and knows nothing of the queue. Files
travel through Ray in pieces. What an actor had of an edit when it died is gone: the next one begins it anew.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import threading
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from pathlib import Path
from tempfile import gettempdir, mkdtemp

from opensama.apps.batch_worker import NoteDisplay
from opensama.apps.jobs.limits import Refusal, RefusalCode
from opensama.apps.jobs.store import JobStore, VideoJob
from opensama.apps.jobs.words import StoredWish, plain
from opensama.apps.jobs.worker import IDLE, JobDisplay, LoadedModel, QueueWorker, WorkerSettings, fault_of, make_output
from opensama.apps.records import JobAsked, OutputFigures
from opensama.pipeline.batch import ActorLost, ActorShare, RayActor, RayCall
from opensama.runtime import whole_file
from opensama.values import Cancelled, Progress, UserError

_PIECE = 8 * 2**20  # bytes of a file that travel at once
_FOLLOW = 0.2  # seconds between two looks at an edit
_GRACE = 30.0  # seconds for an actor to remove its files, on a node whose disk is busy
_FOLDER = "opensama-worker-"
_BEGUN = Progress("Checking", 0, 1)


class RayWorker:
    """An actor that edits and the thread that gives it jobs: as a `WorkerPool` takes a process."""

    def __init__(self, settings: WorkerSettings, number: int, store: JobStore, share: ActorShare) -> None:
        self.pid: int | None = None
        self.sentinel, self._told = Pipe(duplex=False)
        self._ending = threading.Event()
        self._closing: RayCall[None] | None = None
        self._actor = RayActor(EditActor, settings, str(Path.cwd()), share=share)
        self._queue = settings, number, store
        self._thread = threading.Thread(target=self._run, name=f"worker-{number}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        settings, number, store = self._queue
        try:
            self.pid = self._actor.call(EditActor.pid)
            _Dispatcher(settings, number, store, self._actor, self._ending).run()
        except ActorLost as error:
            if not self._ending.is_set():
                print(f"worker {number}: {str(error).splitlines()[0]}", file=sys.stderr, flush=True)
        except Exception:
            if not self._ending.is_set():
                traceback.print_exc()
        finally:
            self._actor.kill()
            self._told.close()  # by which the sentinel is ready

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def terminate(self) -> None:
        self._ending.set()
        if self.pid is None:  # it waits for room on the cluster
            self._actor.kill()
        else:
            self._closing = self._actor.begin(EditActor.close)

    def kill(self) -> None:
        self._ending.set()
        self._actor.kill()

    def join(self, timeout: float | None = None) -> None:
        """Waits for the worker to end; after `terminate`, for its actor to have removed its files, and ends it."""
        if self._closing is not None:
            try:
                if not self._closing.is_over(_GRACE):
                    raise TimeoutError(f"not closed within {_GRACE:.0f} seconds")
                self._closing.result()
            except (ActorLost, OSError) as error:
                print(f"worker: files may be left on its node: {error}", file=sys.stderr, flush=True)
            self._closing = None
            self._actor.kill()
        self._thread.join(timeout)

    def close(self) -> None:
        self.sentinel.close()


class _Dispatcher(QueueWorker):
    """A worker whose model is elsewhere."""

    def __init__(
        self,
        settings: WorkerSettings,
        number: int,
        store: JobStore,
        actor: RayActor[EditActor],
        ending: threading.Event,
    ) -> None:
        super().__init__(settings, number, store)
        self.ending = ending
        self.actor, self.life = actor, actor.begin(EditActor.live)
        self.sent, self.edits = "", 0

    def rest(self) -> None:
        if self.life.is_over(IDLE):
            self.life.result()

    def prepare(self) -> None:
        if sentence := self.actor.call(EditActor.load, self.model):
            raise UserError(sentence)

    def take(self, job: VideoJob) -> None:
        super().take(job)
        self.sent = ""
        self.actor.call(EditActor.clear)

    def make(self, job: VideoJob, index: int, show: JobDisplay) -> OutputFigures:
        try:
            return self._make_there(job, index, show)
        except Exception as error:
            if self.ending.is_set():  # its files are being removed: the job waits for the next service
                raise ActorLost("the service ends") from error
            raise

    def _make_there(self, job: VideoJob, index: int, show: JobDisplay) -> OutputFigures:
        folder = self.store.files(job.id)
        if self.sent != job.id:
            self._send(job, folder)
            self.sent = job.id
        self.edits += 1
        call = self.actor.begin(EditActor.edit, self.edits, job.model, job.asked, index)
        try:
            while not call.is_over(_FOLLOW):
                show(self.actor.call(EditActor.progress, self.edits))
        except (Cancelled, Refusal):
            self.actor.call(EditActor.cancel, self.edits)
            call.result()  # at its next step
            raise
        told: RemoteEdit = call.result()
        self.model = told.model
        if told.fault is not None:
            print(told.log, end="", file=sys.stderr, flush=True)
            raise Refusal(*told.fault)
        assert told.figures is not None
        for note in told.notes:
            show.note(note)
        self._fetch(folder / told.figures["file"])
        return told.figures

    def _send(self, job: VideoJob, folder: Path) -> None:
        self.actor.call(EditActor.clear)
        for place in StoredWish.of(job.asked, folder).files:
            with place.open("rb") as file:
                while piece := file.read(_PIECE):
                    self.actor.call(EditActor.put, place.name, piece)

    def _fetch(self, place: Path) -> None:
        with whole_file(place) as temporary, temporary.open("wb") as file:
            while piece := self.actor.call(EditActor.get, place.name, file.tell()):
                file.write(piece)


@dataclass(frozen=True)
class RemoteEdit:
    """How an edit ended: its figures and notes, a fault with what the log is to say of it, or none of these where it
    was cancelled; and the model that is loaded now."""

    model: str
    figures: OutputFigures | None = None
    notes: list[str] = field(default_factory=list)
    fault: tuple[RefusalCode, str] | None = None
    log: str = ""


def _own_folder() -> tuple[Path, int]:
    """A new folder of this process, and the lock that it holds on it."""
    while True:
        place = Path(mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-"))
        with suppress(FileNotFoundError):  # another actor that begins may take a new folder for one that was left
            lock = os.open(place, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if place.exists():
                return place, lock
            os.close(lock)


class EditActor:
    """What lives on a node: a model, and the files of the job at hand in a folder of its own.

    `folder` is where the service was begun, from which models may have been named.
    """

    def __init__(self, settings: WorkerSettings, folder: str) -> None:
        with suppress(OSError):  # names from the hub need none
            os.chdir(folder)
        self.editor_of = LoadedModel(settings)
        self.last, self.cancelled = (0, _BEGUN), 0
        self._remove_left()
        self._place, self._lock = _own_folder()
        self.folder = self._place / "job"
        self.clear()

    def _remove_left(self) -> None:
        """People's files that actors left here when they were killed."""
        for place in Path(gettempdir()).glob(f"{_FOLDER}*"):
            with suppress(OSError):
                lock = os.open(place, os.O_RDONLY)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(place)
                finally:
                    os.close(lock)

    def live(self) -> None:
        """Does not end before the actor does."""
        threading.Event().wait()

    def pid(self) -> int:
        return os.getpid()

    def load(self, model: str) -> str:
        """Loads a model; why it cannot be, or nothing."""
        try:
            self.editor_of(model)
        except UserError as error:
            return str(error)
        return ""

    def clear(self) -> None:
        """Removes the job's files."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(mode=0o700)

    def close(self) -> None:
        """Removes the folder. What still writes into it meanwhile finds none of that name, and fails."""
        gone = self._place.rename(self._place.with_name(f"{self._place.name}-gone"))
        shutil.rmtree(gone, ignore_errors=True)
        os.close(self._lock)

    def put(self, name: str, piece: bytes) -> None:
        """Writes a piece at a file's end."""
        with (self.folder / name).open("ab") as file:
            file.write(piece)

    def get(self, name: str, start: int) -> bytes:
        """The piece of a file that begins there; nothing at its end."""
        with (self.folder / name).open("rb") as file:
            file.seek(start)
            return file.read(_PIECE)

    def edit(self, number: int, model: str, asked: JobAsked, index: int) -> RemoteEdit:
        """Makes an output. `number` is that of the edit, for who asks how far it is."""
        show = _RemoteDisplay(self, number)
        try:
            editor = self.editor_of(model, show)
            figures = make_output(editor, StoredWish.of(asked, self.folder), index, show)
        except Cancelled:
            return RemoteEdit(self.editor_of.model)
        except Exception as error:
            code, sentence, log = fault_of(error, self.folder)
            return RemoteEdit(self.editor_of.model, fault=(code, sentence), log=log)
        return RemoteEdit(self.editor_of.model, figures, show.notes)

    def progress(self, number: int) -> Progress:
        """How far that edit is."""
        return self.last[1] if self.last[0] == number else _BEGUN

    def cancel(self, number: int) -> None:
        """Ends that edit at its next step."""
        self.cancelled = number


class _RemoteDisplay(NoteDisplay):
    """Keeps the last report for who asks, and ends the edit at the next one where that is wished."""

    def __init__(self, actor: EditActor, number: int) -> None:
        super().__init__()
        self.actor, self.number = actor, number

    def __call__(self, progress: Progress) -> None:
        if self.actor.cancelled == self.number:
            raise Cancelled
        self.actor.last = self.number, progress

    def note(self, text: str) -> None:
        self.notes.append(plain(text, self.actor.folder))
