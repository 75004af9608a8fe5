"""The ICVE transformer against the authors' released code, by numbers it computed; its base; what its call accepts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FirstBlockCacheConfig, HunyuanVideoTransformer3DModel
from peft import LoraConfig
from safetensors.torch import load_file
from torch import Tensor

from opensama.flow import guide
from opensama.models.convert import convert_released, convert_to_file, load_released
from opensama.models.icve import IcveTransformer3DModel
from opensama.values import UserError
from tests.models.sizes import ICVE_SIZES

GOLDEN = Path(__file__).parents[1] / "golden" / "icve"
CONFIG = json.loads((GOLDEN / "config.json").read_text())
TOLERANCE = 1e-5


def golden_model() -> IcveTransformer3DModel:
    model = load_released(GOLDEN / "checkpoint.safetensors", "icve", GOLDEN / "config.json")
    assert isinstance(model, IcveTransformer3DModel)
    return model


@torch.no_grad()
def golden_errors(model: IcveTransformer3DModel) -> dict[str, float]:
    """Relative L2 error of the velocity and of the sampled latents."""
    data = load_file(GOLDEN / "expected.safetensors")

    def ask(x: Tensor, t: Tensor, which: str = "") -> Tensor:
        return model(
            x, t, data[f"context{which}"], data["source"],
            encoder_attention_mask=data["context_mask"], pooled_projections=data[f"pooled{which}"],
            guidance=data["guidance"], return_dict=False,
        )[0]  # fmt: skip

    got = {"fwd_velocity": ask(data["noise"], data["timestep"])}
    x = data["noise"]
    for i, t in enumerate(data["timesteps"]):
        v = guide(ask(x, t[None]), ask(x, t[None], "_negative"), CONFIG["cfg_scale"])
        x = x + v * (data["sigmas"][i + 1] - data["sigmas"][i])
    got["sampled_latents"] = x
    return {name: float((y - data[name]).norm() / data[name].norm()) for name, y in got.items()}


def test_golden():
    errors = golden_errors(golden_model())
    assert max(errors.values()) <= TOLERANCE, errors


def test_golden_after_a_round_trip(tmp_path):
    ours = convert_released(GOLDEN / "checkpoint.safetensors", tmp_path / "ours", "icve", GOLDEN / "config.json")
    released = convert_to_file(ours, tmp_path / "released.safetensors")
    before, after = load_file(GOLDEN / "checkpoint.safetensors"), load_file(released)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    again = IcveTransformer3DModel.from_pretrained(ours).eval()
    errors = golden_errors(again)
    assert max(errors.values()) <= TOLERANCE, errors


def make_model(**changes: Any) -> IcveTransformer3DModel:
    torch.manual_seed(0)
    return IcveTransformer3DModel(**ICVE_SIZES | changes)


def inputs(b: int = 2, source_frames: int = 3) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(1)
    return {
        "hidden_states": torch.randn(b, 4, 3, 4, 8, generator=g),
        "timestep": torch.tensor([700.3, 20.0][:b]),
        "encoder_hidden_states": torch.randn(b, 6, 16, generator=g),
        "source_hidden_states": torch.randn(b, 4, source_frames, 4, 8, generator=g),
        "encoder_attention_mask": torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]][:b]),
        "pooled_projections": torch.randn(b, 10, generator=g),
        "guidance": torch.full((b,), 1000.0),
    }


@torch.no_grad()
def answer(model: IcveTransformer3DModel, **changes: Any) -> Tensor:
    return model(**inputs() | changes, return_dict=False)[0]


def close(a: Any, b: Any, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_without_a_source_it_is_hunyuan_video(tmp_path):
    """Plain text-to-video weights load strictly, from their own folder, and answer as they did."""
    torch.manual_seed(0)
    base = HunyuanVideoTransformer3DModel(**ICVE_SIZES).eval()
    base.save_pretrained(tmp_path)
    model, told = IcveTransformer3DModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(told.values())
    given = inputs() | {"source_hidden_states": None}
    with torch.no_grad():
        wanted = base(**{key: x for key, x in given.items() if x is not None}, return_dict=False)[0]
    close(answer(model, source_hidden_states=None), wanted)
    assert model.config.image_condition_type == "token_replace"


def test_padding_does_not_count():
    model, given = make_model(), inputs(1)
    short = {"encoder_hidden_states": given["encoder_hidden_states"][:, :4], "encoder_attention_mask": None}
    with torch.no_grad():
        padded = model(**given, return_dict=False)[0]
        cut = model(**given | short, return_dict=False)[0]
        given["encoder_hidden_states"][:, 4:] = 7.0
        other = model(**given, return_dict=False)[0]
    close(padded, cut)
    close(padded, other)


def test_every_input_counts():
    model = make_model()
    plain = answer(model)
    close(answer(model, guidance=None), plain)
    for name in ("source_hidden_states", "encoder_hidden_states", "pooled_projections", "guidance", "timestep"):
        assert (answer(model, **{name: inputs()[name] * 0.5}) - plain).abs().max() > 1e-3, name
    for frames in (1, 5):
        other = answer(model, source_hidden_states=inputs(source_frames=frames)["source_hidden_states"])
        assert other.shape == plain.shape
        assert 1e-3 < (other - plain).abs().max() < 10 * plain.abs().max(), frames


def test_a_source_as_noisy_as_the_edit():
    """What `source_time` does: at time 0 both are the same model, elsewhere not."""
    clean, same = make_model(), make_model(source_time="same")
    assert (answer(clean) - answer(same)).abs().max() > 1e-3
    close(answer(clean, timestep=torch.zeros(2)), answer(same, timestep=torch.zeros(2)))


def test_a_gate_may_keep_the_source():
    model = make_model(source_gate=True)
    given = inputs()
    with torch.no_grad():
        model.proj_out.weight.zero_()
        model.proj_out.bias.copy_(torch.full((32,), 20.0))  # own and keep alike: keep all of the source
    data = given["hidden_states"] - (given["timestep"] / 1000).view(-1, 1, 1, 1, 1) * answer(model)
    close(data, given["source_hidden_states"], 1e-4)
    assert model.config.out_channels == 4


def loss(model: IcveTransformer3DModel) -> Tensor:
    return model(**inputs()).sample.square().mean()


def test_every_parameter_learns_in_bfloat16():
    model = make_model()
    with torch.autocast("cpu", torch.bfloat16):
        loss(model).backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]
    assert [n for n in silent if not n.endswith("to_k.bias")] == []  # the refiner's: what all keys share is no choice


def test_checkpointing_gives_the_same_gradients():
    model, other = make_model(), make_model()
    other.enable_gradient_checkpointing()
    for m in (model, other):
        loss(m).backward()
    close([p.grad for p in other.parameters()], [p.grad for p in model.parameters()])


def test_bfloat16_is_close_to_float32():
    model = make_model()
    exact = answer(model)
    model.bfloat16()
    halves = {k: v.bfloat16() for k, v in inputs().items() if k not in ("timestep", "guidance")}
    halves["encoder_attention_mask"] = inputs()["encoder_attention_mask"]
    rough = answer(model, **halves)
    assert rough.dtype == torch.bfloat16
    assert (rough - exact).norm() < 0.05 * exact.norm()


def test_the_processor_computes_what_diffusers_computes():
    """With a backend asked for, attention is diffusers' own."""
    model = make_model()
    ours = answer(model)
    model.set_attention_backend("native")
    close(answer(model), ours)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_compiled_blocks_answer_alike():
    model = make_model()
    plain = answer(model)
    model.compile_repeated_blocks(backend="eager")
    close(answer(model), plain)


