"""Every recipe is sound; one runs from the command line on real videos to a model, goes on, and exports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from opensama import EditRequest, load
from opensama.apps.cli import main as opensama
from opensama.media.video_io import read_video
from opensama.models.convert import load_released
from opensama.models.sama import SamaTransformer3DModel
from opensama.recipes import bernini, icve, sama
from opensama.training.config import SamaConfig
from tests.data.making import base, make_transformer, manifest, tiny_settings
from tests.ranks import command_in_ranks

__all__ = ["base", "manifest"]
RECIPES = {**sama.RECIPES, **icve.RECIPES, **bernini.RECIPES}


@pytest.fixture
def recipe(base, manifest, tmp_path) -> Path:
    """The first stage at tiny size, as a settings file."""
    settings = tiny_settings(base, manifest)
    settings["optimizer"] |= {"steps": 2, "ema": 0.5}
    SamaConfig(**settings).save(tmp_path / "tiny.yaml")
    return tmp_path / "tiny.yaml"


def run(*arguments: object) -> int:
    return opensama(["train", "sama-14b-stage0", *map(str, arguments)])


@pytest.mark.parametrize("name", ["sama-14b-stage1", "sama-1.3b-stage1-lora", "icve-13b-sft"])
def test_a_second_stage_wants_weights_and_edits(name, base, manifest, tmp_path, capsys):
    """It begins from text-to-video weights only where it is told to, and gives no clip a pretext task."""
    changes = ["--set", f"model.base={base}", "--out", str(tmp_path / "run"), "--device", "cpu"]
    if name.startswith("sama"):
        assert opensama(["train", name, "--data", str(manifest), *changes]) == 2
        said = capsys.readouterr().err
        assert "goes on from trained SAMA weights" in said
        assert "model.start=wan" in said
        more = ["--set", "model.start=wan", "--dry-run", "--data", str(manifest)]
        assert opensama(["train", name, *changes, *more]) == 2
        assert "has 2 plain clips (the first in line 2)" in capsys.readouterr().err
    assert opensama(["train", name, "--dry-run"]) == 0
    assert "weights: none yet. This recipe goes on from trained" in capsys.readouterr().out
    assert RECIPES["sama-14b-stage0"].data.clips
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_is_what_a_new_run_begins_from(recipe, tmp_path, capsys):
    """The averaged weights of the last checkpoint, as the exported model has them; its rotary stays."""
    out = tmp_path / "first"
    assert run("--config", recipe, "--out", out, "--device", "cpu", "--set", "model.semantic_rotary=grid") == 0
    config = SamaConfig.read(recipe)
    config.model.start, config.model.weights = "sama", out / "sama-14b-stage0" / "step-00000002"
    model = make_transformer(config)
    assert model.config["semantic_rotary"] == "grid"
    exported = SamaTransformer3DModel.from_pretrained(out / "model" / "transformer")
    for name, tensor in exported.state_dict().items():
        assert torch.equal(model.state_dict()[name].to(torch.bfloat16), tensor.to(torch.bfloat16)), name
    assert run("--out", out, "--resume", "--device", "cpu", "--set", "optimizer.lr=1e-6") == 0
    assert "from step 2 on optimizer.lr is 1e-06, was 2e-05" in capsys.readouterr().out


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_saved_and_read(name, tmp_path):
    RECIPES[name].save(tmp_path / "config.yaml")
    assert type(RECIPES[name]).read(tmp_path / "config.yaml") == RECIPES[name]


def test_the_numbers_of_the_paper():
    for name in ("sama-14b-stage0", "sama-14b-stage1"):
        config = sama.RECIPES[name]
        assert (config.data.images, config.data.videos) == (448, 112)
        assert (config.optimizer.lr, config.optimizer.ema, config.loss.semantic) == (2e-5, 0.9998, 0.1)
        assert (config.semantic.tokens_per_anchor, config.semantic.anchors) == (65, 1)
        assert config.data.pretext == {"none": 1, "cube": 2, "speed": 3, "tube": 4}


def test_the_embedded_model_trains_on_a_manifest(manifest, tmp_path):
    """Its own recipe, from its own weights, on clips and edits, with pretext tasks."""
    assert opensama(["train", "tiny-stage0", "--data", str(manifest), "--dry-run"]) == 0
    changes = ["optimizer.steps=2", "data.images=2", "data.image_batch=2", "data.videos=2", "data.video_batch=2"]
    out = tmp_path / "run"
    arguments = ["train", "tiny-stage0", "--data", manifest, "--out", out, "--device", "cpu"]
    assert opensama([*map(str, arguments), *(part for change in changes for part in ("--set", change))]) == 0
    rows = [json.loads(line) for line in (out / "tiny-stage0" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 2
    assert 0 < rows[-1]["semantic"] < 3
    clip = read_video(manifest.parent / "a.mp4")
    edited = load(out / "model", device="cpu").edit(EditRequest(clip, "make the ball blue"))
    assert edited.frame_count == clip.frame_count


def test_bernini_and_a_sama_that_begins_there(base, manifest, tmp_path, monkeypatch):
    """From the base's weights: Bernini on edits, to a model that edits; SAMA's stages, one on from the other."""
    edits = manifest.with_name("only-edits.jsonl")
    edits.write_text("".join(f"{line}\n" for line in manifest.read_text().splitlines() if "clip" not in line))
    small = tiny_settings(base, edits)["data"] | {"images": 1, "videos": 2, "clips": False}
    runs = {}
    configs = {}
    for name in ("bernini-1.3b-sft", "sama-bernini-1.3b-stage0", "sama-bernini-1.3b-stage1"):
        settings = bernini.RECIPES[name].model_dump()
        settings["data"] |= small | {"prefix": settings["data"]["prefix"], "no_text": settings["data"]["no_text"]}
        settings["optimizer"] |= {"steps": 2, "lr": 1e-2, "ema": 0.5}
        settings["model"] |= {"base": str(base)} | ({"weights": runs["stage0"] / "model"} if "stage1" in name else {})
        if "semantic" in settings:
            settings["semantic"] |= {"encoder": str(base / "siglip"), "width": 8, "grid": 2}
        configs[name] = type(bernini.RECIPES[name])(**settings)
        if "stage1" in name:
            continue
        configs[name].save(tmp_path / f"{name}.yaml")
        out = runs[name.rpartition("-")[2]] = tmp_path / name
        more = ["--config", str(tmp_path / f"{name}.yaml"), "--out", str(out), "--device", "cpu"]
        assert opensama(["train", name, *more]) == 0
    asked = bernini.BERNINI_1_3B.defaults
    editor = load(runs["sft"] / "model", device="cpu")
    assert (editor.pipeline.defaults.prompt_prefix, editor.pipeline.defaults.negative_prompt) == (
        asked.prompt_prefix, asked.negative_prompt
    )  # fmt: skip
    assert type(editor.pipeline.scheduler).__name__ == "UniPCMultistepScheduler", "as its released weights"
    clip = read_video(manifest.parent / "a.mp4")
    request = EditRequest(clip, "make the ball blue", steps=1)
    for model in (editor, load(runs["stage0"] / "model", device="cpu")):
        assert model.edit(request).frame_count == clip.frame_count
    first = SamaTransformer3DModel.from_pretrained(runs["stage0"] / "model" / "transformer")
    second = make_transformer(configs["sama-bernini-1.3b-stage1"])
    released = load_released(runs["stage0"] / "model" / "sama.safetensors", "sama", {"num_heads": 2})
    assert first.semantic_gates.weight.all(), "the anchors are read"
    for model in (second, released):
        assert torch.equal(model.semantic_gates.weight, first.semantic_gates.weight)
    assert first.config["source_rotary"] == second.config["source_rotary"] == "phase"


def test_from_videos_to_a_model_on_the_command_line(recipe, base, manifest, tmp_path, capsys):
    out = tmp_path / "run"
    assert run("--config", recipe, "--out", out, "--device", "cpu", "--set", "preview_every=2") == 0
    assert f"trained: {out / 'model'}" in capsys.readouterr().out
    model = SamaTransformer3DModel.from_pretrained(out / "model" / "transformer")
    released = load_released(out / "model" / "sama.safetensors", "sama", {"num_heads": 2, "num_semantic_tokens": 5})
    for name, tensor in model.state_dict().items():
        assert torch.equal(released.state_dict()[name], tensor), name
    assert model.token_types.weight.abs().sum() > 0, "the type embedding has moved"
    rows = [json.loads(line) for line in (out / "sama-14b-stage0" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 2
    assert {"loss", "flow", "semantic", "norm", "tokens_per_second"} <= set(rows[-1])

    previews = sorted(path.name for path in (out / "sama-14b-stage0" / "preview-00000002").iterdir())
    assert previews[0] == "1.mp4"
    assert read_video(out / "sama-14b-stage0" / "preview-00000002" / "1.mp4").shape == (9, 32, 96)

    clip = read_video(manifest.parent / "a.mp4")
    edited = load(out / "model", device="cpu").edit(EditRequest(clip, "make the red ball blue", steps=1))
    assert len(list(edited.frames())) == 10

    # it goes on with its own settings only, and on the same data only
    assert run("--out", out) == 2
    assert "--resume" in capsys.readouterr().err
    assert run("--out", out, "--resume", "--set", "loss.shift=3", "--device", "cpu") == 2
    assert "loss.shift is 3" in capsys.readouterr().err
    settings = yaml.safe_load((out / "config.yaml").read_text())
    assert settings["loss"]["shift"] == 5, "a refused run changes nothing"
    longer = manifest.with_name("longer.jsonl")
    longer.write_text(manifest.read_text() + manifest.read_text().splitlines()[1])
    assert run("--out", out, "--resume", "--data", longer, "--device", "cpu") == 2
    assert "other data (manifest is" in capsys.readouterr().err
    assert run("--out", out, "--resume", "--set", "optimizer.steps=3", "--device", "cpu") == 0
    capsys.readouterr()

    # stage 1 begins from stage 0's weights, as low-rank matrices
    second = tmp_path / "second"
    weights = out / "model" / "sama.safetensors"
    changes = ["model.start=sama", f"model.weights={weights}", "lora.rank=2", "optimizer.steps=1", "data.images=0"]
    changes.append("compute=bfloat16")  # frozen weights are then bfloat16, too
    assert run("--config", recipe, "--out", second, "--device", "cpu", *(a for c in changes for a in ("--set", c))) == 0
    assert "lora" in capsys.readouterr().out
    assert load_file(second / "lora" / "comfyui.safetensors")
    assert load_file(second / "lora" / "pytorch_lora_weights.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh",
    [
        ["mesh.context=1"],
        ["mesh.context=2", "lora={rank: 2, merge: true}", "mesh.checkpointing=full", "preview_every=2"],
    ],
)
def test_two_processes_train_as_one(recipe, tmp_path, mesh):
    """Sharded weights and shared sequences, from the command line: the same losses, and a whole model at the end."""
    rows = {}
    for processes in (1, 2):
        out = tmp_path / str(processes)
        changes = [*mesh, "mesh.context=1"] if processes == 1 else mesh
        command = ["train", "sama-14b-stage0", "--config", recipe, "--out", out]
        command = [*map(str, command), *(a for change in changes for a in ("--set", change))]
        if processes == 1:
            assert opensama([*command, "--device", "cpu"]) == 0
        else:
            command_in_ranks(command, processes)
        metrics = out / "sama-14b-stage0" / "metrics.jsonl"
        rows[processes] = [json.loads(line) for line in metrics.read_text().splitlines()]
    for key in ("step", "loss", "flow", "semantic", "norm"):
        assert rows[2][-1][key] == pytest.approx(rows[1][-1][key], rel=1e-4), key
    written = [
        sorted(f.relative_to(tmp_path / n).as_posix() for f in (tmp_path / n).rglob("*.safetensors")) for n in "12"
    ]
    models = [[name for name in names if "step-" not in name] for names in written]
    assert models[0] == models[1] != []
    for name in models[0]:
        one, two = (load_file(tmp_path / n / name) for n in "12")
        assert all(torch.allclose(one[key].float(), two[key].float(), atol=1e-4) for key in one), name


def test_a_dry_run_checks_data_and_predicts(recipe, tmp_path, capsys):
    assert run("--config", recipe, "--out", tmp_path / "none", "--dry-run", "--gpus", "2") == 0
    said = capsys.readouterr().out
    assert "5 rows, 9 items, 0 rows left out" in said
    for word in ("parameters", "tokens a step", "FLOPs a step", "memory a GPU", "hours", "price"):
        assert word in said
    assert not (tmp_path / "none").exists()


WRONG = [
    (["sama-14b-stage1", "--set", "data.clip=true"], "data has no 'clip'; did you mean clips?"),
    (["sama-14b-stage2"], "There is no recipe 'sama-14b-stage2'; did you mean sama-14b-stage"),
    (["tinny"], "did you mean tiny?"),
    (["--set", "optimiser.lr=1"], "the recipe has no 'optimiser'; did you mean optimizer?"),
    (["--set", "optimizer.rate=1"], "optimizer has no 'rate'"),
    (["--set", "lr"], "an existing setting and a value"),
    (["--set", "optimizer.lr=fast"], "optimizer.lr: Input should be a valid number"),
    (["--set", "data.frames=80"], "frames must be 4k+1, such as 49 or 81, not 80"),
    (["--set", "data.area=100"], "holds no side of 32"),
    (["--set", "data.multiple=24"], "takes sides that are multiples of 16"),
    (["--set", "data.pretext={cub: 1}"], "did you mean cube?"),
    (["--set", "semantic.order=global_first", "--set", "model.semantic_rotary=grid"], "has no grid positions"),
    (["--set", "model.base=nowhere"], "There is no folder nowhere"),
    (["--set", "data.images=450"], "450 images a step do not split"),
    (["--set", "lora.targets=[to_x]"], "No block has a layer 'to_x'"),
    (
        ["--set", "model.start=sama", "--set", "model.weights=none.safetensors"],
        "There is no file or folder none.safetensors",
    ),
    (["--data", "none.jsonl"], "There is no manifest none.jsonl"),
    (["--config", "none.yaml"], "There is no file none.yaml"),
]


@pytest.mark.parametrize(("arguments", "sentence"), WRONG, ids=[" ".join(a) for a, _ in WRONG])
def test_bad_input_is_one_sentence(arguments, sentence, tmp_path, capsys):
    name = [] if not arguments[0].startswith("--") else ["sama-14b-stage0"]
    assert opensama(["train", *name, *arguments, "--dry-run", "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err.strip()
    assert sentence in said
    assert "\n" not in said
    assert not (tmp_path / "run").exists()


def test_a_setting_that_does_not_exist_in_a_file(recipe, tmp_path, capsys):
    recipe.write_text(recipe.read_text().replace("  text_dropout:", "  text_drop:"))
    assert run("--config", recipe, "--dry-run", "--out", tmp_path / "run") == 2
    assert "there is no setting data.text_drop; did you mean text_dropout?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("model.weights=none.safetensors", "There is no file none.safetensors"),
        ("semantic.encoder={base}", "is no SigLIP model"),
        ("semantic.width=12", "set semantic.width=8"),
        ("model.start=sama", "goes on from trained SAMA weights"),
        ("data.latents={base}", "There are no latents in"),
    ],
)
def test_what_is_missing_is_said_before_the_first_step(recipe, base, tmp_path, capsys, change, sentence):
    change = change.format(base=base)
    more = ["--set", "model.start=sama"] if "weights" in change else []
    out = tmp_path / "run"
    assert run("--config", recipe, "--out", out, "--device", "cpu", "--set", change, *more) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not (out / "sama-14b-stage0").exists()
