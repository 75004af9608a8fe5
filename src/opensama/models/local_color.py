"""Local colours: what a cell looks like once its pixels' colours are changed by one linear map, in latents.

    pixel' = pixel + A (pixel - mean) + b           A [3 3], b [3]: the transformer's, cell by cell

Where an object of one colour lies on another, one such map recolours it, removes it or lights it otherwise, whatever
its outline: the edges are the source's own. Without it a small transformer has to draw each outline anew, number by
number, and blurs it. Colour maps that hold for a small part of a picture: Gharbi et al., Deep Bilateral Learning for
Real-Time Image Enhancement, 2017.

It works where the autoencoder's encoder is linear in the pixels of a cell, as the embedded models' is
(`models/tiny.py`): each colour plane of a cell is then `rank` numbers that are linear in its latent.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from opensama.models.tiny import PatchAutoencoder

_PACE = 4.0  # AdamW moves all weights alike, and the maps have a longer way to go than those of other layers


class LocalColor(nn.Module):
    """How source latents change as the last block's tokens say; as it is made, not at all."""

    planes: Tensor  # [2 3*rank c]: of a first frame's cell and of four frames', colour after colour
    offset: Tensor  # [2 3*rank]: the planes of zero latents
    ones: Tensor  # [2 rank]: a white plane
    back: Tensor  # [2 c]: times the transposed `planes`, from changes of the planes to those of a latent

    def __init__(self, d: int, c: int, rank: int):
        super().__init__()
        self.rank = rank
        self.map = nn.Linear(d, 12)  # A and b
        for parameter in self.map.parameters():
            nn.init.zeros_(parameter)
        for name, size in (("planes", (3 * rank, c)), ("offset", (3 * rank,)), ("ones", (rank,)), ("back", (c,))):
            self.register_buffer(name, torch.zeros(2, *size))

    @torch.no_grad()
    def read_autoencoder(self, vae: PatchAutoencoder) -> None:
        """Takes the planes from an autoencoder: the strongest `rank` components of its cells' colour planes."""
        mean, std = (torch.tensor(vae.config[f"latents_{name}"], device=vae.device) for name in ("mean", "std"))
        for i, (kind, frames) in enumerate((("first", 1), ("group", 4))):
            layer = vae.linear_in[kind]
            assert isinstance(layer, nn.Linear)
            weight = layer.weight.float()  # [c frames*3*256], rows orthogonal and of one length
            basis = weight.unflatten(1, (frames, 3, -1)).permute(2, 0, 1, 3).flatten(2)  # [3 c pixels]
            length = weight.square().sum(1, keepdim=True)
            pixels = basis / length  # a plane's pixels are latent @ pixels[colour]
            strength = pixels * vae.spread[:, None]
            found = torch.linalg.eigh((strength.transpose(1, 2) @ strength).sum(0))[1][:, -self.rank :]
            found = found / found.shape[0] ** 0.5  # numbers of a plane are about as large as its pixels
            planes = (pixels @ found).transpose(1, 2).flatten(0, 1)
            self.planes[i] = planes * std
            self.offset[i] = planes @ mean
            self.ones[i] = found.sum(0)
            self.back[i] = found.shape[0] * length[:, 0] / std.square()

    def forward(self, tokens: Tensor, source: Tensor, later: Tensor | None) -> Tensor:
        """What the target's normalised tokens [b n d] add to the source latents [b n c], in float32.

        `later` [b n] is true where a token is not of the first frame; None: all are.
        """
        mixing, added = (_PACE * self.map(tokens).float()).split((9, 3), dim=-1)
        mixing = mixing.unflatten(-1, (3, 3))
        first = self._change(0, mixing, added, source)
        return first if later is None else torch.where(later[..., None], self._change(1, mixing, added, source), first)

    def _change(self, i: int, mixing: Tensor, added: Tensor, source: Tensor) -> Tensor:
        weight, ones = self.planes[i].float(), self.ones[i].float()
        planes = nn.functional.linear(source.float(), weight, self.offset[i].float()).unflatten(-1, (3, -1))
        planes = planes - (planes @ ones)[..., None] * (ones / ones.square().sum().clamp_min(1e-6))
        return self.back[i].float() * ((mixing @ planes + added[..., None] * ones).flatten(-2) @ weight)
