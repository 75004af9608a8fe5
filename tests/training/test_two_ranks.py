"""What two processes do that one does not: gather weights, and wait for each other."""

from __future__ import annotations

import ctypes
import datetime
import re
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from diffusers import WanTransformer3DModel

from opensama.data.latents import LiveItems
from opensama.data.samples import Shape
from opensama.models.sama import SamaTransformer3DModel
from opensama.recipes.sama import RECIPES
from opensama.training.collectives import wait_for_all
from opensama.training.config import MeshSettings, SamaConfig
from opensama.training.dataset import open_data
from opensama.training.edit_stage import EditStage
from opensama.training.ema import Average
from opensama.training.loading import full_config, initial_transformer, sizes_of
from opensama.training.loop import LoopConfig, Trainer
from opensama.training.parallel import lay_out, parallelise, share_tensors
from opensama.training.plan import frozen_memory, loading_memory, make_plan
from opensama.training.sources import ItemSource
from opensama.training.stage import TrainingStage
from opensama.values import UserError
from tests.data.making import make_transformer, tiny_settings
from tests.models.sizes import SIZES
from tests.ranks import in_ranks
from tests.training.test_parallel import Flow, gradients

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo"),
]
DEFAULT = 6.0  # seconds that these processes wait in a collective


def join(rank: int, folder: str, minutes: float = 5) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    timeout = datetime.timedelta(minutes=minutes)
    store.set_timeout(datetime.timedelta(minutes=5))
    store.set(f"{rank} is here", "")
    store.wait(["0 is here", "1 is here"])  # so that a busy machine spends nobody's patience
    dist.init_process_group("cpu:gloo", store=store, rank=rank, world_size=2, timeout=timeout)


def preview(rank: int, folder: str) -> None:
    """A forward pass with the average in the weights' place, then a step of training."""
    join(rank, folder)
    stage = Flow(rank, 2)
    parallelise(stage.model, MeshSettings(shard=2, checkpointing="none"), "float32")
    weights = {f"model.{name}": p for name, p in stage.model.named_parameters()}
    average = Average(weights, 0.5, modules=stage.modules())
    before = stage.step(0)["loss"]
    before.backward()
    stage.model.zero_grad()  # later it would reach the gathered weights' gradients only
    for tensor in average.tensors.values():
        tensor.mul_(2)
    with torch.no_grad(), average.swapped_in():
        lent = stage.step(0)["loss"]
    with torch.no_grad():
        after = stage.step(0)["loss"]
    torch.save({"before": before.detach(), "lent": lent, "after": after, "grads": gradients(stage)}, f"{folder}/{rank}")
    dist.destroy_process_group()


def test_a_preview_leaves_nothing_of_the_average_behind(tmp_path):
    wanted = gradients(Flow())
    in_ranks(preview, (str(tmp_path),))
    for rank in range(2):
        got = torch.load(tmp_path / str(rank), weights_only=True)
        assert not torch.isclose(got["lent"], got["before"], rtol=1e-2), "the average was in place"
        torch.testing.assert_close(got["after"], got["before"])
        torch.testing.assert_close(got["grads"], wanted, rtol=1e-5, atol=1e-6)


def export_slowly(rank: int, folder: str) -> None:
    """The first process writes longer than a collective waits."""
    join(rank, folder, DEFAULT / 60)
    wait_for_all()
    if rank == 0:
        time.sleep(DEFAULT + 2)
    wait_for_all()
    Path(folder, f"{rank} is through").touch()
    dist.destroy_process_group()


def test_processes_wait_for_one_that_writes_for_long(tmp_path):
    in_ranks(export_slowly, (str(tmp_path),))
    assert len(list(tmp_path.glob("* is through"))) == 2


SIZES_OF_BASE = {
    "num_attention_heads": 8, "attention_head_dim": 96, "ffn_dim": 3072, "num_layers": 6, "text_dim": 32,
    "freq_dim": 64, "in_channels": 4, "out_channels": 4,
}  # fmt: skip


def wan_settings(folder: str) -> SamaConfig:
    config = RECIPES["sama-1.3b-stage0"].model_copy(deep=True)
    config.model.base = folder
    config.semantic.width = 16
    return config


