"""Low-rank files: what diffusers and ComfyUI read computes what was trained."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from opensama.models.families import MODEL_FAMILIES
from opensama.models.lora import add_lora, count_lora, lora_state, merged, save_comfy, save_diffusers
from opensama.models.sama import SamaTransformer3DModel
from opensama.pipeline.sama import SamaPipeline
from opensama.values import UserError
from tests.models.sizes import SIZES

TARGETS = ("to_q", "to_out.0", "net.0.proj", "net.2")


def answers(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    x, source = torch.randn(2, 1, 4, 2, 4, 4, generator=g)
    words, semantic = torch.randn(1, 3, 16, generator=g), torch.randn(1, 5, 12, generator=g)
    with torch.no_grad():
        out = model(x, torch.tensor([500.0]), words, source, semantic)
    return out.sample, out.semantic_sample


@pytest.fixture(scope="module")
def plain() -> Any:
    torch.manual_seed(0)
    return SamaTransformer3DModel(**SIZES).eval()


def trained(plain: Any, *, also_new: bool) -> Any:
    """A copy whose trainable weights have moved."""
    model = copy.deepcopy(plain)
    add_lora(model, 4, 8, TARGETS, also_new=also_new)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return model.eval()


def test_only_low_rank_matrices_are_trained(plain):
    model = copy.deepcopy(plain)
    add_lora(model, 4, 8, TARGETS)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(names) == 2 * SIZES["num_layers"] * 6
    for new in (False, True):
        moving = (p.numel() for p in trained(plain, also_new=new).parameters() if p.requires_grad)
        assert count_lora(plain, 4, TARGETS, also_new=new) == sum(moving)
    assert all(".lora_" in name for name in names)
    torch.testing.assert_close(answers(model), answers(plain))
    assert not torch.allclose(answers(trained(plain, also_new=False))[0], answers(plain)[0], atol=1e-3)


def pipeline(transformer: Any) -> Any:
    from tests.pipeline.conftest import tiny_text_encoder, tiny_tokenizer, tiny_vae

    return SamaPipeline(tiny_tokenizer(), tiny_text_encoder(), tiny_vae(), transformer, None)


def test_diffusers_reads_it(plain, tmp_path):
    model = trained(plain, also_new=False)
    save_diffusers(model, tmp_path)
    pipe = pipeline(copy.deepcopy(plain))
    pipe.load_lora_weights(tmp_path, weight_name="pytorch_lora_weights.safetensors")
    torch.testing.assert_close(answers(pipe.transformer), answers(model))


def test_comfyui_names_carry_the_same(plain, tmp_path):
    """Applied by hand as ComfyUI does, to the released names, and read by diffusers, which knows that layout too."""
    model = trained(plain, also_new=False)
    file = save_comfy(model, tmp_path / "lora" / "comfyui.safetensors")
    tensors = load_file(file)
    row = MODEL_FAMILIES["sama"]
    patched = copy.deepcopy(plain)
    state = patched.state_dict()
    used = set()
    for ours, weight in state.items():
        key = f"diffusion_model.{(row.to_released(ours) or '?').removesuffix('.weight')}"
        if f"{key}.lora_up.weight" not in tensors:
            continue
        up, down, alpha = (tensors[f"{key}.{part}"] for part in ("lora_up.weight", "lora_down.weight", "alpha"))
        weight += alpha / len(down) * up @ down
        used |= {f"{key}.{part}" for part in ("lora_up.weight", "lora_down.weight", "alpha")}
    assert used == set(tensors)
    torch.testing.assert_close(answers(patched), answers(model), atol=1e-5, rtol=1e-4)

    pipe = pipeline(copy.deepcopy(plain))
    pipe.load_lora_weights(file)
    torch.testing.assert_close(answers(pipe.transformer), answers(model), atol=1e-5, rtol=1e-4)


def test_new_modules_travel_with_comfyui_too(plain, tmp_path):
    tensors = load_file(save_comfy(trained(plain, also_new=True), tmp_path / "a.safetensors"))
    whole = {name for name in tensors if name.endswith(".set_weight")}
    assert "diffusion_model.segment_embedding.set_weight" in whole
    assert "diffusion_model.semantic_head.proj.bias.set_weight" in whole


def test_merged_weights_are_a_plain_model(plain):
    model = trained(plain, also_new=False)
    expected = answers(model)
    whole = copy.deepcopy(plain)
    whole.load_state_dict({name: make() for name, make in merged(model).items()})
    torch.testing.assert_close(answers(whole), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(answers(model), expected, atol=1e-5, rtol=1e-4)
    assert lora_state(model)


def test_an_unknown_layer_is_named(plain):
    with pytest.raises(UserError, match=r"No block has a layer 'to_x'.*to_q"):
        add_lora(copy.deepcopy(plain), 4, 4, ["to_x"])
