"""What turns gradients into steps: the learning rate over the budget, AdamW and Muon, and which steps to leave out."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from math import isfinite
from statistics import median

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from opensama import runtime
from opensama.values import UserError


def learning_rate_factor(progress: float, decay: float, warmup: float = 0.02) -> float:
    """Share of the full learning rate at `progress` in 0..1."""
    return max(0.0, min(1.0, progress / warmup if warmup else 1.0, (1 - progress) / decay if decay else 1.0))


_MANY = 10**8  # numbers of which a copy is no small thing


def make_optimizers(
    weights: Mapping[str, nn.Parameter], *, lr: float, muon: float, betas: tuple[float, float], weight_decay: float
) -> list[torch.optim.Optimizer]:
    """AdamW; for the matrices of transformer blocks Muon (Jordan et al., 2024), where a rate for it is given.

    Vectors (biases, norms) are not decayed. Where weights are many, AdamW takes one tensor after the other: all of them
    at once, its default on a GPU, holds 4 bytes more for each weight while it steps.
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
        foreach=False if sum(p.numel() for p in rest) > _MANY else None,
    )
    if not matrices:
        return [adam]
    kind = torch.optim.Muon if runtime.computes_bfloat16(matrices[0].device) else Float32Muon
    return [adam, kind(matrices, lr=muon, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")]


class Float32Muon(torch.optim.Muon):
    """Muon that computes in the weights' own type; torch's always computes in bfloat16.

    State and settings are torch's, so that a run goes on with either. For a matrix W with gradient G, momentum B:

        B <- mu B + (1 - mu) G,   X = (1 - mu) G + mu B,   X <- X / |X|
        X <- a X + (b S + c S S) X with S = X X', five times: singular values become about 1
        W <- (1 - lr decay) W - 0.2 lr sqrt(max(rows, columns)) X
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            a, b, c = group["ns_coefficients"]
            mu = group["momentum"]
            for p in (p for p in group["params"] if p.grad is not None):
                momentum = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p.grad))
                momentum.lerp_(p.grad, 1 - mu)
                x = p.grad.lerp(momentum, mu)
                tall = x.shape[0] > x.shape[1]
                x = x.T if tall else x
                x = x / x.norm().clamp(min=group["eps"])
                for _ in range(group["ns_steps"]):
                    square = x @ x.T
                    x = a * x + (b * square + c * square @ square) @ x
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(x.T if tall else x, alpha=-0.2 * group["lr"] * max(p.shape) ** 0.5)


def in_block(name: str) -> bool:
    """Whether a parameter is one of a numbered block's, such as blocks.3. or transformer_blocks.3."""
    return re.search(r"blocks?\.\d+\.", name) is not None


def clip_gradients(weights: Mapping[str, nn.Parameter], highest: float) -> Tensor:
    """Scales gradients to a norm of at most `highest`; the norm before, over all processes."""
    norm = nn.utils.clip_grad_norm_(weights.values(), highest)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


class NonFiniteSteps:
    """Counts steps whose loss or gradient is no finite number: in all, and in a row. `most` in a row are too many."""

    def __init__(self, most: int):
        self.most, self.count, self.row = most, 0, 0

    def __call__(self, values: Mapping[str, float]) -> bool:
        """Whether the step with this `loss` and `norm` is one."""
        broken = not (isfinite(values["loss"]) and isfinite(values["norm"]))
        self.count += broken
        self.row = self.row + 1 if broken else 0
        return broken

    @property
    def too_many(self) -> bool:
        """Whether as many steps in a row as may be were left out."""
        return self.row >= self.most


class SpikeFilter:
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
