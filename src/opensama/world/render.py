"""Scenes to frames, in batched torch code on any device.

Letters: b clips, t frames, h w pixels, k object slots. Frames are float32 in 0..1, [b t 3 h w].
A pixel's colour is the background under the objects' coverage, back to front; coverage is the signed distance in
pixels cut to 0..1, so that edges are smooth and a small displacement changes the picture by a small amount.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from opensama.world.scenes import BACKGROUNDS, FPS, Scene, SceneBatch
from opensama.world.shapes import EXTENT, atlas


def _swing(rows: Tensor, seconds: Tensor) -> Tensor:
    """rows [... 3] (reach, rate, phase), seconds [t] -> [... t]; the motion of `scenes.Swing`."""
    reach, rate, phase = (rows[..., i, None] for i in range(3))
    return reach * (torch.sin(rate * seconds + phase) - torch.sin(phase))


def screen(height: int, width: int, device: str | torch.device = "cpu") -> tuple[Tensor, Tensor, float]:
    """Pixel centres x [w], y [h] in half-heights of the square of the same area, and pixels per unit."""
    unit = math.sqrt(height * width) / 2
    x = (torch.arange(width, device=device) + 0.5 - width / 2) / unit
    y = -(torch.arange(height, device=device) + 0.5 - height / 2) / unit
    return x, y, unit


def _mix(below: Tensor, above: Tensor, cover: Tensor) -> Tensor:
    return below + (above - below) * cover


def _edge(distance: Tensor, unit: float) -> Tensor:
    """Coverage of the side where `distance` (in world units) is positive."""
    return (distance * unit + 0.5).clamp(0, 1)


# Each paints [n t 3 h w] from world coordinates x [n t 1 1 w], y [n t 1 h 1], palette [n 4 3], waves [n 8].
# c(i) is a palette colour as [n 1 3 1 1], u(i) a wave number as [n 1 1 1 1].
Paint = Callable[[Tensor, Tensor, Callable[[int], Tensor], Callable[[int], Tensor], float], Tensor]


def _hills(x: Tensor, y: Tensor, c: Callable, u: Callable, unit: float) -> Tensor:
    sky = _mix(c(1), c(0), (0.5 + 0.5 * y).clamp(0, 1))
    far = 0.15 + 0.22 * torch.sin((1.2 + u(0)) * x + 6.3 * u(1)) + 0.06 * torch.sin((3 + 2 * u(2)) * x + 6.3 * u(3))
    near = -0.42 + 0.16 * torch.sin((1.0 + u(4)) * x + 6.3 * u(5))
    return _mix(_mix(sky, c(2), _edge(far - y, unit)), c(3), _edge(near - y, unit))


def _room(x: Tensor, y: Tensor, c: Callable, u: Callable, unit: float) -> Tensor:
    stripes = 0.5 + 0.5 * torch.sin((5 + 4 * u(0)) * x + 6.3 * u(1))
    wall = _mix(c(0), c(1), stripes * 0.8)
    floor = -0.5 - 0.2 * u(2)
    return _mix(_mix(wall, c(3), _edge(floor + 0.07 - y, unit)), c(2), _edge(floor - y, unit))


def _water(x: Tensor, y: Tensor, c: Callable, u: Callable, unit: float) -> Tensor:
    level = 0.1 - 0.5 * u(0)
    sky = _mix(c(1), c(0), (0.5 + 0.5 * y).clamp(0, 1))
    ripple = 0.5 + 0.5 * torch.sin(14 * (y - level) + 0.8 * torch.sin((2 + 2 * u(1)) * x + 6.3 * u(2)))
    return _mix(sky, _mix(c(2), c(3), 0.6 * ripple), _edge(level - y, unit))


def _road(x: Tensor, y: Tensor, c: Callable, u: Callable, unit: float) -> Tensor:
    horizon = 0.25 - 0.2 * u(0)
    sky = _mix(c(1), c(0), (0.5 + 0.5 * y).clamp(0, 1))
    depth = (horizon - y).clamp_min(0)
    centre = (u(1) - 0.5) * 0.8
    lane = _edge(0.06 + 0.55 * depth - (x - centre).abs(), unit) * _edge(horizon - y, unit)
    return _mix(_mix(sky, c(2), _edge(horizon - y, unit)), c(3), lane)


def _clouds(x: Tensor, y: Tensor, c: Callable, u: Callable, unit: float) -> Tensor:
    a = torch.sin((1.5 + u(0)) * x + 6.3 * u(1) + 1.2 * torch.sin((1.3 + u(2)) * y + 6.3 * u(3)))
    b = torch.sin((1.5 + u(4)) * y + 6.3 * u(5) + 1.2 * torch.sin((1.3 + u(6)) * x + 6.3 * u(7)))
    return _mix(_mix(c(0), c(1), 0.5 + 0.5 * a), c(2), 0.4 + 0.4 * b)


PAINTERS: dict[str, Paint] = {"hills": _hills, "room": _room, "water": _water, "road": _road, "clouds": _clouds}


def _world(scenes: SceneBatch, seconds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Camera at each time: centre x, y and magnification, each [b t]."""
    pan_x, pan_y, zoom = (_swing(scenes.camera[:, i : i + 3], seconds) for i in (0, 3, 6))
    return pan_x, pan_y, 1 + zoom


