"""What our pipelines do with diffusers' calls about memory and LoRA, so that none goes wrong in silence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Unpack

import torch
from diffusers import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor

from opensama import runtime
from opensama.models.lora import DIFFUSERS_FILE
from opensama.models.lora_files import LoraFile, adapter_state
from opensama.pipeline.memory import GroupOffload, offload_groups, on_disk
from opensama.values import UserError


class CheckedPipeline(DiffusionPipeline):
    """A pipeline with a `transformer` of ours; goes before diffusers' loader of LoRAs."""

    transformer: ModelMixin

    @property
    def device(self) -> torch.device:
        """Where the transformer is: a text encoder may have been sent away to make room for it."""
        return super().device if self.transformer is None else self.transformer.device

    def enable_group_offload(  # what else diffusers' takes is handed on
        self,
        onload_device: torch.device | str,
        offload_device: torch.device | str = "cpu",
        offload_type: str = "block_level",
        num_blocks_per_group: int | None = None,
        *,
        offload_to_disk_path: str | Path | None = None,
        exclude_modules: str | Sequence[str] | None = None,
        **how: Unpack[GroupOffload],
    ) -> None:
        """diffusers' call, with blocks for every part, and on disk a fresh folder for each: see `memory`."""
        onload_device, offload_device = torch.device(onload_device), torch.device(offload_device)
        away = [exclude_modules] if isinstance(exclude_modules, str) else exclude_modules or []
        for name, part in self.components.items():
            if not isinstance(part, torch.nn.Module):
                continue
            if name in away:
                part.to(onload_device)
                continue
            offload_groups(
                name, part, onload_device, offload_device, offload_type, num_blocks_per_group, offload_to_disk_path,
                **how,
            )  # fmt: skip

    def load_lora_weights(
        self,
        source: str | Path | Mapping[str, Tensor],
        adapter_name: str | None = None,
        *,
        weight_name: str | None = None,
        **given: object,
    ) -> None:
        """diffusers' call with a file's path, a folder, a hub repository (with `weight_name`), or tensors; strictly.

        The adapter stays apart from the weights, so it can be scaled and unloaded. UserError for tensors that are not
        used, and for those that no adapter carries: `opensama.load(..., lora=[...])` adds these to the weights.
        """
        if on_disk(getattr(self, "transformer_2" if given.get("load_into_transformer_2") else "transformer")):
            raise UserError("The weights lie on disk, where no LoRA reaches them: load it before they are offloaded.")
        if isinstance(source, Mapping):
            file = LoraFile.of(source)
        elif (path := Path(source).expanduser()).exists():
            file = LoraFile.read(path / (weight_name or DIFFUSERS_FILE) if path.is_dir() else path)
        elif weight_name is None:
            raise UserError(f"There is no file {source}: mend the path, or name the repository's file as weight_name.")
        else:
            file = LoraFile.read(runtime.locate(str(source), [weight_name]) / weight_name)
        state = adapter_state(self.transformer, file)
        super().load_lora_weights(state, adapter_name, **given)

    @contextmanager
    def freed(self) -> Iterator[None]:
        """Around a call: however it ends, hooks of offloading and step caches forget it."""
        try:
            yield
        finally:
            self.maybe_free_model_hooks()
