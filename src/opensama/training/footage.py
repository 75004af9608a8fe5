"""Styles on what looks like footage: textures with the statistics of photographs, as a camera would have taken them.

A style is a function of the frames, so it has an exact answer on any picture. Drawings alone teach it on flat colours;
here are crops of dead leaves (`textures.py`) under a moving camera, two layers deep, in any light, with the noise of a
sensor and the damage of JPEG. The answer is the style of the source as it is, noise and damage included.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from opensama.data.samples import generator, seed_of
from opensama.training.textures import dead_leaves, moving_crops
from opensama.world import STYLES, apply_style, to_uint8
from opensama.world.edit_planner import style_clause
from opensama.world.edit_samples import changed_mask
from opensama.world.phrasing import Split, as_sentence

BANKS = 16  # of textures, of which as many are drawn as are asked for
SIDE, LEAVES = 160, 50


@lru_cache(maxsize=BANKS)
def texture_bank(number: int) -> Tensor:
    """Four textures [4 3 side side] in 0..1, the same for the same number."""
    return dead_leaves(4, SIDE, LEAVES, seed=70_000 + number)


def footage(name: str, frames: int, height: int, width: int) -> Tensor:
    """One clip [t 3 h w] in 0..1, the same for the same name."""
    g, rng = generator("footage", name), random.Random(f"footage/{name}")
    side = max(height, width)
    pictures = texture_bank(seed_of("bank", name) % BANKS)
    clip = moving_crops(pictures, 1, frames, side, generator=g)[0].transpose(0, 1) / 2 + 0.5
    clip = clip[..., :height, :width].clamp(0, 1) ** rng.uniform(0.6, 1.7)
    tint = torch.tensor([rng.uniform(0.85, 1.0) for _ in range(3)]).view(3, 1, 1)
    noise = torch.randn(clip.shape, generator=g) * rng.uniform(0, 0.04)
    taken = (clip * tint + noise).clamp(0, 1)
    return compressed(taken, rng.randint(40, 95)) if rng.random() < 0.7 else taken


def compressed(clip: Tensor, quality: int) -> Tensor:
    """Each frame [3 h w] as a JPEG gives it back."""
    out = []
    for frame in to_uint8(clip):
        file = BytesIO()
        Image.fromarray(frame).save(file, "JPEG", quality=quality)
        out.append(torch.from_numpy(np.array(Image.open(file))).movedim(-1, 0) / 255)
    return torch.stack(out)


def styled_footage(
    names: Sequence[str], split: Split, frames: int, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor, list[str], list[str]]:
    """Source and answer [b t 3 h w], where they differ [b t 1 h w], instructions, and what is to be seen."""
    sources, targets, texts, captions = [], [], [], []
    for name in names:
        rng = random.Random(f"styled/{name}")
        style = rng.choice(tuple(STYLES))
        sources.append(footage(name, frames, height, width))
        targets.append(apply_style(style, sources[-1]))
        texts.append(as_sentence(style_clause(rng, split, style)))
        captions.append(f"In {style} style.")
    source, target = torch.stack(sources), torch.stack(targets)
    mask = torch.stack([changed_mask(a, b) for a, b in zip(target, source, strict=True)])
    return source, target, mask, texts, captions
