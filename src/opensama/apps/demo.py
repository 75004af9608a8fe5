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
from opensama.values import EditRequest, UserError, Video, how_many

_FRAMES = 17
_COLUMNS = 5  # frames of each that the picture shows
_SIDE = 256  # pixels: twice the model's own, so that the way back to full size is part of the show
_SHOWN = {"recolor": 11, "style": 42}  # kinds of edits, and the seed of a clip for each


def demo(
    *,
    out: Annotated[Path, OUT] = Path("demo-output"),
    model: Annotated[str, Parameter(name=["--model", "-m"])] = "tiny",
    seed: int | None = None,
    family: str | None = None,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> None:
    """Edit two drawn clips on this machine and show them.

    Draws clips that the embedded model has never seen, recolours an object in one and gives the other a style, each by
    an instruction, and writes into a folder: the clips, the results, both side by side as a video and as a picture.

    Parameters
    ----------
    out
        The folder to write into.
    model
        A name that `opensama models list` shows, a pipeline folder, or a file of weights.
    seed
        Another number draws other clips and other instructions.
    family
        One kind alone: replace, add, remove, recolor, retexture, accessory, background, style, text, obscure or two.
    overwrite
        Write into the folder though it holds something.
    """
    check_free(out, overwrite)
    from opensama.apps.edit import write
    from opensama.apps.edit_checks import Writing
    from opensama.models.registry import find
    from opensama.pipeline.room import check_model

    check_model(find(model))
    families = [family] if family else list(_SHOWN)
    if family:  # the world brings PyTorch along
        check_families(families)
    begun = time.perf_counter()
    loading(model)

    from opensama import load, world
    from opensama.media.frames import contact_sheet, evenly_spaced, side_by_side
    from opensama.world.scenes import FPS

    with Display() as show:
        editor = load(model, notice=show.note)
        loaded = time.perf_counter() - begun
        make_output_folder(out)
        for kind in families:
            number = _SHOWN.get(kind, 0) if seed is None else seed
            sample = world.sample_edit(number, split="test", family=kind, frames=_FRAMES, size=_SIDE)
            print(f'{kind}: "{sample.instruction}"', flush=True)
            source = Video.from_frames(sample.source, FPS)
            made = editor.edit(EditRequest(source, sample.instruction, seed=number, progress=show))
            edited = Video.from_frames(made.array(), FPS)  # made once, written three times
            videos = {"source": source, "edited": edited, "side-by-side": side_by_side(source, edited)}
            for name, video in videos.items():
                write(video, out / f"{kind}-{name}.mp4", show, Writing(overwrite=True))
            shown = evenly_spaced(_FRAMES, _COLUMNS)
            rows = [video.array()[index] for video in (source, edited) for index in shown]
            Image.fromarray(contact_sheet(rows, columns=_COLUMNS)).save(out / f"{kind}-side-by-side.png")
    seconds = time.perf_counter() - begun - loaded
    clips = how_many(len(families), "clip")
    print(f"edited {clips} of {_FRAMES} frames in {duration(seconds)}, after {duration(loaded)} of loading")
    written = " and ".join(str(out / f"{kind}-side-by-side.mp4") for kind in families)
    print(f"source and result side by side: {written}, and as .png")


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
