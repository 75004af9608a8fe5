"""Edits an hour of a table of short clips: `opensama batch` once, against a loop of `opensama edit` in a shell.

    python benchmarks/batch.py [--clips 6] [--frames 17] [--model tiny] [--rounds 1] [--ray] [--no-loop]

Both run in processes of their own, start, imports and loading counted, one after the other in each round; with --ray
so does a batch whose one worker is an actor of a Ray that begins and ends with it. The ratio is that of the rounds'
medians, to the first row.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from opensama import Video, world
from opensama.media.video_io import write_video
from opensama.world.scenes import FPS

OPENSAMA = [sys.executable, "-m", "opensama.apps.cli"]


def seconds(*commands: list[str]) -> float:
    """Of all commands, one after the other."""
    began = time.perf_counter()
    for command in commands:
        subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def draw(folder: Path, clips: int, frames: int) -> Path:
    """Drawn clips with their instructions, as a table."""
    table = folder / "jobs.csv"
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["video", "instruction"])
        for index in range(clips):
            sample = world.sample_edit(index, "test", "recolor", frames=frames, size=128)
            write_video(Video.from_frames(sample.source, FPS), folder / f"{index}.mp4")
            rows.writerow([f"{index}.mp4", sample.instruction])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=6)
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--no-loop", action="store_true", help="leave out the loop; the first row is then the batch")
    parser.add_argument("--ray", action="store_true", help="also `opensama batch --ray --workers 1`")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = draw(folder, options.clips, options.frames)
        with table.open(newline="") as file:
            rows = list(csv.DictReader(file))
        model = ["--model", options.model]
        ways: dict[str, list[str]] = {"`opensama batch`": []}
        if options.ray:
            ways["the same with `--ray`"] = ["--ray", "--workers", "1"]
        taken: dict[str, list[float]] = {way: [] for way in ways}
        if not options.no_loop:
            taken = {"a loop of `opensama edit`": [], **taken}
        for number in range(options.rounds):
            made: dict[str, bytes] = {}
            if not options.no_loop:
                loop = folder / f"loop-{number}"
                loop.mkdir()
                edits = [
                    [*OPENSAMA, "edit", str(folder / row["video"]), row["instruction"], "--out", f"{loop}/", *model]
                    for row in rows
                ]
                taken["a loop of `opensama edit`"].append(seconds(*edits))
                made = {path.name: path.read_bytes() for path in loop.iterdir()}
            for index, (way, more) in enumerate(ways.items()):
                batch = folder / f"batch-{number}-{index}"
                command = [*OPENSAMA, "batch", str(table), "--out", str(batch), *model, *more]
                taken[way].append(seconds(command))
                files = {path.name: path.read_bytes() for path in batch.glob("*.mp4")}
                assert len(files) == options.clips
                assert files == (made or files), f"{way} made other files"
                made = files
    print(f"{options.clips} clips of {options.frames} frames of 128x128, {options.model}, the same files from all\n")
    print("| what | seconds | edits an hour | ratio |\n|---|---:|---:|---:|")
    peer = statistics.median(next(iter(taken.values())))
    for what, times in taken.items():
        middle = statistics.median(times)
        print(f"| {what} | {middle:.1f} | {3600 * options.clips / middle:,.0f} | {peer / middle:.1f} |")


if __name__ == "__main__":
    main()
