"""Context parallelism: processes that share one sequence give what one gives alone, and the same mean gradients."""

from __future__ import annotations

import datetime
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from opensama.models.bernini import BerniniTransformer3DModel
from opensama.models.icve import IcveTransformer3DModel
from opensama.models.parallel import share_lengths
from opensama.models.sama import SamaTransformer3DModel
from tests.models.sizes import ICVE_SIZES
from tests.models.sizes import SIZES as SMALLEST
from tests.ranks import in_ranks

SIZES = SMALLEST | {"semantic_tokens_per_anchor": 17}


def inputs(anchors: int, source: bool, per_token: bool) -> tuple[Tensor | None, ...]:
    """Target of 3 x 2 x 4 tokens, source of 2 x 2 x 4, and 17 semantic ones an anchor."""
    g = torch.Generator().manual_seed(1)
    target = torch.randn(1, 4, 3, 4, 8, generator=g)
    clip = torch.randn(1, 4, 2, 4, 8, generator=g) if source else None
    semantic = torch.randn(1, 17 * anchors, 12, generator=g)
    n = 24 + 16 * source + 17 * anchors
    timestep = torch.rand(1, n, generator=g) * 1000 if per_token else torch.tensor([700.0])
    return target, timestep, torch.randn(1, 5, 16, generator=g), clip, semantic


UNEVEN = [(1, True, False), (1, True, True), (1, False, False)]  # 57, 57 and 41 tokens
EVEN = [(2, True, False), (2, False, True)]  # 74 and 58


def make_model(gate: float | None = None) -> SamaTransformer3DModel:
    torch.manual_seed(0)
    model = SamaTransformer3DModel(**SIZES, semantic_gate=gate is not None)
    if gate is not None:
        model.semantic_gates.weight.data.fill_(gate)
    return model


@torch.no_grad()
def answer(model: SamaTransformer3DModel, case: tuple[int, bool, bool]) -> list[Tensor]:
    return list(model(*inputs(*case), return_dict=False))


def gradients(model: SamaTransformer3DModel, case: tuple[int, bool, bool]) -> dict[str, Tensor]:
    model.zero_grad()
    sample, semantic = model(*inputs(*case), return_dict=False)
    (sample.square().mean() + semantic.abs().mean()).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def make_bernini() -> BerniniTransformer3DModel:
    torch.manual_seed(0)
    known = inspect.signature(BerniniTransformer3DModel.__init__).parameters
    return BerniniTransformer3DModel(**{name: size for name, size in SMALLEST.items() if name in known})


def bernini_answer(model: BerniniTransformer3DModel) -> Tensor:
    """A target of 3 x 2 x 4 tokens after a video of 2 x 2 x 4 and a picture of 1 x 1 x 3: 43."""
    target, timestep, text, clip, _ = inputs(0, True, False)
    picture = torch.randn(1, 4, 1, 2, 6, generator=torch.Generator().manual_seed(2))
    return model(target, timestep, text, [clip, picture]).sample


def bernini_gradients(model: BerniniTransformer3DModel) -> dict[str, Tensor]:
    bernini_answer(model).square().mean().backward()
    return {name: p.grad for name, p in model.named_parameters()}


def begin(rank: int, world: int, rendezvous: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(rendezvous, world)
    dist.init_process_group("cpu:gloo", store=store, rank=rank, world_size=world, timeout=datetime.timedelta(minutes=3))


def finish(out: str, rank: int, answers: Any, grads: list[dict[str, Tensor]]) -> None:
    for grad in (g for of_case in grads for g in of_case.values()):
        dist.all_reduce(grad)
        grad /= dist.get_world_size()
    torch.save({"answers": answers, "gradients": grads}, f"{out}/{rank}.pt")
    dist.destroy_process_group()


def one_of_two(rank: int, rendezvous: str, out: str) -> None:
    begin(rank, 2, rendezvous)
    any_length, even = make_model(), make_model()
    any_length.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2, ulysses_anything=True))
    even.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
    bernini = make_bernini()
    bernini.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2, ulysses_anything=True))
    gated = make_model(0.5)
    gated.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2, ulysses_anything=True))
    got = [answer(any_length, case) for case in UNEVEN] + [answer(even, case) for case in EVEN]
    got += [answer(gated, UNEVEN[0]), [bernini_answer(bernini).detach()]]
    of_sama = [gradients(even, EVEN[0]), gradients(any_length, UNEVEN[1]), gradients(gated, UNEVEN[0])]
    finish(out, rank, got, [*of_sama, bernini_gradients(bernini)])


