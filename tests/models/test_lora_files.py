"""LoRA files with the key names that trainers and tools write: each tensor is added exactly, or named."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from opensama.apps.cli import main
from opensama.models.icve import IcveTransformer3DModel
from opensama.models.lora import add_lora, merged, save_comfy, save_diffusers
from opensama.models.lora_convert import LORA_LAYOUTS, convert_lora_file
from opensama.models.lora_files import load_base, load_loras
from opensama.models.sama import SamaTransformer3DModel
from opensama.values import UserError
from tests.models.sizes import ICVE_SIZES, SIZES
from tests.pipeline.conftest import tiny_text_encoder, tiny_tokenizer, tiny_vae

RANK, ALPHA = 3, 6.0
OURS = {  # by Wan's own names, which these tools use
    "self_attn.q": "attn1.to_q", "self_attn.k": "attn1.to_k", "self_attn.v": "attn1.to_v",
    "self_attn.o": "attn1.to_out.0",
    "cross_attn.q": "attn2.to_q", "cross_attn.k": "attn2.to_k", "cross_attn.v": "attn2.to_v",
    "cross_attn.o": "attn2.to_out.0", "ffn.0": "ffn.net.0.proj", "ffn.2": "ffn.net.2",
}  # fmt: skip
LAYERS = [(f"blocks.{i}.{wan}", f"blocks.{i}.{ours}") for i in range(SIZES["num_layers"]) for wan, ours in OURS.items()]
ENDS = [("time_projection.1", "condition_embedder.time_proj"), ("head.head", "proj_out")]

LAYOUTS: dict[str, Callable[[str, str], tuple[str, str, str]]] = {
    "diffusers": lambda wan, ours: (f"transformer.{ours}", "lora_A.weight", "lora_B.weight"),
    "peft": lambda wan, ours: (f"base_model.model.{ours}", "lora_A.weight", "lora_B.weight"),
    "comfyui": lambda wan, ours: (f"diffusion_model.{wan}", "lora_down.weight", "lora_up.weight"),
    "kijai": lambda wan, ours: (f"diffusion_model.{wan}", "lora_A.weight", "lora_B.weight"),
    "lightx2v": lambda wan, ours: (wan, "lora_down.weight", "lora_up.weight"),
    "musubi": lambda wan, ours: (f"lora_unet_{wan.replace('.', '_')}", "lora_down.weight", "lora_up.weight"),
    "diffsynth": lambda wan, ours: (wan, "lora_A.default.weight", "lora_B.default.weight"),
    "diffsynth pipe": lambda wan, ours: (f"pipe.dit.{wan}", "lora_A.weight", "lora_B.weight"),
}
WITH_ALPHA = ("comfyui", "lightx2v", "musubi")


def random(*shape: int) -> Tensor:
    return 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.fixture(scope="module")
def plain() -> Any:
    torch.manual_seed(0)
    return SamaTransformer3DModel(**SIZES).eval()


def example(layout: str, model: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A LoRA of every layer in a layout, and the weights that the model should have with it."""
    tensors, expected = {}, {name: p.clone() for name, p in model.state_dict().items()}
    for wan, ours in LAYERS + ENDS:
        weight = expected[f"{ours}.weight"]
        down, up = random(RANK, weight.shape[1]), random(weight.shape[0], RANK)
        stem, a, b = LAYOUTS[layout](wan, ours)
        tensors |= {f"{stem}.{a}": down, f"{stem}.{b}": up}
        if layout in WITH_ALPHA:
            tensors[f"{stem}.alpha"] = torch.tensor(ALPHA)
        weight += (ALPHA / RANK if layout in WITH_ALPHA else 1) * (up @ down)
    return tensors, expected


def merged_state(model: Any) -> dict[str, Tensor]:
    return {name: make() for name, make in merged(model).items()}


