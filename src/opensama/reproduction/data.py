"""The micro world's clips and edits, drawn and encoded once, as the training stages read them.

Autoencoder, text encoder and image encoder are the embedded model's, frozen, as the paper's are.

`n` items, `c` channels, `t h w` latent time, rows, columns, `l` text tokens, `d` their width, `s` semantic tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import SiglipVisionModel

from opensama.data.latents import ItemsInMemory, changed_share
from opensama.data.samples import Shape, TrainingItem, TrainingRow, seed_of
from opensama.models.registry import find
from opensama.models.semantic import anchor_frames
from opensama.pipeline.sama import SamaPipeline
from opensama.pretext import Mixture, SpeedPerturbation
from opensama.training.semantic_encoder import semantic_tokens
from opensama.training.text import encode_text, tokenize
from opensama.world import render_edits, render_styled
from opensama.world.edit_samples import changed_mask
from opensama.world.micro import MICRO_FRAMES, MICRO_SIZE, plan_micro_clip, plan_micro_edit, plan_micro_unpaired
from opensama.world.unpaired import render_unpaired

TEXT_TOKENS = 56
POOLS = ("images", "videos", "prior", "none", "cube", "speed", "tube")
UNPAIRED = "unpaired"  # ICVE's
FIRST = {name: 1_000_000 * at for at, name in enumerate((*POOLS, UNPAIRED))}  # each pool's first seed
MicroPool = dict[str, Tensor]


class FrozenModels:
    """The models around the transformer, float32 on the CPU."""

    def __init__(self, folder: Path):
        self.pipeline = SamaPipeline.from_pretrained(folder)
        self.vae, self.text, self.tokenizer = (
            self.pipeline.vae, self.pipeline.text_encoder, self.pipeline.tokenizer,
        )  # fmt: skip
        self.encoder = SiglipVisionModel.from_pretrained(folder / "semantic_encoder")
        modules: tuple[torch.nn.Module, ...] = (self.vae, self.text, self.encoder)
        for module in modules:
            module.float().requires_grad_(False).eval()

    def latents(self, video: Tensor) -> Tensor:
        """Frames [b t 3 h w] in 0..1 as normalised latents [b c t h w]."""
        return self.pipeline.encode_video(video.transpose(1, 2) * 2 - 1)

    def frames(self, latents: Tensor) -> Tensor:
        """The way back."""
        return (self.pipeline.decode_latents(latents) + 1).transpose(1, 2) / 2

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Prompt embeddings [b l d], zero past a text's end."""
        return encode_text(self.text, *tokenize(self.tokenizer, texts, TEXT_TOKENS))

    def anchors(self, video: Tensor) -> Tensor:
        """Tokens of the frames that close a latent frame each: [b t s e]."""
        frames = video[:, ::4] * 2 - 1
        return torch.stack([semantic_tokens(self.encoder, frame) for frame in frames.unbind(1)], dim=1)


@cache
def frozen_models() -> FrozenModels:
    """The embedded model's, loaded once a process."""
    folder = find("tiny").folder
    assert folder is not None
    return FrozenModels(folder)


@cache
def read_pool(out: Path, name: str) -> MicroPool:
    """A pool that was drawn into OUT/pools, read once a process."""
    return load_file(pool_file(out, name))


def pool_file(out: Path, name: str) -> Path:
    return out / "pools" / f"{name}.safetensors"


def first_of(pool: MicroPool, n: int) -> MicroPool:
    """Its first `n` items."""
    return {key: tensor[:n] for key, tensor in pool.items()}


def draw_micro_edits(frozen: FrozenModels, n: int, frames: int, first: int = 0) -> MicroPool:
    """`n` edits from seed `first` on."""

    def part(seeds: range) -> MicroPool:
        plans = [plan_micro_edit(seed) for seed in seeds]
        drawn = render_edits(plans, frames, MICRO_SIZE, MICRO_SIZE)
        pair = _encoded_pair(frozen, drawn.source, drawn.target, drawn.mask, [plan.instruction for plan in plans])
        return pair | {"anchors": frozen.anchors(drawn.target)}

    return _in_lots(part, n, first)


