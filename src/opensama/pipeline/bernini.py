"""BerniniPipeline: a source video, reference images and an instruction in, an edited video out.

    c_k = x - sigma v_k                       the data that a forward pass predicts
    x_0 = c_neg + w (D - P + eta P)           adaptive projected guidance, D = c - c_neg: at most tau long in each
                                              latent frame, P the part of it along c
    v = o- + w_V (V- - o-) + w_I (VI- - V-) + w_T (VI+ - VI-)        with references
                                              o: nothing is seen, V: the first video, I: images; -: the negative prompt

Released defaults: 40 UniPC steps, shift 5, w_T 4, w_V 1.25, w_I 4.5, eta 0.5, tau 50, the grid of sigmas and the whole
timesteps that the weights were used with. The 14B model has two transformers: from timestep 875 down the second one
works, with 0.8 of the guidance. How it samples, and what the letters mean, is in `diffusion.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import diffusers
import numpy as np
import torch
from diffusers import ModelMixin, SchedulerMixin
from diffusers.utils import BaseOutput
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import opensama.models.bernini  # noqa: F401  (diffusers loads components only of modules that are imported)
from opensama.models.families.bernini import TASK_PROMPTS
from opensama.pipeline.diffusion import (
    OnStep,
    OutputType,
    PreparedSource,
    SamplerName,
    TextCondition,
    VideoInput,
    VideoOutput,
    as_pixels,
)
from opensama.pipeline.guidance import (
    AnyGuidance,
    ChainGuidance,
    CleanSource,
    CleanStreams,
    ForwardPass,
    Projection,
    ShownStreams,
)
from opensama.pipeline.part_store import BatchRows
from opensama.pipeline.sampling import expand_batch
from opensama.pipeline.wan import WanEditPipeline, clean_text, text_condition
from opensama.pipeline.windows import WindowPlan

BOUNDARY, LOW_NOISE_SCALE = 875, 0.8
"""The second transformer works below this timestep, with so much of the guidance."""

_NOTHING, _FIRST, _IMAGES, _ALL = (ForwardPass(True, shown) for shown in ("none", "first video", "images", "all"))
_ASKED = ForwardPass()
GUIDANCE_MODES: dict[str, tuple[tuple[ForwardPass, ...], str, bool]] = {
    "v2v_apg": ((_ALL, _ASKED), "T", True),
    "rv2v": ((_NOTHING, _FIRST, _ALL, _ASKED), "VIT", False),
    "v2v": ((_ALL, _ASKED), "T", False),
    "v2v_chain": ((_NOTHING, _FIRST, _ASKED), "VT", False),
    "r2v_apg": ((_NOTHING, _IMAGES, ForwardPass(False, "images")), "IT", True),
    "t2v": ((_NOTHING, ForwardPass(False, "none")), "T", False),
    "t2v_apg": ((_NOTHING, ForwardPass(False, "none")), "T", True),
}
"""By name: the forward passes, which scale goes with each but the first, and whether it is projected."""

TASK_MODES = {"rv2v": "rv2v", "i2i": "v2v", "r2v": "r2v_apg", "t2v": "t2v", "t2i": "t2v"}
"""How a task is guided as released; every other one by v2v_apg."""


@dataclass
class BerniniPipelineOutput(BaseOutput):
    """Edited videos."""

    frames: VideoOutput


class BerniniPipeline(WanEditPipeline):
    """Edits videos by instruction with a BerniniTransformer3DModel, or two, and Wan's text encoder and autoencoder."""

    model_cpu_offload_seq = "text_encoder->transformer->transformer_2->vae"
    _optional_components = ["transformer_2"]  # noqa: RUF012
    whole_timesteps = True

    transformer_2: ModelMixin | None

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        text_encoder: PreTrainedModel,
        vae: ModelMixin,
        transformer: ModelMixin,
        scheduler: SchedulerMixin,
        transformer_2: ModelMixin | None = None,
        defaults: dict[str, object] | None = None,
    ):
        super().__init__(tokenizer, text_encoder, vae, transformer, scheduler, defaults)
        self.register_modules(transformer_2=transformer_2)

    @torch.no_grad()
    def __call__(
        self,
        video: VideoInput | None = None,
        prompt: str | list[str] | None = None,
        *,
        references: Sequence[VideoInput] = (),
        task: str | None = None,
        negative_prompt: str | list[str] | None = None,
        num_inference_steps: int | None = None,
        guidance_mode: str | None = None,
        guidance_scale: float | None = None,
        video_guidance_scale: float = 1.25,
        image_guidance_scale: float = 4.5,
        projection: Projection | None = None,
        shift: float | None = None,
        sampler: SamplerName | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        source_latents: Tensor | Sequence[Tensor] | None = None,
        reference_latents: Sequence[Tensor] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        output_type: OutputType = "np",
        callback_on_step_end: OnStep | None = None,
        attention_kwargs: dict[str, object] | None = None,
        return_dict: bool = True,
    ) -> BerniniPipelineOutput | tuple[VideoOutput]:
        """Edited videos of the first source's frame count and size.

        `video` is one video, or several as a batch, in any form of the other pipelines; `source_latents` (normalised)
        stand in for it, one [b c t h w] or several that are all seen. `references` are pictures [c 1 h w] in [-1, 1] or
        lists of one picture, `reference_latents` [1 c 1 h w] stand in for them. `latents` are the initial noise; with
        them no video is needed. `task` chooses the words before the prompt and how it is guided; `guidance_mode` says
        the latter itself. Raises ValueError for what there is not, and for sizes that are no multiple of
        `self.multiple`; whatever the callback raises comes out.
        """
        with self.freed():
            given = [source_latents] if isinstance(source_latents, Tensor) else list(source_latents or ())
            if video is None and not given and latents is not None:
                plan = WindowPlan(4 * latents.shape[2] - 3, latents.shape[2], (0,))
                start = PreparedSource(plan, latents[:, :, :0], generator)
            else:
                start = self.begin(video, given[0] if given else None, seed, generator)
                given = given or [start.source]
            b = len(start.source)
            images = [self.encode_reference(as_pixels(one)) for one in references]
            images += [] if reference_latents is None else reference_latents
            mode = task_mode(task) if guidance_mode is None else guidance_mode
            guidance = self.chain(mode, guidance_scale, video_guidance_scale, image_guidance_scale, projection)
            if prompt_embeds is None:
                text = self.encode_text(prompt, b, prefix=None if task is None else task_prompt(task))
            else:
                text = text_condition(prompt_embeds)
            if negative_prompt_embeds is None:
                negative = self.encode_negative(negative_prompt, b, guidance)
            else:
                negative = text_condition(negative_prompt_embeds)
            noise = self.noise(start.plan, start.source, start.generator) if latents is None else latents
            result, _ = self.run(
                start.plan, CleanStreams(tuple(given), tuple(images)), (noise, None), text, negative,
                steps=num_inference_steps, shift=shift, guidance=guidance, sampler=sampler, output_type=output_type,
                on_step=callback_on_step_end, attention_kwargs=attention_kwargs,
            )  # fmt: skip
        return BerniniPipelineOutput(result) if return_dict else (result,)

    @torch.no_grad()
    def encode_text(self, prompt: str | list[str] | None, b: int = 1, *, prefix: str | None = None) -> TextCondition:
        """As released: the prompt cleaned, its prefix before it as it stands; without one nothing is cleaned."""
        given = self.prompts(prompt, b, "")
        before = self.defaults.prompt_prefix if prefix is None else prefix
        return text_condition(self.embed_texts([before + clean_text(p) for p in given] if before else given))

    def default_task(self, frames: int, references: int) -> str | None:
        return "rv2v" if references else "i2i" if frames == 1 else None

    def with_references(self, source: BatchRows, pictures: Sequence[Tensor]) -> CleanStreams:
        return CleanStreams((source,), tuple(self.encode_reference(one[None, :, None]) for one in pictures))

    def guidance(
        self, scale: float | None, source: float | None = None, text: float | None = None, task: str | None = None
    ) -> AnyGuidance:
        """That of the task; with a scale for the source by a chain that has one."""
        mode, scale = task_mode(task), scale if text is None else text
        if source is None:
            return self.chain(mode, scale)
        return self.chain(mode if "V" in GUIDANCE_MODES[mode][1] else "v2v_chain", scale, source)

    def chain(
        self,
        mode: str,
        text: float | None = None,
        video: float = 1.25,
        images: float = 4.5,
        projection: Projection | None = None,
    ) -> ChainGuidance:
        """One of GUIDANCE_MODES with its scales; that of the text is the model's own where nothing is said."""
        if mode not in GUIDANCE_MODES:
            raise ValueError(f"unknown guidance mode {mode!r}: choose {', '.join(GUIDANCE_MODES)}")
        passes, letters, projected = GUIDANCE_MODES[mode]
        scales = {"T": self.defaults.guidance if text is None else text, "V": video, "I": images}
        how = (Projection() if projection is None else projection) if projected else None
        return ChainGuidance(passes, tuple(scales[letter] for letter in letters), how)

    def encode_reference(self, pixels: Tensor) -> Tensor:
        """A picture [1 c 1 h w] in [-1, 1] as latents."""
        self.check_size(*pixels.shape[-2:])
        return self.encode_video(pixels[:, :, :1])

    def noise_levels(self, steps: int) -> np.ndarray:
        """Those of the diffusers release that the weights were used with."""
        return 0.999 * (1 - np.arange(steps) / steps)

    @property
    def experts(self) -> list[ModelMixin]:
        return [self.transformer] if self.transformer_2 is None else [self.transformer, self.transformer_2]

    def expert(self, t: Tensor, guidance: AnyGuidance) -> tuple[ModelMixin, AnyGuidance]:
        if self.transformer_2 is None or t >= BOUNDARY:
            return self.transformer, guidance
        return self.transformer_2, guidance.scaled(LOW_NOISE_SCALE)

    def shown(
        self, source: CleanSource | None, streams: ShownStreams, part: slice, like: Tensor
    ) -> Tensor | list[Tensor] | None:
        if not isinstance(source, CleanStreams):  # one video
            source = CleanStreams(() if source is None else (source,))
        videos, images = source
        seen = {"all": (*videos, *images), "first video": videos[:1], "images": images, "none": ()}[streams]
        return [(expand_batch(x[:], len(like)) if len(x) == 1 else x[part]).to(like) for x in seen]


def task_prompt(task: str) -> str:
    """What goes before a task's prompts."""
    if task not in TASK_PROMPTS:
        raise ValueError(f"unknown task {task!r}: choose {', '.join(TASK_PROMPTS)}")
    return TASK_PROMPTS[task]


def task_mode(task: str | None) -> str:
    """How a task is guided; None: an edit of a video."""
    return TASK_MODES.get(task or "v2v", "v2v_apg")


# DiffusionPipeline.from_pretrained looks classes up by name in diffusers itself: this lets it find ours once imported.
setattr(diffusers, "BerniniPipeline", BerniniPipeline)  # noqa: B010
