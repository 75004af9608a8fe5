"""The losses of every stage of every recipe, at tiny size from fixed seeds: refactoring must leave them as they are.

`python -m tests.training.test_losses` prints them anew, for a change that is meant to change them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from opensama.models.registry import TINY
from opensama.models.sama import SamaTransformer3DModel
from opensama.models.tiny import PatchAutoencoder
from opensama.pipeline.sama import SamaPipeline
from opensama.recipes.bernini import RECIPES as BERNINI_RECIPES
from opensama.recipes.icve import RECIPES as ICVE_RECIPES
from opensama.recipes.sama import RECIPES as SAMA_RECIPES
from opensama.recipes.tiny import CORE, ICVE_SMOKE, SMOKE
from opensama.reproduction import icve as small_icve
from opensama.reproduction import sama as small_sama
from opensama.reproduction.arms import PRIOR, SAMA, SAMA_BUDGETS
from opensama.reproduction.data import POOLS, UNPAIRED, read_pool
from opensama.training.autoencoder import AutoencoderStage, drawn_clips, set_latent_statistics
from opensama.training.config import EditConfig
from opensama.training.dataset import open_data
from opensama.training.edit_stage import EditStage
from opensama.training.embedded_config import StageConfig
from opensama.training.loop import LoopConfig, Trainer
from opensama.training.semantic_encoder import SemanticStage, make_semantic_encoder
from opensama.training.sources import ItemSource
from opensama.training.text import make_text_encoder, train_tokenizer
from opensama.training.tiny import train_tiny
from opensama.training.train_editor import loop_config
from opensama.world import plan_edit
from tests.data.making import make_transformer, save_base, save_manifest, tiny_settings
from tests.training.icve_making import icve_settings, save_icve_base

Losses = dict[str, list[float]]


class Recorder:
    """Keeps the loss of every step of a `Trainer` by the stage's name."""

    def __init__(self) -> None:
        self.losses: Losses = {}

    def __enter__(self) -> Losses:
        self.plain = plain = Trainer.step

        def step(trainer: Trainer) -> dict[str, float]:
            values = plain(trainer)
            self.losses.setdefault(trainer.stage.name, []).append(values["loss"])
            return values

        Trainer.step = step  # type: ignore[method-assign]
        return self.losses

    def __exit__(self, *_: object) -> None:
        Trainer.step = self.plain  # type: ignore[method-assign]


def steps(n: int, **more: float) -> StageConfig:
    return StageConfig(minutes=1e6, max_steps=n, **more)


def small_model(folder: Path) -> Path:
    """A SAMA pipeline's folder of the smallest embedded kind, with random weights."""
    torch.manual_seed(0)
    plans = [plan_edit(i) for i in range(100)]
    tokenizer = train_tokenizer([text for p in plans for text in (p.instruction, p.caption)], 400)
    vae = PatchAutoencoder(widths=(8, 8, 8), decoder_blocks=(1, 1, 1))
    vae.start_from_components(drawn_clips(8, 0))
    set_latent_statistics(vae, drawn_clips(4, 0))
    transformer = SamaTransformer3DModel(
        patch_size=(1, 1, 1), num_attention_heads=1, attention_head_dim=64, in_channels=192, out_channels=192,
        source_gate=True, text_dim=32, freq_dim=64, ffn_dim=256, num_layers=2, semantic_dim=32, semantic_hidden=32,
        semantic_tokens_per_anchor=17, semantic_rotary="grid",
    )  # fmt: skip
    SamaPipeline(
        tokenizer=tokenizer, text_encoder=make_text_encoder(tokenizer, 32, 1), vae=vae, transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=8.0), defaults=TINY.defaults.to_dict(),
    ).save_pretrained(folder)  # fmt: skip
    make_semantic_encoder(32, 1).save_pretrained(folder / "semantic_encoder")
    return folder


def frozen_parts(folder: Path) -> None:
    """The embedded SAMA's own frozen parts, trained before its transformer is."""
    torch.manual_seed(0)
    vae = PatchAutoencoder(widths=(8, 8, 8), decoder_blocks=(1, 1, 1))
    vae.start_from_components(drawn_clips(8, 0))
    Trainer(AutoencoderStage(vae, batch=6, pictures=8), LoopConfig(steps=4), folder).run()
    tokenizer = train_tokenizer([plan_edit(i).instruction for i in range(100)], 400)
    encoder, text = make_semantic_encoder(32, 1), make_text_encoder(tokenizer, 32, 1)
    Trainer(SemanticStage(encoder, text, tokenizer, batch=4), LoopConfig(steps=4, muon=1e-3), folder).run()


LITTLE = {
    "image_edits": 4, "video_edits": 4, "pretext_clips": 4, "unpaired_stills": 4, "unpaired_clips": 4,
    "image_batch": 2, "video_batch": 1, "picture_batch": 2, "window_batch": 4, "test_edits": 4,
}  # fmt: skip


def sama_from_weights(folder: Path) -> None:
    """Image edits, then videos with pretext tasks, from one pool for the whole run."""
    config = SMOKE.model_copy(update=LITTLE | {"images": steps(4, muon=2e-3), "videos": steps(4, muon=2e-3)})
    train_tiny(config.model_copy(update={"start_from": small_model(folder / "model")}), folder / "run")


