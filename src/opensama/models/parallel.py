"""Context parallelism for a joint sequence: each process holds a share of all tokens, attention exchanges heads.

    model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2, ulysses_anything=True))

The joint sequence and its rotary are split once before the first block and gathered once after the last; text, time
and outputs are whole on every process. Between, attention exchanges: every process gets all tokens of some heads, and
gives back all heads of some tokens (Ulysses, arXiv 2309.14509). Tokens and heads need not divide by the processes, also
in training, where diffusers' own exchange has no backward pass; rings are diffusers' own, and uneven ones only for
inference.

In training each process computes the same loss. The mean of the gradients over the group is then the gradient of
every parameter, before and after the gather, as in data parallelism.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from diffusers.models._modeling_parallel import ContextParallelConfig, ParallelConfig
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.distributed._functional_collectives import all_to_all_single_autograd
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh


class JointSequence:
    """Gives a diffusers model `split` and `gather`, which do nothing unless parallelism was enabled.

    diffusers' own plans hook modules; a joint sequence is no module's input, so the plan is empty and the model asks.
    """

    _cp_plan: Mapping[str, object] = {}  # diffusers' name; None would mean: not supported
    _parallel_config: ParallelConfig | None

    def split(self, *tensors: Tensor, then: Sequence[Tensor] = ()) -> tuple[Tensor, ...]:
        """This process's share of each tensor [b n ...], which all have the same n.

        Tokens that blocks keep apart and only attention joins are split together: `then` [b m ...] follow the others.
        Shares of both together are as even as those of n + m; attention sees them in the order of `interleave`.
        """
        config, mesh = self._context(), self._context_mesh()
        if config is None or mesh is None:
            return (*tensors, *then)
        parts, rank, n = mesh.size(), mesh.get_local_rank(), tensors[0].shape[1]
        joint = n + (then[0].shape[1] if then else 0)
        if joint % parts and config._ring_mesh.size() > 1 and not config.ring_anything:
            raise ValueError(f"{joint} joint tokens do not divide by {parts} processes: set ring_anything=True")
        shares = [x.split(share_lengths(n, parts), dim=1)[rank] for x in tensors]
        shares += [x.split(share_lengths(joint - n, parts, after=n), dim=1)[rank] for x in then]
        own = share_lengths(joint, parts)[rank]
        vars(config).setdefault("joint_tokens", {})[own] = joint  # attention sees its share only
        return tuple(shares)

    def interleave(self, first: Tensor, then: Tensor) -> Tensor:
        """[b n ...] and [b m ...] as one, in attention's order: after each process's share of one that of the other."""
        parts, n = self.processes, first.shape[1]
        pairs = zip(
            first.split(share_lengths(n, parts), dim=1),
            then.split(share_lengths(then.shape[1], parts, after=n), dim=1),
            strict=True,
        )
        return torch.cat([share for pair in pairs for share in pair], dim=1)

    def own(self, first: int, n: int) -> int:
        """How many of the first ones of n tokens are in this process's share."""
        mesh = self._context_mesh()
        if mesh is None:
            return first
        lengths, rank = share_lengths(n, mesh.size()), mesh.get_local_rank()
        return min(max(first - sum(lengths[:rank]), 0), lengths[rank])

    @property
    def processes(self) -> int:
        """How many share a sequence."""
        mesh = self._context_mesh()
        return 1 if mesh is None else mesh.size()

    def gather(self, share: Tensor, n: int) -> Tensor:
        """The whole [b n ...] from every process's share."""
        mesh = self._context_mesh()
        return share if mesh is None else Gather.apply(share, n, mesh)

    def _context_mesh(self) -> DeviceMesh | None:
        config = self._context()
        return config._flattened_mesh if config else None

    def _context(self) -> ContextParallelConfig | None:
        return self._parallel_config and self._parallel_config.context_parallel_config

    def _resolve_parallel_config(self, config: ParallelConfig | ContextParallelConfig) -> ParallelConfig:
        """diffusers' step that makes the mesh, on a CPU too: its own divides by the number of accelerators."""
        if torch.accelerator.is_available() or not isinstance(config, ContextParallelConfig):
            return super()._resolve_parallel_config(config)  # type: ignore[misc]
        mesh = config.mesh or init_device_mesh("cpu", config.mesh_shape, mesh_dim_names=config.mesh_dim_names)
        whole = ParallelConfig(context_parallel_config=config)
        whole.setup(dist.get_rank(), dist.get_world_size(), torch.device("cpu"), mesh=mesh)
        self._parallel_config = whole
        return whole


