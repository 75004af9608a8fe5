"""Scenes to frames, in torch code on any device.

Letters: b clips, t frames, h w pixels. Frames are float32 in 0..1, [b t 3 h w].
A pixel's colour is the background under the objects' coverage, back to front; coverage is the signed distance in
pixels cut to 0..1, so that edges are smooth and a small displacement changes the picture by a small amount. Each
object is drawn in a box around it; each clip by itself, which keeps its frames in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from opensama.world import backgrounds
from opensama.world.scenes import COLORS, FPS, Scene, SceneBatch, Thing
from opensama.world.shapes import EXTENT, KINDS, atlas

REACH = 1.15  # the box around an object, in its radii


def screen(height: int, width: int, device: str | torch.device = "cpu") -> tuple[Tensor, Tensor, float]:
    """Pixel centres x [w], y [h] in half-heights of the square of the same area, and pixels per unit."""
    unit = math.sqrt(height * width) / 2
    x = (torch.arange(width, device=device) + 0.5 - width / 2) / unit
    y = -(torch.arange(height, device=device) + 0.5 - height / 2) / unit
    return x, y, unit


def paint_background(scenes: SceneBatch, seconds: Tensor, height: int, width: int) -> Tensor:
    """[b t 3 h w] of backgrounds alone."""
    x, y, unit = screen(height, width, scenes.device)
    out = torch.empty(len(scenes.scenes), len(seconds), 3, height, width, device=scenes.device)
    for frames, scene in zip(out, scenes.scenes, strict=True):
        times = [0.0] if scene.still else seconds.tolist()
        cameras = [scene.camera(s) for s in times]
        rows = torch.tensor([(c.x, c.y, c.zoom) for c in cameras], device=scenes.device).T[..., None, None, None]
        world_x, world_y = x / rows[2] + rows[0], y[:, None] / rows[2] + rows[1]
        frames.copy_(backgrounds.paint(scene.background, world_x, world_y, scene.palette, scene.waves, unit))
    return out


def _paint_thing(frames: Tensor, thing: Thing, scene: Scene, seconds: Sequence[float]) -> None:
    """Draws one object over one clip [t 3 h w], in place."""
    height, width = frames.shape[-2:]
    device = frames.device
    x, y, unit = screen(height, width, device)
    cameras = [scene.camera(s) for s in seconds]
    rows = []
    corners = []
    largest = max(thing.size * c.zoom for c in cameras)
    half = math.ceil(REACH * largest * unit) + 1
    tall, wide = min(2 * half, height), min(2 * half, width)
    for s, c in zip(seconds, cameras, strict=True):
        at_x = (thing.x + thing.along_x.at(s) - c.x) * c.zoom
        at_y = (thing.y + thing.along_y.at(s) - c.y) * c.zoom
        left = min(max(round(at_x * unit + width / 2) - half, 0), width - wide)
        top = min(max(round(height / 2 - at_y * unit) - half, 0), height - tall)
        size, angle = thing.size * c.zoom, thing.turn.at(s)
        x0 = (left + 0.5 - width / 2) / unit - at_x
        y0 = -(top + 0.5 - height / 2) / unit - at_y
        rows.append((x0 / size, y0 / size, size, math.cos(angle), math.sin(angle)))
        corners.append((top, left))
    x0, y0, size, cos, sin = torch.tensor(rows, device=device).T[..., None, None]
    dx = x0 + torch.arange(wide, device=device) / unit / size
    dy = y0 - torch.arange(tall, device=device)[:, None] / unit / size
    where = torch.stack((cos * dx + sin * dy, sin * dx - cos * dy), -1) / EXTENT  # rows of the atlas go down
    fields = atlas(str(device))[KINDS.index(thing.kind)].expand(len(rows), -1, -1, -1)
    looked = F.grid_sample(fields, where, padding_mode="border", align_corners=True)
    body, detail = (0.5 - looked * (size * unit)[:, None]).clamp_(0, 1).split(1, 1)
    tone = torch.tensor(COLORS[thing.color], device=device).view(3, 1, 1)
    second = 0.55 + 0.45 * tone if tone.mean() < 0.2 else 0.5 * tone
    paint = torch.lerp(tone, second, detail)
    for i, (top, left) in enumerate(corners):
        frames[i, :, top : top + tall, left : left + wide].lerp_(paint[i], body[i])


def paint_things(frames: Tensor, scenes: SceneBatch, seconds: Tensor) -> Tensor:
    """Objects over `frames` [b t 3 h w], back to front; returns a new tensor."""
    frames = frames.clone()
    times = seconds.tolist()
    for clip, scene in zip(frames, scenes.scenes, strict=True):
        for thing in scene.things:
            _paint_thing(clip, thing, scene, times)
    return frames


def paint_lettering(frames: Tensor, scenes: SceneBatch) -> Tensor:
    """Caption texts over `frames` [b t 3 h w]; returns a new tensor."""
    return frames


def frame_times(frames: int, start: int = 0, device: str | torch.device = "cpu") -> Tensor:
    return torch.arange(start, start + frames, device=device) / FPS


def render(
    scenes: Sequence[Scene], frames: int = 17, height: int = 128, width: int = 128, device: str | torch.device = "cpu"
) -> Tensor:
    """[b t 3 h w] in 0..1."""
    seconds = frame_times(frames, device=device)
    packed = SceneBatch.pack(list(scenes), device)
    return paint_lettering(paint_things(paint_background(packed, seconds, height, width), packed, seconds), packed)
