"""How often an arm's edits are right, by the answer key of the world (`opensama.evaluation.world`), on the same items.

A key is drawn once an item; all arms are marked by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from opensama.evaluation.world.answer_key import AnswerKey, Frames, to_float
from opensama.evaluation.world.scores import answer_key, mark
from opensama.models.families import family_of
from opensama.models.registry import TINY
from opensama.reproduction.data import TEXT_TOKENS, Frozen
from opensama.world import EditSample, to_uint8
from opensama.world.micro import MICRO_FAMILIES, sample_micro_edit

STEPS, SHIFT = 2, 5.0


@dataclass(frozen=True)
class Exam:
    """Items with their keys."""

    samples: Sequence[EditSample]
    keys: Sequence[AnswerKey]

    @classmethod
    def make(cls, frozen: Frozen, n: int, **more: Any) -> Exam:
        with torch.no_grad():
            samples = [sample_micro_edit(f"test-{i}", family, **more) for i in range(n) for family in MICRO_FAMILIES]
            keys = [answer_key(sample, lambda video: frozen.frames(frozen.latents(video))) for sample in samples]
        return cls(samples, keys)


@torch.no_grad()
def sit(exam: Exam, model: Any, frozen: Frozen, seed: int = 0) -> dict[str, Any]:
    """A model's marks: shares that are right, and of every item whether it was, its lead, its error, what it kept."""
    rows = [
        mark(s, output, key)
        for s, key, output in zip(exam.samples, exam.keys, outputs(exam, model, frozen, seed), strict=True)
    ]
    families = {f: [r.success for r in rows if r.family == f] for f in MICRO_FAMILIES}
    return {
        "success": sum(r.success for r in rows) / len(rows),
        "families": {family: sum(right) / len(right) for family, right in families.items()},
        "right": [int(r.success) for r in rows],
        "lead": [round(r.parts[0]["lead"], 4) for r in rows],
        "error": [round(min(r.ratio, 10.0), 4) for r in rows],
        "kept": [round(r.kept, 2) for r in rows],
    }


def outputs(exam: Exam, model: Any, frozen: Frozen, seed: int = 0) -> Iterator[Frames]:
    """The model's edits of all items, uint8 [t h w 3]."""
    parts = {"tokenizer": frozen.tokenizer, "text_encoder": frozen.text, "vae": frozen.vae, "transformer": model.eval()}
    pipeline = family_of(model).pipeline(
        **parts, scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        defaults=replace(TINY.defaults, max_text_tokens=TEXT_TOKENS).to_dict(),
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    for start in range(0, len(exam.samples), 40):
        samples = exam.samples[start : start + 40]
        video = torch.stack([to_float(s.source) for s in samples])
        latents = pipeline(
            source_latents=frozen.latents(video), prompt=[s.instruction for s in samples],
            num_inference_steps=STEPS, guidance_scale=1.0, shift=SHIFT,
            generator=torch.Generator().manual_seed(seed), output_type="latent", return_dict=False,
        )[0]  # fmt: skip
        yield from to_uint8(frozen.frames(latents))
