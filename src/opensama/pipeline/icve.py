"""IcvePipeline: a source video and an instruction in, an edited video out, on HunyuanVideo.

    condition: the instruction as it is (no template), the language model's hidden state -3, and CLIP's pooled vector
    v = transformer(x, source latents, condition, 1000 sigma, 1000 * embedded guidance)
    guidance 6 on the condition alone: v_neg + 6 (v - v_neg), the source is in both

Released defaults: 50 Euler steps, shift 7, embedded guidance 1, 256 text tokens. The autoencoder works in the tiles
that the weights were used with. How it samples, and what the letters mean, is in `diffusion.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import diffusers
import torch
from diffusers import ModelMixin, SchedulerMixin
from diffusers.loaders import HunyuanVideoLoraLoaderMixin
from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import AutoencoderKLHunyuanVideo
from diffusers.utils import BaseOutput
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import opensama.models.icve  # noqa: F401  (diffusers loads components only of modules that are imported)
from opensama.pipeline.diffusion import (
    EditPipeline,
    OnStep,
    OutputType,
    SamplerName,
    TextCondition,
    VideoInput,
    VideoOutput,
)

TILES = (256, 256, 64, 192, 192, 48)  # rows, columns, frames of a tile, then of its stride


@dataclass
class IcvePipelineOutput(BaseOutput):
    """Edited videos."""

    frames: VideoOutput


class IcvePipeline(EditPipeline, HunyuanVideoLoraLoaderMixin):  # load_lora_weights takes more than diffusers' says
    """Edits videos by instruction with an IcveTransformer3DModel; its folder is laid out as HunyuanVideo's.

    Without `text_encoder_2` the pooled vector is the mean of the first encoder's tokens.
    """

    model_cpu_offload_seq = "text_encoder->text_encoder_2->transformer->vae"
    _optional_components = ["text_encoder_2", "tokenizer_2"]  # noqa: RUF012

    tokenizer_2: PreTrainedTokenizerBase | None
    text_encoder_2: PreTrainedModel | None

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        text_encoder: PreTrainedModel,
        vae: ModelMixin,
        transformer: ModelMixin,
        scheduler: SchedulerMixin,
        tokenizer_2: PreTrainedTokenizerBase | None = None,
        text_encoder_2: PreTrainedModel | None = None,
        defaults: dict[str, object] | None = None,
    ):
        super().__init__(tokenizer, text_encoder, vae, transformer, scheduler, defaults)
        self.register_modules(tokenizer_2=tokenizer_2, text_encoder_2=text_encoder_2)
        if isinstance(vae, AutoencoderKLHunyuanVideo):
            vae.enable_tiling(*TILES)

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
        embedded_guidance_scale: float | None = None,
        shift: float | None = None,
        sampler: SamplerName | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        source_latents: Tensor | None = None,
        latents: Tensor | None = None,
        condition: TextCondition | None = None,
        negative_condition: TextCondition | None = None,
        output_type: OutputType = "np",
        callback_on_step_end: OnStep | None = None,
        attention_kwargs: dict[str, object] | None = None,
        return_dict: bool = True,
    ) -> IcvePipelineOutput | tuple[VideoOutput]:
        """Edited videos of the source's frame count and size.

        `video` is [c t h w] or [b c t h w] in [-1, 1], or a list of PIL images or uint8 arrays, or `t h w 3` uint8;
        `source_latents` [b c t h w] (scaled) stand in for it. A clip longer than the model's window is edited in
        windows, one video at a time. `condition` and `negative_condition` are what `encode_text` gives, `latents` the
        initial noise. Raises ValueError for sizes that are no multiple of `self.multiple`; whatever the callback raises
        comes out.
        """
        with self.freed():
            start = self.begin(video, source_latents, seed, generator)
            b = len(start.source)
            guidance = self.guidance(guidance_scale, source_guidance_scale, text_guidance_scale)
            condition = self.encode_text(prompt, b) if condition is None else condition
            negative = (
                self.encode_negative(negative_prompt, b, guidance) if negative_condition is None else negative_condition
            )
            if embedded_guidance_scale is not None:
                number = guidance_condition(embedded_guidance_scale)
                condition, negative = condition | number, None if negative is None else negative | number
            noise = self.noise(*start) if latents is None else latents
            result, _ = self.run(
                start.plan, start.source, (noise, None), condition, negative,
                steps=num_inference_steps, shift=shift, guidance=guidance, sampler=sampler, output_type=output_type,
                on_step=callback_on_step_end, attention_kwargs=attention_kwargs,
            )  # fmt: skip
        return IcvePipelineOutput(result) if return_dict else (result,)

    @torch.no_grad()
    def encode_text(self, prompt: str | list[str] | None, b: int = 1, *, prefix: str | None = None) -> TextCondition:
        """Text [b l d] as long as the longest, a mask [b l] where some are shorter, pooled text [b d], guidance [1]."""
        defaults = self.defaults
        texts = [text.strip() for text in self.prompts(prompt, b, prefix)]
        ids, mask = self.tokenize(self.tokenizer, texts, defaults.max_text_tokens, padding="longest")
        states = self.text_encoder(ids, mask, output_hidden_states=True).hidden_states
        out = {"encoder_hidden_states": states[defaults.text_layer]}
        if len(texts) > 1 and not mask.all():  # one alone is never padded
            out["encoder_attention_mask"] = mask
        if self.text_encoder_2 is None:
            weight = mask[..., None].to(states[0].dtype)
            out["pooled_projections"] = (out["encoder_hidden_states"] * weight).sum(1) / weight.sum(1)
        else:
            length = self.text_encoder_2.config.max_position_embeddings
            ids, _ = self.tokenize(self.tokenizer_2, texts, length)
            out["pooled_projections"] = self.text_encoder_2(ids).pooler_output
        if defaults.embedded_guidance is not None:
            out |= guidance_condition(defaults.embedded_guidance)
        return out


def guidance_condition(guidance: float) -> TextCondition:
    """Guidance as the number that the model reads."""
    return {"guidance": torch.tensor([1000.0 * guidance])}


# DiffusionPipeline.from_pretrained looks classes up by name in diffusers itself: this lets it find ours once imported.
setattr(diffusers, "IcvePipeline", IcvePipeline)  # noqa: B010
