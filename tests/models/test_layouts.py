"""Single files as other tools have them: written from a random model of each family and read back, error stated."""

from __future__ import annotations

import gc
import json
import re
import resource
import signal
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from diffusers.models.modeling_utils import ModelMixin
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from opensama.apps.cli import main
from opensama.models.bernini import BerniniTransformer3DModel
from opensama.models.convert import FILE_LAYOUTS, convert_released, convert_to_file, load_released
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
    "fp8": (0.03, 0.03),
    "gguf:q8_0": (0.006, 0.006),
    "gguf:bf16": (0.002, 0.002),
    "gguf:q5_1": (0.04, 0.04),
    "gguf:q5_0": (0.045, 0.045),
    "gguf:q4_1": (0.08, 0.08),
    "gguf:q4_0": (0.09, 0.09),
}
EVERYWHERE = list(LAYOUTS)[:4]
HALF = 5e-4  # of answers of GGUF's blocks, which diffusers multiplies out in float16


def written(source: Path, folder: Path, layout: str) -> Path:
    """A file of a layout, as LAYOUTS names them."""
    layout, _, quantization = layout.partition(":")
    how = {"quantization": quantization} if quantization else {}
    return convert_to_file(source, folder / f"weights{FILE_LAYOUTS[layout]}", layout, **how)


@pytest.mark.parametrize(
    ("family", "layout"),
    [(family, layout) for layout in LAYOUTS for family in CLASSES if family == "icve" or layout in EVERYWHERE],
)
def test_each_layout_holds_the_model_and_comes_back(folders, tmp_path, family, layout):
    """Without being told family or sizes; as a folder, and as a model whose matrices stay as they are stored."""
    model, (matrix_error, answer_error) = model_of(family), LAYOUTS[layout]
    file = written(folders[family], tmp_path, layout)
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
    assert away(answer(kept), answer(spread)) <= (HALF if layout.startswith("gguf") else EQUAL)
    if matrix_error and layout != "gguf:bf16":
        stored = {name: kept.get_submodule(name).weight.element_size() for name in matrices(model)}
        assert set(stored.values()) == {1}
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


def test_gguf_files_are_as_comfyui_gguf_has_them(folders, tmp_path):
    """Its architecture, names of the base's authors, matrices of blocks in blocks, all else whole."""
    for family, architecture in (("bernini", "wan"), ("icve", "hyvid")):
        reader = gguf.GGUFReader(convert_to_file(folders[family], tmp_path / f"{family}.gguf", "gguf"))
        fields = {name: field.contents() for name, field in reader.fields.items()}
        assert fields["general.architecture"] == architecture
        assert fields["general.file_type"] == gguf.LlamaFileType.MOSTLY_Q8_0
        kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
        plain = TensorFiles(convert_to_file(folders[family], tmp_path / f"{family}.safetensors", "comfyui"))
        eight = TensorFiles(convert_to_file(folders[family], tmp_path / f"{family}8.safetensors", "fp8"))
        assert {tensor.name: tuple(tensor.shape[::-1]) for tensor in reader.tensors} == plain.shapes
        blocks = {name for name, info in eight.infos.items() if info.dtype == "F8_E4M3"} & kinds.keys()
        assert kinds == {name: "Q8_0" if name in blocks else "F32" for name in kinds}


