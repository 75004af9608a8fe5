"""Every stage, an edit, an encoding and a preview on a second device: `meta`, which a CPU has and which takes no tensor
of the CPU's beside its own. Values there are none; what reads some is tested with values elsewhere:

    transformers' text encoders ask whether a mask is all ones; here it is not (`Padded`)     test_tiny.py, test_sama.py
    start_from_components, set_latent_statistics write what they measure into the config      test_autoencoder.py
    Trainer.step reads losses and the gradient's norm                                         test_loop.py
    encode and to_frames bring what comes out to the CPU                                      test_latents.py
"""

from __future__ import annotations

import copy
import json
from functools import cache, partial
from threading import Lock

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from opensama.models.families import find_family
from opensama.models.sama import SamaTransformer3DModel
from opensama.models.tiny import PatchAutoencoder
from opensama.pipeline.windows import WindowPlan
from opensama.recipes import bernini, icve, sama
from opensama.recipes.tiny import ICVE_SMOKE, SMOKE
from opensama.runtime import own_device
from opensama.training.autoencoder import AutoencoderStage
from opensama.training.checkpoint import latest_checkpoint
from opensama.training.config import EditConfig, IcveConfig, MeshSettings, SamaConfig
from opensama.training.dataset import open_data
from opensama.training.devices import describe_machine, stage_device
from opensama.training.edit_stage import EditStage
from opensama.training.embedded_config import TinyConfig
from opensama.training.frozen import make_encoders, make_vae
from opensama.training.loop import LoopConfig, Trainer
from opensama.training.parallel import parallelise
from opensama.training.preview import Preview
from opensama.training.semantic_encoder import SemanticStage, make_semantic_encoder
from opensama.training.sources import ItemSource, PoolStream
from opensama.training.stage import TrainingStage
from opensama.training.text import make_text_encoder, train_tokenizer
from opensama.training.tiny import drawn_stage
from opensama.values import UserError
from opensama.world import plan_edit
from tests.data.making import make_transformer, tiny_settings
from tests.models.sizes import SIZES
from tests.ranks import answer_of
from tests.training.icve_making import icve_settings, save_icve_base

META, CPU = torch.device("meta"), torch.device("cpu")
OF_BERNINI = ("bernini-1.3b-sft", "bernini-1.3b-sft-lora", "sama-bernini-1.3b-stage0")  # the others differ in data only
RECIPES = {**sama.RECIPES, **icve.RECIPES, **{name: bernini.RECIPES[name] for name in OF_BERNINI}}


@pytest.fixture(scope="module")
def icve_base(tmp_path_factory):
    return save_icve_base(tmp_path_factory.mktemp("hunyuan"))


@pytest.fixture
def settings(base, icve_base, manifest):
    """A recipe by name: its own settings, with a model and data of the smallest size."""

    def make(name: str, **changes: object) -> EditConfig:
        recipe = RECIPES[name].model_dump()
        kind = type(RECIPES[name])
        small = icve_settings(icve_base, manifest) if kind is IcveConfig else tiny_settings(base, manifest)
        recipe["data"] |= small["data"] | {"videos": 4 if kind is IcveConfig else 2, "latents": None}
        recipe["mesh"]["compile"] = False
        recipe["loss"] = RECIPES[name].loss.model_dump()
        recipe["model"] |= {"base": small["model"]["base"]}
        if recipe["model"]["start"] != "nothing":
            recipe["model"] |= {"start": small["model"]["start"], "weights": None}
        if "sizes" in recipe["model"]:
            recipe["model"]["sizes"] = None
        if kind is SamaConfig:
            recipe["semantic"] |= small["semantic"]
        return kind(**recipe | changes)

    return make


