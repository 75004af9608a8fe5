"""Four failures that editors are known for, as numbers, each near its `IDEAL` for the exact answer.

color_drift   how far the colour of the edited region, against the exact answer's, strays between the thirds of the
              clip: the mean distance from its mean over time, in units of CIE L a b (1 is just visible)
sharpness     gradient energy of an added or exchanged object over that of the exact answer: below 1 is blurry
ghost         the share of a removed object that is still there: the projection of what is wrong onto the object
lattice       of a style: steps between neighbouring pixels where the model's cells of 16 pixels meet, over those
              elsewhere, against the same of the exact answer: above 1 the cells show
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from opensama.evaluation.world.likeness import features

IDEAL = {"color_drift": 0.0, "sharpness": 1.0, "ghost": 0.0, "lattice": 1.0}
CELL = 16  # pixels

# One third of a clip: output, right answer and answer without the edit [f 3 h w] in L a b, and the region [f h w].
Seen = tuple[Tensor, Tensor, Tensor, Tensor]


def color_drift(thirds: Sequence[Seen]) -> float:
    strays = torch.stack([_mean(output - right, region) for output, right, _, region in thirds])
    return float((strays - strays.mean(0)).norm(dim=1).mean())


def sharpness(thirds: Sequence[Seen]) -> float:
    own, ideal = (
        sum(float((features(third[i])[:, 3:].square().sum(1) * third[3]).sum()) for third in thirds) for i in (0, 1)
    )
    return own / max(ideal, 1e-6)


def ghost(thirds: Sequence[Seen]) -> float:
    along = sum(float(((o - r) * (b - r) * w[:, None]).sum()) for o, r, b, w in thirds)
    return along / max(sum(float(((b - r).square() * w[:, None]).sum()) for _, r, b, w in thirds), 1e-6)


def lattice(output: Tensor, right: Tensor, cell: int = CELL) -> float:
    """Both [t 3 h w] in 0..1, at the size at which the model worked; 1 where no two cells meet."""
    return _meeting(output, cell) / max(_meeting(right, cell), 1e-6)


def _meeting(frames: Tensor, cell: int) -> float:
    """Mean squared step in lightness across the borders of cells over that between other neighbours."""
    sums, counts = [0.0, 0.0], [0, 0]
    for axis in (-2, -1):
        steps = frames.mean(1).diff(dim=axis).square().transpose(axis, -1)
        border = torch.arange(1, steps.shape[-1] + 1) % cell == 0
        for i, part in enumerate((steps[..., border], steps[..., ~border])):
            sums[i] += float(part.sum())
            counts[i] += part.numel()
    if not counts[0]:
        return 1.0
    return (sums[0] / counts[0]) / max(sums[1] / max(counts[1], 1), 1e-9)


def probe_part(family: str, thirds: Sequence[Seen]) -> dict[str, float]:
    """What can be asked of a part of this family."""
    found = {}
    if family == "remove" and thirds:
        return {"ghost": ghost(thirds)}
    if len(thirds) > 1:
        found["color_drift"] = color_drift(thirds)
    if family in ("add", "replace", "swapped") and thirds:
        found["sharpness"] = sharpness(thirds)
    return found


def _mean(lab: Tensor, region: Tensor) -> Tensor:
    """[f 3 h w] over a region [f h w] -> [3]."""
    return (lab * region[:, None]).sum((0, 2, 3)) / region.sum().clamp_min(1e-6)