def close(model: Any, expected: dict[str, Tensor]) -> None:
    assert model.state_dict().keys() == expected.keys()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(
            tensor, expected[name], atol=1e-5, rtol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_added_whole(plain, tmp_path, layout):
    tensors, expected = example(layout, plain)
    file, model = tmp_path / "lora.safetensors", copy.deepcopy(plain)
    save_file(tensors, file)
    changed = load_loras(model, [(file, 1.0)])
    assert changed == {f"{ours}.weight" for _, ours in LAYERS + ENDS}
    close(model, expected)
    load_loras(model, [(file, -1.0)])
    close(model, plain.state_dict())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_pipelines_own_call_takes_every_layout_too(plain, tmp_path, layout):
    from opensama.pipeline.sama import SamaPipeline

    tensors, expected = example(layout, plain)
    save_file(tensors, tmp_path / "lora.safetensors")
    pipe = SamaPipeline(tiny_tokenizer(), tiny_text_encoder(), tiny_vae(), copy.deepcopy(plain), None)
    for source in (tmp_path / "lora.safetensors", tensors):
        pipe.load_lora_weights(source)
        got = merged_state(pipe.transformer)
        for name, tensor in expected.items():
            torch.testing.assert_close(got[name], tensor, atol=1e-5, rtol=1e-5)
        pipe.unload_lora_weights()
    close(pipe.transformer, plain.state_dict())


def test_whole_differences_and_biases_are_exact(plain, tmp_path):
    """As lightx2v's and AccVid's files have them: norms, the head, modulation, biases without matrices."""
    state = plain.state_dict()
    changes = {
        "diffusion_model.blocks.0.self_attn.norm_q.diff": "blocks.0.attn1.norm_q.weight",
        "diffusion_model.blocks.1.norm3.diff": "blocks.1.norm2.weight",
        "diffusion_model.blocks.1.norm3.diff_b": "blocks.1.norm2.bias",
        "diffusion_model.blocks.0.ffn.0.diff_b": "blocks.0.ffn.net.0.proj.bias",
        "diffusion_model.time_projection.1.diff_b": "condition_embedder.time_proj.bias",
        "diffusion_model.head.head.diff": "proj_out.weight",
        "diffusion_model.blocks.0.modulation.diff": "blocks.0.scale_shift_table",
        "diffusion_model.patch_embedding.diff": "patch_embedding.weight",
    }
    tensors = {key: random(*state[name].shape) for key, name in changes.items()}
    save_file(tensors, tmp_path / "lora.safetensors")
    model = copy.deepcopy(plain)
    assert load_loras(model, [(tmp_path / "lora.safetensors", 0.5)]) == set(changes.values())
    close(model, state | {name: state[name] + 0.5 * tensors[key] for key, name in changes.items()})


def test_fused_layers_of_icve_are_cut_where_ours_are(tmp_path):
    torch.manual_seed(0)
    model = IcveTransformer3DModel(**ICVE_SIZES).eval()
    state = {name: p.clone() for name, p in model.state_dict().items()}
    d = state["transformer_blocks.0.attn.to_q.weight"].shape[1]
    down, up = random(RANK, d), random(3 * d, RANK)
    mod_down, mod_up = random(RANK, d), random(2 * d, RANK)
    keys = {"double_blocks.0.img_attn_qkv": (down, up), "final_layer.adaLN_modulation.1": (mod_down, mod_up)}
    expected = dict(state)
    for i, name in enumerate("qkv"):
        key = f"transformer_blocks.0.attn.to_{name}.weight"
        expected[key] = state[key] + 2 * up[i * d : (i + 1) * d] @ down
    shift, scale = (mod_up @ mod_down).chunk(2)
    expected["norm_out.linear.weight"] = state["norm_out.linear.weight"] + 2 * torch.cat([scale, shift])
    for write in ("lora_unet_{}", "diffusion_model.{}", "transformer.{}"):
        tensors = {}
        for key, (a, b) in keys.items():
            stem = write.format(key.replace(".", "_") if "unet" in write else key)
            tensors |= {f"{stem}.lora_down.weight": a, f"{stem}.lora_up.weight": b}
            tensors[f"{stem}.alpha"] = torch.tensor(ALPHA)
        save_file(tensors, tmp_path / "lora.safetensors")
        other = copy.deepcopy(model)
        load_loras(other, [(tmp_path / "lora.safetensors", 1.0)])
        close(other, expected)


def test_several_are_summed_before_they_are_rounded(plain, tmp_path):
    """In bfloat16, two halves that each vanish beside a weight must not vanish together."""
    model = copy.deepcopy(plain).to(torch.bfloat16)
    name = "blocks.0.attn1.to_q"
    weight = model.get_parameter(f"{name}.weight")
    with torch.no_grad():
        weight.fill_(1.0)
    tiny = {f"{name}.lora_A.weight": torch.ones(1, weight.shape[1])}
    save_file(tiny | {f"{name}.lora_B.weight": torch.full((weight.shape[0], 1), 0.003)}, tmp_path / "a.safetensors")
    load_loras(model, [(tmp_path / "a.safetensors", 1.0)] * 2)
    assert torch.equal(weight, torch.full_like(weight, 1.0 + 2**-7))  # 1.006 in bfloat16; 1.003 alone is 1
    before = weight.clone()
    load_loras(model, [(tmp_path / "a.safetensors", 0.5)])
    assert torch.equal(weight, before)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"diffusion_model.blocks.0.cross_attn.k_img.lora_down.weight": (3, 24)}, r"no LoRA .*cross_attn\.k_img"),
        ({"diffusion_model.blocks.0.self_attn.q.dora_scale": (24, 1)}, r"self_attn\.q\.dora_scale"),
        ({"diffusion_model.blocks.9.self_attn.q.lora_down.weight": (3, 24)}, r"blocks\.9"),
        ({"diffusion_model.blocks.0.self_attn.norm_q.lora_down.weight": (3, 24)}, "lack their other half"),
        ({"lora_te_text_model.lora_down.weight": (3, 8)}, "lora_te_text_model"),
        ({"blocks.0.self_attn.q.lora_A.weight": (3, 24)}, "which are one: keep one"),
    ],
)
def test_what_is_left_over_is_named_and_nothing_changes(plain, tmp_path, change, words):
    tensors, _ = example("comfyui", plain)
    save_file(tensors | {key: random(*shape) for key, shape in change.items()}, tmp_path / "lora.safetensors")
    model = copy.deepcopy(plain)
    with pytest.raises(UserError, match=words):
        load_loras(model, [(tmp_path / "lora.safetensors", 1.0)])
    close(model, plain.state_dict())


