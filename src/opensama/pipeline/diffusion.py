"""EditPipeline: what the pipelines of all families share, from a source video and words to an edited video.

    x: latents, from noise      v, u = transformer(x, source latents, words, y, 1000 sigma)
    y: semantic tokens, if any  x, y = scheduler(x, v), its twin(y, u)       sigma = shifted(1 .. 0)
    guidance, on v and u alike: see `guidance.py`

A family adds how its prompts become `Words`, and its own call. Defaults are those that a saved pipeline carries in its
model_index.json. Timesteps stay float32. One seed fixes all noise.

Letters: `b` videos or windows, `c` channels, `t h w` latent time, rows, columns, `l` text tokens, `d` text width,
`s` semantic tokens, `e` their width. sigma = 1 is noise, velocity = noise - data. Pixels are [-1, 1].
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ModelMixin, SchedulerMixin, UniPCMultistepScheduler
from diffusers.video_processor import VideoProcessor
from PIL.Image import Image
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import opensama.models.tiny  # noqa: F401  (diffusers loads components only of modules that are imported)
from opensama.media.frames import to_pixels
from opensama.models.registry import Defaults
from opensama.pipeline.checked import CheckedPipeline
from opensama.pipeline.guidance import AnyGuidance, CleanSource, CleanStreams, Guidance, ShownStreams
from opensama.pipeline.part_store import BatchRows, PartStore
from opensama.pipeline.sampling import SamplingLoop
from opensama.pipeline.sharing import Alone
from opensama.pipeline.windows import WindowPlan

TextCondition = dict[str, Tensor]
"""Prompts as keyword arguments of the transformer's call, each [b ...], or [1 ...] for all videos alike."""

OnStep = Callable[["EditPipeline", int, Tensor, dict[str, Tensor]], dict[str, Tensor] | None]
SamplerName = Literal["euler", "unipc"]
OutputType = Literal["np", "pil", "pt", "latent"]
VideoInput = Tensor | np.ndarray | Sequence[np.ndarray | Image]
"""A video: [c t h w] or [b c t h w] in [-1, 1], or frames in RGB, `h w 3` of unsigned integers or pictures."""
VideoOutput = Tensor | np.ndarray | list[list[Image]]
"""Videos as `OutputType` says: [b t h w c] in [0, 1], pictures, [b t c h w] in [0, 1], or latents [b c t h w]."""


class PreparedSource(NamedTuple):
    """What a call begins with: the plan of windows, the source's as latents [b c t h w], and where noise comes from."""

    plan: WindowPlan
    source: Tensor
    generator: torch.Generator | None


