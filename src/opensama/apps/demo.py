"""`opensama demo`: the whole way on this machine, from a clip that the drawn world renders to pictures to look at."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from PIL import Image

from opensama.apps.options import OUT, OVERWRITE, check_free
from opensama.apps.progress import Display, duration, loading
from opensama.values import EditRequest, UserError, Video

_FRAMES = 17
_COLUMNS = 5  # frames of each that the picture shows
_SIDE = 256  # pixels: twice the model's own, so that the way back to full size is part of the show


def demo(
    *,
    out: Annotated[Path, OUT] = Path("demo-output"),
    model: Annotated[str, Parameter(name=["--model", "-m"])] = "tiny",
    seed: int = 42,
    family: str = "style",
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> None:
    """Edit a drawn clip on this machine and show it.

    Draws a clip that the embedded model has never seen, edits it by an instruction, and writes into a folder: the clip,
    the result, both side by side as a video and as a picture.

    Parameters
    ----------
    out
        The folder to write into.
    model
        A name that `opensama models list` shows, a pipeline folder, or a file of weights.
    seed
        Another number draws another clip and another instruction.
    family
        The kind of edit: replace, add, remove, recolor, retexture, accessory, background, style, text, obscure or two.
    overwrite
        Write into the folder though it holds something.
    """
    check_free(out, overwrite)
    from opensama.apps.edit import write
    from opensama.apps.edit_checks import Writing
    from opensama.models.registry import find
    from opensama.pipeline.room import check_model

    check_model(find(model))
    if family != "style":  # the world brings PyTorch along
        check_families([family])
    begun = time.perf_counter()
    loading(model)

    from opensama import load, world
    from opensama.media.frames import contact_sheet, evenly_spaced, side_by_side
    from opensama.world.scenes import FPS

    sample = world.sample_edit(seed, split="test", family=family, frames=_FRAMES, size=_SIDE)
    source = Video.from_frames(sample.source, FPS)
    print(f'instruction: "{sample.instruction}"', flush=True)
    with Display() as show:
        editor = load(model, notice=show.note)
        loaded = time.perf_counter() - begun
        make_output_folder(out)
        made = editor.edit(EditRequest(source, sample.instruction, seed=seed, progress=show))
        edited = Video.from_frames(made.array(), FPS)  # made once, written three times
        write(source, out / "source.mp4", show, Writing(overwrite=True))
        write(edited, out / "edited.mp4", show, Writing(overwrite=True))
        write(side_by_side(source, edited), out / "side-by-side.mp4", show, Writing(overwrite=True))
    seconds = time.perf_counter() - begun - loaded
    picture = out / "side-by-side.png"
    shown = evenly_spaced(_FRAMES, _COLUMNS)
    rows = [video.array()[index] for video in (source, edited) for index in shown]
    Image.fromarray(contact_sheet(rows, columns=_COLUMNS)).save(picture)
    print(f"edited {_FRAMES} frames in {duration(seconds)}, after {duration(loaded)} of loading")
    print(f"source and result side by side: {out / 'side-by-side.mp4'} and {picture}")


def check_families(families: Iterable[str], *, controls: bool = False) -> None:
    """UserError for a family that the drawn world has no edits of; `controls` are families only where they are asked
    for."""
    from opensama.world import CONTROL_FAMILIES, EDIT_FAMILIES

    known = EDIT_FAMILIES + (CONTROL_FAMILIES if controls else ())
    if unknown := [name for name in families if name not in known]:
        raise UserError(f"There is no family {unknown[0]!r} of edits; choose {', '.join(known)}.")


def make_output_folder(folder: Path, option: str = "--out") -> None:
    """Makes the folder, or says why not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"The folder {folder} cannot be made ({error.strerror}); choose another with {option}."
        ) from None
