"""`opensama evaluate`: how well a model edits, measured where every edit has an exact answer."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from opensama.apps.progress import Display
from opensama.values import Progress, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from opensama.pipeline.editor import Editor

app = App(name="evaluate", help="Measure how well a model edits.")
app.command("opensama.apps.metrics:metrics", name="metrics", help="Measure an edit against its source without a judge.")
for _name, _help in {
    "vie": "VIE-Bench: any .json, .jsonl or .csv of instructions and sources; edits are ID_edited.mp4.",
    "openve": "OpenVE-Bench: benchmark_videos.csv and videos/; edits are SOURCE_edited.mp4.",
    "reco": "ReCo-Bench: configs/ and ori_videos/; edits are SOURCE_INSTRUCTION.mp4.",
    "ive": "IVEBench: ivebenchdb_prompt_short.json and its like; edits are called as their sources.",
    "editverse": "EditVerseBench: test.json and its sources; edits are ID/generate.mp4.",
}.items():
    app.command(f"opensama.apps.benchmark:{_name}", name=_name, help=f"Score a model, or anybody's edits, on {_help}")
app.command("opensama.apps.benchmark_report:report", name="report", help="Show a benchmark's results on one page.")
app.command("opensama.apps.vote:vote", name="vote", help="Let people vote between two systems' edits, blind.")


@app.command
def world(
    *,
    model: Annotated[str, Parameter(name=["--model", "-m"])] = "tiny",
    split: Literal["test", "train"] = "test",
    n: Annotated[int, Parameter(name=["-n", "--number"])] = 12,
    families: Annotated[str | None, Parameter(name="--families")] = None,
    clips: Path | None = None,
    calibrate: Annotated[bool, Parameter(negative=())] = False,
    seed: int = 0,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
    device: str | None = None,
) -> None:
    """Edit clips of the drawn world and compare with the exact answers, family by family.

    An edit is right where, in each third of the clip, the right answer is nearer to it than any wrong one, and the rest
    is kept. Prints for each family the share of right edits with its 95 % interval, the squared error beside the
    source's own, the PSNR of what should not change, and seconds an edit; below, controls, drift and three probes.

    Parameters
    ----------
    model
        A name that `opensama models list` shows, or a pipeline folder.
    split
        test: objects, colours and phrasings that were kept from training; train: those it was trained on.
    n
        How many edits of each family.
    families
        Only these, with commas between: replace,add.
    clips
        A folder of videos: also put every style on each of them and compare with the style's exact answer.
    calibrate
        Edit nothing: show how many right answers and how many imitations this measure lets pass.
    seed
        Another number draws other clips.
    json_file
        Also write every figure into this file.
    device
        Where to compute, such as cpu or cuda:1. By default the best there is.
    """
    if not 1 <= n <= 100_000:
        raise UserError(f"The number of edits of each family must be from 1 to 100000, not {n}.")
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise UserError(f"There is no folder {json_file.absolute().parent}; make it first.")
    from opensama.models.registry import find

    find(model)
    from opensama import load
    from opensama.evaluation import world as measure
    from opensama.world import CONTROLS, FAMILIES

    known = (*FAMILIES, *CONTROLS)
    chosen = known if families is None else tuple(name.strip() for name in families.split(","))
    if unknown := [name for name in chosen if name not in known]:
        raise UserError(f"There is no family {unknown[0]!r}: choose among {', '.join(known)}.")
    if set(chosen) == {"absent"}:
        raise UserError("A copy of the source passes `absent`: ask for at least one family of edits beside it.")
    if clips is not None:
        measure.list_clips(clips)

    with Display() as show:
        editor = load(model, device=device, notice=show.note)
        coded = through(editor)

        def progress(stage: str) -> Callable[[int, int], None]:
            begin = time.monotonic()
            return lambda done, total: show(Progress(stage, done, total, time.monotonic() - begin))

        report: measure.WorldReport | measure.Calibration
        if calibrate:
            chosen = tuple(name for name in chosen if name != "absent")
            report = measure.calibrate(
                coded, n=n, families=chosen, split=split, seed=seed, progress=progress("Calibrating")
            )
        else:
            report = measure.evaluate_world(
                editor.edit, coded, model=model, split=split, n=n, seed=seed, families=chosen,
                progress=progress("Evaluating"),
            )  # fmt: skip
            if clips is not None:
                report.clips = measure.evaluate_clips(editor.edit, coded, clips, seed=seed, progress=progress("Clips"))
    print(report.table())
    if json_file is not None:
        json_file.write_text(json.dumps({"table": report.table(), **report.to_dict()}, indent=2) + "\n")
        print(f"written: {json_file}")


def through(editor: Editor) -> Callable[[Tensor], Tensor]:
    """The model's autoencoder there and back, [b t 3 h w] in 0..1: no edit can come nearer to an answer."""
    import torch

    pipeline = editor.pipeline

    @torch.no_grad()
    def coded(frames: Tensor) -> Tensor:
        pixels = pipeline.decode_latents(pipeline.encode_video(frames.movedim(1, 2) * 2 - 1))
        return ((pixels.movedim(2, 1) + 1) / 2).clamp(0, 1)

    return coded
