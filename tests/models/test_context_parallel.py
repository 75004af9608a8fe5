"""Context parallelism: two processes that share one sequence give what one gives alone, and the same mean gradients."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig
from torch import Tensor

from opensama.models.sama import SamaTransformer3DModel
from tests.models.sizes import SIZES as SMALLEST

SIZES = SMALLEST | {"semantic_tokens_per_anchor": 17}


def inputs(anchors: int, source: bool, per_token: bool) -> tuple[Tensor | None, ...]:
    """Target of 3 x 2 x 4 tokens, source of 2 x 2 x 4, and 17 semantic ones an anchor."""
    g = torch.Generator().manual_seed(1)
    target = torch.randn(1, 4, 3, 4, 8, generator=g)
    given = torch.randn(1, 4, 2, 4, 8, generator=g) if source else None
    semantic = torch.randn(1, 17 * anchors, 12, generator=g)
    n = 24 + 16 * source + 17 * anchors
    timestep = torch.rand(1, n, generator=g) * 1000 if per_token else torch.tensor([700.0])
    return target, timestep, torch.randn(1, 5, 16, generator=g), given, semantic


UNEVEN = [(1, True, False), (1, True, True), (1, False, False)]  # 57, 57 and 41 tokens
EVEN = [(2, True, False), (2, False, True)]  # 74 and 58


def make_model() -> SamaTransformer3DModel:
    torch.manual_seed(0)
    return SamaTransformer3DModel(**SIZES)


@torch.no_grad()
def answer(model: SamaTransformer3DModel, case: tuple[int, bool, bool]) -> list[Tensor]:
    return list(model(*inputs(*case), return_dict=False))


def gradients(model: SamaTransformer3DModel, case: tuple[int, bool, bool]) -> dict[str, Tensor]:
    model.zero_grad()
    sample, semantic = model(*inputs(*case), return_dict=False)
    (sample.square().mean() + semantic.abs().mean()).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def one_of_two(rank: int, rendezvous: str, out: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(rendezvous, 2)
    dist.init_process_group("cpu:gloo", store=store, rank=rank, world_size=2, timeout=datetime.timedelta(minutes=3))
    any_length, even = make_model(), make_model()
    any_length.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2, ulysses_anything=True))
    even.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
    got = [answer(any_length, case) for case in UNEVEN] + [answer(even, case) for case in EVEN]
    grads = [gradients(even, EVEN[0]), gradients(any_length, UNEVEN[1])]
    for grad in (g for of_case in grads for g in of_case.values()):
        dist.all_reduce(grad)
        grad /= 2
    torch.save({"answers": got, "gradients": grads}, f"{out}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo")
def test_two_ranks_equal_one(tmp_path: Path):
    torch.multiprocessing.spawn(one_of_two, (str(tmp_path / "store"), str(tmp_path)), nprocs=2)
    model = make_model()
    answers, grads = (
        [answer(model, case) for case in UNEVEN + EVEN],
        [gradients(model, EVEN[0]), gradients(model, UNEVEN[1])],
    )
    for rank in range(2):
        together = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(together["answers"], answers, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(together["gradients"], grads, rtol=1e-4, atol=1e-6)
