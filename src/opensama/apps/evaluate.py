"""`opensama evaluate`: how well a model edits: its commands, and the one whose clips are drawn here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from opensama.apps.options import HOW_MANY, OUT, check_json
from opensama.apps.progress import Display, loading
from opensama.values import UserError

app = App(name="evaluate", help="Measure how well a model edits.")
app.command("opensama.apps.metrics:metrics", name="metrics", help="Measure an edit against its source without a judge.")
for _name, _help in {
    "vie": "VIE-Bench: any .json, .jsonl or .csv of instructions and sources; edits are ID_edited.mp4.",
    "openve": "OpenVE-Bench: benchmark_videos.csv and videos/; edits are SOURCE_edited.mp4.",
    "reco": "ReCo-Bench: configs/ and ori_videos/; edits are SOURCE_INSTRUCTION.mp4.",
    "ive": "IVEBench: ivebenchdb_prompt_short.json and its like; edits are called as their sources.",
    "editverse": "EditVerseBench: test.json and its sources; edits are ID/generate.mp4.",
    "clips": "clips of your own: NAME--source.mp4, and beside them NAME--SYSTEM.mp4.",
}.items():
    app.command(
        f"opensama.apps.benchmark:{_name}_bench", name=_name, help=f"Score a model, or anybody's edits, on {_help}"
    )
app.command("opensama.apps.benchmark_report:report", name="report", help="Show a benchmark's results on one page.")
app.command("opensama.apps.vote:vote", name="vote", help="Let people vote between two systems' edits, blind.")


@app.command
def world(
    *,
    out: Annotated[Path, OUT] = Path("world-results"),
    model: Annotated[list[str] | None, Parameter(name=["--model", "-m"], negative=())] = None,
    edits: Annotated[list[str] | None, Parameter(negative=())] = None,
    tier: Literal["core", "full"] = "full",
    split: Literal["test", "train"] = "test",
    number: Annotated[int, HOW_MANY] = 12,
    families: Annotated[str | None, Parameter(name="--families")] = None,
    clips: Path | None = None,
    metrics: str = "all",
    draw: Annotated[bool, Parameter(negative=())] = False,
    calibrate: Annotated[bool, Parameter(negative=())] = False,
    seed: int = 0,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
    device: str | None = None,
) -> int:
    """Score a model, or anybody's edits, on clips of the drawn world, by their exact answers.

    An edit is right where, in each third of the clip, the right answer is nearer to it than any wrong one, and the rest
    is kept. Prints for each family the share of right edits with its 95 % interval, the squared error beside the
    source's own, the PSNR of what should not change, and seconds an edit; below, controls, drift and three probes.

    Parameters
    ----------
    out
        Folder of the results: results.json, ledger.jsonl, edited/, and drawn/, the clips with world.json.
    model
        A model that edits: a name that `opensama models list` shows, or a pipeline folder; may be given again. By
        default tiny, unless --edits are given.
    edits
        A folder of edits of drawn/ that any system made, each called ID.mp4, or NAME=FOLDER; may be given again.
    tier
        core: one or two plain objects of twelve kinds and eight colours, and six families of edits; full: all there is.
    split
        test: objects, colours and phrasings that were kept from training; train: those it was trained on.
    number
        How many edits of each family.
    families
        Only these, with commas between: replace,add.
    clips
        A folder of videos: also put every style on each of them and compare with the style's exact answer.
    metrics
        Measured beside the exact marks: all, none, or names with commas between.
    draw
        Only draw the clips and list what is asked of them, for another system to edit.
    calibrate
        Edit nothing: show how many right answers and how many imitations this measure lets pass.
    seed
        Another number draws other clips.
    json_file
        Also write one system's figures by family into this file, as `opensama models card` takes them.
    device
        Where to compute, such as cpu or cuda:1. By default the best there is.
    """
    if not 1 <= number <= 100_000:
        raise UserError(f"The number of edits of each family must be from 1 to 100000, not {number}.")
    check_json(json_file, known_by="table")
    models = model or ([] if edits else ["tiny"])
    if json_file is not None and len(models) + len(edits or []) > 1:
        raise UserError("--json holds the figures of one system; those of several are in results.json.")
    from opensama.models.registry import find
    from opensama.pipeline.room import check_model

    for name in models:
        check_model(find(name), device)
    from opensama.apps.benchmark import Given, run
    from opensama.evaluation import world as measure
    from opensama.world import CONTROL_FAMILIES, TIERS

    known = (*TIERS[tier].families, *CONTROL_FAMILIES)
    chosen = known if families is None else tuple(name.strip() for name in families.split(","))
    if unknown := [name for name in chosen if name not in known]:
        where = "" if tier == "full" else f" in the tier {tier}"
        raise UserError(f"There is no family {unknown[0]!r}{where}: choose among {', '.join(known)}.")
    if set(chosen) == {"absent"}:
        raise UserError("A copy of the source passes the family absent: ask for at least one family of edits, too.")
    videos = [] if clips is None else measure.list_clips(clips)
    given = Given(data=out / "drawn", out=out, model=models, edits=edits, metrics=metrics, seed=seed, device=device)
    given.measured()
    given.folders()
    if calibrate:
        from opensama import load

        asked = tuple(name for name in chosen if name != "absent")
        loading(models[0] if models else "tiny")
        with Display() as show:
            coded = measure.through(load(models[0] if models else "tiny", device=device, notice=show.note))
            found = measure.calibrate(
                coded, n=number, tier=tier, families=asked, split=split, seed=seed,
                progress=show,
            )  # fmt: skip
        print(found.table())
        figures: dict[str, object] = {"table": found.table(), **found.to_dict()}
        code = 0
    else:
        with Display() as show:
            measure.draw_benchmark(
                given.data, split=split, tier=tier, n=number, seed=seed, families=chosen, clips=videos,
                progress=show,
            )  # fmt: skip
        if draw:
            print(f"written: {given.data}, the clips and world.json, which says what is asked of each")
            return 0
        report, code = run("world", given)
        scored = measure.WorldReport.read(report.results["systems"][0])
        about = {"model": models[0] if models else None, "tier": tier, "split": split, "seed": seed}
        figures = {"table": scored.table(), **about, **scored.to_dict()}
    if json_file is not None:
        from opensama.runtime import whole_file

        with whole_file(json_file) as temporary:
            temporary.write_text(json.dumps(figures, indent=2) + "\n")
        print(f"written: {json_file}")
    return code