def test_lora_and_a_step_cache():
    model = make_model()
    plain = answer(model)
    model.add_adapter(LoraConfig(r=2, target_modules=["to_q", "add_q_proj"], init_lora_weights=False))
    assert (answer(model) - plain).abs().max() > 1e-4
    model.disable_adapters()
    close(answer(model), plain)
    model = make_model()
    model.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    with model.cache_context("a"):
        close(answer(model), plain)


def test_projections_that_cannot_be_fused_are_said():
    with pytest.raises(UserError, match="No attention of IcveTransformer3DModel can fuse"):
        make_model().fuse_qkv_projections()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_condition_type": "latent_concat"}, "latent_concat"),
        ({"rope_axes_dim": (4, 4, 4)}, "sum to the head's 16"),
        ({"patch_size": (1, 2, 1)}, "as many rows"),
        ({"source_time": "late"}, "zero or same"),
    ],
)
def test_settings_that_make_no_model(changes, message):
    with pytest.raises(ValueError, match=message):
        make_model(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooled_projections": None}, "pooled_projections"),
        ({"timestep": torch.zeros(2, 5)}, "one timestep"),
        ({"hidden_states": torch.zeros(2, 4, 3, 5, 8)}, "do not divide"),
    ],
)
def test_calls_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        answer(make_model(), **changes)
