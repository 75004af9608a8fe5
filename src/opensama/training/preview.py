"""What the model makes of a few fixed samples while it trains: videos of source, edit and target side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from opensama.data.latents import EncodedItems
from opensama.data.samples import BadSample
from opensama.media.frames import to_frames
from opensama.media.video_io import write_video
from opensama.models.families import family_of
from opensama.pipeline.assemble import base_parts
from opensama.pipeline.guidance import Guidance
from opensama.runtime import autocast, rank
from opensama.values import Video


class Preview:
    """`preview(folder)` writes a video for each of the first few edits, or where there are none, clips.

    Every process samples (the model may be sharded over them), the first one writes. Same noise each time.
    """

    def __init__(
        self,
        transformer: ModelMixin,
        vae: ModelMixin,
        data: EncodedItems,
        *,
        shift: float,
        condition_kwargs: Mapping[str, float],
        count: int = 4,
        steps: int = 20,
    ):
        self.shift, self.condition_kwargs, self.steps = shift, condition_kwargs, steps
        self.family = family_of(transformer)
        parts = dict.fromkeys(base_parts(self.family.name)) | {"vae": vae, "transformer": transformer}
        scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
        self.pipe = self.family.pipeline(**parts, scheduler=scheduler)
        self.pipe.set_progress_bar_config(disable=True)
        self.samples = list(islice(self._samples(data), count))

    @staticmethod
    def _samples(data: EncodedItems) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
        items = data.items
        for number in sorted(range(len(items)), key=lambda i: ("." in items[i].name, items[i].shape.kind == "image")):
            if items[number].shape.source_frames == items[number].shape.frames:  # to be shown side by side
                with suppress(BadSample):
                    yield items[number].name, data[number]

    @torch.no_grad()
    def __call__(self, folder: Path) -> None:
        device = next(self.pipe.transformer.parameters()).device
        training = self.pipe.transformer.training
        self.pipe.transformer.eval()
        for name, sample in self.samples:
            sides = self.sides({key: tensor[None].to(device).float() for key, tensor in sample.items()})
            if rank() == 0:
                shown = [to_frames(self.pipe.decode_latents(z)) for z in sides]
                folder.mkdir(parents=True, exist_ok=True)
                frames = torch.cat([torch.from_numpy(side) for side in shown], dim=2).numpy()
                video = Video.from_frames(frames, 16)
                write_video(video, folder / f"{name}.mp4", overwrite=True, on_note=lambda note: None)
        self.pipe.transformer.train(training)

    def sides(self, x: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Latents of source, edit and target [1 c t h w] of a sample with a batch's first axis, where the model is."""
        start = self.pipe.begin(None, x["source"], 0, None)
        noise, semantic = self.pipe.noise(*start), None
        if "semantic" in x:
            semantic = torch.randn(x["semantic"].shape, generator=start.generator)
        prompt_embeddings = self.family.prompt(x, **self.condition_kwargs)
        device = x["source"].device
        with autocast(device, "float32" if device.type == "cpu" else "bfloat16"):
            edit, _ = self.pipe.run(
                start.plan, start.source, (noise, semantic), prompt_embeddings, None,
                steps=self.steps, shift=self.shift, guidance=Guidance(1.0), output_type="latent",
            )  # fmt: skip
        return x["source"], edit, x["target"]
