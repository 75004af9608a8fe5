"""Released weights to ours and back: every tensor has its place, bit for bit, and what does not fit is named."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from opensama.models import weights
from opensama.models.convert import (
    TensorsFromRows,
    convert_released,
    convert_to_file,
    empty_model,
    load_released,
    read_back,
    released_shape,
)
from opensama.models.families import MODEL_FAMILIES, Rows
from opensama.models.sama import SamaTransformer3DModel
from opensama.models.weights import TensorFiles, TensorInfo, write_safetensors
from opensama.values import UserError

GOLDEN = Path(__file__).parents[1] / "golden"
CHECKPOINT, CONFIG = GOLDEN / "sama" / "checkpoint.safetensors", GOLDEN / "sama" / "config.json"


def small_release(folder: Path, dtype: torch.dtype = torch.bfloat16, **changes: torch.Tensor | None) -> Path:
    """The golden checkpoint as a file of another type, some tensors changed or (None) left out."""
    tensors = {name: x.to(dtype) for name, x in load_file(CHECKPOINT).items()} | changes
    file = folder / "release.safetensors"
    save_file({name: x for name, x in tensors.items() if x is not None}, file, metadata={"format": "pt"})
    return file


@pytest.mark.parametrize(
    ("family", "keys", "sizes"),
    [
        (
            "sama", "sama_14b_keys.json",
            {"num_attention_heads": 40, "attention_head_dim": 128, "num_layers": 40, "semantic_rotary": "zero"},
        ),
        (
            "icve", "icve_13b_keys.json",
            {"num_attention_heads": 24, "num_layers": 20, "num_single_layers": 40, "patch_size": (1, 2, 2)},
        ),
        ("bernini", "bernini_1p3b_keys.json", {"num_attention_heads": 12, "attention_head_dim": 128, "num_layers": 30}),
        ("bernini", "bernini_14b_keys.json", {"num_attention_heads": 40, "attention_head_dim": 128, "num_layers": 40}),
    ],
)  # fmt: skip
def test_every_released_tensor_maps_both_ways_into_the_full_model(family, keys, sizes):
    released = json.loads((GOLDEN / keys).read_text())
    shapes = {name: tuple(shape) for name, shape in released["tensors"].items()}
    row = MODEL_FAMILIES[family]
    model = empty_model(row, shapes, {})
    assert {p.device.type for p in model.parameters()} == {"meta"}
    ours = {name: tuple(p.shape) for name, p in model.state_dict().items()}
    layout = row.layout(ours)
    assert {name: released_shape(parts, ours) for name, parts in layout.items()} == shapes
    held: dict[str, list[tuple[int, int]]] = {name: [] for name in ours}
    for part in (part for parts in layout.values() for part in parts):
        held[part.name].append((part.start, part.stop))
    for name, spans in held.items():  # each of our rows is in one place
        edges = [edge for span in sorted(spans) for edge in span]
        assert edges[::2] == [0, *edges[1:-1:2]], name
        assert edges[-1] == ours[name][0], name
    assert {key: model.config[key] for key in sizes} == sizes
    wanted = {
        "sama_14b_keys.json": (1106, 14_300_847_552),
        "icve_13b_keys.json": (856, 12_821_012_544),
        "bernini_1p3b_keys.json": (825, 1_418_996_800),
        "bernini_14b_keys.json": (1095, 14_288_491_584),
    }
    assert (len(shapes), sum(math.prod(shape) for shape in shapes.values())) == wanted[keys]


def test_the_round_trip_keeps_every_bit_through_shards(tmp_path):
    file = small_release(tmp_path)
    ours = convert_released(file, tmp_path / "ours", "sama", CONFIG, shard_bytes=30_000)
    shards = sorted(path.name for path in ours.glob("*.safetensors"))
    assert len(shards) > 3
    assert all((ours / name).stat().st_size < 40_000 for name in shards)
    model = SamaTransformer3DModel.from_pretrained(ours, torch_dtype=torch.bfloat16)
    assert model.blocks[1].attn1.to_q.weight.dtype == torch.bfloat16
    back = convert_to_file(ours, tmp_path / "back.safetensors")
    before, after = load_file(file), load_file(back)
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)
    assert not [*tmp_path.rglob("*.part")]
    again = convert_released(back, ours, config=CONFIG)  # into the same folder: no old shard stays
    assert sorted(path.name for path in again.iterdir()) == ["config.json", "diffusion_pytorch_model.safetensors"]
    with pytest.raises(UserError, match="another folder"):
        convert_released(file, tmp_path, config=CONFIG)
    with pytest.raises(UserError, match="another name"):
        convert_to_file(ours, ours / "diffusion_pytorch_model.safetensors")


def test_what_a_disk_spoilt_is_found_when_it_is_read_back(tmp_path):
    files = TensorFiles(CHECKPOINT)
    pieces = {name: [Rows(name, 0, info.shape[0] if info.shape else 1)] for name, info in files.infos.items()}
    wanted, written = TensorsFromRows(files, pieces), tmp_path / "written.safetensors"
    data = CHECKPOINT.read_bytes()
    written.write_bytes(data)
    read_back(written, wanted)
    written.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(UserError, match=r"came back from .*written\.safetensors with other numbers"):
        read_back(written, wanted)


def test_fused_tensors_come_apart_and_together(tmp_path):
    """Sizes come from the released names or ours; rows of one tensor must be of one type to be put together."""
    golden = GOLDEN / "icve"
    given = json.loads((golden / "config.json").read_text())
    ours = convert_released(golden / "checkpoint.safetensors", tmp_path / "ours", "icve", golden / "config.json")
    weights, released = ours / "diffusion_pytorch_model.safetensors", load_file(golden / "checkpoint.safetensors")
    tensors = load_file(weights)
    block = "single_transformer_blocks.1"
    parts = [tensors[f"{block}.{part}.bias"] for part in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")]
    assert torch.equal(torch.cat(parts), released["single_blocks.1.linear1.bias"])
    shift, scale = released["final_layer.adaLN_modulation.1.weight"].chunk(2)
    assert torch.equal(tensors["norm_out.linear.weight"], torch.cat([scale, shift]))
    model = load_released(golden / "checkpoint.safetensors", "icve", given)
    sizes = {"num_attention_heads": given["heads_num"], "rope_axes_dim": given["rope_dim_list"]}
    again = load_released(golden / "checkpoint.safetensors", "icve", sizes)
    assert {**again.config, "_use_default_values": None} == {**model.config, "_use_default_values": None}
    with pytest.raises(UserError, match="heads_num"):
        load_released(golden / "checkpoint.safetensors", "icve")
    with pytest.raises(UserError, match="rope_dim_list"):
        load_released(golden / "checkpoint.safetensors", "icve", {"heads_num": 2})
    tensors[f"{block}.attn.to_k.weight"] = tensors[f"{block}.attn.to_k.weight"].half()
    save_file(tensors, weights)
    with pytest.raises(UserError, match=r"make single_blocks\.1\.linear1\.weight are of several types"):
        convert_to_file(ours, tmp_path / "back.safetensors")


def test_shards_are_read_from_an_index_or_a_folder(tmp_path):
    tensors = load_file(CHECKPOINT)
    names = sorted(tensors)
    parts = {"a.safetensors": names[:20], "b.safetensors": names[20:]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: file for file, part in parts.items() for name in part}}))
    for src in (index, tmp_path):
        model = load_released(src, config=CONFIG)
        assert torch.equal(model.patch_embedding.weight, tensors["patch_embedding.weight"])
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(UserError, match=r"b\.safetensors"):
        TensorFiles(index)


def test_loading_keeps_what_diffusers_keeps_in_float32(tmp_path):
    folder = convert_released(small_release(tmp_path), tmp_path / "ours", config=CONFIG)
    ours = load_released(tmp_path / "release.safetensors", config=CONFIG, dtype=torch.bfloat16)
    theirs = SamaTransformer3DModel.from_pretrained(folder, torch_dtype=torch.bfloat16)
    expected = {name: x.dtype for name, x in theirs.state_dict().items()}
    assert {name: x.dtype for name, x in ours.state_dict().items()} == expected
    assert set(expected.values()) == {torch.float32, torch.bfloat16}


def test_sizes_are_read_off_the_tensors():
    model = load_released(CHECKPOINT, config={"num_heads": 2, "_class_name": "WanTransformer3DModel"})
    given = load_released(CHECKPOINT, config=CONFIG)
    assert {**model.config, "_use_default_values": None} == {**given.config, "_use_default_values": None}
    with pytest.raises(UserError, match="num_heads"):
        load_released(CHECKPOINT)


def test_models_without_our_modules_convert_too(tmp_path):
    sizes = tmp_path / "plain.json"
    sizes.write_text(json.dumps({"num_heads": 2, "semantic_dim": None, "type_embedding": False}))
    added = ("segment_embedding", "siglip_feat_mlp", "semantic_head")
    names = [name for name in load_file(CHECKPOINT) if name.startswith(added)]
    assert len(names) == 11
    file = small_release(tmp_path, **dict.fromkeys(names))
    folder = convert_released(file, tmp_path / "ours", "sama", sizes)
    assert SamaTransformer3DModel.from_pretrained(folder).semantic_head is None
    back = convert_to_file(folder, tmp_path / "back.safetensors")
    assert set(load_file(back)) == set(load_file(file))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks.1.ffn.0.bias": None}, "blocks.1.ffn.0.bias is missing"),
        ({"segment_embedding.weight": None}, "segment_embedding.weight is missing"),
        ({"patch_embedding.weight": None}, "patch_embedding.weight is missing"),
        ({"task_embedding.weight": torch.zeros(6, 48)}, "task_embedding.weight is unexpected"),
        ({"blocks.0.self_attn.q.scale": torch.zeros(1)}, r"blocks.0.self_attn.q.scale is unexpected"),
        ({"blocks.2.norm3.bias": torch.zeros(48)}, "blocks.2.norm3.bias is unexpected"),
        ({"semantic_head.proj.bias": torch.zeros(25)}, r"semantic_head.proj.bias has shape \(25,\) where \(24,\)"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        convert_released(small_release(tmp_path, **change), tmp_path / "ours", config=CONFIG)
    assert not (tmp_path / "ours").exists()


def test_our_folder_is_checked_on_the_way_back(tmp_path):
    folder = convert_released(CHECKPOINT, tmp_path / "ours", config=CONFIG)
    weights = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    del tensors["proj_out.bias"]
    save_file(tensors, weights)
    with pytest.raises(UserError, match=r"proj_out\.bias is missing"):
        convert_to_file(folder, tmp_path / "back.safetensors")
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        convert_to_file(folder, tmp_path / "back.safetensors")
    (folder / "config.json").write_text('{"_class_name": "UNet"}')
    with pytest.raises(UserError, match="UNet"):
        convert_to_file(folder, tmp_path / "back.safetensors")
    with pytest.raises(UserError, match=r"config\.json"):
        convert_to_file(tmp_path, tmp_path / "back.safetensors")
    assert not (tmp_path / "back.safetensors").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("weights.pt", b"", "pickle"),
        ("weights.bin", b"", "pickle"),
        ("weights.txt", b"", r"\.safetensors"),
        ("weights.safetensors", b"not this", "whole safetensors"),
        ("weights.safetensors", CHECKPOINT.read_bytes()[:5000], "whole safetensors"),
        ("weights.safetensors", CHECKPOINT.read_bytes()[:-5], "whole safetensors"),
        ("weights.safetensors", None, "no file"),
        ("x.safetensors.index.json", b"[]", "index"),
        ("folder", None, "no file"),
    ],
)
def test_what_is_no_safetensors_file_is_refused(tmp_path, name, content, message):
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=message):
        convert_released(file, tmp_path / "ours", config=CONFIG)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "JSON object"),
        ('{"depth": 3}', "'depth'"),
        ('{"num_heads": 5}', "5 heads"),
        ('{"num_heads": 0}', "make no sama transformer"),
        ('{"num_heads": 2, "num_layers": "two"}', "make no sama transformer"),
        ('{"num_heads": 2, "dim": 96}', "patch_embedding.weight has shape"),
    ],
)
def test_wrong_sizes_are_refused(tmp_path, text, message):
    sizes = tmp_path / "sizes.json"
    sizes.write_text(text)
    with pytest.raises(UserError, match=message):
        convert_released(CHECKPOINT, tmp_path / "ours", config=sizes)


def test_unknown_family_and_missing_sizes_are_refused(tmp_path):
    with pytest.raises(UserError, match="family 'wan'"):
        convert_released(CHECKPOINT, tmp_path / "ours", "wan")
    with pytest.raises(UserError, match="no file"):
        convert_released(CHECKPOINT, tmp_path / "ours", config=tmp_path / "none.json")


def test_places_that_cannot_be_written_are_refused(tmp_path):
    folder = convert_released(CHECKPOINT, tmp_path / "ours", config=CONFIG)
    file = tmp_path / "file.safetensors"
    file.touch()
    for place in (file, file / "inside"):
        with pytest.raises(UserError, match="cannot be made"):
            convert_released(CHECKPOINT, place, config=CONFIG)
    with pytest.raises(UserError, match="cannot be made"):
        convert_to_file(folder, file / "back.safetensors")
    for place in (tmp_path, tmp_path / "back.bin"):  # what is called .bin would not be read again
        with pytest.raises(UserError, match=r"end it in \.safetensors"):
            convert_to_file(folder, place)


def test_nothing_is_left_when_writing_fails(tmp_path):
    def fail(_name: str) -> torch.Tensor:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_safetensors(tmp_path / "x.safetensors", {"a": TensorInfo((2,), "F32")}, fail)
    assert not [*tmp_path.iterdir()]


def test_every_type_is_written_as_it_is_read(tmp_path):
    tensors = {str(t): torch.ones(2, 3).to(t) for t in (torch.float16, torch.float8_e4m3fn, torch.int8, torch.bool)}
    tensors |= {"scalar": torch.tensor(3.5), "empty": torch.zeros(0, 4)}
    save_file(tensors, tmp_path / "in.safetensors")
    files = TensorFiles(tmp_path / "in.safetensors")
    write_safetensors(tmp_path / "out.safetensors", files.infos, files.tensor)
    got = load_file(tmp_path / "out.safetensors")
    assert all(got[name].dtype == x.dtype and torch.equal(got[name].float(), x.float()) for name, x in tensors.items())


def test_a_file_is_opened_once_for_many_small_tensors_and_anew_for_large_ones(tmp_path, monkeypatch):
    small = {f"{i}": torch.full((8,), float(i)) for i in range(500)}
    large = {"x": torch.ones(2**19), "y": torch.ones(9)}
    save_file(small | large, tmp_path / "in.safetensors")
    files, opened = TensorFiles(tmp_path / "in.safetensors"), []
    monkeypatch.setattr(weights, "safe_open", lambda file, **how: opened.append(file) or safe_open(file, **how))
    for name, x in small.items():
        files.tensor(name).zero_()  # whoever changes one changes it alone
        assert torch.equal(files.tensor(name), x)
        files.rows(name, 2, 4).zero_()
        assert torch.equal(files.rows(name, 2, 4), x[2:4])
    assert len(opened) == 1
    for _ in range(2):
        assert files.tensor("x").add_(1).sum() == 2**20
    assert len(opened) == 2
    assert files.tensor("y").sum() == 9
    assert len(opened) == 3, "a large tensor's pages are let go of"
