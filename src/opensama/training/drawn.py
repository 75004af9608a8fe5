"""What each stage of an embedded model reads: pools of the drawn world, drawn when a stage first asks for them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from math import inf
from pathlib import Path
from typing import NamedTuple

import torch

from opensama.data.prefetch import one_core
from opensama.training.budget import TimeBudget
from opensama.training.drawing import DRAWS, Draw, draw_clips, draw_core, draw_in_turn, draw_unpaired
from opensama.training.embedded_config import TinyConfig
from opensama.training.pool import LatentPool, PoolEncoders, PoolWorkers, RenewedPool, build_pool
from opensama.training.scores import HeldOut
from opensama.training.sources import PoolStream
from opensama.world import TIERS
from opensama.world.phrasing import Split

_SHAPES = ((128, 128), (96, 176), (176, 96))  # height, width
_SHARES = (0.6, 0.2, 0.2)  # of the batches
_WHOLE = 1 / 4  # of the windows stage's batches; these alone have semantic tokens
PICTURE_SHIFT = 3.0  # of the noise levels of pictures: a caption says what, the noisy picture where
_CLIP = 5  # latent frames of a clip, so a window of it costs as much as those of five stills
_CLIPS = 1 / 4  # of the pretrain stage's batches; the others are stills


class Pools:
    """Draws with the frozen parts of a model; `close` ends its threads and processes."""

    def __init__(
        self,
        config: TinyConfig,
        folder: Path,
        encoders: PoolEncoders,
        *,
        budget: TimeBudget,
        device: torch.device,
    ):
        self.config, self.folder, self.budget, self.device = config, folder, budget, device
        self.encoders = encoders
        self.workers = PoolWorkers(config.workers, encoders) if config.workers else None
        self.drawing = ThreadPoolExecutor(1, initializer=one_core)
        self.chunk = 0
        if config.chunk:
            self.chunk = budget.scaled(config.chunk, least=64, a_minute=100 * max(1, config.workers))
        # a batch that is begun is drawn to its end: of stills, and of clips
        self.batches = (64, 8) if not budget.first or budget.first > 10 else (16, 2)
        self.fixed: list[LatentPool] = []

    def close(self) -> None:
        """Ends the threads and processes that draw."""
        self.drawing.shutdown(cancel_futures=True)
        if self.workers:
            self.workers.close()

    def pool(
        self,
        size: tuple[int, int],
        n: int,
        first: int,
        frames: int,
        draw: Draw | None = None,
        name: str | None = None,
        split: Split = "train",
        until: float | None = None,
        level: int = logging.INFO,
    ) -> LatentPool:
        """`n` samples from seed `first` on (a quarter of them in other shapes than the first), kept in a file."""
        config, kinds = self.config, dict[Draw, str]({draw_clips: "pretext-", draw_unpaired: "unpaired-"})
        if draw is None:
            draw = DRAWS[config.tier]
            if config.tier == "core":
                draw = partial(draw_core, full_share=config.full_share, shares=config.shares)
        return build_pool(
            self.folder / f"{name or kinds.get(draw, '')}{frames}x{size[0]}x{size[1]}.safetensors",
            n if size == _SHAPES[0] else n // 4,
            self.encoders,
            draw=draw,
            frames=frames,
            size=size,
            text_tokens=config.text_tokens,
            first=first + (config.seed * 100_000_000 if split == "train" else 0),
            split=split,
            objects=config.objects > 0,
            batch=self.batches[frames > 1],
            workers=self.workers,
            until=self.budget.pool_deadline() if until is None else until,
            level=level,
        )

    def renewed(self, stage: str, size: tuple[int, int]) -> RenewedPool:
        """Image edits of which new ones take the oldest ones' place."""
        config, begin = self.config, 50_000_000 + 10_000_000 * list(self.config.stages).index(stage)

        def make(number: int) -> LatentPool:
            old, name = (f"{stage}-{k}-" for k in (number - config.chunks, number))
            (self.folder / f"{old}1x{size[0]}x{size[1]}.safetensors").unlink(missing_ok=True)
            first = begin + number * self.chunk
            return self.pool(size, self.chunk, first, 1, name=name, until=inf, level=logging.DEBUG)

        steps, kept = config.chunk_steps, config.chunks
        return RenewedPool(make, steps=steps, kept=kept, threads=self.drawing, device=self.device)

    def stills(self, stage: str) -> Sequence[tuple[LatentPool | RenewedPool, float]]:
        """Image edits in the three shapes, and the shares of these."""
        if self.chunk:
            return [(self.renewed(stage, size), share) for size, share in zip(_SHAPES, _SHARES, strict=True)]
        for size in _SHAPES[len(self.fixed) :]:
            self.fixed.append(self.pool(size, self.config.image_edits, 0, 1))
        return list(zip(self.fixed, _SHARES, strict=True))

    def square(self) -> LatentPool:
        """The first of the shapes alone, of a run whose image edits stay the same."""
        return self.fixed[0] if self.fixed else self.pool(_SHAPES[0], self.config.image_edits, 0, 1)

    @cached_property
    def held_out(self) -> dict[str, HeldOut]:
        """Edits of the test split by tier, of both tiers, whichever is trained on."""
        n = self.config.test_edits
        drawn = {
            tier: self.pool(_SHAPES[0], n, 0, 1, partial(draw_in_turn, tier=tier), f"test-{tier}-", "test")
            for tier in TIERS
        }
        return {tier: HeldOut(edits, TIERS[tier].families) for tier, edits in drawn.items()}


