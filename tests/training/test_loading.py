"""Every tensor of a model comes into a run, into its checkpoints and out of it, those that no gradient changes too."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from opensama.models.sama import SamaTransformer3DModel
from opensama.models.tiny import PatchAutoencoder
from opensama.models.weights import TensorFiles
from opensama.recipes.sama import RECIPES
from opensama.training.autoencoder import drawn_clips, set_latent_statistics
from opensama.training.config import LoraSettings, SamaConfig
from opensama.training.export import export_editor
from opensama.training.loop import LoopConfig, Trainer
from opensama.training.stage import TrainingStage
from opensama.values import UserError
from tests.data.making import make_transformer, save_base

SIZES = {
    "patch_size": (1, 1, 1), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 8, "out_channels": 8,
    "text_dim": 8, "freq_dim": 16, "ffn_dim": 24, "num_layers": 1, "semantic_dim": 6, "semantic_hidden": 6,
    "source_gate": True, "color_rank": 5, "color_shapes": 2, "frame_waves": 2,
}  # fmt: skip
BUFFERS = {f"local_color.{name}" for name in ("planes", "offset", "back")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model whose transformer draws in its autoencoder's colour planes; not a number of it is zero."""
    path = save_base(tmp_path_factory.mktemp("colored"))
    vae = PatchAutoencoder(z_dim=8, widths=(8, 8, 8), decoder_blocks=(1, 1, 1)).eval()
    vae.start_from_components(drawn_clips(12, 0))
    set_latent_statistics(vae, drawn_clips(4, 50))
    vae.save_pretrained(path / "vae")
    shutil.rmtree(path / "transformer")
    model = SamaTransformer3DModel(**SIZES)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.local_color.read_autoencoder(vae)
    model.to(torch.bfloat16)
    model.save_pretrained(path / "transformer")
    assert all(tensor.abs().sum() > 0 for tensor in model.state_dict().values())
    return path


@pytest.fixture
def config(folder) -> SamaConfig:
    found = RECIPES["sama-14b-stage1"].model_copy(deep=True)
    found.model.base, found.model.start, found.compute = str(folder), "sama", "float32"
    found.mesh.checkpointing, found.semantic.width = "none", 6
    return found


def tensors(folder: Path) -> dict[str, Tensor]:
    files = TensorFiles(folder / "transformer")
    return {name: files.rows(name, 0, shape[0]) for name, shape in files.shapes.items()}


def unequal(left: dict[str, Tensor], right: dict[str, Tensor]) -> set[str]:
    assert left.keys() == right.keys()
    return {name for name in left if not torch.equal(left[name].float(), right[name].float())}


class OneCell(TrainingStage):
    def __init__(self, model: torch.nn.Module):
        super().__init__("editor")
        self.model = model

    def modules(self):
        return {"transformer": self.model}

    def step(self, index):
        x, words = torch.randn(2, 1, 8, 2, 2, 2), torch.randn(1, 3, 8)
        sigma = torch.full((1,), 500.0)
        return {"loss": self.model(x[0], sigma, words, x[1], return_dict=False)[0].square().mean()}


def trained(model: torch.nn.Module, out: Path, steps: int = 2) -> Trainer:
    trainer = Trainer(OneCell(model), LoopConfig(steps=steps, lr=0.01, ema=0.5, log_every=-1), out)
    trainer.run()
    return trainer


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2, alpha=2, targets=("to_q",), merge=True)])
def test_every_tensor_comes_in_and_goes_out(config, folder, tmp_path, lora):
    config.lora = lora
    model = make_transformer(config)
    export_editor(model, config, tmp_path)
    assert not unequal(tensors(folder), tensors(tmp_path / "model"))


def test_a_checkpoint_gives_every_tensor_on(config, folder, tmp_path):
    """Of the averaged weights that a run ends with: buffers as they were, all else learnt; a run goes on with them."""
    model = make_transformer(config)
    trained(model, tmp_path)
    wanted = model.state_dict()
    config.model.weights = next((tmp_path / "editor").glob("step-*"))
    assert not unequal(make_transformer(config).state_dict(), wanted)
    assert not unequal({name: wanted[name] for name in BUFFERS}, {name: tensors(folder)[name] for name in BUFFERS})
    assert {name.split(".")[0] for name in unequal(wanted, tensors(folder))} >= {"blocks", "local_color"}
    torch.nn.init.zeros_(model.local_color.planes)
    assert trained(model, tmp_path).progress.step == 2
    assert not unequal(model.state_dict(), wanted)


def test_random_weights_draw_in_the_bases_planes(config, folder):
    config.model.start = "nothing"
    made = make_transformer(config).state_dict()
    for name in BUFFERS:
        torch.testing.assert_close(made[name], tensors(folder)[name].float(), rtol=0.005, atol=1e-5)
    assert "proj_out.weight" in unequal(made, tensors(folder))


def test_a_base_without_such_planes_is_said(config, folder, base, tmp_path):
    shutil.copytree(folder, tmp_path / "other")
    shutil.copytree(base / "vae", tmp_path / "other" / "vae", dirs_exist_ok=True)
    config.model.start, config.model.base = "nothing", str(tmp_path / "other")
    with pytest.raises(UserError, match=r"AutoencoderKLWan has no colour planes .*model.start=sama"):
        make_transformer(config)
