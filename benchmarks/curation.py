"""The clips graph: clips a second, what the graph and Ray cost over a plain loop, which stage bounds it.

    python benchmarks/curation.py [--videos 12] [--seconds 16] [--folder VIDEOS] [--workers 2] [--no-ray]

Films of drawn shots, 854x480 at 24 frames a second, unless a folder is given; clips of 81 frames. The VLM is a script
that answers at once: what a real one takes comes on top. CPU seconds are those of this process and all that it began;
wall-clock seconds mean something on an idle machine only.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from opensama.curation.clips import ClipRules, clip_stages, curate_clips, video_items
from opensama.curation.graph import GraphReport
from opensama.curation.stage import Drop, GraphItem, GraphStage
from opensama.media import read_video, write_video
from opensama.values import Video
from opensama.vlm import Question, ScriptedVlm, Vlm
from opensama.world import render, sample_scene, to_uint8

Made = TypeVar("Made")


def answer(question: Question) -> str:
    return '{"instruction": "Pan to the left.", "task": "camera"}'


def vlm() -> Vlm:
    return ScriptedVlm(answer, "at once")


def films(folder: Path, count: int, seconds: float) -> Path:
    """Two drawn films of two shots under many names; a shot swings to and fro over drawn frames."""
    for film in range(2):
        parts = []
        for shot in range(2):
            scene = sample_scene(random.Random(10 * film + shot))
            drawn = to_uint8(render([scene], 25, 480, 854))[0]
            swing = [*range(25), *range(23, 0, -1)]
            parts += [drawn[swing[i % len(swing)]] for i in range(round(12 * seconds))]
        film_file = folder.parent / f"film-{film}.mp4"
        write_video(Video.from_frames(np.stack(parts), fps=24), film_file, on_note=lambda note: None)
    for number in range(count):
        os.link(folder.parent / f"film-{number % 2}.mp4", folder / f"{number:04}.mp4")
    return folder


def loop(stages: list[GraphStage], items: list[GraphItem]) -> int:
    """The peer: the stages' own functions, one in the other."""
    states = [stage.setup() if stage.setup else None for stage in stages]
    made = 0
    for item in items:
        found = [item]
        for stage, state in zip(stages, states, strict=True):
            results: list[GraphItem] = []
            for one in found:
                try:
                    result = stage.run(one) if stage.setup is None else stage.run(state, one)
                except Drop:
                    continue
                results += [result] if isinstance(result, dict) else result or []
            found = results
        made += len(found)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=16.0)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--frames", type=int, default=81)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--no-ray", action="store_true")
    options = parser.parse_args()
    rules = ClipRules(frames=options.frames, low_motion=0.0, high_motion=100.0, min_side=64)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        if options.folder is None:
            (place / "raw").mkdir()
        folder = options.folder or films(place / "raw", options.videos, options.seconds)
        cut = curate_clips(folder, place / "cut", rules)
        items = video_items(folder, place / "peer")
        print(f"{len(items)} videos, {cut.records} clips of {rules.frames} frames")

        pairs, cpu, wall = timed(lambda: loop(clip_stages(rules, vlm, model="at once"), items))
        peer = cpu

        def say(title: str, cpu: float, wall: float) -> None:
            rate = f"{cut.records / cpu:8.2f} clips a CPU second"
            print(f"{title:<28}{rate}{cpu:8.2f} s CPU {cpu / peer:6.2f} of the loop {wall:8.2f} s wall", flush=True)

        say("functions in a loop", cpu, wall)

        def run(title: str, runner: Literal["local", "ray"], workers: int) -> GraphReport:
            work = partial(curate_clips, folder, place / title, rules, vlm=vlm, runner=runner, workers=workers)
            report, cpu, wall = timed(work)
            assert report.records == pairs
            say(title, cpu, wall)
            return report

        report = run("in process, 1 worker", "local", 1)
        if options.workers > 1:
            run(f"in process, {options.workers} workers", "local", options.workers)
        if not options.no_ray:
            with_ray(lambda: run(f"Ray, {options.workers} CPUs", "ray", options.workers), options.workers)
        whole = sum(stage.seconds for stage in report.stages)
        looked = next(stage.seconds for stage in report.stages if stage.name == "scenes")
        frames = sum(read_video(item["_path"]).frame_count for item in items)
        print(f"looking through: {1000 * looked / frames:.1f} ms a frame")
        print("share of the work: " + ", ".join(f"{s.name} {100 * s.seconds / whole:.1f}%" for s in report.stages))


def timed(work: Callable[[], Made]) -> tuple[Made, float, float]:
    """What the work gives, the CPU seconds that it took here and in processes begun by us, and the wall-clock ones."""
    cpu, wall = _cpu(), time.perf_counter()
    made = work()
    return made, _cpu() - cpu, time.perf_counter() - wall


def _cpu() -> float:
    import psutil

    total = time.process_time()
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            times = child.cpu_times()
            total += times.user + times.system
    return total


def with_ray(work: Callable[[], GraphReport], workers: int) -> None:
    """Ray's own beginning is told apart: on a cluster it is there already."""
    import logging

    import ray

    _, cpu, wall = timed(
        lambda: ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    )
    print(f"{'Ray begins':<28}{cpu:8.2f} s CPU {wall:8.2f} s wall")
    try:
        work()
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
