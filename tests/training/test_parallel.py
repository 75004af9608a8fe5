"""Parallelism on two processes: loss, gradients, updates and checkpoints are those of one, and the hooks really ran."""

from __future__ import annotations

import datetime
import os
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from opensama.models.sama import SamaTransformer3DModel
from opensama.training.checkpoint import latest_checkpoint, read_tensor_infos
from opensama.training.config import MeshSettings
from opensama.training.loop import LoopConfig, Trainer
from opensama.training.parallel import lay_out, parallelise
from opensama.training.stage import TrainingStage
from opensama.values import UserError
from tests.models.sizes import SIZES
from tests.ranks import in_ranks

MESHES = {
    "data": MeshSettings(replicate=2, checkpointing="none"),
    "sharded": MeshSettings(shard=2, checkpointing="full"),
    "context": MeshSettings(context=2, checkpointing="selective"),
}
STEPS = 3


class Flow(TrainingStage):
    """Two samples a step, shared by all that read data; 21 joint tokens, which two processes share unevenly."""

    def __init__(self, rank: int = 0, world: int = 1):
        super().__init__("flow")
        torch.manual_seed(0)
        self.model = SamaTransformer3DModel(**SIZES)
        self.rank, self.world = rank, world

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def step(self, index: int) -> dict[str, Tensor]:
        g = torch.Generator().manual_seed(index)
        shapes = {"target": (4, 2, 4, 4), "source": (4, 2, 4, 4), "text": (3, 16), "semantic": (5, 12), "t": ()}
        x = {name: torch.randn(2, *shape, generator=g) for name, shape in shapes.items()}
        x = {name: v.tensor_split(self.world)[self.rank] for name, v in x.items()}
        video, semantic = self.model(
            x["target"], 500 + 100 * x["t"], x["text"], x["source"], x["semantic"], return_dict=False
        )
        loss = (video - x["target"]).square().mean() + (semantic - x["semantic"]).abs().mean()
        return {"loss": loss, "tokens": torch.tensor(21 * len(x["t"]))}


class Collectives(TorchDispatchMode):
    """Counts what processes say to each other."""

    def __init__(self):
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[str(func)] += "c10d" in str(func)
        return func(*args, **(kwargs or {}))


def config(steps: int) -> LoopConfig:
    return LoopConfig(steps=steps, lr=1e-3, muon=1e-3, clip=0.1, decay=0.0, warmup=0.0, ema=0.5, log_every=-1)


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gradients(stage: Flow) -> dict[str, Tensor]:
    stage.model.zero_grad()
    stage.step(0)["loss"].backward()
    found = {name: whole(p.grad).clone() for name, p in stage.model.named_parameters()}
    stage.model.zero_grad()
    return found


def train(stage: Flow, out: Path, steps: int = STEPS, context: int = 1) -> list[tuple[float, float]]:
    """Loss and gradient norm of every step so far."""
    rows = Trainer(stage, config(steps), out, context=context).run().history
    return [(row["loss"], row["norm"]) for row in rows]


