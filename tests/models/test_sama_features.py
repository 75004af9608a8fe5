"""What the model accepts, and what diffusers adds at tiny size: LoRA, compilation, casting, offloading, caches."""

from __future__ import annotations

import shutil
import weakref
from inspect import signature
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import FirstBlockCacheConfig, MagCacheConfig, SeaCacheConfig
from diffusers.hooks import apply_group_offloading
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from peft import LoraConfig
from torch import Tensor

from opensama.models.bernini import BerniniTransformer3DModel
from opensama.models.convert import load_released
from opensama.models.lora import add_lora
from opensama.models.rotary import axis_rotary
from opensama.models.sama import SamaTransformer3DModel, joint_rotary
from opensama.models.semantic import anchor_frames, anchor_latents, anchor_positions, pool_anchor_tokens
from opensama.models.source_gate import gate
from opensama.values import UserError
from tests.models.sizes import SIZES


def make_model(**changes) -> SamaTransformer3DModel:
    torch.manual_seed(0)
    model = SamaTransformer3DModel(**SIZES | changes)
    if model.token_types is not None:
        torch.nn.init.normal_(model.token_types.weight)
    return model


def inputs(b: int = 2, s: int = 5, source_frames: int = 2) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(1)
    return {
        "hidden_states": torch.randn(b, 4, 3, 4, 8, generator=g),
        "timestep": torch.tensor([700.3, 20.0][:b]),
        "encoder_hidden_states": torch.randn(b, 6, 16, generator=g),
        "source_hidden_states": torch.randn(b, 4, source_frames, 4, 8, generator=g),
        "semantic_hidden_states": torch.randn(b, s, 12, generator=g),
    }


@torch.no_grad()
def answer(model: SamaTransformer3DModel, given: dict[str, Tensor] | None = None) -> tuple[Tensor, Tensor]:
    return model(**given or inputs(), return_dict=False)


def loss(model: SamaTransformer3DModel) -> Tensor:
    out = model(**inputs())
    return out.sample.square().mean() + out.semantic_sample.abs().mean()


def close(a, b, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# What the call accepts


def test_every_parameter_learns_in_bfloat16():
    model = make_model()
    with torch.autocast("cpu", torch.bfloat16):
        loss(model).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or p.grad.abs().sum() == 0] == []


def test_bfloat16_is_close_to_float32():
    model = make_model()
    exact = answer(model)
    with torch.autocast("cpu", torch.bfloat16):
        for rough, fine in zip(answer(model), exact, strict=True):
            assert (rough - fine).norm() < 0.03 * fine.norm()
    for rough, fine in zip(
        answer(model.bfloat16(), {k: v.bfloat16() for k, v in inputs().items()}), exact, strict=True
    ):
        assert rough.dtype == torch.bfloat16
        assert (rough - fine).norm() < 0.05 * fine.norm()


def test_a_time_for_every_token():
    model, given = make_model(), inputs()
    n = 2 * 8 + 5 + 3 * 8
    close(answer(model, given | {"timestep": given["timestep"][:, None].expand(2, n)}), answer(model, given))
    source_at_zero = given["timestep"][:, None].repeat(1, n)
    source_at_zero[:, :16] = 0
    assert not torch.allclose(answer(model, given | {"timestep": source_at_zero})[0], answer(model, given)[0])


def test_released_rounding_rounds_the_timestep():
    exact, rounding = make_model(), make_model(released_rounding=True)
    given = inputs()
    rounded = given | {"timestep": given["timestep"].bfloat16().float()}
    close(answer(rounding, given), answer(exact, rounded))
    assert not torch.equal(answer(rounding, given)[0], answer(exact, given)[0])


def test_source_may_be_absent_and_training_may_follow_inference():
    model, given = make_model(), inputs()
    with torch.inference_mode():  # what this call keeps must not be unfit for gradients
        without = model(**given | {"source_hidden_states": None, "semantic_hidden_states": None})
        model(**given)
    assert without.semantic_sample is None
    assert without.sample.shape == given["hidden_states"].shape
    loss(model).backward()


