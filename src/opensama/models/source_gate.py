"""How editors that are small beside their latents draw: on the source, number by number and cell by cell.

    data = g * source + (1 - g) * own + change        g: how far a number is kept;  change: `models/local_color.py`

A small transformer need carry neither the noise nor the unchanged picture through its width. Both embedded families
have these parts; the released models have none of them.

`b` batch, `c` channels, `t h w` latent time, rows, columns, `n` and `m` tokens of target and source, `d` their width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from opensama.models.local_color import LocalColor
from opensama.models.rotary import Grid

Places = tuple[Tensor, Tensor]
"""(time, row, column) of the source's tokens [b m 3], which begin with the target's, and of the target's [b n 3]."""


def check_on_source(source_gate: bool, patch: tuple[int, ...], color_rank: int, color_shapes: int) -> None:
    """ValueError for arguments of a transformer that ask for a part without what it is drawn with."""
    if color_rank and (not source_gate or patch != (1, 1, 1)):
        raise ValueError("color_rank: local colours change what source_gate keeps, in patches of one latent")
    if color_shapes and not color_rank:
        raise ValueError("color_shapes: shapes are painted in planes of local colours, which color_rank=0 leaves out")


def parts_on_source(
    d: int, c: int, color_rank: int, color_shapes: int, frame_waves: int
) -> tuple[FramePosition | None, LocalColor | None]:
    """A transformer's `frame_position` and `local_color`, which change nothing as they are made; 0 leaves each out."""
    position = FramePosition(frame_waves, d) if frame_waves else None
    return position, LocalColor(d, c, color_rank, color_shapes) if color_rank else None


class FramePosition(nn.Module):
    """Adds to tokens where in the frame they lie; nothing as it is made.

    Rotary positions enter attention as differences: by these alone a cell finds out where it is only from what others
    lie around it. "On the left" is easier to learn with cosines of the row and the column, as shares of the frame.
    """

    def __init__(self, waves: int, d: int):
        super().__init__()
        self.waves = waves
        self.proj = nn.Linear(2 * waves, d)
        for parameter in self.proj.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, source: Tensor, target: Tensor, source_grid: Grid, target_grid: Grid, places: Places | None
    ) -> tuple[Tensor, Tensor]:
        """Tokens of the source [b m d], none where there is none, and of the target [b n d], of grids or at places."""
        if places is not None:
            of_source, of_target = places
            frame = of_source  # whose last cell is the frame's
        else:
            of_source, of_target = (grid_places(grid, target.device) for grid in (source_grid, target_grid))
            frame = of_target
        target = self._add(target, of_target, frame)
        return (self._add(source, of_source, of_source) if source.shape[1] else source), target

    def _add(self, tokens: Tensor, places: Tensor, frame: Tensor) -> Tensor:
        last = frame[..., 1:].amax(dim=1, keepdim=True).clamp_min(1)
        share = places[..., 1:] / last
        waves = torch.arange(1, self.waves + 1, device=tokens.device)
        features = torch.cos(torch.pi * share[..., None] * waves).flatten(-2)
        return tokens + self.proj(features.to(self.proj.weight.dtype)).to(tokens.dtype)


def drawn_on_source(
    answer: Tensor,
    tokens: Tensor,
    noisy: Tensor,
    source: Tensor | None,
    sigma: Tensor,
    local_color: LocalColor | None,
    places: Places | None,
) -> Tensor:
    """Velocity [b c t h w] of an answer [b 2c t h w] and of the tokens [b n d] that it was read from; see `gate`."""
    if places is not None and source is not None:
        source = source[..., : noisy.shape[-1]]
    change = None
    if local_color is not None:
        grid = noisy.shape[2], noisy.shape[3], noisy.shape[4]
        cells = held(source, noisy).flatten(2).transpose(1, 2)
        change = local_color(tokens, cells, later_cells(grid, places, tokens.device))
        change = change.transpose(1, 2).unflatten(2, grid)
    return gate(answer, noisy, source, sigma, change)


def gate(answer: Tensor, noisy: Tensor, source: Tensor | None, sigma: Tensor, change: Tensor | None = None) -> Tensor:
    """Velocity [b c t h w] of an answer [b 2c t h w] that says, number by number, how far to keep the source.

        data = g * source + (1 - g) * own + change,   g = sigmoid(answer[c:]),   velocity = (noisy - data) / sigma

    `sigma` is [b]. A source that is shorter in time is held at its last frame; without one, zeros (the latents' mean)
    are in its place.
    """
    if sigma.ndim != 1:
        raise ValueError("a model with source_gate needs one timestep a sample")
    own, keep = answer.float().chunk(2, 1)
    data = torch.lerp(own, held(source, noisy), keep.sigmoid())
    if change is not None:
        data = data + change
    return (noisy.float() - data) / sigma.float().clamp_min(1e-3).view(-1, 1, 1, 1, 1)


def held(source: Tensor | None, like: Tensor) -> Tensor:
    """The source [b c t' h w] as float32 [b c t h w], its last frame repeated; zeros where there is none."""
    if source is None:
        return torch.zeros_like(like, dtype=torch.float32)
    missing = like.shape[2] - source.shape[2]
    if missing < 0 or source.shape[3:] != like.shape[3:]:
        raise ValueError(
            f"a model with source_gate needs a source of the target's rows and columns, and no longer than it: "
            f"not {tuple(source.shape[2:])} for {tuple(like.shape[2:])}"
        )
    return torch.cat([source.float(), source[:, :, -1:].float().expand(-1, -1, missing, -1, -1)], dim=2)


def grid_places(grid: Grid, device: torch.device) -> Tensor:
    """(time, row, column) of a grid's cells, [1 n 3]."""
    return torch.cartesian_prod(*(torch.arange(side, device=device) for side in grid)).view(1, -1, 3)


def later_cells(grid: Grid, places: Places | None, device: torch.device) -> Tensor | None:
    """Which of the target's cells [b n], or [1 n], are not of the first latent frame; None where none can be."""
    if places is not None:
        later = places[1][..., 0] > 0
        return later if later.any() else None
    t, h, w = grid
    return None if t == 1 else (torch.arange(t * h * w, device=device) >= h * w)[None]
