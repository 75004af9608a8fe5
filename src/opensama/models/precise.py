"""Linear layers that compute in float32 under autocast: what embeds time, and what modulates with it.

Timesteps go up to 1000, and modulation acts on every token of a block: rounding there is no noise but a shift.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Float32Linear(nn.Linear):
    """nn.Linear that autocast leaves alone; without autocast it is nn.Linear."""

    def forward(self, input: Tensor) -> Tensor:
        if not under_autocast(input):
            return super().forward(input)
        with torch.autocast(input.device.type, enabled=False):
            return F.linear(input.float(), self.weight.float(), None if self.bias is None else self.bias.float())


def under_autocast(x: Tensor) -> bool:
    """Whether autocast is on for the tensor's device."""
    kind = x.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def keep_float32(modules: Iterable[nn.Module]) -> None:
    """Makes linear layers among the modules such layers, in place; names and weights stay."""
    for module in modules:
        if type(module) is nn.Linear:
            module.__class__ = Float32Linear


def modulates(module: nn.Module) -> bool:
    """Whether it is one of diffusers' norms whose shift and scale come from the time (AdaLayerNorm and its like)."""
    return "Ada" in type(module).__name__