def core(folder: Path) -> None:
    """The world's core from pictures and windows, pools renewed."""
    little = LITTLE | {
        "chunk": 4,
        "chunk_steps": 2,
        "chunks": 2,
        "color_rank": 0,
        "color_shapes": 0,
        "frame_waves": 0,
        "word_dropout": 0,
    }
    stages = {name: steps(4, muon=1.2e-3, decay=0.0) for name in ("pictures", "windows", "images")}
    config = CORE.model_copy(update=little | stages | {"videos": StageConfig(minutes=0)})
    train_tiny(config.model_copy(update={"start_from": small_model(folder / "model")}), folder / "run")


def embedded_icve(folder: Path) -> None:
    """Beside the embedded SAMA's frozen parts."""
    stages = {"pretrain": steps(4, muon=2e-3), "images": steps(4, muon=2e-3), "videos": steps(3)}
    train_tiny(ICVE_SMOKE.model_copy(update=LITTLE | stages), folder / "run")


def first_steps(name: str, config: EditConfig, folder: Path, most: int = 3) -> None:
    """A run's first steps, without checkpoints and export."""
    data, _ = open_data(config, torch.device("cpu"))
    items = ItemSource(data, config)
    stage = EditStage.of(name, make_transformer(config), items)
    trainer = Trainer(stage, loop_config(config, items.passes, items.epoch), folder)
    for _ in range(most):
        trainer.step()
    stage.close()


def sama_editors(folder: Path) -> None:
    """The paper's stages on a base in diffusers' layout, and low-rank."""
    base, manifest = save_base(folder / "base"), save_manifest(made(folder / "data"))
    edits = manifest.with_name("edits.jsonl")
    edits.write_text("".join(f"{line}\n" for line in manifest.read_text().splitlines() if "clip" not in line))
    data = {"sama-14b-stage0": manifest, "sama-14b-stage1": edits, "sama-14b-stage0-lora": manifest}
    for name, rows in data.items():
        settings = tiny_settings(base, rows)
        settings["data"] |= {"images": 1, "videos": 2}
        settings["optimizer"] |= {"steps": 3, "lr": 1e-3}
        settings["data"]["clips"] = SAMA_RECIPES[name].data.clips
        settings["lora"] = SAMA_RECIPES[name].model_dump()["lora"]
        first_steps(name, type(SAMA_RECIPES[name])(**settings), folder)


def icve_editors(folder: Path) -> None:
    base, manifest = save_icve_base(folder / "base"), save_manifest(made(folder / "data"))
    for name in ("icve-13b-pretrain", "icve-13b-sft", "icve-13b-sft-lora"):
        settings = icve_settings(base, manifest, name)
        settings["model"] |= {"start": "hunyuan"}
        settings["data"] |= {"videos": 2}
        settings["optimizer"] |= {"steps": 3, "epochs": None, "lr": 1e-3}
        first_steps(name, type(ICVE_RECIPES[name])(**settings), folder)


def bernini_editors(folder: Path) -> None:
    """Bernini on edits, and SAMA from the same weights, on a base in diffusers' layout."""
    base, manifest = save_base(folder / "base"), save_manifest(made(folder / "data"))
    edits = manifest.with_name("edits.jsonl")
    edits.write_text("".join(f"{line}\n" for line in manifest.read_text().splitlines() if "clip" not in line))
    names = ("bernini-1.3b-sft", "bernini-1.3b-sft-lora", "sama-bernini-1.3b-stage0")
    for name in names:
        recipe = BERNINI_RECIPES[name]
        settings, small = recipe.model_dump(), tiny_settings(base, manifest if "stage0" in name else edits)
        settings["data"] |= small["data"] | {"images": 1, "videos": 2, "prefix": "", "no_text": ""}
        settings["data"]["clips"] = recipe.data.clips
        settings["optimizer"] |= {"steps": 3, "lr": 1e-3}
        settings["model"] |= {"base": str(base), "start": "wan"}
        if "semantic" in settings:
            settings["semantic"] |= small["semantic"]
        first_steps(name, type(recipe)(**settings | {"compute": "float32"}), folder)


def embedded_editors(folder: Path) -> None:
    """The embedded models on people's own clips."""
    manifest = save_manifest(made(folder / "data"))
    edits = manifest.with_name("edits.jsonl")
    edits.write_text("".join(f"{line}\n" for line in manifest.read_text().splitlines() if "clip" not in line))
    for name, recipe in (SAMA_RECIPES | ICVE_RECIPES).items():
        if not name.startswith("tiny-") or name.endswith("-lora"):
            continue
        settings = recipe.model_dump()
        settings["data"] |= {"manifest": manifest if settings["data"]["clips"] else edits}
        settings["data"] |= {"area": 64 * 64, "frames": 9, "videos": 2, "video_batch": 2, "image_batch": 2}
        settings["data"]["images"] = 2 if settings["data"]["images"] else 0
        settings["optimizer"] |= {"steps": 3, "epochs": None}
        first_steps(name, type(recipe)(**settings), folder, most=2)


