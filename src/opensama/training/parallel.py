"""Parallelism done to a model from outside: sharded weights, shared sequences, recomputed activations, compiled blocks.

    mesh = MeshSettings(replicate=1, shard=8, context=2)    8 processes: 4 batches, each shared by 2 processes
    layout = lay_out(mesh)                                  which batch this process reads, on which device
    parallelise(model, mesh)

`replicate` copies of the model are each sharded over `shard` processes (FSDP2; more than one copy: HSDP), and of all
processes `context` neighbours work on one sample's tokens (Ulysses). Master weights, gradients and their sums are
float32. Attention and feed-forward layers compute in bfloat16; the time embedding, modulation tables, norms and rotary
tables are float32, under autocast and under FSDP.
Every process computes the loss of its batch; gradients are the mean over all processes, which is right for all of
this, see `models/parallel.py`. A stage computes under autocast, as on one process.

Every process must make the model with the same weights: `parallelise` cuts them, and sends nothing. Of a model on the
meta device it cuts the shapes and makes room for this process's shards, which `loading.py` fills.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Literal, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts, noop_context_fn

from opensama.models.parallel import JointSequence, blocks
from opensama.runtime import own_device, pick_device, quiet_loading, world_size
from opensama.training.config import MeshSettings
from opensama.values import UserError


class _Layout(NamedTuple):
    """Where this process stands. `weights` [replicate? shard] and `context` are None where nothing is shared."""

    device: torch.device
    weights: DeviceMesh | None
    context: DeviceMesh | None
    data_rank: int
    data_world: int


_M = TypeVar("_M", bound=nn.Module)
ComputeType = Literal["bfloat16", "float32"]


def parallelise(model: _M, config: MeshSettings, compute: ComputeType = "bfloat16") -> _M:
    """The same model, on this process's device and sharing its work with the others'; shards compute in `compute`."""
    layout = lay_out(config)
    empty = any(p.is_meta for p in model.parameters())
    if not empty:
        nn.Module.to(model, layout.device)  # ModelMixin's own warns of its dtype
    if layout.context is not None and isinstance(model, JointSequence):
        share_sequence(model, layout.context)
    if config.checkpointing != "none" and hasattr(model, "enable_gradient_checkpointing"):
        recompute(model, selective=config.checkpointing == "selective", compiled=config.compile)
    if config.compile:
        for block in blocks(model):
            block.compile()  # the second length makes lengths dynamic: a few shapes are compiled, not one a bucket
    if layout.weights is not None:
        shard_model(model, layout.weights, compute, whole=config.compile)
    if empty:
        make_room(model, layout.device)
    return model


def make_room(model: nn.Module, device: torch.device) -> None:
    """Memory for the parameters of a model on the meta device, not filled; its buffers keep their numbers."""
    kept = {name: buffer for name, buffer in model.named_buffers() if not buffer.is_meta}
    nn.Module.to_empty(model, device=device)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name in kept:
                buffer.copy_(kept[name])


def lay_out(mesh: MeshSettings) -> _Layout:
    """Joins the processes that torchrun started and lays them out. UserError if their number is not the mesh's."""
    return _lay_out(mesh.replicate, mesh.shard, mesh.context)


