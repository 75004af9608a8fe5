"""Edits of the world, clips of it under pretext tasks, and unpaired clips, as cached latents: drawn once, read often.

n samples, t latent frames, h w latent rows and columns:
    source, target  [n c t h w] float16, normalised        change  [n t h w] float16, share of changed pixels
    semantic        [n 17 e] float16, of the target's first frame
    ids, mask       [n l] the text: an instruction, or a task's prompt and the clip's caption
    caption_ids, caption_mask   [n l] of edits: the target in words
"""

from __future__ import annotations

import copy
import random
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from math import inf
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerFast, SiglipVisionModel

from opensama.data.prefetch import one_core
from opensama.data.samples import seed_of
from opensama.models.tiny import PatchAutoencoder
from opensama.pretext import PAPER_SHARES, CubeInpainting, Mixture, SpeedPerturbation
from opensama.runtime import autocast, whole_file
from opensama.training.footage import styled_footage
from opensama.training.semantic_encoder import semantic_tokens
from opensama.training.text import tokenize
from opensama.world import TIERS, EditBatch, EditPlan, TierName, plan_edit, render_edits, render_styled
from opensama.world.edit_samples import changed_mask
from opensama.world.phrasing import Split
from opensama.world.unpaired import plan_unpaired, render_unpaired

Pool = dict[str, Tensor]
_EVERY = 15.0  # seconds between two lines about a pool that is drawn

# Shares of the families, harder ones more often; an absent object teaches to leave a video alone.
_SHARES: dict[str, float] = {
    "replace": 15,
    "add": 14,
    "remove": 10,
    "recolor": 9,
    "retexture": 8,
    "accessory": 10,
    "background": 8,
    "style": 10,
    "text": 7,
    "obscure": 5,
    "two": 6,
    "absent": 4,
    "swapped": 4,
}


FILMED = 0.08  # of the core's samples are styles on what looks like footage
CORE_SHARES: dict[str, float] = {
    "replace": 24,
    "add": 20,
    "remove": 13,
    "recolor": 13,
    "background": 9,
    "style": 12,
    "absent": 4,
    "swapped": 5,
}
TIER_SHARES: dict[TierName, dict[str, float]] = {"core": CORE_SHARES, "full": _SHARES}


PRETEXT = Mixture(PAPER_SHARES, [CubeInpainting(black=0.0), SpeedPerturbation(whole=True)])
"""The paper's tasks for short clips with pixels in 0..1: of 17 frames speed perturbation leaves 9, where else 5."""


class Drawn(NamedTuple):
    """Pixels of some samples, and their texts."""

    pictures: EditBatch
    texts: list[str]
    captions: list[str] | None = None


Draw = Callable[[Sequence[str], Split, int, int, int, torch.device], Drawn]
"""names, split, frames, height, width, device -> what they stand for, the same for the same names."""


def draw_edits(names: Sequence[str], split: Split, frames: int, height: int, width: int, device: torch.device) -> Drawn:
    """Edits of the whole world and their instructions."""
    return drawn_edits([draw_plan(name, split) for name in names], frames, height, width, device)


def draw_core(names: Sequence[str], split: Split, frames: int, height: int, width: int, device: torch.device) -> Drawn:
    """Edits of the world's core, and styles on what looks like footage."""
    filmed = [random.Random(f"filmed/{name}").random() < FILMED for name in names]
    plans = [draw_plan(name, split, "core") for name, film in zip(names, filmed, strict=True) if not film]
    if all(filmed):
        return footage_edits(names, split, frames, height, width, device)
    drawn = drawn_edits(plans, frames, height, width, device)
    if not any(filmed):
        return drawn
    taken = [name for name, film in zip(names, filmed, strict=True) if film]
    return interleaved(filmed, drawn, footage_edits(taken, split, frames, height, width, device))


def footage_edits(
    names: Sequence[str], split: Split, frames: int, height: int, width: int, device: torch.device
) -> Drawn:
    """Styles on what looks like footage."""
    *clips, texts, captions = styled_footage(names, split, frames, height, width)
    source, target, mask = (clip.to(device) for clip in clips)
    return Drawn(EditBatch(source, target, mask), texts, captions)


