"""`opensama edit`: a video file and an instruction in, an edited video file out.

Cheap checks come first: the request, the place to write and the source are looked at before PyTorch is imported, so
that a mistake costs a moment. Files are written under a temporary name, so a half-written one never stays.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from opensama.apps.progress import Display, duration, loading
from opensama.runtime import check_dtype, check_offload, lora_and_scale
from opensama.values import EditRequest, Progress, UserError, Video

if TYPE_CHECKING:
    import numpy as np


def edit(
    video: Path,
    instruction: str,
    /,
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    model: Annotated[str, Parameter(name=["--model", "-m"])] = "tiny",
    seed: int = 0,
    steps: int | None = None,
    guidance: float | None = None,
    frames: str | None = None,
    size: int | None = None,
    mask: Path | None = None,
    box: str | None = None,
    compare: Annotated[bool, Parameter(negative=())] = False,
    preserve: bool | None = None,
    background: str = "white",
    alpha: str = "flatten",
    quality: float = 80,
    overwrite: Annotated[bool, Parameter(negative=())] = False,
    anyway: Annotated[bool, Parameter(negative=())] = False,
    even: Annotated[bool, Parameter(negative=())] = False,
    device: str | None = None,
    dtype: str | None = None,
    offload: str = "none",
    vae_tiling: Annotated[bool, Parameter(negative=())] = False,
    lora: Annotated[list[str] | None, Parameter(negative=())] = None,
    weights: Path | None = None,
    base: Path | None = None,
) -> None:
    """Edit a video by an instruction.

    Example: `opensama edit holiday.mp4 "Turn into watercolor style."`

    Parameters
    ----------
    video
        The video file, picture or folder of numbered pictures to edit.
    instruction
        What to change, in words.
    output
        The file to write: .mp4, .mov (ProRes), .mkv or .webm; by default NAME-edited.mp4 beside the source.
    model
        A name that `opensama models list` shows, or a pipeline folder.
    seed
        The same seed gives the same edit.
    steps
        Denoising steps: more is slower and often better. By default the model's own number.
    guidance
        How strongly the instruction acts. By default the model's own.
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
    overwrite
        Replace the output where it exists.
    anyway
        Edit, though the instruction has words that the model does not know.
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
    """
    begin = time.perf_counter()
    request = EditRequest(
        video,
        instruction,
        seed=seed,
        steps=steps,
        guidance=guidance,
        size=size,
        mask=mask,
        box=None if box is None else parse_box(box),
        preserve=preserve,
        background=background,
        alpha=alpha,
    )
    from opensama.media.video_io import read_video
    from opensama.media.video_io.containers import format_of
    from opensama.media.video_io.writing import check_writable, rehearse
    from opensama.models.registry import find, unknown_words

    unknown = unknown_words(find(model), instruction)
    if unknown and not anyway:
        listed = ", ".join(repr(word) for word in unknown[:5])
        raise UserError(
            f"The model {model} has never been taught {listed}{' and others' if unknown[5:] else ''}, so nothing was "
            f"edited: say it in words that it knows (words.txt in its folder), choose a larger model, or add --anyway."
        )
    check_offload(offload)
    if dtype is not None:
        check_dtype(dtype)
    loras = [lora_and_scale(text) for text in lora or ()]
    out = default_output(video, alpha == "keep") if output is None else output
    if alpha == "keep" and not format_of(out).holds_alpha:
        raise UserError(f"{out} cannot hold transparency; end its name in .mov or .webm.")
    compared = out.with_name(f"{out.stem}-compare.mp4")
    if out.exists() and video.exists() and out.samefile(video):
        raise UserError(f"{out} is the source itself; choose another name with --output.")
    check_writable(out, overwrite)
    if compare:
        check_writable(compared, overwrite)
    source = read_video(video, background=background)
    request = replace(request, video=source, frames=None if frames is None else parse_range(frames, source.frame_count))

    loading(model)
    from opensama import load
    from opensama.media.frames import compare as side_by_side
    from opensama.pipeline.editor import reading_notes, source_of
    from opensama.pipeline.masks import limits_of

    source_of(request)
    limits_of(request, source)  # a wrong box or mask is said before gigabytes are loaded
    written = source if alpha == "keep" else replace(source, transparency=None)
    rehearse(written, out, quality=quality, even=even, overwrite=overwrite)  # and what cannot be written, too
    if compare:
        rehearse(side_by_side(source, source), compared, quality=quality, even=even, overwrite=overwrite)

    with Display() as show:
        for note in reading_notes(request):
            show.note(note)
        editor = load(
            model, device=device, dtype=dtype, weights=weights, base=base,
            offload=offload, vae_tiling=vae_tiling, lora=loras, notice=show.note,
        )  # fmt: skip
        edited = replace(editor.edit(replace(request, progress=show)), notes=())  # which are said
        write(edited, out, show, quality=quality, even=even, overwrite=overwrite)
        if compare:
            write(
                side_by_side(source, read_video(out)), compared, show, quality=quality, even=even, overwrite=overwrite
            )
    if compare:
        print(f"side by side: {compared}")
    print(f"edited in {duration(time.perf_counter() - begin)}: {out}")


def write(
    video: Video,
    path: Path,
    show: Display,
    *,
    quality: float = 80,
    even: bool = False,
    overwrite: bool = False,
) -> None:
    """Writes a video, with its progress and its notes on the display."""
    from opensama.media.video_io import write_video

    watched = video.with_frames(watch(video.frames, video.frame_count, f"Writing {path.name}", show))
    write_video(watched, path, quality=quality, even=even, overwrite=overwrite, on_note=show.note)


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


def parse_range(text: str, count: int) -> tuple[int, int]:
    """`A:B` as frame numbers, A included, B not; either end may be left out. Raises UserError outside 0..count."""
    first, colon, last = text.partition(":")
    try:
        if not colon:
            raise ValueError
        start = int(first) if first.strip() else 0
        stop = int(last) if last.strip() else count
    except ValueError:
        raise UserError(f"--frames wants A:B with whole numbers, as in 0:49, not {shorten(text)!r}.") from None
    if not 0 <= start < stop <= count:
        raise UserError(f"The frames {shorten(text)} are none of the video's, which has 0:{count}; choose among these.")
    return start, stop


def parse_box(text: str) -> tuple[int, int, int, int]:
    """`X,Y,W,H` in pixels; whether it lies inside the picture is the editor's to say."""
    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--box wants X,Y,W,H in whole numbers, as in 10,20,200,100, not {shorten(text)!r}.") from None
    return x, y, width, height


def default_output(source: Path, alpha: bool = False) -> Path:
    """`holiday.mov` gives `holiday-edited.mp4` beside it; a folder of pictures gives a file beside the folder.

    With alpha it is a .webm where the source is one, else a .mov.
    """
    source = Path(os.path.abspath(source)) if source.name in ("", "..") else source
    suffix = ".mp4" if not alpha else ".webm" if source.suffix.lower() == ".webm" else ".mov"
    return source.with_name(f"{source.name if source.is_dir() else source.stem}-edited{suffix}")


def shorten(text: str, limit: int = 40) -> str:
    """The beginning of what was typed, for a message that stays one sentence."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
