"""Trains the embedded model on a GPU for minutes, and hands back what it learnt in one file of less than 16 MiB.

    python benchmarks/gpu_minutes.py run OUT [--minutes 6] [--start-from FOLDER] [--device cuda] [--set NAME=VALUE ...]
    python benchmarks/gpu_minutes.py unpack OUT/trained.safetensors MODEL [--start-from FOLDER]

`run` is `opensama train tiny --recipe core-gpu` in a temporary folder: --minutes are those of training; drawing the
first pools and measuring take one or two more. OUT gets `trained.safetensors` (transformer and text encoder, bfloat16;
all other parts are the start's), `scores-STAGE.jsonl` and `training.json`. `unpack` makes a model folder of it, from
which training goes on (`--start-from`) and which edits. It begins with the shipped weights unless told otherwise.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file, save_file

from opensama.apps.train import assign, validated_settings
from opensama.models.registry import TINY
from opensama.recipes.tiny import CORE_GPU
from opensama.training.embedded_config import TinyConfig
from opensama.training.tiny import train_tiny

LEARNT = {"transformer": "diffusion_pytorch_model.safetensors", "text_encoder": "model.safetensors"}
CONFIG = Path("transformer") / "config.json"
LIMIT = 16 * 2**20


def run(out: Path, minutes: float, start_from: Path, device: str, settings: Sequence[str]) -> Path:
    """Trains, and returns the file of what was learnt."""
    values = CORE_GPU.model_dump() | {"minutes": minutes, "start_from": start_from}
    for setting in settings:
        assign(values, setting, "workers=8")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        model = train_tiny(validated_settings(TinyConfig, values), Path(folder), device=device)
        learnt = {
            f"{part}.{name}": tensor
            for part, file in LEARNT.items()
            for name, tensor in load_file(model / part / file).items()
        }
        trained = out / "trained.safetensors"
        save_file(learnt, trained, metadata={"config": (model / CONFIG).read_text()})
        for scores in Path(folder).glob("*/scores.jsonl"):
            shutil.copy(scores, out / f"scores-{scores.parent.name}.jsonl")
        shutil.copy(model / "training.json", out)
    size = trained.stat().st_size
    print(f"{trained}: {size / 2**20:.1f} MiB")
    if size >= LIMIT:
        raise SystemExit(f"That is more than {LIMIT // 2**20} MiB, which may not come back.")
    return trained


def unpack(trained: Path, model: Path, start_from: Path) -> Path:
    """The start's folder with what was learnt in its place."""
    from safetensors import safe_open

    shutil.copytree(start_from, model, ignore=shutil.ignore_patterns("README.md", "scores.json"))
    learnt = load_file(trained)
    for part, file in LEARNT.items():
        own = {name.removeprefix(f"{part}."): v for name, v in learnt.items() if name.startswith(f"{part}.")}
        if not own.keys() >= load_file(model / part / file).keys():  # training may add parts
            raise SystemExit(f"{trained} was not trained from {start_from}: its {part} has other weights.")
        save_file(own, model / part / file, metadata={"format": "pt"})
    with safe_open(trained, "pt") as header:
        (model / CONFIG).write_text(json.dumps(json.loads(header.metadata()["config"]), indent=2) + "\n")
    notes = trained.with_name("training.json")
    if notes.is_file():
        shutil.copy(notes, model)
    return model


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    training, unpacking = commands.add_parser("run"), commands.add_parser("unpack")
    training.add_argument("out", type=Path)
    training.add_argument("--minutes", type=float, default=6.0)
    training.add_argument("--device", default="cuda")
    training.add_argument("--set", action="append", default=[])
    unpacking.add_argument("trained", type=Path)
    unpacking.add_argument("model", type=Path)
    for one in (training, unpacking):
        one.add_argument("--start-from", type=Path, default=TINY.folder)
    asked = parser.parse_args(arguments)
    if asked.command == "run":
        run(asked.out, asked.minutes, asked.start_from, asked.device, asked.set)
    else:
        unpack(asked.trained, asked.model, asked.start_from)


if __name__ == "__main__":
    main()
