"""Styles done wrong in ways that an eye sees at once: their colours without their structure, or part of them.

    tint      the source under the affine map of its colours that is nearest to the style
    plain     snow without flakes, rain without streaks
    border    the style in a margin around the frame alone, the tint within it
    blurred   the style out of focus

Frames are float RGB [t 3 h w] in 0..1, lengths in parts of the frame's side.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from opensama.world.styles import WITHOUT_PARTICLES


def tint(source: Tensor, answer: Tensor) -> Tensor:
    """`source` with each colour c as A c + b, the A and b for which it is nearest to `answer` over the whole clip."""
    colors = torch.cat((source, torch.ones_like(source[:, :1])), 1).movedim(1, -1).flatten(0, 2)
    wanted = answer.movedim(1, -1).flatten(0, 2)
    ridge = 1e-4 * len(colors) * torch.eye(4)
    found = torch.linalg.solve(colors.T @ colors + ridge, colors.T @ wanted)
    return (colors @ found).view(len(source), *source.shape[2:], 3).movedim(-1, 1).clamp(0, 1)


def without_particles(style: str, source: Tensor) -> Tensor | None:
    """A weather's light without what falls; None for any other style."""
    return WITHOUT_PARTICLES[style](source) if style in WITHOUT_PARTICLES else None


def border(inside: Tensor, answer: Tensor, width: float) -> Tensor:
    """`answer` in a margin of that width, `inside` within it."""
    h, w = answer.shape[-2:]
    margin = max(1, round(width * math.sqrt(h * w)))
    out = answer.clone()
    out[..., margin : h - margin, margin : w - margin] = inside[..., margin : h - margin, margin : w - margin]
    return out


def blurred(answer: Tensor, reach: float) -> Tensor:
    """Two box means, close to a Gaussian whose deviation is about four fifths of `reach`."""
    r = max(1, round(reach * math.sqrt(answer.shape[-1] * answer.shape[-2])))
    for _ in range(2):
        answer = F.avg_pool2d(F.pad(answer, (r, r, r, r), mode="replicate"), 2 * r + 1, 1)
    return answer
