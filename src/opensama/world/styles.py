"""Looks and weathers as exact functions of frames, so that they have right answers on real clips too.

Every style takes frames [... t 3 h w] in 0..1 and the number of the first frame, and returns the same shape. Sizes of
strokes, blocks and flakes follow the picture: `px` below is 1/128 of its side (of a square of the same area), so that
a clip looks the same at every size. Nothing is thinner than two px, so that an autoencoder can hold it. Particles,
hatching and blotches are functions of place and time.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from opensama.world.scenes import FPS

LUMA = (0.299, 0.587, 0.114)


def _grey(x: Tensor) -> Tensor:
    red, green, blue = x.split(1, -3)
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def _vivid(x: Tensor, strength: float) -> Tensor:
    """Colours further from (or, below 1, nearer to) grey."""
    grey = _grey(x)
    return (grey + strength * (x - grey)).clamp(0, 1)


def _flat(x: Tensor, how: Callable[[Tensor], Tensor]) -> Tensor:
    """Runs an image operation [n c h w] over any leading dimensions."""
    out = how(x.reshape(-1, *x.shape[-3:]))
    return out.view(*x.shape[:-3], *out.shape[-3:])


def _px(x: Tensor) -> float:
    """How many pixels make 1/128 of the picture's side."""
    return math.sqrt(x.shape[-1] * x.shape[-2]) / 128


def _mean(x: Tensor, window: int) -> Tensor:
    """Mean of every window x window pixels [n c h w]; each side shrinks by window - 1."""
    h, w = x.shape[-2] - window + 1, x.shape[-1] - window + 1
    across = sum((x[..., i : i + w] for i in range(1, window)), x[..., :w])
    return sum((across[..., i : i + h, :] for i in range(1, window)), across[..., :h, :]) / window**2


