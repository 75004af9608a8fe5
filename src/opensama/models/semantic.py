"""Semantic anchoring: the small modules that read and predict SigLIP tokens, and where those tokens sit.

An anchor frame of the target video is described by `tokens_per_anchor` SigLIP features: grid x grid local ones, row by
row, then one global one (64 + 1 in the paper, section 3.2). They are noised and denoised beside the video latents.

`b` batch, `s` semantic tokens, `e` their width, `d` the transformer's width, `p` SigLIP patches.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from diffusers.models.normalization import FP32LayerNorm
from torch import Tensor, nn


class SemanticEmbedder(nn.Module):
    """Noisy semantic tokens [b s e] to transformer tokens [b s d]: norm, linear, GELU, linear."""

    def __init__(self, e: int, hidden: int, d: int):
        super().__init__()
        self.norm = FP32LayerNorm(e, eps=1e-6)
        self.fc1 = nn.Linear(e, hidden)
        self.fc2 = nn.Linear(hidden, d)

    def forward(self, semantic: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(self.norm(semantic))))


class SemanticHead(nn.Module):
    """The last block's semantic tokens [b s d] to their velocity [b s e]: norm, linear; time enters no more."""

    def __init__(self, d: int, e: int):
        super().__init__()
        self.norm = FP32LayerNorm(d, eps=1e-6)
        self.proj = nn.Linear(d, e)
        nn.init.xavier_uniform_(self.proj.weight)
        nn.init.normal_(self.proj.bias, std=1e-3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.proj(self.norm(tokens))


def pool_anchor_tokens(last_hidden_state: Tensor, pooler_output: Tensor, grid: int = 8) -> Tensor:
    """SigLIP's answer for one frame each, [b p e] and [b e], as anchor tokens [b grid*grid+1 e].

    The patches (a square of them) are averaged into grid x grid cells, row by row; SigLIP's own pooled vector is the
    global token and comes last. The paper says "by pooling" and no more; this is our reading.
    """
    p = last_hidden_state.shape[1]
    side = math.isqrt(p)
    if side * side != p:
        raise ValueError(f"expected a square of patches to pool, got {p}: drop class tokens before pooling")
    patches = last_hidden_state.transpose(1, 2).unflatten(2, (side, side))
    local = F.adaptive_avg_pool2d(patches, grid).flatten(2).transpose(1, 2)
    return torch.cat([local, pooler_output[:, None].to(local.dtype)], dim=1)


def anchor_count(t: int, anchors: int) -> int:
    """How many anchors a clip of `t` latent frames has: as many as were asked for, at most one a latent frame."""
    return min(anchors, t)


def anchor_latents(t: int, anchors: int) -> list[int]:
    """Latent time index of each anchor: spread evenly over `t` latent frames, from the first to the last."""
    if anchors == 1:
        return [0]
    gaps = anchors - 1
    return [(2 * i * (t - 1) + gaps) // (2 * gaps) for i in range(anchors)]


def anchor_frames(frames: int, anchors: int, temporal: int = 4) -> list[int]:
    """The pixel frame that each anchor describes: the one that closes its latent frame's group (0, 4, 8, ...)."""
    return [temporal * index for index in anchor_latents((frames - 1) // temporal + 1, anchors)]


def anchor_positions(t: int, h: int, w: int, anchors: int, tokens_per_anchor: int) -> Tensor:
    """Where anchor tokens sit in a grid of t x h x w latent tokens: [s 3] float64 (time, row, column).

    A local token sits at the centre of its cell, which may fall between rows or columns; a global one in the middle.
    """
    grid = math.isqrt(tokens_per_anchor - 1)
    cells = torch.arange(grid, dtype=torch.float64) + 0.5
    local = torch.cartesian_prod(cells * h / grid - 0.5, cells * w / grid - 0.5).view(-1, 2)
    places = torch.cat([local, torch.tensor([[(h - 1) / 2, (w - 1) / 2]], dtype=torch.float64)])
    times = torch.tensor(anchor_latents(t, anchors), dtype=torch.float64)
    return torch.cat(
        [times.repeat_interleave(tokens_per_anchor)[:, None], places.repeat(anchors, 1)],
        dim=1,
    )
