"""What lies in each cell of a drawn target, which a transformer may be asked to say while it learns to draw it.

    cell -> kind, colour, and the object's own frame: the cell's middle in its radii, its radius, its angle

A new object stays a cloud for as long as the cells around it do not know what they are part of, and the loss of pixels
teaches that slowly. The world knows it, so one linear layer on the last block's tokens is trained to tell, along with
all else. Like SAMA's semantic tokens it makes the model plan the edit; unlike these it costs no tokens and is left
behind when training ends.

Letters: `b` samples, `t h w` latent frames, rows, columns, `n` tokens, `d` their width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opensama.world import EditPlan
from opensama.world.kinds import KINDS
from opensama.world.render import stand
from opensama.world.scenes import COLORS, FPS, Scene

LABELS = 7  # kind (0: none, -1: not known), colour, right, down, log of the radius in cells, cosine and sine
_SIDE = 16  # pixels of a cell's side
_AROUND = 6.0  # pixels beyond its radius up to which a cell's middle counts as an object's
_PACE = 10.0  # so that the layer follows the transformer's tokens quickly
_KINDS, _COLORS, _FRAME = len(KINDS) + 1, len(COLORS), 5


def cell_objects(plans: Sequence[EditPlan], frames: int, height: int, width: int) -> Tensor:
    """The labels of the targets' cells, [b LABELS t h w] float32; of cells with several objects the foremost's."""
    times = [0.0] + [(4 * k - 1.5) / FPS for k in range(1, (frames + 3) // 4)]
    return torch.stack([_of_scene(plan.target.scene, times, height, width) for plan in plans])


def _of_scene(scene: Scene, times: Sequence[float], height: int, width: int) -> Tensor:
    unit = math.sqrt(height * width) / 2
    y, x = torch.meshgrid(*(torch.arange(side // _SIDE) * _SIDE + _SIDE / 2 for side in (height, width)), indexing="ij")
    out = torch.zeros(LABELS, len(times), *x.shape)
    for i, seconds in enumerate(times):
        for thing in scene.things:
            right, up, share, angle = stand(thing, scene.camera(seconds), seconds)
            radius = share * unit
            away_x, away_y = x - (right * unit + width / 2), y - (height / 2 - up * unit)
            inside = torch.hypot(away_x, away_y) < radius + _AROUND
            told = KINDS.index(thing.kind) + 1, list(COLORS).index(thing.color), math.log(radius / _SIDE)
            kind, color, size, cos, sin = (torch.full_like(x, v) for v in (*told, math.cos(angle), math.sin(angle)))
            labels = torch.stack((kind, color, away_x / radius, away_y / radius, size, cos, sin))
            out[:, i] = torch.where(inside, labels, out[:, i])
    return out


def unknown_objects(b: int, frames: int, height: int, width: int) -> Tensor:
    """Labels of cells about which nothing is known."""
    return torch.full((b, LABELS, (frames + 3) // 4, height // _SIDE, width // _SIDE), -1.0)


class ObjectTeller(nn.Module):
    """Says from tokens [b n d] what lies in their cells."""

    def __init__(self, d: int):
        super().__init__()
        self.proj = nn.Linear(d, _KINDS + _COLORS + _FRAME)
        nn.init.normal_(self.proj.weight, std=0.01)
        nn.init.zeros_(self.proj.bias)

    def forward(self, tokens: Tensor, labels: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """The loss against labels [b LABELS n], cells counted by `weight` [b n]; and the share of kinds told right."""
        kind, color, frame = self.proj(tokens).float().split((_KINDS, _COLORS, _FRAME), dim=-1)
        there, wanted = (labels[:, 0] > 0) * weight, labels[:, :2].long().clamp_min(0)

        def missed(scores: Tensor, which: int, counted: Tensor) -> Tensor:
            loss = F.cross_entropy(_PACE * scores.transpose(1, 2), wanted[:, which], reduction="none")
            return _mean(loss, counted)

        named = missed(kind, 0, (labels[:, 0] >= 0) * weight) + 0.5 * missed(color, 1, there)
        away = F.smooth_l1_loss(2 * frame, labels[:, 2:].transpose(1, 2), reduction="none").mean(-1)
        right = (kind.detach().argmax(-1) == wanted[:, 0]).float()
        return {"objects": named + 2 * _mean(away, there), "kinds": _mean(right, there)}


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum() / weight.sum().clamp_min(1e-6)
