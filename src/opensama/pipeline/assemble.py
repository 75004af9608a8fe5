"""Builds a SamaPipeline: from a pipeline folder, or from Wan's own folder and a released single file.

Every file that is missing or cut off is named, with where to get it, before anything heavy is read. What the libraries
load is held against the files: they would draw a missing tensor at random and go on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from opensama import runtime
from opensama.models.convert import check, load_released
from opensama.models.registry import ModelEntry, Weights
from opensama.models.weights import TensorFiles, shards
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
    tensors = {part: TensorFiles(_weight_file(folder, part)) for part in ("text_encoder", "vae", "transformer")}
    types: Any = {"default": dtype, "vae": torch.float32}
    try:
        with runtime.quiet_loading():
            pipeline = SamaPipeline.from_pretrained(folder, dtype=types, local_files_only=True)
    except Exception as error:  # the libraries raise anything for a damaged file
        raise UserError(f"The model folder {folder} cannot be read: {_first_line(error)}") from error
    for part, files in tensors.items():
        _check_loaded(getattr(pipeline, part), files, str(folder / part))
    return pipeline


def _from_base(
    entry: ModelEntry,
    base: Weights,
    edit: Weights,
    dtype: torch.dtype,
    weights: str | Path | None,
    base_folder: str | Path | None,
) -> SamaPipeline:
    file = _released_file(edit, weights)
    TensorFiles(file)  # a wrong file is said before anything more is downloaded
    folder = runtime.locate(base.repo, base.files, folder=base_folder, size=base.size)
    missing = missing_parts(folder, PARTS)
    if missing:
        raise UserError(f"The folder {folder} has no {', '.join(missing)}: get {'them' if missing[1:] else 'it'} from"
                        f" {base.url} ({base.size}).")  # fmt: skip

    tensors = {part: TensorFiles(_weight_file(folder, part)) for part in ("text_encoder", "vae")}

    from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler
    from transformers import AutoTokenizer, UMT5EncoderModel

    try:
        with runtime.quiet_loading():
            parts = {
                "tokenizer": AutoTokenizer.from_pretrained(folder / "tokenizer"),
                "text_encoder": UMT5EncoderModel.from_pretrained(folder / "text_encoder", dtype=dtype),
                "vae": AutoencoderKLWan.from_pretrained(folder / "vae", torch_dtype=torch.float32),
            }
    except Exception as error:  # the libraries raise anything for a damaged file
        raise UserError(f"The base model in {folder} cannot be read: {_first_line(error)}") from error
    for part, files in tensors.items():
        _check_loaded(parts[part], files, f"{folder / part} (they are at {base.url})")
    return SamaPipeline(
        **parts,
        transformer=load_released(file, entry.family, folder / "transformer" / "config.json", dtype=dtype),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=entry.defaults.shift),
        defaults=entry.defaults.to_dict(),
    )


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
    file = _weight_file(folder, part)
    wanted = shards(file) if file.name.endswith(".index.json") else [file]
    return [f"{part}/{shard.name}" for shard in wanted if not shard.is_file()]


def _weight_file(folder: Path, part: str) -> Path:
    """A part's weights: its one file, or the index of its shards where there is only that."""
    stem = "model" if part == "text_encoder" else "diffusion_pytorch_model"
    single = folder / part / f"{stem}.safetensors"
    index = single.with_suffix(".safetensors.index.json")
    return index if index.is_file() and not single.is_file() else single


def _check_loaded(module: torch.nn.Module, files: TensorFiles, where: str) -> None:
    """Raises UserError that names tensors of the module that the files lack. What files hold beyond it was left out.

    Tied tensors are stored once; quantized ones under other names.
    """
    if getattr(module, "hf_quantizer", None) is not None:
        return
    state = module.state_dict()
    loaded = {tensor.data_ptr() for name, tensor in state.items() if name in files.infos}
    expected = {
        name: tuple(tensor.shape)
        for name, tensor in state.items()
        if name in files.infos or tensor.is_meta or tensor.data_ptr() not in loaded
    }
    check(expected, {name: info.shape for name, info in files.infos.items() if name in expected}, where)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
