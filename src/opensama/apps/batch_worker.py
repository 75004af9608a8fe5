"""What makes the edits of a batch, with the model loaded once: in this process, or as one of several on Ray.

On Ray the nodes see the same files under the same names: the sources, and the folder of the results.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from errno import ENOSPC
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from opensama.apps.batch_state import BatchEnd, ItemAsked, VideoShape, stamps
from opensama.apps.batch_table import BatchItem
from opensama.apps.edit_settings import LoadSettings
from opensama.apps.options import as_options
from opensama.apps.progress import Display, loading
from opensama.runtime import DISK_FULL
from opensama.values import Progress, UserError

if TYPE_CHECKING:
    from opensama.apps.edit_checks import Job, Writing
    from opensama.pipeline.editor import Editor


@dataclass
class BatchWorker:
    """A model, loaded when the first edit needs it, and the edits that it makes."""

    model: str
    load_settings: LoadSettings
    anyway: bool
    editor: Editor | None = None
    seconds_of_loading: float = 0.0

    def edit(
        self, item: BatchItem, asked: ItemAsked, show: Display, begin: Callable[[], object], heard: set[str]
    ) -> BatchEnd:
        """What is to be recorded of an edit: its figures and shape, or an `error`, where it is none of all edits.

        `begin` is called when it has been looked at and the model is there. UserError and OSError for a model that
        cannot be loaded, and a full disk.
        """
        from opensama.apps.edit import edit_one, tell

        try:
            writing = item.settings.writing(overwrite=True)
            job = self._checked(item, asked, writing, show)
        except UserError as error:
            return failure(error)
        editor = self.editor = self.editor or self._loaded(show)
        try:
            notes = self._notes(editor, item, job)
            tell((note for note in notes if note not in heard), show)
            heard.update(notes)
            begin()
            figures = edit_one(editor, job, writing, show, heard)
            _check_unchanged(item, asked)
        except Exception as error:  # whatever it is, the others go on
            if not disk_is_full(error):
                for place in item.places:
                    place.unlink(missing_ok=True)
            return failure(error)
        video = job.source
        shape = VideoShape(width=video.width, height=video.height, frames=video.frame_count, fps=float(video.fps))
        return {**figures, "shape": shape}

    def _checked(self, item: BatchItem, asked: ItemAsked, writing: Writing, show: Display) -> Job:
        """The item with all that is in its files looked at. UserError for what makes it fail."""
        from opensama.apps.edit_checks import check_job

        _check_unchanged(item, asked)
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

    def _notes(self, editor: Editor, item: BatchItem, job: Job) -> list[str]:
        """What is to be known before an edit, of its video and of the model."""
        from opensama.models.vocabulary import politeness_note
        from opensama.pipeline.advice import advice
        from opensama.pipeline.enhance import enhanced_note

        of_video = [f"{item.video}: {note}" for note in job.source.notes]
        split = item.settings.splitting.note(job.request)
        said = politeness_note(self.model, item.left_out), split, enhanced_note(job.request)
        of_model = [*said, *advice(editor.entry, job.request)]
        return [note for note in (*of_video, *of_model) if note]

    def _loaded(self, show: Display) -> Editor:
        begun = perf_counter()
        loading(self.model)
        editor = self.load_settings.load(self.model, self.anyway, show.note)
        self.seconds_of_loading = perf_counter() - begun
        return editor


@dataclass(frozen=True)
class RemoteEnd:
    """How an edit ended elsewhere, and what is to be said of it."""

    told: BatchEnd
    notes: list[str] = field(default_factory=list)
    loading_seconds: float = 0.0


class RayBatchWorker:
    """The same in an actor: called with an item and what is asked of it, it gives how the edit ended, or the error that
    ends the run."""

    def __init__(self, worker: BatchWorker, folder: Path) -> None:
        self.worker, self.folder = worker, folder

    def __call__(self, given: tuple[BatchItem, ItemAsked]) -> RemoteEnd | UserError | OSError:
        item, asked = given
        show, heard = NoteDisplay(), set[str]()
        try:
            os.chdir(self.folder)  # where a name that is given from there is to be found
            with contextlib.redirect_stdout(io.StringIO()) as said:
                told = self.worker.edit(item, asked, show, item.clear, heard)
        except UserError as error:
            return UserError(str(error))
        except OSError as error:
            if disk_is_full(error):
                return OSError(ENOSPC, "the disk is full")
            return UserError(f"A worker cannot work in {self.folder} ({error}); all nodes must see it.")
        return RemoteEnd(told, [*show.notes, *said.getvalue().splitlines()], self.worker.seconds_of_loading)


class NoteDisplay(Display):
    """Keeps what is to be said for another process, and shows nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def __call__(self, progress: Progress) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)


def failure(error: Exception) -> BatchEnd:
    """The `error` of an item as it is recorded. The error itself where it is no fault of the item's."""
    if disk_is_full(error):
        raise error
    return {"error": as_options(str(error)) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"}


def disk_is_full(error: BaseException | None) -> bool:
    """Whether an error says so, or one that it was made of."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            return True
        error = error.__cause__
    return False


def _check_unchanged(item: BatchItem, asked: ItemAsked) -> None:
    with suppress(OSError, UserError):
        if stamps(item.sources) == asked["sources"]:
            return
    raise UserError(f"{item.video} changed while the batch ran; the same command edits it as it is then.")
