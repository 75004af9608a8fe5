"""Clips a second that the loader gives, beside a plain loader on imageio, in one run.

    pip install imageio imageio-ffmpeg
    python benchmarks/loader.py [--clips 12] [--frames 49] [--width 1280 --height 720] [--workers 2] [--rounds 3]

Drawn clips, three times as long as what is taken of them, as pairs of H.264 in a manifest. Both sides give batches of
float tensors [b 3 t h w] of half a side's pixels: ours as training reads, the peer by what training code
commonly does: imageio's reader, its count of the frames, frame by frame through PIL to the size, the same number of
clips at once in threads (imageio decodes in a process of its own). They take turns, so that whatever else the machine
does is the same for both. Seconds of waiting say little on a busy machine; CPU seconds, those of child processes
included, do.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import imageio
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from opensama import Video
from opensama.data.item_reader import ItemReader
from opensama.data.prefetch import Prefetcher
from opensama.data.samples import BatchSampler, Layout, read_manifest, shapes_of
from opensama.media import write_video
from opensama.media.frames import to_pixels
from opensama.pretext import Mixture
from opensama.world import sample_edit


def make_pairs(folder: Path, clips: int, frames: int, size: tuple[int, int]) -> Path:
    """A manifest of so many pairs."""
    rows = []
    for i in range((clips + 1) // 2):
        drawn = sample_edit(i, "test", "recolor", frames=17, size=size[::-1])
        for side, few in (("source", drawn.source), ("target", drawn.target)):
            swing = [few[min(t % 32, 32 - t % 32)] for t in range(3 * frames)]
            write_video(Video.from_frames(swing, 24), folder / f"{i}-{side}.mp4", quality=70)
        row = {"source": f"{i}-source.mp4", "target": f"{i}-target.mp4", "instruction": drawn.instruction}
        rows.append(row | {"width": size[0], "height": size[1], "frames": 3 * frames})
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def ours(path: Path, frames: int, size: tuple[int, int], workers: int) -> int:
    layout = Layout(lambda width, height: size, frames, Mixture({"none": 1}))
    items = layout.items(read_manifest(path).rows, lambda row, reason: None)
    sampler, reader = BatchSampler(shapes_of(items), "video", 1, 0), ItemReader(items, lambda i: layout.read(items[i]))
    numbers = range(sampler.epoch_length)
    prefetch = Prefetcher(
        lambda n: [reader(sampler, i) for i in sampler.numbers(n)], workers=workers, end=sampler.epoch_length
    )
    clips = sum(2 * len(prefetch(number)) for number in numbers)
    prefetch.close()
    return clips


def theirs(path: Path, frames: int, size: tuple[int, int], workers: int) -> int:
    rows = [json.loads(line) for line in path.read_text().splitlines()]

    def pair(row: dict[str, str]) -> tuple[Tensor, Tensor]:
        source, target = (imageio_clip(path.parent / row[side], frames, size) for side in ("source", "target"))
        return source, target

    with ThreadPoolExecutor(workers, initializer=lambda: torch.set_num_threads(1)) as threads:
        return sum(len(pair) for pair in threads.map(pair, rows))


def imageio_clip(path: Path, frames: int, size: tuple[int, int]) -> Tensor:
    reader: Any = imageio.get_reader(path)
    assert reader.count_frames() >= frames
    width, height = size
    out = []
    for number in range(frames):
        image = Image.fromarray(np.asarray(reader.get_data(number)))
        scale = max(width / image.width, height / image.height)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        out.append(np.asarray(image.crop((left, top, left + width, top + height))))
    reader.close()
    return to_pixels(out)


def cpu_seconds() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(use.ru_utime + use.ru_stime for use in used)


def timed(work: Callable[[], int]) -> np.ndarray:
    """Clips, seconds, CPU seconds."""
    start, before = time.perf_counter(), cpu_seconds()
    clips = work()
    return np.array([clips, time.perf_counter() - start, cpu_seconds() - before])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in {"clips": 12, "frames": 49, "width": 1280, "height": 720, "workers": 2, "rounds": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    size = (options.width // 32 * 16, options.height // 32 * 16)
    with tempfile.TemporaryDirectory() as folder:
        path = make_pairs(Path(folder), options.clips, options.frames, (options.width, options.height))
        sums = {"ours": np.zeros(3), "imageio": np.zeros(3)}
        for done in range(options.rounds):
            for name, load in (("ours", ours), ("imageio", theirs)):
                found = timed(lambda load=load: load(path, options.frames, size, options.workers))  # type: ignore[misc]
                sums[name] += found
                print(f"round {done + 1}, {name}: {found[1]:.1f} s, {found[2]:.1f} CPU seconds", flush=True)
    print(
        f"{options.frames} frames of {options.width}x{options.height} at {size[0]}x{size[1]}, {options.workers} threads"
    )
    rates = {name: (clips / wall, clips / cpu) for name, (clips, wall, cpu) in sums.items()}
    for name, (rate, per_cpu) in rates.items():
        print(f"{name:<8} {rate:6.2f} clips a second   {per_cpu:6.2f} clips a CPU second")
    ratios = (mine / peer for mine, peer in zip(rates["ours"], rates["imageio"], strict=True))
    print("ratio    {:6.2f}                  {:6.2f}".format(*ratios))


if __name__ == "__main__":
    main()
