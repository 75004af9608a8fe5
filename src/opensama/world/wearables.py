"""Accessories: distance fields in their own unit disc, and where on each kind they sit."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from opensama.world.fields import (
    Drawing,
    Field,
    Point,
    box,
    capsule,
    circle,
    ellipse,
    field_table,
    polygon,
    subtract,
    union,
)


class Fit(NamedTuple):
    """How an accessory is worn: at the top or in the middle, how large, how high its centre over that point."""

    on: str  # "top" or "middle"
    scale: float  # the accessory's radius in object radii
    lift: float  # its centre above the seat, in object radii


def _hat(x: Tensor, y: Tensor) -> Field:
    brim = box(x, y, 0, -0.55, 0.95, 0.13, 0.12)
    band = box(x, y, 0, -0.28, 0.53, 0.15)
    return union(brim, polygon(x, y, (-0.52, -0.5), (-0.6, 0.7), (0.6, 0.7), (0.52, -0.5))), band


def _crown(x: Tensor, y: Tensor) -> Field:
    rim = (-0.8, -0.6), (-0.95, 0.5), (-0.45, 0.0), (0.0, 0.7), (0.45, 0.0), (0.95, 0.5), (0.8, -0.6)
    gems = union(*(circle(x, y, cx, -0.3, 0.16) for cx in (-0.45, 0.0, 0.45)))
    tips = union(circle(x, y, -0.92, 0.52, 0.12), circle(x, y, 0, 0.72, 0.12), circle(x, y, 0.92, 0.52, 0.12))
    return union(polygon(x, y, *rim), tips), gems


def _glasses(x: Tensor, y: Tensor) -> Field:
    lenses = union(circle(x, y, -0.5, 0, 0.42), circle(x, y, 0.5, 0, 0.42))
    glass = union(circle(x, y, -0.5, 0, 0.26), circle(x, y, 0.5, 0, 0.26))
    return union(lenses, capsule(x, y, -0.3, 0.1, 0.3, 0.1, 0.1)), glass


def _bow(x: Tensor, y: Tensor) -> Field:
    side = x.abs()
    loops = union(polygon(side, y, (0, 0), (0.85, 0.6), (0.85, -0.6)), capsule(side, y, 0.82, 0.5, 0.82, -0.5, 0.14))
    knot = box(x, y, 0, 0, 0.24, 0.28, 0.1)
    return union(loops, knot), knot


def _halo(x: Tensor, y: Tensor) -> Field:
    hoop = subtract(ellipse(x, y, 0, 0, 0.96, 0.52), ellipse(x, y, 0, 0, 0.62, 0.24))
    return hoop, torch.maximum(hoop, y)


def _flag(x: Tensor, y: Tensor) -> Field:
    pole = capsule(x, y, 0, -0.9, 0, 0.86, 0.1)
    cloth = polygon(x, y, (0, 0.9), (0.98, 0.75), (0.75, 0.3), (0.98, -0.2), (0, -0.1))
    return union(pole, cloth), pole


WEARABLES: dict[str, Drawing] = {
    "hat": _hat,
    "crown": _crown,
    "glasses": _glasses,
    "bow": _bow,
    "halo": _halo,
    "flag": _flag,
}

WEAR_SEATS: dict[str, Fit] = {
    "hat": Fit("top", 0.56, 0.33),
    "crown": Fit("top", 0.56, 0.28),
    "glasses": Fit("middle", 0.9, 0.0),
    "bow": Fit("middle", 0.62, 0.0),
    "halo": Fit("top", 0.72, 0.3),
    "flag": Fit("top", 0.68, 0.45),
}

# kind -> its top, where a hat sits, and its middle, where glasses do
SEATS: dict[str, tuple[Point, Point]] = {
    "ball": ((0.0, 0.83), (0.0, 0.1)),
    "box": ((0.0, 0.13), (0.0, -0.3)),
    "star": ((0.0, 0.75), (0.0, 0.05)),
    "heart": ((0.5, 0.86), (0.0, 0.15)),
    "tree": ((0.0, 0.78), (0.0, -0.15)),
    "house": ((-0.1, 0.58), (0.0, -0.1)),
    "car": ((-0.05, 0.48), (0.0, -0.12)),
    "fish": ((-0.45, 0.35), (-0.35, 0.05)),
    "boat": ((0.0, 0.8), (0.0, -0.5)),
    "cup": ((-0.29, 0.74), (-0.31, 0.0)),
    "flower": ((0.0, 0.92), (0.0, 0.45)),
    "mushroom": ((0.0, 0.83), (0.0, 0.35)),
    "rocket": ((0.0, 0.78), (0.0, 0.1)),
    "moon": ((0.2, 0.84), (0.52, -0.1)),
    "umbrella": ((0.0, 0.93), (0.0, 0.4)),
    "bird": ((-0.58, 0.52), (-0.35, 0.1)),
    "key": ((-0.41, 0.78), (-0.3, 0.3)),
    "ring": ((0.0, 0.94), (0.0, -0.25)),
    "arrow": ((0.2, 0.58), (0.25, 0.25)),
    "snake": ((0.2, 0.9), (0.0, 0.0)),
    "cactus": ((0.0, 0.92), (0.0, 0.1)),
    "anchor": ((0.0, 0.96), (0.0, 0.3)),
    "butterfly": ((0.0, 0.42), (0.0, 0.0)),
    "chair": ((-0.47, 0.9), (0.05, -0.15)),
    "ladder": ((0.0, 0.72), (0.0, 0.0)),
    "magnet": ((-0.58, 0.69), (0.0, -0.6)),
    "plane": ((0.0, 0.86), (0.0, 0.05)),
    "giraffe": ((0.46, 0.84), (0.38, 0.45)),
    "hammer": ((-0.15, 0.78), (-0.2, 0.5)),
    "guitar": ((0.62, 0.72), (-0.3, -0.3)),
    "bicycle": ((-0.32, 0.46), (0.0, -0.1)),
    "boot": ((-0.43, 0.86), (-0.4, 0.1)),
}


@lru_cache(maxsize=4)
def wear_atlas(device: str = "cpu", side: int = 96) -> Tensor:
    """All accessories as a texture, distances in radii of the accessory: see `field_table`."""
    return field_table(WEARABLES.values(), side).to(device)


def worn(kind: str, wearable: str) -> tuple[float, float, float]:
    """Where the accessory goes in its wearer's frame: centre x and y and radius, in object radii."""
    fit = WEAR_SEATS[wearable]
    x, y = SEATS[kind][fit.on == "middle"]
    return x, y + fit.lift, fit.scale
