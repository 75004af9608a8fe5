"""The Bernini-R transformer against the authors' released code, by numbers it computed."""

from __future__ import annotations

import json
from inspect import signature
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from opensama.models.bernini import BerniniTransformer3DModel, source_ids
from opensama.models.convert import convert_released, convert_to_file, load_released
from opensama.models.families import find_family
from opensama.models.rotary import grid_rotary, joined_rotary

GOLDEN = Path(__file__).parents[1] / "golden" / "bernini"
CONFIG = json.loads((GOLDEN / "config.json").read_text())
SIZES = {key: CONFIG[key] for key in signature(BerniniTransformer3DModel.__init__).parameters if key in CONFIG}
NUMBERS = load_file(GOLDEN / "expected.safetensors")
TOLERANCE = 1e-5
REFERENCES = [NUMBERS["reference_0"], NUMBERS["reference_1"]]
MANY = [NUMBERS["source"], *(NUMBERS[f"many_{i}"] for i in range(6))]
STREAMS = {
    "fwd_text_velocity": [],
    "fwd_v_velocity": NUMBERS["source"],  # one alone needs no list
    "fwd_i_velocity": REFERENCES,
    "fwd_vi_velocity": [NUMBERS["source"], *REFERENCES],
    "fwd_vv_velocity": [NUMBERS["source"], NUMBERS["source_2"]],
    "fwd_many_velocity": MANY,
}


def golden_expert(file: str = "checkpoint.safetensors") -> BerniniTransformer3DModel:
    model = load_released(GOLDEN / file, "bernini", SIZES)
    assert isinstance(model, BerniniTransformer3DModel)
    return model


def relative(found: Tensor, name: str) -> float:
    return float((found - NUMBERS[name]).norm() / NUMBERS[name].norm())


@torch.no_grad()
def golden_errors(model: BerniniTransformer3DModel, streams: dict = STREAMS) -> dict[str, float]:
    """Relative L2 error of every forward."""
    asked = NUMBERS["noise"], NUMBERS["timestep"], NUMBERS["context"]
    return {name: relative(model(*asked, given).sample, name) for name, given in streams.items()}


def forward_errors() -> dict[str, float]:
    low = golden_errors(golden_expert("checkpoint_2.safetensors"), {"fwd_low_v_velocity": NUMBERS["source"]})
    return golden_errors(golden_expert()) | low


def test_golden():
    errors = forward_errors()
    assert max(errors.values()) <= TOLERANCE, errors


def test_golden_after_save_and_load_and_a_round_trip(tmp_path):
    golden_expert().save_pretrained(tmp_path / "ours")
    errors = golden_errors(BerniniTransformer3DModel.from_pretrained(tmp_path / "ours").eval())
    assert max(errors.values()) <= TOLERANCE, errors
    released = convert_to_file(tmp_path / "ours", tmp_path / "released.safetensors")
    first, again = load_file(GOLDEN / "checkpoint.safetensors"), load_file(released)
    assert first.keys() == again.keys()
    assert all(torch.equal(x, again[name]) for name, x in first.items())
    back = convert_released(released, tmp_path / "again", "bernini", SIZES)
    errors = golden_errors(BerniniTransformer3DModel.from_pretrained(back).eval())
    assert max(errors.values()) <= TOLERANCE, errors


def test_golden_rotary():
    grids = [(3, 2, 3), (1, 2, 2), (1, 3, 2), (3, 2, 3)]  # source, two references, target
    parts = [
        grid_rotary(24, grid, (0, 0, 0), torch.device("cpu"), source_id)
        for grid, source_id in zip(grids, (1, 2, 3, 0), strict=True)
    ]
    cos, sin = (side[0, :, 0, ::2].double() for side in joined_rotary(*parts))  # a number of a pair is as the other
    assert max(relative(cos, "rotary_cos"), relative(sin, "rotary_sin")) <= TOLERANCE


def test_source_ids_are_spread_where_more_were_never_trained():
    assert source_ids(0) == []
    assert source_ids(5) == [1, 2, 3, 4, 5]
    assert source_ids(7) == pytest.approx(NUMBERS["many_ids"].tolist())


def test_a_training_batch_is_a_call():
    """The family's condition: the source clean before the noisy target, or no source at all; everything learns."""
    model, family = golden_expert(), find_family("bernini")
    batch = {"noisy": NUMBERS["noise"], "sigma": NUMBERS["timestep"] / 1000, "text": NUMBERS["context"]}
    for name, more in (("fwd_text_velocity", {}), ("fwd_v_velocity", {"source": NUMBERS["source"]})):
        sample = model(**family.condition(batch | more)).sample
        assert relative(sample.detach(), name) <= TOLERANCE
    sample.square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []
