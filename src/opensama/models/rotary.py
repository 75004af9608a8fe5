"""Rotary positions of streams of tokens: Wan's, of places on a grid; and a phase that tells streams apart.

    angle(pair i) = place on the pair's axis * 10000^(-j / pairs of the axis)      j: the pair's number on its axis
                    + source id * 10000^(-i / pairs)                               i: its number in the whole head

A head of size D has D // 6 pairs for rows, as many for columns, the rest, which come first, for time. A pair is two
neighbouring numbers. Source id 0 is Wan itself.

`b` batch, `n` tokens, `t h w` the token grid's times, rows, columns.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from torch import Tensor

Grid = tuple[int, int, int]
Rotary = tuple[Tensor, Tensor]
"""Cosines and sines."""


def joined_rotary(*parts: Rotary) -> Rotary:
    """Those of streams [n head_dim], one after the other: each [1 n 1 head_dim]."""
    cos, sin = (torch.cat(side)[None, :, None] for side in zip(*parts, strict=True))
    return cos, sin


def grid_rotary(head_dim: int, grid: Grid, start: Grid, device: torch.device, source_id: float = 0.0) -> Rotary:
    """Cosines and sines [(t h w) head_dim] of a grid's tokens."""
    lines = [axis_rotary(head_dim, axis, start[axis], grid[axis], device, source_id) for axis in range(3)]
    t, h, w = grid

    def spread(axis: int, line: Tensor) -> Tensor:
        places = [1, 1, 1]
        places[axis] = grid[axis]
        return line.view(*places, line.shape[-1]).expand(t, h, w, -1)

    cos, sin = (torch.cat([spread(i, line[side]) for i, line in enumerate(lines)], -1) for side in (0, 1))
    return cos.view(t * h * w, head_dim), sin.view(t * h * w, head_dim)


@lru_cache(maxsize=256)
def axis_rotary(
    head_dim: int, axis: int, start: int, size: int, device: torch.device, source_id: float = 0.0
) -> Rotary:
    """Cosines and sines [size share of head_dim] of the places start, start + 1, ... in time, rows or columns."""
    with torch.inference_mode(False), torch.no_grad():  # what is kept must also serve training
        places = torch.arange(start, start + size, dtype=torch.float64)
        cos, sin = axis_table(head_dim, axis, places)
        if source_id:
            cos_id, sin_id = _phase(head_dim, axis, source_id)
            cos, sin = cos * cos_id - sin * sin_id, sin * cos_id + cos * sin_id
        return cos.to(device), sin.to(device)


def rotary_table(positions: Tensor, head_dim: int) -> Rotary:
    """Cosines and sines [n head_dim] at positions [n 3], fractions allowed."""
    tables = [axis_table(head_dim, axis, positions[:, axis]) for axis in range(3)]
    return torch.cat([cos for cos, _ in tables], dim=1), torch.cat([sin for _, sin in tables], dim=1)


def axis_table(head_dim: int, axis: int, places: Tensor) -> Rotary:
    """Cosines and sines [n share] at places [n], fractions allowed."""
    size = _axis_shares(head_dim)[axis]
    cos, sin = get_1d_rotary_pos_embed(size, places.numpy(), use_real=True, freqs_dtype=torch.float64)
    return cos, sin


def _phase(head_dim: int, axis: int, source_id: float) -> Rotary:
    """Cosines and sines [1 share] of an axis's part of the turn by which every token of a stream is told apart."""
    sides = get_1d_rotary_pos_embed(
        head_dim, torch.tensor([source_id]).double().numpy(), use_real=True, freqs_dtype=torch.float64
    )
    cos, sin = (side.split(_axis_shares(head_dim), dim=1)[axis] for side in sides)
    return cos, sin


def _axis_shares(head_dim: int) -> Grid:
    """Of a head's numbers those for time, rows and columns."""
    space = 2 * (head_dim // 6)
    return head_dim - 2 * space, space, space
