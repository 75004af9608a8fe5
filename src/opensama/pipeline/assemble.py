"""Builds a SamaPipeline: from a pipeline folder, or from Wan's own folder and a released single file.

Every file that is missing is named, with where to get it, before anything heavy is read.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from opensama import runtime
from opensama.models.registry import ModelEntry, Weights
from opensama.pipeline.sama import SamaPipeline
from opensama.values import UserError

PARTS = ("tokenizer", "text_encoder", "vae")  # taken from the base; the transformer is the released file


def build_pipeline(
    entry: ModelEntry,
    dtype: torch.dtype,
    *,
    weights: str | Path | None = None,
    base: str | Path | None = None,
) -> SamaPipeline:
    """The entry's pipeline on the CPU, the autoencoder in float32, the rest in `dtype`."""
    if entry.folder is not None:
        if weights is not None or base is not None:
            raise UserError(f"The model {entry.name} is one folder: leave weights and base away.")
        return _from_folder(entry.folder, entry, dtype)
    assert entry.base is not None
    assert entry.edit is not None
    return _from_base(entry, entry.base, entry.edit, dtype, weights, base)


def _from_folder(folder: Path, entry: ModelEntry, dtype: torch.dtype) -> SamaPipeline:
    if not folder.is_dir():
        raise UserError(f"The weights of {entry.name} are not in {folder}: install the package anew, or train them.")
    missing = missing_parts(folder, (*PARTS, "transformer", "scheduler"))
    if missing:
        raise UserError(f"The model folder {folder} has no {', '.join(missing)}: copy it again, whole.")
    types: Any = {"default": dtype, "vae": torch.float32}
    try:
        with runtime.quiet_loading():
            return SamaPipeline.from_pretrained(folder, dtype=types, local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise UserError(f"The model folder {folder} cannot be read: {_first_line(error)}") from error


def _from_base(
    entry: ModelEntry,
    base: Weights,
    edit: Weights,
    dtype: torch.dtype,
    weights: str | Path | None,
    base_folder: str | Path | None,
) -> SamaPipeline:
    file = _released_file(edit, weights)
    folder = runtime.locate(base.repo, base.files, folder=base_folder, size=base.size)
    missing = missing_parts(folder, PARTS)
    if missing:
        raise UserError(f"The folder {folder} has no {', '.join(missing)}: get {'them' if missing[1:] else 'it'} from"
                        f" {base.url} ({base.size}).")  # fmt: skip

    from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler
    from transformers import AutoTokenizer, UMT5EncoderModel

    from opensama.models.convert import load_released

    config = json.loads((folder / "transformer" / "config.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as scratch:
        sizes = Path(scratch) / "sizes.json"
        sizes.write_text(json.dumps({key: value for key, value in config.items() if not key.startswith("_")}))
        transformer = load_released(file, entry.family, sizes, dtype=dtype)
    try:
        return SamaPipeline(
            tokenizer=AutoTokenizer.from_pretrained(folder / "tokenizer"),
            text_encoder=UMT5EncoderModel.from_pretrained(folder / "text_encoder", dtype=dtype),
            vae=AutoencoderKLWan.from_pretrained(folder / "vae", torch_dtype=torch.float32),
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=entry.defaults.shift),
            defaults=entry.defaults.to_dict(),
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"The base model in {folder} cannot be read: {_first_line(error)}") from error


def _released_file(edit: Weights, weights: str | Path | None) -> Path:
    name = edit.files[0]
    if weights is not None and Path(weights).expanduser().is_file():
        return Path(weights).expanduser()
    return runtime.locate(edit.repo, edit.files, folder=weights, size=edit.size) / name


def missing_parts(folder: Path, parts: tuple[str, ...]) -> list[str]:
    """Files that a diffusers pipeline folder lacks, shards of split weights included."""
    missing = []
    for part in parts:
        if part == "tokenizer":
            names = ("tokenizer.json", "spiece.model", "tokenizer_config.json")
            if not any((folder / part / name).is_file() for name in names[:2]):
                missing.append("tokenizer/tokenizer.json")
            continue
        config = "scheduler_config.json" if part == "scheduler" else "config.json"
        if not (folder / part / config).is_file():
            missing.append(f"{part}/{config}")
        if part != "scheduler":
            missing += _missing_weights(folder, part)
    return missing


def _missing_weights(folder: Path, part: str) -> list[str]:
    stem = "model" if part == "text_encoder" else "diffusion_pytorch_model"
    if (folder / part / f"{stem}.safetensors").is_file():
        return []
    index = folder / part / f"{stem}.safetensors.index.json"
    if not index.is_file():
        return [f"{part}/{stem}.safetensors"]
    shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    return [f"{part}/{shard}" for shard in shards if not (folder / part / shard).is_file()]


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
