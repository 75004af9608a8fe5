"""Numbers that a benchmark's own networks gave, from the files in which they were written.

IVEBench and EditVerseBench measure with networks that are not ours to ship; whoever ran them has a table with a row for
each video. Its columns go by the metrics' names, its rows by the item's id or by the video's name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from opensama.evaluation.aggregation import IVE_METRICS
from opensama.evaluation.items import ID, Fault, Item, read_rows
from opensama.values import UserError

EDITVERSE_METRICS = (
    "clip_temporal_consistency",
    "dino_temporal_consistency",
    "frame_text_alignment",
    "pick_score",
    "video_text_alignment",
    "editing_vlm_evaluation",
)
_METRICS = {"ive": IVE_METRICS, "editverse": EDITVERSE_METRICS}
_NAMES = (*ID, "key", "src_video_name", "video_name", "video", "file")


def read_metric_file(
    benchmark: str, path: Path, items: Sequence[Item]
) -> tuple[dict[str, dict[str, float]], list[Fault]]:
    """id -> metric -> value. IVEBench's -1 means none; EditVerseBench's temporal metrics are given times 100."""
    if benchmark not in _METRICS:
        raise UserError(f"Metric files are read for {' and '.join(_METRICS)} only, not for {benchmark}.")
    wanted = _METRICS[benchmark]
    faults: list[Fault] = []
    rows = read_rows(path, faults=faults)
    of: dict[str, str] = {}
    for item in items:
        for name in (item.id, item.id.partition("-")[2], PurePosixPath(item.notes.get("file", "")).stem):
            of.setdefault(name, item.id)
    found: dict[str, dict[str, float]] = {}
    for number, row in enumerate(rows, 1):
        plain = {str(name).strip().lower().replace(" ", "_"): value for name, value in row.items()}
        said = next((str(plain[name]) for name in _NAMES if plain.get(name) not in (None, "")), "")
        item_id = of.get(said) or of.get(PurePosixPath(said).stem)
        if not said or item_id is None:
            faults.append(Fault(f"{path.name} row {number}", f"names no item of the benchmark: {said or 'nothing'}"))
            continue
        values = {name: value for name in wanted if (value := _value(plain.get(name))) is not None}
        if benchmark == "ive":
            values = {name: value for name, value in values.items() if value > -1}
        else:
            values |= {name: value * 100 for name, value in values.items() if "temporal" in name and value <= 1}
        found[item_id] = found.get(item_id, {}) | values
    if not any(found.values()):
        raise UserError(f"{path} has none of the columns {', '.join(wanted)} for items of the benchmark.")
    return found, faults


def _value(said: object) -> float | None:
    try:
        value = float(str(said))
    except ValueError:
        return None
    return value if math.isfinite(value) else None
