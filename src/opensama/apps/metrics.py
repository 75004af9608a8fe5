"""`opensama evaluate metrics`: a source and its edit, by metrics that need no judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from opensama.apps.options import OVERWRITE, check_json
from opensama.values import UserError

_COLUMNS = ("edit", "copy", "black", "shuffled")


def metrics(
    source: Path | None = None,
    edited: Path | None = None,
    /,
    *,
    metrics: Annotated[str | None, Parameter(name="--metrics")] = None,
    side: int = 416,
    weights: Path | None = None,
    text: str | None = None,
    source_text: str | None = None,
    explain: Annotated[bool, Parameter(negative=())] = False,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> None:
    """Measure an edit against its source without a judge: what was kept, how it moves, whether it flickers.

    Beside the edit stand three that are none: a copy of the source, black, and the source's frames shuffled. Sizes,
    lengths and rates may differ; a line says how the two were laid on each other.

    Parameters
    ----------
    source
        The video before, a file or a folder of images.
    edited
        The video after.
    metrics
        Only these, with commas between: unedited_psnr,flicker.
    side
        The size to look at: pixels of the longer side.
    weights
        A folder of a CLIP, SigLIP or DINO of transformers: also measure consistency and likeness to the source.
    text
        What the edit should show, for a network that reads: also how well it does.
    source_text
        What the source shows: also whether the edit changed the picture as the texts differ.
    explain
        Say what each metric means, what it cannot see and what it costs, and measure nothing.
    json_file
        Also write every figure into this file.
    overwrite
        Replace that file where it exists.
    """
    if not explain and (source is None or edited is None):
        raise UserError("Give a source and an edited video; a folder of edits is scored by `opensama evaluate clips`.")
    from opensama.evaluation.metrics import METRICS, measure_with_controls
    from opensama.evaluation.metrics.measuring import known
    from opensama.evaluation.table import with_decimals
    from opensama.media import read_video

    chosen = known(METRICS if metrics is None else (name.strip() for name in metrics.split(",")))
    if explain:
        print("\n".join(_explained(name) for name in chosen))
        return
    assert source is not None
    assert edited is not None
    if weights is None and (text or source_text):
        raise UserError("A text needs a network that reads it; give its folder with --weights.")
    check_json(json_file, (source, edited), overwrite=overwrite)
    measured = measure_with_controls(read_video(source), read_video(edited), chosen, side=side)
    rows = {"edit": measured.values, **measured.controls}
    print(f"{'':<20}" + "".join(f"{who:>10}" for who in _COLUMNS) + "  better")
    for name in chosen:
        cells = (with_decimals(name, rows[who][name]) if name in rows[who] else "-" for who in _COLUMNS)
        print(f"{name:<20}" + "".join(f"{cell:>10}" for cell in cells) + f"  {METRICS[name].best}")
    print(measured.alignment.describe())
    written = measured.to_dict()
    if weights is not None:
        from opensama.evaluation.metrics.networks import Network, measure_by_network

        network = Network(weights)
        one, two = measured.alignment.source, measured.alignment.edited
        values = measure_by_network(one, two, network, text=text, source_text=source_text, side=side)
        copy = measure_by_network(one, one, network, text=text, side=side)
        for name, value in values.items():
            print(f"{name:<20}{value:>10.3f}" + (f"{copy[name]:>10.3f}" if name in copy else ""))
        written |= {"network": values, "network_copy": copy}
    if json_file is not None:
        from opensama.runtime import whole_file

        with whole_file(json_file) as temporary:
            temporary.write_text(json.dumps(written, indent=2) + "\n")
        print(f"written: {json_file}")


def _explained(name: str) -> str:
    from opensama.evaluation.metrics import METRICS

    metric = METRICS[name]
    low, high = metric.range
    unit = f" {metric.unit}" if metric.unit else ""
    return (
        f"{name}: {metric.says}\n  from {low:g} to {high:g}{unit}; better: {metric.best}; needs {metric.needs}\n"
        f"  cannot see: {metric.cannot_see}\n  costs about {metric.cost:g} ms a pair of frames\n"
    )
