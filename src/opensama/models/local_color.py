"""Local colours: what a cell looks like once its pixels' colours are changed and a shape is painted on it, in latents.

    pixel' = pixel + A (pixel - mean) + b + w m(pixel) + f s(pixel)
    m = (q pixel - least) / (most - least) over the cell's pixels
    A [3 3], b, w, f, a direction of colours q [3], and a shape s: the transformer's, cell by cell

m is 1 where the cell shows one colour and 0 where it shows another, so an object on a ground is recoloured or removed
by one difference of colours w in all cells of its outline, and by b = w inside: its edges are the source's own. What is
new is one colour times a shape, so that a shape is learnt in all colours at once. Without it a small transformer has to
draw each outline anew, number by number, and blurs it. Maps of colours that hold for a small part of a picture: Gharbi
et al., Deep Bilateral Learning for Real-Time Image Enhancement, 2017.

It works where the autoencoder's encoder is linear in the pixels of a cell, as the embedded models' is
(`models/tiny.py`): each colour plane of a cell is then `rank` numbers that are linear in its latent.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from opensama.models.tiny import PatchAutoencoder

_LEAST = 0.25  # difference of two colours, of which white and black have 2 in each number


class LocalColor(nn.Module):
    """How source latents change as the last block's tokens say; as it is made, not at all."""

    planes: Tensor  # [2 3*rank c]: of a first frame's cell and of four frames', colour after colour
    offset: Tensor  # [2 3*rank]: the planes of zero latents
    ones: Tensor  # [2 rank]: a white plane
    back: Tensor  # [2 c]: times the transposed `planes`, from changes of the planes to those of a latent
    points: Tensor  # [2 rank 128]: a plane's values at some of its pixels, of two frames of four

    def __init__(self, d: int, c: int, rank: int):
        super().__init__()
        self.rank = rank
        self.map = nn.Linear(d, 18)  # A, f, w and b
        self.direction = nn.Linear(d, 3)
        self.shape = nn.Linear(d, rank)
        for parameter in self.map.parameters():
            nn.init.zeros_(parameter)
        for layer in (self.direction, self.shape):
            nn.init.normal_(layer.weight, std=d**-0.5)
            nn.init.zeros_(layer.bias)
        sizes = {"planes": (3 * rank, c), "offset": (3 * rank,), "ones": (rank,), "back": (c,), "points": (rank, 128)}
        for name, size in sizes.items():
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
            some = (found.T * found.shape[0]).unflatten(1, (frames, 16, 16))[:, ::3, ::2, ::2]
            self.points[i] = some.expand(-1, 2, -1, -1).flatten(1)

    def forward(self, tokens: Tensor, source: Tensor, later: Tensor | None) -> Tensor:
        """What the target's normalised tokens [b n d] add to the source latents [b n c], in float32.

        `later` [b n] is true where a token is not of the first frame; None: all are.
        """
        maps, direction, shape = (layer(tokens).float() for layer in (self.map, self.direction, self.shape))
        mixing = maps[..., :15].unflatten(-1, (3, 5))  # A, f and w
        first = self._change(0, mixing, maps[..., 15:], direction, shape, source)
        if later is None:
            return first
        return torch.where(later[..., None], self._change(1, mixing, maps[..., 15:], direction, shape, source), first)

    def _change(
        self, i: int, mixing: Tensor, added: Tensor, direction: Tensor, shape: Tensor, source: Tensor
    ) -> Tensor:
        weight, ones = self.planes[i].float(), self.ones[i].float()
        planes = nn.functional.linear(source.float(), weight, self.offset[i].float()).unflatten(-1, (3, -1))
        planes = planes - (planes @ ones)[..., None] * (ones / ones.square().sum().clamp_min(1e-6))
        direction = nn.functional.normalize(direction, dim=-1, eps=1e-3)
        along = (direction[..., None, :] @ planes)[..., 0, :]
        least, most = (along @ self.points[i].float()).aminmax(dim=-1, keepdim=True)
        mask = (along - least * ones) / (most - least).clamp_min(_LEAST)
        changes = mixing @ torch.cat((planes, shape[..., None, :], mask[..., None, :]), dim=-2)
        return self.back[i].float() * ((changes + added[..., None] * ones).flatten(-2) @ weight)
