"""Many edits of many systems measured: a folder of `<name>--source.mp4` and `<name>--<system>.mp4`.

What cannot be measured is told with its reason, and the rest goes on. A mean is over the clips where the metric could
be said; how many these are stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from opensama.evaluation.metrics.alignment import SIDE
from opensama.evaluation.metrics.measuring import CONTROLS, Measured, compare, known
from opensama.evaluation.metrics.meters import METRICS
from opensama.media import read_video
from opensama.values import UserError

SOURCE = "source"
COLUMN = 13  # characters of a table's column
SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif")


@dataclass(frozen=True)
class Edit:
    """One edit of a folder: what was measured, or why it could not be."""

    name: str
    system: str
    measured: Measured | None
    failure: str | None = None

    def to_dict(self) -> dict[str, object]:
        found = self.measured.to_dict() if self.measured else {}
        return {"name": self.name, "system": self.system, **found, "failure": self.failure}


def measure_folder(
    folder: Path,
    chosen: Iterable[str] | None = None,
    *,
    side: int = SIDE,
    done: Callable[[int, int], None] = lambda done, total: None,
) -> list[Edit]:
    """All edits in the folder, in order of their names. UserError where there are none."""
    names = known(METRICS if chosen is None else chosen)
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}; check the name.")
    files = {file.stem: file for file in sorted(folder.iterdir()) if file.suffix.lower() in SUFFIXES}
    parts = [stem.partition("--") for stem in files]
    edits = [(name, system) for name, mark, system in parts if mark and system != SOURCE]
    if not edits:
        raise UserError(f"{folder} holds no edits; name them <name>--<system>.mp4 beside <name>--source.mp4.")
    found = []
    for number, (name, system) in enumerate(edits):
        done(number, len(edits))
        source = files.get(f"{name}--{SOURCE}")
        if source is None:
            found.append(Edit(name, system, None, f"there is no {name}--{SOURCE} beside it"))
            continue
        try:
            measured = compare(read_video(source), read_video(files[f"{name}--{system}"]), names, side=side)
            found.append(Edit(name, system, measured))
        except UserError as error:
            found.append(Edit(name, system, None, str(error)))
    done(len(edits), len(edits))
    return found


def table(edits: Sequence[Edit]) -> str:
    """Every edit on a line, then the means of each system and of the controls on the sources, then what failed."""
    good = [edit for edit in edits if edit.measured is not None]
    names = [name for name in METRICS if any(edit.measured and name in edit.measured.values for edit in good)]
    width = max((len(f"{edit.name} {edit.system}") for edit in edits), default=0)
    width = max(width, *(len(f"mean of {edit.system}") for edit in edits)) + 2
    heads = [name.rpartition("_") for name in names]
    lines = [
        " " * width + "".join(f"{part:>{COLUMN}}" for part in parts).rstrip()
        for parts in ([before for before, _, _ in heads], [last for _, _, last in heads])
    ]
    for edit in good:
        assert edit.measured is not None
        lines.append(f"{edit.name + ' ' + edit.system:<{width}}" + _row([edit.measured.values], names))
    for system in sorted({edit.system for edit in good}):
        values = [edit.measured.values for edit in good if edit.system == system and edit.measured]
        lines.append(f"{'mean of ' + system:<{width}}" + _row(values, names, count=True))
    for control in CONTROLS:
        values = [edit.measured.controls[control] for edit in good if edit.measured]
        lines.append(f"{control:<{width}}" + _row(values, names, count=True))
    failed = [f"not measured: {edit.name} {edit.system}: {edit.failure}" for edit in edits if edit.failure]
    return "\n".join([*lines, *failed])


def _row(values: Sequence[dict[str, float]], names: Sequence[str], count: bool = False) -> str:
    cells = []
    for name in names:
        own = [each[name] for each in values if name in each]
        mean = f"{sum(own) / len(own):.3f}" if own else "-"
        cells.append(f"{mean} ({len(own)})" if count else mean)
    return "".join(f"{cell:>{COLUMN}}" for cell in cells)
