"""The small video autoencoder of the embedded models, with the interface of `AutoencoderKLWan`.

    latents [b 192 1+k h/16 w/16]  <->  frames [b 3 1+4k h w] in [-1, 1]

The first frame makes one latent frame, then every four make one. Each latent frame depends on its own frames alone, so
the code is causal in time, clips can be cut at multiples of four, and memory is bounded by one group of four frames.
The code is a linear map of 16x16 patches, their principal components; the way back, the same map transposed, carries
most of the picture, and a convolutional decoder of three scales (1/16, 1/8, 1/4) adds what linear maps cannot, such as
sharp edges. So a transformer that was trained on these codes stays right when the decoder is trained further. There is
no noise. `deblocking` smooths the borders of cells, see `deblocked`; 0 leaves them as they are.

The first frame and the groups share their meaning as far as they can: a still picture gives nearly the same latent
either way, so that what a transformer learns on images holds for videos.

Offloading moves a module's weights to where it computes when its `forward` is called, so `encode` and `decode` go
through that one door.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import AutoencoderMixin, DecoderOutput, IdentityDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn


class Components(nn.Linear):
    """A linear map with orthogonal rows, and the way back: hooks that bring weights see one `forward` for both."""

    def forward(self, x: Tensor, back: bool = False) -> Tensor:
        if not back:
            return super().forward(x)
        lengths = self.weight.float().square().sum(1).to(x.dtype)
        return ((x - self.bias) / lengths) @ self.weight


class Residual(nn.Module):
    """x + conv(silu(conv(silu(x)))), the identity at the start."""

    def __init__(self, width: int):
        super().__init__()
        self.inner = nn.Conv2d(width, width, 3, padding=1)
        self.outer = nn.Conv2d(width, width, 3, padding=1)
        _zero_init(self.outer)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(F.silu(self.inner(F.silu(x))))


def _zero_init(layer: nn.Module) -> None:
    """A layer whose output is zero until it is trained."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def _stage(width: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(*(Residual(width) for _ in range(blocks)))


def deblocked(frames: Tensor, below: float) -> Tensor:
    """Frames [b 3 t h w] whose cells of 16 pixels no longer show where it is smooth.

    A step of less than `below` from one cell to the next, with less than half of that beside it, becomes a ramp over
    half of either cell: a deblocking filter, as video codecs have (H.264, 8.7). A transformer that says colours cell by
    cell leaves such steps.
    """
    ramp = (torch.arange(8, device=frames.device, dtype=frames.dtype) + 0.5) / 16
    for axis in (-1, -2):
        cells = frames.transpose(axis, -1).unflatten(-1, (-1, 16))
        left, right = cells[..., :-1, 8:], cells[..., 1:, :8]
        step = right[..., 0] - left[..., -1]
        slope = (left[..., -1] - left[..., -2] + right[..., 1] - right[..., 0]) / 2
        near = torch.maximum((left[..., -1] - left[..., -3]).abs(), (right[..., 0] - right[..., 2]).abs())
        shows = (step.abs().amax(1, keepdim=True) < below) & (near.amax(1, keepdim=True) < below / 2)
        part = ((step - slope) * shows)[..., None] * ramp
        change = F.pad(part, (8, 0, 0, 1)) - F.pad(part.flip(-1), (0, 8, 1, 0))
        frames = (cells + change).flatten(-2).transpose(axis, -1)
    return frames