def test_without_type_embedding_and_semantic_modules():
    model = make_model(type_embedding=False, semantic_dim=None)
    assert not [key for key in model.state_dict() if "semantic" in key or "token_types" in key]
    with pytest.raises(ValueError, match="no semantic modules"):
        answer(model)
    # with neither, source and target are told apart by nothing: exchanging them exchanges nothing but the answer read
    given = inputs(source_frames=3) | {"semantic_hidden_states": None}
    sample, semantic = answer(model, given)
    assert semantic is None
    assert sample.shape == given["hidden_states"].shape


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"semantic_rotary": "spiral"}, "semantic_rotary"),
        ({"source_rotary": "spiral"}, "source_rotary"),
        ({"semantic_tokens_per_anchor": 7}, "square of local tokens"),
        ({"image_dim": 3}, "image embedding"),
    ],
)
def test_wrong_configs_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        make_model(**change)


def test_wrong_shapes_are_refused():
    given = inputs()
    with pytest.raises(ValueError, match="patches"):
        answer(make_model(), given | {"hidden_states": torch.randn(2, 4, 3, 4, 7)})
    with pytest.raises(ValueError, match="no multiple of 5"):
        answer(make_model(), given | {"semantic_hidden_states": torch.randn(2, 6, 12)})


# Positions


@pytest.mark.parametrize("semantic_rotary", ["zero", "identity", "grid"])
def test_only_grid_gives_semantic_tokens_places(semantic_rotary):
    model, given = make_model(semantic_rotary=semantic_rotary), inputs()
    order = torch.tensor([3, 1, 4, 0, 2])
    permuted = given | {"semantic_hidden_states": given["semantic_hidden_states"][:, order]}
    (a, u), (b, v) = answer(model, given), answer(model, permuted)
    exchangeable = torch.allclose(a, b, atol=1e-5) and torch.allclose(u[:, order], v, atol=1e-5)
    assert exchangeable == (semantic_rotary != "grid")


def test_rotary_is_wans_own_on_the_grid():
    model = make_model()
    cos, sin = model.rope(torch.zeros(1, 4, 3, 4, 8))  # diffusers' tables of a video without source
    n = cos.shape[1]
    ours = joint_rotary(model.rotary_layout, (3, 2, 4), 5, (3, 2, 4), torch.device("cpu"))
    for start in (0, n + 5):  # the source's positions, and the target's
        close(ours[0][:, start : start + n], cos, 1e-6)
        close(ours[1][:, start : start + n], sin, 1e-6)


def test_rotary_of_semantic_tokens_and_of_a_shifted_source():
    def table(**changes):
        layout = make_model(**changes).rotary_layout
        return joint_rotary(layout, (1, 2, 2), 5, (3, 2, 4), torch.device("cpu"))

    assert not torch.cat(table(semantic_rotary="zero"))[:, 4:9].any()
    cos, sin = table(semantic_rotary="identity")
    assert (cos[:, 4:9] == 1).all()
    assert not sin[:, 4:9].any()
    shifted, shared = table(source_rotary="shifted")[0], table()[0]
    assert torch.equal(shifted[:, 4:], shared[:, 4:])
    far = joint_rotary(make_model().rotary_layout, (0, 0, 0), 0, (4, 4, 6), torch.device("cpu"))[0].view(4, 4, 6, -1)
    close(shifted[0, :4].view(1, 2, 2, -1), far[3:, 2:4, 4:6], 1e-6)


