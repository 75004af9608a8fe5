"""What windows do to a long film: whether their joints, their number or their place can be seen in the edit.

    python benchmarks/long.py [--model tiny] [--frames 17 65 257 1025] [--families style background recolor] [--apart]

Drawn clips of 128x128, whose right answer is known, are edited from file to file, each in a process of its own, and the
result is held against the answer, where that differs from the source. A row is the mean over the families:

    windows     of the longest window that the model takes, denoised together
    seam        error on the frames beside a window's beginning, over that on frames of the same place in their group of
                four that lie elsewhere (an autoencoder stores four frames at a time, and errs by their place)
    jump        the same of the change of the error from frame to frame
    strength    how far the edit goes towards the answer, each window's over the median one's: smallest, largest
    drift       mean colour error of a quarter of the film against the whole film's, the largest, in codes of 255
    variety     distance between two windows' results over that between their answers, the tenth percentile of pairs:
                nought where windows repeat what others hold
    MiB         peak memory of the process that edits
    seconds     of the process, libraries and model included

With `--apart` each window is edited as a film of its own and faded into the next one, as a stream would have to be
whose end is not there yet; in this process, so without the last two figures.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from opensama import Editor, EditRequest, Video, load
from opensama.media.video_io import read_video, write_video
from opensama.models.registry import find
from opensama.pipeline.windows import WindowPlan
from opensama.world import sample_edit
from opensama.world.scenes import FPS

_DIFFERS = 8  # codes of 255 from which on a pixel of the answer counts as changed


@dataclass(frozen=True)
class Seams:
    """What can be seen of the windows of one edit; nan where there is but one."""

    seam: float
    jump: float
    weakest: float
    strongest: float
    drift: float
    variety: float

    @classmethod
    def of(cls, plan: WindowPlan, source: np.ndarray, answer: np.ndarray, result: np.ndarray) -> Seams:
        """Frames uint8 [t h w 3]."""
        source, answer, result = (x.astype(np.float32) for x in (source, answer, result))
        changed = np.abs(answer - source).max(-1, keepdims=True) > _DIFFERS
        weight = np.maximum(changed.sum((1, 2, 3)), 1)
        wrong = (result - answer) * changed
        error = np.abs(wrong).mean(-1).sum((1, 2)) / weight
        steps = np.abs(np.diff(wrong, axis=0)).mean(-1).sum((1, 2)) / weight[1:]
        begins = [4 * start for start in plan.starts[1:]]
        beside = np.isin(np.arange(len(error)), [at + near for at in begins for near in (-1, 0, 1)])
        across = np.isin(np.arange(len(steps)), [at + near for at in begins for near in (-1, 0)])
        towards, far = ((x - source) * (answer - source) * changed for x in (result, answer))
        spans = _spans(plan)
        strength = np.array([towards[a:b].sum() / max(far[a:b].sum(), 1e-9) for a, b in spans])
        colour = np.stack([wrong[at].sum((0, 1, 2)) / weight[at].sum() for at in np.array_split(range(len(error)), 4)])
        relative = strength / np.median(strength)
        return cls(
            _ratio(error, beside), _ratio(steps, across), float(relative.min()), float(relative.max()),
            float(np.abs(colour - wrong.sum((0, 1, 2)) / weight.sum()).max()), _variety(spans, answer, result),
        )  # fmt: skip


def _spans(plan: WindowPlan) -> list[tuple[int, int]]:
    """The frames of each window up to the next one's."""
    begins = [4 * start for start in plan.starts]
    return list(zip(begins, [*begins[1:], plan.frames], strict=True))


def _ratio(values: np.ndarray, there: np.ndarray) -> float:
    """The mean there over that elsewhere, each place in a group of four by itself; without both it has no answer."""
    found = []
    for place in range(4):
        own = np.arange(len(values)) % 4 == place
        if (own & there).any() and (own & ~there).any():
            found.append((values[own & there].mean(), values[own & ~there].mean()))
    return float(np.mean([a for a, _ in found]) / np.mean([b for _, b in found])) if found else float("nan")


