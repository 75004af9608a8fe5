"""All metrics that need no judge on one pair of videos, against a plain loop of scikit-image and OpenCV in one run.

    python benchmarks/metrics.py [--frames 49] [--width 832 --height 480] [--source FILE --edited FILE]

A drawn edit, written as H.264, unless two files are given. The peer reads both videos whole and does what such scripts
do: scikit-image's SSIM, Farneback's flow, numpy for the rest, the same points and windows for tracks. It runs twice, on
the frames as they are and on frames of our size; the second shows what is won by looking at smaller frames and what is
not. CPU seconds; the values beside each other, as far as they are the same measure.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import cv2 as opencv
import numpy as np
from skimage.metrics import structural_similarity

from opensama.evaluation.metrics import METRICS, measure_edit, measure_with_controls
from opensama.evaluation.metrics.tracks import LENGTH, details
from opensama.media import read_video, write_video
from opensama.values import Video
from opensama.world import sample_edit

Made = TypeVar("Made")
cv2: Any = opencv  # its types know neither None nor float points


def frames_of(file: Path, size: tuple[int, int] | None) -> list[np.ndarray]:
    capture = cv2.VideoCapture(str(file))
    found: list[np.ndarray] = []
    while True:
        there, frame = capture.read()
        if not there:
            return found
        found.append(cv2.resize(frame, size, interpolation=cv2.INTER_AREA) if size else frame)


def farneback(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 15, 3, 5, 1.2, 0))


def pulled(frame: np.ndarray, flow: np.ndarray) -> np.ndarray:
    y, x = np.mgrid[0 : flow.shape[0], 0 : flow.shape[1]].astype(np.float32)
    return np.asarray(cv2.remap(frame, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR))


def apart(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(np.float32) - b.astype(np.float32)).mean())


def peer(source: Path, edited: Path, size: tuple[int, int] | None) -> dict[str, float]:
    videos = [frames_of(file, size) for file in (source, edited)]
    grays = [[cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in frames] for frames in videos]
    similar, kept_similar, errors, shares = [], [], [], []
    for a, b, gray_a, gray_b in zip(*videos, *grays, strict=True):
        _, full = structural_similarity(gray_a, gray_b, gaussian_weights=True, sigma=1.5, full=True, data_range=255)
        blurred = [cv2.blur(frame, (7, 7)).astype(np.int16) for frame in (a, b)]
        changed = (np.abs(blurred[0] - blurred[1]).max(-1) > 20).astype(np.uint8)
        changed = cv2.dilate(cv2.morphologyEx(changed, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)), np.ones((15, 15)))
        kept = changed == 0
        similar.append(full.mean())
        shares.append(kept.mean())
        if kept.any():
            kept_similar.append(full[kept].mean())
            errors.append(((a[kept].astype(np.float64) - b[kept]) ** 2).mean())
    steps, warps, smooth = [], [], []
    for frames, gray in zip(videos, grays, strict=True):
        flows = [farneback(a, b) for a, b in pairwise(gray)]
        steps.append(np.mean([apart(a, b) for a, b in pairwise(frames)]))
        triples = zip(frames, frames[1:], flows, strict=False)
        warps.append(np.mean([apart(a, pulled(b, flow)) for a, b, flow in triples]))
    for i in range(1, len(videos[1]) - 1, 2):
        flow = farneback(grays[1][i - 1], grays[1][i + 1]) / 2
        drawn = pulled(videos[1][i - 1], -flow) / 2.0 + pulled(videos[1][i + 1], flow) / 2.0
        smooth.append(1 - apart(drawn, videos[1][i]) / 255)
    agreements = []
    for begin in range(0, len(grays[0]) - 1, LENGTH):
        points = details(grays[0][begin])
        u, v = (follow(gray[begin : begin + LENGTH + 1], points) for gray in grays)
        agreements.append(np.nanmean((2 * (u * v).sum((0, 2)) + 1) / ((u * u + v * v).sum((0, 2)) + 1)))
    return {
        "unedited_psnr": float(10 * np.log10(255**2 / np.average(errors, weights=[s for s in shares if s]))),
        "unedited_ssim": float(np.average(kept_similar, weights=[s for s in shares if s])),
        "edited_share": float(1 - np.mean(shares)),
        "edit_strength": float(1 - np.mean(similar)),
        "flicker": float(steps[1] - steps[0]),
        "warp_error": float(warps[1] - warps[0]),
        "motion_fidelity": float(np.mean(agreements)),
        "motion_smoothness": float(np.mean(smooth)),
    }


def follow(gray: list[np.ndarray], points: np.ndarray) -> np.ndarray:
    """Steps `t n 2` of points."""
    steps = []
    for a, b in pairwise(gray):
        forth, _, _ = cv2.calcOpticalFlowPyrLK(a, b, points, None, winSize=(21, 21), maxLevel=4)
        back, _, _ = cv2.calcOpticalFlowPyrLK(b, a, forth, None, winSize=(21, 21), maxLevel=4)
        steps.append(np.where(np.linalg.norm(back - points, axis=1)[:, None] < 0.3, forth - points, 0))
        points = forth
    return np.stack(steps)


def timed(work: Callable[[], Made]) -> tuple[Made, float]:
    began = time.process_time()
    made = work()
    return made, time.process_time() - began


def cost(source: list[np.ndarray], edited: list[np.ndarray], metric: str) -> float:
    """CPU milliseconds a pair of frames in memory, the better of two runs."""
    one, two = (Video.from_frames(frames, fps=24) for frames in (source, edited))
    return min(timed(lambda: measure_edit(one, two, [metric]))[1] for _ in range(2)) / len(source) * 1000


def drawn(place: Path, frames: int, size: tuple[int, int]) -> tuple[Path, Path]:
    """A drawn edit that swings to and fro over a few drawn frames."""
    edit = sample_edit(1, "test", "replace", frames=min(frames, 13), size=size)
    few = len(edit.source) - 1
    swing = [few - abs(few - i % (2 * few)) for i in range(frames)]
    files = place / "source.mp4", place / "edited.mp4"
    for file, clip in zip(files, (edit.source, edit.target), strict=True):
        write_video(Video.from_frames([clip[i] for i in swing], fps=24), file)
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=49)
    parser.add_argument("--width", type=int, default=832)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--source", type=Path)
    parser.add_argument("--edited", type=Path)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as name:
        source, edited = options.source, options.edited
        if source is None or edited is None:
            source, edited = drawn(Path(name), options.frames, (options.height, options.width))
        one, two = read_video(source), read_video(edited)
        ours, mine = timed(lambda: measure_edit(read_video(source), read_video(edited)))
        found, beside = timed(lambda: measure_with_controls(read_video(source), read_video(edited)))
        whole, theirs = timed(lambda: peer(source, edited, None))
        frames = [frames_of(file, found.alignment.size) for file in (source, edited)]
        costs = {metric: cost(frames[0], frames[1], metric) for metric in METRICS}
        same, small = timed(lambda: peer(source, edited, found.alignment.size))
    width, height = found.alignment.size
    columns = ("ours", "peer", f"peer {width}x{height}", "ours alone, ms")
    print(f"{len(found.alignment)} pairs, {one.width}x{one.height} and {two.width}x{two.height}, one thread")
    print(f"{'':<24}" + "".join(f"{column:>16}" for column in columns))
    print(f"{'CPU seconds':<24}{mine:>16.2f}{theirs:>16.2f}{small:>16.2f}")
    print(f"{'times ours':<24}{1:>16.1f}{theirs / mine:>16.1f}{small / mine:>16.1f}")
    for metric in METRICS:
        cells = (f"{values[metric]:.3f}" if metric in values else "-" for values in (ours, whole, same))
        print(f"{metric:<24}" + "".join(f"{cell:>16}" for cell in cells) + f"{costs[metric]:>16.1f}")
    print(f"ours with the three controls beside: {beside:.2f} s")


if __name__ == "__main__":
    main()
