"""A curation step of one's own, in one file: after the stages of `opensama curate clips`, dark clips are dropped.

    python examples/a_curation_step.py --out bright-clips [--videos FOLDER] [--least 0.45]

Without --videos the clips are drawn by this project. OUT/report.json counts what each stage dropped, and why.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np

from opensama import read_video
from opensama.curation.clips import ClipRules, clip_stages, video_items
from opensama.curation.graph import run_graph
from opensama.curation.oracles import write_clips
from opensama.curation.stage import Drop, GraphItem, GraphStage
from opensama.media.frames import frames_for


def bright(item: GraphItem, *, least: float) -> GraphItem:
    """The stage: adds the clip's mean brightness, 0 to 1, and drops the clip where it is below `least`."""
    frames = frames_for(read_video(item["_path"]), 3, 128, start=item["target_start"], end=item["target_end"])
    brightness = float(np.mean(frames)) / 255
    if brightness < least:
        raise Drop("too dark")
    return item | {"scores": item["scores"] | {"brightness": round(brightness, 4)}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--videos", type=Path)
    parser.add_argument("--least", type=float, default=0.45)
    options = parser.parse_args()
    videos = options.videos
    if videos is None:
        videos = options.out / "videos"
        write_clips(videos, 6)
    rules = ClipRules(frames=9, min_side=64, low_motion=0.0, high_motion=9.0)
    stages = [*clip_stages(rules), GraphStage("bright", partial(bright, least=options.least))]
    report = run_graph(stages, video_items(videos, options.out / "clips"), options.out / "clips")
    print(report.table())
    print(f"written: {options.out / 'clips' / 'manifest.parquet'}, {report.records} clips")


if __name__ == "__main__":
    main()