class Padded(TorchFunctionMode):
    """Answers the one question of a value that text encoders put to a mask: it is not all ones."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.__bool__ and args[0].device == META:
            return False
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def padded():
    with Padded():
        yield


class Kept:
    """Items of the data that were encoded once, for every recipe of a family."""

    def __init__(self, data):
        self.items, self.nothing, self.get = data.items, data.nothing, cache(data.__getitem__)
        self.lock = Lock()  # several threads read, one may encode

    def __getitem__(self, number):
        with self.lock:
            return dict(self.get(number))


@pytest.fixture(scope="module")
def encoded():
    """A family's items, the first recipe's for all."""
    kept: dict[str, Kept] = {}

    def of(config: EditConfig) -> Kept:
        if config.family not in kept:
            kept[config.family] = Kept(open_data(config, CPU)[0])
        return kept[config.family]

    return of


def on_meta(module):
    """A copy there; of blocks that are alike the first, an operation on this device takes its time in Python."""
    there = nn.Module.to(copy.deepcopy(module), META)
    if hasattr(there, "blocks"):
        there.blocks = there.blocks[:1]
    return there


def descend(stage, index: int) -> None:
    """One pass forward and backward; every gradient is where its weight is."""
    losses = stage.step(index)
    assert losses["loss"].device == META
    losses["loss"].backward()
    learnt = [p for m in stage.modules().values() for p in m.parameters() if p.grad is not None]
    assert learnt
    assert all(p.grad.device == META for p in learnt)


@pytest.mark.parametrize("name", RECIPES)
def test_a_stage_of_every_recipe(name, settings, encoded):
    config = settings(name)
    transformer = on_meta(make_transformer(config))
    items = ItemSource(encoded(config), config, device="meta")
    stage = EditStage.of(name, transformer, items, importance=torch.ones(4, device="meta"))
    assert stage_device(stage) == META
    descend(stage, 0)
    transformer.enable_gradient_checkpointing()
    descend(stage, stage.passes - 1)


@pytest.mark.parametrize("name", ["sama-14b-stage1", "icve-13b-sft"])
def test_encoding_and_a_preview(name, settings, encoded):
    config = settings(name, preview_every=1)
    data = encoded(config)
    vae = make_vae(config.family, config.model.base, META)
    how = {"shift": config.loss.shift, "condition_kwargs": config.model.condition_kwargs}
    preview = Preview(on_meta(make_transformer(config)), vae, data, **how, count=1, steps=2)
    assert preview.samples
    for _, sample in preview.samples:
        sides = preview.sides({key: x[None].to(META).float() for key, x in sample.items()})
        assert {preview.pipe.decode_latents(z).device for z in sides} == {META}
    encoders = make_encoders(config, META)
    pixels = torch.zeros(1, 3, 9, 32, 32)  # frames are read and drawn on the CPU
    found = [encoders.video(pixels), *encoders.text("make it blue").values()]
    if encoders.semantic is not None:
        found.append(encoders.semantic(pixels[0]))
    assert {x.device for x in found} == {META}


SCALES = {"guidance_scale": 3.0, "source_guidance_scale": 1.5}
PICTURES = {"references": [torch.zeros(3, 1, 32, 16)], "task": "rv2v"}


@pytest.mark.parametrize(
    ("family", "more", "sampler", "frames"),
    [
        ("sama", SCALES, "euler", 29),
        ("sama", SCALES, "unipc", 9),
        ("icve", SCALES, "euler", 29),
        ("icve", SCALES, "unipc", 9),
        ("bernini", {"task": "mv2v"}, "unipc", 9),  # the second transformer in the second step
        ("bernini", PICTURES, "unipc", 9),
    ],
)
def test_an_edit(family, more, sampler, frames, request):
    model = request.getfixturevalue({"sama": "pipe"}.get(family, f"{family}_pipe"))
    parts = {name: on_meta(part) if isinstance(part, nn.Module) else part for name, part in model.components.items()}
    there = type(model)(**parts, defaults=model.defaults.to_dict())
    there.set_progress_bar_config(disable=True)
    found = there(
        torch.zeros(1, 3, frames, 16, 32), "Make it blue.", sampler=sampler, output_type="latent", seed=0,
        num_inference_steps=2, **more,
    ).frames  # fmt: skip
    assert found.device == META
    plan = WindowPlan.of(frames, there.defaults.window, there.defaults.overlap, there.defaults.shortest)
    assert len(plan) == (1 if frames == 9 else 3)
    pictures = torch.cat(list(there.decode_windows(plan, found)), dim=1)
    assert pictures.device == META
    assert pictures.shape == (3, frames, 16, 32)


@pytest.fixture(scope="module")
def pipe():
    from tests.pipeline.conftest import pipe

    return pipe.__wrapped__()


@pytest.fixture(scope="module")
def bernini_pipe():
    from tests.pipeline.conftest import bernini

    return bernini.__wrapped__()


@pytest.fixture(scope="module")
def icve_pipe():
    from tests.pipeline.conftest import icve

    return icve.__wrapped__()


# --- the embedded models from nothing


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([plan_edit(i).instruction for i in range(200)], 400)


def drawn_pool(frames: int, family: str, n: int = 4) -> dict[str, torch.Tensor]:
    t = (frames - 1) // 4 + 1
    latents = {key: torch.zeros(n, 192, t, 8, 8, dtype=torch.float16) for key in ("source", "target")}
    text = {key: torch.ones(n, 24, dtype=torch.int64) for key in ("ids", "mask")}
    return latents | text | {"change": torch.ones(n, t, 8, 8).half(), "semantic": torch.zeros(n, 17, 32).half()}


def test_the_embedded_models_autoencoder():
    vae = PatchAutoencoder(widths=(8, 8, 8), decoder_blocks=(1, 1, 1))
    descend(AutoencoderStage(on_meta(vae), batch=6, pictures=8, side=16), 0)


def test_the_embedded_models_semantic_encoder_from_nothing(tokenizer):
    encoder, text = make_semantic_encoder(32, 1).to(META), on_meta(make_text_encoder(tokenizer, 32, 1))
    stage = SemanticStage(encoder, text, tokenizer, batch=4)
    assert stage_device(stage) == META
    descend(stage, 0)


def embedded_transformer(config: TinyConfig) -> nn.Module:
    return find_family(config.family).transformer(**config.transformer_sizes)


@pytest.mark.parametrize("config", [SMOKE, ICVE_SMOKE], ids=["sama", "icve"])
def test_the_embedded_models_editing(config: TinyConfig, tokenizer):
    config = config.model_copy(update={"text_width": 32})
    text = on_meta(make_text_encoder(tokenizer, 32, 1)).requires_grad_(config.family == "sama")
    streams = [PoolStream(drawn_pool(frames, config.family), 2, 1.0) for frames in (1, 17)]
    stage = drawn_stage(
        "videos", on_meta(embedded_transformer(config)), text, tokenizer, streams,
        importance=torch.ones(192),
    )  # fmt: skip
    assert stage_device(stage) == META
    for index in range(4):
        descend(stage, index)


# --- what the trainer says


class Pair(TrainingStage):
    """Two modules, and a batch."""

    def __init__(self, where: str = "cpu", batch: str = "cpu", frozen: str = "cpu"):
        super().__init__("pair")
        self.left, self.right = nn.Linear(2, 2), nn.Linear(2, 1, device=where)
        self.judge = nn.Linear(1, 1, device=frozen).requires_grad_(False)
        self.place = batch

    def modules(self):
        return {"left": self.left, "right": self.right}

    def step(self, index):
        noise = torch.zeros(3, 2, device=self.place)
        return {"loss": self.right(self.left(noise)).mean()}


@pytest.mark.parametrize(("misplaced", "what"), [("where", r"right\.weight"), ("frozen", r"judge\.weight")])
def test_a_module_on_another_device_is_named(tmp_path, misplaced, what):
    with pytest.raises(ValueError, match=rf"{what} of the stage pair is on meta, but left\.weight is on cpu: move"):
        Trainer(Pair(**{misplaced: "meta"}), LoopConfig(steps=1), tmp_path)
    assert not (tmp_path / "pair").exists()


def test_an_input_on_another_device_is_named(tmp_path):
    trainer = Trainer(Pair(batch="meta"), LoopConfig(steps=1), tmp_path)
    with pytest.raises(ValueError, match="input 0 of left is on meta, but the stage pair computes on cpu: move its"):
        trainer.run()
    stage = Pair()
    Trainer(stage, LoopConfig(steps=2), tmp_path / "right").run()
    assert not stage.left._forward_pre_hooks, "only the first step is watched"


def test_a_run_that_goes_on_on_another_machine_says_so(tmp_path, caplog):
    caplog.set_level("INFO")
    Trainer(Pair(), LoopConfig(steps=1, decay=0), tmp_path).run()
    Trainer(Pair(), LoopConfig(steps=2, decay=0), tmp_path).run()
    assert not any("bits" in line for line in caplog.messages)
    file = latest_checkpoint(tmp_path / "pair") / "state.json"
    state = json.loads(file.read_text())
    assert state["machine"] == describe_machine(CPU)
    file.write_text(json.dumps(state | {"machine": "NVIDIA H200 in bfloat16"}))
    Trainer(Pair(), LoopConfig(steps=3, decay=0), tmp_path).run()
    (line,) = (line for line in caplog.messages if "bits" in line)
    here = describe_machine(CPU)
    assert line.startswith(f"pair: begun on NVIDIA H200 in bfloat16, goes on on {here}: its bits may differ")


class Buckets(TrainingStage):
    """One block, and a batch of another shape each step."""

    def __init__(self):
        super().__init__("buckets")
        torch.manual_seed(0)
        model = SamaTransformer3DModel(**SIZES | {"num_layers": 1})
        self.model = parallelise(model, MeshSettings(compile=True, checkpointing="none"))

    def modules(self):
        return {"model": self.model}

    def step(self, index):
        b, h, w = 1 + index % 2, 2 + 2 * (index % 4), 2 + 2 * (index // 4)
        x = torch.randn(b, 4, 1 + index % 3, h, w)
        out = self.model(x, torch.full((b,), 500.0), torch.randn(b, 6, 16), x, return_dict=False)[0]
        return {"loss": out.square().mean()}


def compiled_in_each_step(folder):
    """By the compiler's front end alone, which decides how often; `eager` stands for what compiles the graphs."""
    with torch.compiler.set_stance(force_backend="eager"):
        return [
            row["compiled"]
            for row in Trainer(Buckets(), LoopConfig(steps=15, decay=0, log_every=-1), folder).run().history
        ]


