"""Offloading: every kind computes what none computes, on every pipeline; and what is said when memory or disk is full.

Without a GPU, weights "come back" to the CPU. On disk that is a real test: a block that nobody brings back holds
whatever was in memory.
"""

from __future__ import annotations

import copy
import gc
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import cpu_offload_with_hook

import opensama
from opensama.apps.cli import main
from opensama.media.video_io import write_video
from opensama.models.tiny import PatchAutoencoder
from opensama.pipeline.editor import Editor
from opensama.pipeline.memory import check_disk, layers_of, next_cheaper, place_on_device
from opensama.values import EditRequest, UserError, Video

CPU = torch.device("cpu")
ASK = "Make the ball blue."


@pytest.fixture
def video(picture) -> Video:
    return Video.from_frames(picture(5, 32, 48), 25)


@pytest.fixture
def clip(picture) -> torch.Tensor:
    return torch.from_numpy(picture(5, 32, 32)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1


@pytest.fixture(params=["sama", "icve", "bernini", "tiny", "tiny-icve"])
def fresh(request) -> Callable[[], Any]:
    """Makes a pipeline anew, always the same."""
    if request.param.startswith("tiny"):
        return lambda: opensama.load(request.param, device="cpu").pipeline
    whole = request.getfixturevalue({"sama": "pipe"}.get(request.param, request.param))
    return lambda: clone(whole)


def clone(pipeline: Any) -> Any:
    parts = {name: copy.deepcopy(part) for name, part in pipeline.components.items()}
    twin = type(pipeline)(**parts, defaults=pipeline.defaults.to_dict())
    twin.set_progress_bar_config(disable=True)
    return twin


def test_every_offload_computes_what_none_does(fresh, clip, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    first = fresh()
    steps = len(first.experts)  # the second of two works from the second step on
    settings: dict[str, Any] = {"seed": 0, "num_inference_steps": steps, "guidance_scale": 1.0}
    plain = first(clip, ASK, **settings).frames
    assert np.isfinite(plain).all()
    for offload, times in (("none", 1), ("model", 2), ("group", 1), ("disk", 2)):
        pipeline = fresh()
        place_on_device(pipeline, CPU, offload)
        for _ in range(times):
            frames = pipeline(clip, ASK, **settings).frames
            np.testing.assert_allclose(frames, plain, atol=2e-5, err_msg=offload)


def test_leaves_on_disk_too(fresh, clip, tmp_path):
    """diffusers' own call: the tied embedding of a text encoder, and an autoencoder whose forward is not called."""
    plain, pipeline = fresh(), fresh()
    settings = {"seed": 0, "num_inference_steps": len(plain.experts)}
    frames = plain(clip, ASK, **settings).frames
    pipeline.enable_group_offload("cpu", offload_type="leaf_level", offload_to_disk_path=tmp_path)
    np.testing.assert_allclose(pipeline(clip, ASK, **settings).frames, frames, atol=2e-5)


def test_two_models_in_one_folder_keep_their_own_weights(pipe, clip, tmp_path):
    """Equal classes, equal names of blocks, other numbers."""
    one, other = clone(pipe), clone(pipe)
    with torch.no_grad():
        for p in other.transformer.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    plain = [twin(clip, ASK, seed=0).frames for twin in (one, other)]
    assert np.abs(plain[0] - plain[1]).max() > 1e-3
    for twin in (one, other):
        twin.enable_group_offload("cpu", offload_to_disk_path=tmp_path)
    for twin, frames in zip((one, other), plain, strict=True):
        np.testing.assert_allclose(twin(clip, ASK, seed=0).frames, frames, atol=2e-5)
    assert len(list(tmp_path.iterdir())) == 6  # text encoder, autoencoder and transformer of each
    del one, other, twin
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_text_encoder_is_cut_at_its_layers(pipe, icve):
    assert layers_of(pipe.text_encoder) is pipe.text_encoder.encoder
    assert layers_of(icve.text_encoder) is icve.text_encoder
    assert layers_of(icve.text_encoder_2) is icve.text_encoder_2  # its embeddings lie outside of the list of layers


def test_the_embedded_autoencoder_is_moved_before_it_encodes_and_decodes():
    """The meta device stands for a GPU: there is no mixing it with the CPU's tensors."""
    frames = torch.zeros(1, 3, 5, 32, 32, device="meta")
    latents = torch.zeros(1, 192, 2, 2, 2, device="meta")
    for call, x in (("encode", frames), ("decode", latents)):
        vae = PatchAutoencoder(widths=(4, 4, 4), decoder_blocks=(1, 1, 1)).eval()
        cpu_offload_with_hook(vae, torch.device("meta"))
        getattr(vae, call)(x)
        assert vae.device.type == "meta"


def test_tiling_the_embedded_autoencoder_changes_nothing_but_the_batch():
    torch.manual_seed(0)
    vae = PatchAutoencoder(widths=(4, 4, 4), decoder_blocks=(1, 1, 1)).eval()
    torch.nn.init.normal_(vae.paint.weight)
    x, seen = torch.rand(2, 3, 13, 32, 32) * 2 - 1, []
    vae.paint.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    with torch.no_grad():
        plain = vae.decode(vae.encode(x).latent_dist.mode()).sample
        assert max(seen) == 2 * 12
        seen.clear()
        vae.enable_tiling()
        torch.testing.assert_close(vae.decode(vae.encode(x).latent_dist.mode()).sample, plain)
        assert max(seen) == 2 * 4
        vae.disable_tiling()
        torch.testing.assert_close(vae(x).sample, plain)
        assert max(seen) == 2 * 12


def fill_memory(module: Any, args: Any) -> None:
    torch.empty(2**60)


@pytest.mark.parametrize(
    ("part", "options", "cheaper"),
    [
        ("transformer", {"offload": "none"}, "`offload=disk`"),
        ("transformer", {"offload": "disk"}, r"`size=16`, or `frames`"),
        ("decoder", {"offload": "none"}, "`vae_tiling=True`"),
        ("decoder", {"offload": "none", "vae_tiling": True}, "`offload=disk`"),
    ],
)
def test_a_full_memory_names_the_next_cheaper_setting(folder, video, part, options, cheaper):
    editor = opensama.load(folder, device="cpu", **options)
    module = editor.pipeline.transformer if part == "transformer" else editor.pipeline.vae.decoder
    module.register_forward_pre_hook(fill_memory)
    with pytest.raises(UserError, match=rf"The memory of cpu is full with `offload=.*`: try {cheaper}"):
        editor.edit(EditRequest(video, ASK))


def test_the_order_of_settings_on_a_gpu():
    def cheaper(offload: str, **where: Any) -> str:
        settings = {"vae_tiling": False, "decoding": False, "side": 632} | where
        return next_cheaper(torch.device("cuda"), offload, **settings)

    assert cheaper("none") == "`offload=model`"
    assert cheaper("model") == "`offload=group`"
    assert cheaper("group").startswith("`size=464`")
    assert cheaper("disk").startswith("`size=464`")
    assert cheaper("none", decoding=True) == "`vae_tiling=True`"
    assert cheaper("none", decoding=True, vae_tiling=True) == "`offload=model`"


def test_the_text_encoder_makes_room_where_memory_is_short(folder, video):
    editor = opensama.load(folder, device="cpu")
    plain = editor.edit(EditRequest(video, ASK)).array()
    sent, full = [], iter([True])

    def once(module: Any, args: Any) -> None:
        if next(full, False):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    encoder = editor.pipeline.text_encoder
    move, editor.pipeline.text_encoder.to = encoder.to, lambda place: sent.append(str(place))
    editor.pipeline.transformer.register_forward_pre_hook(once)
    assert np.array_equal(editor.edit(EditRequest(video, ASK)).array(), plain)
    assert sent == ["cpu", "cpu"]  # on its device, then away
    encoder.to = move


def test_a_pipeline_is_where_its_transformer_is(pipe):
    twin = clone(pipe)
    twin.transformer.to("meta")
    assert twin.device.type == "meta"
    assert twin.text_encoder.device.type == "cpu"


def test_a_disk_too_small_and_a_second_gpu_are_said(pipe, tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path)._replace(free=10)
    with pytest.raises(UserError, match="not to cuda:1: set CUDA_VISIBLE_DEVICES"):
        check_disk(pipe.transformer, tmp_path, "cuda:1")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(UserError, match=r"needs 0\.0 GB more in .*: set TMPDIR"):
        check_disk(pipe.transformer, tmp_path, CPU)


def test_from_the_command_line(folder, video, tmp_path, capsys):
    clip, out = tmp_path / "clip.mp4", tmp_path / "out.mp4"
    write_video(video, clip)
    settings = ["--offload", "disk", "--vae-tiling", "--dtype", "float32"]
    assert main(["edit", str(clip), ASK, "-m", str(folder), "-o", str(out), *settings]) == 0
    assert out.exists()
    assert main(["edit", str(clip), ASK, "-m", str(folder), "--overwrite", "-o", str(out), "--offload", "ram"]) == 2
    assert main(["edit", str(clip), ASK, "-m", str(folder), "--overwrite", "-o", str(out), "--dtype", "int4"]) == 2
    said = capsys.readouterr().err
    assert "choose auto, none, model, group, disk" in said
    assert "choose float32, bfloat16, float16" in said


def test_python_takes_the_same_settings(folder, video, tmp_path):
    plain = opensama.edit(video, ASK, folder, device="cpu").array()
    again = opensama.edit(video, ASK, folder, device="cpu", dtype="float32", offload="group", vae_tiling=True).array()
    assert np.array_equal(plain, again)
    editor = opensama.load(folder, device="cpu", offload="model", vae_tiling=True)
    assert isinstance(editor, Editor)
    assert editor.pipeline.vae.use_tiling