class EditPipeline(CheckedPipeline):
    """Edits videos by instruction, with a transformer of any family and an autoencoder of diffusers' interface."""

    _callback_tensor_inputs = ["latents", "semantic"]  # noqa: RUF012

    tokenizer: PreTrainedTokenizerBase
    text_encoder: PreTrainedModel
    vae: ModelMixin
    transformer: ModelMixin
    scheduler: SchedulerMixin

    sharing: Alone = Alone()
    """How its work is divided among processes."""
    whole_timesteps = False
    """Whether the model was trained to see timesteps cut to whole numbers."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        text_encoder: PreTrainedModel,
        vae: ModelMixin,
        transformer: ModelMixin,
        scheduler: SchedulerMixin,
        defaults: dict[str, object] | None = None,
    ):
        super().__init__()
        self.register_modules(
            tokenizer=tokenizer, text_encoder=text_encoder, vae=vae, transformer=transformer, scheduler=scheduler
        )
        self.register_to_config(defaults=Defaults.from_dict(defaults or {}).to_dict())
        self.video_processor = VideoProcessor(vae_scale_factor=self.spatial)

    def encode_text(self, prompt: str | list[str] | None, b: int = 1, *, prefix: str | None = None) -> TextCondition:
        """One prompt for all of `b` videos, or as many; `prefix` goes before each, by default the model's own."""
        raise NotImplementedError

    def draw(
        self, plan: WindowPlan, source: BatchRows, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor | None]:
        """The noise to begin with, of latents [b c t h w] and of semantic tokens where the model has some."""
        return self.noise(plan, source, generator), None

    @property
    def defaults(self) -> Defaults:
        return Defaults.from_dict(dict(self.config["defaults"]))

    @property
    def spatial(self) -> int:
        """Pixels of a latent cell's side."""
        config = self.vae.config
        return config.scale_factor_spatial if "scale_factor_spatial" in config else config.spatial_compression_ratio

    @property
    def multiple(self) -> int:
        """Width and height in pixels must be multiples of this."""
        return self.spatial * max(self.transformer.config.patch_size[1:])

    def begin(
        self,
        video: VideoInput | None,
        source_latents: Tensor | None,
        seed: int | None,
        generator: torch.Generator | None,
    ) -> PreparedSource:
        """The source of a call: either a video in any form, or latents. A seed goes before a generator."""
        if seed is not None:
            generator = torch.Generator().manual_seed(seed)
        if source_latents is not None:
            frames = 4 * (source_latents.shape[2] - 1) + 1
            return PreparedSource(WindowPlan(frames, source_latents.shape[2], (0,)), source_latents, generator)
        if video is None:
            raise ValueError("pass either video or source_latents")
        pixels, defaults = as_pixels(video), self.defaults
        self.check_size(*pixels.shape[-2:])
        plan = WindowPlan.of(pixels.shape[2], defaults.window, defaults.overlap, defaults.shortest)
        if len(plan) > 1 and len(pixels) > 1:
            raise ValueError(f"several videos at once must fit the window of {defaults.window} frames")
        return PreparedSource(
            plan, torch.cat([z for clip in pixels for z in self.encode_windows(plan, clip.unbind(1))]), generator
        )

    def default_task(self, frames: int, references: int) -> str | None:
        """The task of an edit of so many frames with so many pictures beside; None: that of the model's own prompts."""
        return None

    def with_references(self, source: BatchRows, pictures: Sequence[Tensor]) -> CleanSource:
        """A source and pictures [c h w] in [-1, 1] as `denoise` takes them."""
        assert not pictures, "only a family that says so takes references"
        return source

    def guidance(
        self, scale: float | None, source: float | None = None, text: float | None = None, task: str | None = None
    ) -> AnyGuidance:
        """The guidance asked for, the model's own where nothing is said."""
        return Guidance(self.defaults.guidance if scale is None else scale, source, text)

    def encode_negative(
        self, negative_prompt: str | list[str] | None, b: int, guidance: AnyGuidance
    ) -> TextCondition | None:
        """What guidance leads away from, the model's own by default; None where it is not asked."""
        if not guidance.asks_negative:
            return None
        negative = self.defaults.negative_prompt if negative_prompt is None else negative_prompt
        return self.encode_text(negative, b, prefix="")

    def run(
        self,
        plan: WindowPlan,
        source: CleanSource,
        noise: tuple[Tensor, Tensor | None],
        text: TextCondition,
        negative: TextCondition | None,
        *,
        steps: int | None,
        shift: float | None,
        guidance: AnyGuidance,
        output_type: OutputType,
        sampler: SamplerName | None = None,
        on_step: OnStep | None = None,
        attention_kwargs: dict[str, object] | None = None,
    ) -> tuple[VideoOutput, Tensor | None]:
        """What a call gives back: videos, and semantic tokens."""
        defaults = self.defaults
        steps, shift = defaults.steps if steps is None else steps, defaults.shift if shift is None else shift
        latents, semantic = self.denoise(
            *noise, source, text, negative, steps=steps, shift=shift, guidance=guidance, sampler=sampler, plan=plan,
            on_step=on_step, attention_kwargs=attention_kwargs,
        )  # fmt: skip
        result: VideoOutput = latents
        if output_type != "latent":
            groups = latents.split(len(plan))
            decoded = torch.stack([torch.cat(list(self.decode_windows(plan, group)), dim=1) for group in groups])
            result = self.video_processor.postprocess_video(decoded, output_type=output_type)
        return result, semantic

    @torch.no_grad()
    def denoise(
        self,
        latents: Tensor,
        semantic: Tensor | None,
        source: CleanSource | None,
        text: TextCondition,
        negative: TextCondition | None,
        *,
        steps: int,
        shift: float,
        guidance: AnyGuidance,
        sampler: SamplerName | None = None,
        guided: float = 1.0,
        plan: WindowPlan | None = None,
        on_step: OnStep | None = None,
        on_part: Callable[[float], object] | None = None,
        attention_kwargs: dict[str, object] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """From noise [b c t h w] and [b s e] to data, both float32. With several windows `b` counts them.

        Steps from the share `guided` of them on have one forward pass, without guidance. Twins (see `windows`) take the
        mean of their velocities at every step. `on_part` is told the share of all work that is done, after each forward
        pass of a part of the batch.
        """
        loop = SamplingLoop(
            self, PartStore(), latents, semantic, source, text, negative, steps=steps, shift=shift, guidance=guidance,
            sampler=sampler, guided=guided, plan=plan, attention_kwargs=attention_kwargs,
        )  # fmt: skip
        rows, tokens = loop.run(on_step, on_part)
        return rows[:], None if tokens is None else tokens[:]

    @property
    def experts(self) -> list[ModelMixin]:
        """The transformers, each for some of the timesteps."""
        return [self.transformer]

    def expert(self, t: Tensor, guidance: AnyGuidance) -> tuple[ModelMixin, AnyGuidance]:
        """The transformer for a timestep, and the guidance that goes with it."""
        return self.transformer, guidance

    def shown(
        self, source: CleanSource | None, streams: ShownStreams, part: slice, like: Tensor
    ) -> Tensor | list[Tensor] | None:
        """Of the clean latents what a forward pass of a part of the batch sees, on the device and in the type of
        `like`."""
        assert not isinstance(source, CleanStreams), "only a family that says so takes several"
        return None if source is None or streams == "none" else source[part].to(like)

    def windows_at_once(self, latents: Tensor) -> int:
        """How many rows of the batch one forward pass takes: about 8,000 tokens of target, at least one row.

        On a CPU 1,000, which keep its cores as busy. With a step cache one row, since it decides once a forward pass.
        """
        if any(model.is_cache_enabled for model in self.experts):
            return 1
        p_t, p_h, p_w = self.transformer.config.patch_size
        most = 1024 if self._execution_device.type == "cpu" else 8192
        return max(1, most // (latents[0, 0].numel() // (p_t * p_h * p_w)))

    def make_scheduler(
        self, steps: int, shift: float, sampler: SamplerName | None, device: torch.device
    ) -> SchedulerMixin:
        """A fresh scheduler at the family's noise levels, shifted; None: of the pipeline's own kind.

        Its timesteps are 1000 times its sigmas, float32, whatever its kind; cut to whole ones for a model that was.
        """
        if steps < 1:
            raise ValueError(f"at least one step is needed, not {steps}")
        kinds: dict[str | None, type[SchedulerMixin]] = {
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
        scheduler = kind.from_config(config)
        scheduler.set_timesteps(sigmas=self.noise_levels(steps))  # on the CPU: who reads one waits for none
        # Some schedulers round timesteps to integers, which then coincide where steps are many. Steps are counted, so
        # a timestep only tells the model how noisy its input is.
        own = scheduler.timesteps.trunc() if self.whole_timesteps else 1000 * scheduler.sigmas[:-1]
        scheduler.timesteps = own.to(device, torch.float32)
        scheduler.set_begin_index(0)
        return scheduler

    def noise_levels(self, steps: int) -> np.ndarray:
        """Those that the steps begin at, before the shift."""
        return np.linspace(1, 0, steps + 1)[:-1].copy()

    def prompts(self, prompt: str | list[str] | None, b: int, prefix: str | None) -> list[str]:
        """One prompt, or `b`, each with its prefix."""
        if prompt is None:
            raise ValueError("pass either prompt or prompt_embeds")
        prompts = [prompt] if isinstance(prompt, str) else prompt
        if len(prompts) not in (1, b):
            raise ValueError(f"{len(prompts)} prompts do not go with {b} videos")
        prefix = self.defaults.prompt_prefix if prefix is None else prefix
        return [prefix + p for p in prompts]

    def tokenize(
        self,
        tokenizer: PreTrainedTokenizerBase,
        texts: list[str],
        length: int,
        *,
        padding: Literal["max_length", "longest"] = "max_length",
    ) -> tuple[Tensor, Tensor]:
        """Ids and mask [b l], of at most `length` tokens, padded on the right."""
        tokens = tokenizer(
            texts, padding=padding, max_length=length, truncation=True, add_special_tokens=True,
            return_attention_mask=True, padding_side="right", return_tensors="pt",
        )  # fmt: skip
        device = self._execution_device
        return tokens.input_ids.to(device), tokens.attention_mask.to(device)

    def encode_video(self, pixels: Tensor) -> Tensor:
        """Pixels [b c t h w] in [-1, 1], t = 4k+1, as normalised latents [b c t h w], float32, no sampling."""
        pixels = pixels.to(self._execution_device, self.vae.dtype)
        with model_lock(self.vae):
            mode = self.vae.encode(pixels).latent_dist.mode().float()
        if "latents_mean" not in self.vae.config:
            return mode * self.vae.config.scaling_factor
        mean, std = self._latent_statistics(mode)
        return (mode - mean) / std

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Normalised latents as pixels [b c t h w] in [-1, 1], float32."""
        codes = self.denormalise(latents.to(self._execution_device).float())
        with model_lock(self.vae):
            return self.vae.decode(codes.to(self.vae.dtype)).sample.float().clamp(-1, 1)

    def denormalise(self, latents: Tensor) -> Tensor:
        """Normalised latents [b c t h w] as the autoencoder's own."""
        if "latents_mean" not in self.vae.config:
            return latents / self.vae.config.scaling_factor
        mean, std = self._latent_statistics(latents)
        return latents * std + mean

    def encode_windows(self, plan: WindowPlan, frames: Iterable[Tensor]) -> Iterator[Tensor]:
        """A clip's frames [c h w], streamed, as latents of its windows [1 c t h w], each encoded on its own."""
        return self.sharing.each(plan.gather(frames), lambda window: self.encode_video(window[None]))

    def decode_windows(self, plan: WindowPlan, latents: Iterable[Tensor]) -> Iterator[Tensor]:
        """The clip's frames [c n h w] in [-1, 1], window by window, crossfaded and trimmed."""
        return plan.stitch(self.sharing.each(latents, lambda window: self.decode_latents(window[None])[0]))

    def noise(self, plan: WindowPlan, source: BatchRows, generator: torch.Generator | None) -> Tensor:
        """Initial latents [b c t h w], drawn in float32 on the generator's device (a CPU's is the same everywhere)."""
        b, _, _, h, w = source.shape
        clips = b // len(plan)
        clip = self._draw((clips, self.transformer.config.out_channels, plan.total, h, w), generator)
        return torch.cat([plan.split(one[None]) for one in clip])

    def check_size(self, height: int, width: int) -> None:
        if height % self.multiple or width % self.multiple:
            raise ValueError(f"width and height must be multiples of {self.multiple}, not {width}x{height}")

    def _draw(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        return torch.randn(shape, generator=generator, device=generator.device if generator else "cpu")

    def _latent_statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (like.new_tensor(getattr(self.vae.config, name)) for name in ("latents_mean", "latents_std"))
        return mean.view(-1, 1, 1, 1), std.view(-1, 1, 1, 1)


def model_lock(model: torch.nn.Module) -> threading.Lock:
    """A lock for a model that computes for one thread at a time: Wan's autoencoder keeps features between its calls."""
    with _guard:
        return _locks.setdefault(model, threading.Lock())


_guard = threading.Lock()
_locks: WeakKeyDictionary[torch.nn.Module, threading.Lock] = WeakKeyDictionary()


def as_pixels(video: VideoInput) -> Tensor:
    """A video in each accepted form as [b c t h w] in [-1, 1]."""
    if isinstance(video, Tensor):
        return video if video.ndim == 5 else video[None]
    frames = [np.asarray(frame) for frame in video]
    if any(frame.dtype.kind != "u" or frame.ndim != 3 or frame.shape[-1] != 3 for frame in frames):
        raise ValueError("frames must be RGB images: PIL, or arrays of unsigned integers of shape (h, w, 3)")
    return to_pixels(frames)
