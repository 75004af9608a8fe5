"""The embedded autoencoder against principal components of its own size (192 numbers for 16x16 pixels of four frames).

    python benchmarks/autoencoder.py [--model tiny] [--clips FOLDER]

Peak signal-to-noise in dB, at the model's size (about 128x128), frames after the first in groups of four. `drawings`
are test clips of the world. With `--clips`, real videos are measured too; the components are then those of the other
half of the clips, so that neither side has seen what it is asked to rebuild.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from opensama import load
from opensama.media import read_video
from opensama.models.tiny import PatchAutoencoder
from opensama.world import plan_edit, render_styled
from opensama.world.edits import Split


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * torch.log10((a - b).square().mean() / 4))


def read_clip(path: Path, frames: int = 17) -> Tensor:
    """[1 3 t h w] in -1..1, about 128x128 pixels in the clip's own shape."""
    video = read_video(path)
    taken = [
        torch.from_numpy(f.astype("float32") / (257 if f.dtype.itemsize == 2 else 1)) for f in video.frames(0, frames)
    ]
    x = torch.stack(taken).movedim(-1, 1) / 127.5 - 1
    scale = (128 * 128 / (x.shape[-1] * x.shape[-2])) ** 0.5
    h, w = (max(16, round(side * scale / 16) * 16) for side in x.shape[-2:])
    x = torch.nn.functional.interpolate(x, (h, w), mode="bilinear", antialias=True, align_corners=False)
    return x[: (len(x) - 1) // 4 * 4 + 1].movedim(1, 0)[None]


def pieces(clips: list[Tensor], n: int = 24, side: int = 96) -> Tensor:
    """Random cuts [b 3 5 side side]."""
    g = torch.Generator().manual_seed(0)
    out = []
    for clip in clips:
        if clip.shape[2] < 5:
            continue
        for _ in range(n):
            t, y, x = (
                int(torch.randint(0, length - size + 1, (), generator=g))
                for length, size in zip(clip.shape[2:], (5, side, side), strict=True)
            )
            out.append(clip[:, :, t : t + 5, y : y + side, x : x + side])
    return torch.cat(out)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--clips", type=Path)
    options = parser.parse_args()
    ours = load(options.model).pipeline.vae.eval()
    linear = PatchAutoencoder()
    print(f"{'':<22}{'components':>12}{'ours':>8}{'gain dB':>9}")

    def show(name: str, components: float, model: float) -> None:
        print(f"{name:<22}{components:>12.2f}{model:>8.2f}{model - components:>9.2f}")

    def drawn(first: int, n: int, t: int, split: Split) -> Tensor:
        return render_styled([plan_edit(first + i, split).source for i in range(n)], t).transpose(1, 2) * 2 - 1

    test = drawn(0, 24, 17, "test")
    linear.start_from_components(drawn(0, 64, 5, "train"))
    show("drawings", psnr(linear(test).sample, test), psnr(ours(test).sample, test))
    if options.clips:
        clips = [
            read_clip(p) for p in sorted(options.clips.glob("*--source.mp4")) or sorted(options.clips.glob("*.mp4"))
        ]
        components, model = [], []
        for half in (0, 1):
            linear.start_from_components(pieces(clips[1 - half :: 2]))
            for clip in clips[half::2]:
                components.append(psnr(linear(clip).sample, clip))
                model.append(psnr(ours(clip).sample, clip))
        show(f"{len(clips)} real clips", sum(components) / len(clips), sum(model) / len(clips))


if __name__ == "__main__":
    main()