class GatherContext(FunctionCtx):
    mesh: DeviceMesh


class Gather(torch.autograd.Function):
    """Shares [b n/p ...], uneven by at most one token, as the whole [b n ...]; the gradient's own share comes back."""

    @staticmethod
    def forward(ctx: GatherContext, share: Tensor, n: int, mesh: DeviceMesh) -> Tensor:
        ctx.mesh = mesh
        parts = mesh.size()
        longest = -(-n // parts)
        padded = F.pad(share.transpose(0, 1), (0, 0) * (share.ndim - 1) + (0, longest - share.shape[1]))
        every = padded.new_empty(parts * longest, *padded.shape[1:])
        dist.all_gather_into_tensor(every, padded.contiguous(), mesh.get_group())
        every = every.unflatten(0, (parts, longest))
        shares = [x[:length] for x, length in zip(every, share_lengths(n, parts), strict=True)]
        return torch.cat(shares).transpose(0, 1)

    @staticmethod
    def backward(ctx: GatherContext, *grads: Tensor) -> tuple[Tensor, None, None]:
        mine = grads[0].tensor_split(ctx.mesh.size(), dim=1)[ctx.mesh.get_local_rank()]
        return mine * ctx.mesh.size(), None, None  # each process has a share of what a mean will be taken of


class Exchange:
    """Tokens for heads and back, over the processes that share one sequence of `n` tokens; differentiable.

    Heads that do not divide by the processes are filled up with empty ones.
    """

    def __init__(self, mesh: DeviceMesh, n: int, heads: int):
        self.group, self.parts = mesh.get_group(), mesh.size()
        self.heads, self.empty = heads, -heads % self.parts
        self.lengths = share_lengths(n, self.parts)
        self.own = self.lengths[mesh.get_local_rank()]

    @classmethod
    def of(cls, parallel: ParallelConfig | None, heads: int, tokens: int) -> Exchange | None:
        """The exchange for a share of so many tokens; None without context parallelism, and where it has rings."""
        config = parallel and parallel.context_parallel_config
        if not config or config._ring_mesh.size() > 1:
            return None
        return cls(config._ulysses_mesh, vars(config)["joint_tokens"][tokens], heads)

    def to_heads(self, x: Tensor) -> Tensor:
        """All heads of this process's tokens [b n/p heads d] as all tokens of its heads [b n heads/p d]."""
        if self.empty:
            x = F.pad(x, (0, 0, 0, self.empty))
        x = x.unflatten(2, (self.parts, -1)).permute(2, 1, 0, 3, 4).flatten(0, 1).contiguous()
        return all_to_all_single_autograd(x, self.lengths, [self.own] * self.parts, self.group).transpose(0, 1)

    def to_tokens(self, x: Tensor) -> Tensor:
        """All tokens of this process's heads [b n heads/p d] as all heads of its tokens [b n/p heads d]."""
        x = x.transpose(0, 1).contiguous()
        x = all_to_all_single_autograd(x, [self.own] * self.parts, self.lengths, self.group)
        return x.unflatten(0, (self.parts, self.own)).permute(2, 1, 0, 3, 4).flatten(2, 3)[:, :, : self.heads]


def blocks(model: nn.Module) -> list[nn.Module]:
    """A transformer's repeated blocks, as diffusers' models name their classes; of other modules none."""
    kinds = getattr(model, "_repeated_blocks", None) or ()
    return [module for module in model.modules() if type(module).__name__ in kinds]


def share_lengths(n: int, parts: int, after: int = 0) -> list[int]:
    """How many of n tokens each process holds: the first ones one more, after others those that had one less."""
    return [n // parts + ((i - after) % parts < n % parts) for i in range(parts)]
