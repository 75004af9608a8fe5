"""`opensama edit`: videos or pictures and an instruction in, edited ones out.

All that can be wrong is looked for before a model is loaded (`edit_checks`), so that a mistake costs a moment. Files
are written under a temporary name, so a half-written one never stays.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from opensama.apps.edit_checks import (
    Job,
    Writing,
    check_job,
    check_order,
    folder_made,
    input_paths,
    output_paths,
    parse_box,
)
from opensama.apps.options import OUT, OVERWRITE, as_options, check_json
from opensama.apps.progress import Display, duration, loading
from opensama.runtime import lora_and_scale, whole_file
from opensama.values import EditRequest, Progress, UserError, Video

if TYPE_CHECKING:
    import numpy as np

    from opensama.pipeline.editor import Editor


def edit_command(
    videos: Annotated[list[str], Parameter(negative=())],
    instruction: str,
    /,
    *,
    out: Annotated[str | None, OUT] = None,
    model: Annotated[str, Parameter(name=["--model", "-m"])] = "tiny",
    seed: int = 0,
    steps: int | None = None,
    guidance: float | None = None,
    shift: float | None = None,
    source_guidance: float | None = None,
    negative_prompt: str | None = None,
    frames: str | None = None,
    size: int | None = None,
    mask: Path | None = None,
    box: str | None = None,
    compare: Annotated[bool, Parameter(negative=())] = False,
    preserve: bool | None = None,
    background: str = "white",
    alpha: str = "flatten",
    quality: float = 80,
    codec: str | None = None,
    overwrite: Annotated[bool, OVERWRITE] = False,
    anyway: Annotated[bool, Parameter(negative=())] = False,
    even: Annotated[bool, Parameter(negative=())] = False,
    device: str | None = None,
    dtype: str | None = None,
    offload: str = "none",
    vae_tiling: Annotated[bool, Parameter(negative=())] = False,
    lora: Annotated[list[str] | None, Parameter(negative=())] = None,
    weights: Path | None = None,
    base: Path | None = None,
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
        A name that `opensama models list` shows, or a pipeline folder.
    seed
        The same seed gives the same edit.
    steps
        Denoising steps. By default the model's own number: for a released model fewer are faster and worse; for the
        embedded ones more are slower and no better.
    guidance
        How strongly the instruction acts. By default the model's own: for the embedded ones that is 1, and more is
        worse.
    shift
        How the noise levels of the steps are spread: more spends more of them on the coarse picture. By default the
        model's own.
    source_guidance
        How strongly the source acts, apart from the instruction; costs a third pass a step. By default the two act
        together.
    negative_prompt
        What the result should not look like, in words. By default the model's own.
    frames
        Edit only the frames A:B, from A up to but not including B, counted from 0; the rest passes through. Either may
        be left out.
    size
        The area at which the model works, as the side of a square: 128 means as many pixels as 128 x 128, in the
        video's own shape.
    mask
        A picture or a video: only where it is white may anything change.
    box
        Only inside this rectangle may anything change: X,Y,W,H in pixels of the source.
    compare
        Also write source and result side by side, as NAME-compare.mp4 beside the result.
    preserve
        Keep the source's own pixels where the edit left the picture alone. By default the model's own choice.
    background
        What shows through transparent places while the model works, and in the result unless alpha is kept: a colour's
        name or #rrggbb.
    alpha
        keep: the result has the source's transparency, as ProRes 4444 (.mov) or VP9 (.webm). flatten: it has none.
    quality
        How well the file keeps the pictures, from 0 to 100.
    codec
        What codes the pictures: h264, hevc, av1, vp9, prores (422 HQ) or prores-4444, as the kind of file allows; or an
        encoder of the hardware, such as hevc_nvenc. By default what the ending of the name stands for.
    overwrite
        Replace the output where it exists.
    anyway
        Edit, though the instruction has words that the model does not know, or the model needs more memory or disk
        than this machine has.
    even
        Pad odd sizes by a pixel, so that every player plays the file.
    device
        Where to compute, such as cpu or cuda:1. By default the best there is.
    dtype
        The numbers to compute in: float32, bfloat16 or float16. By default the model's own on a GPU, float32 on a CPU.
    offload
        Where weights lie while others compute: none (all on the device), model (the parts that rest are in the
        computer's memory), group (all blocks but the one at work), or disk (the same, in files that go afterwards).
        Each takes less memory and more time than the one before.
    vae_tiling
        Let the autoencoder work piece by piece, which takes less memory and more time.
    lora
        A LoRA to add to the weights, as FILE or FILE:SCALE, or the folder that training wrote; give it again for more.
    weights
        A released model's own file, when it is not to come from the hub. For a LoRA that was trained from plain Wan:
        the transformer's folder of Wan.
    base
        The folder of the base model that a released model builds on, when it is not to come from the hub.
    json_file
        Also write into this file what was edited and how: file, model, instruction, seconds of the edit and of loading
        the model, the share of the picture (of the mask or box) that changed, and words that the model does not know.
        Of several edits a list, in which those that failed come last, with the sentence that says why.
    """
    check_order(videos, instruction)
    from opensama.models.registry import find
    from opensama.models.vocabulary import check_words, politeness_note, without_politeness

    entry = find(model)
    instruction, left_out = without_politeness(model, instruction)
    request = EditRequest(
        videos[0],
        instruction,
        seed=seed,
        steps=steps,
        guidance=guidance,
        shift=shift,
        source_guidance=source_guidance,
        negative_prompt=negative_prompt,
        size=size,
        mask=mask,
        box=None if box is None else parse_box(box),
        preserve=preserve,
        background=background,
        alpha=alpha,
    )
    from opensama.pipeline.room import check_model

    check_words(model, instruction, anyway)
    loras = [lora_and_scale(text) for text in lora or ()]
    found = input_paths(videos)
    several = found != [Path(videos[0])]
    places, folder = output_paths(found, out, several, alpha == "keep")
    check_json(json_file, [*found, *places, *filter(None, (mask,))], overwrite=overwrite)
    check_model(entry, device, dtype, weights=weights, base=base, offload=offload, anyway=anyway)
    writing = Writing(quality, even, codec, overwrite)

    failed = list[tuple[Path, str]]()
    with folder_made(folder):
        jobs = []
        with Display() as show:
            asked = replace(request, progress=show)
            for source, place in zip(found, places, strict=True):
                with recorded(source, failed, several, show):
                    jobs.append(check_job(source, asked, place, writing, frames=frames, compare=compare))
        after = ""
        if jobs:
            begun = time.perf_counter()
            loading(model)
            with Display() as show:
                from opensama import load
                from opensama.pipeline.advice import advice

                if not several:
                    tell(jobs[0].source.notes, show)
                if left_out:
                    show.note(politeness_note(model, left_out))
                tell((note for job in jobs for note in advice(entry, job.request)), show)

                editor = load(
                    model, device=device, dtype=dtype, weights=weights, base=base,
                    offload=offload, vae_tiling=vae_tiling, lora=loras, anyway=anyway, notice=show.note,
                )  # fmt: skip
            loaded = time.perf_counter() - begun
            after = f", after {duration(loaded)} of loading"
        edits: list[dict[str, object]] = []
        heard = set[str]()  # what was said of the model once is not said again of the next film
        for job in jobs:
            with Display() as show, recorded(job.source.path, failed, several, show):
                if several:
                    tell((f"{job.source.path}: {note}" for note in job.source.notes), show)
                told = edit_one(editor, job, writing, show, heard)
                print(f"edited in {duration(told['seconds'])}{after if not several else ''}: {job.out}", flush=True)
                told |= {"loading_seconds": round(loaded, 2)}
                edits.append({"input": str(job.source.path), "output": str(job.out), "model": model,
                              "instruction": instruction} | told)  # fmt: skip
        if json_file is not None:
            edits += [{"input": str(source), "error": sentence} for source, sentence in failed]
            with whole_file(json_file) as temporary:
                temporary.write_text(json.dumps(edits if several else edits[0], indent=2) + "\n")
    return batch_summary(len(found), failed, after) if several else 0


