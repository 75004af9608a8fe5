"""What a benchmark is: how it lies on disk, what files with edits are called, how edits are judged and averaged.

A new one is a subclass of `Benchmark` in one file: it says how its items are `read`, and what else differs from the
defaults. `read_benchmark` and `evaluate_benchmark` take an instance of it; a line in `benchmarks.BENCHMARKS` gives it a
name for the command line.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from opensama.evaluation.aggregation import PLAIN, Aggregation
from opensama.evaluation.items import BenchmarkItem, Fault
from opensama.evaluation.judge import Judge, Judged
from opensama.evaluation.protocols import JudgingProtocol
from opensama.evaluation.results import Scores, SystemResult
from opensama.evaluation.tabular import match_edits
from opensama.media.video_io import read_video, write_video
from opensama.media.video_io.writing import rehearse
from opensama.values import EditRequest, UserError, Video


@dataclass(frozen=True)
class System:
    """Who edited: a folder of edits, or something that edits; beside it what networks of others said of the edits."""

    name: str
    edits: Path | None = None
    edit: Callable[[EditRequest], Video] | None = None
    metric_file: Path | None = None
    identity: str = ""
    """Of what edits: where it differs from the last run's, the edits are made anew."""
    through: Callable[[Tensor], Tensor] | None = None
    """Its autoencoder there and back, frames [b t 3 h w] in 0..1: no edit can come nearer to an answer."""


@dataclass(frozen=True)
class MadeEdit:
    """An edit that a system was asked for: how many seconds it took, and its marks where it was judged as frames."""

    seconds: float
    judged: Judged | None = None


class Benchmark:
    """One benchmark; its defaults are those of most."""

    name: ClassVar[str]
    title: ClassVar[str]
    not_edits: ClassVar[tuple[str, ...]] = ()
    """Names of files that lie among edits and are none."""
    metric_columns: ClassVar[tuple[str, ...]] = ()
    """What its own networks measure, as columns of a metric file; without these it takes no such file."""

    def read(self, folder: Path) -> tuple[list[BenchmarkItem], list[Fault]]:
        """The items in the order in which they are listed, and what is wrong with some of them."""
        raise NotImplementedError

    @property
    def protocols(self) -> tuple[JudgingProtocol, ...]:
        """How a judge may be asked; the first is the default."""
        return ()

    @property
    def aggregation(self) -> Aggregation:
        """Which numbers are printed."""
        return PLAIN

    @property
    def hint(self) -> str:
        """What is asked where a folder lists nothing to edit."""
        return f"is it {self.title}?"

    def protocol(self, name: str | None = None) -> JudgingProtocol:
        """The default protocol, or the one of that name."""
        for protocol in self.protocols:
            if name in (None, protocol.name):
                return protocol
        known = ", ".join(protocol.name for protocol in self.protocols)
        raise UserError(f"There is no protocol {name!r} for this benchmark: choose among {known}.")

    # --- edits

    def edit_names(self, item: BenchmarkItem) -> tuple[str, ...]:
        """What a file with an edit of this item is called; `ID.mp4` does everywhere."""
        return (f"{item.id}_edited.mp4",)

    def systems_in(self, folder: Path) -> list[str]:
        """Systems whose edits lie in the benchmark's own folder."""
        return []

    def find_edits(
        self, items: Sequence[BenchmarkItem], folder: Path, system: str
    ) -> tuple[dict[str, Path | None], list[Fault]]:
        """Each item that the system was asked for, by id, with its file or None; and what is wrong with the files."""
        names = {item.id: (*self.edit_names(item), f"{item.id}.mp4") for item in items}
        return match_edits(items, names, folder, self.not_edits)

    def make_edit(self, system: System, item: BenchmarkItem, path: Path, seed: int) -> MadeEdit:
        """Lets the system edit an item's source and writes the result. UserError where it cannot be edited."""
        assert system.edit is not None
        assert item.source is not None
        began = time.monotonic()
        rehearse(read_video(item.source), path, overwrite=True)  # before minutes of editing
        request = EditRequest(item.source, item.instruction, seed=seed)
        write_video(system.edit(request), path, overwrite=True, on_note=lambda note: None)
        return MadeEdit(time.monotonic() - began)

    # --- scores

    def judge(self, system: System, asked: Judge | None) -> Judge | None:
        """Who marks this system's edits: by default the judge that was asked for, if any."""
        return asked

    def file_scores(self, values: Scores) -> Scores:
        """A row of a metric file, by `metric_columns`, as scores."""
        return values

    def system_table(self, system: SystemResult) -> str | None:
        """A system's results in lines, where the benchmark has a table of its own; it then holds the metrics, too."""
        return None

    def answers(self, folder: Path, sources: Iterable[str | None]) -> Mapping[str, Video]:
        """Exact answers by item, where there are such; `sources` as results name them, seen from `folder`."""
        return {}


@dataclass(frozen=True)
class BenchmarkData:
    """A benchmark as it lies in a folder: the items that a run is about, and what is wrong with the rest."""

    benchmark: Benchmark
    items: list[BenchmarkItem]
    faults: list[Fault]


def read_benchmark_items(
    benchmark: Benchmark, folder: Path, *, tasks: Sequence[str] = (), limit: int | None = None
) -> BenchmarkData:
    """Its items in their order: of all tasks or only these, of each task all or the first `limit`."""
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}: name the one in which {benchmark.title} lies with `data`.")
    if limit is not None and limit < 1:
        raise UserError(f"The number of items must be at least 1, not {limit}.")
    items, faults = benchmark.read(folder)
    seen: dict[str, BenchmarkItem] = {}
    for item in items:
        if item.id in seen:
            faults.append(Fault(item.id, "is listed twice; the first counts"))
        elif not item.instruction.strip():
            faults.append(Fault(item.id, "has no instruction, so it is left out"))
        else:
            seen[item.id] = item
    if not seen:
        raise UserError(f"{folder} lists nothing to edit: {benchmark.hint}")
    known = {item.task for item in seen.values()}
    if unknown := [task for task in tasks if task not in known]:
        raise UserError(f"There is no task {unknown[0]!r} in it: choose among {', '.join(sorted(known))}.")
    chosen: list[BenchmarkItem] = []
    for item in seen.values():
        before = sum(other.task == item.task for other in chosen)
        if (not tasks or item.task in tasks) and (limit is None or before < limit):
            chosen.append(item)
    if tasks or limit is not None:
        names = {item.id for item in chosen}
        faults = [fault for fault in faults if fault.where in names]
    return BenchmarkData(benchmark, chosen, faults)
