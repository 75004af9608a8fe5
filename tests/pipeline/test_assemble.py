"""A released model from its base folder and its single file, at tiny size; and what is said when files are missing."""

from __future__ import annotations

import json
import shutil
import socket
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file, save_file
from transformers import UMT5Config, UMT5EncoderModel

import opensama
from opensama import runtime
from opensama.apps.cli import main
from opensama.media.video_io import read_video, write_video
from opensama.models.convert import FILE_LAYOUTS, convert_to_file
from opensama.models.registry import find
from opensama.pipeline.assemble import build_pipeline
from opensama.values import EditRequest, UserError, Video
from tests.media.making import add_sound, hear
from tests.pipeline.conftest import tiny_clip, tiny_hunyuan_vae, tiny_llama

GOLDEN = Path(__file__).parents[1] / "golden" / "sama"


@pytest.fixture(scope="module")
def base(pipe, tmp_path_factory) -> Path:
    """The layout of Wan2.1-T2V-14B-Diffusers."""
    folder = tmp_path_factory.mktemp("Wan2.1-T2V-14B-Diffusers")
    pipe.tokenizer.save_pretrained(folder / "tokenizer")
    text = UMT5Config(vocab_size=120, d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2, pad_token_id=0)
    UMT5EncoderModel(text).save_pretrained(folder / "text_encoder")
    torch.manual_seed(0)
    vae = AutoencoderKLWan(
        base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.0] * 16, latents_std=[1.0] * 16
    )
    vae.save_pretrained(folder / "vae")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "UniPCMultistepScheduler"}')
    (folder / "model_index.json").write_text('{"_class_name": "WanPipeline"}')
    sizes = {
        "_class_name": "WanTransformer3DModel", "num_attention_heads": 2, "attention_head_dim": 24, "in_channels": 16,
        "out_channels": 16, "text_dim": 32, "freq_dim": 32, "ffn_dim": 96, "num_layers": 2, "eps": 1e-6,
        "patch_size": [1, 2, 2], "cross_attn_norm": True, "qk_norm": "rms_norm_across_heads", "image_dim": None,
        "added_kv_proj_dim": None, "rope_max_seq_len": 1024,
    }  # fmt: skip
    (folder / "transformer").mkdir()
    (folder / "transformer" / "config.json").write_text(json.dumps(sizes))
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("SAMA-14B")
    shutil.copy(GOLDEN / "checkpoint.safetensors", folder / "sama_14b_ema.safetensors")
    return folder


def test_base_and_single_file_make_an_editor(base, weights, picture):
    said: list[str] = []
    runtime._said.clear()
    editor = opensama.load("sama-14b", device="cpu", base=base, weights=weights, notice=said.append)
    opensama.load("sama-14b", device="cpu", base=base, weights=weights / "sama_14b_ema.safetensors", notice=said.append)
    assert len(said) == 1
    assert "no licence" in said[0]
    assert editor.pipeline.defaults.steps == 50
    assert editor.pipeline.scheduler.config.shift == 5.0
    assert editor.pipeline.encode_prompt("Make it blue.").shape == (1, 512, 32)
    video = Video.from_frames(picture(5, 32, 48), 25)
    edited = editor.edit(EditRequest(video, "Make it blue.", steps=2, size=64))
    assert edited.array().shape == video.array().shape


def test_an_assembled_pipeline_is_saved_as_a_folder(base, weights, tmp_path, picture):
    editor = opensama.load("sama-14b", device="cpu", base=base, weights=weights)
    editor.pipeline.save_pretrained(tmp_path)
    again = opensama.load(tmp_path, device="cpu")
    assert again.pipeline.defaults == editor.pipeline.defaults
    request = EditRequest(Video.from_frames(picture(1, 32, 48), 25), "Make it blue.", steps=1, size=64)
    for part in ("transformer", "text_encoder", "vae"):
        ours, theirs = (getattr(e.pipeline, part).state_dict() for e in (editor, again))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    # a matrix product's last bit depends on where in memory the weights lie, and those of a folder lie as in its file
    ours, theirs = (e.edit(request).array().astype(int) for e in (editor, again))
    assert np.abs(ours - theirs).max() <= 1


