"""The plan's arithmetic: against torch's own counter at tiny size, against published figures at full size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from opensama.models.costs import training_flops
from opensama.models.families.sama import SamaSizes
from opensama.models.sama import SamaTransformer3DModel
from opensama.recipes.bernini import RECIPES as BERNINI_RECIPES
from opensama.recipes.sama import RECIPES
from opensama.training.frozen import make_encoders
from opensama.training.loading import full_config, sizes_of
from opensama.training.plan import Plan, frozen_memory, make_plan, nominal_shapes
from opensama.training.train_editor import plan_editor
from opensama.values import UserError
from tests.models.sizes import SIZES

STAGE_0 = RECIPES["sama-14b-stage0"]


def test_operations_agree_with_the_counter():
    torch.manual_seed(0)
    model = SamaTransformer3DModel(**SIZES)
    sizes = SamaSizes.of(model.config)
    n, text, anchors = 3 * 4 * 6, 7, 10
    x, source, words = torch.randn(1, 4, 3, 8, 12), torch.randn(1, 4, 3, 8, 12), torch.randn(1, text, 16)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        answer = model(x, torch.tensor([500.0]), words, source, torch.randn(1, anchors, 12))
        forward = counter.get_total_flops()
        (answer.sample.sum() + answer.semantic_sample.sum()).backward()
    assert sum(sizes.operations(2 * n + anchors, text, anchors, n)) == pytest.approx(forward, rel=0.01)
    trained = training_flops(sizes, 2 * n + anchors, text, semantic=anchors)
    assert trained == pytest.approx(counter.get_total_flops(), rel=0.05)


@pytest.mark.parametrize(("frames", "tokens", "petaflops"), [(49, 40_625, 2.342), (81, 65_585, 5.121)])
def test_the_14b_model_in_figures(frames, tokens, petaflops):
    sizes = SamaSizes.of(full_config(sizes_of(STAGE_0)))
    assert 2 * sizes.tokens(frames, 480, 832) + 65 == tokens
    assert sum(sizes.operations(tokens, 512, 65, (tokens - 65) // 2)) == pytest.approx(petaflops * 1e15, rel=0.003)


def test_the_plan_of_the_paper():
    plan = plan_editor(STAGE_0)
    assert plan.parameters == pytest.approx(14.30e9, rel=0.001)
    assert plan.trained == plan.parameters
    assert plan.fits, plan.table()
    assert plan.passes == 448 // (8 * 4) + 112 // (2 * 4)
    assert plan.flops == pytest.approx(112 * 3 * 5.12e15 + 448 * 3 * 0.085e15, rel=0.03)
    twice = plan_editor(STAGE_0, gpus=16)
    assert twice.seconds == pytest.approx(plan.seconds / 2)
    assert twice.dollars == pytest.approx(plan.dollars)
    assert twice.gigabytes < plan.gigabytes
    for word in ("14.3 B", "PF", "GB of 141", "hours", "$"):
        assert word in plan.table()


def test_models_beside_the_transformer_are_in_the_printed_figures():
    """What encodes in the step, on the GPU and on its way through host memory; nothing of it with cached latents."""
    plan = plan_editor(STAGE_0)
    rows = {name.strip(): value.strip() for name, _, value in (line.partition("  ") for line in lines(plan))}
    assert (rows["text encoder"], rows["autoencoder"], rows["image encoder"]) == ("11.4 GB", "0.5 GB", "1.7 GB")
    assert rows["while it loads"] == "20.8 GB a GPU, 11 GB of host memory a process"
    # of a batch of two pairs of 81 frames, which two processes share, one each; three of them, in float32
    width, height, *_ = nominal_shapes(STAGE_0.data)[1]
    assert rows["host memory"] == f"{3 * 2 * 81 * width * height * 12 / 1e9:.1f} GB a process for pixels read ahead"
    cached = STAGE_0.model_copy(deep=True)
    cached.data.latents, cached.preview_every = Path("latents"), 500
    less = plan_editor(cached)
    assert less.gigabytes == pytest.approx(plan.gigabytes - 13.6 + 0.5)
    rows = {name.strip(): value.strip() for name, _, value in (line.partition("  ") for line in lines(less))}
    assert rows["autoencoder of previews"] == "0.5 GB"
    assert rows["while it loads"] == "7.7 GB a GPU, 0.5 GB of host memory a process"
    assert not {"text encoder", "autoencoder", "image encoder", "host memory"} & rows.keys()


def lines(plan: Plan) -> list[str]:
    return [line.strip() for line in plan.table().splitlines()]


def test_models_in_folders_are_counted_as_they_are_loaded(config):
    """Numbers of what `make_encoders` holds; a text encoder in half precision, the others in float32."""
    encoders = make_encoders(config, torch.device("cpu"))
    pipe = encoders.video.__self__  # type: ignore[attr-defined]
    held = {"text encoder": (pipe.text_encoder, 2), "autoencoder": (pipe.vae, 4)}
    held["image encoder"] = (encoders.semantic.args[0], 4)  # type: ignore[union-attr]
    counted = {name: sum(p.numel() for p in m.parameters()) * width / 1e9 for name, (m, width) in held.items()}
    assert frozen_memory(config) == pytest.approx(counted)
    config.semantic.encoder = None
    assert "image encoder" not in frozen_memory(config)


def test_compiled_blocks_are_gathered_in_float32():
    config = RECIPES["sama-1.3b-stage0"]
    compiled = config.model_copy(update={"mesh": config.mesh.model_copy(update={"compile": True})})
    plain, whole = (plan_editor(c).memory["gathered blocks"] for c in (config, compiled))
    assert whole == 2 * plain > 0


def test_low_rank_saves_memory_more_than_time():
    full, lora = (plan_editor(RECIPES[name]) for name in ("sama-14b-stage1", "sama-14b-stage1-lora"))
    assert lora.trained < 0.05 * full.trained
    assert lora.gigabytes < 0.8 * full.gigabytes
    assert 0.8 * full.flops < lora.flops < full.flops


@pytest.mark.parametrize("name", [*RECIPES, "bernini-1.3b-sft", "sama-bernini-1.3b-stage0"])
def test_every_recipe_has_a_plan(name):
    config = (RECIPES | BERNINI_RECIPES)[name]
    plan = plan_editor(config)
    assert plan.gpus == config.machine.gpus
    assert plan.fits, plan.table()


def test_what_does_not_divide_is_said():
    with pytest.raises(UserError, match=r"448 images a step do not split over 3"):
        plan_editor(STAGE_0, gpus=6)
    config = STAGE_0.model_copy(deep=True)
    config.mesh.context = 3
    with pytest.raises(UserError, match=r"mesh.context=3 must divide"):
        plan_editor(config, gpus=8)
    config.mesh.context, config.mesh.replicate, config.mesh.shard = 1, 2, 3
    with pytest.raises(UserError, match=r"8 GPUs are no mesh of 2 x 3"):
        plan_editor(config, gpus=8)


def test_data_without_videos_is_said():
    model = full_config(sizes_of(STAGE_0))
    with pytest.raises(UserError, match=r"no videos.*data.videos=0"):
        make_plan(STAGE_0, model, nominal_shapes(STAGE_0.data)[:1])


def test_what_a_block_keeps_for_its_backward_pass():
    """Bytes a token and number of the width, without attention's n x n tables, which fused kernels do not keep."""
    n, d = 192, 256
    model = SamaTransformer3DModel(
        num_attention_heads=2, attention_head_dim=128, ffn_dim=691, num_layers=1, text_dim=16, semantic_dim=None
    )
    kept: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        if n in x.shape[:-1] and x.shape[-1] not in (n, 8):
            kept[x.data_ptr()] = max(kept.get(x.data_ptr(), 0), x.untyped_storage().nbytes())
        return x

    tokens = torch.randn(1, n, d).bfloat16().requires_grad_()
    text, modulation, turn = torch.randn(1, 8, d).bfloat16(), torch.randn(1, 6, d), torch.ones(1, n, 1, 128)
    with torch.autocast("cpu", torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        model.blocks[0](tokens, text, modulation, (turn, turn))
    assert sum(kept.values()) / n / d == pytest.approx(SamaSizes.block_bytes, rel=0.15)
