"""SamaPipeline: a source video and an instruction in, an edited video out.

    x: latents, from noise      v, u = transformer(x, source latents, text, y, 1000 sigma)
    y: semantic tokens, too     x, y = scheduler(x, v), its twin(y, u)       sigma = shifted(1 .. 0)
    guidance, on v and u alike: v_neg + g (v - v_neg), or separately
              v_IT + s_I (v_IT - v_0T) + s_T (v_IT - v_I0)      (0T: no source tokens, I0: the negative prompt)

Released defaults: 50 Euler steps, shift 5, guidance 5, prompts that begin with "[Video edit] ". They come from
`defaults`, which a saved pipeline carries in its model_index.json. One seed fixes video and semantic noise.

Letters: `b` videos or windows, `c` channels, `t h w` latent time, rows, columns, `l` text tokens, `d` text width,
`s` semantic tokens, `e` their width. sigma = 1 is noise, velocity = noise - data. Pixels are [-1, 1].
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import diffusers
import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from diffusers.loaders import WanLoraLoaderMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import BaseOutput
from diffusers.video_processor import VideoProcessor
from torch import Tensor

import opensama.models.sama
import opensama.models.tiny  # noqa: F401  (diffusers loads components only of modules that are imported)
from opensama.flow import guide, guide_separately
from opensama.media.frames import to_pixels
from opensama.models.registry import Defaults
from opensama.pipeline.windows import WindowPlan

OnStep = Callable[["SamaPipeline", int, Tensor, dict[str, Tensor]], dict[str, Tensor] | None]


@dataclass
class SamaPipelineOutput(BaseOutput):
    """Edited videos, and the denoised semantic tokens [b s e] if they were asked for."""

    frames: Any
    semantic: Tensor | None = None


@dataclass(frozen=True)
class Guidance:
    """How strongly the text acts, and the source too if `source` is given (then `text` is s_T = scale - 1)."""

    scale: float = 5.0
    source: float | None = None
    text: float | None = None

    @property
    def text_scale(self) -> float:
        """s_T; when it is 0 the negative prompt is not asked."""
        return self.scale - 1 if self.source is None or self.text is None else self.text


class SamaPipeline(DiffusionPipeline, WanLoraLoaderMixin):
    """Edits videos by instruction with a SamaTransformer3DModel and any autoencoder with Wan's interface."""

    model_cpu_offload_seq = "text_encoder->transformer->vae"  # type: ignore[assignment]
    _callback_tensor_inputs = ["latents", "semantic"]  # noqa: RUF012

    tokenizer: Any
    text_encoder: Any
    vae: Any
    transformer: Any
    scheduler: Any

    def __init__(
        self,
        tokenizer: Any,
        text_encoder: Any,
        vae: Any,
        transformer: Any,
        scheduler: Any,
        defaults: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.register_modules(
            tokenizer=tokenizer, text_encoder=text_encoder, vae=vae, transformer=transformer, scheduler=scheduler
        )
        self.register_to_config(defaults=Defaults.from_dict(defaults or {}).to_dict())
        self.video_processor = VideoProcessor(vae_scale_factor=self.spatial)

    @property
    def defaults(self) -> Defaults:
        return Defaults.from_dict(dict(self.config["defaults"]))

    @property
    def spatial(self) -> int:
        """Pixels of a latent cell's side."""
        return self.vae.config.scale_factor_spatial

    @property
    def multiple(self) -> int:
        """Width and height in pixels must be multiples of this."""
        return self.spatial * max(self.transformer.config.patch_size[1:])

    @torch.no_grad()
    def __call__(
        self,
        video: Tensor | np.ndarray | Sequence[Any] | None = None,
        prompt: str | list[str] | None = None,
        *,
        negative_prompt: str | list[str] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        source_guidance_scale: float | None = None,
        text_guidance_scale: float | None = None,
        shift: float | None = None,
        sampler: Literal["euler", "unipc"] | None = None,
        num_anchors: int | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        source_latents: Tensor | None = None,
        latents: Tensor | None = None,
        semantic_latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        output_type: Literal["np", "pil", "pt", "latent"] = "np",
        output_semantic: bool = False,
        callback_on_step_end: OnStep | None = None,
        attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool = True,
    ) -> SamaPipelineOutput | tuple[Any, ...]:
        """Edited videos of the source's frame count and size.

        `video` is [c t h w] or [b c t h w] in [-1, 1], or a list of PIL images or uint8 arrays, or `t h w 3` uint8;
        `source_latents` [b c t h w] (normalised) stand in for it. A clip longer than the model's window is edited in
        windows, one video at a time. `latents` and `semantic_latents` are the initial noise. Raises ValueError for
        sizes that are no multiple of `self.multiple`; whatever the callback raises comes out.
        """
        defaults = self.defaults
        steps = defaults.steps if num_inference_steps is None else num_inference_steps
        if steps < 1:
            raise ValueError(f"at least one step is needed, not {steps}")
        scale = defaults.guidance if guidance_scale is None else guidance_scale
        shift = defaults.shift if shift is None else shift
        if seed is not None:
            generator = torch.Generator().manual_seed(seed)

        if source_latents is not None:
            source, frames = source_latents, 4 * (source_latents.shape[2] - 1) + 1
            plan = WindowPlan(frames, source.shape[2], (0,))
        elif video is not None:
            pixels = as_pixels(video)
            self.check_size(*pixels.shape[-2:])
            frames = pixels.shape[2]
            plan = WindowPlan.of(frames, defaults.window, defaults.overlap)
            if len(plan) > 1 and len(pixels) > 1:
                raise ValueError(f"several videos at once must fit the window of {defaults.window} frames")
            source = torch.cat([self.encode_windows(plan, clip.unbind(1)) for clip in pixels])
        else:
            raise ValueError("pass either video or source_latents")

        b = len(source)
        text = self.encode_prompt(prompt, b) if prompt_embeds is None else prompt_embeds
        negative = negative_prompt_embeds
        guidance = Guidance(scale, source_guidance_scale, text_guidance_scale)
        if negative is None and guidance.text_scale:
            away = defaults.negative_prompt if negative_prompt is None else negative_prompt
            negative = self.encode_prompt(away, b, prefix="")
        if latents is None:
            latents = self.noise(plan, source, generator)
        if semantic_latents is None:
            semantic_latents = self.semantic_noise(b, num_anchors, generator, shared=len(plan) > 1)

        latents, semantic = self.denoise(
            latents, semantic_latents, source, text, negative,
            steps=steps, shift=shift, guidance=guidance, sampler=sampler, plan=plan,
            on_step=callback_on_step_end, attention_kwargs=attention_kwargs,
        )  # fmt: skip

        result: Any = latents
        if output_type != "latent":
            groups = latents.split(len(plan))
            decoded = torch.stack([torch.cat(list(self.decode_windows(plan, group)), dim=1) for group in groups])
            result = self.video_processor.postprocess_video(decoded, output_type=output_type)
        self.maybe_free_model_hooks()
        semantic = semantic if output_semantic else None
        return SamaPipelineOutput(result, semantic) if return_dict else (result, semantic)

    @torch.no_grad()
    def denoise(
        self,
        latents: Tensor,
        semantic: Tensor | None,
        source: Tensor | None,
        text: Tensor,
        negative: Tensor | None,
        *,
        steps: int,
        shift: float,
        guidance: Guidance,
        sampler: Literal["euler", "unipc"] | None = None,
        plan: WindowPlan | None = None,
        on_step: OnStep | None = None,
        attention_kwargs: dict[str, Any] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """From noise [b c t h w] and [b s e] to data, both float32. With several windows `b` counts them.

        Twins (see `windows`) take the mean of their velocities at every step.
        """
        device = self._execution_device
        clock, semantic_clock = (self.clock(steps, shift, sampler, device) for _ in range(2))
        latents = latents.to(device, torch.float32)
        semantic = None if semantic is None else semantic.to(device, torch.float32)
        with self.progress_bar(total=steps) as bar:
            for i, t in enumerate(clock.timesteps):
                v, u = self.guided_velocity(latents, semantic, source, text, negative, t, guidance, attention_kwargs)
                if plan is not None:
                    v = plan.blend(v)
                latents = clock.step(v, t, latents, return_dict=False)[0]
                if semantic is not None:
                    semantic = semantic_clock.step(u, t, semantic, return_dict=False)[0]
                if on_step is not None:
                    state = {"latents": latents} if semantic is None else {"latents": latents, "semantic": semantic}
                    state |= on_step(self, i, t, state) or {}
                    latents, semantic = state["latents"], state.get("semantic")
                bar.update()
        return latents, semantic

    def guided_velocity(
        self,
        latents: Tensor,
        semantic: Tensor | None,
        source: Tensor | None,
        text: Tensor,
        negative: Tensor | None,
        t: Tensor,
        guidance: Guidance,
        attention_kwargs: dict[str, Any] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Guided velocities [b c t h w] and [b s e], float32; as many windows a forward pass as fit a token budget."""
        dtype, device, b = self.transformer.dtype, latents.device, len(latents)

        def ask(name: str, part: slice, text: Tensor, with_source: bool = True) -> list[Tensor]:
            words = text.expand(b, -1, -1) if len(text) == 1 else text
            with self.transformer.cache_context(f"{name} {part.start}"):
                answer = self.transformer(
                    hidden_states=latents[part].to(dtype),
                    timestep=t.to(device, torch.float32).expand(len(latents[part])),
                    encoder_hidden_states=words[part].to(device, dtype),
                    source_hidden_states=source[part].to(device, dtype) if with_source and source is not None else None,
                    semantic_hidden_states=None if semantic is None else semantic[part].to(dtype),
                    attention_kwargs=attention_kwargs,
                    return_dict=False,
                )
            return [x.float() for x in answer if x is not None]

        def combine(part: slice) -> list[Tensor]:
            full = ask("full", part, text)
            if guidance.source is None:
                if not guidance.text_scale or negative is None:
                    return full
                return [guide(v, n, guidance.scale) for v, n in zip(full, ask("negative", part, negative), strict=True)]
            text_scale = guidance.text_scale
            no_text = ask("negative", part, negative) if text_scale and negative is not None else full
            no_source = ask("no source", part, text, with_source=False) if guidance.source else full
            return [
                guide_separately(v, n, o, source_scale=guidance.source, text_scale=text_scale)
                for v, n, o in zip(full, no_text, no_source, strict=True)
            ]

        size = self.windows_at_once(latents)
        parts = [combine(slice(start, min(start + size, b))) for start in range(0, b, size)]
        v, *u = (torch.cat(pieces) for pieces in zip(*parts, strict=True))
        return v, (u[0] if u else None)

    def windows_at_once(self, latents: Tensor) -> int:
        """How many rows of the batch one forward pass takes: about 8,000 tokens of target, at least one row."""
        p_t, p_h, p_w = self.transformer.config.patch_size
        return max(1, 8192 // (latents[0, 0].numel() // (p_t * p_h * p_w)))

    def clock(self, steps: int, shift: float, sampler: Literal["euler", "unipc"] | None, device: torch.device) -> Any:
        """A fresh scheduler at sigmas linspace(1, 0, steps + 1)[:-1], shifted; None: of the pipeline's own kind."""
        kinds: dict[str | None, Any] = {
            "euler": FlowMatchEulerDiscreteScheduler,
            "unipc": UniPCMultistepScheduler,
            None: type(self.scheduler),
        }
        if sampler not in kinds:
            raise ValueError(f"unknown sampler {sampler!r}: choose euler or unipc")
        kind = kinds[sampler]
        config = dict(self.scheduler.config) if isinstance(self.scheduler, kind) else {}
        if kind is UniPCMultistepScheduler:
            config |= {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": shift}
        else:
            config |= {"shift": shift}
        config.pop("_use_default_values", None)  # else what is set here would count as a default and be dropped
        clock = kind.from_config(config)
        clock.set_timesteps(sigmas=np.linspace(1, 0, steps + 1)[:-1].copy(), device=device)
        return clock

    def encode_prompt(self, prompt: str | list[str] | None, b: int = 1, *, prefix: str | None = None) -> Tensor:
        """Text [1 l d] for one prompt, [b l d] for as many: cleaned, prefixed, padding zeroed."""
        if prompt is None:
            raise ValueError("pass either prompt or prompt_embeds")
        prompts = [prompt] if isinstance(prompt, str) else prompt
        if len(prompts) not in (1, b):
            raise ValueError(f"{len(prompts)} prompts do not go with {b} videos")
        prefix = self.defaults.prompt_prefix if prefix is None else prefix
        tokens = self.tokenizer(
            [clean_text(prefix + p) for p in prompts],
            padding="max_length", max_length=self.defaults.max_text_tokens, truncation=True,
            add_special_tokens=True, return_attention_mask=True, return_tensors="pt",
        )  # fmt: skip
        device = self._execution_device
        mask = tokens.attention_mask.to(device)
        hidden = self.text_encoder(tokens.input_ids.to(device), mask).last_hidden_state
        return hidden.masked_fill(mask[..., None] == 0, 0)

    def encode_video(self, pixels: Tensor) -> Tensor:
        """Pixels [b c t h w] in [-1, 1], t = 4k+1, as normalised latents [b c t h w], float32, no sampling."""
        pixels = pixels.to(self._execution_device, self.vae.dtype)
        mode = self.vae.encode(pixels).latent_dist.mode().float()
        mean, std = self._latent_statistics(mode)
        return (mode - mean) / std

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Normalised latents as pixels [b c t h w] in [-1, 1], float32."""
        latents = latents.to(self._execution_device).float()
        mean, std = self._latent_statistics(latents)
        return self.vae.decode((latents * std + mean).to(self.vae.dtype)).sample.float().clamp(-1, 1)

    def encode_windows(self, plan: WindowPlan, frames: Iterable[Tensor]) -> Tensor:
        """A clip's frames [c h w], streamed, as latents of its windows [b c t h w], each encoded on its own."""
        return torch.cat([self.encode_video(window[None]) for window in plan.gather(frames)])

    def decode_windows(self, plan: WindowPlan, latents: Tensor) -> Iterator[Tensor]:
        """The clip's frames [c n h w] in [-1, 1], window by window, crossfaded and trimmed."""
        return plan.stitch(self.decode_latents(window[None])[0] for window in latents)

    def noise(self, plan: WindowPlan, source: Tensor, generator: torch.Generator | None) -> Tensor:
        """Initial latents [b c t h w], drawn in float32 on the generator's device (a CPU's is the same everywhere)."""
        b, _, _, h, w = source.shape
        clips = b // len(plan)
        clip = self._draw((clips, self.transformer.config.out_channels, plan.total, h, w), generator)
        return torch.cat([plan.split(one[None]) for one in clip])

    def semantic_noise(
        self, b: int, anchors: int | None, generator: torch.Generator | None, *, shared: bool = False
    ) -> Tensor | None:
        """Initial semantic tokens [b s e], drawn after the video's noise; `shared` gives every row the same."""
        config = self.transformer.config
        anchors = config.num_anchors if anchors is None else anchors
        if config.semantic_dim is None or anchors == 0:
            return None
        rows = 1 if shared else b
        noise = self._draw((rows, anchors * config.semantic_tokens_per_anchor, config.semantic_dim), generator)
        return noise.expand(b, -1, -1)

    def check_size(self, height: int, width: int) -> None:
        if height % self.multiple or width % self.multiple:
            raise ValueError(f"width and height must be multiples of {self.multiple}, not {width}x{height}")

    def _draw(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        return torch.randn(shape, generator=generator, device=generator.device if generator else "cpu")

    def _latent_statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (like.new_tensor(getattr(self.vae.config, name)) for name in ("latents_mean", "latents_std"))
        return mean.view(-1, 1, 1, 1), std.view(-1, 1, 1, 1)


def clean_text(text: str) -> str:
    """Mojibake and HTML entities undone, runs of white space made one blank: as Wan cleans its prompts."""
    import ftfy

    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split())


def as_pixels(video: Tensor | np.ndarray | Sequence[Any]) -> Tensor:
    """Any accepted form of video as [b c t h w] in [-1, 1]."""
    if isinstance(video, Tensor):
        return video if video.ndim == 5 else video[None]
    frames = [np.asarray(frame) for frame in video]
    if any(frame.dtype.kind != "u" or frame.ndim != 3 or frame.shape[-1] != 3 for frame in frames):
        raise ValueError("frames must be RGB images: PIL, or arrays of unsigned integers of shape (h, w, 3)")
    return to_pixels(frames)


# DiffusionPipeline.from_pretrained looks classes up by name in diffusers itself: this lets it find ours once imported.
setattr(diffusers, "SamaPipeline", SamaPipeline)  # noqa: B010
