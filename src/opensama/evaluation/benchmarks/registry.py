"""The benchmarks that the command line knows by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from opensama.evaluation.benchmarks.benchmark import Benchmark, BenchmarkData, read_benchmark_items
from opensama.evaluation.benchmarks.clips import ClipsBench
from opensama.evaluation.benchmarks.editverse import EditVerseBench
from opensama.evaluation.benchmarks.ive import IveBench
from opensama.evaluation.benchmarks.openve import OpenVeBench
from opensama.evaluation.benchmarks.reco import RecoBench
from opensama.evaluation.benchmarks.vie import VieBench
from opensama.evaluation.world.benchmark import WorldBench
from opensama.values import UserError

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        VieBench(),
        OpenVeBench(),
        RecoBench(),
        IveBench(),
        EditVerseBench(),
        ClipsBench(),
        WorldBench(),
    )
}


def find_benchmark(name: str) -> Benchmark:
    """The benchmark of that name. UserError where there is none."""
    if name not in BENCHMARKS:
        raise UserError(f"There is no benchmark {name!r}: choose among {', '.join(BENCHMARKS)}.")
    return BENCHMARKS[name]


def read_benchmark(name: str, folder: Path, *, tasks: Sequence[str] = (), limit: int | None = None) -> BenchmarkData:
    """The items of the benchmark of that name, see `read_items`."""
    return read_benchmark_items(find_benchmark(name), folder, tasks=tasks, limit=limit)