def draw_micro_clips(frozen: FrozenModels, n: int, task: str | None, first: int = 0) -> MicroPool:
    """`n` clips with one pretext task; None: without a source, for the prior."""
    mixture = Mixture({task: 1}, [SpeedPerturbation(whole=True)]) if task else None

    def part(seeds: range) -> MicroPool:
        looks = [plan_micro_clip(seed) for seed in seeds]
        video = render_styled(looks, MICRO_FRAMES, MICRO_SIZE, MICRO_SIZE)
        target = frozen.latents(video)
        out = {"target": target, "anchors": frozen.anchors(video), "change": torch.zeros_like(target[:, 0])}
        prompt = ""
        if mixture:
            corrupted = [mixture.apply((clip.transpose(0, 1) * 2 - 1), seed_of(task or "", s))
                         for clip, s in zip(video, seeds, strict=True)]  # fmt: skip
            prompt = corrupted[0].prefix
            out["source"] = frozen.latents((torch.stack([s.source for s in corrupted]).transpose(1, 2) + 1) / 2)
        return out | {"text": frozen.embed([prompt + look.caption for look in looks])}

    return _in_lots(part, n, first)


def draw_micro_unpaired(frozen: FrozenModels, n: int, first: int = 0) -> MicroPool:
    """`n` pairs of clips of one scene each, two times of it. What counts as changed is where they differ."""

    def part(seeds: range) -> MicroPool:
        plans = [plan_micro_unpaired(seed) for seed in seeds]
        source, target = render_unpaired(plans, MICRO_FRAMES, MICRO_SIZE, MICRO_SIZE)
        texts = [plan.instruction for plan in plans]
        return _encoded_pair(frozen, source, target, changed_mask(source, target), texts)

    return _in_lots(part, n, first)


def _encoded_pair(
    frozen: FrozenModels, source: Tensor, target: Tensor, mask: Tensor, texts: Sequence[str]
) -> MicroPool:
    latents = frozen.latents(target)
    change = changed_share(mask[:, :, 0], latents.shape[2:])
    return {"source": frozen.latents(source), "target": latents, "text": frozen.embed(texts), "change": change}


@torch.no_grad()
def _in_lots(part: Callable[[range], MicroPool], n: int, first: int) -> MicroPool:
    """What `part` draws of `n` seeds from `first` on, 64 at a time, in half precision."""
    parts = [part(range(start, min(start + 64, first + n))) for start in range(first, first + n, 64)]
    return {key: torch.cat([part[key] for part in parts]).half().contiguous() for key in parts[0]}


def micro_items(pools: Sequence[MicroPool], anchors: int, nothing: Tensor, *, pooled: bool = False) -> ItemsInMemory:
    """Pools as one set of items, with semantic tokens of so many `anchors`, or none.

    `nothing` [l d] stands for no text. `pooled` adds ICVE's text in one vector [d], the mean of its tokens.
    """

    def prompt(text: Tensor) -> dict[str, Tensor]:
        text = text[: int((text != 0).any(-1).sum())]  # zero past its end
        return {"text": text, "pooled": text.float().mean(0)} if pooled else {"text": text}

    items: list[TrainingItem] = []
    samples: list[dict[str, Tensor]] = []
    frames = [f // 4 for f in anchor_frames(MICRO_FRAMES, anchors)] if anchors else []
    for at, pool in enumerate(pools):
        t = pool["target"].shape[2]
        source = 4 * (pool["source"].shape[2] - 1) + 1 if "source" in pool else 0
        shape = Shape(MICRO_SIZE, MICRO_SIZE, 4 * (t - 1) + 1, source)
        for i in range(len(pool["target"])):
            sample = {key: tensor[i] for key, tensor in pool.items() if key != "anchors"}
            if frames:
                seen = pool["anchors"][i]
                sample["semantic"] = seen[frames if len(seen) > 1 else frames[:1]].flatten(0, 1)
            samples.append(sample | prompt(sample["text"]))
            items.append(TrainingItem(TrainingRow(i, None, Path("micro"), ""), shape, 0, f"{at}.{i}"))
    return ItemsInMemory(items, samples, prompt(nothing))
