"""A family is one object: a third one takes one file, and nobody asks for a family's name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import opensama
from opensama import EditRequest, load
from opensama.models.families import MODEL_FAMILIES, family_of, find_family, register
from opensama.models.registry import find
from opensama.training import config as settings
from opensama.training.embedded_config import TinyConfig
from opensama.training.train_editor import plan_editor, train_editor
from opensama.values import UserError, Video
from tests.data.making import base, manifest, tiny_settings
from tests.models.third_family import FAMILY, ConcatConfig, ConcatTransformer3DModel
from tests.pipeline.conftest import moving_picture

__all__ = ["base", "manifest"]
SOURCE = Path(opensama.__file__).parent
PAPERS = {"apps/reproduce.py"}  # asks whose experiments are carried out


@pytest.fixture
def third() -> Iterator[None]:
    register(FAMILY)
    yield
    del MODEL_FAMILIES[FAMILY.name]


def test_a_third_family_takes_one_file(third, base, manifest, tmp_path, caplog):
    """It is planned for, trained whole and low-rank, exported, loaded, and edits, also with its LoRA."""
    caplog.set_level("INFO")
    edits = manifest.with_name("edits.jsonl")
    edits.write_text("".join(f"{line}\n" for line in manifest.read_text().splitlines() if "clip" not in line))
    values = tiny_settings(base, edits)
    data = values["data"] | {"clips": False, "images": 1, "videos": 2}
    optimizer = values["optimizer"] | {"steps": 2, "lr": 1e-2, "ema": 0.5}
    config = ConcatConfig(
        model={"base": str(base)}, data=data, optimizer=optimizer, mesh=values["mesh"], compute="float32"
    )
    plan = plan_editor(config, gpus=1)
    assert plan.parameters == sum(p.numel() for p in ConcatTransformer3DModel().parameters())
    assert "random ones" in caplog.text

    model = train_editor(config, tmp_path / "run", name="concat", device="cpu")
    assert find(model).family == "concat"
    assert (model / "concat.safetensors").is_file()
    low_rank = config.model_copy(update={"lora": settings.LoraSettings(rank=2)})
    lora = train_editor(low_rank, tmp_path / "low", name="concat-lora", device="cpu")

    request = EditRequest(Video.from_frames(moving_picture(t=9, h=48, w=64), 8), "make the ball blue", steps=1)
    plain, adapted = (load(model, device="cpu", lora=given) for given in ([], [lora]))
    assert family_of(plain.pipeline.transformer) is FAMILY
    frames = [torch.stack([torch.as_tensor(f) for f in editor.edit(request).frames()]) for editor in (plain, adapted)]
    assert frames[0].shape == frames[1].shape == (9, 48, 64, 3)
    weights = [editor.pipeline.transformer.blocks[0].attn1.to_q.weight for editor in (plain, adapted)]
    assert not torch.equal(*weights)


def test_an_unknown_family_is_named():
    with pytest.raises(UserError, match="There is no family 'sma': choose bernini, icve, sama"):
        find_family("sma")
    with pytest.raises(ValueError, match="There is no family 'sma'"):
        TinyConfig(family="sma")


def questions(tree: ast.AST, names: set[str], classes: set[str]) -> Iterator[int]:
    """Lines that ask which family something is of: comparisons with a name, dictionaries by names, isinstance."""

    def named(node: ast.AST) -> bool:
        return isinstance(node, ast.Constant) and node.value in names

    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            asked = any(named(part) for side in sides for part in (side, *ast.iter_child_nodes(side)))
        elif isinstance(node, ast.Dict):
            asked = sum(named(key) for key in node.keys if key is not None) > 1
        elif isinstance(node, ast.MatchValue):
            asked = named(node.value)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass"):
            kinds = {part.id for part in ast.walk(node.args[1]) if isinstance(part, ast.Name)}
            asked = bool(kinds & classes)
        else:
            continue
        if asked:
            yield node.lineno if not isinstance(node, ast.MatchValue) else node.value.lineno


def test_nobody_asks_for_a_familys_name():
    classes = {cls for f in MODEL_FAMILIES.values() for cls in (f.transformer.__name__, f.pipeline_name)}
    classes |= {kind.__name__ for kind in vars(settings).values() if "family" in getattr(kind, "__dict__", ())}
    assert {"SamaConfig", "IcveConfig", "IcvePipeline"} <= classes
    given = 'x = 1 if family == "icve" else isinstance(config, SamaConfig), {"sama": 1, "icve": 2}'
    assert len(list(questions(ast.parse(given), set(MODEL_FAMILIES), classes))) == 3
    found = [
        f"{path.relative_to(SOURCE)}:{line}"
        for path in sorted(SOURCE.rglob("*.py"))
        if "families" not in path.parts and path.relative_to(SOURCE).as_posix() not in PAPERS
        for line in questions(ast.parse(path.read_text()), set(MODEL_FAMILIES), classes)
    ]
    assert not found, found
