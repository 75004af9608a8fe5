"""The embedded editors' training: rectified flow on the target latents (SAMA: and on the semantic tokens), given source
and instruction.

    loss = mean_samples [ sum w (v - v*)^2 / sum w ] + 0.1 * mean |u - u*|,   w = 1 + (emphasis - 1) * changed share

The world knows where an answer differs from its source; weighting that region is what lets a small model learn the edit
before it has learnt to copy (without it, copying is nearly all of the loss). Image edits come first, then videos.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from opensama.flow import sample_sigma
from opensama.models.families import family_of
from opensama.runtime import autocast
from opensama.training.config import LossSettings
from opensama.training.devices import moved
from opensama.training.pool import Pool, Renewed
from opensama.training.stages import edit_losses, noised
from opensama.training.text import encode_text, tokenize
from opensama.training.windows import cut_windows

BESIDE = 8  # cells of the source outside a window
FIRST = 0.999  # noise level of scores: next to pure noise, from which edits are sampled
EASY = 0.3  # below this noise level a picture's error divided by the level says little: velocities count less there


class Stream(NamedTuple):
    """Batches of one pool."""

    pool: Pool | Renewed
    batch: int
    share: float  # of the steps, beside the other streams' shares
    cut: bool = True  # half of the batches to a random length of whole latents
    sides: tuple[int, ...] = ()  # of windows in cells, one of them a batch; none: whole frames
    pictures: bool = False  # the target alone, from its caption
    shift: float | None = None  # of noise levels, where it is not the stage's

    def at(self, index: int) -> Pool:
        """What is drawn from at a step."""
        return self.pool(index) if isinstance(self.pool, Renewed) else self.pool


class HeldOut(NamedTuple):
    """Edits that nothing is trained on, of families in turn."""

    pool: Pool
    families: tuple[str, ...]


class EditingStage:
    """Batches from several pools in turn, one shape a batch."""

    def __init__(
        self,
        name: str,
        transformer: Any,
        text: UMT5EncoderModel,
        tokenizer: PreTrainedTokenizerFast,
        streams: Sequence[Stream],
        *,
        shift: float = 3.0,
        emphasis: float = 9.0,
        text_dropout: float = 0.1,
        seed: int = 0,
        shortest: int = 2,
        importance: Tensor | None = None,
        tests: Mapping[str, HeldOut] | None = None,
    ):
        """`importance` [c] says how much each number counts. A text encoder whose weights are frozen stays as it is."""
        self.name, self.transformer, self.text, self.family = name, transformer, text, family_of(transformer)
        self.anchored = bool(transformer.config.get("semantic_dim"))
        self.streams, self.shift, self.emphasis, self.text_dropout = streams, shift, emphasis, text_dropout
        self.seed, self.shortest = seed, shortest
        self.importance = torch.ones(()) if importance is None else importance.sqrt()
        self.tests = tests or {}
        self.nothing = tokenize(tokenizer, [""], streams[0].at(0)["ids"].shape[1])

    def modules(self) -> Mapping[str, nn.Module]:
        learns = any(p.requires_grad for p in self.text.parameters())
        return {"transformer": self.transformer} | ({"text": self.text} if learns else {})

    def batch(self, index: int) -> dict[str, Tensor]:
        """The batch of one step, with its noise and noise levels: a function of the seed and the step's number."""
        g = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        shares = torch.tensor([stream.share for stream in self.streams])
        stream = self.streams[int(torch.multinomial(shares, 1, generator=g))]
        pool, b = stream.at(index), stream.batch
        device = pool["ids"].device
        if device.type != "cpu":  # where the pool lies, batches are made
            g = torch.Generator(device).manual_seed(self.seed * 1_000_003 + index)
        chosen = torch.randint(len(pool["ids"]), (b,), generator=g, device=device)
        t = pool["source"].shape[2]
        if stream.cut and t > self.shortest and torch.rand((), generator=g, device=device) < 0.5:
            t = int(torch.randint(self.shortest, t, (), generator=g, device=device))
        semantic = self.anchored and not stream.sides
        texts = ("caption_ids", "caption_mask") if stream.pictures else ("ids", "mask")
        wanted = ("source", "target", "change", *texts, *(("semantic",) if semantic else ()))
        out = {key.removeprefix("caption_"): pool[key][chosen] for key in wanted}
        out = {key: (v[:, :, :t] if key in ("source", "target") else v) for key, v in out.items()}
        out["change"] = out["change"][:, :t]
        if stream.pictures:
            del out["source"]
            out["change"] = torch.zeros_like(out["change"])
        if stream.sides:
            side = stream.sides[int(torch.randint(len(stream.sides), (), generator=g, device=device))]
            out |= cut_windows(out, side, BESIDE, g)
        drop = torch.rand(b, generator=g, device=device) < self.text_dropout
        ids, mask = (x.to(device) for x in self.nothing)
        out["ids"] = torch.where(drop[:, None], ids, out["ids"])
        out["mask"] = torch.where(drop[:, None], mask, out["mask"])
        out["sigma"] = sample_sigma(b, shift=stream.shift or self.shift, generator=g)
        out["noise"] = torch.randn(out["target"].shape, generator=g, device=device)
        if "semantic" in out:
            out["semantic_noise"] = torch.randn(out["semantic"].shape, generator=g, device=device)
        return self.placed(out)

    def step(self, index: int) -> dict[str, Tensor]:
        x = self.batch(index)
        answer = self.answer(x)
        settings = LossSettings(emphasis=self.emphasis, ease=EASY)
        return edit_losses(answer, x, settings, self.importance.to(x["sigma"].device))

    @torch.no_grad()
    def measure(self, batch: int = 64) -> dict[str, float]:
        """For each test, and each of its families: error where the answer differs, over the source's own.

        Squared, in normalised latents, of the picture that one step from noise predicts; each edit's cut at 10, as in
        `opensama.evaluation.world`. Copying the source scores 1.
        """
        out = {}
        for name, (pool, families) in self.tests.items():
            parts = [self.ratios(pool, start, batch) for start in range(0, len(pool["ids"]), batch)]
            ratio = torch.cat(parts).clamp_max(10)
            out[name] = float(ratio.mean())
            out |= {f"{name} {f}": float(ratio[i :: len(families)].mean()) for i, f in enumerate(families)}
        return out

    def ratios(self, pool: Pool, start: int, batch: int) -> Tensor:
        """The same of some edits [b], always under the same noise."""
        g = torch.Generator().manual_seed(start)
        names = {"target": "noise"} | ({"semantic": "semantic_noise"} if self.anchored else {})
        x = {key: pool[key][start : start + batch] for key in ("source", "change", "ids", "mask", *names)}
        x |= {noise: torch.randn(x[key].shape, generator=g) for key, noise in names.items()}
        x["sigma"] = torch.full((len(x["ids"]),), FIRST)
        x = self.placed(x)
        picture = noised(x)["noisy"] - FIRST * self.answer(x).sample.float()

        def error(given: Tensor) -> Tensor:
            return ((given - x["target"]).square().sum(1) * x["change"]).flatten(1).sum(1)

        return (error(picture) / error(x["source"]).clamp_min(1e-6)).cpu()

    def placed(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch on the model's device, in float32."""
        if not self.family.pads_text:
            x["ids"], x["mask"] = as_long_as_the_longest(x["ids"], x["mask"])
        x = moved(x, next(self.transformer.parameters()).device)
        return {k: v.float() if v.is_floating_point() else v for k, v in x.items()}

    def answer(self, x: dict[str, Tensor]) -> Any:
        """The transformer's answer to a batch, to which its texts are added."""
        with autocast(x["target"].device):
            x |= self.words(x["ids"], x["mask"])
            return self.transformer(**self.family.condition(noised(x)))

    def words(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """What the family's pipeline would make of the texts: as long as all, or as they are, masked and pooled."""
        text = encode_text(self.text, ids, mask)
        if self.family.pads_text:
            return {"text": text}
        return {"text": text, "text_mask": mask.bool(), "pooled": text.sum(1) / mask.sum(1, keepdim=True)}


def as_long_as_the_longest(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Ids and mask [b l] without the columns that are padding in every row; on the CPU, where that stops nothing."""
    longest = int(mask.sum(1).max())
    return ids[:, :longest], mask[:, :longest]