def resident() -> float:
    """Gigabytes of this process at its peak so far."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024 / 1e9  # type: ignore[index]


class OnePicture(TrainingStage):
    """A source and a target of 8 x 8 latent cells, new ones each step."""

    def __init__(self, model: torch.nn.Module):
        super().__init__("one")
        self.model = model

    def modules(self):
        return {"model": self.model}

    def step(self, index):
        x, words = torch.randn(2, 1, 4, 1, 8, 8), torch.randn(1, 6, self.model.config["text_dim"])
        out = self.model(x[0], torch.full((1,), 500.0), words, x[1], return_dict=False)[0]
        return {"loss": out.square().mean()}


def take_two_steps(model: torch.nn.Module, out: Path) -> None:
    trainer = Trainer(OnePicture(model), LoopConfig(steps=2, log_every=-1), out)
    trainer.step()
    trainer.step()


def load_and_train_half(rank: int, folder: str) -> None:
    ctypes.CDLL(None).mallopt(-3, 2**16)  # M_MMAP_THRESHOLD: what is freed is given back at once
    join(rank, folder)
    config = wan_settings(folder)
    mesh = MeshSettings(shard=2, checkpointing="none")
    take_two_steps(parallelise(SamaTransformer3DModel(**SIZES), mesh, "float32"), Path(folder, f"small-{rank}"))  # what
    initial = initial_transformer(config)  # happens once is not measured
    Path("/proc/self/clear_refs").write_text("5")
    before = resident()
    model = parallelise(initial.model, mesh, "float32")
    initial.fill(model)
    loading = resident() - before
    sums = {name: p.full_tensor().double().sum().item() for name, p in model.named_parameters()}
    Path("/proc/self/clear_refs").write_text("5")
    take_two_steps(model, Path(folder, f"large-{rank}"))
    torch.save({"loading": loading, "training": resident() - before, "sums": sums}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads peaks from Linux's /proc")
def test_a_process_loads_and_trains_its_share_in_the_memory_that_was_planned(tmp_path):
    """Both ranks load and train half of the weights, within 10 % of what the dry run says; nothing is lost."""
    WanTransformer3DModel(**SIZES_OF_BASE).save_pretrained(tmp_path / "transformer")
    in_ranks(load_and_train_half, (str(tmp_path),))
    config = wan_settings(str(tmp_path))
    config.data = config.data.model_copy(update={"images": 2, "image_batch": 1, "videos": 0})
    config.mesh.checkpointing = "none"
    plan = make_plan(config, full_config(sizes_of(config)), [Shape(64, 64, 1, 1)], gpus=2)
    training = plan.gigabytes - sum(frozen_memory(config).values())
    gpu, host = loading_memory(config, full_config(sizes_of(config)), 2)
    whole = {name: p.detach().double().sum().item() for name, p in make_transformer(config).named_parameters()}
    assert gpu == pytest.approx(sum(p.numel() for p in make_transformer(config).parameters()) * 2 / 1e9)
    for rank in range(2):
        got = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert got["sums"] == pytest.approx(whole, rel=1e-9, abs=1e-9)
        assert got["loading"] == pytest.approx(gpu + host, rel=0.1)
        assert got["training"] == pytest.approx(training, rel=0.1)


def counted_stage(settings: dict, **changes: object) -> tuple[EditStage, Counter[bytes]]:
    """A stage that encodes in the step, and what its autoencoder encodes from then on."""
    config = SamaConfig(**settings)
    data, _ = open_data(config, torch.device("cpu"))
    assert isinstance(data, LiveItems)
    seen: Counter[bytes] = Counter()
    video = data.encoders.video

    def counted(pixels: torch.Tensor) -> torch.Tensor:
        seen[pixels.numpy().tobytes()] += 1
        return video(pixels)

    data.encoders = replace(data.encoders, video=counted)
    return EditStage.of("stage0", make_transformer(config), ItemSource(data, config, **changes)), seen  # type: ignore[arg-type]


@torch.no_grad()
def losses_of(stage: EditStage) -> list[float]:
    losses = [float(stage.step(index)["loss"]) for index in range(stage.passes)]
    stage.close()
    return losses


def encode_together(rank: int, folder: str, settings: dict) -> None:
    join(rank, folder)
    mesh = MeshSettings(context=2, checkpointing="none")
    layout = lay_out(mesh)
    assert layout.context is not None
    group = layout.context["ulysses"].get_group()
    stage, seen = counted_stage(settings, sharing=group)
    parallelise(stage.transformer, mesh, "float32")
    losses = losses_of(stage)

    def fail() -> dict[str, torch.Tensor]:
        raise ValueError("no such clip")

    error, said = (ValueError, "no such clip") if rank else (UserError, "Another process of those that share a batch")
    with pytest.raises(error, match=said):
        share_tensors(fail if rank else dict, group)

    def views() -> dict[str, torch.Tensor]:
        """A plain video's source is its target, and rows of a larger tensor are not contiguous."""
        x = torch.arange(6.0).reshape(2, 3)[:, rank:]
        return {f"{rank}/source": x, f"{rank}/target": x}

    shared = share_tensors(views, group)
    assert {name: x.tolist() for name, x in shared.items()} == {
        f"{k}/{name}": [[0.0, 1.0, 2.0][k:], [3.0, 4.0, 5.0][k:]] for k in range(2) for name in ("source", "target")
    }
    torch.save({"losses": losses, "seen": dict(seen)}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_processes_that_share_a_sequence_encode_a_batch_once(tmp_path, base, manifest):
    """Each sample by one of them, and the losses of one process; an error of one ends the wait of the other."""
    settings = tiny_settings(base, manifest)
    stage, seen = counted_stage(settings)
    wanted = losses_of(stage)
    in_ranks(encode_together, (str(tmp_path), settings))
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for got in ranks:
        assert got["losses"] == pytest.approx(wanted, rel=1e-5)
    assert Counter(ranks[0]["seen"]) + Counter(ranks[1]["seen"]) == seen
    assert ranks[1]["seen"], "a batch of two videos is made by both"
