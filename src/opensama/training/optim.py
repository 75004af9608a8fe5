"""What turns gradients into steps: the learning rate over the budget, AdamW and Muon, and which steps to leave out."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from statistics import median

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from opensama.values import UserError


def rate(progress: float, decay: float, warmup: float = 0.02) -> float:
    """Share of the full learning rate at `progress` in 0..1."""
    return max(0.0, min(1.0, progress / warmup if warmup else 1.0, (1 - progress) / decay if decay else 1.0))


def make_optimizers(
    weights: Mapping[str, nn.Parameter], *, lr: float, muon: float, betas: tuple[float, float], weight_decay: float
) -> list[torch.optim.Optimizer]:
    """AdamW; for the matrices of transformer blocks Muon (Jordan et al., 2024), where a rate for it is given.

    Vectors (biases, norms) are not decayed.
    """
    inner = {name: p for name, p in weights.items() if in_block(name) and "relative" not in name and p.ndim == 2}
    matrices = list(inner.values()) if muon else []
    chosen = set(map(id, matrices))
    rest = [p for p in weights.values() if id(p) not in chosen]
    if not all(0 <= beta < 1 for beta in betas):
        raise UserError(f"The optimizer's betas must be numbers from 0 to below 1, not {', '.join(map(str, betas))}.")
    adam = torch.optim.AdamW(
        [
            {"params": [p for p in rest if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=lr,
        betas=betas,
    )
    if not matrices:
        return [adam]
    return [adam, torch.optim.Muon(matrices, lr=muon, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")]


def in_block(name: str) -> bool:
    """Whether a parameter is one of a numbered block's, such as blocks.3. or transformer_blocks.3."""
    return re.search(r"blocks?\.\d+\.", name) is not None


def clip(weights: Mapping[str, nn.Parameter], highest: float) -> Tensor:
    """Scales gradients to a norm of at most `highest`; the norm before, over all processes."""
    norm = nn.utils.clip_grad_norm_(weights.values(), highest)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


class Spikes:
    """Says which steps to leave out: loss or gradient norm above so many times the median of the last hundred steps.

    Nothing is left out before `after` steps. Steps that were left out count in the median too, so a run whose losses
    have risen for good goes on after a while.
    """

    def __init__(self, loss: float | None, norm: float | None, after: int = 100, window: int = 100):
        self.factors, self.after = {"loss": loss, "norm": norm}, after
        self.seen: dict[str, deque[float]] = {key: deque(maxlen=window) for key in self.factors}
        self.skipped = 0

    def __call__(self, step: int, values: Mapping[str, float]) -> bool:
        """Whether the step with this `loss` and `norm` is a spike."""
        spike = False
        for key, factor in self.factors.items():
            if factor is None:
                continue
            before = self.seen[key]
            spike |= step >= self.after and len(before) > 0 and values[key] > factor * median(before)
            before.append(values[key])
        self.skipped += spike
        return spike

    def state(self) -> dict[str, object]:
        return {"skipped": self.skipped, **{key: list(values) for key, values in self.seen.items()}}

    def restore(self, state: Mapping[str, object]) -> None:
        self.skipped = int(str(state["skipped"]))
        for key, values in self.seen.items():
            values.clear()
            values.extend(state[key])  # type: ignore[arg-type]
