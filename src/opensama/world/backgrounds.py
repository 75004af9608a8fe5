"""What stands behind the objects: painters of landscapes, rooms, water and patterns, and looks fixed by their names.

A painter turns world coordinates into colours by four palette colours and eight wave numbers; nothing else goes in, so
a background is the same wherever and whenever the camera looks at it. A random scene paints with muted random colours
and waves, for which only the painter's own words hold ("in front of hills"); a named look fixes both, and an
instruction can ask for it ("green hills").

Letters: t frames, h w pixels. Painters see x [t 1 1 w] and y [t 1 h 1], in half-heights, y up, the palette as four
colours [3 1 1], the waves as numbers in 0..1 and the pixels per unit; they answer [t 3 h w] in 0..1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Color = tuple[float, float, float]
Paint = Callable[[Tensor, Tensor, Sequence[Tensor], Sequence[float], float], Tensor]
CHANCES = (0.62, 0.18, 0.87, 0.41, 0.03, 0.74, 0.29, 0.95, 0.53, 0.12, 0.68, 0.36, 0.81, 0.24, 0.99, 0.47)


def _edge(distance: Tensor, unit: float) -> Tensor:
    """Coverage of the side where `distance` (in world units) is positive."""
    return (distance * unit + 0.5).clamp_(0, 1)


def _chance(cell: Tensor, of: int = 0) -> Tensor:
    """A number in 0..1 for each whole number, repeating every sixteen."""
    table = torch.tensor(CHANCES, device=cell.device)
    return table[(cell.long() * (2 * of + 1) + 5 * of) % 16]


def _sky(y: Tensor, c: Sequence[Tensor]) -> Tensor:
    """[t 3 h 1], from the second colour below to the first above."""
    return torch.lerp(c[1], c[0], (0.5 + 0.5 * y).clamp(0, 1))


def _hills(x: Tensor, y: Tensor, c: Sequence[Tensor], u: Sequence[float], unit: float) -> Tensor:
    far = 0.15 + 0.22 * torch.sin((1.2 + u[0]) * x + 6.3 * u[1]) + 0.06 * torch.sin((3 + 2 * u[2]) * x + 6.3 * u[3])
    near = -0.42 + 0.16 * torch.sin((1.0 + u[4]) * x + 6.3 * u[5])
    out = torch.lerp(_sky(y, c), c[2], _edge(far - y, unit))
    return out.lerp_(c[3], _edge(near - y, unit))


def _zigzag(x: Tensor) -> Tensor:
    """A triangle wave of period 1 between -1 and 1."""
    return 4 * (x - (x + 0.5).floor()).abs() - 1


def _mountains(x: Tensor, y: Tensor, c: Sequence[Tensor], u: Sequence[float], unit: float) -> Tensor:
    """Sky, caps of snow, rock, and the ground before them."""
    top = 0.22 + 0.3 * _zigzag((0.55 + 0.2 * u[0]) * x + u[1]) + 0.1 * _zigzag((1.3 + 0.4 * u[2]) * x + u[3])
    snow = top - 0.26 + 0.06 * _zigzag(4.5 * x + u[4])
    ground = -0.48 + 0.05 * torch.sin(2.2 * x + 6.3 * u[5])
    out = torch.lerp(c[0] + 0.25 * (1 - c[0]) * (0.5 - 0.5 * y).clamp(0, 1), c[1], _edge(top - y, unit))
    return out.lerp_(c[2], _edge(snow - y, unit)).lerp_(c[3], _edge(ground - y, unit))


def _room(x: Tensor, y: Tensor, c: Sequence[Tensor], u: Sequence[float], unit: float) -> Tensor:
    stripes = torch.lerp(c[0], c[1], 0.4 + 0.4 * torch.sin((5 + 4 * u[0]) * x + 6.3 * u[1]))
    floor = -0.5 - 0.2 * u[2]
    board = torch.lerp(c[3], c[2], _edge(floor - y, unit))
    return torch.lerp(stripes, board, _edge(floor + 0.07 - y, unit))


def _water(x: Tensor, y: Tensor, c: Sequence[Tensor], u: Sequence[float], unit: float) -> Tensor:
    level = 0.1 - 0.5 * u[0]
    ripple = torch.sin(14 * (y - level) + 0.8 * torch.sin((2 + 2 * u[1]) * x + 6.3 * u[2])).mul_(0.3).add_(0.3)
    out = torch.lerp(c[2], c[3], ripple)
    return out.lerp_(_sky(y, c), _edge(y - level, unit))


def _road(x: Tensor, y: Tensor, c: Sequence[Tensor], u: Sequence[float], unit: float) -> Tensor:
    horizon = 0.25 - 0.2 * u[0]
    ground = torch.lerp(_sky(y, c), c[2], _edge(horizon - y, unit))
    depth = (horizon - y).clamp_min(0)
    away = (x - (u[1] - 0.5) * 0.8).abs()
    out = torch.lerp(ground, c[3], _edge(0.06 + 0.55 * depth - away, unit).mul_(_edge(horizon - y, unit)))
    dash = _edge(0.012 + 0.05 * depth - away, unit).mul_(_edge(torch.sin(16 * depth.sqrt()) * 0.1, unit))
    return out.lerp_(0.6 + 0.4 * c[0], dash.mul_(_edge(horizon - 0.02 - y, unit)))


def _city(x: Tensor, y: Tensor, c: Sequence[Tensor], u: Sequence[float], unit: float) -> Tensor:
    """Houses side by side, each with two columns of windows, some lit, before the sky."""
    wide = 0.42 + 0.1 * u[0]
    at = x / wide + 16 * u[1]
    cell = at.floor()
    roof = -0.15 + 0.75 * _chance(cell, 1) - y
    house = _edge(torch.minimum(roof, (0.46 - (at - cell - 0.5).abs()) * wide), unit)
    column, level = (2 * at - 0.5).round(), (4 * y).round()
    window = torch.minimum(0.055 - (2 * at - 0.5 - column).abs() * (wide / 2), 0.065 - (y - level / 4).abs())
    lit = _chance(column + 3 * level, 3) > 0.5
    lights = _edge(torch.minimum(window, roof - 0.07), unit) * lit
    low = -0.45 + 0.25 * _chance((0.8 * at + 0.4).floor(), 2)
    out = torch.lerp(_sky(y, c), 0.6 * c[2] + 0.4 * c[1], _edge(low - y, unit))
    return out.lerp_(c[2], house).lerp_(c[3], lights * house)


def _forest(x: Tensor, y: Tensor, c: Sequence[Tensor], u: Sequence[float], unit: float) -> Tensor:
    """Light between trunks (first), leaves (second), trunks (third), ground (fourth)."""
    out = (c[0] * (0.8 + 0.2 * y)).clamp_(0, 1)
    for depth, (wide, thick) in enumerate(((0.31, 0.035), (0.52, 0.075))):
        at = x / wide + 16 * u[depth]
        cell = at.floor()
        away = (at - cell - 0.3 - 0.4 * _chance(cell, depth + 1)).abs() * wide
        shade = c[2] if depth else 0.5 * (c[0] + c[2])
        out = torch.lerp(out, shade, _edge(thick * (1.1 - 0.2 * y) - away, unit))
    leaves = 0.5 + 0.1 * torch.sin(7 * x + 6.3 * u[2]).abs() - 0.16 * torch.sin(2.3 * x + 6.3 * u[3]).abs()
    out = out.lerp_(c[1], _edge(y - leaves, unit))
    return out.lerp_(c[3], _edge(-0.55 + 0.04 * torch.sin(3 * x + 6.3 * u[4]) - y, unit))


def _space(x: Tensor, y: Tensor, c: Sequence[Tensor], u: Sequence[float], unit: float) -> Tensor:
    """Stars (third) before the dark (first) with a veil (second), and a planet (fourth)."""
    veil = torch.sin((1.4 + u[0]) * x + (2 + u[1]) * y + 6.3 * u[2]).mul_(0.35).add_(0.35)
    out = torch.lerp(c[0], c[1], veil)
    across, up = x * 3.2 + 7 * u[3], y * 3.2
    column, row = across.floor(), up.floor()
    place = column + 5 * row
    dx = across - column - 0.25 - 0.5 * _chance(place, 1)
    dy = up - row - 0.25 - 0.5 * _chance(place, 2)
    star = _edge(0.012 + 0.02 * _chance(place, 3) - torch.hypot(dx, dy) / 3.2, unit)
    out.lerp_(c[2], star)
    planet = (x - 1.2 * (u[4] - 0.5)).square() + (y - 0.5 * u[5] - 0.2).square()
    return out.lerp_(c[3], _edge(0.3 + 0.1 * u[6] - planet.sqrt_(), unit))


def _clouds(x: Tensor, y: Tensor, c: Sequence[Tensor], u: Sequence[float], unit: float) -> Tensor:
    """Round heaps of the third colour before a sky of the first two."""
    bumps = torch.sin((4 + u[0]) * x + 6.3 * u[1]).abs_() * 0.11 + 0.05 * torch.sin((9 + u[2]) * x + 6.3 * u[3]).abs()
    out = _sky(y, c)
    for i, base in enumerate((0.35, -0.25, -0.85)):
        along = torch.sin((1.7 + 0.6 * u[4 + i]) * x + 6.3 * u[5 + i] + 2 * i) * 0.42 - 0.1
        top = base + bumps + along.clamp_min(-0.12)
        bank = _edge(torch.minimum(top - y, (y - base) * 0.25), unit / 4)
        out = torch.lerp(out, torch.lerp(c[3], c[2], ((y - base + 0.1) * 3).clamp(0, 1)), bank)
    return out


def _waves(x: Tensor, y: Tensor, c: Sequence[Tensor], u: Sequence[float], unit: float) -> Tensor:
    """Bands of all four colours that swing across the picture."""
    bend = 0.25 * torch.sin((2 + 1.5 * u[0]) * x + 6.3 * u[1])
    out = c[0]
    for i, width in enumerate((0.35, 0.3, 0.2)):
        middle = torch.sin(y * (2.2 + u[2]) + bend * (4 + i) + 6.3 * u[3 + i] + 2.1 * i)
        out = torch.lerp(out, c[i + 1], _edge((middle - 1 + 2 * width) * 0.3, unit))
    return out


@dataclass(frozen=True)
class Painter:
    paint: Paint
    words: str  # true for any palette within these
    light: tuple[tuple[float, float], ...] = ((0.6, 0.98), (0.6, 0.98), (0.4, 0.8), (0.25, 0.7))  # least and most


PAINTERS: dict[str, Painter] = {
    "hills": Painter(_hills, "in front of hills"),
    "mountains": Painter(_mountains, "in front of mountains", ((0.5, 0.85), (0.92, 1), (0.25, 0.55), (0.4, 0.9))),
    "room": Painter(_room, "in a room"),
    "water": Painter(_water, "above the water"),
    "road": Painter(_road, "beside a road"),
    "city": Painter(_city, "in a city", ((0.4, 0.95), (0.5, 0.98), (0.2, 0.4), (0.75, 0.95))),
    "forest": Painter(_forest, "in a forest"),
    "space": Painter(_space, "in outer space", ((0.2, 0.32), (0.26, 0.42), (0.9, 1), (0.45, 0.8))),
    "clouds": Painter(_clouds, "in front of clouds", ((0.5, 0.85), (0.5, 0.85), (0.92, 1), (0.75, 0.9))),
    "waves": Painter(_waves, "in front of waves", ((0.3, 0.95),) * 4),
}


@dataclass(frozen=True)
class Backdrop:
    """A look fixed by its name: which painter, in what words, with which colours and waves."""

    painter: str
    words: str
    palette: tuple[Color, Color, Color, Color]
    waves: tuple[float, ...]


def _look(painter: str, words: str, codes: str, waves: tuple[float, ...] = (0.3, 0.6, 0.2, 0.8)) -> Backdrop:
    """Colours as hexadecimal numbers; waves that are not given are a half."""
    a, b, c, d = (tuple(int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)) for code in codes.split())
    return Backdrop(painter, words, (a, b, c, d), waves + (0.5,) * (8 - len(waves)))  # type: ignore[arg-type]


BACKGROUNDS: dict[str, Backdrop] = {
    "green hills": _look("hills", "in front of green hills", "7cc0f2 d6ecfb 8ecb6b 4f9d45"),
    "desert": _look("hills", "in a desert", "f3c98b fbeacb e0ab62 c98a3f", (0.1, 0.3, 0.0, 0.2, 0.2, 0.6)),
    "snowy mountains": _look("mountains", "in front of snowy mountains", "86b4dc fafcff 66758a dfe9f2"),
    "room": _look("room", "in a pink room", "f0cfc4 e6b5a8 9b6b48 fbf3ea"),
    "sea": _look("water", "above the blue sea", "9bd3f5 e9f6fd 1f6fa8 5fb1d6"),
    "road": _look("road", "beside a grey road", "a9c9e8 e6eef5 8fae6d 5c5f66", (0.4, 0.5)),
    "city": _look("city", "in a city at dusk", "5b4a86 e89a78 2d2b47 ffd76a"),
    "forest": _look("forest", "in a green forest", "cfe3a6 3c7a3a 6a4a30 5f8a3e"),
    "outer space": _look("space", "in dark outer space", "1f2456 3b2d70 ffffff b56f4d"),
    "cloudy sky": _look("clouds", "in a cloudy sky", "4d94dc a5cff2 ffffff c9d6e4"),
    "colorful waves": _look("waves", "in front of colorful waves", "3ec1c9 f7a63b e8547c 6a4fc0"),
}


def paint(name: str, x: Tensor, y: Tensor, palette: Sequence[Color], waves: Sequence[float], unit: float) -> Tensor:
    """[t 3 h w]: what the painter of the backdrop `name` makes of these colours and waves."""
    colors = [torch.tensor(c, device=x.device).view(3, 1, 1) for c in palette]
    painted = PAINTERS[BACKGROUNDS[name].painter].paint(x, y, colors, waves, unit)
    return painted.expand(-1, -1, y.shape[-2], x.shape[-1])
