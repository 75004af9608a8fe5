"""`opensama edit`: videos or pictures and an instruction in, edited ones out.

All that can be wrong is looked for before a model is loaded (`edit_checks`), so that a mistake costs a moment. Files
are written under a temporary name, so a half-written one never stays.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from opensama.apps.edit_checks import (
    Job,
    Writing,
    check_job,
    check_order,
    folder_made,
    input_paths,
    output_paths,
)
from opensama.apps.edit_settings import FLAG, EditSettings, LoadSettings
from opensama.apps.options import OUT, OVERWRITE, as_options, check_json
from opensama.apps.progress import Display, duration, loading
from opensama.apps.records import PartFigures, ResultFigures
from opensama.runtime import rank, whole_file, world_size
from opensama.values import EditedVideo, EditRequest, Progress, UserError, Video

if TYPE_CHECKING:
    import numpy as np

    from opensama.pipeline.editor import Editor

SIDE_BY_SIDE = "source and result side by side"


def edit_command(
    videos: Annotated[list[str], FLAG],
    instruction: str,
    /,
    *,
    out: Annotated[str | None, OUT] = None,
    model: Annotated[str, Parameter(name=["--model", "-m"])] = "tiny",
    settings: EditSettings | None = None,
    overwrite: Annotated[bool, OVERWRITE] = False,
    anyway: Annotated[bool, FLAG] = False,
    load_settings: LoadSettings | None = None,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
) -> int:
    """Edit videos or pictures by an instruction.

    Example: `opensama edit holiday.mp4 "Make the scene look like sunset."`

    Parameters
    ----------
    videos
        What to edit: video files, pictures, folders of videos (results that lie there from before are left out); a
        folder of numbered pictures is one film. The model is loaded once for all, and where one fails, the others go
        on.
    instruction
        What to change, in words: one argument, in quotes. `opensama models info tiny` shows what an embedded model
        knows, its styles among it.
    out
        The file to write: .mp4, .mov, .mkv or .webm, of a picture .png, .jpg or .webp; or a folder, which several
        results go into. By default NAME-edited beside the source, .mp4, or a picture's own ending.
    model
        A name that `opensama models list` shows, a pipeline folder, or a file of weights.
    overwrite
        Replace the output where it exists.
    anyway
        Edit, though the instruction has words that the model does not know, the model is known to fail at such a size,
        or it needs more memory or disk than this machine has.
    json_file
        Also write into this file what was edited and how: file, model, instruction, seconds of the edit and of loading
        the model, the share of the picture (of the mask or box) that changed, words that the model does not know, what
        --enhance made of the instruction, and the edits that --split found in it.
        Of several edits a list, in which those that failed come last, with the sentence that says why.
    """
    settings, load_settings = settings or EditSettings(), load_settings or LoadSettings()
    check_order(videos, instruction)
    from opensama.models.registry import find
    from opensama.models.vocabulary import check_words, politeness_note, without_politeness
    from opensama.pipeline.request_checks import check_family

    entry = find(model)
    instruction, left_out = without_politeness(model, instruction)
    request = settings.request(videos[0], instruction)
    check_words(model, instruction, anyway or settings.enhance is not None)
    check_family(entry, request, anyway)
    found = input_paths(videos)
    several = found != [Path(videos[0])]
    places, folder = output_paths(found, out, several, settings.alpha == "keep", settings.is_part)
    used = *found, *places, *settings.masks, *settings.references
    check_json(json_file, used, overwrite=overwrite)
    load_settings.check(entry, anyway)
    writing = settings.writing(overwrite)

    failed = list[tuple[Path, str]]()
    together = world_size() > 1  # processes of torchrun, of which the first one writes
    with folder_made(folder if rank() == 0 else None):
        jobs = []
        with Display() as show:
            asked = replace(request, progress=show)
            for source, place in zip(found, places, strict=True):
                with recorded(source, failed, several, show):
                    job = check_job(source, asked, place, writing, span=settings.span, compare=settings.compare)
                    jobs.append(replace(job, request=settings.completed(job.request, model, anyway)))
        after = ""
        if jobs:
            begun = time.perf_counter()
            loading(model)
            with Display() as show:
                from opensama.pipeline.advice import advice
                from opensama.pipeline.enhance import enhanced_note

                if not several:
                    tell(jobs[0].source.notes, show)
                if left_out:
                    show.note(politeness_note(model, left_out))
                notes = (settings.splitting.note, enhanced_note)
                rewritten = [(job.source.path, note(job.request)) for job in jobs for note in notes]
                tell((f"{path}: {note}" if several else note for path, note in rewritten if note), show)
                tell((note for job in jobs for note in advice(entry, job.request)), show)

                editor = load_settings.load(model, anyway, show.note, context_parallel=together)
            loaded = time.perf_counter() - begun
            after = f", after {duration(loaded)} of loading"
        edits: list[dict[str, object]] = []
        heard = set[str]()  # what was said of the model once is not said again of the next film
        for job in jobs:
            with Display() as show, recorded(job.source.path, failed, several, show):
                if several:
                    tell((f"{job.source.path}: {note}" for note in job.source.notes), show)
                if rank():
                    editor.edit(job.request)
                    continue
                told = edit_one(editor, job, writing, show, heard)
                print(f"edited in {duration(told['seconds'])}{after if not several else ''}: {job.out}", flush=True)
                edits.append({"input": str(job.source.path), "output": str(job.out), "model": model,
                              "instruction": instruction, **told, "loading_seconds": round(loaded, 2)})  # fmt: skip
        if json_file is not None and rank() == 0:
            edits += [{"input": str(source), "error": sentence} for source, sentence in failed]
            with whole_file(json_file) as temporary:
                temporary.write_text(json.dumps(edits if several else edits[0], indent=2) + "\n")
    return batch_summary(len(found), failed, after) if several else 0


def edit_one(editor: Editor, job: Job, writing: Writing, show: Display, heard: set[str]) -> ResultFigures:
    """One edit, made and written; its figures come out. What is to be said of the model goes into `heard`, once."""
    from opensama.media.frames import side_by_side
    from opensama.media.video_io import read_video
    from opensama.pipeline.advice import change_sentences, closing_advice
    from opensama.pipeline.unfinished import Unfinished

    begun = time.perf_counter()
    with Unfinished(job.out, show.note) as unfinished:
        edited = replace(editor.edit(replace(job.request, progress=show), unfinished), notes=())  # which are said
        write(edited, job.out, show, writing, job.source.notes)
    if job.compared is not None:
        both = side_by_side(replace(job.source, notes=()), read_video(job.out))
        record = edited.record and edited.record | {"shows": SIDE_BY_SIDE}
        write(replace(both, record=record), job.compared, show, replace(writing, codec=None))
        print(f"side by side: {job.compared}")
    for sentence in change_sentences(edited, job.request):
        print(as_options(sentence))
    said = closing_advice(editor.entry, job.request, edited.changed)
    if said and said not in heard:
        heard.add(said)
        print(as_options(said))
    told: ResultFigures = {}
    if job.request.original_instruction is not None:
        told["enhanced"] = job.request.instruction
    if job.request.edits:
        told["edits"] = _edits_told(edited, job.request)
    return {
        **told,
        "unknown_words": list(edited.unknown_words),
        "changed": round(edited.changed, 4),
        "frames": edited.frame_count,
        "seconds": round(time.perf_counter() - begun, 2),
    }


def _edits_told(edited: EditedVideo, request: EditRequest) -> list[PartFigures]:
    """Each of several edits, and how much of the picture it changed where it was made alone."""
    shares: list[float | None] = [round(after.changed, 4) for after in edited.chain]
    shares = shares or [None] * len(request.edits)
    parts = []
    for edit, share in zip(request.edits, shares, strict=True):
        part: PartFigures = {"instruction": edit.instruction, "changed": share}
        if edit.box is not None:
            part["box"] = list(edit.box)
        if edit.mask is not None:
            part["mask"] = str(edit.mask)
        parts.append(part)
    return parts


def tell(notes: Iterable[str], show: Display) -> None:
    """Each of the notes, once."""
    for note in dict.fromkeys(notes):
        show.note(note)


@contextmanager
def recorded(source: Path | None, failed: list[tuple[Path, str]], several: bool, show: Display) -> Iterator[None]:
    """Of several, one that fails is said and written down, and the others go on."""
    try:
        yield
    except UserError as error:
        if not several:
            raise
        assert source is not None
        failed.append((source, as_options(str(error))))
        show.note(f"{source}: left out")


def batch_summary(count: int, failed: list[tuple[Path, str]], after: str) -> int:
    """Says how several edits ended, at the end and together, `after` how long a wait; the exit code comes out."""
    from opensama.apps.cli import complain

    done = count - len(failed)
    if done:
        print(f"edited {done} of {count}{after}")
    if not failed:
        return 0
    for source, sentence in failed:
        named = sentence if str(source) in sentence else f"{source}: {sentence}"
        print(f"failed: {named}", file=sys.stderr)
    return complain(f"{len(failed)} of {count} failed; the sentences above say why.")


def write(video: Video, path: Path, show: Display, how: Writing | None = None, said: Sequence[str] = ()) -> None:
    """Writes a video, with its progress and its notes on the display, but for those that were `said`."""
    from opensama.media.video_io import write_video

    how = how or Writing()
    watched = replace(video, source=watch(video.frames, f"Writing {path.name}", show))
    write_video(
        watched,
        path,
        quality=how.quality,
        even=how.even,
        codec=how.codec,
        record=how.record,
        credentials=how.credentials,
        overwrite=how.overwrite,
        on_note=lambda note: None if note in said else show.note(note),
    )


def watch(
    frames: Callable[[int, int], Iterator[np.ndarray]], stage: str, show: Callable[[Progress], None]
) -> Callable[[int, int], Iterator[np.ndarray]]:
    """The same frames, counted as they pass."""

    def source(start: int, stop: int) -> Iterator[np.ndarray]:
        begin = time.monotonic()
        for done, frame in enumerate(frames(start, stop), 1):
            show(Progress(stage, done, stop - start, time.monotonic() - begin, "frames"))
            yield frame

    return source
