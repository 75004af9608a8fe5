"""Looks and weathers as exact functions of frames, so that they have right answers on real clips too.

Every style takes frames [... t 3 h w] in 0..1 and the number of the first frame, and returns the same shape. Sizes of
strokes, blocks and flakes follow the picture (a 128x128 frame is the unit), particles are functions of place and time.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from opensama.world.scenes import FPS

LUMA = (0.299, 0.587, 0.114)


def _grey(x: Tensor) -> Tensor:
    weights = torch.tensor(LUMA, device=x.device, dtype=x.dtype).view(3, 1, 1)
    return (x * weights).sum(-3, keepdim=True)


def _flat(x: Tensor, how: Callable[[Tensor], Tensor]) -> Tensor:
    """Runs an image operation [n c h w] over any leading dimensions."""
    out = how(x.reshape(-1, *x.shape[-3:]))
    return out.view(*x.shape[:-3], *out.shape[-3:])


def _unit(x: Tensor) -> float:
    return math.sqrt(x.shape[-1] * x.shape[-2]) / 128


def _blur(x: Tensor, radius: float) -> Tensor:
    """Two box passes, close to a Gaussian; radius in pixels of a 128x128 frame."""
    r = max(1, round(radius * _unit(x)))

    def box(y: Tensor) -> Tensor:
        return F.avg_pool2d(F.pad(y, (r, r, r, r), mode="replicate"), 2 * r + 1, stride=1)

    r = min(r, x.shape[-1] - 1, x.shape[-2] - 1)
    return _flat(x, lambda y: box(box(y))) if r > 0 else x


def _slope(x: Tensor) -> Tensor:
    """Edge strength of each channel, per 1/128 of the frame."""
    y = F.pad(x.reshape(-1, *x.shape[-3:]), (1, 1, 1, 1), mode="replicate")
    dx = y[..., 1:-1, 2:] - y[..., 1:-1, :-2]
    dy = y[..., 2:, 1:-1] - y[..., :-2, 1:-1]
    return (torch.hypot(dx, dy) * _unit(x) / 2).view(x.shape)


def _where(x: Tensor) -> tuple[Tensor, Tensor]:
    """Pixel centres: across 0..1 [w], down 0..1 [h 1]."""
    across = (torch.arange(x.shape[-1], device=x.device) + 0.5) / x.shape[-1]
    down = (torch.arange(x.shape[-2], device=x.device) + 0.5) / x.shape[-2]
    return across, down[:, None]


def _color(x: Tensor, *rgb: float) -> Tensor:
    return torch.tensor(rgb, device=x.device, dtype=x.dtype).view(3, 1, 1)


def black_and_white(x: Tensor, first: int = 0) -> Tensor:
    return _grey(x).expand_as(x).clone()


def sepia(x: Tensor, first: int = 0) -> Tensor:
    return (_grey(x) * _color(x, 1.08, 0.86, 0.62) + _color(x, 0.06, 0.03, 0.0)).clamp(0, 1)


def night(x: Tensor, first: int = 0) -> Tensor:
    dim = 0.5 * x + 0.5 * _grey(x)
    return (dim.square() * _color(x, 0.3, 0.4, 0.75) + _color(x, 0.0, 0.01, 0.06)).clamp(0, 1)


def sunset(x: Tensor, first: int = 0) -> Tensor:
    _, down = _where(x)
    glow = _color(x, 1.0, 0.45, 0.15) * (0.45 * (1 - down))
    return (x * _color(x, 0.95, 0.68, 0.52) * 0.8 + glow).clamp(0, 1)


def fog(x: Tensor, first: int = 0) -> Tensor:
    _, down = _where(x)
    thick = 0.78 - 0.35 * down
    return _blur(x, 1) * (1 - thick) + 0.86 * thick


def _particles(x: Tensor, first: int, cells: int, fall: float, drift: float, long: float, radius: float) -> Tensor:
    """Coverage [t 1 h w] of one particle a cell, on a sheet that falls; a function of place and time alone."""
    across, down = _where(x)
    ratio = x.shape[-1] / x.shape[-2]
    seconds = (torch.arange(x.shape[-4], device=x.device) + first).view(-1, 1, 1) / FPS
    u = across * cells * math.sqrt(ratio) - drift * seconds
    v = down * cells / math.sqrt(ratio) - fall * seconds
    column, row = u.floor(), v.floor()
    seed = torch.sin(column * 127.1 + row * 311.7) * 43.5453
    jitter_u, jitter_v = seed - seed.floor(), (seed * 7.31) - (seed * 7.31).floor()
    du = u - column - 0.25 - 0.5 * jitter_u
    dv = v - row - 0.3 - 0.4 * jitter_v
    gone = torch.hypot(du, dv / long) - radius
    return (0.5 - gone * x.shape[-1] / cells / math.sqrt(ratio)).clamp(0, 1)[:, None]


def snow(x: Tensor, first: int = 0) -> Tensor:
    _, down = _where(x)
    cold = 0.6 * x + 0.4 * _grey(x)
    ground = 0.35 * ((down - 0.45) / 0.4).clamp(0, 1)
    cold = cold * 0.85 + 0.12 + ground * (0.93 - cold)
    cover = _particles(x, first, 7, fall=1.6, drift=0.5, long=1.0, radius=0.16)
    return (cold + cover * (1 - cold)).clamp(0, 1)


def rain(x: Tensor, first: int = 0) -> Tensor:
    dull = (0.45 * x + 0.55 * _grey(x)) * _color(x, 0.62, 0.68, 0.76)
    cover = _particles(x, first, 10, fall=9.0, drift=-0.6, long=4.5, radius=0.09)
    return (dull + 0.55 * cover * (_color(x, 0.85, 0.9, 1.0) - dull)).clamp(0, 1)


def watercolor(x: Tensor, first: int = 0) -> Tensor:
    across, down = _where(x)
    wash = _blur(x, 2.5)
    wet = (0.5 + 0.5 * torch.sin(23 * across + 4 * torch.sin(17 * down))) * (0.5 + 0.5 * torch.sin(29 * down))
    pale = 0.38 + 0.62 * (wash + 0.35 * (wash - _grey(wash)))
    rim = (6 * _slope(wash).amax(-3, keepdim=True)).clamp(0, 1)
    return (pale * (1 - 0.45 * rim) + 0.12 * wet * (1 - rim)).clamp(0, 1)


def pencil_sketch(x: Tensor, first: int = 0) -> Tensor:
    line = (9 * _slope(_blur(x, 0.5)).amax(-3, keepdim=True)).clamp(0, 1)
    tone = 0.9 - 0.15 * (1 - _blur(_grey(x), 3))
    return (tone - 0.78 * line).clamp(0, 1).expand_as(x).clone()


def pixel_art(x: Tensor, first: int = 0) -> Tensor:
    """Blocks of 1/16 of the frame's side, four strong levels a channel."""
    h, w = x.shape[-2:]
    rows, columns = (max(1, round(16 * math.sqrt(side))) for side in (h / w, w / h))
    small = _flat(x, lambda y: F.adaptive_avg_pool2d(y, (rows, columns)))
    strong = _grey(small) + 1.5 * (small - _grey(small))
    level = (strong.clamp(0, 1) * 3).round() / 3
    return _flat(level, lambda y: F.interpolate(y, (h, w), mode="nearest-exact"))