def test_half_precision_keeps_the_autoencoder_exact(base, weights, picture):
    pipeline = opensama.load("sama-14b", device="cpu", dtype="bfloat16", base=base, weights=weights).pipeline
    assert pipeline.vae.dtype == torch.float32
    assert pipeline.text_encoder.dtype == torch.bfloat16
    assert pipeline.transformer.dtype == torch.bfloat16
    assert pipeline.transformer.blocks[0].ffn.net[2].weight.dtype == torch.bfloat16
    exact = opensama.load("sama-14b", device="cpu", base=base, weights=weights).pipeline
    assert_rounded_only(pipeline, exact, picture(5, 32, 48))


def assert_rounded_only(half, exact, clip):
    """Half precision's frames differ from those of float32, and by little of what there is to see in them."""
    found = []
    for pipeline in (half, exact):
        pipeline.set_progress_bar_config(disable=True)
        found.append(np.asarray(pipeline(clip, "make it blue", num_inference_steps=1, seed=0).frames))
    away = np.abs(found[0] - found[1]).mean() / found[1].std()
    assert 0 < away < 0.05


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        ("text_encoder/model.safetensors", ["text_encoder/model.safetensors", "Wan-AI/Wan2.1-T2V-14B-Diffusers"]),
        ("vae/config.json", ["vae/config.json", "huggingface.co"]),
        ("tokenizer", ["tokenizer"]),
        ("transformer", ["transformer/config.json"]),
    ],
)
def test_missing_base_files_are_named(base, weights, tmp_path, gone, words):
    folder = tmp_path / "base"
    shutil.copytree(base, folder)
    shutil.rmtree(folder / gone) if (folder / gone).is_dir() else (folder / gone).unlink()
    with pytest.raises(UserError) as error:
        opensama.load("sama-14b", device="cpu", base=folder, weights=weights)
    assert all(word in str(error.value) for word in words)


