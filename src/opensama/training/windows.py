"""Windows of edits: the cells around what changes, so that more edits are seen in the time of one whole frame.

Most tokens of an edit show what stays as it is. A window is a square of latent cells, the same in every latent frame;
source and target are cut alike. Rotary positions tell tokens how far apart they are, not where they lie, so a window
alone would not say where in the frame it is. So the source brings some cells from outside: the frame's corners as far
as the window leaves them out, and others by chance. An object that is asked for "on the left" has its place by these.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

ANYWHERE = 0.15  # share of the windows that lie anywhere, so that what stays is learnt, too


def cut_windows(x: Mapping[str, Tensor], side: int, beside: int, generator: torch.Generator) -> dict[str, Tensor]:
    """A window of each sample of source, target [b c t h w] and change [b t h w], as cells in a row.

    Returns target [b c 1 1 n] and change [b 1 1 n] with n = t side side, source [b c 1 1 n + t beside], whose first n
    cells are the target's, and `source_places`, `target_places`: (time, row, column) of each cell, [b n 3].
    """
    b, _, t, h, w = x["target"].shape
    device = x["change"].device
    side_y, side_x = min(side, h), min(side, w)
    share = x["change"].float().mean(1).flatten(1)
    share = share / share.sum(1, keepdim=True).clamp_min(1e-6)
    still = (share.sum(1) < 0.5).float()[:, None]  # of what changes nothing, any cell
    likely = share * (1 - ANYWHERE) + (still + ANYWHERE) / (h * w)
    middle = torch.multinomial(likely, 1, generator=generator)[:, 0]

    def first(at: Tensor, size: int, most: int) -> Tensor:
        return (at - torch.randint(size, (b,), generator=generator, device=device)).clamp(0, most - size)

    rows = first(middle // w, side_y, h)[:, None] + torch.arange(side_y, device=device)
    columns = first(middle % w, side_x, w)[:, None] + torch.arange(side_x, device=device)
    inside = (rows[:, :, None] * w + columns[:, None, :]).flatten(1)

    rank = torch.rand(b, h * w, generator=generator, device=device)
    rank[:, [0, w - 1, (h - 1) * w, h * w - 1]] += 1  # corners first
    rank.scatter_(1, inside, -1.0)
    outside = rank.topk(min(beside, h * w - side_y * side_x), dim=1).indices

    def over_time(cells: Tensor) -> Tensor:
        return (torch.arange(t, device=device)[:, None] * (h * w) + cells[:, None, :]).flatten(1)

    target = over_time(inside)
    source = torch.cat((target, over_time(outside)), 1)

    def taken(values: Tensor, cells: Tensor) -> Tensor:
        flat = values.flatten(2)
        return flat.gather(2, cells[:, None].expand(-1, flat.shape[1], -1))[:, :, None, None]

    def places(cells: Tensor) -> Tensor:
        return torch.stack((cells // (h * w), cells // w % h, cells % w), -1)

    return {
        "source": taken(x["source"], source),
        "target": taken(x["target"], target),
        "change": taken(x["change"][:, None], target)[:, 0],
        **({"objects": taken(x["objects"], target)} if "objects" in x else {}),
        "source_places": places(source),
        "target_places": places(target),
    }