class PatchAutoencoder(ModelMixin, AutoencoderMixin, ConfigMixin):  # both name `config_name`
    """See the module. `config.latents_mean` and `latents_std` normalise latents as Wan's pipelines expect.

    Tiled, it takes one latent frame at a time: the same numbers, in the memory that one takes.
    """

    _group_offload_block_modules: list[str] = []  # noqa: RUF012  (lists of blocks apart, the rest with `forward`)
    _keys_to_ignore_on_load_unexpected: list[str] = ["linear_out"]  # noqa: RUF012  (older folders store the way back)
    use_tiling = False

    @register_to_config
    def __init__(
        self,
        z_dim: int = 192,
        widths: tuple[int, int, int] = (64, 96, 144),
        decoder_blocks: tuple[int, int, int] = (2, 2, 2),
        latents_mean: tuple[float, ...] | None = None,
        latents_std: tuple[float, ...] | None = None,
        scale_factor_temporal: int = 4,
        scale_factor_spatial: int = 16,
        deblocking: float = 0.0,
    ):
        super().__init__()
        if (scale_factor_temporal, scale_factor_spatial) != (4, 16):
            raise ValueError("PatchAutoencoder compresses by 4 in time and 16 in space, no other factors are built")
        if latents_mean is None:
            self.register_to_config(latents_mean=(0.0,) * z_dim)
        if latents_std is None:
            self.register_to_config(latents_std=(1.0,) * z_dim)
        fine, middle, coarse = widths
        patch = 3 * 16 * 16
        self.linear_in = nn.ModuleDict({"first": Components(patch, z_dim), "group": Components(4 * patch, z_dim)})

        self.spread: Tensor
        self.register_buffer("spread", torch.ones(z_dim))  # of each number: convolutions see them evened out
        self.split = nn.ModuleDict({"first": nn.Conv2d(z_dim, coarse, 1), "group": nn.Conv2d(z_dim, 4 * coarse, 1)})
        self.up = nn.ModuleList((nn.Conv2d(middle, 4 * fine, 1), nn.Conv2d(coarse, 4 * middle, 1)))
        self.decode_stages = nn.ModuleList(map(_stage, widths, decoder_blocks))
        self.paint = nn.Conv2d(fine, 48, 3, padding=1)
        _zero_init(self.paint)  # the linear map alone at the start

    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderKLOutput:
        """Frames [b 3 1+4k h w] in [-1, 1], h and w multiples of 16, to `latent_dist` over [b 192 1+k h/16 w/16]."""
        posterior = IdentityDistribution(self(x, "encode"))
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(self, z: Tensor, return_dict: bool = True) -> DecoderOutput:
        """Latents [b 192 1+k h/16 w/16] to `sample`, frames [b 3 1+4k h w]."""
        frames = self(z, "decode")
        return DecoderOutput(sample=frames) if return_dict else (frames,)

    def forward(
        self, x: Tensor, way: Literal["encode", "decode", "both"] = "both", *, return_dict: bool = True
    ) -> Tensor | DecoderOutput | tuple[Tensor]:
        """Latents of frames, frames of latents, or frames there and back: as they are, or `both` as a DecoderOutput."""
        if way == "decode":
            return self._parts(x, self._decode, 1)
        b, c, t, h, w = x.shape
        if c != 3 or t % 4 != 1 or h % 16 or w % 16:
            raise ValueError(
                f"frames of shape {tuple(x.shape)} do not fit: 3 channels, 4k+1 frames and sides that are multiples of "
                "16 are needed"
            )
        z = self._parts(x, self._encode, 4)
        if way == "encode":
            return z
        frames = self._parts(z, self._decode, 1)
        return DecoderOutput(sample=frames) if return_dict else (frames,)

    def _parts(self, x: Tensor, change: Callable[[Tensor, str], Tensor], group: int) -> Tensor:
        """The first frame and the groups, each changed on its own, put together again."""
        parts = [change(x[:, :, :1], "first")]
        if x.shape[2] > 1:
            pieces = x[:, :, 1:].split(group if self.use_tiling else x.shape[2], dim=2)
            parts += [change(piece, "group") for piece in pieces]
        return torch.cat(parts, 2)

    def _encode(self, x: Tensor, kind: str) -> Tensor:
        size = 1 if kind == "first" else 4
        b, _, t, h, w = x.shape
        k = t // size
        patches = (
            x.view(b, 3, k, size, h // 16, 16, w // 16, 16)
            .permute(0, 2, 4, 6, 3, 1, 5, 7)
            .reshape(b * k, h // 16, w // 16, -1)
        )
        z = self.linear_in[kind](patches)
        return z.view(b, k, h // 16, w // 16, -1).permute(0, 4, 1, 2, 3)

    def _decode(self, z: Tensor, kind: str) -> Tensor:
        size = 1 if kind == "first" else 4
        b, c, k, h, w = z.shape
        z = z.transpose(1, 2).reshape(b * k, c, h, w)
        patches = self.linear_in[kind](z.permute(0, 2, 3, 1), back=True)
        linear = patches.view(b, k, h, w, size, 3, 16, 16).permute(0, 5, 1, 4, 2, 6, 3, 7)
        f = self.split[kind](z / self.spread.view(-1, 1, 1)).reshape(b * k * size, -1, h, w)
        f = f.contiguous(memory_format=torch.channels_last)  # a quarter quicker on a CPU, to the rounding the same
        f = F.pixel_shuffle(self.up[1](self.decode_stages[2](f)), 2)
        f = F.pixel_shuffle(self.up[0](self.decode_stages[1](f)), 2)
        f = F.pixel_shuffle(self.paint(F.silu(self.decode_stages[0](f))), 4)
        detail = f.view(b, k * size, 3, 16 * h, 16 * w).transpose(1, 2)
        frames = linear.reshape(b, 3, k * size, 16 * h, 16 * w) + detail
        return deblocked(frames, self.config["deblocking"]) if self.config["deblocking"] else frames

    @torch.no_grad()
    def start_from_components(self, clips: Tensor, shared: int | None = None) -> None:
        """Sets the linear maps to principal components of 16x16 patches of `clips` [b 3 5 h w] in [-1, 1].

        The first `shared` numbers of a group of four frames (five eighths of them unless said) are those of its mean
        frame; the rest, the strongest of what remains. So stills and groups agree in the shared numbers.
        """
        z_dim, patch = int(self.config["z_dim"]), 3 * 16 * 16
        shared = 5 * z_dim // 8 if shared is None else shared
        b, _, t, h, w = clips.shape
        if t != 5:
            raise ValueError(f"clips of 5 frames are needed (one and a group of four), not {t}")
        p = clips.view(b, 3, t, h // 16, 16, w // 16, 16).permute(0, 3, 5, 2, 1, 4, 6).reshape(-1, t, patch).float()
        first, group = p[:, 0], p[:, 1:]

        def components(rows: Tensor, n: int) -> Tensor:
            return torch.svd_lowrank(rows, n + 8, niter=6)[2][:, :n].T

        basis = components(torch.cat((first, group.mean(1))), z_dim)
        steady = basis[:shared].repeat(1, 4) / 2  # orthonormal rows over four frames
        rows = group.reshape(len(group), -1)
        rest = rows - rows @ steady.T @ steady
        basis_group = torch.cat((steady, components(rest, z_dim - shared)))
        # a steady picture is four times itself in the group's space: half of it makes the same numbers as alone
        self.spread.copy_((first @ basis.T).std(0))
        for kind, rows_in in (("first", basis), ("group", basis_group / 2)):
            linear = self.linear_in[kind]
            assert isinstance(linear, nn.Linear)
            linear.weight.copy_(rows_in)
            linear.bias.zero_()
