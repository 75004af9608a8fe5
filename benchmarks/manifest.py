"""How fast a large manifest opens and is read, beside the same rows as JSONL.

    python benchmarks/manifest.py [--rows 1000000]

Writes rows as an import does into a temporary folder (about 30 MB of Parquet and 600 MB of JSONL for a million), then
times: opening with its length and one row from the middle; one column; a selection; what `opensama train` reads. The
peer is JSONL, parsed line by line into dictionaries, which is the least that a reader of it must do.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from opensama.data.manifest import EDIT_TASKS, Record, read_manifest_table, write_manifest
from opensama.data.samples import read_manifest


def records(rows: int) -> Iterator[Record]:
    drawn = random.Random(0)
    for i in range(rows):
        name = f"{drawn.getrandbits(128):032x}"
        yield Record(
            id=f"ditto:global_style:{i}",
            kind="pair",
            target=f"videos/global_style1/{i % 5000:04}/{name}_1.mp4",
            source=f"videos/source/{i % 5000:04}/{name}.mp4",
            width=1280, height=720, frames=101, fps=20.0, seconds=5.05,
            instruction=f"Turn house {drawn.randrange(9999)} into a watercolour in {drawn.randrange(99)} colours.",
            task=EDIT_TASKS[i % len(EDIT_TASKS)],
            scores={"quality": i % 91 / 9}, dataset="ditto", license="CC BY-NC-SA 4.0",
            line=i, notes={"table": "global_style.json"},
        )  # fmt: skip


def timed(what: str, run: Callable[[], object]) -> float:
    """Seconds of waiting; printed beside them those of computing, which a busy machine leaves as they are."""
    start, before = time.perf_counter(), time.process_time()
    found = run()
    seconds, computing = time.perf_counter() - start, time.process_time() - before
    print(f"{what:<32} {seconds:8.3f} s, computing {computing:8.3f} s   {found}", flush=True)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        parquet, lines = Path(folder) / "m.parquet", Path(folder) / "m.jsonl"
        timed("write Parquet", lambda: write_manifest(parquet, records(rows)))
        write_manifest(lines, records(rows))
        print(f"{parquet.stat().st_size / 2**20:.0f} MiB of Parquet, {lines.stat().st_size / 2**20:.0f} MiB of JSONL")

        def opened() -> str:
            manifest = read_manifest_table(parquet)
            return f"{len(manifest):,} rows, the middle one {manifest[rows // 2].id}"

        ours = timed("open, length, the middle row", opened)
        manifest = read_manifest_table(parquet)
        timed("one column", lambda: sum(frames == 101 for frames in manifest.column("frames")))
        timed("select two tasks", lambda: len(manifest.select(task=("style", "background"))))
        timed("all that `opensama train` reads", lambda: len(read_manifest(parquet).rows))

        def parsed() -> int:
            with lines.open() as file:
                return sum(1 for line in file if json.loads(line))

        theirs = timed("JSONL, parsed", parsed)
        print(f"opening is {theirs / ours:,.0f} times quicker than parsing JSONL")


if __name__ == "__main__":
    main()