@lru_cache(maxsize=4)
def _lay_out(copies: int, shards: int | None, context: int) -> _Layout:
    join_processes()
    world, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    cut = shards or max(1, world // copies)
    if min(copies, cut, context) < 1 or copies * cut != world:
        raise UserError(
            f"The mesh of {copies} x {shards or 'any'} processes (replicate x shard) does not fit the {world} "
            f"that run: start {copies * cut} (torchrun --nproc-per-node {copies * cut}), or set mesh.replicate and "
            f"mesh.shard."
        )
    if world % context:
        raise UserError(
            f"mesh.context={context}: so many processes are to share a sample, but {world} do not divide by {context}: "
            f"start a multiple of it (torchrun --nproc-per-node {context}), or set mesh.context=1."
        )
    device = pick_device(f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() and world > 1 else None)
    if world == 1:
        return _Layout(device, None, None, 0, 1)
    whole = init_device_mesh(device.type, (copies, cut), mesh_dim_names=("replicate", "shard"))
    shared = None
    if context > 1:
        names = ("data", "ring", "ulysses")
        shared = init_device_mesh(device.type, (world // context, 1, context), mesh_dim_names=names)["ring", "ulysses"]
    return _Layout(device, whole if copies > 1 else whole["shard"], shared, rank // context, world // context)


def join_processes() -> None:
    """Joins the processes of torchrun, if it started this one and it has not joined yet."""
    if dist.is_initialized() or world_size() == 1:
        return
    own_device()
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")


def share_sequence(model: ModelMixin, mesh: DeviceMesh) -> None:
    """Context parallelism over the joint sequence, semantic tokens included, of any length."""
    heads, parts = model.config["num_attention_heads"], mesh["ulysses"].size()
    if heads % parts:
        raise UserError(f"{parts} processes cannot share {heads} attention heads: choose a context that divides them.")
    config = ContextParallelConfig(ulysses_degree=parts, ulysses_anything=True, mesh=mesh)
    with quiet_loading():
        model.enable_parallelism(config=config)


def share_tensors(make: Callable[[], dict[str, Tensor]], group: dist.ProcessGroup) -> dict[str, Tensor]:
    """What all processes of a group make together, on the CPU: tensors by names, each of them made by one process.

    An error comes out where it happened; the others then raise one, too, rather than wait. From the main thread only.
    """
    own: dict[str, Tensor] | None = None
    failed: Exception | None = None
    try:
        own = {name: x.cpu().clone() for name, x in make().items()}  # a view would bring all that it is a view of
    except Exception as error:
        failed = error
    parts: list[dict[str, Tensor] | None] = [None] * group.size()
    dist.all_gather_object(parts, own, group)
    if failed is not None:
        raise failed
    out: dict[str, Tensor] = {}
    for part in parts:
        if part is None:
            raise UserError("Another process of those that share a batch could not make its part: see what it says.")
        out |= part
    return out


def recompute(model: ModelMixin, *, selective: bool, compiled: bool) -> None:
    """Activations of blocks are computed again in the backward pass: all, or all but matrix products and attention.

    A compiled block already keeps its products and recomputes the rest, so `selective` is then left to the compiler.
    """
    if selective and compiled:
        return
    contexts = partial(create_selective_checkpoint_contexts, _KEPT) if selective else noop_context_fn
    model.enable_gradient_checkpointing(partial(checkpoint, use_reentrant=False, context_fn=contexts))


def shard_model(model: nn.Module, mesh: DeviceMesh, compute: str, whole: bool = False) -> None:
    """FSDP2: of each block attention and feed-forward layers are units that are gathered in bfloat16.

    What is small stays float32: the conditions' embedder, modulation tables and norms. Compiled blocks want to be
    `whole`, one unit without hooks inside; that is gathered in float32 and left to autocast.
    """
    float32 = MixedPrecisionPolicy(cast_forward_inputs=False)
    half = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    embedder = getattr(model, "condition_embedder", None)
    if embedder is not None:
        fully_shard(embedder, mesh=mesh, mp_policy=float32)
    for block in blocks(model):
        if compute == "bfloat16" and not whole:
            for child in block.children():
                if is_norm(child) or not any(True for _ in child.parameters()):
                    continue
                for norm in filter(is_norm, child.modules()):
                    if any(True for _ in norm.parameters()):
                        fully_shard(norm, mesh=mesh, mp_policy=float32)
                fully_shard(child, mesh=mesh, mp_policy=half)
        fully_shard(block, mesh=mesh, mp_policy=float32)
    fully_shard(model, mesh=mesh, mp_policy=float32)


def is_norm(module: nn.Module) -> bool:
    return "Norm" in type(module).__name__


aten, c10d = torch.ops.aten, torch.ops._c10d_functional
_KEPT = [
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_cudnn_attention.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
    aten._scaled_dot_product_fused_attention_overrideable.default,
    c10d.all_to_all_single.default,
]
