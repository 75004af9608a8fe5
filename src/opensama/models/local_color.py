"""Local colours: a cell is drawn as its source with other colours, and a few shapes of one colour painted over it.

    pixel' = pixel + A (pixel - mean) + b + sum_k sigmoid(f_k(t, y, x)) d_k      A [3 3], b and d_k [3]: a cell's own
    f_k: a sum of 4x4 cosines over the cell, of four frames also times t

Where an object of one colour lies on another, one map of colours recolours it, removes it or lights it otherwise,
whatever its outline: the edges are the source's own. What is new in the picture has a smooth f: its outline is where f
is 0, which moves as smoothly as the object does, while the latents of an outline that moves by a pixel change sign. So
a small transformer says some fifty smooth numbers a cell and draws sharp edges with them; number by number it paints a
blur.

Colour maps that hold for a small part of a picture: Gharbi et al., Deep Bilateral Learning for Real-Time Image
Enhancement, 2017. Outlines as zeros of a smooth function: Osher and Sethian, 1988.

It works where the autoencoder's encoder is linear in the pixels of a cell, as the embedded models' is
(`models/tiny.py`): each colour plane of a cell then has `rank` cosines that are linear in its latent.
"""

from __future__ import annotations

from functools import lru_cache
from math import pi

import torch
from torch import Tensor, nn

from opensama.models.tiny import PatchAutoencoder

_PACE = 4.0  # AdamW moves all weights alike, and these have a longer way to go than those of other layers
_SIDE, _FRAMES = 16, (1, 4)  # pixels of a cell's side; frames of a first frame's cell, and of the others'
_WAVES = 4  # of f, each way
_TOKENS = 1024  # a pass, where no gradient is kept