def cartoon(x: Tensor, first: int = 0) -> Tensor:
    smooth = _blur(x, 1)
    vivid = (_grey(smooth) + 1.6 * (smooth - _grey(smooth))).clamp(0, 1)
    level = vivid * 3
    steps = (level.floor() + torch.sigmoid(14 * (level - level.floor() - 0.5))) / 3
    ink = (10 * _slope(smooth).amax(-3, keepdim=True) - 0.25).clamp(0, 1)
    return ((0.12 + 0.88 * steps) * (1 - ink)).clamp(0, 1)


def neon(x: Tensor, first: int = 0) -> Tensor:
    across, down = _where(x)
    edge = (9 * _slope(_blur(x, 1)).amax(-3, keepdim=True)).clamp(0, 1)
    glow = edge + 0.7 * _blur(edge, 3)
    phase = torch.stack([math.tau * (0.5 * across + 0.5 * down) + shift for shift in (0.0, 2.1, 4.2)])
    tint = 0.55 + 0.45 * torch.cos(phase)
    return (glow * tint + 0.1 * x * _color(x, 0.5, 0.3, 0.9)).clamp(0, 1)


STYLES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "watercolor": watercolor,
    "pencil sketch": pencil_sketch,
    "pixel art": pixel_art,
    "cartoon": cartoon,
    "neon": neon,
    "black and white": black_and_white,
    "sepia": sepia,
    "night": night,
    "sunset": sunset,
    "snow": snow,
    "rain": rain,
    "fog": fog,
}


def apply_style(name: str, frames: Tensor, first: int = 0) -> Tensor:
    """`frames` [... t 3 h w] in 0..1 in the look called `name`; `first` is the number of the first frame."""
    return STYLES[name](frames, first)
