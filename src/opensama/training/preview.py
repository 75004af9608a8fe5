"""What the model makes of a few fixed samples while it trains: videos of source, edit and target side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from opensama.data.latents import Encoded
from opensama.data.samples import BadSample
from opensama.media.frames import to_frames
from opensama.media.video_io import write_video
from opensama.pipeline.sama import SamaPipeline
from opensama.runtime import rank
from opensama.values import Video


class Preview:
    """`preview(folder)` writes a video for each of the first few edits, or where there are none, clips.

    Every process samples (the model may be sharded over them), the first one writes. Same noise each time.
    """

    def __init__(
        self, transformer: Any, vae: Any, data: Encoded, *, count: int = 4, steps: int = 20, shift: float = 5.0
    ):
        scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
        defaults = {"guidance": 1.0, "shift": shift, "steps": steps}
        self.pipe = SamaPipeline(None, None, vae, transformer, scheduler, defaults)
        self.pipe.set_progress_bar_config(disable=True)
        self.samples = list(self._choose(data, count))

    @staticmethod
    def _choose(data: Encoded, count: int) -> Sequence[tuple[str, Mapping[str, Tensor]]]:
        items = data.items
        order = sorted(range(len(items)), key=lambda i: ("." in items[i].name, items[i].shape.kind == "image"))
        chosen = []
        for number in order:
            item = data.items[number]
            if item.shape.source_frames != item.shape.frames:
                continue  # not to be shown side by side
            try:
                chosen.append((item.name, data[number]))
            except BadSample:
                continue
            if len(chosen) == count:
                break
        return chosen

    @torch.no_grad()
    def __call__(self, folder: Path) -> None:
        device = next(self.pipe.transformer.parameters()).device
        per_anchor = self.pipe.transformer.config.semantic_tokens_per_anchor
        training = self.pipe.transformer.training
        self.pipe.transformer.eval()
        for name, sample in self.samples:
            x = {key: tensor[None].to(device).float() for key, tensor in sample.items()}
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type != "cpu"):
                edit: Any = self.pipe(
                    source_latents=x["source"],
                    prompt_embeds=x["text"],
                    num_anchors=x["semantic"].shape[1] // per_anchor if "semantic" in x else 0,
                    seed=0,
                    output_type="latent",
                )
            if rank() == 0:
                shown = [to_frames(self.pipe.decode_latents(z)) for z in (x["source"], edit.frames, x["target"])]
                folder.mkdir(parents=True, exist_ok=True)
                frames = torch.cat([torch.from_numpy(side) for side in shown], dim=2).numpy()
                video = Video.from_frames(frames, 16)
                write_video(video, folder / f"{name}.mp4", overwrite=True, on_note=lambda note: None)
        self.pipe.transformer.train(training)