def test_anchors_change_a_base_by_nothing_at_first_and_learn_to():
    """With a rotary phase and gates, a SAMA of Bernini's weights is Bernini with one video, anchors or none."""
    torch.manual_seed(0)
    known = signature(BerniniTransformer3DModel.__init__).parameters
    bernini = BerniniTransformer3DModel(**{name: size for name, size in SIZES.items() if name in known})
    models = []
    for gated in (True, False):
        torch.manual_seed(1)
        sizes = SIZES | {"semantic_rotary": "zero", "source_rotary": "phase", "semantic_gate": gated}
        model = SamaTransformer3DModel(**sizes)
        model.load_state_dict(model.state_dict() | bernini.state_dict())
        models.append(model)
    given = inputs()
    without = {name: x for name, x in given.items() if name != "semantic_hidden_states"}
    with torch.no_grad():
        alone = bernini(**without).sample
    close(answer(models[0], without)[0], alone, 1e-6)
    close(answer(models[0])[0], alone, 1e-6)
    assert not torch.allclose(answer(models[1])[0], alone, atol=1e-3), "one attention over all is another model"
    loss(models[0]).backward()
    assert (models[0].semantic_gates.weight.grad != 0).all()
    assert models[0].semantic_head.proj.weight.grad.any()
    models[0].semantic_gates.weight.data.fill_(0.5)
    assert not torch.allclose(answer(models[0])[0], alone, atol=1e-3)


def test_anchor_positions():
    where = anchor_positions(5, 8, 16, 2, 17)
    assert where[:, 0].tolist() == [0] * 17 + [4] * 17
    assert where[:16, 1].view(4, 4)[:, 0].tolist() == [0.5, 2.5, 4.5, 6.5]  # centres of two rows each
    assert where[:4, 2].tolist() == [1.5, 5.5, 9.5, 13.5]
    assert where[16].tolist() == [0, 3.5, 7.5]
    every = torch.cartesian_prod(torch.arange(8.0), torch.arange(8.0)).double()
    assert torch.equal(anchor_positions(3, 8, 8, 1, 65)[:64, 1:], every)  # a cell a token
    assert anchor_latents(21, 4) == [0, 7, 13, 20]
    assert anchor_frames(81, 4) == [0, 28, 52, 80]
    assert anchor_frames(1, 4) == [0, 0, 0, 0]
    assert anchor_frames(17, 1) == [0]


def test_pooling_keeps_rows_and_puts_the_global_token_last():
    patches = torch.arange(16.0).view(1, 16, 1)
    pooled = pool_anchor_tokens(patches, torch.tensor([[99.0]]), grid=2)
    assert pooled.flatten().tolist() == [2.5, 4.5, 10.5, 12.5, 99.0]
    assert pool_anchor_tokens(torch.randn(2, 729, 6), torch.randn(2, 6)).shape == (2, 65, 6)
    with pytest.raises(ValueError, match="square"):
        pool_anchor_tokens(torch.randn(1, 17, 6), torch.randn(1, 6))


# What diffusers adds


def test_the_fast_cpu_attention_is_diffusers_own():
    model = make_model()
    fast = answer(model)
    model.set_attn_processor(diffusers.models.transformers.transformer_wan.WanAttnProcessor())
    close(answer(model), fast)
    model = make_model()
    model.set_attention_backend("native")
    close(answer(model), fast)
    model = make_model()
    model.fuse_qkv_projections()
    close(answer(model), fast)


def test_an_attention_backend_is_one_models_own():
    """diffusers makes it every model's default: another model in the process then computes otherwise, or fails."""
    before = _AttentionBackendRegistry.get_active_backend()
    model = make_model()
    model.set_attention_backend("_native_math")
    assert _AttentionBackendRegistry.get_active_backend() == before
    assert model.blocks[0].attn1.processor._attention_backend == "_native_math"
    with pytest.raises(ValueError, match="must be one of"):
        model.set_attention_backend("none of them")
    assert _AttentionBackendRegistry.get_active_backend() == before


def test_fused_projections_and_a_lora_are_refused_either_way():
    lora = LoraConfig(r=2, target_modules=["to_q"])
    model = make_model()
    model.add_adapter(lora)
    with pytest.raises(UserError, match="merge the LoRA first"):
        model.fuse_qkv_projections()
    model = make_model()
    model.fuse_qkv_projections()
    for add in (lambda: model.add_adapter(lora), lambda: add_lora(model, 2, 2, ["to_q"])):
        with pytest.raises(UserError, match="call unfuse_qkv_projections first"):
            add()
    with pytest.raises(UserError, match="call unfuse_qkv_projections first"):
        model.load_lora_adapter({"blocks.0.attn1.to_q.lora_A.weight": torch.zeros(2, 24)}, prefix=None)
    model.unfuse_qkv_projections()
    model.add_adapter(lora)