def run(worker: Callable[..., None], world: int, folder: Path) -> list[dict[str, Any]]:
    in_ranks(worker, (str(folder / "store"), str(folder)), world)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]


needs_gloo = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo")


@needs_gloo
def test_two_ranks_equal_one(tmp_path: Path):
    ranks = run(one_of_two, 2, tmp_path)
    model, gated, bernini = make_model(), make_model(0.5), make_bernini()
    answers = [answer(model, case) for case in UNEVEN + EVEN]
    answers += [answer(gated, UNEVEN[0]), [bernini_answer(bernini).detach()]]
    grads = [gradients(model, EVEN[0]), gradients(model, UNEVEN[1]), gradients(gated, UNEVEN[0])]
    grads.append(bernini_gradients(bernini))
    for together in ranks:
        torch.testing.assert_close(together["answers"], answers, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(together["gradients"], grads, rtol=1e-4, atol=1e-6)


def icve_inputs(rows: int, text: int, padded: int, source: bool) -> dict[str, Tensor | None]:
    """An edit and a source of 3 x rows x 4 tokens each, and text of which some tokens are padding."""
    g = torch.Generator().manual_seed(1)
    return {
        "hidden_states": torch.randn(2, 4, 3, 2 * rows, 8, generator=g),
        "timestep": torch.tensor([700.3, 20.0]),
        "encoder_hidden_states": torch.randn(2, text, 16, generator=g),
        "source_hidden_states": torch.randn(2, 4, 3, 2 * rows, 8, generator=g) if source else None,
        "encoder_attention_mask": torch.arange(text).expand(2, -1) < torch.tensor([[text], [text - padded]]),
        "pooled_projections": torch.randn(2, 10, generator=g),
    }


# For 3 processes: 2 heads, 48, 72 or 24 video tokens and 7, 2 or 8 of text, so that heads and joint tokens are uneven.
ICVE = [(2, 7, 3, True), (2, 2, 0, True), (3, 8, 1, True), (2, 7, 3, False)]


def make_icve() -> IcveTransformer3DModel:
    torch.manual_seed(0)
    return IcveTransformer3DModel(**ICVE_SIZES)


@torch.no_grad()
def icve_answers(model: IcveTransformer3DModel) -> list[Tensor]:
    return [model(**icve_inputs(*case), return_dict=False)[0] for case in ICVE]


def icve_gradients(model: IcveTransformer3DModel, checkpointing: bool) -> dict[str, Tensor]:
    model.zero_grad()
    if checkpointing:
        model.enable_gradient_checkpointing()
    model(**icve_inputs(*ICVE[0])).sample.square().mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def one_of_three(rank: int, rendezvous: str, out: str) -> None:
    begin(rank, 3, rendezvous)
    model = make_icve()
    model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=3, ulysses_anything=True))
    answers = icve_answers(model)
    finish(out, rank, answers, [icve_gradients(model, False), icve_gradients(model, True)])


@needs_gloo
def test_three_ranks_of_icve_equal_one(tmp_path: Path):
    ranks = run(one_of_three, 3, tmp_path)
    model = make_icve()
    answers, grads = icve_answers(model), icve_gradients(model, False)
    for together in ranks:
        torch.testing.assert_close(together["answers"], answers, rtol=1e-5, atol=1e-5)
        for each in together["gradients"]:
            torch.testing.assert_close(each, grads, rtol=1e-4, atol=1e-6)


@given(st.integers(0, 99), st.integers(0, 99), st.integers(1, 9))
def test_shares_of_two_parts_are_as_even_as_those_of_one(n: int, m: int, parts: int):
    first, then = share_lengths(n, parts), share_lengths(m, parts, after=n)
    assert (sum(first), sum(then)) == (n, m)
    assert [a + b for a, b in zip(first, then, strict=True)] == share_lengths(n + m, parts)
