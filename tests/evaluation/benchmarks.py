"""Small benchmarks in the published layouts, made by the tests, and edits of them.

An edit darkens its source by a share of its light: what a judge that looks at pixels can see.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from opensama.evaluation.world import draw_benchmark
from opensama.media.video_io import write_video
from opensama.values import Video

SIZE = (32, 48)


def clip(seed: int = 0, *, frames: int = 6, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A soft pattern that moves: `t h w 3`."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    phases, speed = rng.uniform(0, 6, 3), rng.uniform(0.5, 2)
    waves = [np.sin(x / 5 + y / 7 + phase + t * speed / 3) for t in range(frames) for phase in phases]
    return (128 + 90 * np.stack(waves).reshape(frames, 3, *size).transpose(0, 2, 3, 1)).astype(np.uint8)


def save(frames: np.ndarray, path: Path, fps: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(Video.from_frames(frames, fps), path, overwrite=True, on_note=lambda note: None)
    return path


def darker(frames: np.ndarray, share: float) -> np.ndarray:
    return (frames * (1 - share)).astype(np.uint8)


def make_vie(folder: Path, tasks: Sequence[str] = ("add", "swap", "color", "style", "tone", "remove")) -> Path:
    rows = []
    for index, task in enumerate(tasks):
        save(clip(index), folder / "sources" / f"{index}.mp4")
        rows.append(
            {"id": f"v{index}", "type": task, "instruction": f"Do {task}.", "source_video": f"sources/{index}.mp4"}
        )
    (folder / "vie.json").write_text(json.dumps(rows))
    return folder


def make_openve(folder: Path, types: Sequence[str] = ("global_style", "local_add")) -> Path:
    rows = []
    for index, kind in enumerate(types):
        name = f"{index:04d}_{kind}_make_it.mp4"
        save(clip(index), folder / "videos" / name)
        rows.append(
            {"edited_type": kind, "prompt": f"Make it {kind}, please.", "original_video": f"OpenVE-Bench/videos/{name}"}
        )
    with (folder / "benchmark_videos.csv").open("w", encoding="utf-8-sig", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return folder


def make_reco(folder: Path, *, frames: int = 5) -> Path:
    lines = {
        "add": "one.mp4: Add a red hat, then wait. At 5:30 it goes.\n# a remark\n\n",
        "remove": "two.mp4: Remove the dog. | refs/two.png\n",
        "replace": "one.mp4: Replace the cat with a tiger.\n",
        "style": "two.mp4: Ukiyo-e.\n",
    }
    for index, name in enumerate(("one", "two")):
        save(clip(index, frames=frames), folder / "ori_videos" / f"{name}.mp4")
    (folder / "configs").mkdir()
    for task, text in lines.items():
        (folder / "configs" / f"{task}.txt").write_text(text)
    return folder


def make_ive(folder: Path) -> Path:
    for subset in ("short", "long"):
        rows = []
        for index, category in enumerate(("style_editing", "quantity_modification")):
            save(clip(index), folder / f"ivebenchdb_mp4_{subset}" / f"{subset}{index}.mp4")
            row = {"id": index, "src_video_name": f"{subset}{index}.mp4", "category": category, "subcategory": ""}
            rows.append(row | {"edit_prompt": f"Edit {index}.", "source_prompt": "a", "target_prompt": "b"})
        (folder / f"ivebenchdb_prompt_{subset}.json").write_text(json.dumps(rows))
    return folder


def make_editverse(folder: Path, frames: int = 10) -> Path:
    rows = {}
    for index in range(2):
        save(clip(index, frames=frames), folder / "videos" / f"{index}.mp4")
        rows[str(index)] = {
            "<text>": f"<video1> Make number {index} blue.",
            "<video1>": f"videos/{index}.mp4",
            "<video1> link": "",
            "direction": "horizontal",
            "type": "color",
            "source_prompt": "a",
            "target_prompt": "b",
        }
    (folder / "test.json").write_text(json.dumps(rows))
    return folder


def make_clips(folder: Path) -> Path:
    rows = []
    for index in range(2):
        save(clip(index), folder / f"clip{index}--source.mp4")
        rows.append({"id": f"clip{index}", "instruction": f"Make number {index} darker.", "task": "color"})
    (folder / "clips.json").write_text(json.dumps(rows))
    return folder


def make_world(folder: Path) -> Path:
    draw_benchmark(folder, n=1, families=("add", "style"), frames=5, size=64)
    return folder


JUDGED = {
    "vie": make_vie, "openve": make_openve, "reco": make_reco, "ive": make_ive, "editverse": make_editverse,
    "clips": make_clips,
}  # fmt: skip
"""Those that are shown to a judge."""
MAKERS = JUDGED | {"world": make_world}