class LocalColor(nn.Module):
    """How source latents change as the last block's tokens say; as it is made, not at all."""

    planes: Tensor  # [2 3*rank c]: of a first frame's cell and of four frames', colour after colour
    offset: Tensor  # [2 3*rank]: the planes of zero latents
    back: Tensor  # [2 c]: times the transposed `planes`, from changes of the planes to those of a latent

    def __init__(self, d: int, c: int, rank: int, shapes: int = 0):
        super().__init__()
        self.rank, self.shapes = rank, shapes
        self.map = nn.Linear(d, 12)  # A and b
        nn.init.zeros_(self.map.weight)
        nn.init.zeros_(self.map.bias)
        if shapes:
            self.outline = nn.Linear(d, shapes * 2 * _WAVES**2)
            self.paint = nn.Linear(d, shapes * 3)
            nn.init.normal_(self.outline.weight, std=0.01)  # a product of two zeros would stay one
            for parameter in (self.outline.bias, self.paint.weight, self.paint.bias):
                nn.init.zeros_(parameter)
        for name, size in (("planes", (3 * rank, c)), ("offset", (3 * rank,)), ("back", (c,))):
            self.register_buffer(name, torch.zeros(2, *size))

    @torch.no_grad()
    def read_autoencoder(self, vae: PatchAutoencoder) -> None:
        """Takes from an autoencoder the cosines of its cells' colour planes."""
        mean, std = (torch.tensor(vae.config[f"latents_{name}"], device=vae.device) for name in ("mean", "std"))
        for i, (kind, frames) in enumerate(zip(("first", "group"), _FRAMES, strict=True)):
            layer = vae.linear_in[kind]
            assert isinstance(layer, nn.Linear)
            weight = layer.weight.float()  # [c frames*3*256], rows orthogonal and of one length
            basis = weight.unflatten(1, (frames, 3, -1)).permute(2, 0, 1, 3).flatten(2)  # [3 c pixels]
            length = weight.square().sum(1, keepdim=True)  # a plane's pixels are latent @ (basis / length)[colour]
            waves = cosines(frames, self.rank, basis.device)
            planes = (basis / length @ waves.T).transpose(1, 2).flatten(0, 1) / waves.shape[1]
            self.planes[i] = planes * std
            self.offset[i] = planes @ mean
            self.back[i] = waves.shape[1] * length[:, 0] / std.square()

    def forward(self, tokens: Tensor, source: Tensor, later: Tensor | None) -> Tensor:
        """What the target's normalised tokens [b n d] add to the source latents [b n c], in float32.

        `later` [b n] is true where a token is not of the first frame; None: all are.
        """
        if torch.is_grad_enabled():
            return self._few(tokens, source, later)
        parts = [  # the pixels of a shape are many: of long clips a few tokens at a time
            self._few(tokens[:, p], source[:, p], None if later is None else later[:, p])
            for p in (slice(start, start + _TOKENS) for start in range(0, tokens.shape[1], _TOKENS))
        ]
        return torch.cat(parts, 1)

    def _few(self, tokens: Tensor, source: Tensor, later: Tensor | None) -> Tensor:
        mixing, added = (_PACE * self.map(tokens).float()).split((9, 3), dim=-1)
        mixing, painted = mixing.unflatten(-1, (3, 3)), None
        if self.shapes:
            outlines = (_PACE * self.outline(tokens).float()).unflatten(-1, (self.shapes, -1))
            painted = outlines, (_PACE * self.paint(tokens).float()).unflatten(-1, (3, self.shapes))
        first = self._change(0, mixing, added, painted, source)
        if later is None:
            return first
        return torch.where(later[..., None], self._change(1, mixing, added, painted, source), first)

    def _change(
        self, i: int, mixing: Tensor, added: Tensor, painted: tuple[Tensor, Tensor] | None, source: Tensor
    ) -> Tensor:
        """Of a first frame's cells (0) or of four frames' (1)."""
        weight = self.planes[i].float()
        planes = nn.functional.linear(source.float(), weight, self.offset[i].float()).unflatten(-1, (3, -1))
        change = mixing @ nn.functional.pad(planes[..., 1:], (1, 0))  # the first is the mean
        change = change + nn.functional.pad(added[..., None], (0, self.rank - 1))
        if painted is not None:
            outlines, colors = painted
            waves, level = cosines(_FRAMES[i], self.rank, source.device), outline_waves(_FRAMES[i], source.device)
            inside = (outlines[..., : len(level)] @ level).sigmoid()  # [b n shapes pixels]
            change = change + colors @ (inside @ waves.T / waves.shape[1])
        return self.back[i].float() * (change.flatten(-2) @ weight)


@lru_cache(maxsize=8)
def cosines(frames: int, count: int, device: torch.device) -> Tensor:
    """The slowest cosines over a cell, [count pixels], of mean square 1; one over time is as fast as six across."""
    with torch.inference_mode(False), torch.no_grad():
        sides = frames, _SIDE, _SIDE
        orders = torch.cartesian_prod(*(torch.arange(side) for side in sides))
        slowest = (orders * torch.tensor((6, 1, 1))).square().sum(1).argsort(stable=True)[:count]
        t, y, x = (_line(side)[order] for side, order in zip(sides, orders[slowest].T, strict=True))
        return torch.einsum("nt,ny,nx->ntyx", t, y, x).flatten(1).to(device)


@lru_cache(maxsize=8)
def outline_waves(frames: int, device: torch.device) -> Tensor:
    """What `f` is a sum of: 4x4 cosines over a cell, then each of them times time from -1 to 1; [32, or 16, pixels]."""
    with torch.inference_mode(False), torch.no_grad():
        line = _line(_SIDE)[:_WAVES]
        still = torch.einsum("iy,jx->ijyx", line, line).flatten(0, 1)
        time = torch.stack((torch.ones(frames), torch.linspace(-1, 1, frames)))[:frames]
        return torch.einsum("kt,nyx->kntyx", time, still).flatten(2).flatten(0, 1).to(device)


def _line(side: int) -> Tensor:
    """The cosines over a line of pixels, [side side], each of mean square 1."""
    order, place = torch.arange(side)[:, None], torch.arange(side) + 0.5
    return torch.cos(pi * order * place / side) * torch.where(order > 0, 2**0.5, 1.0)
