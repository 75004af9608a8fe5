"""One device for a stage: where its modules, batches and noise lie, and a sentence for what lies elsewhere.

Tensors of one number may lie on the CPU: every device takes them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten_with_path, tree_map_only

from opensama.runtime import compute_type

if TYPE_CHECKING:
    from opensama.training.stage import TrainingStage

_Batch = TypeVar("_Batch")


def stage_device(stage: TrainingStage) -> torch.device:
    """Where a stage's modules lie, frozen ones among its attributes included. ValueError if at two places."""
    kept = {name: value for name, value in vars(stage).items() if isinstance(value, nn.Module)}
    modules: Mapping[str, nn.Module] = {**stage.modules(), **kept}
    first: tuple[str, torch.device] | None = None
    for name, module in modules.items():
        for part, tensor in chain(module.named_parameters(), module.named_buffers()):
            if first is None:
                first = f"{name}.{part}", tensor.device
            elif tensor.device != first[1]:
                raise ValueError(
                    f"{name}.{part} of the stage {stage.name} is on {tensor.device}, but {first[0]} is on {first[1]}: "
                    "move every module of a stage to one device before it is trained"
                )
    assert first is not None, stage.name
    return first[1]


@contextmanager
def check_inputs(stage: TrainingStage, device: torch.device) -> Iterator[None]:
    """While it lasts, ValueError if a module of the stage is given a tensor that is not on the device: it is named."""

    def look(name: str, module: nn.Module, given: tuple[object, ...], named: dict[str, object]) -> None:
        for path, tensor in tree_flatten_with_path((given, named))[0]:
            if isinstance(tensor, Tensor) and tensor.ndim and tensor.device != device:
                what = "".join(map(str, path[1:])).strip("[]'")
                raise ValueError(
                    f"input {what} of {name} is on {tensor.device}, but the stage {stage.name} computes on {device}: "
                    "move its batch and its noise there"
                )

    hooks = []

    def hang(name: str, module: nn.Module) -> None:
        if module._compiled_call_impl is None:  # a hook would have it compiled again
            hooks.append(module.register_forward_pre_hook(partial(look, name), with_kwargs=True))
            for part, child in module.named_children():
                hang(f"{name}.{part}", child)

    for name, module in stage.modules().items():
        hang(name, module)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def pin(batch: _Batch, device: torch.device) -> _Batch:
    """A tree of tensors in memory from which a GPU copies while it computes; elsewhere as it is."""
    return tree_map_only(Tensor, Tensor.pin_memory, batch) if device.type == "cuda" else batch


def to_device(batch: _Batch, device: torch.device) -> _Batch:
    """A tree of tensors on the device; those that are pinned are copied while it computes."""
    return tree_map_only(Tensor, lambda x: x.to(device, non_blocking=x.is_pinned()), batch)


def count_compilations() -> int:
    """Graphs that this process has compiled so far."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return int(dynamo.counters["stats"]["unique_graphs"]) if dynamo else 0


def describe_machine(device: torch.device) -> str:
    """What decides the bits of a run besides its settings: the processor's kind, and how it computes."""
    if device.type == "cuda":
        kind = torch.cuda.get_device_name(device)
    elif device.type == "cpu":
        kind = f"a CPU ({torch.backends.cpu.get_cpu_capability()})"
    else:
        kind = device.type
    return f"{kind} in {compute_type('auto', device)}"
