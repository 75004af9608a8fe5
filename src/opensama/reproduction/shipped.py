"""The embedded model where the paper says that SAMA is weak: fast motion, long clips, scenes unlike the training world.

    as trained     edits of the world's test split whose objects move slowly
    fast motion    the same families, the edited object (or the camera) moving quickly
    long           the scenes of "as trained", 49 frames instead of 17: three windows, where the budget says no other
    unlike         before textures that no scene of the world has: dead leaves, see `training.textures`

Beside success, the probes of the paper's failures: colour that changes over time, blurred additions, ghosts.
"""

from __future__ import annotations

import itertools
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from opensama.evaluation.world.answer_key import Through
from opensama.evaluation.world.report import Edit, edit_frames
from opensama.evaluation.world.scores import answer_key, score_output, summarise_scores
from opensama.training.textures import dead_leaves
from opensama.world import EditPlan, plan_edit, to_uint8
from opensama.world.edit_samples import draw_edit
from opensama.world.scenes import FPS, Scene, Thing
from opensama.world.styled_scenes import Swap

_log = logging.getLogger(__name__)
PROBED_FAMILIES = ("style", "background", "obscure", "remove")
"""Those that the embedded model does at all; what it cannot do standing it cannot do running. Smaller parts last."""
SLOW, FAST = 0.012, 0.03  # half-heights a frame


def screen_speed(thing: Thing, scene: Scene, frames: int = 17) -> float:
    """How far an object moves on the screen from frame to frame on average, in half-heights."""
    places = []
    for frame in range(frames):
        s = frame / FPS
        camera = scene.camera(s)
        x, y = thing.x + thing.along_x.at(s) - camera.x, thing.y + thing.along_y.at(s) - camera.y
        places.append((x * camera.zoom, y * camera.zoom))
    return float(np.mean([np.hypot(a[0] - b[0], a[1] - b[1]) for a, b in itertools.pairwise(places)]))


def pace(plan: EditPlan) -> float:
    """The speed of what is edited; of the quickest object where it is the whole frame."""
    scene = plan.source.scene
    edited = [p.change.old for p in plan.parts if isinstance(p.change, Swap) and p.change.old is not None]
    return max((screen_speed(thing, scene) for thing in edited or scene.things), default=0.0)


def chosen(family: str, n: int, fits: Callable[[EditPlan], bool], photos: list[Path] | None = None) -> list[EditPlan]:
    """The first `n` edits of a family, in order of their seeds, that fit."""
    plans: Iterator[EditPlan] = (plan_edit(f"shipped-{i}", "test", family, photos) for i in itertools.count())
    return list(itertools.islice((plan for plan in plans if fits(plan)), n))


def conditions(
    n: int, frames: int, long: int, folder: Path, families: Sequence[str]
) -> dict[str, tuple[int, list[EditPlan]]]:
    """Frames and edits of each condition, `n` of each family."""
    folder.mkdir(parents=True, exist_ok=True)
    textures = [folder / f"texture-{i}.png" for i in range(8)]
    for file, texture in zip(textures, dead_leaves(8, 256, seed=9), strict=True):
        Image.fromarray(to_uint8(texture)).save(file)

    def each(fits: Callable[[EditPlan], bool], photos: list[Path] | None = None) -> list[EditPlan]:
        return [plan for family in families for plan in chosen(family, n, fits, photos)]

    calm = each(lambda plan: pace(plan) < SLOW)
    unlike = each(lambda plan: plan.source.scene.photo is not None and pace(plan) < SLOW, textures)
    return {
        "as trained": (frames, calm),
        "fast motion": (frames, each(lambda plan: pace(plan) > FAST)),
        "long": (long, calm),
        "unlike": (frames, unlike),
    }


def probe_shipped(
    edit: Edit, through: Through, n: int, frames: int, long: int, families: int
) -> dict[str, dict[str, object]]:
    """Scores of every condition, `n` edits of each of the last `families`; long ones have `long` frames."""
    out: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for name, (count, plans) in conditions(n, frames, long, Path(folder), PROBED_FAMILIES[-families:]).items():
            rows = []
            for plan in plans:
                sample = draw_edit(plan, count, 128, 128)
                output = edit_frames(edit, sample.source, sample.instruction)
                rows.append(score_output(sample, output, answer_key(sample, through)))
            scores = summarise_scores(rows)
            out[name] = {**scores, "frames": count}
            _log.info("the embedded model, %s: %.0f %% of %d", name, 100 * scores["success"], len(rows))
    return out
