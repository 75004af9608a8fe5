"""The SAMA transformer against the authors' released code, by numbers it computed, and the shapes it accepts."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from opensama.flow import guide
from opensama.models.convert import convert_released, convert_to_file, load_released
from opensama.models.sama import SamaTransformer3DModel
from tests.ranks import answer_of

GOLDEN = Path(__file__).parents[1] / "golden" / "sama"
CONFIG = json.loads((GOLDEN / "config.json").read_text())
TOLERANCE = 1e-5


def golden_model() -> SamaTransformer3DModel:
    model = load_released(GOLDEN / "checkpoint.safetensors", config=GOLDEN / "config.json")
    assert isinstance(model, SamaTransformer3DModel)
    return model


@torch.no_grad()
def golden_errors(model: SamaTransformer3DModel) -> dict[str, float]:
    """Relative L2 error of the five outputs and the two sampled states."""
    data = load_file(GOLDEN / "expected.safetensors")
    noise, source, semantic, context, t = (
        data[k] for k in ("noise", "source", "semantic_noise", "context", "timestep")
    )
    both = model(noise, t, context, source, semantic)
    no_semantic = model(noise, t, context, source)
    no_source = model(noise, t, context, None, semantic)
    assert no_semantic.semantic_sample is None
    got: dict[str, Tensor] = {
        "fwd_velocity": both.sample,
        "fwd_semantic": both.semantic_sample,
        "fwd_nosem_velocity": no_semantic.sample,
        "fwd_nosrc_velocity": no_source.sample,
        "fwd_nosrc_semantic": no_source.semantic_sample,
    }
    x, s = noise, semantic
    sigmas = [*data["sigmas"].tolist(), 0.0]
    for i, t in enumerate(data["timesteps"]):
        positive = model(x, t[None], context, source, s, return_dict=False)
        negative = model(x, t[None], data["context_negative"], source, s, return_dict=False)
        v, u = (guide(p, n, CONFIG["cfg_scale"]) for p, n in zip(positive, negative, strict=True))
        x, s = x + v * (sigmas[i + 1] - sigmas[i]), s + u * (sigmas[i + 1] - sigmas[i])
    got |= {"sampled_latents": x, "sampled_semantic": s}
    return {name: float((y - data[name]).norm() / data[name].norm()) for name, y in got.items()}


def golden_errors_of(folder: Path) -> dict[str, float]:
    return golden_errors(SamaTransformer3DModel.from_pretrained(folder).eval())


def test_golden():
    errors = golden_errors(golden_model())
    assert max(errors.values()) <= TOLERANCE, errors


def test_golden_after_save_and_load_in_a_new_process(tmp_path):
    golden_model().save_pretrained(tmp_path)
    errors = answer_of(golden_errors_of, tmp_path)
    assert max(errors.values()) <= TOLERANCE, errors


def test_golden_after_a_round_trip(tmp_path):
    ours = convert_released(GOLDEN / "checkpoint.safetensors", tmp_path / "ours", "sama", GOLDEN / "config.json")
    released = convert_to_file(ours, tmp_path / "released.safetensors")
    again = convert_released(released, tmp_path / "again", "sama", GOLDEN / "config.json")
    errors = golden_errors(SamaTransformer3DModel.from_pretrained(again).eval())
    assert max(errors.values()) <= TOLERANCE, errors