@pytest.mark.slow
def test_many_lengths_are_compiled_a_few_times_and_the_row_says_how_often(tmp_path):
    """In a process whose compiler has seen nothing else."""
    counts = answer_of(compiled_in_each_step, tmp_path)
    assert counts[0] > 0
    assert counts[-1] <= 3 * counts[0], counts  # as it came, with other lengths, and with another batch
    assert counts[5] == counts[-1], "it goes on compiling"


def test_each_process_of_torchrun_has_a_gpu_of_its_own(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for key, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(key, value)
    assert own_device() == own_device("cuda") == torch.device("cuda:1")
    assert chosen == [1, 1]
    assert own_device("cuda:0") == torch.device("cuda:0"), "who names one means it"
    assert own_device("cpu") == CPU
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="its 2 GPUs: lower --nproc-per-node"):
        own_device()


def test_encoding_under_torchrun_uses_that_gpu(monkeypatch, tmp_path, settings):
    from opensama.training import dataset
    from opensama.training.train_editor import encode_data

    class Asked(Exception):
        pass

    def ask(device, config, where):
        device.append(where)
        raise Asked

    asked: list[torch.device] = []
    monkeypatch.setattr(dataset, "make_encoders", partial(ask, asked))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "3")
    with pytest.raises(Asked):
        encode_data(settings("sama-14b-stage1"), tmp_path, rank=3, world=4)
    assert asked == [torch.device("cuda:3")]
