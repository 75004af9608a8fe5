"""From noise to data: the path, time sampling, guidance and losses of rectified flow.

    x_sigma = (1 - sigma) * data + sigma * noise        sigma = 1 is noise, sigma = 0 is data
    velocity = dx/dsigma = noise - data                 what every model here predicts
    shift:   sigma' = s * sigma / (1 + (s - 1) * sigma) s = 5 for SAMA (its released sampler)
    APG:     data = x - sigma * velocity, guided there  arXiv 2410.02416
    loss:    mean |v - v*|^2  +  0.1 * mean |u - u*|    video velocity, semantic velocity (SAMA, equations 4 and 5)

The paper writes the same path with time running the other way (its t is 1 - sigma).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from opensama.values.names import TimeSampling

if TYPE_CHECKING:
    from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer


def shift_sigma(sigma: Tensor, shift: float) -> Tensor:
    """Moves noise levels towards 1 (shift > 1), as long token sequences need; the ends 0 and 1 stay."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def sample_sigma(
    b: int,
    *,
    how: TimeSampling = "uniform",
    shift: float = 1.0,
    mean: float = 0.0,
    scale: float = 1.29,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Noise levels for training, one a sample: [b] float32 in (0, 1), on the generator's device.

    `mean` is the logit-normal's; `scale` says how much likelier mode makes middle levels (arXiv 2403.03206, eq. 20).
    """
    device = None if generator is None else generator.device
    if how == "uniform":
        sigma = torch.rand(b, generator=generator, device=device)
    elif how == "logit_normal":
        sigma = (torch.randn(b, generator=generator, device=device) + mean).sigmoid()
    elif how == "mode":
        u = torch.rand(b, generator=generator, device=device)
        sigma = 1 - u - scale * ((torch.pi / 2 * u).cos().square() - 1 + u)
    else:
        raise ValueError(f"unknown time sampling {how!r}: choose uniform, logit_normal or mode")
    return shift_sigma(sigma, shift)


def add_noise(data: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """The point of the path at `sigma` [b]; data and noise [b ...]."""
    sigma = sigma.to(data.dtype).view(-1, *(1,) * (data.ndim - 1))
    return torch.lerp(data, noise, sigma)


def velocity(data: Tensor, noise: Tensor) -> Tensor:
    """What the model should predict anywhere on the path."""
    return noise - data


def guide(conditional: Tensor, negative: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance on text: v_neg + scale * (v_pos - v_neg)."""
    return negative + scale * (conditional - negative)


def guide_separately(
    full: Tensor, no_text: Tensor, no_source: Tensor, *, source_scale: float, text_scale: float
) -> Tensor:
    """v_IT + s_I (v_IT - v_0T) + s_T (v_IT - v_I0): source and text each with a scale of its own.

    `full` is v_IT, `no_source` v_0T (forward without source tokens), `no_text` v_I0 (the negative prompt).
    With source_scale = 0 and text_scale = g - 1 this is `guide(..., g)`.
    """
    return full + source_scale * (full - no_source) + text_scale * (full - no_text)


def guide_chain(velocities: Sequence[Tensor], scales: Sequence[float]) -> Tensor:
    """v_0 + s_1 (v_1 - v_0) + s_2 (v_2 - v_1) + ..: every condition that is added has a scale of its own."""
    out = velocities[0]
    for scale, (before, after) in zip(scales, pairwise(velocities), strict=True):
        out = out + scale * (after - before)
    return out


def guide_projected(
    velocities: Sequence[Tensor],
    scales: Sequence[float],
    latents: Tensor,
    sigma: float,
    *,
    eta: float,
    thresholds: Sequence[float],
    momentum: Sequence[MomentumBuffer | None],
) -> Tensor:
    """The same chain by adaptive projected guidance: of the data [b c t h w] that the velocities at `sigma` predict.

    Of a difference of two, what points along the second one's own data counts `eta`; its norm in each latent frame is
    at most its threshold (0: any); what its momentum has kept of the steps before is added first.
    """
    from diffusers.guiders.adaptive_projected_guidance import normalized_guidance

    data = [latents - sigma * v for v in velocities]
    out = data[0]
    for scale, threshold, kept, (before, after) in zip(scales, thresholds, momentum, pairwise(data), strict=True):
        guided = normalized_guidance(after, before, scale, kept, eta, threshold, norm_dim=(1, 3, 4))
        out = out + (guided - before)
    return (latents - out) / sigma


def flow_loss(prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean squared velocity error of latents [b c t h w]; `weight` [b t h w] says where errors count more.

    Weights are relative within a sample: every sample counts the same, however much of it is emphasised.
    """
    error = (prediction.float() - target.float()).square().mean(1)
    if weight is None:
        return error.mean()
    return ((error * weight).flatten(1).sum(1) / weight.flatten(1).sum(1)).mean()


def semantic_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute velocity error of the semantic tokens (SAMA, equation 3)."""
    return (prediction.float() - target.float()).abs().mean()
