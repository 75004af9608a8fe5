"""The embedded editors' training: rectified flow on the target latents (SAMA: and on the semantic tokens), given source
and instruction.

    loss = mean_samples [ sum w (v - v*)^2 / sum w ] + 0.1 * mean |u - u*|,   w = 1 + (emphasis - 1) * changed share

The world knows where an answer differs from its source; weighting that region is what lets a small model learn the edit
before it has learnt to copy (without it, copying is nearly all of the loss). Image edits come first, then videos.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from opensama.flow import sample_sigma
from opensama.runtime import autocast
from opensama.training.config import LossSettings
from opensama.training.pool import Pool
from opensama.training.stages import CONDITIONS, edit_losses
from opensama.training.text import encode_text, tokenize

EASY = 0.3  # below this noise level a picture's error divided by the level says little: velocities count less there


class Stream(NamedTuple):
    """Batches of one pool."""

    pool: Pool
    batch: int
    share: float  # of the steps, beside the other streams' shares
    cut: bool = True  # half of the batches to a random length of whole latents


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
        family: Literal["sama", "icve"] = "sama",
        shift: float = 3.0,
        emphasis: float = 9.0,
        text_dropout: float = 0.1,
        seed: int = 0,
        shortest: int = 2,
        importance: Tensor | None = None,
    ):
        """`importance` [c] says how much each number counts. A text encoder whose weights are frozen stays as it is."""
        self.name, self.transformer, self.text, self.family = name, transformer, text, family
        self.streams, self.shift, self.emphasis, self.text_dropout = streams, shift, emphasis, text_dropout
        self.seed, self.shortest = seed, shortest
        self.importance = torch.ones(()) if importance is None else importance.sqrt()
        self.nothing = tokenize(tokenizer, [""], streams[0].pool["ids"].shape[1])

    def modules(self) -> Mapping[str, nn.Module]:
        learns = any(p.requires_grad for p in self.text.parameters())
        return {"transformer": self.transformer} | ({"text": self.text} if learns else {})

    def batch(self, index: int) -> dict[str, Tensor]:
        """The batch of one step, with its noise and noise levels: a function of the seed and the step's number."""
        g = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        shares = torch.tensor([stream.share for stream in self.streams])
        pool, b, _, cut = self.streams[int(torch.multinomial(shares, 1, generator=g))]
        chosen = torch.randint(len(pool["ids"]), (b,), generator=g)
        t = pool["source"].shape[2]
        if cut and t > self.shortest and torch.rand((), generator=g) < 0.5:
            t = int(torch.randint(self.shortest, t, (), generator=g))
        out = {key: pool[key][chosen] for key in pool if key != "semantic" or self.family == "sama"}
        out = {key: (v[:, :, :t] if key in ("source", "target") else v) for key, v in out.items()}
        out["change"] = out["change"][:, :t]
        drop = torch.rand(b, generator=g) < self.text_dropout
        ids, mask = self.nothing
        out["ids"] = torch.where(drop[:, None], ids, out["ids"])
        out["mask"] = torch.where(drop[:, None], mask, out["mask"])
        out["sigma"] = sample_sigma(b, shift=self.shift, generator=g)
        out["noise"] = torch.randn(out["target"].shape, generator=g)
        if "semantic" in out:
            out["semantic_noise"] = torch.randn(out["semantic"].shape, generator=g)
        device = next(self.transformer.parameters()).device
        return {k: v.to(device).float() if v.is_floating_point() else v.to(device) for k, v in out.items()}

    def step(self, index: int) -> dict[str, Tensor]:
        x = self.batch(index)
        with autocast(x["source"].device):
            x |= self.words(x["ids"], x["mask"])
            answer = self.transformer(**CONDITIONS[self.family](x, self.transformer))
        settings = LossSettings(emphasis=self.emphasis, ease=EASY)
        return edit_losses(answer, x, settings, self.importance.to(x["sigma"].device))

    def words(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """What the family's pipeline would make of the texts: SAMA's as long as all, ICVE's as the longest, masked."""
        if self.family == "icve":
            longest = int(mask.sum(1).max())
            ids, mask = ids[:, :longest], mask[:, :longest]
        text = encode_text(self.text, ids, mask)
        if self.family == "sama":
            return {"text": text}
        return {"text": text, "text_mask": mask.bool(), "pooled": text.sum(1) / mask.sum(1, keepdim=True)}
