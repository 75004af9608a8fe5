"""What the drawn world gives to train on: edits, clips under pretext tasks, and unpaired clips, with their texts.

    drawn = DRAWS["core"](names, DrawSettings(frames=17))      pixels and texts, the same for the same names

Letters: `b` samples, `t h w` frames, rows, columns of pixels in [0, 1].
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from opensama.data.samples import seed_of
from opensama.pretext import PAPER_SHARES, CubeInpainting, Mixture, SpeedPerturbation
from opensama.training.cell_objects import cell_objects, unknown_objects
from opensama.training.footage import styled_footage
from opensama.world import TIERS, EditBatch, EditPlan, TierName, plan_edit, render_edits, render_styled
from opensama.world.edit_samples import changed_mask
from opensama.world.phrasing import Split
from opensama.world.unpaired import plan_unpaired, render_unpaired

# Shares of the families, harder ones more often; an absent object teaches to leave a video alone.
_FULL_SHARES: dict[str, float] = {
    "replace": 15, "add": 14, "remove": 10, "recolor": 9, "retexture": 8, "accessory": 10, "background": 8,
    "style": 10, "text": 7, "obscure": 5, "two": 6, "absent": 4, "swapped": 4,
}  # fmt: skip
_CORE_SHARES: dict[str, float] = {
    "replace": 24, "add": 20, "remove": 13, "recolor": 13, "background": 9, "style": 12, "absent": 4, "swapped": 5,
}  # fmt: skip
TIER_SHARES: dict[TierName, dict[str, float]] = {"core": _CORE_SHARES, "full": _FULL_SHARES}
FILMED = 0.08  # of the core's samples are styles on what looks like footage

PRETEXT = Mixture(PAPER_SHARES, [CubeInpainting(black=0.0), SpeedPerturbation(whole=True)])
"""The paper's tasks for short clips with pixels in 0..1: of 17 frames speed perturbation leaves 9, where else 5."""


class DrawSettings(NamedTuple):
    """How samples are drawn: from which split of the world, how long, how large, where, and whether with `objects`."""

    split: Split = "train"
    frames: int = 1
    height: int = 128
    width: int = 128
    device: torch.device = torch.device("cpu")
    objects: bool = False

    @property
    def shape(self) -> tuple[int, int, int, torch.device]:
        """Frames, height, width and device, as the world's renderers take them."""
        return self.frames, self.height, self.width, self.device


class Drawn(NamedTuple):
    """Pixels of some samples [b t 3 h w], their texts, and where the edits' targets have some, captions of these.

    `objects` is what lies in the targets' cells (`cell_objects.py`), of edits where it is asked for.
    """

    pictures: EditBatch
    texts: list[str]
    captions: list[str] | None = None
    objects: Tensor | None = None


Draw = Callable[[Sequence[str], DrawSettings], Drawn]
"""The samples that some names stand for, the same for the same names."""


def draw_edits(names: Sequence[str], how: DrawSettings) -> Drawn:
    """Edits of the whole world and their instructions."""
    return _of_plans([draw_plan(name, how.split) for name in names], how)


def draw_core(
    names: Sequence[str], how: DrawSettings, full_share: float = 0.0, shares: Mapping[str, float] | None = None
) -> Drawn:
    """Edits of the world's core, styles on what looks like footage, and edits of the whole world, each at its name.

    `shares` of the core's families take the place of the tier's own.
    """
    core: Draw = partial(_draw_core_alone, shares=shares)

    def draw_for(name: str) -> Draw:
        if random.Random(f"filmed/{name}").random() < FILMED:
            return draw_footage
        return draw_edits if random.Random(f"full/{name}").random() < full_share else core

    chosen = [draw_for(name) for name in names]
    draws = [draw for draw in (core, draw_footage, draw_edits) if draw in chosen]
    apart = [[name for name, its in zip(names, chosen, strict=True) if its is draw] for draw in draws]
    pictures, texts, captions, objects = join_drawn([draw(some, how) for draw, some in zip(draws, apart, strict=True)])
    assert captions is not None
    at = {name: i for i, name in enumerate(name for some in apart for name in some)}
    order = [at[name] for name in names]
    sides = (side[order] for side in (pictures.source, pictures.target, pictures.mask))
    told = None if objects is None else objects[order]
    return Drawn(EditBatch(*sides), [texts[i] for i in order], [captions[i] for i in order], told)