def test_missing_shards_are_named(base, weights, tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(base, folder)
    (folder / "text_encoder" / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "text_encoder" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"model-00001-of-00002\.safetensors, text_encoder/model-00002"):
        opensama.load("sama-14b", device="cpu", base=folder, weights=weights)


def test_missing_and_wrong_weights(base, weights, tmp_path):
    with pytest.raises(UserError, match=r"sama_14b_ema\.safetensors.*huggingface\.co/syxbb/SAMA-14B.*28\.6 GB"):
        opensama.load("sama-14b", device="cpu", base=base, weights=tmp_path)
    (tmp_path / "sama_14b_ema.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match="sama_14b_ema"):
        opensama.load("sama-14b", device="cpu", base=base, weights=tmp_path)
    with pytest.raises(UserError, match="one folder"):
        opensama.load("tiny", weights=weights)


def test_without_the_hub_it_says_what_to_fetch(monkeypatch, tmp_path):
    def refuse(repo: str, **options):
        from huggingface_hub.errors import LocalEntryNotFoundError

        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(UserError, match=r"sama_14b_ema\.safetensors of https://huggingface\.co/syxbb/SAMA-14B"):
        opensama.load("sama-14b", device="cpu", anyway=True)


def test_a_hub_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(runtime, "HUB_PATIENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(UserError, match=r"could not be downloaded .*[Tt]imeout"):
            runtime.locate("some/repo", ["vae/*"])


def test_a_wrong_file_of_weights_is_said_before_a_download(monkeypatch, tmp_path):
    def refuse(repo: str, **options):
        raise AssertionError(f"{repo} was asked for")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    pickle, cut = tmp_path / "sama.pt", tmp_path / "sama.safetensors"
    pickle.write_bytes(b"weights")
    cut.write_bytes((GOLDEN / "checkpoint.safetensors").read_bytes()[:20_000])
    with pytest.raises(UserError, match="is a pickle"):
        opensama.load("sama-14b", device="cpu", weights=pickle)
    with pytest.raises(UserError, match="not a whole safetensors file"):
        opensama.load("sama-14b", device="cpu", weights=cut)


def test_the_hubs_cache_is_used_first(base, monkeypatch):
    asked = []

    def cached(repo: str, *, allow_patterns, local_files_only=False):
        asked.append(local_files_only)
        return str(base)

    monkeypatch.setattr("huggingface_hub.snapshot_download", cached)
    assert runtime.locate("some/repo", ["vae/*"]) == base
    assert asked == [True]


@pytest.mark.parametrize("gone", ["transformer/diffusion_pytorch_model.safetensors", "scheduler", "vae/config.json"])
def test_a_folder_with_parts_missing(folder, tmp_path, gone):
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    shutil.rmtree(copy / gone) if (copy / gone).is_dir() else (copy / gone).unlink()
    with pytest.raises(UserError, match=gone):
        opensama.load(copy, device="cpu")


def test_what_a_models_folder_lacks_is_shared(tmp_path):
    entry = find("tiny-icve")
    assert not (entry.folder / "vae").exists()
    pipeline = opensama.load("tiny-icve", device="cpu").pipeline
    for folder, part, name in (
        (entry.shared, "vae", "diffusion_pytorch_model"),
        (entry.shared, "text_encoder", "model"),
    ):
        saved, state = load_file(folder / part / f"{name}.safetensors"), getattr(pipeline, part).state_dict()
        assert all(torch.equal(state[key], tensor.float()) for key, tensor in saved.items())
    shutil.copytree(entry.shared, tmp_path / "shared")
    (tmp_path / "shared" / "vae" / "config.json").unlink()
    with pytest.raises(UserError, match=r"shared has no vae/config\.json"):
        build_pipeline(replace(entry, shared=tmp_path / "shared"), torch.float32)


@pytest.mark.parametrize("part", ["text_encoder", "vae", "transformer"])
def test_a_folder_with_damaged_weights(folder, tmp_path, part):
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    (file,) = (copy / part).glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(UserError, match=f"{file.name} is not a whole safetensors file"):
        opensama.load(copy, device="cpu")


@pytest.mark.parametrize("file", ["tokenizer/tokenizer.json", "vae/config.json", "scheduler/scheduler_config.json"])
def test_a_folder_with_damaged_settings(folder, tmp_path, file):
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    (copy / file).write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        opensama.load(copy, device="cpu")


@pytest.mark.parametrize("part", ["text_encoder", "vae", "transformer"])
def test_a_tensor_that_is_missing_is_not_made_up(folder, tmp_path, part, capfd):
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    (file,) = (copy / part).glob("*.safetensors")
    tensors = load_file(file)
    name = next(name for name in reversed(tensors) if name.endswith(".weight"))
    save_file({other: tensor for other, tensor in tensors.items() if other != name}, file, {"format": "pt"})
    with pytest.raises(UserError, match=f"{part} do not fit the model: {name} is missing"):
        opensama.load(copy, device="cpu")
    assert capfd.readouterr() == ("", "")


def test_a_damaged_index_of_shards(folder, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    (copy / "text_encoder" / "model.safetensors").rename(copy / "text_encoder" / "model-1.safetensors")
    index = copy / "text_encoder" / "model.safetensors.index.json"
    index.write_text("shards")
    with pytest.raises(UserError, match="is not an index of shards"):
        opensama.load(copy, device="cpu")
    names = load_file(copy / "text_encoder" / "model-1.safetensors")
    index.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, "model-1.safetensors")}))
    opensama.load(copy, device="cpu")


