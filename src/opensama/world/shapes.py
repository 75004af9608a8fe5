"""The objects of the world, drawn by us as signed distance fields, and the table from which they are stamped.

A shape is a pair of fields over the plane (x to the right, y up, the object inside the unit disc): `body` is negative
inside the silhouette, `detail` is negative where the second shade goes (a window, an eye). `atlas()` samples all of
them once into a small texture; rendering then is one bilinear lookup an object, on any device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

EXTENT = 1.3  # the atlas covers [-EXTENT, EXTENT] in both directions
NOWHERE = 9.0  # a distance that paints nothing

Field = tuple[Tensor, Tensor]  # body, detail


def circle(x: Tensor, y: Tensor, cx: float, cy: float, r: float) -> Tensor:
    return torch.hypot(x - cx, y - cy) - r


def ellipse(x: Tensor, y: Tensor, cx: float, cy: float, a: float, b: float) -> Tensor:
    """Close to the distance near the rim, which is where it is looked at."""
    k = torch.hypot((x - cx) / a, (y - cy) / b)
    slope = torch.hypot((x - cx) / a**2, (y - cy) / b**2).clamp_min(1e-3)
    return k * (k - 1) / slope


def box(x: Tensor, y: Tensor, cx: float, cy: float, hx: float, hy: float, r: float = 0.0) -> Tensor:
    dx, dy = (x - cx).abs() - hx + r, (y - cy).abs() - hy + r
    return torch.hypot(dx.clamp_min(0), dy.clamp_min(0)) + torch.maximum(dx, dy).clamp_max(0) - r


def capsule(x: Tensor, y: Tensor, x0: float, y0: float, x1: float, y1: float, r: float) -> Tensor:
    dx, dy = x1 - x0, y1 - y0
    along = (((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy)).clamp(0, 1)
    return torch.hypot(x - x0 - along * dx, y - y0 - along * dy) - r


def polygon(x: Tensor, y: Tensor, *corners: tuple[float, float]) -> Tensor:
    """Exact distance to a simple polygon; inside by the even-odd rule."""
    nearest = torch.full_like(x, NOWHERE)
    inside = torch.zeros_like(x, dtype=torch.bool)
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        nearest = torch.minimum(nearest, capsule(x, y, x0, y0, x1, y1, 0.0))
        if y0 != y1:
            inside ^= ((y0 > y) != (y1 > y)) & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return torch.where(inside, -nearest, nearest)


def union(*fields: Tensor) -> Tensor:
    return torch.stack(fields).amin(0)


def cut(field: Tensor, *holes: Tensor) -> Tensor:
    return torch.maximum(field, -union(*holes))


def _ball(x: Tensor, y: Tensor) -> Field:
    body = circle(x, y, 0, 0, 0.85)
    return body, torch.maximum(body, (y - 0.35 * x).abs() - 0.14)


def _box(x: Tensor, y: Tensor) -> Field:
    bands = union(box(x, y, 0, 0, 0.13, 0.8), box(x, y, 0, 0, 0.8, 0.13))
    return box(x, y, 0, 0, 0.8, 0.8, 0.05), bands


def _star(x: Tensor, y: Tensor) -> Field:
    corners = [(r * math.sin(i * math.pi / 5), r * math.cos(i * math.pi / 5)) for i, r in enumerate([0.98, 0.42] * 5)]
    return polygon(x, y, *corners), circle(x, y, 0, 0, 0.16)


def _heart(x: Tensor, y: Tensor) -> Field:
    lobes = union(circle(x, y, -0.4, 0.35, 0.47), circle(x, y, 0.4, 0.35, 0.47))
    tip = polygon(x, y, (-0.8, 0.12), (0.8, 0.12), (0.0, -0.92))
    return union(lobes, tip, box(x, y, 0, 0.2, 0.4, 0.3)), circle(x, y, -0.42, 0.42, 0.15)


def _tree(x: Tensor, y: Tensor) -> Field:
    trunk = box(x, y, 0, -0.72, 0.13, 0.26)
    crown = union(
        polygon(x, y, (-0.72, -0.5), (0.72, -0.5), (0, 0.35)), polygon(x, y, (-0.52, 0.0), (0.52, 0.0), (0, 0.98))
    )
    return union(trunk, crown), trunk


def _house(x: Tensor, y: Tensor) -> Field:
    roof = polygon(x, y, (-0.95, 0.1), (0.95, 0.1), (0, 0.92))
    door = union(box(x, y, -0.25, -0.6, 0.17, 0.3), box(x, y, 0.35, -0.3, 0.16, 0.16))
    return union(roof, box(x, y, 0, -0.4, 0.7, 0.52)), door


def _car(x: Tensor, y: Tensor) -> Field:
    wheels = union(circle(x, y, -0.5, -0.42, 0.24), circle(x, y, 0.5, -0.42, 0.24))
    cabin = polygon(x, y, (-0.62, 0.0), (-0.38, 0.5), (0.3, 0.5), (0.58, 0.0))
    window = polygon(x, y, (-0.42, 0.05), (-0.27, 0.37), (0.22, 0.37), (0.38, 0.05))
    return union(box(x, y, 0, -0.17, 0.96, 0.25, 0.12), cabin, wheels), union(window, wheels)


def _fish(x: Tensor, y: Tensor) -> Field:
    tail = polygon(x, y, (0.4, 0.0), (0.98, 0.5), (0.86, 0.0), (0.98, -0.5))
    return union(ellipse(x, y, -0.2, 0, 0.75, 0.45), tail), circle(x, y, -0.55, 0.12, 0.11)


def _boat(x: Tensor, y: Tensor) -> Field:
    hull = polygon(x, y, (-0.95, -0.3), (0.95, -0.3), (0.6, -0.8), (-0.6, -0.8))
    sail = union(polygon(x, y, (0.02, -0.2), (0.02, 0.95), (0.75, -0.2)), box(x, y, -0.03, 0.2, 0.05, 0.75))
    return union(hull, sail, polygon(x, y, (-0.12, -0.2), (-0.12, 0.6), (-0.65, -0.2))), hull


def _cup(x: Tensor, y: Tensor) -> Field:
    handle = cut(circle(x, y, 0.52, 0.05, 0.4), circle(x, y, 0.52, 0.05, 0.22))
    body = polygon(x, y, (-0.78, 0.75), (0.5, 0.75), (0.36, -0.8), (-0.64, -0.8))
    return union(body, handle), torch.maximum(body, (y - 0.5).abs() - 0.13)


def _flower(x: Tensor, y: Tensor) -> Field:
    turns = [(0.64 * math.sin(i * math.tau / 5), 0.64 * math.cos(i * math.tau / 5)) for i in range(5)]
    petals = [circle(x, y, px, py, 0.3) for px, py in turns]
    middle = circle(x, y, 0, 0, 0.38)
    return union(middle, *petals), circle(x, y, 0, 0, 0.25)


def _mushroom(x: Tensor, y: Tensor) -> Field:
    cap = torch.maximum(ellipse(x, y, 0, 0.0, 0.92, 0.85), -y)
    stem = box(x, y, 0, -0.45, 0.26, 0.5, 0.12)
    dots = union(circle(x, y, -0.4, 0.3, 0.15), circle(x, y, 0.12, 0.55, 0.15), circle(x, y, 0.5, 0.22, 0.13))
    return union(cap, stem), dots


def _rocket(x: Tensor, y: Tensor) -> Field:
    hull = torch.maximum(circle(x, y, -0.75, -0.1, 1.12), circle(x, y, 0.75, -0.1, 1.12))
    fins = polygon(x, y, (-0.7, -0.95), (-0.3, -0.1), (0.3, -0.1), (0.7, -0.95), (0, -0.55))
    return union(torch.maximum(hull, -0.8 - y), fins), circle(x, y, 0, 0.18, 0.15)


def _moon(x: Tensor, y: Tensor) -> Field:
    body = cut(circle(x, y, 0, 0, 0.9), circle(x, y, 0.48, 0.18, 0.72))
    return body, circle(x, y, -0.55, -0.2, 0.13)


def _umbrella(x: Tensor, y: Tensor) -> Field:
    cover = torch.maximum(circle(x, y, 0, -0.02, 0.95), -y)
    scallops = union(*(circle(x, y, cx, -0.02, 0.19) for cx in (-0.64, -0.21, 0.21, 0.64)))
    hook = torch.maximum(circle(x, y, 0.17, -0.72, 0.2).abs() - 0.06, y + 0.72)
    pole = union(box(x, y, 0, -0.25, 0.055, 0.5), hook)
    return union(cut(cover, scallops), pole), torch.maximum(cover, x.abs() - 0.1)


def _bird(x: Tensor, y: Tensor) -> Field:
    wing = polygon(x, y, (-0.25, 0.1), (0.4, 0.1), (0.62, 0.85))
    tail = polygon(x, y, (0.4, 0.0), (1.0, 0.05), (0.9, -0.3), (0.4, -0.3))
    head = union(circle(x, y, -0.58, 0.28, 0.27), polygon(x, y, (-0.78, 0.38), (-1.02, 0.2), (-0.78, 0.16)))
    return union(ellipse(x, y, -0.05, -0.15, 0.66, 0.36), wing, tail, head), circle(x, y, -0.62, 0.33, 0.09)


SHAPES: dict[str, Callable[[Tensor, Tensor], Field]] = {
    "ball": _ball,
    "box": _box,
    "star": _star,
    "heart": _heart,
    "tree": _tree,
    "house": _house,
    "car": _car,
    "fish": _fish,
    "boat": _boat,
    "cup": _cup,
    "flower": _flower,
    "mushroom": _mushroom,
    "rocket": _rocket,
    "moon": _moon,
    "umbrella": _umbrella,
    "bird": _bird,
}
KINDS = tuple(SHAPES)


@lru_cache(maxsize=4)
def atlas(device: str = "cpu", side: int = 96) -> Tensor:
    """All shapes as a texture: [kind, (body, detail), side, side], first row at the top, distances in object radii."""
    step = torch.linspace(-EXTENT, EXTENT, side, dtype=torch.float64)
    y, x = torch.meshgrid(-step, step, indexing="ij")
    return torch.stack([torch.stack(shape(x, y)) for shape in SHAPES.values()]).float().to(device)
