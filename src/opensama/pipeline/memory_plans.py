"""Which way of placing weights lets an edit fit into a device's memory: the quickest whose predicted peak does.

    none     weights of all parts + what the hungriest step allocates
    model    the hungriest part with its own weights
    group    the hungriest part with two of its blocks (one computes, the next one comes)

Weights that are not on the device are in the computer's memory, or with `disk` in files. All plans but those of float8
compute the same numbers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import isqrt

import torch

from opensama.models.registry import ModelEntry
from opensama.pipeline.peaks import EditMemory, edit_memory, window_shape
from opensama.pipeline.room import GB, memory_of_computer
from opensama.runtime import check_offload
from opensama.values import UserError

CONTEXT, SLACK = 0.6 * GB, 0.05
"""What a CUDA context takes, and the share of memory that is lost between allocations."""


@dataclass(frozen=True)
class MemoryPlan:
    """Where weights lie, whether the autoencoder works piece by piece, and whether the transformer's are in 8 bits."""

    offload: str = "none"
    vae_tiling: bool = False
    float8: bool = False

    @property
    def options(self) -> str:
        """As settings are written."""
        said = f"`offload={self.offload}`"
        said += ", `vae_tiling=True`" if self.vae_tiling else ""
        return said + (", `float8=True`" if self.float8 else "")

    def resident(self, need: EditMemory) -> int:
        """Bytes of weights that are on the device at once."""
        need = self._need(need)
        parts = (need.transformer // need.transformers, need.text_encoders, need.autoencoder)
        if self.offload == "none":
            return need.transformer + need.text_encoders + need.autoencoder
        if self.offload == "model":
            return max(parts)
        return max(need.ends + 2 * need.block, 2 * need.text_layer, need.autoencoder)

    def peak(self, need: EditMemory) -> int:
        """Bytes on the device at the hungriest moment."""
        need = self._need(need)
        coding = need.coding_tiled if self.vae_tiling else need.coding
        if self.offload == "none":
            return self.resident(need) + max(need.denoising, coding)
        denoising = need.transformer // need.transformers + need.denoising
        text = need.text_encoders
        if self.offload != "model":
            denoising, text = need.ends + 2 * need.block + need.denoising, 2 * need.text_layer
        return max(denoising, text, need.autoencoder + coding)

    def host(self, need: EditMemory) -> int:
        """Bytes of weights in the computer's memory: while they are loaded, and for those that wait there."""
        if self.offload == "disk":
            return max(need.transformer // need.transformers, need.text_encoders)
        if self.offload == "none":
            return need.transformer // need.transformers
        need = self._need(need)
        return need.transformer + need.text_encoders + need.autoencoder

    def _need(self, need: EditMemory) -> EditMemory:
        """With the transformer's matrices in 8 bits where this plan says so."""
        return need.float8 or need if self.float8 else need


PLANS = (
    MemoryPlan("none"),
    MemoryPlan("none", vae_tiling=True),
    MemoryPlan("model"),
    MemoryPlan("model", vae_tiling=True),
    MemoryPlan("group"),
    MemoryPlan("group", vae_tiling=True),
    MemoryPlan("model", float8=True),
    MemoryPlan("model", vae_tiling=True, float8=True),
    MemoryPlan("group", vae_tiling=True, float8=True),
    MemoryPlan("disk", vae_tiling=True),
)
"""The quickest first; those that round weights after those that do not, and files last."""
ELSEWHERE = (MemoryPlan("none"), MemoryPlan("disk"))
"""On a CPU, and where the computer's memory is the GPU's, too."""


def plans_that_fit(need: EditMemory, device: float, host: float) -> list[MemoryPlan]:
    """Those of PLANS whose peak fits into so many bytes of a device, and whose waiting weights into the computer's."""
    usable = (1 - SLACK) * device - CONTEXT
    return [
        plan
        for plan in PLANS
        if (need.float8 or not plan.float8) and plan.peak(need) <= usable and (host <= 0 or plan.host(need) <= host)
    ]


def largest_size(
    entry: ModelEntry, dtype: torch.dtype, device: float, host: float
) -> tuple[int, tuple[int, int], MemoryPlan] | None:
    """The largest `size` below the model's own at which its longest window fits, that window's (height, width), and
    the plan, of those with `vae_tiling`; None where that is below 256."""
    step, own = entry.defaults.multiple, isqrt(entry.defaults.area)
    found, sides = None, range(256, own, step)
    low, high = 0, len(sides)  # all below low fit, none from high on
    while low < high:
        middle = (low + high) // 2
        shape = window_shape(entry, sides[middle] ** 2)[1:]
        need = edit_memory(entry, dtype, size=(shape[0], shape[1]), tiled_only=True)
        if plans := plans_that_fit(need, device, host):
            found, low = (sides[middle], (shape[0], shape[1]), plans[0]), middle + 1
        else:
            high = middle
    return found


def plans_for(
    entry: ModelEntry,
    device: torch.device,
    dtype: torch.dtype,
    *,
    offload: str = "auto",
    vae_tiling: bool = False,
    float8: bool = False,
    memory: str | None = None,
) -> list[MemoryPlan]:
    """What to do, and what to do instead where memory is full all the same.

    With `offload="auto"` the plans that fit by prediction into the device's memory, or into `memory` of it; else just
    the one that is named. UserError where none fits.
    """
    check_offload(offload)
    given = parse_memory(memory)
    if offload != "auto":
        if given is not None:
            raise UserError("`memory` chooses where weights lie: leave it or `offload` away.")
        return [MemoryPlan(offload, vae_tiling, float8)]
    if device.type != "cuda":  # Apple's shares the computer's memory
        if given is not None:
            raise UserError(f"`memory` is that of a CUDA GPU: leave it away on {device.type}.")
        return [MemoryPlan(plan.offload, vae_tiling, float8) for plan in ELSEWHERE]
    there = torch.cuda.mem_get_info(device)[0] if given is None else given
    need = edit_memory(entry, dtype)
    found = [
        plan
        for plan in plans_that_fit(need, there, memory_of_computer())
        if plan.vae_tiling >= vae_tiling and (plan.float8 >= float8 or need.float8 is None)
    ]
    if not found:
        least = min(PLANS, key=lambda plan: plan.peak(need))
        wants, own = (least.peak(need) + CONTEXT) / (1 - SLACK) / GB, memory_of_computer() / GB
        short = f"{wants:.1f} GB of the GPU's memory at the least ({least.options}), and {there / GB:.1f} GB are there"
        if wants <= there / GB:
            waiting = min(plan.host(need) for plan in plans_that_fit(need, there, 0)) / GB
            short = f"{waiting:.1f} GB of the computer's memory at the least, and it has {own:.1f} GB"
        raise UserError(
            f"{entry.name} needs {short}: use a smaller model, such as `model=bernini-1.3b`, or name an `offload` and "
            "ask for a smaller `size`."
        )
    return found


def parse_memory(text: str | None) -> float | None:
    """`12GB` or `12` in bytes. UserError for anything else."""
    if text is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:GB?|gb)?\s*", text)
    if found is None or float(found[1]) <= 0:
        raise UserError(f"{text!r} is no amount of memory: write gigabytes, such as 12GB.")
    return float(found[1]) * GB