def paint_background(scenes: SceneBatch, seconds: Tensor, height: int, width: int) -> Tensor:
    """[b t 3 h w] of backgrounds alone."""
    x, y, unit = screen(height, width, scenes.kind.device)
    pan_x, pan_y, zoom = (v[:, :, None, None, None] for v in _world(scenes, seconds))
    out = torch.empty(len(scenes.kind), len(seconds), 3, height, width, device=scenes.kind.device)
    for index, name in enumerate(BACKGROUNDS):
        chosen = (scenes.background == index).nonzero()[:, 0]
        if len(chosen):
            palette, waves = scenes.palette[chosen], scenes.waves[chosen]
            out[chosen] = PAINTERS[name](
                x / zoom[chosen] + pan_x[chosen],
                y[:, None] / zoom[chosen] + pan_y[chosen],
                lambda i, palette=palette: palette[:, i, :, None, None][:, None],  # type: ignore[misc]
                lambda i, waves=waves: waves[:, i, None, None, None, None],  # type: ignore[misc]
                unit,
            )
    return out


def paint_things(frames: Tensor, scenes: SceneBatch, seconds: Tensor) -> Tensor:
    """Objects over `frames` [b t 3 h w], back to front; returns a new tensor."""
    b, t, _, height, width = frames.shape
    x, y, unit = screen(height, width, frames.device)
    pan_x, pan_y, zoom = _world(scenes, seconds)
    fields = atlas(str(frames.device))
    frames = frames.clone()
    for slot in range(scenes.kind.shape[1]):
        chosen = (scenes.kind[:, slot] >= 0).nonzero()[:, 0]
        if not len(chosen):
            continue
        m, z = scenes.motion[chosen, slot], zoom[chosen]
        at_x = (m[:, 0, None] + _swing(m[:, 3:6], seconds) - pan_x[chosen]) * z
        at_y = (m[:, 1, None] + _swing(m[:, 6:9], seconds) - pan_y[chosen]) * z
        angle, size = _swing(m[:, 9:12], seconds), m[:, 2, None] * z
        dx = (x - at_x[..., None])[:, :, None, :] / size[..., None, None]
        dy = (y - at_y[..., None])[:, :, :, None] / size[..., None, None]
        cos, sin = angle.cos()[..., None, None], angle.sin()[..., None, None]
        where = torch.stack((cos * dx + sin * dy, sin * dx - cos * dy), -1) / EXTENT  # rows of the atlas go down
        looked = F.grid_sample(
            fields[scenes.kind[chosen, slot]],
            where.reshape(len(chosen), t * height, width, 2),
            padding_mode="border",
            align_corners=True,
        ).view(len(chosen), 2, t, height, width)
        pixels = (size * unit)[:, None, :, None, None]
        body, detail = (0.5 - looked * pixels).clamp(0, 1).unbind(1)
        tone = scenes.color[chosen, slot]
        second = torch.where(tone.mean(-1, keepdim=True) < 0.2, 0.55 + 0.45 * tone, 0.5 * tone)
        paint = _mix(tone[:, None, :, None, None], second[:, None, :, None, None], detail[:, :, None])
        frames[chosen] = _mix(frames[chosen], paint, body[:, :, None])
    return frames


def frame_times(frames: int, start: int = 0, device: str | torch.device = "cpu") -> Tensor:
    return torch.arange(start, start + frames, device=device) / FPS


def render(
    scenes: Sequence[Scene], frames: int = 17, height: int = 128, width: int = 128, device: str | torch.device = "cpu"
) -> Tensor:
    """[b t 3 h w] in 0..1."""
    seconds = frame_times(frames, device=device)
    packed = SceneBatch.pack(list(scenes), device)
    return paint_things(paint_background(packed, seconds, height, width), packed, seconds)
