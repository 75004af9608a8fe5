"""Single files as other tools have them: written from a random model of each family and read back, error stated."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.modeling_utils import ModelMixin
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from opensama.models.bernini import BerniniTransformer3DModel
from opensama.models.convert import convert_released, convert_to_file, load_released
from opensama.models.families import family_of, find_family
from opensama.models.float8 import matrices
from opensama.models.icve import IcveTransformer3DModel
from opensama.models.layouts import released_tensors
from opensama.models.sama import SamaTransformer3DModel
from opensama.models.weights import TensorFiles
from opensama.values import UserError
from tests.models.sizes import ICVE_SIZES, SIZES

WIDE = {"attention_head_dim": 32, "ffn_dim": 128, "text_dim": 32}
CLASSES: dict[str, Callable[[], ModelMixin]] = {
    "sama": lambda: SamaTransformer3DModel(**SIZES | WIDE),
    "bernini": lambda: BerniniTransformer3DModel(
        **{name: value for name, value in (SIZES | WIDE).items() if not name.startswith("semantic")}
    ),
    "icve": lambda: IcveTransformer3DModel(
        **ICVE_SIZES | {"attention_head_dim": 32, "rope_axes_dim": (8, 12, 12), "num_refiner_layers": 2}
    ),
}


@cache
def model_of(family: str) -> ModelMixin:
    """A random model whose every tensor, norms and tables too, is distinct."""
    torch.manual_seed(sum(family.encode()))
    model = CLASSES[family]().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    out = {}
    for family in CLASSES:
        out[family] = tmp_path_factory.mktemp(family)
        model_of(family).save_pretrained(out[family])
    return out


@torch.no_grad()
def answer(model: ModelMixin) -> Tensor:
    """The velocity for one fixed question."""
    draw = torch.Generator().manual_seed(5)
    config: Any = model.config
    x, source = (torch.randn(1, 4, 3, 4, 4, generator=draw) for _ in range(2))
    batch = {"noisy": x, "source": source, "sigma": torch.tensor([0.6])}
    batch["text"] = torch.randn(1, 7, config.get("text_dim") or config["text_embed_dim"], generator=draw)
    if "pooled_projection_dim" in config:
        batch |= {"text_mask": torch.ones(1, 7), "pooled": torch.randn(1, 10, generator=draw)}
    out = model(**family_of(model).condition(batch), return_dict=False)[0]
    return out[0] if isinstance(out, tuple) else out


def away(found: Tensor, exact: Tensor) -> float:
    """Relative L2 error."""
    return float((found.float() - exact.float()).norm() / exact.float().norm())


EQUAL = 1e-6  # of answers that the same numbers give, which lie elsewhere in memory
LAYOUTS = {  # relative error of a matrix, and of the answer
    "released": (0.0, EQUAL),
    "comfyui": (0.0, EQUAL),
    "fp8": (0.03, 0.06),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", CLASSES)
def test_each_layout_holds_the_model_and_comes_back(folders, tmp_path, family, layout):
    """Without being told family or sizes; as a folder, and as a model whose matrices stay as they are stored."""
    model, (matrix_error, answer_error) = model_of(family), LAYOUTS[layout]
    file = convert_to_file(folders[family], tmp_path / "weights.safetensors", layout)
    back = load_file(convert_released(file, tmp_path / "ours") / "diffusion_pytorch_model.safetensors")
    packed = {f"{name}.weight" for name in matrices(model)} if matrix_error else set()
    for name, exact in model.state_dict().items():
        if name in packed:
            assert 0 < away(back[name], exact) < matrix_error, name
        else:
            assert torch.equal(back[name], exact), name
    exact = answer(model)
    spread = load_released(file, dtype=torch.float32)
    kept = load_released(file, dtype=torch.float32, packed=True)
    assert away(answer(spread), exact) <= answer_error
    assert (away(answer(spread), exact) > 100 * EQUAL) == bool(matrix_error)
    assert away(answer(kept), answer(spread)) <= EQUAL
    assert not [*tmp_path.rglob("*.part")]


def comfy_inside(key: str) -> str:
    """What ComfyUI calls HunyuanVideo's tensors inside, as it saves them."""
    for released, inside in (
        ("txt_in.t_embedder.mlp.0.", "txt_in.t_embedder.in_layer."),
        ("txt_in.t_embedder.mlp.2.", "txt_in.t_embedder.out_layer."),
        ("txt_in.c_embedder.linear_1.", "txt_in.c_embedder.in_layer."),
        ("txt_in.c_embedder.linear_2.", "txt_in.c_embedder.out_layer."),
        ("_mod.linear.", "_mod.lin."), ("_attn_qkv.", "_attn.qkv."), ("mlp.fc1.", "mlp.0."), ("mlp.fc2.", "mlp.2."),
        ("_attn_q_norm.weight", "_attn.norm.query_norm.scale"), ("_attn_k_norm.weight", "_attn.norm.key_norm.scale"),
        (".q_norm.weight", ".norm.query_norm.scale"), (".k_norm.weight", ".norm.key_norm.scale"),
        ("_attn_proj.", "_attn.proj."), (".modulation.linear.", ".modulation.lin."),
        ("time_in.mlp.0.", "time_in.in_layer."), ("time_in.mlp.2.", "time_in.out_layer."),
    ):  # fmt: skip
        key = key.replace(released, inside)
    return key


