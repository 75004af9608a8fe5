"""Pictures with the statistics of photographs, made from nothing, for training the autoencoder.

Dead leaves (overlapping discs and boxes whose radii follow a power law) filled with 1/f noise have the edges,
occlusions and spectra of natural images, see Lee, Mumford and Huang, "Occlusion Models for Natural Images" (2001),
and Baradad et al., "Learning to See by Looking at Noise" (2021). Clips are cut from them under a moving camera, one
picture over another, so that motion has occlusion too.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def pink_noise(n: int, side: int, slope: Tensor, generator: torch.Generator) -> Tensor:
    """[n 3 side side] of noise whose amplitude falls as frequency^-slope [n], zero mean, unit variance, mostly grey."""
    fy, fx = torch.fft.fftfreq(side), torch.fft.rfftfreq(side)
    radius = torch.hypot(fy[:, None], fx[None]).clamp_min(1 / side)
    white = torch.randn(n, 3, side, side, generator=generator)
    noise = torch.fft.irfft2(torch.fft.rfft2(white) * radius ** -slope.view(-1, 1, 1, 1), s=(side, side))
    noise = noise - noise.mean((-1, -2), keepdim=True)
    noise = noise / noise.std((-1, -2), keepdim=True)
    grey = noise.mean(1, keepdim=True) * math.sqrt(3)
    return 0.95 * grey + 0.2 * noise


def dead_leaves(n: int, side: int = 192, leaves: int = 120, *, seed: int = 0) -> Tensor:
    """Pictures [n 3 side side] in 0..1 of so many discs and boxes, one over the other."""
    g = torch.Generator().manual_seed(seed)

    def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return torch.rand(*shape, generator=g) * (high - low) + low

    places = torch.linspace(0, 1, side)
    noise = pink_noise(n, side, uniform(n, low=1.0, high=1.8), g)
    picture = 0.5 + 0.2 * uniform(n, 1, 1, 1, low=0.3) * noise
    fill = pink_noise(n, side, uniform(n, low=1.0, high=1.6), g)
    for _ in range(leaves):
        radius = 0.02 / (uniform(n) * (1 - 0.02 / 0.35) + 0.02 / 0.35)  # density ~ r^-2 between 0.02 and 0.35
        cx, cy, angle, stretch = uniform(n), uniform(n), uniform(n, high=math.pi), uniform(n, low=0.4)
        disc, soft = uniform(n) < 0.5, uniform(n, low=0.3, high=2.0)
        light = uniform(n, 1, low=0.03, high=0.97) + 0.28 * (uniform(n, 3) - 0.5) * (uniform(n, 1) * 2)
        shade, grain = uniform(n, low=-0.6, high=0.6), 0.12 * uniform(n)
        shapes = torch.stack((cx, cy, angle.cos(), angle.sin(), radius, stretch, disc, soft, shade, grain), 1)
        for at, shape in enumerate(shapes.tolist()):
            _paint_leaf(picture[at], fill[at], places, light[at], *shape)
    picture = picture + 0.25 * (uniform(n, 1, 1, 1) - 0.5)
    contrast = uniform(n, 1, 1, 1, low=0.6, high=1.3)
    return ((picture - 0.5) * contrast + 0.5).clamp(0, 1)


def _paint_leaf(
    picture: Tensor, fill: Tensor, places: Tensor, light: Tensor, cx: float, cy: float, c: float, s: float,
    radius: float, stretch: float, disc: float, soft: float, shade: float, grain: float
) -> None:  # fmt: skip
    """Paints a disc or a box over a picture [3 side side], in place, where it is: most are small."""
    side = len(places)
    edge = radius + soft / side / 2

    def reach(middle: float, half: float) -> slice:
        return slice(max(0, int((middle - half) * (side - 1))), max(0, math.ceil((middle + half) * (side - 1)) + 1))

    rows = reach(cy, edge * (abs(s) + stretch * abs(c)))
    columns = reach(cx, edge * (abs(c) + stretch * abs(s)))
    dx, dy = places[columns] - cx, places[rows, None] - cy
    u, v = c * dx + s * dy, (c * dy - s * dx) / stretch
    far = torch.hypot(u, v) if disc else torch.maximum(u.abs(), v.abs())
    cover = ((radius - far) * side / soft + 0.5).clamp(0, 1)
    part = picture[:, rows, columns]
    paint = light[:, None, None] + shade * ((u + v) / 2) + grain * fill[:, rows, columns]
    part += (paint - part) * cover


def moving_crops(pictures: Tensor, n: int, t: int, side: int, *, generator: torch.Generator) -> Tensor:
    """[n 3 t side side] in -1..1: clips under a moving, zooming camera, half of them with a second layer in front."""

    def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return torch.rand(*shape, generator=generator) * (high - low) + low

    grid_y, grid_x = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    reach = side / pictures.shape[-1]
    times = torch.arange(t) / 16

    def layer() -> Tensor:
        which = torch.randint(len(pictures), (n,), generator=generator)
        still = (uniform(n, 1) < 0.25).float()
        speed = uniform(n, 1, high=0.9) ** 2 * (1 - still)
        heading = uniform(n, 1, high=math.tau)
        zoom = reach * uniform(n, 1, low=0.7, high=1.5) * (1 + uniform(n, 1, low=-0.3, high=0.3) * times * (1 - still))
        angle = uniform(n, 1, high=math.tau) + uniform(n, 1, low=-0.4, high=0.4) * times * (1 - still)
        cx = uniform(n, 1, low=-1, high=1) * (1 - reach) + heading.cos() * speed * times
        cy = uniform(n, 1, low=-1, high=1) * (1 - reach) + heading.sin() * speed * times
        c, s = (angle.cos() * zoom)[..., None, None], (angle.sin() * zoom)[..., None, None]
        where = torch.stack(
            (c * grid_x - s * grid_y + cx[..., None, None], s * grid_x + c * grid_y + cy[..., None, None]), -1
        )
        out = F.grid_sample(
            pictures[which], where.view(n, t * side, side, 2), padding_mode="reflection", align_corners=False
        )
        return out.view(n, 3, t, side, side)

    behind, front = layer(), layer()
    cx = uniform(n, 1, low=-1, high=1) + uniform(n, 1, low=-1.5, high=1.5) * times
    cy = uniform(n, 1, low=-1, high=1) + uniform(n, 1, low=-1.5, high=1.5) * times
    distance = torch.hypot(grid_x - cx[..., None, None], grid_y - cy[..., None, None])
    radius = uniform(n, 1, 1, 1, low=0.2, high=1.0) * (uniform(n, 1, 1, 1) < 0.5)
    cover = ((radius - distance) * side / 3).clamp(0, 1)[:, None]
    return (behind + (front - behind) * cover) * 2 - 1
