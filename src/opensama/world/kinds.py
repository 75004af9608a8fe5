"""The 32 kinds of objects, drawn by us as distance fields.

A kind is a pair of fields over the plane (x to the right, y up, the object inside the unit disc): `body` is negative
inside the silhouette, `detail` is negative where the second shade goes (a window, an eye). Silhouettes differ: centred,
scaled to one area and turned a little to fit, no two of them overlap by more than 0.7 (`overlaps`).
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from opensama.world.fields import (
    Drawing,
    Field,
    arc,
    box,
    capsule,
    circle,
    ellipse,
    field_table,
    path,
    plane,
    polygon,
    ring,
    subtract,
    turned,
    union,
)


def _ball(x: Tensor, y: Tensor) -> Field:
    body = circle(x, y, 0, 0, 0.85)
    return body, torch.maximum(body, (y - 0.35 * x).abs() - 0.14)


def _box(x: Tensor, y: Tensor) -> Field:
    """A carton, open at the top."""
    front = box(x, y, 0, -0.3, 0.72, 0.45, 0.04)
    flaps = union(
        polygon(x, y, (-0.72, 0.13), (-0.97, 0.5), (-0.8, 0.62), (-0.5, 0.13)),
        polygon(x, y, (0.72, 0.13), (0.97, 0.5), (0.8, 0.62), (0.5, 0.13)),
    )
    return union(front, flaps), union(flaps, box(x, y, 0, -0.3, 0.13, 0.45))


def _star(x: Tensor, y: Tensor) -> Field:
    corners = [(r * math.sin(i * math.pi / 5), r * math.cos(i * math.pi / 5)) for i, r in enumerate([0.98, 0.4] * 5)]
    return polygon(x, y, *corners), circle(x, y, 0, 0, 0.16)


def _heart(x: Tensor, y: Tensor) -> Field:
    side = x.abs()
    body = union(circle(side, y, 0.5, 0.44, 0.44), polygon(side, y, (0, 0.3), (0.3, 0.5), (0.9, 0.25), (0, -0.98)))
    return body, circle(x, y, -0.52, 0.5, 0.16)


def _tree(x: Tensor, y: Tensor) -> Field:
    trunk = box(x, y, 0, -0.74, 0.13, 0.24)
    crown = union(
        polygon(x, y, (-0.72, -0.5), (0.72, -0.5), (0, 0.35)), polygon(x, y, (-0.52, 0.0), (0.52, 0.0), (0, 0.98))
    )
    return union(trunk, crown), trunk


def _house(x: Tensor, y: Tensor) -> Field:
    x, y = 1.07 * x, 1.07 * y
    roof = polygon(x, y, (-0.98, 0.0), (0.98, 0.0), (0.0, 0.72))
    chimney = box(x, y, 0.56, 0.58, 0.13, 0.38)
    door, window = box(x, y, -0.28, -0.7, 0.22, 0.42), box(x, y, 0.35, -0.34, 0.18, 0.16)
    return union(roof, chimney, subtract(box(x, y, 0, -0.45, 0.74, 0.5), door, window)), union(roof, chimney)


def _car(x: Tensor, y: Tensor) -> Field:
    wheels = union(circle(x, y, -0.5, -0.42, 0.24), circle(x, y, 0.5, -0.42, 0.24))
    cabin = polygon(x, y, (-0.62, 0.0), (-0.38, 0.5), (0.3, 0.5), (0.58, 0.0))
    window = polygon(x, y, (-0.42, 0.05), (-0.27, 0.37), (0.22, 0.37), (0.38, 0.05))
    return union(box(x, y, 0, -0.17, 0.96, 0.25, 0.12), cabin, wheels), union(window, wheels)


def _fish(x: Tensor, y: Tensor) -> Field:
    x, y = 1.05 * x, 1.05 * y
    tail = polygon(x, y, (0.3, 0.0), (0.98, 0.66), (0.76, 0.0), (0.98, -0.66))
    fin = polygon(x, y, (-0.5, 0.35), (0.2, 0.74), (0.1, 0.3))
    return union(ellipse(x, y, -0.27, -0.02, 0.71, 0.44), tail, fin), union(circle(x, y, -0.62, 0.08, 0.11), tail)


def _boat(x: Tensor, y: Tensor) -> Field:
    hull = polygon(x, y, (-0.95, -0.3), (0.95, -0.3), (0.6, -0.8), (-0.6, -0.8))
    sail = union(polygon(x, y, (0.02, -0.2), (0.02, 0.95), (0.75, -0.2)), box(x, y, -0.03, 0.2, 0.05, 0.75))
    return union(hull, sail, polygon(x, y, (-0.12, -0.2), (-0.12, 0.6), (-0.65, -0.2))), hull


def _cup(x: Tensor, y: Tensor) -> Field:
    x, y = 1.06 * x, 1.06 * y
    handle = ring(x, y, 0.32, 0.0, 0.5, 0.12)
    body = polygon(x, y, (-0.88, 0.8), (0.26, 0.8), (0.1, -0.8), (-0.72, -0.8))
    return union(body, torch.maximum(handle, 0.1 - x)), torch.maximum(body, (y - 0.5).abs() - 0.13)


def _flower(x: Tensor, y: Tensor) -> Field:
    turns = [(0.33 * math.sin(i * math.tau / 5), 0.45 + 0.33 * math.cos(i * math.tau / 5)) for i in range(5)]
    petals = [circle(x, y, px, py, 0.2) for px, py in turns]
    middle = circle(x, y, 0, 0.45, 0.24)
    leaves = union(
        polygon(x, y, (0, -0.85), (0.55, -0.3), (0.5, -0.7)), polygon(x, y, (0, -0.85), (-0.55, -0.3), (-0.5, -0.7))
    )
    stem = union(capsule(x, y, 0, 0.3, 0, -0.9, 0.08), leaves)
    return union(middle, stem, *petals), union(circle(x, y, 0, 0.45, 0.17), stem)


def _mushroom(x: Tensor, y: Tensor) -> Field:
    cap = torch.maximum(ellipse(x, y, 0, 0.0, 0.95, 0.85), -y)
    stem = box(x, y, 0, -0.45, 0.22, 0.5, 0.1)
    dots = union(circle(x, y, -0.4, 0.3, 0.15), circle(x, y, 0.12, 0.55, 0.15), circle(x, y, 0.5, 0.22, 0.13))
    return union(cap, stem), dots


def _rocket(x: Tensor, y: Tensor) -> Field:
    side = x.abs()
    hull = torch.maximum(circle(side, y, -1.05, 0.0, 1.4), -0.7 - y)
    fins = polygon(side, y, (0.2, -0.1), (0.62, -0.6), (0.62, -0.97), (0.2, -0.7))
    return union(hull, fins, box(x, y, 0, -0.75, 0.18, 0.16)), union(circle(x, y, 0, 0.25, 0.17), fins)


def _moon(x: Tensor, y: Tensor) -> Field:
    body = subtract(circle(x, y, 0, 0, 0.9), circle(x, y, -0.48, 0.18, 0.72))
    return body, union(circle(x, y, 0.55, -0.2, 0.13), circle(x, y, 0.6, 0.3, 0.1), circle(x, y, 0.15, -0.65, 0.11))


def _umbrella(x: Tensor, y: Tensor) -> Field:
    cover = torch.maximum(circle(x, y, 0, -0.02, 0.97), -y)
    scallops = union(*(circle(x, y, cx, -0.02, 0.19) for cx in (-0.64, -0.21, 0.21, 0.64)))
    pole = union(capsule(x, y, 0, 0.3, 0, -0.72, 0.07), arc(x, y, 0.2, -0.72, 0.2, 0.18, 180, 360, 0.07))
    return union(subtract(cover, scallops), pole), torch.maximum(cover, x.abs() - 0.1)


def _bird(x: Tensor, y: Tensor) -> Field:
    wing = polygon(x, y, (-0.25, 0.1), (0.4, 0.1), (0.62, 0.85))
    tail = polygon(x, y, (0.4, 0.0), (1.0, 0.05), (0.9, -0.3), (0.4, -0.3))
    head = union(circle(x, y, -0.58, 0.28, 0.27), polygon(x, y, (-0.78, 0.38), (-1.02, 0.2), (-0.78, 0.16)))
    return union(ellipse(x, y, -0.05, -0.15, 0.66, 0.36), wing, tail, head), circle(x, y, -0.62, 0.33, 0.09)


def _key(x: Tensor, y: Tensor) -> Field:
    x, y = turned(x, y, 45)
    bow = ring(x, y, 0, 0.58, 0.28, 0.12)
    teeth = union(box(x, y, 0.2, -0.62, 0.2, 0.09), box(x, y, 0.17, -0.88, 0.17, 0.09))
    return union(bow, box(x, y, 0, -0.34, 0.1, 0.63), teeth), bow


def _ring(x: Tensor, y: Tensor) -> Field:
    gem = polygon(x, y, (0, 0.3), (-0.42, 0.72), (-0.26, 0.96), (0.26, 0.96), (0.42, 0.72))
    return union(ring(x, y, 0, -0.25, 0.6, 0.13), gem), gem


def _arrow(x: Tensor, y: Tensor) -> Field:
    x, y = turned(x, y, -45)
    shaft = box(x, y, 0, -0.35, 0.14, 0.62)
    return union(shaft, polygon(x, y, (-0.6, 0.15), (0.6, 0.15), (0, 0.97))), box(x, y, 0, -0.85, 0.14, 0.12)


def _snake(x: Tensor, y: Tensor) -> Field:
    x, y = 1.05 * x, 1.05 * y
    coil = union(
        arc(x, y, -0.05, 0.35, 0.48, 0.37, 90, 270, 0.16),
        arc(x, y, -0.05, -0.38, 0.55, 0.36, 90, -90, 0.16),
        polygon(x, y, (0.0, -0.58), (0.0, -0.9), (-0.98, -0.66)),
    )
    head = union(ellipse(x, y, 0.22, 0.72, 0.42, 0.25), path(x, y, 0.05, (0.5, 0.7), (0.75, 0.64), (0.88, 0.72)))
    spots = union(circle(x, y, -0.5, 0.4, 0.1), circle(x, y, -0.05, -0.02, 0.1), circle(x, y, 0.5, -0.38, 0.1))
    return union(coil, head), union(circle(x, y, 0.32, 0.79, 0.1), spots, circle(x, y, 0.0, -0.74, 0.1))


def _cactus(x: Tensor, y: Tensor) -> Field:
    trunk = capsule(x, y, 0, 0.75, 0, -0.75, 0.2)
    left = path(x, y, 0.15, (0, -0.15), (-0.6, -0.15), (-0.6, 0.35))
    right = path(x, y, 0.15, (0, -0.4), (0.6, -0.4), (0.6, 0.15))
    pot = box(x, y, 0, -0.84, 0.35, 0.12)
    return union(trunk, left, right, pot), pot


def _anchor(x: Tensor, y: Tensor) -> Field:
    loop = ring(x, y, 0, 0.76, 0.14, 0.08)
    bars = union(box(x, y, 0, -0.1, 0.1, 0.75), box(x, y, 0, 0.38, 0.42, 0.1))
    hook = arc(x, y, 0, -0.05, 0.75, 0.76, 195, 345, 0.12)
    flukes = union(
        polygon(x, y, (-0.95, -0.3), (-0.5, -0.3), (-0.78, 0.12)),
        polygon(x, y, (0.95, -0.3), (0.5, -0.3), (0.78, 0.12)),
    )
    return union(loop, bars, hook, flukes), loop


def _butterfly(x: Tensor, y: Tensor) -> Field:
    x, y = 1.04 * x, 1.04 * y
    x = x.abs()
    upper = polygon(x, y, (0, 0.02), (0.45, 0.8), (0.8, 0.85), (0.95, 0.6), (0.8, 0.2))
    lower = polygon(x, y, (0, 0.05), (0.6, -0.2), (0.7, -0.55), (0.5, -0.85), (0.3, -0.75))
    trunk = capsule(x, y, 0, 0.35, 0, -0.45, 0.1)
    return union(upper, lower, trunk), union(circle(x, y, 0.65, 0.55, 0.15), trunk)


def _chair(x: Tensor, y: Tensor) -> Field:
    x, y = 1.05 * x, 1.05 * y
    back = box(x, y, -0.5, 0.4, 0.12, 0.57)
    seat = box(x, y, 0.05, -0.15, 0.67, 0.13)
    legs = union(box(x, y, -0.5, -0.6, 0.1, 0.38), box(x, y, 0.6, -0.6, 0.1, 0.38))
    return union(back, seat, legs), seat


def _ladder(x: Tensor, y: Tensor) -> Field:
    rails = union(box(x, y, -0.42, 0, 0.1, 0.96), box(x, y, 0.42, 0, 0.1, 0.96))
    rungs = union(*(box(x, y, 0, cy, 0.42, 0.09) for cy in (-0.66, -0.22, 0.22, 0.66)))
    return union(rails, rungs), rails


def _magnet(x: Tensor, y: Tensor) -> Field:
    bow = torch.maximum(ring(x, y, 0, -0.1, 0.58, 0.25), y + 0.1)
    poles = union(box(x, y, -0.58, 0.3, 0.25, 0.41), box(x, y, 0.58, 0.3, 0.25, 0.41))
    return union(bow, poles), torch.maximum(poles, 0.4 - y)


def _plane(x: Tensor, y: Tensor) -> Field:
    side = x.abs()
    wings = polygon(side, y, (0, 0.35), (0.97, -0.2), (0.97, -0.4), (0, -0.15))
    tail = polygon(side, y, (0, -0.6), (0.42, -0.85), (0.42, -0.98), (0, -0.88))
    return union(ellipse(x, y, 0, 0, 0.16, 0.97), wings, tail), ellipse(x, y, 0, 0.62, 0.09, 0.18)


def _giraffe(x: Tensor, y: Tensor) -> Field:
    x, y = 1.05 * x, 1.05 * y
    trunk = box(x, y, -0.12, -0.15, 0.5, 0.22, 0.12)
    neck = polygon(x, y, (0.05, 0.0), (0.4, -0.1), (0.55, 0.8), (0.32, 0.8))
    head = union(capsule(x, y, 0.45, 0.78, 0.78, 0.66, 0.14), capsule(x, y, 0.4, 0.8, 0.36, 0.97, 0.05))
    legs = union(*(box(x, y, cx, -0.65, 0.09, 0.33) for cx in (-0.5, -0.2, 0.06, 0.3)))
    spots = union(circle(x, y, -0.35, -0.12, 0.11), circle(x, y, 0.05, -0.15, 0.12), circle(x, y, 0.37, 0.3, 0.08))
    return union(trunk, neck, head, legs), spots


def _hammer(x: Tensor, y: Tensor) -> Field:
    x, y = turned(1.12 * x, 1.12 * y, 30)
    face = union(box(x, y, 0.46, 0.66, 0.16, 0.3, 0.04), box(x, y, 0.1, 0.66, 0.25, 0.2))
    claw = polygon(x, y, (-0.1, 0.86), (-0.4, 0.8), (-0.66, 0.5), (-0.35, 0.6), (-0.1, 0.46))
    return union(face, claw, box(x, y, 0, -0.3, 0.14, 0.78, 0.06)), union(face, claw)


def _guitar(x: Tensor, y: Tensor) -> Field:
    x, y = turned(x, y, -45)
    body = union(circle(x, y, 0, -0.5, 0.47), circle(x, y, 0, 0.02, 0.34))
    neck = union(box(x, y, 0, 0.5, 0.09, 0.4), box(x, y, 0, 0.86, 0.18, 0.14, 0.04))
    return union(body, neck), union(circle(x, y, 0, -0.35, 0.17), neck)


def _bicycle(x: Tensor, y: Tensor) -> Field:
    wheels = union(ring(x, y, -0.56, -0.25, 0.34, 0.08), ring(x, y, 0.56, -0.25, 0.34, 0.08))
    frame = union(
        path(x, y, 0.06, (-0.56, -0.25), (-0.25, 0.2), (0.38, 0.2), (0.0, -0.25), (-0.56, -0.25)),
        path(x, y, 0.06, (0.0, -0.25), (-0.3, 0.4)),
        path(x, y, 0.06, (0.56, -0.25), (0.34, 0.5), (0.6, 0.55)),
        capsule(x, y, -0.45, 0.42, -0.18, 0.42, 0.07),
    )
    return union(wheels, frame), wheels


def _boot(x: Tensor, y: Tensor) -> Field:
    x, y = 1.1 * x, 1.1 * y
    shaft = box(x, y, -0.45, 0.25, 0.28, 0.7, 0.05)
    foot = union(box(x, y, -0.1, -0.6, 0.63, 0.25, 0.05), circle(x, y, 0.52, -0.62, 0.32))
    sole = box(x, y, 0.06, -0.86, 0.8, 0.1, 0.04)
    return union(shaft, torch.maximum(foot, -0.9 - y), sole), union(sole, box(x, y, -0.45, 0.83, 0.28, 0.12))


SHAPES: dict[str, Drawing] = {
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
    "key": _key,
    "ring": _ring,
    "arrow": _arrow,
    "snake": _snake,
    "cactus": _cactus,
    "anchor": _anchor,
    "butterfly": _butterfly,
    "chair": _chair,
    "ladder": _ladder,
    "magnet": _magnet,
    "plane": _plane,
    "giraffe": _giraffe,
    "hammer": _hammer,
    "guitar": _guitar,
    "bicycle": _bicycle,
    "boot": _boot,
}
KINDS = tuple(SHAPES)


@lru_cache(maxsize=4)
def atlas(device: str = "cpu", side: int = 96) -> Tensor:
    """All kinds as a texture: see `field_table`."""
    return field_table(SHAPES.values(), side).to(device)


_TURNS = 7  # angles tried when two silhouettes are laid over each other,
MOST_TURN = 0.35  # from minus to plus this many radians


def silhouettes(side: int, turn: float = 0.0, fine: int = 192) -> Tensor:
    """[kind, side, side] coverage 0..1: each kind turned, centred on its bounding box, scaled to one common area."""
    x, y = plane(1.3, 1.3, fine, fine)
    inside = torch.stack([shape(*turned(x, y, math.degrees(turn)))[0] for shape in SHAPES.values()]) < 0
    out = []
    for mask in inside:
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        cy, cx = (rows[0] + rows[-1] + 1) / fine - 1, (columns[0] + columns[-1] + 1) / fine - 1
        zoom = math.sqrt(float(mask.double().mean()) / 0.1)  # the common area: a tenth of the window
        theta = torch.tensor([[zoom, 0.0, float(cx)], [0.0, zoom, float(cy)]])
        grid = F.affine_grid(theta[None], [1, 1, 4 * side, 4 * side], align_corners=False)
        placed = F.grid_sample(mask[None, None].float(), grid, align_corners=False)
        out.append(F.avg_pool2d(placed, 4)[0, 0])
    return torch.stack(out)


@lru_cache(maxsize=2)
def overlaps(side: int = 48) -> Tensor:
    """[kind, kind]: the largest overlap (intersection over union) over small turns of one of the two."""
    upright = silhouettes(side).flatten(1)
    best = torch.zeros(len(KINDS), len(KINDS))
    for turn in torch.linspace(-MOST_TURN, MOST_TURN, _TURNS).tolist():
        other = silhouettes(side, turn).flatten(1)
        both = torch.minimum(upright[:, None], other[None]).sum(-1)
        best = torch.maximum(best, both / (upright.sum(-1)[:, None] + other.sum(-1)[None] - both))
    return torch.maximum(best, best.T)


def similar(kind: str) -> tuple[str, ...]:
    """All other kinds, the nearest silhouette first."""
    row = overlaps()[KINDS.index(kind)]
    return tuple(KINDS[int(i)] for i in row.argsort(descending=True, stable=True) if KINDS[int(i)] != kind)
