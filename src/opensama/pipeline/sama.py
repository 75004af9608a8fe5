"""SamaPipeline: a source video and an instruction in, an edited video out; semantic tokens are denoised beside it.

Released defaults: 50 Euler steps, shift 5, guidance 5, prompts that begin with "[Video edit] ". How it samples, and
what the letters mean, is in `diffusion.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import diffusers
import torch
from diffusers.utils import BaseOutput
from torch import Tensor

import opensama.models.sama  # noqa: F401  (diffusers loads components only of modules that are imported)
from opensama.models.semantic import anchor_count
from opensama.pipeline.diffusion import OnStep, OutputType, SamplerName, TextCondition, VideoInput, VideoOutput
from opensama.pipeline.part_store import BatchRows
from opensama.pipeline.wan import WanEditPipeline, clean_text, text_condition
from opensama.pipeline.windows import WindowPlan


@dataclass
class SamaPipelineOutput(BaseOutput):
    """Edited videos, and the denoised semantic tokens [b s e] if they were asked for."""

    frames: VideoOutput
    semantic: Tensor | None = None


class SamaPipeline(WanEditPipeline):
    """Edits videos by instruction with a SamaTransformer3DModel and any autoencoder with Wan's interface."""

    model_cpu_offload_seq = "text_encoder->transformer->vae"

    @torch.no_grad()
    def __call__(
        self,
        video: VideoInput | None = None,
        prompt: str | list[str] | None = None,
        *,
        negative_prompt: str | list[str] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        source_guidance_scale: float | None = None,
        text_guidance_scale: float | None = None,
        shift: float | None = None,
        sampler: SamplerName | None = None,
        num_anchors: int | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        source_latents: Tensor | None = None,
        latents: Tensor | None = None,
        semantic_latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        output_type: OutputType = "np",
        output_semantic: bool = False,
        callback_on_step_end: OnStep | None = None,
        attention_kwargs: dict[str, object] | None = None,
        return_dict: bool = True,
    ) -> SamaPipelineOutput | tuple[VideoOutput, Tensor | None]:
        """Edited videos of the source's frame count and size.

        `video` is [c t h w] or [b c t h w] in [-1, 1], or a list of PIL images or uint8 arrays, or `t h w 3` uint8;
        `source_latents` [b c t h w] (normalised) stand in for it. A clip longer than the model's window is edited in
        windows, one video at a time. `latents` and `semantic_latents` are the initial noise. Raises ValueError for
        sizes that are no multiple of `self.multiple`; whatever the callback raises comes out.
        """
        with self.freed():
            start = self.begin(video, source_latents, seed, generator)
            b = len(start.source)
            guidance = self.guidance(guidance_scale, source_guidance_scale, text_guidance_scale)
            text = self.encode_text(prompt, b) if prompt_embeds is None else text_condition(prompt_embeds)
            if negative_prompt_embeds is None:
                negative = self.encode_negative(negative_prompt, b, guidance)
            else:
                negative = text_condition(negative_prompt_embeds)
            if latents is None:
                latents = self.noise(*start)
            if semantic_latents is None:
                semantic_latents = self.semantic_noise(start.plan, start.source, start.generator, num_anchors)
            result, semantic = self.run(
                start.plan, start.source, (latents, semantic_latents), text, negative,
                steps=num_inference_steps, shift=shift, guidance=guidance, sampler=sampler, output_type=output_type,
                on_step=callback_on_step_end, attention_kwargs=attention_kwargs,
            )  # fmt: skip
        semantic = semantic if output_semantic else None
        return SamaPipelineOutput(result, semantic) if return_dict else (result, semantic)

    def encode_text(self, prompt: str | list[str] | None, b: int = 1, *, prefix: str | None = None) -> TextCondition:
        return text_condition(self.encode_prompt(prompt, b, prefix=prefix))

    def encode_prompt(self, prompt: str | list[str] | None, b: int = 1, *, prefix: str | None = None) -> Tensor:
        """Text [1 l d] for one prompt, [b l d] for as many: cleaned, prefixed, padding zeroed."""
        return self.embed_texts([clean_text(p) for p in self.prompts(prompt, b, prefix)])

    def draw(
        self, plan: WindowPlan, source: BatchRows, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor | None]:
        noise = self.noise(plan, source, generator)
        return noise, self.semantic_noise(plan, source, generator)

    def semantic_noise(
        self, plan: WindowPlan, source: BatchRows, generator: torch.Generator | None, anchors: int | None = None
    ) -> Tensor | None:
        """Initial semantic tokens [b s e], drawn after the video's noise; windows of one clip share theirs.

        A clip shorter than the model's anchors has as many as in training: one a latent frame.
        """
        config = self.transformer.config
        anchors = anchor_count(source.shape[2], config.num_anchors if anchors is None else anchors)
        if config.semantic_dim is None or anchors == 0:
            return None
        rows = 1 if len(plan) > 1 else len(source)
        noise = self._draw((rows, anchors * config.semantic_tokens_per_anchor, config.semantic_dim), generator)
        return noise.expand(len(source), -1, -1)


# DiffusionPipeline.from_pretrained looks classes up by name in diffusers itself: this lets it find ours once imported.
setattr(diffusers, "SamaPipeline", SamaPipeline)  # noqa: B010
