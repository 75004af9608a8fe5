"""ICVE's training with the real classes at tiny size: from HunyuanVideo's weights, in the same loop, to an editor."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import HunyuanVideoTransformer3DModel
from safetensors.torch import load_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from opensama import EditRequest, load
from opensama.apps.cli import main as opensama
from opensama.media.video_io import read_video, write_video
from opensama.models.convert import load_released
from opensama.models.costs import training_flops
from opensama.models.families import MODEL_FAMILIES
from opensama.models.families.icve import IcveSizes, _condition
from opensama.models.icve import IcveTransformer3DModel
from opensama.models.lora import add_lora, save_comfy, save_diffusers
from opensama.models.registry import TINY_ICVE, find
from opensama.pipeline.icve import IcvePipeline
from opensama.recipes.icve import RECIPES
from opensama.training.config import IcveConfig
from opensama.training.dataset import open_data
from opensama.training.edit_stage import EditStage, with_noise
from opensama.training.sources import ItemSource
from opensama.training.train_editor import encode_data, plan_editor
from opensama.values import Video
from opensama.world import to_uint8
from opensama.world.unpaired import plan_unpaired, render_unpaired
from tests.data.making import make_transformer, save_manifest
from tests.models.sizes import ICVE_SIZES
from tests.pipeline.conftest import tiny_hunyuan_vae
from tests.ranks import command_in_ranks
from tests.training.icve_making import icve_settings, save_icve_base

CPU = torch.device("cpu")


def ignore(*_: object) -> None:
    pass


@pytest.fixture(scope="module")
def hunyuan(tmp_path_factory) -> Path:
    return save_icve_base(tmp_path_factory.mktemp("hunyuan"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    return save_manifest(tmp_path_factory.mktemp("pairs"))


@pytest.fixture
def settings(hunyuan, pairs) -> IcveConfig:
    return IcveConfig(**icve_settings(hunyuan, pairs))


def stage_of(config: IcveConfig) -> EditStage:
    data, _ = open_data(config, CPU)
    return EditStage.of("pretrain", make_transformer(config), ItemSource(data, config))


def test_hunyuan_video_is_the_beginning(settings, hunyuan):
    """Every tensor, and without a source the same velocity."""
    theirs = HunyuanVideoTransformer3DModel.from_pretrained(hunyuan / "transformer").eval()
    ours = make_transformer(settings).eval()
    assert type(ours) is IcveTransformer3DModel
    state = ours.state_dict()
    assert state.keys() == theirs.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in theirs.state_dict().items())
    words = {
        "encoder_hidden_states": torch.randn(1, 5, 16), "pooled_projections": torch.randn(1, 16),
        "encoder_attention_mask": torch.ones(1, 5), "guidance": torch.tensor([1000.0]),
    }  # fmt: skip
    x, t = torch.randn(1, 4, 3, 4, 4), torch.tensor([300.0])
    with torch.no_grad():
        expected = theirs(x, t, **words).sample
        torch.testing.assert_close(ours(x, t, **words).sample, expected, atol=2e-5, rtol=1e-4)


def test_the_source_is_clean_and_kept_and_only_text_is_dropped(settings):
    stage = stage_of(settings)
    x = stage.batch(0)
    assert x["pooled"].shape == (2, 16)
    asked = _condition(with_noise(x), **settings.model.condition_kwargs)
    assert torch.equal(asked["source_hidden_states"], x["source"])
    assert not torch.allclose(asked["hidden_states"], x["target"])
    assert asked["guidance"].tolist() == [1000.0, 1000.0]
    assert torch.equal(asked["timestep"], 1000 * x["sigma"])
    lengths = {len(row["text"]) for row in map(stage.loader.source.data.__getitem__, range(3))}
    assert len(lengths) > 1, "texts of several lengths"
    masks = [stage.batch(i).get("text_mask") for i in range(8)]
    assert any(mask is not None and not mask.all() for mask in masks)

    settings.data.text_dropout = 1.0
    dropped = stage_of(settings).batch(0)
    assert torch.equal(dropped["source"], x["source"])
    nothing = stage.loader.source.data.nothing
    assert torch.equal(dropped["text"], nothing["text"].expand(2, -1, -1))
    assert torch.equal(dropped["pooled"], nothing["pooled"].expand(2, -1))


def test_padding_does_not_count(settings):
    """What is compiled gets texts of one length: the loss is the same."""
    stage = stage_of(settings)
    settings = settings.model_copy(deep=True)
    settings.mesh.compile = True
    padded = EditStage.of("padded", stage.transformer, ItemSource(stage.loader.source.data, settings))
    a, b = stage.batch(0), padded.batch(0)
    assert a["text"].shape[1] < b["text"].shape[1] == 12
    torch.testing.assert_close(stage.step(0)["loss"], padded.step(0)["loss"], rtol=1e-5, atol=1e-6)


def test_two_steps_and_one_batch_is_learnt(settings, tmp_path):
    """Latents made beforehand give the same loss."""
    stage = stage_of(settings)
    assert not encode_data(settings, tmp_path / "latents", device="cpu")
    settings.data.latents = tmp_path / "latents"
    cached = EditStage.of("cached", stage.transformer, ItemSource(open_data(settings, CPU)[0], settings))
    assert torch.equal(stage.step(0)["loss"], cached.step(0)["loss"])
    optimizer = torch.optim.Adam(stage.transformer.parameters(), lr=1e-2)
    history = []
    for index in range(40):
        optimizer.zero_grad()
        losses = cached.step(0)
        losses["loss"].backward()
        if not index:
            # the last blocks' text goes nowhere
            idle = {n for n, p in stage.transformer.named_parameters() if p.grad is None or not p.grad.abs().sum()}
            assert all("context" in name or "add" in name or "to_k.bias" in name for name in idle), idle
        optimizer.step()
        history.append(losses["loss"].item())
    assert history[-1] < 0.8 * history[0]


def test_operations_agree_with_the_counter():
    torch.manual_seed(0)
    model = IcveTransformer3DModel(**ICVE_SIZES)
    n, text = 3 * 4 * 6, 7
    x, source = torch.randn(2, 1, 4, 3, 8, 12)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        answer = model(x, torch.tensor([500.0]), torch.randn(1, text, 16), source, None, torch.randn(1, 10))
        forward = counter.get_total_flops()
        answer.sample.sum().backward()
    sizes = IcveSizes.of(model.config)
    assert sum(sizes.operations(2 * n, text, 0, n)) == pytest.approx(forward, rel=0.02)
    assert training_flops(sizes, 2 * n, text) == pytest.approx(counter.get_total_flops(), rel=0.06)


def test_what_a_block_keeps_for_its_backward_pass():
    """As SAMA's is measured in test_plan.py; the mean of the two kinds, of which there are 20 and 40."""
    n, d = 192, 256
    model = IcveTransformer3DModel(
        num_attention_heads=2, attention_head_dim=128, num_layers=1, num_single_layers=1, num_refiner_layers=1,
        text_embed_dim=16, pooled_projection_dim=16,
    )  # fmt: skip

    def kept_by(block: Any) -> float:
        kept: dict[int, int] = {}

        def keep(x: torch.Tensor) -> torch.Tensor:
            if (n in x.shape[:-1] or n + 8 in x.shape[:-1]) and x.shape[-1] not in (n, n + 8, 8):
                kept[x.data_ptr()] = max(kept.get(x.data_ptr(), 0), x.untyped_storage().nbytes())
            return x

        tokens = torch.randn(1, n, d).bfloat16().requires_grad_()
        text, temb, turn = torch.randn(1, 8, d).bfloat16(), torch.randn(1, d), torch.ones(n, 128)
        with torch.autocast("cpu", torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            block(tokens, text, temb, None, (turn, turn), temb, n // 2)
        return sum(kept.values()) / n / d

    double, single = kept_by(model.transformer_blocks[0]), kept_by(model.single_transformer_blocks[0])
    assert (double + 2 * single) / 3 == pytest.approx(IcveSizes.block_bytes, rel=0.15)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_a_plan(name):
    plan = plan_editor(RECIPES[name])
    if "13b" in name:
        assert plan.parameters == pytest.approx(12.82e9, rel=0.001)
    assert (plan.trained == plan.parameters) == ("lora" not in name)
    assert plan.fits, plan.table()
    assert plan.steps == RECIPES[name].optimizer.steps


def answer(model: Any) -> torch.Tensor:
    g = torch.Generator().manual_seed(1)
    x, source = torch.randn(2, 1, 4, 2, 4, 4, generator=g)
    words, pooled = torch.randn(1, 3, 16, generator=g), torch.randn(1, 16, generator=g)
    with torch.no_grad():
        return model(x, torch.tensor([500.0]), words, source, None, pooled).sample


@pytest.mark.parametrize("targets", [MODEL_FAMILIES["icve"].lora_targets, ("to_q", "proj_mlp")])
def test_low_rank_files_carry_what_was_trained(settings, tmp_path, targets):
    """diffusers' file, and ComfyUI's, applied by hand to the released names: q, k, v share one tensor there."""
    plain = make_transformer(settings).eval()
    model = copy.deepcopy(plain)
    add_lora(model, 2, 6, targets)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    expected = answer(model.eval())
    assert not torch.allclose(expected, answer(plain), atol=1e-3)

    save_diffusers(model, tmp_path)
    pipe = IcvePipeline(None, None, tiny_hunyuan_vae(), copy.deepcopy(plain), None)
    pipe.load_lora_weights(tmp_path, weight_name="pytorch_lora_weights.safetensors")
    torch.testing.assert_close(answer(pipe.transformer), expected, atol=1e-5, rtol=1e-4)

    tensors = load_file(save_comfy(model, tmp_path / "comfyui.safetensors"))
    row, patched = MODEL_FAMILIES["icve"], copy.deepcopy(plain)
    state = patched.state_dict()
    layout = row.layout({name: tuple(tensor.shape) for name, tensor in state.items()})
    used = set()
    for released, parts in layout.items():
        keys = [f"diffusion_model.{released.removesuffix('.weight')}.{end}" for end in ("lora_up.weight",
                "lora_down.weight", "alpha")]  # fmt: skip
        if keys[0] not in tensors:
            continue
        used |= {*keys}
        up, down, alpha = (tensors[key] for key in keys)
        change, at = alpha / len(down) * up @ down, 0
        for name, start, stop in parts:
            state[name][start:stop] += change[at : (at := at + stop - start)]
        assert at == len(change)
    assert used == set(tensors)
    torch.testing.assert_close(answer(patched), expected, atol=1e-5, rtol=1e-4)


def test_from_pairs_to_an_editor_on_the_command_line(settings, tmp_path, pairs, capsys):
    """Pre-training, then once over the pairs from its weights, then low-rank; each leaves what it should."""

    def train(recipe: str, out: Path, *changes: str) -> Path:
        options = [part for change in changes for part in ("--set", change)]
        config = ["--config", str(tmp_path / "tiny.yaml")]
        assert opensama(["train", recipe, *config, "--out", str(out), "--device", "cpu", *options]) == 0
        return out

    settings.save(tmp_path / "tiny.yaml")
    first = train("icve-13b-pretrain", tmp_path / "a", "optimizer.steps=2", "preview_every=2", "optimizer.ema=0.5")
    model = IcveTransformer3DModel.from_pretrained(first / "model" / "transformer")
    sizes = {"heads_num": 2, "rope_dim_list": [4, 6, 6]}
    released = load_released(first / "model" / "icve.safetensors", "icve", sizes)
    for name, tensor in model.state_dict().items():
        assert torch.equal(released.state_dict()[name], tensor), name
    assert (first / "icve-13b-pretrain" / "preview-00000002" / "1.mp4").is_file()

    weights = f"model.weights={first / 'model' / 'icve.safetensors'}"
    second = train("icve-13b-sft", tmp_path / "b", "model.start=icve", weights, "optimizer.epochs=1")
    rows = [json.loads(line) for line in (second / "icve-13b-sft" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 1, "three pairs, four a step"
    editor = load(second / "model", device="cpu")
    assert editor.pipeline.defaults.text_layer == -3
    edited = editor.edit(EditRequest(read_video(pairs.parent / "a.mp4"), "make the red ball blue", steps=1))
    assert len(list(edited.frames())) == 10

    changes = ["model.start=icve", weights, "lora.rank=2", "lora.merge=true", "optimizer.steps=2"]
    third = train("icve-13b-sft-lora", tmp_path / "c", *changes, "optimizer.lr=0.1")
    added = load(first / "model", device="cpu", lora=[third / "lora"]).pipeline.transformer.state_dict()
    whole = load(third / "model", device="cpu").pipeline.transformer.state_dict()
    for name, tensor in added.items():
        assert torch.allclose(whole[name], tensor, atol=0.01 * float(tensor.abs().max())), name
    name = "transformer_blocks.0.attn.to_q.weight"
    assert not torch.allclose(whole[name], model.state_dict()[name], atol=0.1 * float(whole[name].abs().max()))
    assert load_file(third / "lora" / "comfyui.safetensors")
    assert load_file(third / "lora" / "pytorch_lora_weights.safetensors")
    capsys.readouterr()
    out = str(tmp_path / "d")
    wrong = ["train", "icve-13b-sft", "--config", str(tmp_path / "tiny.yaml"), "--out", out, "--dry-run"]
    for change, sentence in {
        "model.weights=none.safetensors": "names ICVE weights, but model.start is hunyuan",
        "semantic.encoder=null": "the recipe has no 'semantic'",
        "model.sizes={num_layers: 1}": "set model.start=nothing",
    }.items():
        assert opensama([*wrong, "--set", change]) == 2
        assert sentence in capsys.readouterr().err


def test_the_embedded_size_trains_on_the_worlds_unpaired_clips(tmp_path):
    """Drawn, written, learnt from in both stages; what comes out edits."""
    plans = [plan_unpaired(i) for i in range(2)]
    drawn = render_unpaired(plans, 5, 32, 48)
    rows = []
    for i, plan in enumerate(plans):
        for side, clips in (("source", drawn.source), ("target", drawn.target)):
            write_video(Video.from_frames(to_uint8(clips[i]), 16), tmp_path / f"{i}-{side}.mp4", on_note=ignore)
        rows.append({"source": f"{i}-source.mp4", "target": f"{i}-target.mp4", "instruction": plan.instruction})
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    small = [
        "--data",
        str(tmp_path / "data.jsonl"),
        "--device",
        "cpu",
        "--set",
        "data.area=1536",
        "--set",
        "data.videos=2",
    ]
    small += ["--set", "data.video_batch=2", "--set", "optimizer.steps=1"]
    first, second = tmp_path / "first", tmp_path / "second"
    assert opensama(["train", "tiny-icve-pretrain", *small, "--out", str(first)]) == 0
    assert opensama(["train", "tiny-icve-sft", *small, "--out", str(second)]) == 0  # from the embedded weights
    name = "transformer/diffusion_pytorch_model.safetensors"
    embedded, fresh, learnt = (
        load_file(folder / name) for folder in (TINY_ICVE.folder, first / "model", second / "model")
    )
    apart, moved = (
        sum(float((weights[key].float() - tensor.float()).abs().sum()) for key, tensor in embedded.items())
        for weights in (fresh, learnt)
    )
    assert moved < 0.05 * apart
    go_on = ["--set", "model.start=icve", "--set", f"model.weights={first}/model"]
    assert opensama(["train", "tiny-icve-sft", *small, *go_on, "--out", str(tmp_path / "third")]) == 0
    editor = load(second / "model", device="cpu")
    assert editor.pipeline.defaults == replace(find("tiny-icve").defaults, area=1536)
    clip = read_video(tmp_path / "0-source.mp4")
    edited = editor.edit(EditRequest(clip, plans[0].instruction, steps=1))
    assert edited.array().shape == clip.array().shape


@pytest.mark.slow
def test_two_processes_train_as_one(settings, tmp_path):
    """Sharded weights, shared sequences with padded texts in them: the same losses."""
    settings.optimizer.steps = 2
    settings.save(tmp_path / "tiny.yaml")

    def last_row(name: str, processes: int, *changes: str) -> dict[str, float]:
        command = ["train", "icve-13b-pretrain", "--config", tmp_path / "tiny.yaml", "--out", tmp_path / name]
        command += ["--device", "cpu", *(word for change in changes for word in ("--set", change))]
        if processes > 1:
            command_in_ranks(command, processes)
        else:
            assert opensama(list(map(str, command))) == 0
        return json.loads((tmp_path / name / "icve-13b-pretrain" / "metrics.jsonl").read_text().splitlines()[-1])

    alone = last_row("alone", 1)
    for two in (last_row("sharded", 2), last_row("shared", 2, "mesh.context=2", "mesh.checkpointing=full")):
        for key in ("step", "loss", "flow", "norm"):
            assert two[key] == pytest.approx(alone[key], rel=1e-4), key