def test_a_released_single_file_is_read_by_our_loader():
    """diffusers takes it for Wan's and leaves out what SAMA added."""
    golden = Path(__file__).parents[1] / "golden" / "sama"
    file, sizes = golden / "checkpoint.safetensors", golden / "config.json"
    model = SamaTransformer3DModel.from_single_file(str(file), config=str(sizes), torch_dtype=torch.float32)
    expected = load_released(file, "sama", sizes, dtype=torch.float32).state_dict()
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert model.token_types.weight.abs().sum() > 0
    with pytest.raises(UserError, match="download it first"):
        SamaTransformer3DModel.from_single_file("https://huggingface.co/a/b/sama.safetensors")
    with pytest.raises(UserError, match="leave subfolder away"):
        SamaTransformer3DModel.from_single_file(file, subfolder="transformer")


def test_gradient_checkpointing_changes_no_gradient():
    grads = []
    for checkpointing in (False, True):
        model = make_model()
        if checkpointing:
            model.enable_gradient_checkpointing()
        loss(model).backward()
        grads.append({name: p.grad for name, p in model.named_parameters()})
    close(grads[0], grads[1])


def test_lora_is_added_scaled_saved_and_loaded(tmp_path):
    model = make_model()
    plain = answer(model)
    model.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v", "semantic_embedder.fc1"]))
    torch.manual_seed(3)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p)
    tuned = answer(model)
    assert not torch.allclose(tuned[0], plain[0], atol=1e-3)
    close(answer(model, inputs() | {"attention_kwargs": {"scale": 0.0}}), plain)
    model.save_lora_adapter(tmp_path)
    again = make_model()
    again.load_lora_adapter(str(tmp_path), prefix=None, weight_name="pytorch_lora_weights.safetensors")
    close(answer(again), tuned)
    again.fuse_lora()
    close(answer(again), tuned, 1e-4)


def test_lora_under_wans_names():
    """A LoRA of the original Wan layout, as trainers for Wan write it, is read by diffusers' Wan loader."""
    model = make_model()
    plain = answer(model)
    d = 48
    released = {}
    for i in range(2):
        for part in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "cross_attn.q", "cross_attn.k"):
            released[f"diffusion_model.blocks.{i}.{part}.lora_A.weight"] = torch.randn(2, d)
            released[f"diffusion_model.blocks.{i}.{part}.lora_B.weight"] = torch.randn(d, 2)
        for part in ("cross_attn.v", "cross_attn.o"):
            released[f"diffusion_model.blocks.{i}.{part}.lora_A.weight"] = torch.randn(2, d)
            released[f"diffusion_model.blocks.{i}.{part}.lora_B.weight"] = torch.randn(d, 2)
        for part, a, b in (("ffn.0", d, 64), ("ffn.2", 64, d)):
            released[f"diffusion_model.blocks.{i}.{part}.lora_A.weight"] = torch.randn(2, a)
            released[f"diffusion_model.blocks.{i}.{part}.lora_B.weight"] = torch.randn(b, 2)
    state, _ = diffusers.WanPipeline.lora_state_dict(released, return_lora_metadata=True)
    diffusers.WanPipeline.load_lora_into_transformer(state, model, adapter_name="wan")
    assert not torch.allclose(answer(model)[0], plain[0], atol=1e-3)
    model.disable_adapters()
    close(answer(model), plain)


@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for the CPU needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")
def test_compile_repeated_blocks():
    model = make_model()
    plain = answer(model)
    model.compile_repeated_blocks(fullgraph=True, backend="aot_eager")
    close(answer(model), plain)


def test_layerwise_casting():
    model = make_model().bfloat16()
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
    assert model.blocks[0].attn1.to_q.weight.dtype == torch.float8_e4m3fn
    kept = [model.patch_embedding, model.token_types, model.semantic_embedder.fc1, model.semantic_head.proj]
    assert {module.weight.dtype for module in kept} == {torch.bfloat16}
    got = answer(model, {k: v.bfloat16() for k, v in inputs().items()})
    for rough, fine in zip(got, answer(make_model()), strict=True):
        assert (rough - fine).norm() < 0.2 * fine.norm()


