"""Chosen trade-offs of time against quality: fewer steps of a better solver, guidance in some of them, a step cache.

`python benchmarks/speed_modes.py` prints what each costs and saves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from diffusers import FirstBlockCacheConfig, ModelMixin

from opensama.models.defaults import Defaults
from opensama.pipeline.diffusion import SamplerName
from opensama.values import EditRequest


@dataclass(frozen=True)
class SpeedMode:
    """How an edit is made cheaper than the model's own way."""

    steps: float = 1.0  # of the model's own number
    sampler: SamplerName | None = None
    guided: float = 1.0  # the share of the steps, from the first one on, that are guided; the others have one pass
    cached: bool = False  # blocks are left out where the first one's answer hardly moved, see `Defaults.cache`


SPEED_MODES = {
    "exact": SpeedMode(),
    "balanced": SpeedMode(steps=0.5, sampler="unipc", guided=0.6),
    "fast": SpeedMode(steps=0.4, sampler="unipc", guided=0.4, cached=True),
}


def steps_of(request: EditRequest, defaults: Defaults) -> int:
    """The steps of an edit: those asked for, else the mode's share of the model's own."""
    share = SPEED_MODES[request.speed].steps
    return math.ceil(share * defaults.steps) if request.steps is None else request.steps


@contextmanager
def step_cache(models: Sequence[ModelMixin], threshold: float | None) -> Iterator[None]:
    """Transformers with a first-block cache of that threshold, unless it is None or they have a cache already."""
    if threshold is None or any(model.is_cache_enabled for model in models):
        yield
        return
    for model in models:
        model.enable_cache(FirstBlockCacheConfig(threshold))
    try:
        yield
    finally:
        for model in models:
            model.disable_cache()
