"""Edits drawn: source, exact answer, and the mask of where they differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from opensama.world.edit_planner import plan_edit
from opensama.world.edits import EditPlan
from opensama.world.phrasing import Split
from opensama.world.scenes import TierName
from opensama.world.styled_scenes import render_styled

LEAST_DIFFERENCE = 0.02  # difference of a pixel, of the range from 0 to 1, from which on it is another one


@dataclass
class EditBatch:
    """Drawn edits. Frames [b t 3 h w] float32 in 0..1; mask [b t 1 h w] bool, true where the answer differs."""

    source: Tensor
    target: Tensor
    mask: Tensor


@dataclass
class EditSample:
    """One drawn edit for people: frames as numpy uint8 [t h w 3], mask bool [t h w]."""

    family: str
    instruction: str
    source: np.ndarray
    target: np.ndarray
    mask: np.ndarray
    caption: str
    plan: EditPlan


def render_edits(
    plans: Sequence[EditPlan],
    frames: int = 17,
    height: int = 128,
    width: int = 128,
    device: str | torch.device = "cpu",
    start: int = 0,
) -> EditBatch:
    """Draws source and exact answer; what they share is painted once."""
    both = [*(p.source for p in plans), *(p.target for p in plans)]
    before, after = render_styled(both, frames, height, width, device, start).chunk(2)
    mask = [changed_mask(a, b) for a, b in zip(after, before, strict=True)]
    return EditBatch(before, after, torch.stack(mask))


def to_uint8(frames: Tensor) -> np.ndarray:
    """[... 3 h w] in 0..1 -> [... h w 3] uint8."""
    return (frames.clamp(0, 1) * 255).round().to(torch.uint8).movedim(-3, -1).cpu().numpy()


def changed_mask(a: Tensor, b: Tensor) -> Tensor:
    """Where two clips [... 3 h w] in 0..1 visibly differ, bool [... 1 h w]."""
    return (a - b).abs_().amax(-3, keepdim=True) > LEAST_DIFFERENCE


def sample_edit(
    seed: int | str,
    split: Split = "test",
    family: str | None = None,
    frames: int = 17,
    size: int | tuple[int, int] = 128,
    tier: TierName = "full",
) -> EditSample:
    """One edit, drawn. `size` is the side of a square, or (height, width)."""
    height, width = (size, size) if isinstance(size, int) else size
    return draw_edit(plan_edit(seed, split, family, tier=tier), frames, height, width)


def draw_edit(plan: EditPlan, frames: int, height: int, width: int) -> EditSample:
    """A planned edit, drawn for people."""
    drawn = render_edits([plan], frames, height, width)
    return EditSample(
        plan.family,
        plan.instruction,
        to_uint8(drawn.source[0]),
        to_uint8(drawn.target[0]),
        drawn.mask[0, :, 0].cpu().numpy(),
        plan.caption,
        plan,
    )