def _draw_core_alone(names: Sequence[str], how: DrawSettings, shares: Mapping[str, float] | None) -> Drawn:
    return _of_plans([draw_plan(name, how.split, "core", shares) for name in names], how)


def join_drawn(parts: Sequence[Drawn]) -> Drawn:
    """Captioned samples of one part after those of the other."""
    sides = ("source", "target", "mask")
    pictures = EditBatch(*(torch.cat([getattr(part.pictures, side) for part in parts]) for side in sides))
    captions = [caption for part in parts for caption in part.captions or ()]
    known = [part.objects for part in parts if part.objects is not None]
    objects = torch.cat(known) if len(known) == len(parts) else None
    return Drawn(pictures, [text for part in parts for text in part.texts], captions, objects)


def draw_in_turn(names: Sequence[str], how: DrawSettings, tier: TierName) -> Drawn:
    """Edits of the tier's families in turn, by the numbers that the names end with."""
    families = TIERS[tier].families
    numbers = [int(name.rsplit("-", 1)[1]) for name in names]
    plans = [plan_edit(n // len(families), how.split, families[n % len(families)], tier=tier) for n in numbers]
    return _of_plans(plans, how)


DRAWS: dict[TierName, Draw] = {"core": draw_core, "full": draw_edits}


def draw_clips(names: Sequence[str], how: DrawSettings) -> Drawn:
    """Clips as targets, each with a source that a task of `PRETEXT` corrupted, under the task's prompt and a caption.

    The clip is one side of an edit, so that it may have a style. A source that the task made shorter stands still at
    its end, as long as the target (ours: the model's gate mixes the two cell by cell). What counts as changed is where
    they differ, as with edits: the hidden frames, the misplaced tubes, what moved; most of a clip is else a copy.
    """
    plans = [draw_plan(name, how.split) for name in names]
    looks = [plan.target if seed_of("side", name) % 2 else plan.source for plan, name in zip(plans, names, strict=True)]
    target = render_styled(looks, *how.shape)
    tasks = [PRETEXT.apply(v.transpose(0, 1), seed_of("task", name)) for v, name in zip(target, names, strict=True)]
    source = torch.stack([hold_last_frame(task.source, how.frames).transpose(0, 1) for task in tasks])
    texts = [task.prefix + look.caption for task, look in zip(tasks, looks, strict=True)]
    return Drawn(EditBatch(source, target, changed_mask(source, target)), texts)


def draw_unpaired(names: Sequence[str], how: DrawSettings) -> Drawn:
    """Two clips of one scene each, and what would lead from the first to the second. Changed is where they differ."""
    plans = [plan_unpaired(name, how.split) for name in names]
    source, target = render_unpaired(plans, *how.shape)
    return Drawn(EditBatch(source, target, changed_mask(source, target)), [plan.instruction for plan in plans])


def draw_plan(
    name: str, split: Split = "train", tier: TierName = "full", shares: Mapping[str, float] | None = None
) -> EditPlan:
    """One edit of a family drawn by `shares`, or the tier's own; the same for the same name."""
    shares = shares or TIER_SHARES[tier]
    family = random.Random(name).choices(tuple(shares), tuple(shares.values()))[0]
    return plan_edit(name, split, family, tier=tier)


def _of_plans(plans: Sequence[EditPlan], how: DrawSettings) -> Drawn:
    pictures = render_edits(plans, *how.shape)
    objects = cell_objects(plans, how.frames, how.height, how.width) if how.objects else None
    return Drawn(pictures, [plan.instruction for plan in plans], [plan.caption for plan in plans], objects)


def draw_footage(names: Sequence[str], how: DrawSettings) -> Drawn:
    """Styles on what looks like footage, drawn from textures."""
    *clips, texts, captions = styled_footage(names, how.split, how.frames, how.height, how.width)
    source, target, mask = (clip.to(how.device) for clip in clips)
    objects = unknown_objects(len(texts), how.frames, how.height, how.width) if how.objects else None
    return Drawn(EditBatch(source, target, mask), texts, captions, objects)


def hold_last_frame(video: Tensor, frames: int) -> Tensor:
    """A video [c t h w] made so many frames long by holding its last one."""
    return torch.cat((video, video[:, -1:].expand(-1, frames - video.shape[1], -1, -1)), 1)