def test_a_lora_of_another_size_is_named(plain, tmp_path):
    tensors = {"blocks.0.self_attn.q.lora_A.weight": random(3, 7), "blocks.0.self_attn.q.lora_B.weight": random(7, 3)}
    save_file(tensors, tmp_path / "lora.safetensors")
    with pytest.raises(UserError, match=r"another size: .*lora_A\.weight \[3, 7\].* where a layer is \[48, 48\]"):
        load_loras(copy.deepcopy(plain), [(tmp_path / "lora.safetensors", 1.0)])


def test_rank_and_alpha_in_a_header_or_beside(plain, tmp_path):
    down, up = random(RANK, 48), random(48, RANK)
    name = "blocks.0.attn1.to_q"
    tensors = {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
    settings = {"r": RANK, "lora_alpha": 9, "alpha_pattern": {"attn1.to_q": 12}}
    header = {"lora_adapter_metadata": json.dumps({f"transformer.{key}": value for key, value in settings.items()})}
    save_file({f"transformer.{key}": t for key, t in tensors.items()}, tmp_path / "a.safetensors", header)
    save_file({f"base_model.model.{key}": t for key, t in tensors.items()}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 9, "use_rslora": True}))
    for file, scale in (("a", 12 / RANK), ("adapter_model", 9 / RANK**0.5)):
        model = copy.deepcopy(plain)
        load_loras(model, [(tmp_path / f"{file}.safetensors", 1.0)])
        added = model.state_dict()[f"{name}.weight"] - plain.state_dict()[f"{name}.weight"]
        torch.testing.assert_close(added, scale * up @ down, atol=1e-5, rtol=1e-4)


def trained(model: Any, *, also_new: bool) -> Any:
    add_lora(model, 4, 8, ("to_q", "net.2"), also_new=also_new)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(random(*p.shape))
    return model.eval()


@pytest.fixture(scope="module")
def wan(tmp_path_factory) -> Path:
    """Plain Wan's transformer folder."""
    names = WanTransformer3DModel.__init__.__annotations__
    torch.manual_seed(3)
    model = WanTransformer3DModel(**{key: value for key, value in SIZES.items() if key in names})
    model.save_pretrained(tmp_path_factory.mktemp("wan"))
    return Path(tmp_path_factory.getbasetemp()) / "wan0"


def test_a_lora_from_plain_wan_makes_it_an_editor(wan, tmp_path):
    from opensama.training.loading import from_base
    from opensama.training.parallel import make_room

    begun = from_base(wan, SIZES | {"num_anchors": 2})
    make_room(begun.model, torch.device("cpu"))
    begun.fill(begun.model)
    model = trained(begun.model, also_new=True)
    save_diffusers(model, tmp_path / "lora")
    save_comfy(model, tmp_path / "lora" / "comfyui.safetensors")
    again = load_base(wan, "sama", [(tmp_path / "lora", 1.0)], torch.float32)
    assert again.config["num_anchors"] == 2
    close(again, merged_state(model))
    from_comfy = load_base(wan, "sama", [(tmp_path / "lora" / "comfyui.safetensors", 1.0)], torch.float32)
    close(from_comfy, merged_state(model))
    with pytest.raises(UserError, match=r"lack .*: give the folder of a LoRA that was trained from them"):
        load_base(wan, "sama", [], torch.float32)


