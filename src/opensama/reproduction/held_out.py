"""How often an arm's edits are right, by the answer key of the world (`opensama.evaluation.world`), on the same items.

A key is drawn once an item; all arms are marked by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from opensama.evaluation.world.answer_key import AnswerKey, Frames, to_float
from opensama.evaluation.world.scores import answer_key, score_output
from opensama.models.families import family_of
from opensama.models.registry import TINY
from opensama.reproduction.data import TEXT_TOKENS, FrozenModels
from opensama.world import EditSample, to_uint8
from opensama.world.micro import MICRO_FAMILIES, sample_micro_edit

STEPS, SHIFT = 2, 5.0


@dataclass(frozen=True)
class HeldOutEdits:
    """Edits with their answer keys, the same for all arms."""

    samples: Sequence[EditSample]
    keys: Sequence[AnswerKey]

    @classmethod
    def make(cls, frozen: FrozenModels, n: int, *, fast: bool = False) -> HeldOutEdits:
        """`n` of each family; `fast`: objects that move quickly."""
        with torch.no_grad():
            samples = [sample_micro_edit(f"test-{i}", family, fast=fast) for i in range(n) for family in MICRO_FAMILIES]
            keys = [answer_key(sample, lambda video: frozen.frames(frozen.latents(video))) for sample in samples]
        return cls(samples, keys)

    @torch.no_grad()
    def evaluate(self, model: torch.nn.Module, frozen: FrozenModels, seed: int = 0) -> HeldOutScores:
        """A model's scores on all edits."""
        outputs = _edits_by(model, self.samples, frozen, seed)
        rows = [score_output(*edit) for edit in zip(self.samples, outputs, self.keys, strict=True)]
        families = {f: [r.success for r in rows if r.family == f] for f in MICRO_FAMILIES}
        return {
            "success": sum(r.success for r in rows) / len(rows),
            "families": {family: sum(right) / len(right) for family, right in families.items()},
            "right": [int(r.success) for r in rows],
            "lead": [round(r.parts[0]["lead"], 4) for r in rows],
            "error": [round(min(r.ratio, 10.0), 4) for r in rows],
            "kept": [round(r.kept, 2) for r in rows],
        }


class HeldOutScores(TypedDict):
    """Shares that are right, in all and by family; and of each edit whether it was, how far it is nearer to the answer
    than to any wrong one (`lead`), its squared error over the source's (at most 10), what it kept in dB."""

    success: float
    families: dict[str, float]
    right: list[int]
    lead: list[float]
    error: list[float]
    kept: list[float]


def _edits_by(model: torch.nn.Module, edits: Sequence[EditSample], frozen: FrozenModels, seed: int) -> Iterator[Frames]:
    """The model's edits, uint8 [t h w 3]."""
    parts = {"tokenizer": frozen.tokenizer, "text_encoder": frozen.text, "vae": frozen.vae, "transformer": model.eval()}
    pipeline = family_of(model).pipeline(
        **parts, scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        defaults=replace(TINY.defaults, max_text_tokens=TEXT_TOKENS, cache=None).to_dict(),
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    for start in range(0, len(edits), 40):
        samples = edits[start : start + 40]
        video = torch.stack([to_float(s.source) for s in samples])
        latents = pipeline(
            source_latents=frozen.latents(video), prompt=[s.instruction for s in samples],
            num_inference_steps=STEPS, guidance_scale=1.0, shift=SHIFT,
            generator=torch.Generator().manual_seed(seed), output_type="latent", return_dict=False,
        )[0]  # fmt: skip
        yield from to_uint8(frozen.frames(latents))
