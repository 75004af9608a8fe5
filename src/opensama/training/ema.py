"""An exponential moving average of the weights, on their own device and in their own type.

    average <- k average + (1 - k) weights,   k = decay,   before step `warmup` min(decay, (1 + step) / (10 + step))

The smaller k of the first steps lets the average forget where training began. It costs memory of what came later: of
decay 0.9998 the warm-up's k falls short for the first 45,000 steps. SAMA: decay 0.9998, after every step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import inf

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor


class Average:
    """The average of named weights; of sharded ones each process holds its own shards."""

    def __init__(
        self,
        weights: Mapping[str, nn.Parameter],
        decay: float,
        warmup: float = inf,
        modules: Mapping[str, nn.Module] | None = None,
    ):
        """`modules` hold the weights; those that are sharded gather them anew where they have been exchanged."""
        self.weights, self.decay, self.warmup = weights, decay, warmup
        every = [module for root in (modules or {}).values() for module in root.modules()]
        self.sharded = [module for module in every if isinstance(module, FSDPModule)]
        self.tensors = {name: p.detach().clone() for name, p in weights.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Moves the average towards the weights after a step of that number."""
        keep = min(self.decay, (1 + step) / (10 + step)) if step < self.warmup else self.decay
        mine = [_local(p.detach()) for p in self.weights.values()]
        torch._foreach_lerp_([_local(t) for t in self.tensors.values()], mine, 1 - keep)

    @torch.no_grad()
    def write_back(self) -> None:
        """Writes the average into the weights, for good."""
        for name, p in self.weights.items():
            p.copy_(self.tensors[name])
        self.reshard()

    def reshard(self) -> None:
        """Frees what modules have gathered: after a forward pass without a backward one the outermost keeps it."""
        for module in self.sharded:
            module.reshard()

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The average in the weights' place, for a while: to look at samples of it."""
        own = {name: p.detach().clone() for name, p in self.weights.items()}
        self.write_back()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, p in self.weights.items():
                    p.copy_(own[name])
            self.reshard()


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
