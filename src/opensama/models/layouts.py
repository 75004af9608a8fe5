"""Single files as they are published, seen as a family's released tensors: names, prefixes and number formats.

    released       the names of the model's authors
    ComfyUI        the names of the base's authors, or those that ComfyUI has inside, perhaps behind a prefix; FP8 with
                   a scale a matrix (`float8.py`)
    GGUF           the names of the base's authors, matrices in blocks of a few bits (`gguf_files.py`)

What a file is called says nothing: its tensors do. Files of our own say their family and sizes in their header too.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from diffusers.models.modeling_utils import ModelMixin

from opensama.models.families import MODEL_FAMILIES, Family, find_family
from opensama.models.float8 import Float8Rows, ScaledFloat8, matrices
from opensama.models.gguf_files import NOTE_KEY, GgufFile, GgufRows, gguf_package
from opensama.models.weights import Renamed, TensorFiles, Tensors
from opensama.values import UserError

NOTE = "opensama"
"""The key of a file's header under which ours say their family and sizes, as JSON."""
_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "model.model.", "net.", "model.")


def open_weights(path: Path, dtype: torch.dtype = torch.bfloat16) -> Tensors:
    """The tensors of a file, of an index's shards or of a folder; what is stored in fewer bits is read in `dtype`."""
    if path.suffix == ".gguf":
        return without_prefix(GgufFile(path, dtype))
    stored = without_prefix(TensorFiles(path))
    names = {key.rpartition(".")[2] for key in stored.infos}
    eight = any(info.dtype.startswith("F8_") for info in stored.infos.values())
    return ScaledFloat8(stored, dtype) if eight or "comfy_quant" in names else stored


def packing_of(path: Path) -> tuple[str, float] | None:
    """How the most of a file's numbers are kept in memory if not as plain numbers, and how many bits each takes."""
    tensors, numbers = open_weights(path), Counter[str]()
    for name, info in tensors.infos.items():
        if len(info.shape) == 2 and (kind := tensors.packing(name)) is not None:
            numbers[kind] += math.prod(info.shape)
    if not numbers:
        return None
    return numbers.most_common(1)[0][0], sum(n * bits_of(kind) for kind, n in numbers.items()) / numbers.total()


def bits_of(kind: str) -> float:
    """Bits of a number that is stored so, see `Tensors.packing`."""
    if kind == "float8":
        return 8.0
    gguf = gguf_package()
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    return 8 * size / block


def keep_packed(model: ModelMixin, kind: str, dtype: torch.dtype) -> None:
    """Makes a model of the meta device keep its matrices as a file of that kind has them."""
    for name in matrices(model):
        linear = model.get_submodule(name)
        rows, columns = linear.weight.shape
        if kind == "float8":
            empty = torch.empty(rows, columns, dtype=torch.float8_e4m3fn, device="meta")
            Float8Rows(empty, torch.ones(())).fill(linear, dtype)
            continue
        gguf = gguf_package()
        quantization = gguf.GGMLQuantizationType[kind]
        block, size = gguf.GGML_QUANT_SIZES[quantization]
        if columns % block == 0:
            empty = torch.empty(rows, columns // block * size, dtype=torch.uint8, device="meta")
            GgufRows(empty, quantization).fill(linear, dtype)


def released_tensors(
    path: Path, family: str | None = None, dtype: torch.dtype = torch.bfloat16
) -> tuple[Family, Tensors, dict[str, object]]:
    """The family, its released tensors, and what the file itself says of the model's sizes. UserError for a file of no
    family."""
    stored = open_weights(path, dtype)
    note = note_of(stored, path)
    known = family or note.get("family")
    row = find_family(str(known)) if known else family_by_names(stored.infos, path)
    names = {row.from_comfy(key) or key: key for key in stored.infos}
    tensors = stored if all(new == old for new, old in names.items()) else Renamed(stored, names)
    sizes = note.get("config") if note.get("family") == row.name else None
    return row, tensors, sizes if isinstance(sizes, dict) else {}


def note_of(tensors: Tensors, path: Path) -> dict[str, object]:
    """What a file of ours says of its model; of others nothing."""
    note = tensors.note()
    text = note.get(NOTE, note.get(NOTE_KEY))
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError(f"What {path} says of its model under {NOTE!r} is no JSON object: convert it anew.")
    return found


def note_for(family: Family, config: Mapping[str, object]) -> str:
    """What a file's header says of its model."""
    sizes = {name: value for name, value in config.items() if not name.startswith("_")}
    return json.dumps({"family": family.name, "config": sizes})


def without_prefix(tensors: Tensors) -> Tensors:
    """The transformer's tensors without what stands before all their names; of a whole checkpoint, they alone."""
    for prefix in _PREFIXES:
        names = {key.removeprefix(prefix): key for key in tensors.infos if key.startswith(prefix)}
        if len(names) > 5:
            return Renamed(tensors, names)
    return tensors


def family_by_names(names: Collection[str], path: Path) -> Family:
    """The family that knows the most of these names; of a base's own tensors, one that adds none to them."""

    def strange(row: Family) -> int:
        return sum(row.from_comfy(name) is None for name in names)

    def lacking(row: Family) -> bool:
        return bool(row.added) and not any(row.is_added(ours) for name in names for ours in row.to_ours(name))

    rows = [row for row in MODEL_FAMILIES.values() if row.names or row.comfy_names]
    best = min(rows, key=lambda row: (strange(row), lacking(row)))
    if strange(best) > len(names) // 4:
        some = ", ".join(list(names)[:3])
        raise UserError(
            f"{path} holds no transformer of the families {', '.join(row.name for row in rows)}: its tensors are"
            f" called {some} and so on."
        )
    return best