@pytest.mark.parametrize("how", ["block_level", "leaf_level"])
def test_group_offload(how, tmp_path):
    model = make_model()
    plain = answer(model)
    apply_group_offloading(
        model,
        onload_device=torch.device("cpu"),
        offload_device=torch.device("cpu"),
        offload_type=how,
        num_blocks_per_group=1 if how == "block_level" else None,
        offload_to_disk_path=str(tmp_path),
    )
    close(answer(model), plain)


@pytest.mark.parametrize(
    "config",
    [
        FirstBlockCacheConfig(threshold=10.0),
        MagCacheConfig(threshold=10.0, num_inference_steps=4, retention_ratio=0.1, mag_ratios=[1.0] * 4),
        SeaCacheConfig(threshold=10.0),
    ],
    ids=lambda config: type(config).__name__,
)
def test_step_caches_skip_work_in_the_contexts_of_guidance(config):
    model = make_model(num_layers=3)
    calls = []
    model.blocks[2].ffn.register_forward_hook(lambda *_: calls.append(1))
    attention = []
    model.blocks[2].attn1.to_q.register_forward_hook(lambda *_: attention.append(1))
    given = inputs()

    def call(step: int, text: float):
        time, words = torch.tensor([900.0 - 10 * step]).expand(2), given["encoder_hidden_states"] * text
        with torch.no_grad():
            return model(**given | {"timestep": time, "encoder_hidden_states": words}, return_dict=False)

    first = {text: call(0, text) for text in (1.0, 0.0)}
    calls.clear(), attention.clear()
    model.enable_cache(config)
    steps = 4
    for step in range(steps):
        for context, text in (("cond", 1.0), ("uncond", 0.0)):
            place = {"step_index": step, "sigma": 0.9 - 0.01 * step, "num_inference_steps": steps}
            with model.cache_context(context, **place):
                out = call(step, text)
            assert out[1].shape == (2, 5, 12)
            if step == 0:  # there is nothing to reuse yet, and the other context's is not taken
                close(out, first[text])
    assert min(len(calls), len(attention)) < 2 * steps
    model.disable_cache()
    close(answer(model), answer(make_model(num_layers=3)))


def test_the_source_gate_keeps_what_it_is_told_to():
    """Shut, it answers with the source, held at its last frame where that is shorter, or with zeros without one."""
    noisy, sigma = torch.randn(2, 4, 3, 2, 2), torch.tensor([0.5, 0.9])
    answer = torch.cat([torch.randn(2, 4, 3, 2, 2), torch.full((2, 4, 3, 2, 2), 60.0)], dim=1)
    source = torch.randn(2, 4, 2, 2, 2)

    def data(source: Tensor | None) -> Tensor:
        return noisy - sigma.view(-1, 1, 1, 1, 1) * gate(answer, noisy, source, sigma)

    torch.testing.assert_close(data(source), torch.cat([source, source[:, :, -1:]], dim=2))
    torch.testing.assert_close(data(None), torch.zeros_like(noisy))
    for shape in ((2, 4, 4, 2, 2), (2, 4, 3, 2, 4)):
        with pytest.raises(ValueError, match="rows and columns"):
            data(torch.randn(shape))


def test_no_whole_rotary_table_is_kept():
    """Fifteen buckets of two tables each, which were half a gigabyte at full size: lines of rows and columns stay."""
    layout, device = make_model().rotary_layout, torch.device("cpu")
    grids = [(3, 2 + i, 17 - i) for i in range(15)]
    tables = [weakref.ref(joint_rotary(layout, grid, 5, grid, device)[0]) for grid in grids]
    assert not any(table() is not None for table in tables)
    made = axis_rotary.cache_info().misses
    again = [joint_rotary(layout, grid, 5, grid, device) for grid in grids]
    assert axis_rotary.cache_info().misses == made
    assert all(len(cos[0]) == 2 * 3 * h * w + 5 for (cos, _), (_, h, w) in zip(again, grids, strict=True))
