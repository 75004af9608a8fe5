"""Drawn samples (`drawing.py`) as cached latents: drawn and encoded once, read often.

n samples, t latent frames, h w latent rows and columns:
    source, target  [n c t h w] float16, normalised        change  [n t h w] float16, share of changed pixels
    semantic        [n 17 e] float16, of the target's first frame
    objects         [n 7 t h w] float16, what lies in the target's cells (`cell_objects.py`); where asked for
    ids, mask       [n l] the text: an instruction, or a task's prompt and the clip's caption
    caption_ids, caption_mask   [n l] of edits: the target in words
"""

from __future__ import annotations

import copy
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from math import inf
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerFast, SiglipVisionModel

from opensama.data.latents import changed_share
from opensama.data.prefetch import Prefetcher, one_core, one_core_processes
from opensama.models.tiny import PatchAutoencoder
from opensama.runtime import autocast, whole_file
from opensama.training.drawing import Draw, DrawSettings, draw_edits
from opensama.training.semantic_encoder import semantic_tokens
from opensama.training.text import tokenize
from opensama.world.phrasing import Split

_log = logging.getLogger(__name__)
LatentPool = dict[str, Tensor]
_EVERY = 15.0  # seconds between two lines about a pool that is drawn


class PoolEncoders(NamedTuple):
    """The frozen models that samples are encoded with, on one device."""

    vae: PatchAutoencoder
    encoder: SiglipVisionModel
    tokenizer: PreTrainedTokenizerFast

    @property
    def device(self) -> torch.device:
        return next(self.vae.parameters()).device


class _Lot(NamedTuple):
    """What is drawn of each name, and how many tokens its text has."""

    draw: Draw
    settings: DrawSettings
    text_tokens: int

    @torch.no_grad()
    def encoded(self, names: Sequence[str], encoders: PoolEncoders) -> LatentPool:
        """The samples of some names, computed on the models' device, on the CPU; long texts lose their end."""
        vae, encoder, tokenizer = encoders
        drawn = self.draw(names, self.settings._replace(device=encoders.device))
        pictures, out = drawn.pictures, LatentPool()
        with autocast(encoders.device):
            for key, video in (("source", pictures.source), ("target", pictures.target)):
                z = vae.encode(video.transpose(1, 2) * 2 - 1).latent_dist.mode().float()
                out[key] = normalise(vae, z).half().cpu()
            out["semantic"] = semantic_tokens(encoder, pictures.target[:, 0] * 2 - 1).float().half().cpu()
        out["change"] = changed_share(pictures.mask[:, :, 0], out["target"].shape[2:]).half().cpu()
        if drawn.objects is not None:
            out["objects"] = drawn.objects.half()
        out["ids"], out["mask"] = tokenize(tokenizer, drawn.texts, self.text_tokens)
        if drawn.captions is not None:
            out["caption_ids"], out["caption_mask"] = tokenize(tokenizer, drawn.captions, self.text_tokens)
        return out


def normalise(vae: PatchAutoencoder, z: Tensor) -> Tensor:
    """Latents [b c t h w] as the transformer sees them."""
    mean, std = (z.new_tensor(getattr(vae.config, k)).view(-1, 1, 1, 1) for k in ("latents_mean", "latents_std"))
    return (z - mean) / std


class PoolWorkers:
    """Processes of one core each that draw samples: threads of one process wait for each other's Python."""

    def __init__(self, count: int, encoders: PoolEncoders):
        vae, encoder = copy.deepcopy(encoders.vae).cpu(), copy.deepcopy(encoders.encoder)
        ours = PoolEncoders(vae, torch.nn.Module.cpu(encoder), encoders.tokenizer)
        self.count = count
        self.processes = one_core_processes(count, [__name__], _begin_worker, ours)

    def encoded(self, lot: _Lot, names: Sequence[str]) -> LatentPool:
        """The samples of these names, drawn and encoded; called from several threads at a time."""
        drawn = self.processes.submit(_in_worker, lot, names).result()
        return {key: torch.from_numpy(value) for key, value in drawn.items()}

    def close(self) -> None:
        self.processes.shutdown(cancel_futures=True)


_ENCODERS: list[PoolEncoders] = []  # of a worker's process


def _begin_worker(encoders: PoolEncoders) -> None:
    one_core()
    _ENCODERS[:] = [encoders]


def _in_worker(lot: _Lot, names: Sequence[str]) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in lot.encoded(names, _ENCODERS[0]).items()}


