"""Scenes to frames, in torch code on any device.

Letters: b clips, t frames, h w pixels. Frames are float32 in 0..1, [b t 3 h w].
A pixel's colour is the background under the objects' coverage, back to front; coverage is the signed distance in
pixels cut to 0..1, so that edges are smooth and a small displacement changes the picture by a small amount. Each
object is drawn in a box around it, and each clip by itself, which keeps its frames in the cache; where things are is
reckoned in plain numbers, so that a device is never waited for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from opensama.world import backgrounds, photos
from opensama.world.backgrounds import Color
from opensama.world.fields import EXTENT
from opensama.world.kinds import KINDS, atlas
from opensama.world.letters import LETTER_HEIGHT, LETTER_WIDTH, layout, letter_atlas
from opensama.world.scenes import COLORS, FPS, Camera, Lettering, Scene, Thing
from opensama.world.wearables import WEARABLES, wear_atlas, worn

BOX = 1.1  # the box around an object, in its radii
HIDDEN = 1.15  # the disc in which an obscured object is pixelated, in its radii
LETTER = 0.19  # height of a letter, in frame heights
RIM = 0.07  # around letters, in letter heights

Stand = tuple[float, float, float, float]  # x, y and radius on the screen, in half-heights; angle


def screen(height: int, width: int, device: str | torch.device = "cpu") -> tuple[Tensor, Tensor, float]:
    """Pixel centres x [w], y [h] in half-heights of the square of the same area, and pixels per unit."""
    unit = math.sqrt(height * width) / 2
    x = (torch.arange(width, device=device) + 0.5 - width / 2) / unit
    y = -(torch.arange(height, device=device) + 0.5 - height / 2) / unit
    return x, y, unit


def render(
    scenes: Sequence[Scene], frames: int = 17, height: int = 128, width: int = 128, device: str | torch.device = "cpu"
) -> Tensor:
    """Clips of the scenes from the first frame on: float32 [b t 3 h w] in 0..1."""
    seconds = frame_times(frames, device=device)
    return torch.stack([paint_scene(paint_background(s, seconds, height, width), s, seconds) for s in scenes])


def frame_times(frames: int, start: int = 0, device: str | torch.device = "cpu") -> Tensor:
    """Seconds [t] of frames `start` and on."""
    return torch.arange(start, start + frames, device=device) / FPS


def paint_background(scene: Scene, seconds: Tensor, height: int, width: int) -> Tensor:
    """[t 3 h w] of the background or the photo alone, at `seconds` [t], on their device."""
    x, y, unit = screen(height, width, seconds.device)
    cameras = [scene.camera(s) for s in ([0.0] if scene.still else seconds.tolist())]
    at = torch.tensor([(c.x, c.y, c.zoom) for c in cameras], device=seconds.device).T[..., None, None, None]
    world_x, world_y = x / at[2] + at[0], y[:, None] / at[2] + at[1]
    if scene.photo:
        painted = photos.paint_photo(scene.photo, world_x, world_y, unit)
    else:
        painted = backgrounds.paint(scene.background, world_x, world_y, scene.palette, scene.waves, unit)
    return painted.expand(len(seconds), -1, -1, -1).contiguous()


def paint_scene(behind: Tensor, scene: Scene, seconds: Tensor) -> Tensor:
    """Objects with what they wear over a background [t 3 h w], back to front, then obscured, under the caption text:
    a new tensor."""
    clip = behind.clone()
    _paint_things(clip, scene, seconds.tolist())
    paint_lettering(clip, scene.lettering)
    return clip


def _paint_things(clip: Tensor, scene: Scene, times: Sequence[float]) -> None:
    cameras = [scene.camera(s) for s in times]
    tracks = [[stand(thing, camera, s) for s, camera in zip(times, cameras, strict=True)] for thing in scene.things]
    device = str(clip.device)
    for thing, track in zip(scene.things, tracks, strict=True):
        _stamp(clip, atlas(device)[KINDS.index(thing.kind)], track, thing.color, thing.texture)
        if thing.wears:
            ridden = [rider(at, worn(thing.kind, thing.wears.kind)) for at in track]
            fields = wear_atlas(device)[tuple(WEARABLES).index(thing.wears.kind)]
            _stamp(clip, fields, ridden, thing.wears.color)
    hidden = [track for thing, track in zip(scene.things, tracks, strict=True) if thing.obscured]
    if hidden:
        _obscure(clip, hidden)


def stand(thing: Thing, camera: Camera, seconds: float) -> Stand:
    """Where the object is on the screen."""
    x = (thing.x + thing.along_x.at(seconds) - camera.x) * camera.zoom
    y = (thing.y + thing.along_y.at(seconds) - camera.y) * camera.zoom
    return x, y, thing.size * camera.zoom, thing.turn.at(seconds)


def rider(wearer: Stand, place: tuple[float, float, float]) -> Stand:
    """Where an accessory is on the screen; `place` is its centre and radius in radii of the wearer."""
    x, y, size, angle = wearer
    right, up, scale = place
    cos, sin = size * math.cos(angle), size * math.sin(angle)
    return x + cos * right - sin * up, y + sin * right + cos * up, size * scale, angle


def shades(color: str) -> tuple[Color, Color, float]:
    """A colour, the second shade of its textures, and towards what its details go: black, or white from black."""
    tone = COLORS[color]
    light = sum(w * c for w, c in zip((0.3, 0.6, 0.1), tone, strict=True))
    if light < 0.15:
        return tone, _towards(tone, 1.0, 0.5), 1.0
    return tone, _towards(tone, 0.0, 0.5) if light > 0.62 else _towards(tone, 1.0, 0.62), 0.0


def _towards(tone: Color, end: float, share: float) -> Color:
    r, g, b = (c + share * (end - c) for c in tone)
    return r, g, b


def texture_cover(name: str, u: Tensor, v: Tensor, pixels: Tensor) -> Tensor:
    """Coverage of the second shade at (u, v), in radii of the object, of so many `pixels` each."""
    period = 0.5
    if name == "dotted":
        du, dv = (w / period - (w / period).round() for w in (u, v))
        return ((0.3 - torch.hypot(du, dv)) * (period * pixels) + 0.5).clamp_(0, 1)
    wave = math.tau / period
    if name == "striped":
        swing = torch.sin((u + v) * (wave / math.sqrt(2)))
    else:
        swing = torch.sin(u * (wave / 1.2)) * torch.sin(v * (wave / 1.2))
    return (swing * (pixels / wave) + 0.5).clamp_(0, 1)


def _stamp(clip: Tensor, fields: Tensor, track: Sequence[Stand], color: str, texture: str = "plain") -> None:
    """Draws one shape [(body, detail) side side] along its track over one clip [t 3 h w], in place."""
    height, width = clip.shape[-2:]
    unit = math.sqrt(height * width) / 2
    half = math.ceil(BOX * max(size for _, _, size, _ in track) * unit) + 1
    tall, wide = min(2 * half, height), min(2 * half, width)
    rows, corners = [], []
    for x, y, size, angle in track:
        left = min(max(round(x * unit + width / 2) - half, 0), width - wide)
        top = min(max(round(height / 2 - y * unit) - half, 0), height - tall)
        scale = unit * size
        dx, dy = (left + 0.5 - width / 2) / scale - x / size, (top + 0.5 - height / 2) / scale + y / size
        rows.append((dx, dy, 1 / scale, math.cos(angle), math.sin(angle), scale))
        corners.append((top, left))
    right, down, step, cos, sin, pixels = torch.tensor(rows, device=clip.device).T[..., None, None]
    right = right + step * torch.arange(wide, device=clip.device)  # [t 1 w] in radii of the object
    down = down + step * torch.arange(tall, device=clip.device)[:, None]  # [t h 1]
    where = torch.stack((cos * right - sin * down, sin * right + cos * down), -1)
    looked = F.grid_sample(
        fields.expand(len(rows), -1, -1, -1), where / EXTENT, padding_mode="border", align_corners=True
    )
    cover = looked.mul_(-pixels[:, None]).add_(0.5).clamp_(0, 1)
    paint = dye(color, texture, cover[:, 1:], where, pixels)
    for i, (top, left) in enumerate(corners):
        clip[i, :, top : top + tall, left : left + wide].lerp_(paint[i], cover[i, :1])


def dye(color: str, texture: str, detail: Tensor, where: Tensor, pixels: Tensor) -> Tensor:
    """[t 3 h w] of a surface: its texture at `where` [t h w (u, v)], and `detail` [t 1 h w] half as light."""
    tone, second, end = shades(color)
    surface = torch.tensor(tone, device=detail.device).view(3, 1, 1)
    if texture != "plain":
        stains = texture_cover(texture, where[..., 0], where[..., 1], pixels)[:, None]
        surface = torch.lerp(surface, torch.tensor(second, device=detail.device).view(3, 1, 1), stains)
    return torch.lerp(surface, torch.full_like(surface[..., :1, :1], end), 0.52 * detail)


def _obscure(clip: Tensor, tracks: Sequence[Sequence[Stand]]) -> None:
    """Pixelates discs along the tracks in blocks of a sixteenth of the frame's side; a block is its pixels' mean."""
    height, width = clip.shape[-2:]
    x, y, unit = screen(height, width, clip.device)
    blocks = max(1, round(16 * math.sqrt(height / width))), max(1, round(16 * math.sqrt(width / height)))
    coarse = F.interpolate(F.adaptive_avg_pool2d(clip, blocks), (height, width), mode="nearest-exact")
    for track in tracks:
        at_x, at_y, size, _ = torch.tensor(track, device=clip.device).T[..., None, None]
        away = torch.hypot(x - at_x, y[:, None] - at_y)
        clip.lerp_(coarse, ((HIDDEN * size - away) * unit + 0.5).clamp_(0, 1)[:, None])


def paint_lettering(clip: Tensor, lettering: Lettering | None) -> None:
    """Draws the word over one clip [t 3 h w], in place: the same pixels in every frame."""
    if not lettering:
        return
    height, width = clip.shape[-2:]
    device = clip.device
    tall = LETTER * min(height, width)
    band = min(height, math.ceil(1.5 * tall))
    top = round(0.02 * height) if lettering.place == "top" else height - band - round(0.02 * height)
    places = layout(lettering.word)
    index = torch.tensor([i for i, _ in places], device=device)
    at = torch.tensor([x for _, x in places], device=device)[:, None, None]
    x = ((torch.arange(width, device=device) + 0.5 - width / 2) / tall - at).expand(-1, band, -1)
    y = ((torch.arange(band, device=device) + 0.5 - band / 2) / tall)[:, None].expand_as(x)
    where = torch.stack((x / LETTER_WIDTH, y / LETTER_HEIGHT), -1)
    away = F.grid_sample(letter_atlas(str(device))[index, None], where, padding_mode="border", align_corners=True)
    nearest = away.amin(0)  # [1 h w]
    tone = COLORS[lettering.color]
    around = torch.full((3, 1, 1), float(sum(tone) < 1.5), device=device)
    strip = clip[:, :, top : top + band]
    strip.lerp_(around, ((RIM - nearest) * tall + 0.5).clamp_(0, 1))
    strip.lerp_(torch.tensor(tone, device=device).view(3, 1, 1), (-nearest * tall + 0.5).clamp_(0, 1))
