"""Painting anew what a mask covers, by a model that fills it or by an editor that is told what to do.

VACE, through diffusers, gets the clip with the mask greyed out, the mask, and the caption of the edited clip. It works
at a size and length of its own (rows and columns in sixteens, 4k+1 frames); what it paints is brought back to the
clip's. An editor of this project gets the clip and an instruction. Only the masked pixels of an answer are used
(`masks.put_together`).

Letters: t frames, h w rows and columns.
"""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from opensama import runtime
from opensama.curation.elements import Clip
from opensama.curation.segmentation import load_pretrained, model_folder
from opensama.media.frames import eight_bit, resize, to_frames, to_pixels
from opensama.models.registry import find, is_editor
from opensama.values import EditRequest, UserError, Video, frames_up

if TYPE_CHECKING:
    from diffusers import WanVACEPipeline
    from torch import Tensor

    from opensama.pipeline.editor import Editor

MODEL = "Wan-AI/Wan2.1-VACE-1.3B-diffusers"
_FILES = ("model_index.json", "scheduler/*.json", "text_encoder/*", "tokenizer/*", "transformer/*", "vae/*")
_GUIDANCE, _SHIFT = 5.0, 3.0  # shift 5 is for 720p
NEGATIVE = "blurry, distorted, deformed, low quality, artifacts, flicker, text, watermark"


class Inpainter(Protocol):
    """Paints masked pixels anew."""

    name: str
    instructed: bool
    """Whether its `words` are what to do, or else what is seen afterwards."""

    def load(self) -> None:
        """Reads what it needs, before the first clip. UserError where that is not there."""
        ...

    def inpaint(self, clip: Clip, masks: np.ndarray, words: str, seed: int = 0) -> np.ndarray:
        """Frames uint8 [t h w 3] as the words say; only those pixels count where `masks` [t h w] is true."""
        ...


def open_inpainter(name: str = "", device: str | None = None, *, steps: int = 30, offload: str = "auto") -> Inpainter:
    """By name: empty for the published VACE of 1.3B, a folder or hub id for another, "world", or any editor of this
    project by its name or its pipeline's folder. Loads nothing yet. `steps` are VACE's, `offload` is an editor's."""
    if name == "world":
        from opensama.curation.oracles import WorldInpainter

        return WorldInpainter()
    if is_editor(name) or (name and "/" not in name and not Path(name).is_dir()):
        find(name)  # what is no name of ours is told now
        return InstructedEditor(name, device=device, offload=offload)
    return Vace(name or MODEL, device=device, steps=steps)


class InstructedEditor:
    """An editor of this project: any model of the registry, or a pipeline's folder, with its own settings."""

    instructed = True

    def __init__(self, model: str, *, device: str | None = None, offload: str = "auto"):
        runtime.check_offload(offload)
        self.name = model
        self._device, self._offload = device, offload

    def load(self) -> None:
        _ = self._editor

    def inpaint(self, clip: Clip, masks: np.ndarray, words: str, seed: int = 0) -> np.ndarray:
        request = EditRequest(Video.from_frames(clip.frames, clip.fps), words, seed=seed)
        return np.stack([eight_bit(frame) for frame in self._editor.edit(request).frames()])

    @cached_property
    def _editor(self) -> Editor:
        from opensama.pipeline.editor import load

        return load(self.name, device=self._device, offload=self._offload)


class Vace:
    """diffusers' `WanVACEPipeline`, from a folder or the hub."""

    instructed = False

    def __init__(
        self,
        model: str = MODEL,
        *,
        device: str | None = None,
        dtype: str | None = None,
        steps: int = 30,
        area: int = 480 * 832,
    ):
        """`area`: about how many pixels a frame has while it is painted."""
        if steps < 1:
            raise UserError(f"An inpainter needs at least one step, not {steps}.")
        self.name = model
        self.steps, self.area = steps, area
        self._device, self._dtype = device, dtype

    def load(self) -> None:
        _ = self._pipe

    def inpaint(self, clip: Clip, masks: np.ndarray, words: str, seed: int = 0) -> np.ndarray:
        import torch
        from torch.nn import functional

        t, h, w, _ = clip.frames.shape
        pipe = self._pipe
        step = pipe.vae_scale_factor_spatial * pipe.transformer.config.patch_size[1]
        rows, columns = working_size(h, w, self.area, step)
        length = frames_up(t, pipe.vae_scale_factor_temporal)
        hidden = np.where(masks[..., None], np.uint8(128), clip.frames)  # before resizing, which would mix it in
        video = (resize(to_pixels(hidden), rows, columns) + 1) / 2  # 1 3 t h w in 0..1
        mask = functional.interpolate(torch.from_numpy(masks)[None].float(), (rows, columns), mode="area")[:, None] > 0
        video = torch.where(mask, 0.5, video)  # mid grey, which is 0 to the model: nothing is known here
        video, mask = (_lengthen(x, length).transpose(1, 2) for x in (video, mask.float().expand_as(video)))
        with torch.inference_mode():
            painted = pipe(
                prompt=words,
                negative_prompt=NEGATIVE,
                video=video,
                mask=mask,
                height=rows,
                width=columns,
                num_frames=length,
                num_inference_steps=self.steps,
                guidance_scale=_GUIDANCE,
                generator=runtime.seeded(seed),
                output_type="pt",
            ).frames
        back = painted.float().cpu().transpose(1, 2)[:, :, :t] * 2 - 1  # 1 3 t h w
        return to_frames(resize(back, h, w))

    @cached_property
    def _pipe(self) -> WanVACEPipeline:
        import torch
        from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanVACEPipeline, WanVACETransformer3DModel
        from transformers import UMT5EncoderModel

        device = runtime.pick_device(self._device)
        dtype = runtime.pick_dtype(self._dtype, device)
        folder = model_folder(self.name, _FILES)
        parts = {
            "vae": load_pretrained(AutoencoderKLWan, folder / "vae", torch.float32),
            "text_encoder": load_pretrained(UMT5EncoderModel, folder / "text_encoder", dtype),
            "transformer": load_pretrained(WanVACETransformer3DModel, folder / "transformer", dtype),
        }
        try:
            with runtime.quiet_loading():
                pipe = WanVACEPipeline.from_pretrained(folder, **parts, dtype=dtype, local_files_only=True)
        except Exception as error:  # the library raises anything for a damaged file
            words = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(f"The model in {folder} cannot be read as VACE: {words[0]}") from error
        pipe.scheduler = UniPCMultistepScheduler.from_config(
            pipe.scheduler.config, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=_SHIFT
        )
        pipe.set_progress_bar_config(disable=True)
        return pipe.to(device)


def working_size(height: int, width: int, area: int, step: int) -> tuple[int, int]:
    """Rows and columns in steps, of about that area and the clip's own shape; a smaller clip is not made larger."""
    scale = min(1.0, math.sqrt(area / (height * width)))
    return max(step, round(height * scale / step) * step), max(step, round(width * scale / step) * step)


def _lengthen(video: Tensor, length: int) -> Tensor:
    """The last frame of [1 c t h w] again and again until there are `length`."""
    import torch

    missing = length - video.shape[2]
    return torch.cat([video, video[:, :, -1:].expand(-1, -1, missing, -1, -1)], 2) if missing else video