def test_other_gguf_files_are_read(tmp_path):
    """K blocks, 16 bits, a folded matrix and a prefix, as others' files have them."""
    draw, kinds = np.random.default_rng(3), gguf.GGMLQuantizationType
    sizes = SIZES | WIDE | {"num_attention_heads": 8, "ffn_dim": 256, "num_layers": 1}
    model = SamaTransformer3DModel(**sizes).eval()
    model.save_pretrained(tmp_path / "model")
    plain = TensorFiles(convert_to_file(tmp_path / "model", tmp_path / "plain.safetensors", "comfyui"))
    writer = gguf.GGUFWriter(tmp_path / "other.gguf", "wan")
    made: dict[str, Tensor] = {}
    for name, info in plain.infos.items():
        kind = {"self_attn.q.weight": kinds.Q4_K, "self_attn.k.weight": kinds.Q6_K, "ffn.0.weight": kinds.Q3_K}
        kind |= {"ffn.2.weight": kinds.IQ4_XS, "cross_attn.o.weight": kinds.F16, "text_embedding.2.weight": kinds.Q8_0}
        kind |= {"text_embedding.0.weight": kinds.Q8_0}
        found = kind.get(name.removeprefix("blocks.0."), kinds.F32)
        x, folded = plain.tensor(name), name == "text_embedding.0.weight"
        if folded:
            writer.add_array(f"comfy.gguf.orig_shape.model.diffusion_model.{name}", list(info.shape))
            x = x.reshape(-1, 64)
        if found in (kinds.F32, kinds.F16, kinds.Q8_0):
            data = gguf.quants.quantize(x.numpy(), found)
        else:  # which the package does not make: any bytes are some numbers, as long as their scales are small
            size, length = gguf.GGML_QUANT_SIZES[found]
            data = draw.integers(0, 256, (x.shape[0], x.shape[1] // size, length), np.uint8)
            at = {kinds.Q4_K: (0, 2), kinds.Q6_K: (208,), kinds.Q3_K: (108,), kinds.IQ4_XS: (0,)}[found]
            for place in at:
                data[:, :, place : place + 2] = np.array([0.0001], np.float16).view(np.uint8)
            data = data.reshape(x.shape[0], -1)
        made[name] = torch.from_numpy(gguf.quants.dequantize(data, found).copy()).reshape(info.shape)
        writer.add_tensor(f"model.diffusion_model.{name}", data, raw_dtype=found)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    spread, kept = (
        load_released(tmp_path / "other.gguf", config=sizes, dtype=torch.float32, packed=packed)
        for packed in (False, True)
    )
    released = find_family("sama").layout({name: tuple(p.shape) for name, p in spread.state_dict().items()})
    for name, rows in released.items():
        assert torch.equal(spread.state_dict()[rows[0].name], made[name]), name
    assert away(answer(kept), answer(spread)) <= HALF
    q, o = kept.blocks[0].attn1.to_q.weight, kept.blocks[0].attn2.to_out[0].weight
    assert (q.dtype, o.dtype) == (torch.uint8, torch.float32)


def test_a_file_larger_than_the_memory_converts(tmp_path):
    """What is held at once is some of the largest tensor, whatever the file's size."""
    sizes = SIZES | {"num_attention_heads": 8, "attention_head_dim": 32, "ffn_dim": 1024, "num_layers": 12}
    model = SamaTransformer3DModel(**sizes)
    model.save_pretrained(tmp_path / "model")
    largest = max(p.nbytes for p in model.parameters())
    del model
    whole = (tmp_path / "model" / "diffusion_pytorch_model.safetensors").stat().st_size
    assert whole > 30 * largest
    for source, layout in (("model", "fp8"), ("model", "gguf"), ("weights.gguf", "comfyui")):
        source, place = tmp_path / source, tmp_path / f"weights{FILE_LAYOUTS[layout]}"
        convert = partial(convert_to_file, source, place, layout)
        held = min(most_memory(convert) for _ in range(2))  # the first may import, or grow what is then kept
        assert held < 8 * largest, (layout, held / largest)


def most_memory(run: Callable[[], object]) -> int:
    """By how many bytes this process grows at most while it runs something."""

    def resident(key: str) -> int:
        return int(re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the highest is that of now
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before


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
    with pytest.raises(UserError, match="no layout 'onnx': choose released, comfyui, fp8, gguf"):
        convert_to_file(folders["sama"], tmp_path / "sama.safetensors", "onnx")
    with torch.no_grad():
        spoilt = CLASSES["sama"]()
        spoilt.blocks[0].attn1.to_q.weight[3, 3] = torch.nan
    spoilt.save_pretrained(tmp_path / "spoilt")
    with pytest.raises(UserError, match="not a number"):
        convert_to_file(tmp_path / "spoilt", tmp_path / "spoilt.safetensors", "fp8")
    assert not (tmp_path / "ours").exists()
    assert not (tmp_path / "spoilt.safetensors").exists()


def test_what_is_wrong_with_a_gguf_file_is_said(folders, tmp_path, monkeypatch):
    file = convert_to_file(folders["icve"], tmp_path / "weights.gguf", "gguf")
    data = file.read_bytes()
    for cut in (data[:-40], data[:3000], data[:30], b"GGUF", b"not a GGUF file at all"):
        (tmp_path / "cut.gguf").write_bytes(cut)
        with pytest.raises(UserError, match=r"cut\.gguf is not a whole GGUF file"):
            load_released(tmp_path / "cut.gguf")
    with pytest.raises(UserError, match="no sama weights"):
        load_released(file, "sama")
    with pytest.raises(UserError, match="not written as 'q4_k': choose q8_0, "):
        convert_to_file(folders["icve"], tmp_path / "x.gguf", "gguf", quantization="q4_k")
    with pytest.raises(UserError, match=r"end it in \.gguf"):
        convert_to_file(folders["icve"], tmp_path / "x.safetensors", "gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match=r"need the gguf package: run .* -m pip install"):
        load_released(file)


@pytest.mark.parametrize("layout", ["comfyui", "fp8", "gguf"])
def test_a_full_disk_leaves_nothing_under_the_name(folders, tmp_path, layout, capsys):
    place = tmp_path / f"weights{FILE_LAYOUTS[layout]}"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))  # no file may grow beyond: the same error
    try:
        assert main(["models", "convert", str(folders["sama"]), str(place), "--to", layout]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "disk" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]