def _variety(spans: list[tuple[int, int]], answer: np.ndarray, result: np.ndarray) -> float:
    """Of windows as long as the first one, seen small."""
    length = spans[0][1] - spans[0][0]
    alike = [a for a, b in spans if b - a == length]
    made, asked = (np.stack([x[a : a + length, ::4, ::4].ravel() for a in alike]) for x in (result, answer))
    ratios = [
        np.abs(made[i] - made[j]).mean() / max(np.abs(asked[i] - asked[j]).mean(), 1.0)
        for i in range(len(alike))
        for j in range(i)
    ]
    return float(np.quantile(ratios, 0.1)) if ratios else float("nan")


def edited(model: str, clip: Path, instruction: str, out: Path) -> tuple[float, float]:
    """Seconds, and peak MiB, of `opensama edit` as a process of its own."""
    began, peak = time.perf_counter(), 0.0
    command = ["edit", clip, instruction, "--model", model, "--no-preserve", "--quality", "100", "--out", out]
    process = subprocess.Popen(
        [sys.executable, "-m", "opensama", *map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None:  # `wait` would tell the peak of this process, if that is higher
        with suppress(OSError, IndexError):
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = max(peak, float(status.split("VmHWM:")[1].split()[0]) / 1024)
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{model} could not edit {clip}: run opensama {' '.join(map(str, command))}")
    return time.perf_counter() - began, peak


def edited_apart(editor: Editor, plan: WindowPlan, frames: np.ndarray, instruction: str) -> np.ndarray:
    """Frames uint8 [t h w 3] of windows that know nothing of one another."""

    def windows() -> Iterator[Tensor]:
        for start in plan.starts:
            video = Video.from_frames(frames[4 * start : 4 * start + plan.window_frames], FPS)
            result = editor.edit(EditRequest(video, instruction, preserve=False)).array()
            yield torch.from_numpy(result).permute(3, 0, 1, 2).float()

    return torch.cat(list(plan.stitch(windows())), dim=1).permute(1, 2, 3, 0).round().byte().numpy()


def rows(model: str, frames: int, families: Sequence[str], editor: Editor | None) -> tuple[int, np.ndarray]:
    """Windows, and the means over the families."""
    defaults = find(model).defaults
    plan = WindowPlan.of(frames, defaults.window, defaults.overlap, defaults.shortest)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        clip, out = Path(folder) / "clip.mp4", Path(folder) / "edited.mp4"
        for family in families:
            sample = sample_edit("long", "test", family, frames, 128)
            if editor is not None:
                result = edited_apart(editor, plan, sample.source, sample.instruction)
                seams = Seams.of(plan, sample.source, sample.target, result)
                found.append((*astuple(seams), float("nan"), float("nan")))
                continue
            write_video(Video.from_frames(sample.source, FPS), clip, quality=100, overwrite=True)
            seconds, peak = edited(model, clip, sample.instruction, out)
            seams = Seams.of(plan, sample.source, sample.target, read_video(out).array())
            found.append((*astuple(seams), peak, seconds))
            out.unlink()
    return len(plan), np.mean(found, axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--frames", type=int, nargs="+", default=[17, 65, 257, 1025])
    parser.add_argument("--families", nargs="+", default=["style", "background", "recolor"])
    parser.add_argument("--apart", action="store_true")
    options = parser.parse_args()
    editor = load(options.model) if options.apart else None
    print("| frames | windows | seam | jump | strength | drift | variety | MiB | seconds |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for frames in options.frames:
        windows, mean = rows(options.model, frames, options.families, editor)
        seam, jump, weakest, strongest, drift, variety, peak, seconds = mean
        print(
            f"| {frames:,} | {windows} | {seam:.3f} | {jump:.3f} | {weakest:.2f} to {strongest:.2f} | {drift:.1f} | "
            f"{variety:.2f} | {peak:.0f} | {seconds:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
