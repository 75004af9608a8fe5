"""Clips of one's own: NAME--source.mp4 and, beside each, what systems made of it; judged in the style of VIE-Bench."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from opensama.evaluation.aggregation import Aggregation
from opensama.evaluation.benchmarks.benchmark import Benchmark
from opensama.evaluation.benchmarks.vie import VIE_PROTOCOL
from opensama.evaluation.items import BenchmarkItem, Fault
from opensama.evaluation.protocols import JudgingProtocol
from opensama.evaluation.tabular import (
    EDIT_SUFFIXES,
    ID_COLUMNS,
    INSTRUCTION_COLUMNS,
    TASK_COLUMNS,
    TabularRow,
    first_value,
    tabular_rows,
)

CLIP_MARK = "--"  # between a clip's name and who made it


class ClipsBench(Benchmark):
    """Every `NAME--source.mp4`; what is asked stands in a table of `id`, `instruction`, `task`, or is the name."""

    name = "clips"
    title = "Clips"

    def read(self, folder: Path) -> tuple[list[BenchmarkItem], list[Fault]]:
        rows: dict[str, TabularRow] = {}
        faults: list[Fault] = []
        for table in sorted(path for path in folder.iterdir() if path.suffix.lower() in (".json", ".jsonl", ".csv")):
            asked = [
                row for row in tabular_rows(table, faults=faults) if any(name in row for name in INSTRUCTION_COLUMNS)
            ]
            rows |= {first_value(row, ID_COLUMNS): row for row in asked}
        files = [file for file in sorted(folder.iterdir()) if _is_video(file)]
        sources = {name: file for file in files if (name := file.stem.removesuffix(f"{CLIP_MARK}source")) != file.stem}
        items = []
        for name, file in sources.items():
            row = rows.pop(name, {})
            text = first_value(row, INSTRUCTION_COLUMNS) or name
            items.append(BenchmarkItem(name, first_value(row, TASK_COLUMNS), text, file))
        for file in files:
            name, mark, _ = file.stem.partition(CLIP_MARK)
            if not mark:
                faults.append(Fault(file.name, f"is called neither NAME{CLIP_MARK}source nor NAME{CLIP_MARK}SYSTEM"))
            elif name not in sources:
                faults.append(Fault(file.name, f"there is no {name}{CLIP_MARK}source beside it"))
        faults += [Fault(name, f"is listed, and there is no {name}{CLIP_MARK}source.mp4") for name in rows]
        return items, faults

    @property
    def protocols(self) -> tuple[JudgingProtocol, ...]:
        return (replace(VIE_PROTOCOL, name="clips"),)

    @property
    def aggregation(self) -> Aggregation:
        return Aggregation(headline="mean")

    @property
    def hint(self) -> str:
        return f"a clip is called NAME{CLIP_MARK}source.mp4."

    def systems_in(self, folder: Path) -> list[str]:
        """Whose edits lie there as `NAME--SYSTEM.mp4`."""
        files = folder.iterdir() if folder.is_dir() else []
        found = {file.stem.partition(CLIP_MARK)[2] for file in files if _is_video(file)}
        return sorted(found - {"", "source"})

    def find_edits(
        self, items: Sequence[BenchmarkItem], folder: Path, system: str
    ) -> tuple[dict[str, Path | None], list[Fault]]:
        """In a folder of `NAME--SYSTEM.mp4` a system was asked for no more than what is there."""
        files = {file.stem: file for file in folder.iterdir() if _is_video(file)} if folder.is_dir() else {}
        named = {item.id: files.get(f"{item.id}{CLIP_MARK}{system}") for item in items}
        if found := {name: file for name, file in named.items() if file is not None}:
            return dict(found), []
        return super().find_edits(items, folder, system)


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in EDIT_SUFFIXES
