"""The tables from which objects and accessories are stamped.

`atlas()` samples every kind once into a small texture, `wear_atlas()` every accessory; rendering then is one bilinear
lookup an object, on any device. The drawings are in `kinds` and `wearables`.
"""

from __future__ import annotations

from functools import lru_cache

from torch import Tensor

from opensama.world.fields import field_table, plane
from opensama.world.kinds import KINDS, SHAPES, similar
from opensama.world.wearables import WEAR_SEATS, WEARABLES, seat, worn

__all__ = ["EXTENT", "KINDS", "SHAPES", "WEARABLES", "WEAR_SEATS", "atlas", "seat", "similar", "wear_atlas", "worn"]

EXTENT = 1.3  # both tables cover [-EXTENT, EXTENT] in both directions


@lru_cache(maxsize=4)
def atlas(device: str = "cpu", side: int = 96) -> Tensor:
    """All kinds as a texture: [kind, (body, detail), side, side], first row at the top, distances in object radii."""
    x, y = plane(EXTENT, EXTENT, side, side)
    return field_table([shape(x, y) for shape in SHAPES.values()]).to(device)


@lru_cache(maxsize=4)
def wear_atlas(device: str = "cpu", side: int = 96) -> Tensor:
    """All accessories likewise: [accessory, (body, detail), side, side], distances in radii of the accessory."""
    x, y = plane(EXTENT, EXTENT, side, side)
    return field_table([wearable(x, y) for wearable in WEARABLES.values()]).to(device)
