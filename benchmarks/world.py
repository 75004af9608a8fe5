"""How many clips of the world are drawn in a second, against the straightforward way: every object over whole frames.

    python benchmarks/world.py [--clips 48] [--threads 2] [--frames 17] [--side 128] [--device cpu]

Both sides draw the same clips in turns, and the pictures are compared; the ratio is the straightforward way's time
over ours. Each thread draws clips of its own: objects in boxes are too small to share one among cores.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F
from torch import Tensor

from opensama.world import backgrounds
from opensama.world.fields import EXTENT
from opensama.world.kinds import KINDS, atlas
from opensama.world.render import dye, frame_times, paint_lettering, render, rider, screen, stand
from opensama.world.scenes import Scene, sample_scene
from opensama.world.wearables import WEARABLES, wear_atlas, worn


def straightforward(scenes: Sequence[Scene], frames: int, side: int, device: str) -> Tensor:
    """[b t 3 h w], as `render` draws them: each object by a lookup at every pixel of every frame."""
    x, y, unit = screen(side, side, device)
    seconds = frame_times(frames, device=device).tolist()
    clips = []
    for scene in scenes:
        cameras = [scene.camera(s) for s in seconds]
        at = torch.tensor([(c.x, c.y, c.zoom) for c in cameras], device=device).T[..., None, None, None]
        world_x, world_y = (
            (x / at[2] + at[0]).expand(-1, -1, side, -1),
            (y[:, None] / at[2] + at[1]).expand(-1, -1, -1, side),
        )
        clip = backgrounds.paint(scene.background, world_x, world_y, scene.palette, scene.waves, unit)
        for thing in scene.things:
            track = [stand(thing, camera, s) for s, camera in zip(seconds, cameras, strict=True)]
            parts = [(atlas(device)[KINDS.index(thing.kind)], track, thing.color, thing.texture)]
            if wear := thing.wears:
                ridden = [rider(at, worn(thing.kind, wear.kind)) for at in track]
                parts.append((wear_atlas(device)[tuple(WEARABLES).index(wear.kind)], ridden, wear.color, "plain"))
            for fields, path, color, texture in parts:
                at_x, at_y, size, angle = torch.tensor(path, device=device).T[..., None, None]
                right, down = (x - at_x) / size, -(y[:, None] - at_y) / size
                cos, sin = angle.cos(), angle.sin()
                where = torch.stack((cos * right - sin * down, sin * right + cos * down), -1)
                looked = F.grid_sample(
                    fields.expand(frames, -1, -1, -1), where / EXTENT, padding_mode="border", align_corners=True
                )
                cover = (0.5 - looked * (size * unit)[:, None]).clamp(0, 1)
                clip = clip + (dye(color, texture, cover[:, 1:], where, size * unit) - clip) * cover[:, :1]
        paint_lettering(clip, scene.lettering)
        clips.append(clip)
    return torch.stack(clips)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    frames, side, device = options.frames, options.side, options.device
    scenes = [sample_scene(random.Random(i)) for i in range(options.clips)]
    turn = 4 * options.threads
    turns = [scenes[i : i + turn] for i in range(0, len(scenes), turn)]

    with ThreadPoolExecutor(options.threads) as pool:

        def draw(how: Callable[[Scene], Tensor], block: list[Scene]) -> tuple[float, Tensor]:
            """Seconds, and the clips."""
            begin = time.perf_counter()
            clips = torch.stack(list(pool.map(how, block)))
            _ = clips[-1, -1, -1, -1, -1].item()
            return time.perf_counter() - begin, clips

        def boxes(scene: Scene) -> Tensor:
            return render([scene], frames, side, side, device)[0]

        def whole(scene: Scene) -> Tensor:
            return straightforward([scene], frames, side, device)[0]

        draw(boxes, turns[0])
        draw(whole, turns[0])
        spent, worst = [0.0, 0.0], 0.0
        for block in turns:
            (ours, a), (theirs, b) = draw(boxes, block), draw(whole, block)
            spent = [spent[0] + ours, spent[1] + theirs]
            worst = max(worst, float((a - b).abs().max()))
    rates = [len(scenes) / s for s in spent]
    print(f"{len(scenes)} clips of {frames}x{side}x{side}, {options.threads} threads, {device}")
    print(f"in boxes      {rates[0]:8.1f} clips a second")
    print(f"whole frames  {rates[1]:8.1f} clips a second")
    print(f"ratio {rates[0] / rates[1]:.2f}, largest difference of a pixel {worst:.5f}")


if __name__ == "__main__":
    main()
