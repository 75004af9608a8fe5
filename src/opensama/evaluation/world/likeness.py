"""How alike two pictures look, region by region, whatever is a little displaced or of a slightly other size.

A frame is seen at a half and at a quarter of its size. At each size a pixel has five numbers: the CIE 1976 colour L a b
(D65; one unit is about what an eye can just tell apart) and the differences of L to its right and lower neighbour:
colour tells what a thing is painted, edges tell its shape.

    distance(o, c, w) = mean over pixels, weighted by w, of the squared difference of these numbers, the sizes averaged

Before comparing, the output may be moved by up to `REACH` of the frame's side and scaled by up to `STRETCH`. The
distance to a candidate is the least over a grid of moves, made finer around each that is best for some candidate, so
that all candidates are tried with the same moves.

Letters: `k` candidates, `m` moves, `f` frames, `c` channels, `h w` pixels. Frames are float RGB in 0..1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

REACH, STRETCH = 0.06, 0.15


def to_lab(rgb: Tensor) -> Tensor:
    """sRGB [... 3 h w] in 0..1 as CIE L a b, [... 3 h w]: L in 0..100."""
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb.clamp_min(0) + 0.055) / 1.055) ** 2.4)
    to_xyz = rgb.new_tensor(  # IEC 61966-2-1, each row divided by the white point
        [
            [0.4124 / 0.9505, 0.3576 / 0.9505, 0.1805 / 0.9505],
            [0.2126, 0.7152, 0.0722],
            [0.0193 / 1.089, 0.1192 / 1.089, 0.9505 / 1.089],
        ]
    )
    xyz = torch.einsum("ij,...jhw->...ihw", to_xyz, linear)
    cube = torch.where(xyz > (6 / 29) ** 3, xyz.clamp_min(1e-6) ** (1 / 3), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = cube.unbind(-3)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), -3)


def half(x: Tensor) -> Tensor:
    """[... h w] at half its size: means of 2x2."""
    return F.avg_pool2d(x.reshape(-1, 1, *x.shape[-2:]), 2).view(*x.shape[:-2], x.shape[-2] // 2, x.shape[-1] // 2)


def features(lab: Tensor) -> Tensor:
    """L a b [... 3 h w] and edges: [... 5 h w]."""
    light = lab[..., :1, :, :]
    across = F.pad(light[..., 1:] - light[..., :-1], (0, 1))
    down = F.pad(light[..., 1:, :] - light[..., :-1, :], (0, 0, 0, 1))
    return torch.cat((lab, across, down), -3)


def structure(lab: Tensor, right: Tensor) -> tuple[float, float, float]:
    """How a view [f 3 h w] has the right one's edges, unmoved, and how far it is from it.

    The correlation of the differences of L between neighbours, their strength over the right one's, and the root of the
    mean squared difference of all five numbers, at this size.
    """
    own, ideal = features(lab), features(right)
    o, r = own[:, 3:], ideal[:, 3:]
    strength = float(o.square().sum().sqrt()), float(r.square().sum().sqrt())
    alike = float((o * r).sum()) / max(strength[0] * strength[1], 1e-6)
    return alike, strength[0] / max(strength[1], 1e-6), float((own - ideal).square().mean().sqrt())


def _grid(reach: float, steps: int, stretch: float) -> Tensor:
    """[m 3] (right, down, scale): 2 * steps + 1 shifts each way, at three scales."""
    line = torch.linspace(-reach, reach, 2 * steps + 1)
    return torch.cartesian_prod(line, line, torch.tensor((-stretch, 0, stretch))) + torch.tensor((0, 0, 1.0))


COARSE = _grid(REACH, 3, STRETCH)
FINE = _grid(REACH / 6, 1, STRETCH / 3) - torch.tensor((0, 0, 1.0))


def finer(moves: Tensor) -> Tensor:
    """The moves around each of `moves` [m 3], none further than the coarse ones."""
    around = (moves[:, None] + FINE).view(-1, 3)
    shift, scale = around[:, :2].clamp(-REACH, REACH), around[:, 2:].clamp(1 - STRETCH, 1 + STRETCH)
    return torch.cat((shift, scale), 1).unique(dim=0)


def moved_views(lab: Tensor, centre: tuple[float, float], how: Tensor, side: float) -> Tensor:
    """`lab` [f 3 h w] after each move about `centre`, (x, y) in its pixels: [m f 3 h w].

    A move (right, down, scale) shows at place p what was at centre + (p - centre - shift) / scale; beyond the picture
    its edge goes on. `side` is the whole frame's, in pixels of `lab`, which may be a part of it.
    """
    f, _, h, w = lab.shape
    m, how = len(how), how.to(lab)
    x = torch.arange(w, device=lab.device) + 0.5 - centre[0]
    y = torch.arange(h, device=lab.device) + 0.5 - centre[1]
    x = centre[0] + (x - how[:, :1] * side) / how[:, 2:]
    y = centre[1] + (y - how[:, 1:2] * side) / how[:, 2:]
    across, down = (2 * x / w - 1)[:, None, :].expand(m, h, w), (2 * y / h - 1)[:, :, None].expand(m, h, w)
    flat = lab.reshape(1, f * 3, h, w).expand(m, -1, -1, -1)  # all frames as channels: one grid serves them
    seen = F.grid_sample(flat, torch.stack((across, down), -1), padding_mode="border", align_corners=False)
    return seen.view(m, f, 3, h, w)


def nearest_distances(
    lab: Tensor, centre: tuple[float, float], side: float, candidates: Tensor, weights: Tensor, free: bool
) -> Tensor:
    """Distances of a view `lab` [f 3 h w] at its best moves about `centre` (or unmoved), see `distances`: [2 k]."""
    if not free:
        return distances(lab[None], candidates, weights)[:, 0]
    coarse = distances(moved_views(lab, centre, COARSE, side), candidates, weights)
    best = COARSE[coarse.argmin(1).unique().cpu()]
    fine = distances(moved_views(lab, centre, finer(best), side), candidates, weights)
    return torch.minimum(coarse.amin(1), fine.amin(1))


def distances(outputs: Tensor, candidates: Tensor, weights: Tensor) -> Tensor:
    """How far each moved output is from the first candidate and from each, in each one's region.

    outputs [m f 3 h w], candidates [k f 3 h w] L a b at half size, weights [k f h w] -> [2 m k]: the distance to
    candidate 0 (the right one) weighted by weights[k], and the distance to candidate k weighted likewise.
    """
    to_right = to_each = torch.zeros((), device=outputs.device)
    for o, c, w in zip(_sizes(outputs), _sizes(candidates), _weights(weights, 5), strict=True):
        own = (o * o) @ w.T  # [m k]
        to_right = to_right + own - 2 * (o @ (w * c[0]).T) + (w * c[0] * c[0]).sum(1)
        to_each = to_each + own - 2 * (o @ (w * c).T) + (w * c * c).sum(1)
    return (torch.stack((to_right, to_each)) / 2).clamp_min(0)


def _sizes(lab: Tensor) -> tuple[Tensor, Tensor]:
    """Features at half and quarter size from L a b at half size, each flat over frames, channels and pixels."""
    return features(lab).flatten(-4), features(half(lab)).flatten(-4)


def _weights(weights: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Weights [k f h w] for `_sizes`, each row of sum one over frames and pixels."""
    flat = []
    for w in (weights, half(weights)):
        w = w / w.sum((1, 2, 3), keepdim=True).clamp_min(1e-6)
        flat.append(w[:, :, None].expand(-1, -1, channels, -1, -1).flatten(1))
    return flat[0], flat[1]
