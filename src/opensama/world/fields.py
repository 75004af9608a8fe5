"""Signed distance fields over the plane (x to the right, y up): negative inside, positive outside.

From these few pieces all of the world is drawn: objects (`kinds`), accessories (`wearables`), letters (`letters`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import pairwise

import torch
from torch import Tensor

EXTENT = 1.3  # what tables of fields cover, to all sides
NOWHERE = 9.0  # a distance that paints nothing

Field = tuple[Tensor, Tensor]  # body (the silhouette), detail (where the second shade goes: a window, an eye)
Drawing = Callable[[Tensor, Tensor], Field]
Point = tuple[float, float]


def circle(x: Tensor, y: Tensor, cx: float, cy: float, r: float) -> Tensor:
    """A disc of radius r about (cx, cy)."""
    return torch.hypot(x - cx, y - cy) - r


def ellipse(x: Tensor, y: Tensor, cx: float, cy: float, a: float, b: float) -> Tensor:
    """Close to the distance near the rim, which is where it is looked at."""
    k = torch.hypot((x - cx) / a, (y - cy) / b)
    slope = torch.hypot((x - cx) / a**2, (y - cy) / b**2).clamp_min(1e-3)
    return k * (k - 1) / slope


def box(x: Tensor, y: Tensor, cx: float, cy: float, hx: float, hy: float, r: float = 0.0) -> Tensor:
    """A rectangle of half-sides hx, hy whose corners are rounded by r."""
    dx, dy = (x - cx).abs() - hx + r, (y - cy).abs() - hy + r
    return torch.hypot(dx.clamp_min(0), dy.clamp_min(0)) + torch.maximum(dx, dy).clamp_max(0) - r


def capsule(x: Tensor, y: Tensor, x0: float, y0: float, x1: float, y1: float, r: float) -> Tensor:
    """A line from (x0, y0) to (x1, y1) of half-width r with round ends."""
    dx, dy = x1 - x0, y1 - y0
    along = (((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy)).clamp(0, 1)
    return torch.hypot(x - x0 - along * dx, y - y0 - along * dy) - r


def path(x: Tensor, y: Tensor, r: float, *points: Point) -> Tensor:
    """A line of half-width r through the points."""
    return union(*(capsule(x, y, *a, *b, r) for a, b in pairwise(points)))


def ring(x: Tensor, y: Tensor, cx: float, cy: float, radius: float, r: float) -> Tensor:
    """A circle of that radius, drawn with half-width r."""
    return circle(x, y, cx, cy, radius).abs() - r


def arc(
    x: Tensor, y: Tensor, cx: float, cy: float, a: float, b: float, start: float, end: float, r: float, steps: int = 14
) -> Tensor:
    """A stroke of half-width r along an ellipse with half-axes a, b, from `start` to `end` degrees (0 right, 90 up)."""
    angles = [math.radians(start + (end - start) * i / steps) for i in range(steps + 1)]
    return path(x, y, r, *((cx + a * math.cos(t), cy + b * math.sin(t)) for t in angles))


def polygon(x: Tensor, y: Tensor, *corners: Point) -> Tensor:
    """Exact distance to a simple polygon; inside by the even-odd rule."""
    nearest = torch.full_like(x, NOWHERE)
    inside = torch.zeros_like(x, dtype=torch.bool)
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        nearest = torch.minimum(nearest, capsule(x, y, x0, y0, x1, y1, 0.0))
        if y0 != y1:
            inside ^= ((y0 > y) != (y1 > y)) & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return torch.where(inside, -nearest, nearest)


def union(*fields: Tensor) -> Tensor:
    """What is inside any of them."""
    return torch.stack(fields).amin(0)


def subtract(field: Tensor, *holes: Tensor) -> Tensor:
    """What is inside the field and in none of the holes."""
    return torch.maximum(field, -union(*holes))


def turned(x: Tensor, y: Tensor, degrees: float) -> tuple[Tensor, Tensor]:
    """Coordinates in which what is drawn upright appears turned to the left (counter-clockwise)."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return cos * x + sin * y, cos * y - sin * x


def plane(width: float, height: float, columns: int, rows: int) -> tuple[Tensor, Tensor]:
    """x and y of a grid over [-width, width] x [-height, height], the first row at the top: two [rows, columns]."""
    across = torch.linspace(-width, width, columns, dtype=torch.float64)
    down = torch.linspace(height, -height, rows, dtype=torch.float64)
    y, x = torch.meshgrid(down, across, indexing="ij")
    return x, y


def field_table(drawings: Iterable[Drawing], side: int = 96) -> Tensor:
    """[drawing, (body, detail), side, side] over +-EXTENT, first row at the top, distances in radii: rendering is then
    one bilinear lookup an object."""
    x, y = plane(EXTENT, EXTENT, side, side)
    return torch.stack([torch.stack(draw(x, y)) for draw in drawings]).float()
