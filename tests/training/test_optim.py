"""Muon on processors without bfloat16 units, and the choice of number type that goes with it."""

import os
import subprocess
import sys

import pytest
import torch

from opensama import runtime
from opensama.training.optim import Float32Muon, make_optimizers


def gradients(shape: tuple[int, int], steps: int) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=g) for _ in range(steps)]


def walk(kind: type[torch.optim.Muon], shape: tuple[int, int], steps: int = 4) -> torch.Tensor:
    weight = torch.nn.Parameter(torch.zeros(shape))
    optimizer = kind([weight], lr=0.1, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for gradient in gradients(shape, steps):
        weight.grad = gradient
        optimizer.step()
    return weight.detach()


@pytest.mark.parametrize("shape", [(24, 24), (48, 16), (16, 48)])
def test_muon_in_float32_walks_where_torchs_own_does(shape):
    theirs, ours = walk(torch.optim.Muon, shape), walk(Float32Muon, shape)
    assert (ours - theirs).norm() / theirs.norm() < 0.02  # what bfloat16 rounds away in five iterations
    assert (ours - theirs).norm() > 0


def test_muon_in_float32_makes_a_step_of_equal_singular_values():
    step = walk(Float32Muon, (48, 16), steps=1)
    values = torch.linalg.svdvals(step) / (0.2 * 0.1 * 48**0.5)
    assert values.min() > 0.6
    assert values.max() < 1.3
    exact = gradients((48, 16), 1)[0]
    left, _, right = torch.linalg.svd(exact, full_matrices=False)
    assert torch.nn.functional.cosine_similarity(-step.flatten(), (left @ right).flatten(), dim=0) > 0.97


def test_a_run_goes_on_with_either_muon():
    first, second = (torch.nn.Parameter(torch.zeros(8, 8)) for _ in range(2))
    theirs = torch.optim.Muon([first], lr=0.1)
    first.grad = gradients((8, 8), 1)[0]
    theirs.step()
    ours = Float32Muon([second], lr=0.1)
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours.state[second]["momentum_buffer"], theirs.state[first]["momentum_buffer"])


@pytest.mark.parametrize(("rows", "at_once"), [(10, None), (10**5, False)])
def test_many_weights_are_not_stepped_at_once(rows, at_once):
    """`foreach` holds a copy of a moment of all weights; no plan of a run's memory has it."""
    weights = {"big": torch.nn.Parameter(torch.empty(rows, 1001, device="meta"))}
    (adam,) = make_optimizers(weights, lr=1.0, muon=0.0, betas=(0.9, 0.95), weight_decay=0.0)
    assert adam.defaults["foreach"] is at_once


def test_the_optimizer_and_autocast_follow_what_the_processor_does_fast():
    model = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList([torch.nn.Linear(4, 4)])})
    made = make_optimizers(dict(model.named_parameters()), lr=1.0, muon=1.0, betas=(0.9, 0.95), weight_decay=0.0)
    fast = runtime.computes_bfloat16(torch.device("cpu"))
    assert isinstance(made[1], Float32Muon) is not fast
    with runtime.autocast(torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == (torch.bfloat16 if fast else torch.float32)
    assert runtime.compute_type("auto", torch.device("cpu")) == ("bfloat16" if fast else "float32")
    assert runtime.compute_type("bfloat16", torch.device("cpu")) == "bfloat16"
    assert runtime.computes_bfloat16(torch.device("cuda"))


def test_a_processor_without_units_for_bfloat16_computes_in_float32():
    code = "import torch; from opensama import runtime; print(runtime.computes_bfloat16(torch.device('cpu')))"
    plain = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    said = subprocess.run([sys.executable, "-c", code], env=plain, capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["False"]
