"""`opensama gallery`: one page of edits to look at, of every family, each beside its source and its exact answer."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

from cyclopts import Parameter

from opensama.apps.options import HOW_MANY, OUT, OVERWRITE, check_free
from opensama.apps.progress import Display
from opensama.runtime import whole_file
from opensama.values import UserError, how_many

GALLERY_FRAMES = 17
GALLERY_SIDE = 128  # pixels, of drawn and real clips


def gallery(
    *,
    out: Annotated[Path, OUT] = Path("gallery"),
    model: Annotated[str, Parameter(name=["--model", "-m"])] = "tiny",
    number: Annotated[int, HOW_MANY] = 3,
    split: Literal["test", "train"] = "test",
    family: Annotated[list[str] | None, Parameter(negative=(), consume_multiple=True)] = None,
    clips: Path | None = None,
    seed: int = 0,
    overwrite: Annotated[bool, OVERWRITE] = False,
    device: str | None = None,
) -> None:
    """Edit clips of every family and show them on one page, failures first.

    Writes index.html, which holds everything itself: source, exact answer and edit play side by side, with the score.
    `opensama evaluate world` measures more, and keeps the files.

    Parameters
    ----------
    out
        The folder to write into.
    model
        A name that `opensama models list` shows, a pipeline folder, or a file of weights.
    number
        How many edits a family, and styles a clip of your own.
    split
        test: objects, colours and phrasings that were kept from training; train: those it was trained on.
    family
        Only this family of edits; say it again for more.
    clips
        A folder of videos to show in the styles, too.
    seed
        Another number draws other clips.
    overwrite
        Replace the page where it exists.
    device
        Where to compute, such as cpu or cuda:1. By default the best there is.
    """
    if not 1 <= number <= 100:
        raise UserError(f"The number of edits a family must be from 1 to 100, not {number}.")
    check_free(out / "index.html", overwrite)
    videos = find_videos(clips) if clips else []
    from opensama.apps.demo import check_families, make_output_folder
    from opensama.models.registry import find
    from opensama.pipeline.room import check_model

    check_model(find(model), device)
    if family:  # the world brings PyTorch along
        check_families(family, controls=True)
    from opensama.apps.benchmark import Given
    from opensama.apps.benchmark_report import whole_page
    from opensama.evaluation.benchmarks.benchmark import read_benchmark_items
    from opensama.evaluation.report import standings
    from opensama.evaluation.run import evaluate_benchmark
    from opensama.evaluation.world import WorldBench, draw_benchmark
    from opensama.world import CONTROL_FAMILIES, EDIT_FAMILIES

    chosen = [name for name in EDIT_FAMILIES + CONTROL_FAMILIES if not family or name in family]
    make_output_folder(out, "--out")
    with Display() as show, TemporaryDirectory() as scratch:
        place, drawn = Path(scratch), Path(scratch, "drawn")
        draw_benchmark(
            drawn, split=split, n=number, seed=seed, families=chosen, clips=videos, styles=number,
            frames=GALLERY_FRAMES, size=GALLERY_SIDE, progress=show,
        )  # fmt: skip
        data = read_benchmark_items(WorldBench(full=None), drawn)
        systems = Given(data=drawn, out=place, model=[model], device=device).systems(show, data.benchmark)
        results = evaluate_benchmark(data, systems, place, seed=seed, progress=show).results
        text = whole_page(results, place, standings(results), None, len(data.items), show)
    path = out / "index.html"
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    edits = results["systems"][0]["items"]
    right = sum(bool((edit["scores"] or {}).get("success")) for edit in edits)
    print(f"{how_many(len(edits), 'edit')}, {right} right: {path}")


def find_videos(folder: Path) -> list[Path]:
    """The videos of a folder by name; where some are called NAME--source, only those."""
    from opensama.evaluation.world import list_clips

    found = list_clips(folder)
    return [path for path in found if path.stem.endswith("--source")] or found