@pytest.mark.parametrize("layout", LORA_LAYOUTS)
def test_a_lora_is_written_in_each_layout_and_comes_back(plain, tmp_path, layout):
    """From the names of ComfyUI and of diffusers; the change is the same, and so are its numbers on the way back."""
    for source in ("comfyui", "diffusers"):
        tensors, expected = example(source, plain)
        save_file(tensors, tmp_path / "lora.safetensors")
        written = convert_lora_file(tmp_path / "lora.safetensors", tmp_path / "out.safetensors", layout, "sama", SIZES)
        wan, ours = LAYERS[0]
        stem, down, _ = LAYOUTS[layout](wan, ours)
        assert f"{stem}.{down}" in load_file(written)
        model = copy.deepcopy(plain)
        load_loras(model, [(written, 1.0)])
        close(model, expected)
        back = load_file(convert_lora_file(written, tmp_path / "back.safetensors", source, "sama", SIZES))
        if layout != "kijai" or source == "diffusers":  # which has alpha within its matrices
            assert back.keys() == tensors.keys()
            assert all(torch.equal(back[key], x) for key, x in tensors.items())
    assert not [*tmp_path.rglob("*.part")]


def test_fused_matrices_and_whole_differences_are_written(tmp_path):
    """HunyuanVideo's fused layers come apart for diffusers and together again, halves swapped where ours are."""
    torch.manual_seed(0)
    model = IcveTransformer3DModel(**ICVE_SIZES).eval()
    d = model.transformer_blocks[0].attn.to_q.in_features

    def to(layout: str, source: Path, name: str) -> Path:
        return convert_lora_file(source, tmp_path / name, layout, "icve", ICVE_SIZES)

    keys = {"double_blocks.0.img_attn_qkv": 3, "single_blocks.1.linear1": 7, "final_layer.adaLN_modulation.1": 2}
    tensors = {}
    for key, rows in keys.items():
        stem = f"diffusion_model.{key}"
        tensors |= {f"{stem}.lora_down.weight": random(RANK, d), f"{stem}.lora_up.weight": random(rows * d, RANK)}
        tensors[f"{stem}.alpha"] = torch.tensor(ALPHA)
    file = tmp_path / "comfyui.safetensors"
    save_file(tensors, file)
    expected = copy.deepcopy(model)
    load_loras(expected, [(file, 1.0)])
    for layout in LORA_LAYOUTS:
        other = copy.deepcopy(model)
        load_loras(other, [(to(layout, file, f"{layout}_.safetensors"), 1.0)])
        close(other, expected.state_dict())
    back = load_file(to("comfyui", tmp_path / "diffusers_.safetensors", "back.safetensors"))
    assert all(torch.equal(back[key], x) for key, x in tensors.items())

    k, qkv = "transformer_blocks.0.attn.to_k", "double_blocks.0.img_attn_qkv"
    only_k = {f"{k}.lora_A.weight": random(RANK, d), f"{k}.lora_B.weight": random(d, RANK)}
    wholes = {f"{qkv}.diff": random(3 * d, d), f"{qkv}.diff_b": random(3 * d)}
    for more in (only_k, wholes):
        save_file(more, tmp_path / "more.safetensors")
        expected, other = copy.deepcopy(model), copy.deepcopy(model)
        load_loras(expected, [(tmp_path / "more.safetensors", 1.0)])
        load_loras(other, [(to("musubi", tmp_path / "more.safetensors", "out.safetensors"), 1.0)])
        close(other, expected.state_dict())
    with pytest.raises(UserError, match=r"to_q\.weight as a whole, .* choose comfyui"):
        to("diffusers", tmp_path / "more.safetensors", "out.safetensors")


def test_what_training_wrote_is_converted_by_the_command(tmp_path, capsys):
    """A folder brings its sizes along, and what its family adds."""
    model = trained(SamaTransformer3DModel(**SIZES), also_new=True)
    save_diffusers(model, tmp_path / "lora")
    before = {name: p.clone() for name, p in SamaTransformer3DModel(**SIZES).state_dict().items()}
    assert main(["models", "convert-lora", str(tmp_path / "lora"), str(tmp_path / "out.safetensors")]) == 0
    assert capsys.readouterr().out == f"written: {tmp_path / 'out.safetensors'}\n"
    added = load_file(tmp_path / "lora" / "added_modules.safetensors")
    written = load_file(tmp_path / "out.safetensors")
    assert torch.equal(written["diffusion_model.segment_embedding.set_weight"], added["token_types.weight"])
    plain = SamaTransformer3DModel(**SIZES)
    plain.load_state_dict(before)
    other = copy.deepcopy(plain)
    load_loras(plain, [(tmp_path / "lora", 1.0)])
    load_loras(other, [(tmp_path / "out.safetensors", 1.0)])
    close(other, plain.state_dict())
    save_file({"unet.q.lora_A.weight": torch.ones(2, 2)}, tmp_path / "other.safetensors")
    assert main(["models", "convert-lora", str(tmp_path / "other.safetensors"), str(tmp_path / "x.safetensors")]) == 2
    assert "no LoRA for this model" in capsys.readouterr().err
    assert not (tmp_path / "x.safetensors").exists()
