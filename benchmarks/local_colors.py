"""What is left of an edit when each cell says the best it can by its colours alone, and with shapes painted over them.

    python benchmarks/local_colors.py [--edits 96] [--steps 300]

Edits of the test split through the embedded autoencoder, whose cells' numbers (`models/local_color.py`) are fitted to
the right answer by gradient. Printed is the squared error in the changed region over the source's own, by family: what
a transformer that knew everything would still have wrong if it drew nothing else.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from opensama.models.local_color import LocalColor
from opensama.models.registry import TINY
from opensama.pipeline.sama import SamaPipeline
from opensama.training.drawing import DrawSettings, draw_in_turn
from opensama.training.pool import changed_share, normalise
from opensama.training.tiny import latent_importance
from opensama.world import TIERS


def fitted(made: LocalColor, source: Tensor, target: Tensor, scale: Tensor, steps: int) -> Tensor:
    """The squared error [n] of each of the cells [n c] after `steps`."""
    heads = [made.map] + ([made.outline, made.paint] if made.shapes else [])
    first = 0
    for head in heads:  # a cell's token is its numbers themselves
        torch.nn.init.zeros_(head.weight)
        head.weight.data[:, first : first + head.out_features] = torch.eye(head.out_features) / 4
        first += head.out_features
    tokens = torch.zeros(1, len(source), made.map.in_features)
    if made.shapes:
        of_shapes = slice(12, 12 + made.outline.out_features)
        tokens[..., of_shapes] = torch.randn(tokens[..., of_shapes].shape, generator=torch.Generator().manual_seed(0))
    tokens.requires_grad_()
    optimizer = torch.optim.Adam([tokens])
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / steps)
        left = ((source + made(tokens, source[None], None)[0] - target) * scale).square().sum(1)
        optimizer.zero_grad()
        left.sum().backward()
        optimizer.step()
    return left.detach()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edits", type=int, default=96)
    parser.add_argument("--steps", type=int, default=300)
    settings = parser.parse_args()
    vae = SamaPipeline.from_pretrained(TINY.folder).vae.float().requires_grad_(False)
    scale = latent_importance(vae).sqrt()
    for tier, world in TIERS.items():
        drawn = draw_in_turn([f"x-{i}" for i in range(settings.edits)], DrawSettings("test"), tier)
        source, target = (
            normalise(vae, vae.encode(side.transpose(1, 2) * 2 - 1).latent_dist.mode()).flatten(2).transpose(1, 2)
            for side in (drawn.pictures.source, drawn.pictures.target)
        )
        changed = changed_share(drawn.pictures.mask[:, :, 0], (1, 8, 8)).flatten(1) > 0
        owner = changed.nonzero()[:, 0]
        whole = (
            torch.zeros(settings.edits)
            .index_add(0, owner, ((source - target)[changed] * scale).square().sum(1))
            .clamp_min(1e-6)
        )
        for shapes in range(3):
            made = LocalColor(12 + shapes * 35, source.shape[-1], 96, shapes).requires_grad_(False)
            made.read_autoencoder(vae)
            left = fitted(made, source[changed], target[changed], scale, settings.steps)
            error = torch.zeros(settings.edits).index_add(0, owner, left) / whole
            families = world.families
            rows = {name: error[i :: len(families)].mean() for i, name in enumerate(families)}
            said = ", ".join(f"{name} {value:.3f}" for name, value in rows.items())
            print(f"{tier}, {shapes} shapes: all {error.mean():.3f}, {said}", flush=True)


if __name__ == "__main__":
    main()
