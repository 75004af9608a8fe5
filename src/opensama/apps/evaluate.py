"""`opensama evaluate`: how well a model edits, measured where every edit has an exact answer."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from opensama.apps.progress import Display
from opensama.values import Progress, UserError

if TYPE_CHECKING:
    import numpy as np

    from opensama.pipeline.editor import Editor

app = App(name="evaluate", help="Measure how well a model edits.")


@app.command
def world(
    *,
    model: Annotated[str, Parameter(name=["--model", "-m"])] = "tiny",
    split: Literal["test", "train"] = "test",
    n: Annotated[int, Parameter(name=["-n", "--number"])] = 60,
    seed: int = 0,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
    device: str | None = None,
) -> None:
    """Edit clips of the drawn world and compare with the exact answers, family by family.

    Prints for each family: success, the error in the changed region beside the source's own, the PSNR of what should
    not change, and seconds an edit; below, copying the source as the floor and the autoencoder's answer as the ceiling.

    Parameters
    ----------
    model
        A name that `opensama models list` shows, or a pipeline folder.
    split
        test: objects, colours and phrasings that were kept from training; train: those it was trained on.
    n
        How many edits.
    seed
        Another number draws other clips.
    json_file
        Also write every figure into this file.
    device
        Where to compute, such as cpu or cuda:1. By default the best there is.
    """
    if not 1 <= n <= 100_000:
        raise UserError(f"The number of edits must be from 1 to 100000, not {n}.")
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise UserError(f"There is no folder {json_file.absolute().parent}; make it first.")
    from opensama.models.registry import find

    find(model)
    from opensama import load
    from opensama.evaluation.world import evaluate_world

    with Display() as show:
        editor = load(model, device=device, notice=show.note)
        begin = time.monotonic()
        report = evaluate_world(
            editor.edit,
            reconstruct=lambda frames: reconstruct(editor, frames),
            model=model,
            split=split,
            n=n,
            seed=seed,
            progress=lambda done, total: show(Progress("Evaluating", done, total, time.monotonic() - begin)),
        )
    print(report.table())
    if json_file is not None:
        json_file.write_text(json.dumps(report.to_dict(), indent=2) + "\n")
        print(f"written: {json_file}")


def reconstruct(editor: Editor, frames: np.ndarray) -> np.ndarray:
    """Frames uint8 `t h w 3` there and back through the model's autoencoder: no edit can come nearer to an answer."""
    import torch

    from opensama.media.frames import to_frames, to_pixels

    with torch.no_grad():
        return to_frames(editor.pipeline.decode_latents(editor.pipeline.encode_video(to_pixels(frames))))