def reproduction(folder: Path) -> None:
    """The papers' experiments in small: what a run trains, without its test."""
    budget = SAMA_BUDGETS["smoke"]
    for name in POOLS:
        small_sama.draw_sama_pool(folder, budget, name)
    torch.manual_seed(0)
    prior, images, videos = ([read_pool(folder, name)] for name in ("prior", "images", "videos"))
    model = small_sama.make_sama(PRIOR, budget)
    small_sama.train_sama("micro prior", model, prior, PRIOR, 0, budget, (0, 2), 4, folder)
    model = small_sama.make_sama(SAMA, budget)
    corrupted = small_sama.corrupted_pools(folder, budget, SAMA)
    small_sama.train_sama("micro stage0", model, [*images, *corrupted], SAMA, 0, budget, (3, 2), 4, folder)
    small_sama.train_sama("micro stage1", model, [*images, *videos], SAMA, 0, budget, (2, 2), 4, folder)
    few = small_icve.ICVE_BUDGETS["smoke"]
    small_icve.IcveExperiment(folder, few).draw_pool(UNPAIRED)
    pairs = read_pool(folder, UNPAIRED)
    small_icve.train_icve("micro icve", small_icve.make_icve(few), pairs, 0, few, 4, folder)


def made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


RUNS: dict[str, Callable[[Path], None]] = {
    run.__name__: run
    for run in (
        frozen_parts, sama_from_weights, core, embedded_icve, sama_editors, icve_editors,
        bernini_editors, embedded_editors, reproduction,
    )
}  # fmt: skip
# fmt: off
LOSSES: dict[str, Losses] = {
    "frozen_parts": {
        "autoencoder": [0.02430265, 0.01825661, 0.01987719, 0.0120312],
        "semantic": [8.456929, 8.287225, 7.184189, 6.406611],
    },
    "sama_from_weights": {
        "images": [1.161541, 0.6641502, 0.5730076, 0.6475199],
        "videos": [0.4284894, 0.5357594, 1.039047, 0.4419125],
    },
    "core": {
        "pictures": [2.924859, 2.594018, 2.327293, 5.063452],
        "windows": [1.112345, 1.151688, 1.094585, 1.412668],
        "images": [0.9236048, 0.68599, 0.4874924, 0.7784841],
    },
    "embedded_icve": {
        "pretrain": [2.079809, 1.094548, 1.224849, 1.835022],
        "images": [0.6988571, 0.367963, 0.2936715, 0.3790442],
        "videos": [0.4396419, 0.3669821, 0.4497079],
    },
    "sama_editors": {
        "sama-14b-stage0": [1.675006, 1.907959, 1.717459],
        "sama-14b-stage1": [1.678335, 1.896653, 1.706151],
        "sama-14b-stage0-lora": [1.675006, 1.907959, 1.740564],
    },
    "icve_editors": {
        "icve-13b-pretrain": [1.315322, 1.430876, 1.332944],
        "icve-13b-sft": [1.315322, 1.430876, 1.332944],
        "icve-13b-sft-lora": [1.315322, 1.430876, 1.382671],
    },
    "bernini_editors": {
        "bernini-1.3b-sft": [1.572395, 1.830046, 1.580093],
        "bernini-1.3b-sft-lora": [1.572395, 1.830046, 1.608422],
        "sama-bernini-1.3b-stage0": [1.675729, 1.90407, 1.737648],
    },
    "embedded_editors": {
        "tiny-stage0": [0.3980041, 0.4937921],
        "tiny-stage1": [0.4756743, 0.5018027],
        "tiny-icve-pretrain": [0.2925092, 0.1751024],
        "tiny-icve-sft": [0.2306782, 0.09339057],
    },
    "reproduction": {
        "micro prior": [0.4670496, 0.3220527, 0.6320368, 0.6987488],
        "micro stage0": [0.6386176, 0.9351177, 0.9999498, 1.273559],
        "micro stage1": [0.7058313, 0.6680549, 1.226529, 0.8047599],
        "micro icve": [0.5097389, 0.277898, 0.8853558, 0.5836358],
    },
}
# fmt: on


def losses_of(run: Callable[[Path], None], folder: Path) -> Losses:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with Recorder() as losses:
            run(folder)
    finally:
        torch.set_num_threads(threads)
    return losses


@pytest.mark.parametrize("name", RUNS)
def test_losses_are_as_they_were(name: str, tmp_path: Path) -> None:
    found = losses_of(RUNS[name], tmp_path)
    assert found.keys() == LOSSES[name].keys()
    for stage, losses in LOSSES[name].items():
        assert found[stage] == pytest.approx(losses, rel=1e-4), stage


if __name__ == "__main__":
    for name in sys.argv[1:] or RUNS:
        with TemporaryDirectory() as folder:
            found = losses_of(RUNS[name], Path(folder))
        print(f"    {name!r}: {{")
        for stage, losses in found.items():
            print(f"        {stage!r}: [{', '.join(f'{loss:.7g}' for loss in losses)}],")
        print("    },")