def one_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("cpu:gloo", store=store, rank=rank, world_size=2, timeout=datetime.timedelta(minutes=5))
    out: dict[str, object] = {}
    for name, mesh in MESHES.items():
        layout = lay_out(mesh)
        stage = Flow(layout.data_rank, layout.data_world)
        parallelise(stage.model, mesh, "float32")
        with Collectives() as calls:
            found = gradients(stage)
        history = train(stage, Path(folder) / name, context=mesh.context)
        out[name] = {"gradients": found, "calls": dict(calls.counts), "history": history}
    out["local"] = sum(p.to_local().numel() for p in stage.model.parameters())
    for name in ("sharded", "alone"):  # a checkpoint of two processes, and one of a single one, are gone on with
        stage = Flow(rank, 2)
        parallelise(stage.model, MESHES["sharded"], "float32")
        out[f"resumed {name}"] = {"history": train(stage, Path(folder) / name, STEPS + 1)}
    stage = Flow()
    parallelise(stage.model, MeshSettings(context=2, checkpointing="selective"))
    kinds = []
    stage.model.blocks[0].register_forward_pre_hook(lambda _, x: kinds.append([str(t.dtype) for t in (x[0], x[3][0])]))
    with torch.autocast("cpu", torch.bfloat16):
        loss = stage.step(0)["loss"]
    loss.backward()
    grads = {str(p.grad.dtype) for p in stage.model.parameters()}
    out["bfloat16"] = {"loss": loss.item(), "tokens, rotary": kinds[0], "gradients": list(grads)}
    with pytest.raises(UserError, match=r"mesh of 3 x 2 processes .* the 2 that run: start 6"):
        lay_out(MeshSettings(replicate=3, shard=2, checkpointing="none"))
    with pytest.raises(UserError, match="do not divide by 4"):
        lay_out(MeshSettings(context=4, checkpointing="none"))
    with pytest.raises(ValueError, match="parallelise the stage's modules first"):
        Trainer(Flow(), config(1), Path(folder) / "plain")
    torch.save(out, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo")
def test_two_processes_equal_one(tmp_path):
    train(Flow(), tmp_path / "alone")
    in_ranks(one_of_two, (str(tmp_path),))
    compare(tmp_path)


def compare(folder: Path) -> None:
    """What two processes left in a folder, with what one does. Losses after updates stand for the updates."""
    wanted, history = gradients(Flow()), train(Flow(), folder / "further", STEPS + 1)
    for rank in range(2):
        got = torch.load(folder / f"{rank}.pt", weights_only=True)
        for name in MESHES:
            torch.testing.assert_close(got[name]["gradients"], wanted, rtol=1e-5, atol=1e-6)
        calls = {name: got[name]["calls"] for name in MESHES}
        assert any("allreduce" in op and n for op, n in calls["data"].items())
        for name in ("sharded", "context"):
            assert any("reduce_scatter" in op and n for op, n in calls[name].items())
        exchanges = {name: sum(n for op, n in calls[name].items() if "all_to_all" in op) for name in MESHES}
        there_and_back = 2 * 2 * SIZES["num_layers"]  # in the forward and in the backward pass, none of them repeated
        assert exchanges == {"data": 0, "sharded": 0, "context": there_and_back}
        assert got["bfloat16"]["loss"] == pytest.approx(history[0][0], rel=1e-2)
        assert got["bfloat16"]["tokens, rotary"] == ["torch.bfloat16", "torch.float32"]
        assert got["bfloat16"]["gradients"] == ["torch.float32"]
        assert got["local"] < 0.6 * sum(p.numel() for p in Flow().model.parameters())
    got = torch.load(folder / "0.pt", weights_only=True)  # the first process writes the rows
    for name in MESHES:
        torch.testing.assert_close(got[name]["history"], history[:STEPS], rtol=1e-5, atol=1e-5)
    for name in ("resumed sharded", "resumed alone"):
        torch.testing.assert_close(got[name]["history"], history, rtol=1e-5, atol=1e-5)
    path = latest_checkpoint(folder / "context" / "flow")
    assert path is not None
    assert len(list(path.glob("shard-*.safetensors"))) == 2
    assert "model.blocks.0.attn1.to_q.weight" in read_tensor_infos(path)
    one = train(Flow(), folder / "context", STEPS + 1)  # what two processes wrote, one goes on with
    torch.testing.assert_close(one, history, rtol=1e-5, atol=1e-5)


def sharded_in_bfloat16(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("cpu:gloo", store=store, rank=rank, world_size=2, timeout=datetime.timedelta(minutes=5))
    seen: dict[str, dict[str, Tensor]] = {}
    for how in ("none", "full"):
        stage = Flow(rank, 2)
        for name, p in stage.model.named_parameters():  # tables and norms that bfloat16 would round
            if p.ndim == 1 or "table" in name:
                torch.nn.init.uniform_(p.data, 0.5, 1.5, generator=torch.Generator().manual_seed(len(name)))
        wanted = {name: p.detach().clone() for name, p in stage.model.named_parameters()}
        parallelise(stage.model, MeshSettings(shard=2, checkpointing=how))
        found: dict[str, Tensor] = {}

        def look(module: nn.Module, _: object, name: str, found: dict[str, Tensor] = found) -> None:
            found.update({f"{name}.{key}": p.detach().clone() for key, p in module.named_parameters(recurse=False)})

        for name, module in stage.model.named_modules():
            if not isinstance(module, SamaTransformer3DModel) and "blocks" not in {name, name.rpartition(".")[2]}:
                module.register_forward_pre_hook(partial(look, name=name))
        with torch.autocast("cpu", torch.bfloat16):
            loss = stage.step(0)["loss"]
        loss.backward()
        seen[how] = {"loss": loss.detach()} | {name: found[name] for name in found}
        seen[how] |= {f"wanted {name}": wanted[name] for name in found}
        seen[how] |= {f"gradient {name}": whole(p.grad) for name, p in stage.model.named_parameters()}
    torch.save(seen, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo")
def test_what_is_small_is_gathered_in_float32(tmp_path):
    """Time embedding, tables and norms are the master weights to the bit; matrices are bfloat16."""
    in_ranks(sharded_in_bfloat16, (str(tmp_path),))
    one = gradients(Flow())
    seen = torch.load(tmp_path / "0.pt", weights_only=True)
    for found in seen.values():
        names = [name.removeprefix("wanted ") for name in found if name.startswith("wanted ")]
        exact = [name for name in names if torch.equal(found[name], found[f"wanted {name}"])]
        halved = [name for name in names if found[name].dtype == torch.bfloat16]
        assert set(exact) | set(halved) == set(names)
        for part in ("time_embedder", "time_proj", "table", "norm_q", "norm_k", "norm2"):
            assert any(part in name for name in exact), part
            assert not any(part in name for name in halved), part
        assert len([name for name in halved if name.endswith(("to_q.weight", "net.2.weight"))]) == 2 * 3
        assert {found[f"gradient {name}"].dtype for name in one} == {torch.float32}
    for name in one:  # what is recomputed is computed alike
        plain, again = (seen[how][f"gradient {name}"] for how in ("none", "full"))
        assert plain.abs().sum() > 0
        torch.testing.assert_close(again, plain, rtol=1e-2, atol=1e-6)


def test_one_process_is_no_mesh_and_recomputes_the_same():
    assert lay_out(MeshSettings()) == (torch.device("cpu"), None, None, 0, 1)
    wanted = gradients(Flow())
    for how in ("full", "selective"):
        stage = Flow()
        parallelise(stage.model, MeshSettings(checkpointing=how), "float32")
        torch.testing.assert_close(gradients(stage), wanted)


@pytest.mark.parametrize(
    "mesh",
    [
        MeshSettings(shard=8, checkpointing="none"),
        MeshSettings(replicate=2, checkpointing="none"),
        MeshSettings(context=2, checkpointing="none"),
    ],
)
def test_a_mesh_that_does_not_fit_is_told(mesh):
    assert "WORLD_SIZE" not in os.environ
    with pytest.raises(UserError, match=r"(does not fit the 1|but 1 do not divide)"):
        lay_out(mesh)