def edit_one(editor: Editor, job: Job, writing: Writing, show: Display, heard: set[str]) -> dict[str, Any]:
    """One edit, made and written; its figures come out. What is to be said of the model goes into `heard`, once."""
    from opensama.media.frames import side_by_side
    from opensama.media.video_io import read_video
    from opensama.pipeline.advice import change_sentence, closing_advice

    begun = time.perf_counter()
    edited = replace(editor.edit(replace(job.request, progress=show)), notes=())  # which are said
    write(edited, job.out, show, writing)
    if job.compared is not None:
        write(
            side_by_side(replace(job.source, notes=()), read_video(job.out)),
            job.compared,
            show,
            replace(writing, codec=None),
        )
        print(f"side by side: {job.compared}")
    print(as_options(change_sentence(edited, job.request)))
    said = closing_advice(editor.entry, job.request, edited.changed)
    if said and said not in heard:
        heard.add(said)
        print(as_options(said))
    return {
        "unknown_words": list(edited.unknown_words),
        "changed": round(edited.changed, 4),
        "frames": edited.frame_count,
        "seconds": round(time.perf_counter() - begun, 2),
    }


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


def write(video: Video, path: Path, show: Display, how: Writing = Writing()) -> None:  # noqa: B008  (frozen)
    """Writes a video, with its progress and its notes on the display."""
    from opensama.media.video_io import write_video

    watched = video.with_frames(watch(video.frames, video.frame_count, f"Writing {path.name}", show))
    write_video(
        watched, path, quality=how.quality, even=how.even, codec=how.codec, overwrite=how.overwrite, on_note=show.note
    )


def watch(
    frames: Callable[[int, int], Iterator[np.ndarray]], total: int, stage: str, show: Callable[[Progress], None]
) -> Callable[[int, int], Iterator[np.ndarray]]:
    """The same frames, counted as they pass."""

    def source(start: int, stop: int) -> Iterator[np.ndarray]:
        begin = time.monotonic()
        for index, frame in enumerate(frames(start, stop), start):
            show(Progress(stage, index + 1, total, time.monotonic() - begin, "frames"))
            yield frame

    return source