@pytest.mark.parametrize("family", CLASSES)
@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "model.model."])
def test_what_comfyui_saves_is_read(folders, tmp_path, family, prefix):
    """Its prefix, its own names, and a text encoder and an autoencoder in the same file."""
    plain = load_file(convert_to_file(folders[family], tmp_path / "plain.safetensors", "comfyui"))
    saved = {prefix + (comfy_inside(key) if family == "icve" else key): x for key, x in plain.items()}
    saved |= {"vae.encoder.conv1.weight": torch.ones(3), "text_encoders.llama.x": torch.ones(2)}
    save_file(saved, tmp_path / "saved.safetensors")
    sizes = json.loads((folders[family] / "config.json").read_text())
    model = load_released(tmp_path / "saved.safetensors", family, sizes)
    assert away(answer(model), answer(model_of(family))) <= EQUAL
    assert released_tensors(tmp_path / "saved.safetensors")[0] is find_family(family)


def newer(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Scaled FP8 as newer versions of ComfyUI write it, with scales for inputs too."""
    out = {}
    for key, x in tensors.items():
        layer = key.removesuffix(".scale_weight")
        if key == "scaled_fp8":
            continue
        out[key if key == layer else f"{layer}.weight_scale"] = x
        if key != layer:
            out[f"{layer}.input_scale"] = torch.tensor(1.0)
            form = json.dumps({"format": "float8_e4m3fn", "full_precision_matrix_mult": True})
            out[f"{layer}.comfy_quant"] = torch.tensor(list(form.encode()), dtype=torch.uint8)
    return out


def a_scale_a_row(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same numbers with a scale of its own for each row."""
    out = dict(tensors)
    for key, x in tensors.items():
        if key.endswith(".scale_weight"):
            rows = len(tensors[f"{key.removesuffix('.scale_weight')}.weight"])
            out[key] = x.repeat(rows)[:, None].contiguous()
    return out


@pytest.mark.parametrize("form", [newer, a_scale_a_row])
@pytest.mark.parametrize("family", ["sama", "icve"])
def test_other_forms_of_scaled_float8_hold_the_same_numbers(folders, tmp_path, family, form):
    file = convert_to_file(folders[family], tmp_path / "weights.safetensors", "fp8")
    with safe_open(file, framework="pt") as f:
        note = f.metadata()
    save_file(form(load_file(file)), tmp_path / "other.safetensors", metadata=note)
    models = [
        load_released(path, dtype=torch.float32, packed=packed)
        for path in (file, tmp_path / "other.safetensors")
        for packed in (False, True)
    ]
    first, *others = (answer(model) for model in models)
    assert all(away(other, first) <= EQUAL for other in others)


def test_float8_files_are_as_comfyui_has_them(folders, tmp_path):
    """Matrices of blocks in FP8 with a number beside each that reaches the type's largest, all else as it was."""
    files = TensorFiles(convert_to_file(folders["icve"], tmp_path / "weights.safetensors", "fp8"))
    infos = files.infos
    eight = {name for name, info in infos.items() if info.dtype == "F8_E4M3"} - {"scaled_fp8"}
    assert infos["scaled_fp8"] == ((2,), "F8_E4M3")
    assert {name.rpartition(".")[0] + ".scale_weight" for name in eight} == {n for n in infos if "scale_weight" in n}
    assert {name.replace("blocks.1", "blocks.0") for name in eight} == {
        f"double_blocks.0.{kind}_{part}.weight"
        for kind in ("img", "txt") for part in ("attn_qkv", "attn_proj", "mlp.fc1", "mlp.fc2")
    } | {"single_blocks.0.linear1.weight", "single_blocks.0.linear2.weight"}  # fmt: skip
    assert {float(files.tensor(name).float().abs().max()) for name in eight} == {448.0}
    assert {infos[name].dtype for name in infos.keys() - eight - {"scaled_fp8"}} == {"F32"}


def with_format(form: str) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        text = json.dumps({"format": form}).encode()
        tensors["blocks.0.ffn.0.comfy_quant"] = torch.tensor(list(text), dtype=torch.uint8)

    return change


def drop(key: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.__delitem__(key)


def put(key: str, value: Tensor) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.__setitem__(key, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_format("nvfp4"), r"blocks\.0\.ffn\.0 of .* is stored as nvfp4, which is not read here"),
        (drop("blocks.0.ffn.0.weight"), r"scale_weight, and no FP8 blocks\.0\.ffn\.0\.weight beside"),
        (put("blocks.0.ffn.0.scale_weight", torch.ones(128, 2, 1)), "one scale a matrix or one a row"),
        (drop("blocks.0.ffn.0.bias"), r"blocks\.0\.ffn\.0\.bias is missing"),
        (put("img_emb.proj.0.weight", torch.ones(3)), r"img_emb\.proj\.0\.weight is unexpected"),
    ],
)
def test_what_is_wrong_with_a_float8_file_is_said(folders, tmp_path, change, message):
    tensors = load_file(convert_to_file(folders["sama"], tmp_path / "weights.safetensors", "fp8"))
    change(tensors)
    save_file(tensors, tmp_path / "wrong.safetensors")
    with pytest.raises(UserError, match=message):
        load_released(tmp_path / "wrong.safetensors", config={"num_heads": 2})


def test_files_of_no_family_are_refused(folders, tmp_path):
    save_file({f"down_blocks.{i}.weight": torch.ones(2) for i in range(9)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"no transformer of the families .*called down_blocks\.0\.weight"):
        convert_released(tmp_path / "other.safetensors", tmp_path / "ours")
    convert_to_file(folders["sama"], tmp_path / "sama.safetensors", "comfyui")
    with pytest.raises(UserError, match="no icve weights"):
        convert_released(tmp_path / "sama.safetensors", tmp_path / "ours", "icve")
    with pytest.raises(UserError, match="no layout 'onnx': choose released, comfyui, fp8"):
        convert_to_file(folders["sama"], tmp_path / "sama.safetensors", "onnx")
    with torch.no_grad():
        spoilt = CLASSES["sama"]()
        spoilt.blocks[0].attn1.to_q.weight[3, 3] = torch.nan
    spoilt.save_pretrained(tmp_path / "spoilt")
    with pytest.raises(UserError, match="not a number"):
        convert_to_file(tmp_path / "spoilt", tmp_path / "spoilt.safetensors", "fp8")
    assert not (tmp_path / "ours").exists()
    assert not (tmp_path / "spoilt.safetensors").exists()
