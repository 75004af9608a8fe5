"""Where a pipeline's weights lie while it edits, and what is said when they do not fit.

    none    all parts on the device
    model   one part at a time on the device, the others in the computer's memory
    group   one block at a time, the other blocks in the computer's memory
    disk    one block at a time, the other blocks in files of a folder that goes when the pipeline goes

Each kind computes the same numbers. Moving is done by diffusers' and accelerate's hooks; what they need of us is here:
blocks where a text encoder or an autoencoder names none, and a fresh folder for every part, since files are named after
modules and an existing file is taken for the module's own.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TypedDict, TypeVar, Unpack

import torch
from diffusers import DiffusionPipeline
from diffusers.hooks.group_offloading import (
    _GROUP_OFFLOADING,
    _LAYER_EXECUTION_TRACKER,
    _LAZY_PREFETCH_GROUP_OFFLOADING,
    _get_top_level_group_offload_hook,
    apply_group_offloading,
)
from diffusers.hooks.hooks import HookRegistry
from diffusers.utils.torch_utils import empty_device_cache
from torch import nn

from opensama import runtime
from opensama.models.float8 import keep_float8
from opensama.values import UserError

_T = TypeVar("_T")


class GroupOffload(TypedDict, total=False):
    """What diffusers' group offloading takes besides, as it says there."""

    non_blocking: bool
    use_stream: bool
    record_stream: bool
    low_cpu_mem_usage: bool


class MemoryFull(UserError):
    """The memory of a device was full; the sentence names the next cheaper setting."""


def place_on_device(
    pipeline: DiffusionPipeline,
    device: torch.device,
    offload: str = "none",
    *,
    vae_tiling: bool = False,
    float8: bool = False,
) -> None:
    """Puts a pipeline of the CPU's memory where it is to compute. UserError where the device, or the disk, is full.

    `float8` keeps the matrices of the transformers' blocks in 8 bits with a scale each; each layer computes as before.
    """
    runtime.check_offload(offload)
    if vae_tiling:
        pipeline.vae.enable_tiling()
    if float8:
        for model in pipeline.experts:
            keep_float8(model)
    with enough_memory(device, offload, vae_tiling=vae_tiling):
        if offload == "none":
            pipeline.to(device)
        elif offload == "model":
            pipeline.enable_model_cpu_offload(device=device)
        elif offload == "group":
            pipeline.enable_group_offload(device)
        else:
            pipeline.enable_group_offload(device, offload_to_disk_path=tempfile.gettempdir())


def back_to_computer(pipeline: DiffusionPipeline) -> None:
    """Undoes `place_on_device`: every part in the computer's memory, without hooks that move it.

    ValueError where weights lie on disk: they do not come back.
    """
    if any(on_disk(part) for part in pipeline.components.values() if isinstance(part, nn.Module)):
        raise ValueError("weights that lie on disk do not come back: load the model anew")
    device = pipeline._execution_device
    pipeline.remove_all_hooks()
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            for hook in (_GROUP_OFFLOADING, _LAYER_EXECUTION_TRACKER, _LAZY_PREFETCH_GROUP_OFFLOADING):
                HookRegistry.check_if_exists_or_initialize(part).remove_hook(hook, recurse=True)
            part.to("cpu")
    empty_device_cache(device.type)


def offload_groups(
    name: str,
    part: nn.Module,
    onload_device: torch.device,
    offload_device: torch.device,
    offload_type: str,
    num_blocks_per_group: int | None,
    disk: str | Path | None,
    **how: Unpack[GroupOffload],
) -> None:
    """Gives one part of a pipeline diffusers' group offloading, on `disk` in a fresh folder that goes with the part.

    A text encoder is offloaded by its layers whatever was asked: by leaves, a tied embedding would be stored twice, the
    second time as what was left of it after the first.
    """
    root, blocks = part, getattr(part, "_group_offload_block_modules", None)
    if name.startswith("text_encoder"):
        root, offload_type = layers_of(part), "block_level"
    elif name == "vae" and blocks is None:  # its encode and decode call these, and never its own forward
        blocks = [child for child, _ in part.named_children()]
    if disk is not None:
        check_disk(part, Path(disk), onload_device)
        disk = tempfile.mkdtemp(dir=disk, prefix=f"opensama-{name}-")
        weakref.finalize(part, shutil.rmtree, disk, ignore_errors=True)
    elif name.startswith("transformer") and onload_device.type == "cuda":
        how = {"use_stream": True, "low_cpu_mem_usage": True, **how}  # the next block comes while one computes
    if offload_type == "block_level":
        num_blocks_per_group = num_blocks_per_group or 1
    else:
        blocks = None
    apply_group_offloading(
        root, onload_device, offload_device, offload_type, num_blocks_per_group, offload_to_disk_path=disk,
        block_modules=blocks, **how,
    )  # fmt: skip


