"""Numbers that a benchmark's own networks gave, from the files in which they were written.

IVEBench and EditVerseBench measure with networks that are not ours to ship; whoever ran them has a table with a row for
each video. Its columns go by the metrics' names, its rows by the item's id or by the video's name.
"""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath

from opensama.evaluation.benchmarks.benchmark import BenchmarkData
from opensama.evaluation.items import Fault
from opensama.evaluation.results import Scores
from opensama.evaluation.tabular import ID_COLUMNS, tabular_rows
from opensama.values import UserError

_NAMES = (*ID_COLUMNS, "key", "src_video_name", "video_name", "video", "file")


def read_metric_file(path: Path, data: BenchmarkData) -> tuple[dict[str, Scores], list[Fault]]:
    """id -> metric -> value, of the benchmark's `metric_columns`. UserError where it takes no such file."""
    wanted = data.benchmark.metric_columns
    if not wanted:
        raise UserError(f"Metric files are read for IVEBench and EditVerseBench only, not for {data.benchmark.title}.")

    faults: list[Fault] = []
    of: dict[str, str] = {}
    for item in data.items:
        for name in (item.id, item.id.partition("-")[2], PurePosixPath(item.notes.get("file", "")).stem):
            of.setdefault(name, item.id)
    found: dict[str, Scores] = {}
    for number, row in enumerate(tabular_rows(path, faults=faults), 1):
        plain = {str(name).strip().lower().replace(" ", "_"): value for name, value in row.items()}
        said = next((str(plain[name]) for name in _NAMES if plain.get(name) not in (None, "")), "")
        item_id = of.get(said) or of.get(PurePosixPath(said).stem)
        if not said or item_id is None:
            faults.append(Fault(f"{path.name} row {number}", f"names no item of the benchmark: {said or 'nothing'}"))
            continue
        values = {name: value for name in wanted if (value := _value(plain.get(name))) is not None}
        found[item_id] = found.get(item_id, {}) | data.benchmark.file_scores(values)
    if not any(found.values()):
        raise UserError(f"{path} has none of the columns {', '.join(wanted)} for items of the benchmark.")
    return found, faults


def _value(said: object) -> float | None:
    try:
        value = float(str(said))
    except ValueError:
        return None
    return value if math.isfinite(value) else None