def build_pool(
    path: Path | None,
    n: int,
    encoders: PoolEncoders,
    *,
    draw: Draw = draw_edits,
    frames: int = 1,
    size: tuple[int, int] = (128, 128),
    text_tokens: int = 32,
    first: int = 0,
    split: Split = "train",
    objects: bool = False,
    batch: int = 64,
    workers: PoolWorkers | None = None,
    until: float = inf,
    level: int = logging.INFO,
) -> LatentPool:
    """`n` samples starting at seed `first`; read from `path` if it is there, else written to it.

    They are drawn on the encoders' device, in threads; with `workers` by these, on the CPU. Each `batch` is kept
    when it is drawn (in `path` + `.parts`), so that a run that was stopped goes on. After `until`, on the monotonic
    clock, nothing more is drawn than the first batch: the pool is then what there is. Progress is logged at `level`.
    """
    if path is not None and path.exists():
        return load_file(path)
    parts = _Parts(path)
    lot, lots = _Lot(draw, DrawSettings(split, frames, *size, objects=objects), text_tokens), -(-n // batch)

    def make(index: int) -> LatentPool:
        names = [f"{size}-{first + i}" for i in range(index * batch, min(n, (index + 1) * batch))]
        return workers.encoded(lot, names) if workers else lot.encoded(names, encoders)

    title = f"drawing {path.stem if path else ''}"
    begun = said = time.monotonic()
    drawn = min(n, parts.count * batch)
    cores = torch.get_num_threads() if encoders.device.type == "cpu" else 1
    ahead = Prefetcher(make, workers=workers.count if workers else cores, end=lots)
    try:
        for index in range(parts.count, lots):
            parts.add(ahead(index))
            drawn, now = min(n, parts.count * batch), time.monotonic()
            if now >= until:
                break
            if now - said > _EVERY or drawn == n:
                said = now
                limit = "" if until == inf else f", for at most {(until - begun) / 60:.1f}"
                _log.log(level, f"{title}: {drawn:,} of {n:,} in {(now - begun) / 60:.1f} min{limit}")
    finally:  # what nobody waits for any more is not drawn
        ahead.close()
    if drawn < n:
        _log.log(level, f"{title}: {drawn:,} of {n:,}, which is all that there is time for")
    return parts.whole()


class _Parts:
    """The batches of a pool in their order: in a folder beside its file until all of them are there."""

    def __init__(self, path: Path | None):
        self.path, self.parts = path, list[LatentPool]()
        self.folder = None if path is None else path.with_name(f"{path.name}.parts")
        while self.folder is not None and (file := self.folder / f"{self.count:06d}.safetensors").exists():
            self.parts.append(load_file(file))

    @property
    def count(self) -> int:
        return len(self.parts)

    def add(self, part: LatentPool) -> None:
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            with whole_file(self.folder / f"{self.count:06d}.safetensors") as temporary:
                save_file({key: value.contiguous() for key, value in part.items()}, temporary)
        self.parts.append(part)

    def whole(self) -> LatentPool:
        """All of them, written as one."""
        pool = {key: torch.cat([part[key] for part in self.parts]).contiguous() for key in self.parts[0]}
        if self.path is not None and self.folder is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(self.path) as temporary:
                save_file(pool, temporary)
            shutil.rmtree(self.folder, ignore_errors=True)
        return pool


class RenewedPool:
    """A pool that is never the same for long: every `steps` steps a new chunk of samples takes the oldest one's place.

    `make(number)` draws a chunk; the next one is drawn meanwhile, in a thread of its own. What the pool holds depends
    on the step alone: the newest `kept` chunks up to that step's, fewer at the beginning. It lies on `device`.
    """

    def __init__(
        self,
        make: Callable[[int], LatentPool],
        *,
        steps: int,
        kept: int,
        threads: ThreadPoolExecutor,
        device: torch.device | str = "cpu",
    ):
        self.device = device
        self.make, self.steps, self.kept, self.threads = make, steps, kept, threads
        self.held: dict[int, int] = {}  # place -> number of the chunk
        self.pool: LatentPool = {}
        self.coming: dict[int, Future[LatentPool]] = {}

    def __call__(self, index: int) -> LatentPool:
        newest = index // self.steps
        missing = [k for k in range(max(0, newest - self.kept + 1), newest + 1) if self.held.get(k % self.kept) != k]
        for number in missing:
            coming = self.coming.pop(number, None)
            self._put(number, coming.result() if coming else self.make(number))
        if newest + 1 not in self.coming:
            self.coming = {newest + 1: self.threads.submit(self.make, newest + 1)}
        return {key: v[: min(newest + 1, self.kept) * self.size] for key, v in self.pool.items()}

    def _put(self, number: int, chunk: LatentPool) -> None:
        self.size = len(chunk["ids"])
        if not self.pool:
            self.pool = {
                key: torch.zeros(self.kept * self.size, *v.shape[1:], dtype=v.dtype, device=self.device)
                for key, v in chunk.items()
            }
        place = number % self.kept
        for key, value in chunk.items():
            self.pool[key][place * self.size : (place + 1) * self.size] = value
        self.held[place] = number
