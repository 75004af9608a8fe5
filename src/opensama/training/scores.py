"""Scores on edits that nothing is trained on, measured while a stage trains: one step from noise, in latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from opensama.training.devices import to_device
from opensama.training.edit_stage import EditStage, with_noise
from opensama.training.pool import LatentPool
from opensama.training.text import trim_padding

_FIRST = 0.999  # noise level of scores: next to pure noise, from which edits are sampled


class HeldOut(NamedTuple):
    """A pool of edits that nothing is trained on; its samples are of these families in turn."""

    pool: LatentPool
    families: tuple[str, ...]


@torch.no_grad()
def held_out_scores(stage: EditStage, tests: Mapping[str, HeldOut], batch: int = 64) -> dict[str, float]:
    """For each test, and each of its families: error where the answer differs, over the source's own.

    Squared, in normalised latents, of the picture that one step from noise predicts; each edit's cut at 10, as in
    `opensama.evaluation.world`. Copying the source scores 1.
    """
    out = {}
    for name, (pool, families) in tests.items():
        parts = [error_ratios(stage, pool, start, batch) for start in range(0, len(pool["ids"]), batch)]
        ratio = torch.cat(parts).clamp_max(10)
        out[name] = float(ratio.mean())
        out |= {f"{name} {f}": float(ratio[i :: len(families)].mean()) for i, f in enumerate(families)}
    return out


def error_ratios(stage: EditStage, pool: LatentPool, start: int, batch: int) -> Tensor:
    """The same of some edits [b], always under the same noise."""
    g = torch.Generator().manual_seed(start)
    names = {"target": "noise"}
    if stage.transformer.config.get("semantic_dim"):
        names["semantic"] = "semantic_noise"
    x = {key: pool[key][start : start + batch] for key in ("source", "change", "ids", "mask", *names)}
    x |= {noise: torch.randn(x[key].shape, generator=g) for key, noise in names.items()}
    x["sigma"] = torch.full((len(x["ids"]),), _FIRST)
    if not stage.family.pads_text:
        x["ids"], x["mask"] = trim_padding(x["ids"], x["mask"])
    x = to_device({key: v.float() if v.is_floating_point() else v for key, v in x.items()}, stage.device)
    picture = with_noise(x)["noisy"] - _FIRST * stage.answer(x).sample.float()

    def error(given: Tensor) -> Tensor:
        return ((given - x["target"]).square().sum(1) * x["change"]).flatten(1).sum(1)

    return (error(picture) / error(x["source"]).clamp_min(1e-6)).cpu()