def _soft(x: Tensor, radius: float) -> Tensor:
    """A wide blur, made on a smaller picture."""
    step = max(1, int(radius * _px(x)))
    h, w = x.shape[-2:]

    def smaller(y: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(y, (-(-h // step), -(-w // step)))

    def larger(y: Tensor) -> Tensor:
        y = F.pad(y, (1, 1, 1, 1), mode="replicate")
        return F.interpolate(_mean(y, 3), (h, w), mode="bilinear")

    return _flat(x, lambda y: larger(smaller(y)))


def _painted(x: Tensor, reach: float) -> Tensor:
    """Small, with areas evened out and edges kept: each point takes the mean of the calmest of the four squares that
    it is a corner of (Kuwahara's filter, softly chosen). Half as many rows and columns or fewer."""
    step = max(2, round(_px(x) / 2))
    h, w = (-(-side // step) for side in x.shape[-2:])
    r = max(1, round(reach * _px(x) / step))

    def even(y: Tensor) -> Tensor:
        y = F.adaptive_avg_pool2d(y, (h, w))
        y = F.pad(y, (r, r, r, r), mode="replicate")
        mean, square = _mean(y, r + 1), _mean(_grey(y).square(), r + 1)
        unrest = (square - _grey(mean).square()).clamp(min=0) + 1e-4
        calm = (1e3 * unrest).reciprocal()
        weight = calm * calm * calm
        total = torch.zeros_like(mean[..., r:, r:])
        weights = torch.zeros_like(total[:, :1])
        for top in (0, r):
            for left in (0, r):
                here = (..., slice(top, top + h), slice(left, left + w))
                total = total + weight[here] * mean[here]
                weights = weights + weight[here]
        return (total / weights).contiguous()

    return _flat(x, even)


def _large(small: Tensor, x: Tensor) -> Tensor:
    return _flat(small, lambda y: F.interpolate(y, x.shape[-2:], mode="bilinear"))


def _slope(x: Tensor) -> Tensor:
    """The strongest channel's change a px [... 1 h w]."""
    y = F.pad(x.reshape(-1, *x.shape[-3:]), (1, 1, 1, 1), mode="replicate")
    dx = y[..., 1:-1, 2:] - y[..., 1:-1, :-2]
    dy = y[..., 2:, 1:-1] - y[..., :-2, 1:-1]
    steepest = (dx.square() + dy.square()).amax(1, keepdim=True).sqrt()
    return (steepest * _px(x) / 2).view(*x.shape[:-3], 1, *x.shape[-2:])


def _where(x: Tensor) -> tuple[Tensor, Tensor]:
    """Pixel centres: across 0..1 [w], down 0..1 [h 1]."""
    across = (torch.arange(x.shape[-1], device=x.device) + 0.5) / x.shape[-1]
    down = (torch.arange(x.shape[-2], device=x.device) + 0.5) / x.shape[-2]
    return across, down[:, None]


def _place(x: Tensor) -> tuple[Tensor, Tensor]:
    """Pixel centres in px: across [w], down [h 1]."""
    across, down = _where(x)
    return across * (x.shape[-1] / _px(x)), down * (x.shape[-2] / _px(x))


def _seconds(x: Tensor, first: int) -> Tensor:
    return (torch.arange(x.shape[-4], device=x.device) + first).view(-1, 1, 1, 1) / FPS


def _color(x: Tensor, *rgb: float) -> Tensor:
    return torch.tensor(rgb, device=x.device, dtype=x.dtype).view(3, 1, 1)


def black_and_white(x: Tensor, first: int = 0) -> Tensor:
    return _grey(x).expand_as(x).clone()


def sepia(x: Tensor, first: int = 0) -> Tensor:
    return (_grey(x) * _color(x, 1.08, 0.86, 0.62) + _color(x, 0.06, 0.03, 0.0)).clamp(0, 1)


def night(x: Tensor, first: int = 0) -> Tensor:
    dim = _vivid(x, 0.5)
    return (dim.square() * _color(x, 0.4, 0.5, 0.88) + _color(x, 0.02, 0.03, 0.1)).clamp(0, 1)


def sunset(x: Tensor, first: int = 0) -> Tensor:
    _, down = _where(x)
    glow = _color(x, 1.0, 0.45, 0.15) * (0.45 * (1 - down))
    return (x * _color(x, 0.95, 0.68, 0.52) * 0.8 + glow).clamp(0, 1)


def fog(x: Tensor, first: int = 0) -> Tensor:
    _, down = _where(x)
    thick = 0.72 - 0.32 * down
    return _soft(x, 1) * (1 - thick) + 0.86 * thick


def _flakes(x: Tensor, first: int, cell: float, fall: float, drift: float, radius: float) -> Tensor:
    """Coverage [t 1 h w] of soft discs, one in each square cell of a sheet that falls; all lengths in px."""
    across, down = _place(x)
    seconds = _seconds(x, first)
    u = (across - drift * seconds) / cell
    v = (down - fall * seconds) / cell
    column, row = u.floor(), v.floor()
    seed = torch.sin(column * 12.71 + row * 31.17) * 43.5453
    chance = torch.stack([seed, seed * 7.31, seed * 3.17])
    right, below, size = chance - chance.floor()
    here = radius / cell * (0.75 + 0.35 * size)
    du = u - column - 0.3 - 0.4 * right
    dv = v - row - 0.3 - 0.4 * below
    return ((here - torch.hypot(du, dv)) * (cell / 2) + 0.5).clamp(0, 1)


def _cold(x: Tensor) -> Tensor:
    """A pale light, and snow on the ground."""
    _, down = _where(x)
    cold = _vivid(x, 0.6) * 0.8 + _color(x, 0.1, 0.12, 0.15)
    ground = 0.6 * ((down - 0.4) / 0.5).clamp(0, 1)
    return cold + ground * (0.93 - cold)


def snow(x: Tensor, first: int = 0) -> Tensor:
    cold = _cold(x)
    far = _flakes(x, first, 22, fall=16, drift=3, radius=3)
    near = _flakes(x, first, 40, fall=24, drift=6, radius=5.5)
    cover = torch.maximum(0.8 * far, near)
    return (cold + cover * (1 - cold)).clamp(0, 1)


def _dull(x: Tensor) -> Tensor:
    """The light of a rainy day."""
    return _vivid(x, 0.4) * _color(x, 0.6, 0.67, 0.77)


def rain(x: Tensor, first: int = 0) -> Tensor:
    """Slanted streaks in lanes of 10 px, each lane with its own beat, falling along their own direction."""
    across, down = _place(x)
    dull = _dull(x)
    sheared = (across + 0.22 * down) / 10
    lane = sheared.floor()
    beat = torch.sin(lane * 12.71) * 43.5453
    along = (down - 64 * _seconds(x, first)) / 64 + beat
    along = (along - along.floor() - 0.5).abs()
    sideways = (sheared - lane - 0.5).abs() * 10
    cover = ((0.3 - along) * 8).clamp(0, 1) * (2 - sideways).clamp(0, 1)
    return (dull + 0.6 * cover * (_color(x, 0.82, 0.88, 0.98) - dull)).clamp(0, 1)


def watercolor(x: Tensor, first: int = 0) -> Tensor:
    """Washes of pigment on white paper: outlines waver, pigment gathers at the rims and in blotches, the
    margin stays bare."""
    across, down = _place(x)
    waver = torch.stack((torch.sin(0.37 * down + 0.11 * across), torch.sin(0.31 * across - 0.13 * down)), -1)
    straight = torch.stack(torch.broadcast_tensors(across / across[-1], down / down[-1]), -1) * 2 - 1
    grid = straight + waver * (2 * 0.8 / 128)
    wash = _flat(
        _vivid(_painted(x, 2), 1.3),
        lambda y: F.grid_sample(
            y, grid.expand(len(y), -1, -1, -1).to(y.dtype), padding_mode="border", align_corners=False
        ),
    )
    blotch = torch.sin(0.11 * across + 0.06 * down + 1.2 * torch.sin(0.04 * across - 0.09 * down))
    blotch = blotch + torch.sin(0.05 * across - 0.12 * down + 1.2 * torch.sin(0.08 * across + 0.03 * down))
    rim = (7 * _slope(wash) - 0.3).clamp(0, 1)
    pigment = 0.64 + 0.13 * blotch + 0.45 * rim
    wide, high = x.shape[-1] / _px(x), x.shape[-2] / _px(x)
    margin = torch.minimum(torch.minimum(across, wide - across), torch.minimum(down, high - down))
    paper = (1 - (margin + 1.5 * waver.sum(-1) - 2) / 5).clamp(0, 1)
    return (0.97 - (1 - wash) * (pigment * (1 - paper))).clamp(0, 1)


def pencil_sketch(x: Tensor, first: int = 0) -> Tensor:
    """Outlines and, where it is dark, slanted hatching whose strokes are wider in darker places."""
    across, down = _place(x)
    flat = _large(_painted(x, 2), x)
    line = (9 * _slope(flat) - 0.3).clamp(0, 1)
    stroke = (((across + down) / 8) % 1 - 0.5).abs() * 2  # 0 in the middle of a stroke, 1 between two
    dark = (0.95 - 1.5 * _soft(_grey(flat), 3)).clamp(-0.3, 0.75)
    hatch = ((dark - stroke) * 3 + 0.5).clamp(0, 1)
    return (0.96 - 0.18 * hatch - 0.8 * line).clamp(0.08, 1).expand_as(x).clone()


def _palette() -> tuple[tuple[float, float, float], ...]:
    """Greys, and twelve hues as pastel, full, muted and dark."""
    greys = [(v, v, v) for v in (0.04, 0.25, 0.45, 0.65, 0.82, 0.98)]
    hues = [
        colorsys.hsv_to_rgb(i / 12, s, v)
        for i in range(12)
        for s, v in ((0.35, 0.95), (0.85, 0.9), (0.4, 0.65), (0.7, 0.4))
    ]
    return (*greys, *hues)


PALETTE = _palette()


def pixel_art(x: Tensor, first: int = 0) -> Tensor:
    """16 blocks a side, each in the nearest colour of a small palette."""
    h, w = x.shape[-2:]
    rows, columns = (max(1, round(16 * math.sqrt(side))) for side in (h / w, w / h))
    colors = torch.tensor(PALETTE, device=x.device, dtype=x.dtype)

    def blocks(y: Tensor) -> Tensor:
        strong = _vivid(F.adaptive_avg_pool2d(y, (rows, columns)), 1.4).movedim(1, -1)
        nearest = torch.cdist(strong.flatten(1, 2), colors).argmin(-1)
        picture = colors[nearest].view(len(y), rows, columns, 3).movedim(-1, 1)
        return F.interpolate(picture, (h, w), mode="nearest-exact")

    return _flat(x, blocks)


def cartoon(x: Tensor, first: int = 0) -> Tensor:
    """Even areas in four lightnesses and strong colours, inked outlines."""
    flat = _large(_painted(x, 2), x)
    grey = _grey(flat)
    level = 4 * grey
    steps = (level.floor() + torch.sigmoid(16 * (level - level.floor() - 0.5))) / 4
    ink = (10 * _slope(flat) - 0.3).clamp(0, 1)
    return (1.7 * flat + (steps - 1.7 * grey)).clamp(0, 1) * (1 - 0.95 * ink)


def neon(x: Tensor, first: int = 0) -> Tensor:
    across, down = _where(x)
    edge = (9 * _slope(_large(_painted(x, 2), x)) - 0.1).clamp(0, 1)
    glow = edge + 0.7 * _soft(edge, 4)
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

WITHOUT_PARTICLES: dict[str, Callable[[Tensor], Tensor]] = {"snow": _cold, "rain": _dull}
"""The weathers' light alone, without what falls."""


def apply_style(name: str, frames: Tensor, first: int = 0) -> Tensor:
    """`frames` [... t 3 h w] in 0..1 in the look called `name`; `first` is the number of the first frame."""
    if frames.ndim > 4 and frames.device.type == "cpu" and len(frames):  # a clip at a time stays in the cache
        return torch.stack([apply_style(name, clip, first) for clip in frames])
    return STYLES[name](frames, first)