def interleaved(second: Sequence[bool], a: Drawn, b: Drawn) -> Drawn:
    """The samples of both as one lot, in which `second` says which are from `b`."""
    order = torch.tensor(second).long().argsort(stable=True).argsort(stable=True)
    pairs = [(getattr(a.pictures, key), getattr(b.pictures, key)) for key in ("source", "target", "mask")]
    source, target, mask = (torch.cat(pair)[order.to(pair[0].device)] for pair in pairs)
    lists = ((a.texts, b.texts), (a.captions or [], b.captions or []))
    texts, captions = ([(x + y)[i] for i in order.tolist()] for x, y in lists)
    return Drawn(EditBatch(source, target, mask), texts, captions)


def draw_in_turn(
    names: Sequence[str], split: Split, frames: int, height: int, width: int, device: torch.device, tier: TierName
) -> Drawn:
    """Edits of the tier's families in turn, by the numbers that the names end with."""
    families = TIERS[tier].families
    numbers = [int(name.rsplit("-", 1)[1]) for name in names]
    plans = [plan_edit(n // len(families), split, families[n % len(families)], tier=tier) for n in numbers]
    return drawn_edits(plans, frames, height, width, device)


DRAWS: dict[TierName, Draw] = {"core": draw_core, "full": draw_edits}


def drawn_edits(plans: Sequence[EditPlan], frames: int, height: int, width: int, device: torch.device) -> Drawn:
    pictures = render_edits(plans, frames, height, width, device)
    return Drawn(pictures, [plan.instruction for plan in plans], [plan.caption for plan in plans])


def draw_clips(names: Sequence[str], split: Split, frames: int, height: int, width: int, device: torch.device) -> Drawn:
    """Clips as targets, each with a source that a task of `PRETEXT` corrupted, under the task's prompt and a caption.

    The clip is one side of an edit, so that it may have a style. A source that the task made shorter stands still at
    its end, as long as the target (ours: the model's gate mixes the two cell by cell). What counts as changed is where
    they differ, as with edits: the hidden frames, the misplaced tubes, what moved; most of a clip is else a copy.
    """
    plans = [draw_plan(name, split) for name in names]
    looks = [plan.target if seed_of("side", name) % 2 else plan.source for plan, name in zip(plans, names, strict=True)]
    target = render_styled(looks, frames, height, width, device)
    corrupted = [PRETEXT.apply(v.transpose(0, 1), seed_of("task", name)) for v, name in zip(target, names, strict=True)]
    source = torch.stack([stretched(s.source, frames).transpose(0, 1) for s in corrupted])
    texts = [s.prefix + look.caption for s, look in zip(corrupted, looks, strict=True)]
    return Drawn(EditBatch(source, target, changed_mask(source, target)), texts)


def draw_unpaired(
    names: Sequence[str], split: Split, frames: int, height: int, width: int, device: torch.device
) -> Drawn:
    """Two clips of one scene each, and what would lead from the first to the second. Changed is where they differ."""
    plans = [plan_unpaired(name, split) for name in names]
    source, target = render_unpaired(plans, frames, height, width, device)
    return Drawn(EditBatch(source, target, changed_mask(source, target)), [plan.instruction for plan in plans])


def stretched(video: Tensor, frames: int) -> Tensor:
    """A video [c t h w] made so many frames long by standing still at its last one."""
    return torch.cat((video, video[:, -1:].expand(-1, frames - video.shape[1], -1, -1)), 1)


def draw_plan(name: str, split: Split = "train", tier: TierName = "full") -> EditPlan:
    """One edit of a family drawn by the tier's shares, the same for the same name."""
    shares = TIER_SHARES[tier]
    family = random.Random(name).choices(tuple(shares), tuple(shares.values()))[0]
    return plan_edit(name, split, family, tier=tier)


def normalise(vae: PatchAutoencoder, z: Tensor) -> Tensor:
    """Latents as the transformer sees them."""
    mean, std = (z.new_tensor(getattr(vae.config, k)).view(-1, 1, 1, 1) for k in ("latents_mean", "latents_std"))
    return (z - mean) / std


def changed_share(mask: Tensor) -> Tensor:
    """Pixel mask [b t 1 h w] (t = 4k+1) as the share of changed pixels in each latent cell, [b 1+k h/16 w/16]."""
    share = F.avg_pool2d(mask[:, :, 0].float(), 16)
    first, rest = share[:, :1], share[:, 1:]
    b, t, h, w = rest.shape
    return torch.cat((first, rest.view(b, t // 4, 4, h, w).mean(2)), 1)


@torch.no_grad()
def encode(
    drawn: Drawn,
    vae: PatchAutoencoder,
    encoder: SiglipVisionModel,
    tokenizer: PreTrainedTokenizerFast,
    *,
    text_tokens: int,
) -> Pool:
    """One batch of the pool, computed on the models' device and returned on the CPU; long texts lose their end."""
    pictures, device = drawn.pictures, drawn.pictures.target.device
    out: Pool = {"change": changed_share(pictures.mask).half().cpu()}
    with autocast(device):
        for key, video in (("source", pictures.source), ("target", pictures.target)):
            z = vae.encode(video.transpose(1, 2) * 2 - 1).latent_dist.mode().float()
            out[key] = normalise(vae, z).half().cpu()
        out["semantic"] = semantic_tokens(encoder, pictures.target[:, 0] * 2 - 1).float().half().cpu()
    out["ids"], out["mask"] = tokenize(tokenizer, drawn.texts, text_tokens)
    if drawn.captions is not None:
        out["caption_ids"], out["caption_mask"] = tokenize(tokenizer, drawn.captions, text_tokens)
    return out


_Encoders = tuple[PatchAutoencoder, SiglipVisionModel, PreTrainedTokenizerFast]


def draw_part(
    parts: _Encoders,
    names: Sequence[str],
    draw: Draw,
    split: Split,
    frames: int,
    size: tuple[int, int],
    text_tokens: int,
) -> Pool:
    """The samples of some names, drawn and encoded."""
    drawn = draw(names, split, frames, *size, next(parts[0].parameters()).device)
    return encode(drawn, *parts, text_tokens=text_tokens)


class Workers:
    """Processes of one core each that draw samples: threads of one process wait for each other's Python."""

    def __init__(self, count: int, vae: PatchAutoencoder, encoder: SiglipVisionModel, tokenizer: Any):
        ours = [copy.deepcopy(module).cpu() for module in (vae, encoder)]
        self.pool = ProcessPoolExecutor(count, get_context("spawn"), _begin_worker, ((*ours, tokenizer),))

    def map(self, named: Iterable[Sequence[str]], *asked: Any) -> Iterator[Pool]:
        """The samples of each lot of names; `asked` is what `draw_part` is told besides."""
        for drawn in self.pool.map(partial(_in_worker, asked), named):
            yield {key: torch.from_numpy(value) for key, value in drawn.items()}

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)


_PARTS: list[_Encoders] = []  # of a worker's process


def _begin_worker(parts: _Encoders) -> None:
    one_core()
    _PARTS[:] = [parts]


def _in_worker(asked: tuple[Any, ...], names: Sequence[str]) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in draw_part(_PARTS[0], names, *asked).items()}


def build_pool(
    path: Path | None,
    n: int,
    vae: PatchAutoencoder,
    encoder: SiglipVisionModel,
    tokenizer: PreTrainedTokenizerFast,
    *,
    draw: Draw = draw_edits,
    frames: int = 1,
    size: tuple[int, int] = (128, 128),
    text_tokens: int = 32,
    first: int = 0,
    split: Split = "train",
    batch: int = 64,
    workers: Workers | None = None,
    until: float = inf,
    say: Callable[[str], None] = print,
) -> Pool:
    """`n` samples starting at seed `first`; read from `path` if it is there, else written to it.

    They are drawn on the device of `vae`, in threads; with `workers` by these, on the CPU. Each lot of `batch` is kept
    when it is drawn (in `path` + `.parts`), so that who was interrupted goes on. After `until`, on the monotonic clock,
    nothing more is drawn than the first lot: the pool is then what there is.
    """
    if path is not None and path.exists():
        return load_file(path)
    parts = _Parts(path)
    starts = range(0, n, batch)
    named = [[f"{size}-{first + i}" for i in range(start, min(n, start + batch))] for start in starts]
    asked = (draw, split, frames, size, text_tokens)

    def part(names: Sequence[str]) -> Pool:
        return draw_part((vae, encoder, tokenizer), names, *asked)

    begun = said = time.monotonic()
    drawn = min(n, parts.count * batch)
    on_cpu = next(vae.parameters()).device.type == "cpu"
    threads = ThreadPoolExecutor(torch.get_num_threads() if on_cpu else 1, initializer=one_core)
    try:
        missing = named[parts.count :]
        for encoded in workers.map(missing, *asked) if workers else threads.map(part, missing):
            parts.add(encoded)
            drawn, now = min(n, parts.count * batch), time.monotonic()
            if now >= until:
                break
            if now - said > _EVERY or drawn == n:
                said = now
                limit = "" if until == inf else f", for at most {(until - begun) / 60:.1f}"
                say(f"drawing {path.stem if path else ''}: {drawn:,} of {n:,} in {(now - begun) / 60:.1f} min{limit}")
    finally:  # what nobody waits for any more is not drawn
        threads.shutdown(cancel_futures=True)
    if drawn < n:
        say(f"drawing {path.stem if path else ''}: {drawn:,} of {n:,}, which is all that there is time for")
    return parts.whole()


class _Parts:
    """The lots of a pool in their order: in a folder beside its file until all of them are there."""

    def __init__(self, path: Path | None):
        self.path, self.lots = path, list[Pool]()
        self.folder = None if path is None else path.with_name(f"{path.name}.parts")
        while self.folder is not None and (file := self.folder / f"{self.count:06d}.safetensors").exists():
            self.lots.append(load_file(file))

    @property
    def count(self) -> int:
        return len(self.lots)

    def add(self, lot: Pool) -> None:
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            with whole_file(self.folder / f"{self.count:06d}.safetensors") as temporary:
                save_file({key: value.contiguous() for key, value in lot.items()}, temporary)
        self.lots.append(lot)

    def whole(self) -> Pool:
        """All of them, written as one."""
        pool = {key: torch.cat([lot[key] for lot in self.lots]).contiguous() for key in self.lots[0]}
        if self.path is not None and self.folder is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(self.path) as temporary:
                save_file(pool, temporary)
            shutil.rmtree(self.folder, ignore_errors=True)
        return pool


class Renewed:
    """A pool that is never the same for long: every `steps` steps a new chunk of samples takes the oldest one's place.

    `make(number)` draws a chunk; the next one is drawn meanwhile, in a thread of its own. What the pool holds depends
    on the step alone: the newest `kept` chunks up to that step's, fewer at the beginning. It lies on `device`.
    """

    def __init__(
        self,
        make: Callable[[int], Pool],
        *,
        steps: int,
        kept: int,
        threads: ThreadPoolExecutor,
        device: torch.device | str = "cpu",
    ):
        self.device = device
        self.make, self.steps, self.kept, self.threads = make, steps, kept, threads
        self.held: dict[int, int] = {}  # place -> number of the chunk
        self.pool: Pool = {}
        self.coming: dict[int, Future[Pool]] = {}

    def __call__(self, index: int) -> Pool:
        newest = index // self.steps
        missing = [k for k in range(max(0, newest - self.kept + 1), newest + 1) if self.held.get(k % self.kept) != k]
        for number in missing:
            coming = self.coming.pop(number, None)
            self._put(number, coming.result() if coming else self.make(number))
        if newest + 1 not in self.coming:
            self.coming = {newest + 1: self.threads.submit(self.make, newest + 1)}
        return {key: v[: min(newest + 1, self.kept) * self.size] for key, v in self.pool.items()}

    def _put(self, number: int, chunk: Pool) -> None:
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
