"""Raw videos to clips, and to pairs of clips of one scene: ICVE's pre-training data, in the paper's order.

    basic filter, scenes, motion filter, clips of one length, two random clips of a scene as original and pseudo-edited,
    instruction by a VLM, other verbs, filter of trivial instructions

Nothing is encoded again: a record points at a stretch of the file it comes from. The paper does not tell its
thresholds; the ones here are our own.

    report = curate_clips(Path("videos"), Path("out"), ClipRules(frames=61), vlm=partial(open_vlm, url))
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from opensama.curation.graph import GraphReport, run_graph
from opensama.curation.scenes import moving, scenes
from opensama.curation.settings import ClipRules
from opensama.curation.stage import Drop, GraphItem, GraphStage
from opensama.data.manifest import Record
from opensama.media import VIDEO_SUFFIXES
from opensama.values import Progress, UserError
from opensama.vlm import check_connection

if TYPE_CHECKING:
    from opensama.vlm import Vlm


def curate_clips(
    folder: Path,
    out: Path,
    rules: ClipRules | None = None,
    *,
    vlm: Callable[[], Vlm] | None = None,
    gpus: float = 0,
    runner: Literal["local", "ray"] = "local",
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> GraphReport:
    """Pairs with instructions where `vlm` makes a model to ask, clips else; see `run_graph` for what lies in `out`.

    The model is made once here, on Ray once a worker (then `vlm` is a `partial` of `open_vlm`), which takes `gpus`.
    UserError where it cannot be asked at all.
    """
    items = video_items(folder, out)
    name, setup = "", None
    if vlm is not None:
        model = vlm()
        check_connection(model)
        name, setup = model.name, (lambda: model) if runner == "local" else vlm
    stages = clip_stages(rules or ClipRules(), setup, model=name, gpus=gpus)
    return run_graph(stages, items, out, runner=runner, workers=workers, progress=progress)


def clip_stages(
    rules: ClipRules, setup: Callable[[], Vlm] | None = None, *, model: str = "", gpus: float = 0
) -> list[GraphStage]:
    """The graph, in the paper's order; `model` is the VLM's name."""
    from opensama.curation.instructions import describe, meaningful, reword

    stages = [
        GraphStage("basic", partial(check_video, rules=rules)),
        GraphStage("scenes", partial(scenes, frames=rules.frames)),
        GraphStage("motion", partial(moving, low=rules.low_motion, high=rules.high_motion)),
        GraphStage("clips", partial(cut_clips, frames=rules.frames)),
    ]
    if setup is None:
        return [*stages, GraphStage("each", split_clips)]
    return [
        *stages,
        GraphStage("pairs", partial(pair_clips, pairs=rules.pairs, seed=rules.seed)),
        GraphStage("instruction", partial(describe, model=model), setup=setup, cpus=0.25, gpus=gpus),
        GraphStage("verbs", partial(reword, share=rules.rewritten, seed=rules.seed)),
        GraphStage("trivial", meaningful),
    ]


def video_items(folder: Path, out: Path) -> list[GraphItem]:
    """An item for each video file in the folder and those in it, by name."""
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}: give one that has video files in it.")
    made = out.resolve()
    found = [path for path in video_files(folder) if made not in path.resolve().parents]
    if not found:
        raise UserError(
            f"There are no videos in {folder} ({', '.join(VIDEO_SUFFIXES[:4])} and the like): check the name."
        )
    return [
        {
            "id": path.relative_to(folder).as_posix(),
            "kind": "clip",
            "target": os.path.relpath(path.absolute(), out.absolute()),
            "dataset": folder.resolve().name,
            "scores": {},
            "notes": {},
            "_path": str(path.absolute()),
            "_bytes": path.stat().st_size,
        }
        for path in found
    ]


def video_files(folder: Path, suffixes: tuple[str, ...] = VIDEO_SUFFIXES) -> Iterator[Path]:
    """The files of a folder and of those in it that end like videos and are not hidden."""
    for root, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        for name in sorted(names):
            if name.lower().endswith(suffixes) and not name.startswith("."):
                yield Path(root, name)


# --- the stages


def check_video(item: GraphItem, *, rules: ClipRules) -> GraphItem:
    """Drops videos by length, size and frame rate; says what they have."""
    from opensama.media.video_io import read_video

    Record.from_dict(item)  # a name that no manifest can hold is told before any work
    video = read_video(Path(item["_path"]))
    for reason, dropped in (
        ("too short", video.duration < rules.min_seconds),
        ("too long", video.duration > rules.max_seconds),
        ("too small", min(video.width, video.height) < rules.min_side),
        ("too few frames a second", video.fps < rules.min_fps),
        ("too many frames a second", video.fps > rules.max_fps),
    ):
        if dropped:
            raise Drop(reason)
    return item | {"width": video.width, "height": video.height, "fps": round(float(video.fps), 4)}


def cut_clips(item: GraphItem, *, frames: int) -> GraphItem:
    """Scenes of which clips can be cut; what is said of frames is said of a clip from here on."""
    if not item["_clips"]:
        raise Drop("scene shorter than a clip")
    return item | {"frames": frames}


def split_clips(item: GraphItem) -> list[GraphItem]:
    """Every clip of the scene as a record of its own."""
    return [
        item | _stretch("target", clip) | {"id": f"{item['id']}/{number}", "seconds": clip[1] - clip[0]}
        for number, clip in enumerate(item["_clips"])
    ]


def pair_clips(item: GraphItem, *, pairs: int, seed: int) -> list[GraphItem]:
    """Two random clips of the scene: the one is the original, the other stands for an edit of it."""
    clips = item["_clips"]
    if len(clips) < 2:
        raise Drop("scene holds a single clip")
    order = random.Random(f"{seed} {item['id']}").sample(range(len(clips)), len(clips))
    chosen = list(zip(order[0::2], order[1::2], strict=False))[:pairs]
    return [
        item
        | _stretch("source", clips[first])
        | _stretch("target", clips[second])
        | {
            "id": f"{item['id']}/{first}-{second}",
            "kind": "pair",
            "source": item["target"],
            "seconds": clips[second][1] - clips[second][0],
        }
        for first, second in chosen
    ]


def _stretch(side: str, clip: list[float]) -> dict[str, float]:
    return {f"{side}_start": clip[0], f"{side}_end": clip[1]}