def test_devices_and_number_types():
    assert runtime.pick_device("cpu") == torch.device("cpu")
    assert runtime.pick_dtype(None, torch.device("cpu")) == torch.float32
    assert runtime.pick_dtype(None, torch.device("cuda")) == torch.bfloat16
    assert runtime.pick_dtype("float16", torch.device("cpu")) == torch.float16
    for wrong in ("gpu", "cuda:99"):
        with pytest.raises(UserError, match="device"):
            runtime.pick_device(wrong)
    with pytest.raises(UserError, match="number type"):
        runtime.pick_dtype("int8", torch.device("cpu"))
    assert torch.equal(torch.randn(3, generator=runtime.seeded(5)), torch.randn(3, generator=runtime.seeded(5)))


@pytest.fixture(scope="module")
def hunyuan(icve, tmp_path_factory) -> Path:
    """The layout of hunyuanvideo-community/HunyuanVideo, names in the files as they were released."""
    folder = tmp_path_factory.mktemp("HunyuanVideo")
    icve.tokenizer.save_pretrained(folder / "tokenizer")
    clip_words = {"<|startoftext|>": 0, "<|endoftext|>": 1} | {f"{c}</w>": i for i, c in enumerate("makebluit", 2)}
    (folder / "tokenizer_2").mkdir()
    (folder / "tokenizer_2" / "vocab.json").write_text(json.dumps(clip_words))
    (folder / "tokenizer_2" / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_2" / "tokenizer_config.json").write_text('{"tokenizer_class": "CLIPTokenizer"}')
    torch.manual_seed(0)
    tiny_llama(24).save_pretrained(folder / "text_encoder")
    tiny_clip(16).save_pretrained(folder / "text_encoder_2")
    file = folder / "text_encoder_2" / "model.safetensors"
    tensors = {f"text_model.{name}": x for name, x in load_file(file).items()}
    save_file(tensors | {"text_model.embeddings.position_ids": torch.arange(77)[None]}, file, {"format": "pt"})
    tiny_hunyuan_vae(16).save_pretrained(folder / "vae")
    sizes = {
        "_class_name": "HunyuanVideoTransformer3DModel", "num_attention_heads": 2, "attention_head_dim": 16,
        "rope_axes_dim": [4, 6, 6], "num_layers": 2, "num_single_layers": 2, "num_refiner_layers": 2,
        "patch_size": 2, "patch_size_t": 1, "qk_norm": "rms_norm", "guidance_embeds": True, "text_embed_dim": 24,
        "pooled_projection_dim": 16, "rope_theta": 256.0, "mlp_ratio": 4.0, "in_channels": 16, "out_channels": 16,
    }  # fmt: skip
    (folder / "transformer").mkdir()
    (folder / "transformer" / "config.json").write_text(json.dumps(sizes))
    return folder


@pytest.fixture(scope="module")
def icve_weights() -> Path:
    return GOLDEN.parent / "icve" / "checkpoint.safetensors"


def test_icve_from_its_base_and_single_file(hunyuan, icve_weights, picture, tmp_path):
    said: list[str] = []
    runtime._said.clear()
    editor = opensama.load("icve-13b", device="cpu", base=hunyuan, weights=icve_weights, notice=said.append)
    small = opensama.load("icve-13b:384x240x81", device="cpu", base=hunyuan, weights=icve_weights, notice=said.append)
    (notice,) = said
    assert all(word in notice for word in ("European Union", "Tencent Hunyuan Community License", "no licence"))
    pipeline = editor.pipeline
    assert type(pipeline).__name__ == "IcvePipeline"
    assert (pipeline.defaults.area, pipeline.defaults.window) == (768 * 480, 61)
    assert (small.pipeline.defaults.area, small.pipeline.defaults.window) == (384 * 240, 81)
    assert pipeline.scheduler.config.shift == 7.0
    assert pipeline.vae.tile_sample_stride_num_frames == 48
    state = load_file(hunyuan / "text_encoder_2" / "model.safetensors")
    own = pipeline.text_encoder_2.state_dict()
    assert all(torch.equal(state[f"text_model.{name}"], x) for name, x in own.items())
    words = pipeline.encode_text("make it blue")
    assert words["encoder_hidden_states"].shape[::2] == (1, 24)
    video = Video.from_frames(picture(6, 37, 61), 25)
    edited = editor.edit(EditRequest(video, "make it blue", steps=1, size=32))
    assert edited.array().shape == video.array().shape

    pipeline.save_pretrained(tmp_path)
    again = opensama.load(tmp_path, device="cpu")
    assert again.pipeline.defaults == pipeline.defaults
    assert again.pipeline.vae.use_tiling


def test_icve_in_half_precision(hunyuan, icve_weights, picture):
    pipeline = opensama.load("icve-13b", device="cpu", dtype="bfloat16", base=hunyuan, weights=icve_weights).pipeline
    parts = ("transformer", "text_encoder", "text_encoder_2", "vae")
    wanted = [torch.bfloat16, torch.float16, torch.float16, torch.float32]
    assert [getattr(pipeline, part).dtype for part in parts] == wanted
    exact = opensama.load("icve-13b", device="cpu", base=hunyuan, weights=icve_weights).pipeline
    assert_rounded_only(pipeline, exact, picture(5, 32, 48))


@pytest.mark.parametrize(
    "gone", ["text_encoder_2/model.safetensors", "tokenizer_2/vocab.json", "vae/config.json", "transformer/config.json"]
)
def test_missing_parts_of_icves_base_are_named(hunyuan, icve_weights, tmp_path, gone):
    folder = tmp_path / "base"
    shutil.copytree(hunyuan, folder)
    (folder / gone).unlink()
    wanted = gone.replace("vocab", "tokenizer")
    with pytest.raises(UserError, match=rf"{wanted}.*huggingface\.co/hunyuanvideo-community/HunyuanVideo"):
        opensama.load("icve-13b", device="cpu", base=folder, weights=icve_weights)


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2", "vae"])
def test_a_tensor_that_icves_base_lacks_is_not_made_up(hunyuan, icve_weights, tmp_path, part):
    folder = tmp_path / "base"
    shutil.copytree(hunyuan, folder)
    (file,) = (folder / part).glob("*.safetensors")
    tensors = load_file(file)
    name = next(name for name in reversed(tensors) if name.endswith(".weight"))
    save_file({other: tensor for other, tensor in tensors.items() if other != name}, file, {"format": "pt"})
    with pytest.raises(UserError, match=f"{name.removeprefix('text_model.')} is missing"):
        opensama.load("icve-13b", device="cpu", base=folder, weights=icve_weights)


def test_the_command_line_edits_with_icve(hunyuan, icve_weights, picture, tmp_path, capsys):
    """Odd length, size and frame rate come back, and the sound with them."""
    write_video(Video.from_frames(picture(7, 36, 62), 12.5), tmp_path / "silent.mp4")
    add_sound(tmp_path / "silent.mp4", tmp_path / "in.mp4")
    out, options = tmp_path / "out.mp4", ["--size", "32", "--steps", "1", "--device", "cpu"]
    base = ["--model", "icve-13b:384x240x81", "--base", str(hunyuan), "--weights", str(icve_weights)]
    runtime._said.clear()
    assert main(["edit", str(tmp_path / "in.mp4"), "make it blue", "-o", str(out), *base, *options]) == 0
    said = capsys.readouterr()
    assert "Tencent Hunyuan Community License" in said.out + said.err
    before, after = read_video(tmp_path / "in.mp4"), read_video(out)
    assert (after.shape, after.timestamps) == (before.shape, before.timestamps)
    assert np.array_equal(hear(tmp_path / "in.mp4")[1], hear(out)[1])
    assert not np.array_equal(after.array(), before.array())
    assert main(["models", "info", "icve-13b:384x240x81"]) == 0
    said = capsys.readouterr()
    assert all(line in said.out for line in ("window: 81", "area: 92160", "European Union", "leoisufa/ICVE"))
    assert main(["edit", str(tmp_path / "in.mp4"), "make it blue", "--model", "icve-13b:80p"]) == 2
    assert "choose 768x480x61 or 384x240x81" in capsys.readouterr().err


@pytest.fixture(scope="module")
def single_files(weights, tmp_path_factory) -> Path:
    """The golden weights in layouts of other tools."""
    folder = tmp_path_factory.mktemp("diffusion_models")
    sizes = GOLDEN / "config.json"
    for layout, ending in FILE_LAYOUTS.items():
        convert_to_file(weights / "sama_14b_ema.safetensors", folder / f"{layout}{ending}", layout, config=sizes)
    return folder


@pytest.mark.parametrize(("layout", "error"), [("comfyui", 0.0), ("fp8", 0.05), ("gguf", 0.02)])
def test_a_single_file_is_a_model(base, weights, single_files, picture, layout, error):
    """Its base's other parts, the defaults of the model that it is one of; few bits stay so in memory."""
    file = single_files / f"{layout}{FILE_LAYOUTS[layout]}"
    editor = opensama.load(file, device="cpu", base=base, notice=lambda text: None)
    assert editor.entry.licence == find("sama-14b").licence
    assert editor.pipeline.defaults.steps == 50
    linear = editor.pipeline.transformer.blocks[0].ffn.net[2].weight
    assert (linear.element_size() < 4) == bool(error)
    exact = opensama.load("sama-14b", device="cpu", base=base, weights=weights, notice=lambda text: None)
    frames = []
    for pipeline in (editor.pipeline, exact.pipeline):
        pipeline.set_progress_bar_config(disable=True)
        frames.append(np.asarray(pipeline(picture(5, 32, 48), "make it blue", num_inference_steps=1, seed=0).frames))
    away = np.abs(frames[0] - frames[1]).mean() / frames[1].std()
    assert away <= error
    assert (away > 0) == bool(error)
    video = Video.from_frames(picture(1, 32, 48), 25)
    record = editor.edit(EditRequest(video, "Make it blue.", steps=1, size=64)).record
    assert record["model"]["name"] == file.name
    assert record["model"]["weights"] == {file.name: sha256(file.read_bytes()).hexdigest()}


def test_what_a_single_file_lacks_is_said(base, single_files, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    file = single_files / "comfyui.safetensors"
    with pytest.raises(UserError, match=r"weights itself: leave `weights` out"):
        opensama.load(file, device="cpu", base=base, weights=file)
    with pytest.raises(UserError, match=r"has no text_encoder/\*, tokenizer/\*, vae/\*.*: get .* from https://hugg"):
        opensama.load(file, device="cpu", base=tmp_path)
    plain = {name: x for name, x in load_file(file).items() if not name.startswith(("segment", "siglip", "semantic"))}
    save_file(plain, tmp_path / "wan.safetensors")
    said = r"wan\.safetensors may be BERNINI's or its base's.*give `model=bernini-1.3b` or `model=bernini-14b`"
    with pytest.raises(UserError, match=said):
        find(tmp_path / "wan.safetensors")
    save_file(plain, tmp_path / "bernini_renderer.safetensors")
    assert find(tmp_path / "bernini_renderer.safetensors").defaults == find("bernini-1.3b").defaults
    (tmp_path / "cut.safetensors").write_bytes(file.read_bytes()[:-5])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        find(tmp_path / "cut.safetensors")


def test_a_lora_on_few_bits_makes_them_plain_numbers(base, single_files, tmp_path):
    down, up = torch.randn(2, 48), torch.randn(48, 2)
    name = "blocks.0.self_attn.q"
    save_file({f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, tmp_path / "lora.safetensors")
    file, quiet = single_files / "fp8.safetensors", {"device": "cpu", "base": base, "notice": lambda text: None}
    plain = opensama.load(file, **quiet).pipeline.transformer.blocks[0].attn1.to_q
    added = opensama.load(file, lora=[tmp_path / "lora.safetensors"], **quiet).pipeline.transformer.blocks[0].attn1.to_q
    torch.testing.assert_close(added.weight, plain.scale * plain.weight.float() + up @ down)
