"""Builds a pipeline: from a pipeline folder, or from the base model's own folder and a released single file.

Every file that is missing or cut off is named, with where to get it, before anything heavy is read. What the libraries
load is held against the files: they would draw a missing tensor at random and go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from accelerate import init_empty_weights
from diffusers import ModelMixin
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from opensama import runtime
from opensama.models.convert import check_tensors, load_released, released_and_rows
from opensama.models.families import MODEL_FAMILIES, find_family, imported
from opensama.models.layouts import released_tensors
from opensama.models.lora_files import Lora, empty_base, load_base, load_loras, loras_of_experts, plan_changes
from opensama.models.registry import ModelEntry, Weights
from opensama.models.weights import TensorFiles
from opensama.pipeline.diffusion import EditPipeline
from opensama.pipeline.room import is_transformer
from opensama.runtime import missing_parts, weight_file
from opensama.values import UserError

EMBEDDED_VAE = "opensama.models.tiny:PatchAutoencoder"
BasePart: TypeAlias = PreTrainedTokenizerBase | PreTrainedModel | ModelMixin
"""A tokenizer, a text encoder or an autoencoder."""
_OWN = ("transformer", "scheduler")  # what a pipeline does not take from its base


def build_pipeline(
    entry: ModelEntry,
    dtype: torch.dtype,
    *,
    weights: str | Path | None = None,
    base: str | Path | None = None,
    loras: Sequence[Lora] = (),
) -> EditPipeline:
    """The entry's pipeline on the CPU, the autoencoder in float32, the rest in `dtype`, LoRAs added to the weights.

    `room.check_given` has said before whether `weights` and `base` go with the entry.
    """
    if entry.folder is not None:
        return _from_folder(entry.folder, entry, dtype, loras)
    assert entry.base is not None
    assert entry.edit is not None
    return _from_base(entry, entry.base, entry.edit, dtype, entry.file or weights, base, loras)


def _from_folder(folder: Path, entry: ModelEntry, dtype: torch.dtype, loras: Sequence[Lora] = ()) -> EditPipeline:
    if not folder.is_dir():
        raise UserError(f"The weights of {entry.name} are not in {folder}: install the package anew, or train them.")
    kind, index = find_family(entry.family).pipeline, runtime.read_object(folder / "model_index.json")
    parts = [part for part in base_parts(entry.family) if index.get(part) != [None, None]]  # some may be left out
    elsewhere = {part: holder for part in parts if (holder := entry.holder(part)) not in (None, folder)}
    more = [part for part in index if part.startswith("transformer_") and index[part] != [None, None]]
    if more:
        _check_second(entry, folder / more[0])
    given_loras = dict(zip(("transformer", *more), _by_transformer(bool(more), loras), strict=True))
    own = [part for part in (*parts, *_OWN, *more) if part not in elsewhere]
    for where, wanted in ((folder, own), *((shared, [part]) for part, shared in elsewhere.items())):
        missing = missing_parts(where, tuple(wanted))
        if missing:
            raise UserError(f"The model folder {where} has no {', '.join(missing)}: copy it again, whole.")
    tensors = _tensors(folder, tuple(part for part in own if part != "scheduler"))
    for part, its in given_loras.items():
        if its:
            plan_changes(_empty(folder / part, entry.family), its)
    for part, shared in elsewhere.items():
        tensors |= _tensors(shared, (part,))
    half = text_dtype(entry.family, dtype)
    types = {"default": dtype, "vae": torch.float32}
    types |= {part: half for part in own if part.startswith("text_encoder")}
    try:
        with runtime.quiet_loading():
            classes = base_parts(entry.family, entry.shared)
            given = {part: load_part(shared / part, classes[part], half) for part, shared in elsewhere.items()}
            pipeline = kind.from_pretrained(folder, dtype=types, local_files_only=True, **given)
    except Exception as error:  # the libraries raise anything for a damaged file
        raise UserError(f"The model folder {folder} cannot be read: {_first_line(error)}") from error
    for part, files in tensors.items():
        _check_loaded(getattr(pipeline, part), files, str(elsewhere.get(part, folder) / part))
    for part, its in given_loras.items():
        load_loras(getattr(pipeline, part), its)
    return pipeline


def _from_base(
    entry: ModelEntry,
    base: Weights,
    edit: Weights,
    dtype: torch.dtype,
    weights: str | Path | None,
    base_folder: str | Path | None,
    loras: Sequence[Lora],
) -> EditPipeline:
    two = any(name.startswith("transformer_2") for name in edit.files)
    loras, *low = _by_transformer(two, loras)  # before anything is downloaded
    plain = Path(weights).expanduser() if weights is not None else None  # a transformer's folder
    if plain is not None and not is_transformer(plain, edit):
        plain = None
    file = plain or _released_file(edit, weights)
    noted = {} if file.is_dir() else released_tensors(file, entry.family)[2]  # a wrong file is said before downloads
    second = file.parent / "transformer_2" if two else None
    if second is not None:
        _check_second(entry, second)
    folder = runtime.locate(base.repo, base.files, folder=base_folder, size=base.size, option="base")
    classes = base_parts(entry.family)
    missing = missing_parts(folder, tuple(classes))
    if missing:
        raise UserError(f"The folder {folder} has no {', '.join(missing)}: get {'them' if missing[1:] else 'it'} from"
                        f" {base.url} ({base.size}).")  # fmt: skip

    sizes = noted or folder / "transformer" / "config.json"
    if file.is_dir():  # what does not fit is said before a text encoder of many gigabytes is loaded
        empty_base(file, entry.family, loras)
    else:
        plan_changes(released_and_rows(file, entry.family, sizes)[0], loras)
    if second is not None:
        empty_base(second, entry.family, low[0])
    tensors = _tensors(folder, tuple(classes))
    try:
        with runtime.quiet_loading():
            half = text_dtype(entry.family, dtype)
            parts = {part: load_part(folder / part, kind, half) for part, kind in classes.items()}
    except Exception as error:  # the libraries raise anything for a damaged file
        raise UserError(f"The base model in {folder} cannot be read: {_first_line(error)}") from error
    for part, files in tensors.items():
        _check_loaded(parts[part], files, f"{folder / part} (they are at {base.url})")

    if file.is_dir():
        transformer = load_base(file, entry.family, loras, dtype)
    else:
        transformer = load_released(file, entry.family, sizes, dtype=dtype, packed=not loras)
        if loras:
            load_loras(transformer, loras)
    if second is not None:
        parts["transformer_2"] = load_base(second, entry.family, low[0], dtype)
    family = find_family(entry.family)
    scheduler = family.scheduler_at(entry.defaults.shift)
    return family.pipeline(**parts, transformer=transformer, scheduler=scheduler, defaults=entry.defaults.to_dict())


def _check_second(entry: ModelEntry, second: Path) -> None:
    """UserError where a model's second transformer is not beside the first."""
    if not (second / "config.json").is_file():
        raise UserError(f"{entry.name} has two transformers, and there is no {second}: name the folder of both.")
    TensorFiles(second)


