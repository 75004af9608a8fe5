"""Context parallelism for a joint sequence: each process holds a share of all tokens, attention exchanges heads.

    model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2, ulysses_anything=True))

The joint sequence and its rotary are split once before the first block and gathered once after the last; text, time
and outputs are whole on every process. With `ulysses_anything` shares may be uneven (for inference: diffusers has no
backward pass for it yet); without it the number of joint tokens must divide by the degree. In training, parameters
before the gather get on each process a share of their gradient, to be summed over the group.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from diffusers.models._modeling_parallel import ContextParallelConfig, ParallelConfig
from torch import Tensor
from torch.distributed._functional_collectives import all_gather_tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh


class JointSequence:
    """Gives a diffusers model `split` and `gather`, which do nothing unless parallelism was enabled.

    diffusers' own plans hook modules; a joint sequence is no module's input, so the plan is empty and the model asks.
    """

    _cp_plan: Any = {}  # noqa: RUF012  (diffusers' name; None would mean: not supported)
    _parallel_config: ParallelConfig | None

    def split(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """This process's share of each tensor [b n ...], which all have the same n."""
        mesh = self._context_mesh()
        if mesh is None:
            return tensors
        parts, n = mesh.size(), tensors[0].shape[1]
        if n % parts and not self._uneven_allowed():
            raise ValueError(f"{n} joint tokens do not divide by {parts} processes: set ulysses_anything=True")
        return tuple(x.tensor_split(parts, dim=1)[mesh.get_local_rank()] for x in tensors)

    def gather(self, share: Tensor, n: int) -> Tensor:
        """The whole [b n ...] from every process's share."""
        mesh = self._context_mesh()
        return share if mesh is None else Gather.apply(share, n, mesh)

    def _uneven_allowed(self) -> bool:
        config = self._parallel_config and self._parallel_config.context_parallel_config
        return bool(config and (config.ulysses_anything or config.ring_anything))

    def _context_mesh(self) -> DeviceMesh | None:
        config = self._parallel_config and self._parallel_config.context_parallel_config
        return config._flattened_mesh if config else None

    def _resolve_parallel_config(self, config: Any) -> ParallelConfig:
        """diffusers' step that makes the mesh, on a CPU too: its own divides by the number of accelerators."""
        if torch.accelerator.is_available() or not isinstance(config, ContextParallelConfig):
            return super()._resolve_parallel_config(config)  # type: ignore[misc]
        mesh = config.mesh or init_device_mesh("cpu", config.mesh_shape, mesh_dim_names=config.mesh_dim_names)
        whole = ParallelConfig(context_parallel_config=config)
        whole.setup(dist.get_rank(), dist.get_world_size(), torch.device("cpu"), mesh=mesh)
        self._parallel_config = whole
        return whole


class Gather(torch.autograd.Function):
    """Shares [b n/p ...], uneven by at most one token, as the whole [b n ...]; the gradient's own share comes back."""

    @staticmethod
    def forward(ctx: Any, share: Tensor, n: int, mesh: DeviceMesh) -> Tensor:
        ctx.mesh = mesh
        parts = mesh.size()
        longest = -(-n // parts)
        padded = F.pad(share.transpose(0, 1), (0, 0) * (share.ndim - 1) + (0, longest - share.shape[1]))
        every = all_gather_tensor(padded.contiguous(), 0, mesh.get_group()).unflatten(0, (parts, longest))
        lengths = [n // parts + (i < n % parts) for i in range(parts)]
        return torch.cat([x[:length] for x, length in zip(every, lengths, strict=True)]).transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0].tensor_split(ctx.mesh.size(), dim=1)[ctx.mesh.get_local_rank()], None, None
