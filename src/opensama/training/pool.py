"""Edits of the world as cached latents: drawn and encoded once, read many times.

n edits, t latent frames, h w latent rows and columns:
    source, target  [n c t h w] float16, normalised        change  [n t h w] float16, share of changed pixels
    semantic        [n 17 e] float16, of the target's first frame
    ids, mask       [n l] the instruction
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerFast, SiglipVisionModel

from opensama.models.tiny import PatchAutoencoder
from opensama.training.ahead import one_core
from opensama.training.semantic_encoder import semantic_tokens
from opensama.training.text import tokenize
from opensama.world import EditPlan, plan_edit, render_edits
from opensama.world.phrasing import Split

Pool = dict[str, Tensor]

# Shares of the families, harder ones more often; an absent object teaches to leave a video alone.
SHARES: dict[str, float] = {
    "replace": 15,
    "add": 14,
    "remove": 10,
    "recolor": 9,
    "retexture": 8,
    "accessory": 10,
    "background": 8,
    "style": 10,
    "text": 7,
    "obscure": 5,
    "two": 6,
    "absent": 4,
    "swapped": 4,
}


def draw_plan(name: str, split: Split = "train") -> EditPlan:
    """One edit of a family drawn by `SHARES`, the same for the same name."""
    family = random.Random(name).choices(tuple(SHARES), tuple(SHARES.values()))[0]
    return plan_edit(name, split, family)


def normalise(vae: PatchAutoencoder, z: Tensor) -> Tensor:
    """Latents as the transformer sees them."""
    mean, std = (z.new_tensor(getattr(vae.config, k)).view(-1, 1, 1, 1) for k in ("latents_mean", "latents_std"))
    return (z - mean) / std


def changed_share(mask: Tensor) -> Tensor:
    """Pixel mask [b t 1 h w] (t = 4k+1) as the share of changed pixels in each latent cell, [b 1+k h/16 w/16]."""
    share = F.avg_pool2d(mask[:, :, 0].float(), 16)
    first, rest = share[:, :1], share[:, 1:]
    b, t, h, w = rest.shape
    return torch.cat((first, rest.view(b, t // 4, 4, h, w).mean(2)), 1)


@torch.no_grad()
def encode_edits(
    plans: Sequence[EditPlan],
    vae: PatchAutoencoder,
    encoder: SiglipVisionModel,
    tokenizer: PreTrainedTokenizerFast,
    *,
    frames: int,
    height: int,
    width: int,
    text_tokens: int,
) -> Pool:
    """One batch of the pool, computed on the models' device and returned on the CPU."""
    device = next(vae.parameters()).device
    drawn = render_edits(plans, frames, height, width, device)
    out: Pool = {"change": changed_share(drawn.mask).half().cpu()}
    with torch.autocast(device.type, torch.bfloat16):
        for key, video in (("source", drawn.source), ("target", drawn.target)):
            z = vae.encode(video.transpose(1, 2) * 2 - 1).latent_dist.mode().float()
            out[key] = normalise(vae, z).half().cpu()
        out["semantic"] = semantic_tokens(encoder, drawn.target[:, 0] * 2 - 1).float().half().cpu()
    out["ids"], out["mask"] = tokenize(tokenizer, [p.instruction for p in plans], text_tokens)
    return out


def build_pool(
    path: Path | None,
    n: int,
    vae: PatchAutoencoder,
    encoder: SiglipVisionModel,
    tokenizer: PreTrainedTokenizerFast,
    *,
    frames: int = 1,
    size: tuple[int, int] = (128, 128),
    text_tokens: int = 32,
    first: int = 0,
    split: Split = "train",
    batch: int = 64,
    say: Callable[[str], None] = print,
) -> Pool:
    """`n` edits starting at seed `first`, drawn by `SHARES`; read from `path` if it is there, else written to it."""
    if path is not None and path.exists():
        return load_file(path)
    starts = range(0, n, batch)

    def part(start: int) -> Pool:
        plans = [draw_plan(f"{size}-{first + i}", split) for i in range(start, min(n, start + batch))]
        return encode_edits(
            plans, vae, encoder, tokenizer, frames=frames, height=size[0], width=size[1], text_tokens=text_tokens
        )

    parts: list[Pool] = []
    on_cpu = next(vae.parameters()).device.type == "cpu"
    with ThreadPoolExecutor(torch.get_num_threads() if on_cpu else 1, initializer=one_core) as threads:
        for done, encoded in enumerate(threads.map(part, starts), 1):
            parts.append(encoded)
            if done % max(1, len(starts) // 4) == 0:
                say(f"pool of {frames} frames at {size[1]}x{size[0]}: {min(n, done * batch)} of {n}")
    pool = {key: torch.cat([part[key] for part in parts]).contiguous() for key in parts[0]}
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        save_file(pool, temporary)
        os.replace(temporary, path)
    return pool