def on_disk(module: nn.Module) -> bool:
    """Whether group offloading has put a module's weights into files."""
    hook = _get_top_level_group_offload_hook(module)
    return hook is not None and hook.config.offload_to_disk_path is not None


def layers_of(encoder: nn.Module) -> nn.Module:
    """The module in a text encoder that has the list of layers, where it holds all weights; else the encoder."""
    stack = next((m for m in encoder.modules() if any(isinstance(c, nn.ModuleList) for c in m.children())), encoder)
    inside = {id(tensor) for tensor in tensors_of(stack)}
    return stack if all(id(tensor) in inside for tensor in tensors_of(encoder)) else encoder


def tensors_of(module: nn.Module) -> Iterator[torch.Tensor]:
    return chain(module.parameters(), module.buffers())


def check_disk(part: nn.Module, folder: Path, device: torch.device | str) -> None:
    """UserError where a part's files do not fit, or would come back to another device."""
    if torch.device(device).index:
        raise UserError(
            f"Weights on disk come back to the first GPU, not to {device}: set CUDA_VISIBLE_DEVICES so that it is the"
            " first, or use `offload=group`."
        )
    size, free = sum(tensor.nbytes for tensor in tensors_of(part)), shutil.disk_usage(folder).free
    if size > free:
        raise UserError(
            f"`offload=disk` needs {size / 1e9:.1f} GB more in {folder}, where {free / 1e9:.1f} GB are free: set TMPDIR"
            " to a folder on a larger disk."
        )


def text_encoders(pipeline: DiffusionPipeline) -> list[nn.Module]:
    parts = pipeline.components.items()
    return [part for name, part in parts if name.startswith("text_encoder") and isinstance(part, nn.Module)]


def without_text_encoders(pipeline: DiffusionPipeline, offload: str, run: Callable[[], _T]) -> _T:
    """What `run` gives; where the device was full, once more with the text encoders in the computer's memory.

    They have done their work by then. `back_on_device` brings them back.
    """
    try:
        return run()
    except RuntimeError as error:
        if offload != "none" or not out_of_memory(error):
            raise
    for encoder in text_encoders(pipeline):  # after the handler, which holds what the failed attempt had allocated
        encoder.to("cpu")
    empty_device_cache(pipeline.device.type)
    return run()


def back_on_device(pipeline: DiffusionPipeline, offload: str) -> None:
    """The text encoders on the pipeline's device again, where `without_text_encoders` has moved them away."""
    if offload == "none":
        for encoder in text_encoders(pipeline):
            encoder.to(pipeline.device)


def out_of_memory(error: BaseException) -> bool:
    """Whether a device's memory, or the computer's, was full."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


@contextmanager
def enough_memory(
    device: torch.device, offload: str, *, vae_tiling: bool = True, decoding: bool = False, side: int | None = None
) -> Iterator[None]:
    """Turns a full memory into one sentence that names the next cheaper setting. `side`: of the square worked at."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        cheaper = next_cheaper(device, offload, vae_tiling=vae_tiling, decoding=decoding, side=side)
        raise MemoryFull(f"The memory of {device} is full with `offload={offload}`: try {cheaper}.") from error


def next_cheaper(device: torch.device, offload: str, *, vae_tiling: bool, decoding: bool, side: int | None) -> str:
    """What takes less memory than these settings."""
    if decoding and not vae_tiling:
        return "`vae_tiling=True`"
    steps = ("none", "disk") if device.type == "cpu" else ("none", "model", "group")
    if offload in steps[:-1]:
        return f"`offload={steps[steps.index(offload) + 1]}`"
    smaller = (side or 0) * 3 // 4 // 16 * 16
    return f"`size={smaller}`, or `frames` for a part of the video" if smaller else "a smaller model"
