"""One edit by all processes that torchrun started: their work is divided, and each has the whole result.

    processes = branches x sequence        guidance's forward passes at once, each over a shared joint sequence
    windows of the autoencoder             dealt out, one to a process

The sequence is shared as `models.parallel` says. A process alone does everything itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from diffusers.models._modeling_parallel import ContextParallelConfig
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from opensama.pipeline.guidance import Ask, ForwardPass
from opensama.runtime import own_device, quiet_loading, world_size
from opensama.values import UserError

if TYPE_CHECKING:
    from opensama.pipeline.diffusion import EditPipeline

PATIENCE = timedelta(hours=12)
"""How long a process waits for another: the first one writes files meanwhile."""
_Answers = Mapping[ForwardPass, list[Tensor]]


class Alone:
    """The work of one process."""

    def each(self, windows: Iterable[Tensor], work: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
        """What `work` makes of each window, in their order."""
        return map(work, windows)

    def answers(self, passes: Sequence[ForwardPass], ask: Ask, like: Sequence[Tensor]) -> _Answers:
        """What the forward passes give: tensors `like` these."""
        return {one: ask(one) for one in passes}


class Together(Alone):
    """The share of one of several processes."""

    def __init__(self, device: torch.device, branches: int):
        self.rank, self.world, self.branches = dist.get_rank(), dist.get_world_size(), branches
        shape = branches, 1, self.world // branches
        self.mesh = init_device_mesh(device.type, shape, mesh_dim_names=("branch", "ring", "ulysses"))
        self.branch = self.mesh["branch"].get_local_rank()

    def share_sequence(self, pipeline: EditPipeline) -> None:
        """Has the transformers split their joint sequence among the processes of a branch."""
        if self.world == self.branches:
            return
        mesh = self.mesh["ring", "ulysses"]
        config = ContextParallelConfig(ulysses_degree=mesh.size(), ulysses_anything=True, mesh=mesh)
        with quiet_loading():
            for model in pipeline.experts:
                model.enable_parallelism(config=config)

    def each(self, windows: Iterable[Tensor], work: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
        source = iter(windows)
        while held := list(islice(source, self.world)):
            own = work(held[self.rank % len(held)]).contiguous()
            every = [torch.empty_like(own) for _ in range(self.world)]
            dist.all_gather(every, own)
            yield from every[: len(held)]

    def answers(self, passes: Sequence[ForwardPass], ask: Ask, like: Sequence[Tensor]) -> _Answers:
        if self.branches == 1 or len(passes) == 1:
            return super().answers(passes, ask, like)
        group, ranks = self.mesh["branch"].get_group(), dist.get_process_group_ranks(self.mesh["branch"].get_group())
        mine = {one: ask(one) for i, one in enumerate(passes) if i % self.branches == self.branch}
        found = {}
        for i, one in enumerate(passes):
            tensors = [x.contiguous() for x in mine[one]] if one in mine else [torch.empty_like(x) for x in like]
            for tensor in tensors:
                dist.broadcast(tensor, ranks[i % self.branches], group)
            found[one] = tensors
        return found


def join_for_edits(device: str | torch.device | None) -> torch.device:
    """Joins the processes of torchrun; this one's device comes out. UserError where torchrun did not start it."""
    if world_size() == 1:
        raise UserError(
            "`context_parallel` shares an edit among processes, and there is one: start it with "
            "torchrun --nproc-per-node N, or leave it away."
        )
    own = own_device(None if device is None else str(device))
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if own.type == "cuda" else "gloo", timeout=PATIENCE)
    return own


def share_edits(pipeline: EditPipeline, device: torch.device) -> None:
    """Divides the pipeline's work among the processes that have joined: in two branches where its guidance has them."""
    passes = len(pipeline.guidance(None).passes)
    together = Together(device, 2 if passes > 1 and dist.get_world_size() % 2 == 0 else 1)
    together.share_sequence(pipeline)
    pipeline.sharing = together