def _pretrain(pools: Pools, config: TinyConfig) -> list[PoolStream]:
    streams = []
    for size, share in zip(_SHAPES, _SHARES, strict=True):
        apart = pools.pool(size, config.unpaired_stills, 30_000_000, 1, draw_unpaired)
        streams.append(PoolStream(apart, config.image_batch, (1 - _CLIPS) * share))
        apart = pools.pool(size, config.unpaired_clips, 40_000_000, 17, draw_unpaired)
        streams.append(PoolStream(apart, config.video_batch, _CLIPS * share))
    return streams


def _pictures(pools: Pools, config: TinyConfig) -> list[PoolStream]:
    return [
        PoolStream(pool, config.picture_batch, share, pictures=True, shift=PICTURE_SHIFT)
        for pool, share in pools.stills("pictures")
    ]


def _windows(pools: Pools, config: TinyConfig) -> list[PoolStream]:
    streams = []
    for pool, share in pools.stills("windows"):
        streams.append(PoolStream(pool, config.window_batch, (1 - _WHOLE) * share, sides=config.window_sides))
        streams.append(PoolStream(pool, config.image_batch, _WHOLE * share))
    return streams


def _images(pools: Pools, config: TinyConfig) -> list[PoolStream]:
    return [PoolStream(pool, config.image_batch, share) for pool, share in pools.stills("images")]


def _videos(pools: Pools, config: TinyConfig) -> list[PoolStream]:
    edits, streams = 1 - config.pretext, []

    def edited(pool: LatentPool | RenewedPool, share: float, whole: int, cut: int) -> None:
        """Whole samples and windows of an edits' pool, so many a batch."""
        streams.append(PoolStream(pool, whole, edits * share * (1 - config.video_windows)))
        if config.video_windows:
            sides = config.window_sides
            streams.append(PoolStream(pool, cut, edits * share * config.video_windows, sides=sides))

    for size, share in zip(_SHAPES, _SHARES, strict=True):
        clips = pools.pool(size, config.video_edits, 10_000_000, 17)
        edited(clips, (1 - config.video_stills) * share, config.video_batch, max(1, config.window_batch // _CLIP))
    stills = pools.stills("videos") if config.chunk else [(pools.square(), 1.0)]
    for still, share in stills:
        edited(still, config.video_stills * share, config.image_batch, config.window_batch)
    for size, share in zip(_SHAPES, _SHARES, strict=True) if config.pretext else ():
        clips = pools.pool(size, config.pretext_clips, 20_000_000, 17, draw_clips)
        # whole, since tube shuffle may put what the first frames need at the source's end
        streams.append(PoolStream(clips, config.video_batch, config.pretext * share, cut=False))
    return streams


class DrawnStage(NamedTuple):
    """How a stage on drawn pools differs from the others."""

    streams: Callable[[Pools, TinyConfig], list[PoolStream]]
    seed: int  # beside the run's
    pools: int  # that it draws
    export: bool = False  # whether a model folder is left after it


DRAWN_STAGES = {
    "pretrain": DrawnStage(_pretrain, 2, pools=6),
    "pictures": DrawnStage(_pictures, 3, pools=5),
    "windows": DrawnStage(_windows, 4, pools=5, export=True),
    "images": DrawnStage(_images, 0, pools=3, export=True),
    "videos": DrawnStage(_videos, 1, pools=7),
}