def _by_transformer(two: bool, loras: Sequence[Lora]) -> Sequence[Sequence[Lora]]:
    """The LoRAs of each transformer of a model."""
    return loras_of_experts(loras) if two else (loras,)


def base_parts(family: str, folder: Path | None = None) -> dict[str, type[BasePart]]:
    """What a family's pipeline takes from its base, and the classes that read it.

    A base that is a pipeline's folder itself, such as an embedded model's, says in its index what it has of them.
    """
    parts = {part: imported(kind) for part, kind in find_family(family).parts.items()}
    if folder is None or not (folder / "model_index.json").is_file():
        return parts
    index = runtime.read_object(folder / "model_index.json")
    others = {kind for row in MODEL_FAMILIES.values() for kind in row.parts.values()}
    known = {kind.__name__: kind for kind in map(imported, (*others, EMBEDDED_VAE))}
    named = {part: (index.get(part) or [None, None])[1] for part in parts}
    return {part: known.get(named[part], kind) for part, kind in parts.items() if named[part] is not None}


def load_part(folder: Path, kind: type[BasePart], dtype: torch.dtype) -> BasePart:
    """A tokenizer, a text encoder in `dtype`, or an autoencoder in float32."""
    if folder.name.startswith("tokenizer"):
        return kind.from_pretrained(folder)
    if folder.name == "vae":
        return kind.from_pretrained(folder, torch_dtype=torch.float32)
    return kind.from_pretrained(folder, dtype=dtype)


def text_dtype(family: str, dtype: torch.dtype) -> torch.dtype:
    """The text encoders' number type: in half precision they work as their family used them."""
    return getattr(torch, find_family(family).text_half) if dtype == torch.bfloat16 else dtype


def _released_file(edit: Weights, weights: str | Path | None) -> Path:
    """The released file, or the folder of shards that a transformer was released as."""
    if weights is not None and Path(weights).expanduser().is_file():
        return Path(weights).expanduser()
    found = runtime.locate(edit.repo, edit.files, folder=weights, size=edit.size, option="weights") / edit.files[0]
    return found.parent if found.name == "config.json" else found


def _empty(folder: Path, family: str) -> ModelMixin:
    """The transformer in a folder, on the meta device."""
    settings = runtime.read_object(folder / "config.json")
    with init_empty_weights():
        return find_family(family).transformer.from_config(settings)


def _tensors(folder: Path, parts: tuple[str, ...]) -> dict[str, TensorFiles]:
    return {part: TensorFiles(weight_file(folder, part)) for part in parts if not part.startswith("tokenizer")}


def _check_loaded(module: torch.nn.Module, files: TensorFiles, where: str) -> None:
    """Raises UserError that names tensors of the module that the files lack. What files hold beyond it was left out.

    Tied tensors are stored once; quantized ones under other names; those of a part of a model behind the part's name.
    """
    if getattr(module, "hf_quantizer", None) is not None:
        return
    state = module.state_dict()
    first, behind = next(iter(state)), ""
    if not any(name in files.infos for name in state):
        behind = next((name.removesuffix(first) for name in files if name.endswith(f".{first}")), "")
    found = {name.removeprefix(behind): info.shape for name, info in files.infos.items()}
    loaded = {tensor.data_ptr() for name, tensor in state.items() if name in found}
    expected = {
        name: tuple(tensor.shape)
        for name, tensor in state.items()
        if name in found or tensor.is_meta or tensor.data_ptr() not in loaded
    }
    check_tensors(expected, {name: shape for name, shape in found.items() if name in expected}, where)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
