"""Small pictures of an edit on its way, without decoding: the linear map from latents to colours that fits the source.

    [r g b] = [z 1] M        M: least squares over the source's first latent z and its first frame, shrunk to its cells
    z       = x - sigma v    what the model takes for clean, from noisy latents x and velocity v

Letters: `w` windows, `c` channels, `t h w` latent time, rows and columns, `H W` of pixels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from opensama.media.frames import to_frames
from opensama.pipeline.part_store import PartStore
from opensama.values import Progress

_Made = TypeVar("_Made", bound=Tensor | None)


class LatentPreview:
    """Latents as a picture, by the colours of the source's first latent [c h w] and frame [3 H W] in [-1, 1]."""

    def __init__(self, latents: Tensor, frame: Tensor):
        self.size = frame.shape[-2:]
        cells = functional.adaptive_avg_pool2d(frame.float().cpu(), (latents.shape[-2], latents.shape[-1]))
        fit = torch.linalg.lstsq(_with_one(latents), cells.flatten(1).T, rcond=1e-4, driver="gelsd")
        self.map = fit.solution

    def picture(self, latents: Tensor) -> np.ndarray:
        """Clean latents [c h w] as `H W 3`, uint8."""
        colors = (_with_one(latents) @ self.map).T.unflatten(1, latents.shape[-2:])
        return frame_picture(functional.interpolate(colors[None], size=self.size, mode="bilinear")[0])

    def of(self, store: PartStore, noise: Tensor, sigmas: Sequence[float]) -> Callable[[], np.ndarray]:
        """What makes the picture of an edit whose last velocities lie in the store, begun with `noise` [w c t h w]:
        of the frame in the middle of its first window."""
        middle, begun = noise.shape[2] // 2, store.step("state", 0) >= 0
        v = store.rows("velocity", 0, "latents", slice(1))[0, :, middle].float().cpu()
        x = (store.rows("state", 0, "latents", slice(1)) if begun else noise)[0, :, middle].float().cpu()
        clean = x - sigmas[store.step("velocity", 0)] * v
        return lambda: self.picture(clean)


class EditReporter:
    """Tells the request's callback how far a stage of the edit is, in frames (a picture: in %); hands the value on."""

    def __init__(self, tell: Callable[[Progress], None] | None, frames: int):
        self.tell = tell
        self.total, self.unit = (frames, "frames") if frames > 1 else (100, "%")
        self.stage, self.begun, self.last = "", 0.0, time.monotonic()
        self.look: Callable[[], Callable[[], np.ndarray]] | None = None
        """Gives what makes a preview of the edit."""

    def __call__(self, stage: str, value: _Made, share: float) -> _Made:
        if stage != self.stage:  # it began where the one before it ended
            self.stage, self.begun = stage, self.last
        self.last = time.monotonic()
        preview: Callable[[], np.ndarray] | None = None
        if stage == "Decoding" and value is not None:
            preview = partial(frame_picture, value[:, 0])
        elif stage == "Editing" and self.look is not None:
            preview = self.look()
        if self.tell is not None:
            done, seconds = round(self.total * share), self.last - self.begun
            self.tell(Progress(stage, done, self.total, seconds, self.unit, preview=preview))
        return value


def frame_picture(frame: Tensor) -> np.ndarray:
    """A frame [3 H W] in [-1, 1] as `h w 3`, uint8."""
    return to_frames(frame[None, :, None])[0]


def _with_one(latents: Tensor) -> Tensor:
    flat = latents.detach().float().cpu().flatten(1).T
    return torch.cat([flat, flat.new_ones(len(flat), 1)], dim=1)
