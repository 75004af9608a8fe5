"""Published weights to ours and back, from one table of names a family (`families/`), strictly.

    a single file, or shards    -> a transformer's own folder: config.json and safetensors of at most 5 GB each
    such a folder, or such a file -> one file in another layout: released, ComfyUI's, scaled FP8, GGUF (`layouts.py`)

Tensors are copied one at a time and keep their type where the layout has it: a file larger than the memory converts,
and comes back bit for bit. What was written is read back at the end. A missing, unexpected or misshapen key is an error
that names it. Pickles are never opened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from accelerate import init_empty_weights
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from opensama.models.families import MODEL_FAMILIES, Family, Rows, Shapes, family_of
from opensama.models.float8 import AsFloat8, matrices
from opensama.models.gguf_files import WRITTEN, write_gguf
from opensama.models.layouts import NOTE, note_for, released_tensors
from opensama.models.weights import (
    SHARD_BYTES,
    Packed,
    TensorFiles,
    TensorInfo,
    Tensors,
    write_safetensors,
    write_shards,
)
from opensama.runtime import read_object
from opensama.values import UserError

_Sizes = Path | Mapping[str, object]  # a JSON file of sizes, or what is in it

FILE_LAYOUTS = {"released": ".safetensors", "comfyui": ".safetensors", "fp8": ".safetensors", "gguf": ".gguf"}
"""Layouts of single files that are written, and how their names end."""

SAMPLER_KEYS = {
    "latent_shape", "num_inference_steps", "shift", "flow_shift", "cfg_scale", "embedded_guidance_scale",
}  # fmt: skip


def convert_released(
    src: Path, out: Path, family: str | None = None, config: _Sizes | None = None, *, shard_bytes: int = SHARD_BYTES
) -> Path:
    """Writes the transformer's own folder `out` from a single file `src` of any layout (or an index, or a folder of
    shards); what is in fewer than 16 bits becomes bfloat16.

    Without `family` the tensors say it. `config` gives sizes; without it the file's header does, or the tensors.
    Weights already in `out` are replaced. Returns `out`.
    """
    model, ours = released_and_rows(src, family, config)
    if out.resolve() in {file.resolve().parent for file in ours.files}:
        raise UserError(f"The released weights are in {out} themselves: convert into another folder.")
    _make_folder(out)
    model.save_config(out)
    write_shards(out, ours.infos, ours.tensor, shard_bytes)
    read_back(out, ours)
    return out


def convert_to_file(
    source: Path,
    out_file: Path,
    layout: str = "released",
    family: str | None = None,
    config: _Sizes | None = None,
    *,
    quantization: str = "q8_0",
) -> Path:
    """Writes one file of a layout of FILE_LAYOUTS from a transformer: its own folder, a pipeline's, or a single file of
    any layout, for which `family` and `config` are as in `convert_released`. `quantization` is GGUF's."""
    if layout not in FILE_LAYOUTS:
        raise UserError(f"There is no layout {layout!r}: choose {', '.join(FILE_LAYOUTS)}.")
    ending = FILE_LAYOUTS[layout]
    if out_file.suffix != ending or out_file.is_dir():
        raise UserError(f"{out_file} is not the name of a {ending[1:]} file: end it in {ending}.")
    if quantization.lower() not in WRITTEN:
        raise UserError(f"GGUF files are not written as {quantization!r}: choose {', '.join(WRITTEN)}.")
    model, ours = _model_and_tensors(source, family, config)
    row, shapes = family_of(model), ours.shapes
    places = (row.layout if layout == "released" else row.comfy_layout)(shapes)
    target: Tensors = TensorsFromRows(ours, places)
    chosen = {f"{name}.weight" for name in matrices(model)}
    chosen = {name for name, parts in places.items() if all(part.name in chosen for part in parts)}
    if out_file.resolve() in {file.resolve() for file in ours.files}:
        raise UserError(f"{out_file} is one of the files to convert: choose another name.")
    if layout == "gguf" and not row.gguf_architecture:
        raise UserError(f"There is no GGUF layout for {row.name}: choose another.")
    _make_folder(out_file.parent)
    note = note_for(row, model.config)
    if layout == "gguf":
        write_gguf(out_file, target, row.gguf_architecture, note, chosen, quantization.lower())
        return out_file
    if layout == "fp8":
        target = AsFloat8(target, chosen)
    write_safetensors(out_file, target.infos, target.tensor, {NOTE: note})
    read_back(out_file, target)
    return out_file


def _model_and_tensors(source: Path, family: str | None, config: _Sizes | None) -> tuple[ModelMixin, Tensors]:
    """The model on the meta device, and its tensors, of a transformer's folder or a file of any layout."""
    if not source.is_dir() or not any((folder / "config.json").exists() for folder in (source, source / "transformer")):
        if source.is_dir() and not any(source.glob("*.safetensors*")):
            raise UserError(f"{source} is no transformer's folder: there is no config.json in it.")
        return released_and_rows(source, family, config)
    folder = source if (source / "config.json").exists() else source / "transformer"
    config_file = folder / "config.json"
    sizes = read_object(config_file)
    row = next((row for row in MODEL_FAMILIES.values() if row.transformer.__name__ == sizes.get("_class_name")), None)
    if row is None:
        raise UserError(f"{config_file} describes a {sizes.get('_class_name')}, which has no released layout.")
    files = TensorFiles(folder)
    with init_empty_weights():
        model = row.transformer.from_config(sizes)
    check_tensors({name: tuple(p.shape) for name, p in model.state_dict().items()}, files.shapes, str(folder))
    return model, files


def read_back(written: Path, wanted: Tensors) -> None:
    """UserError where what was written is not, to the bit, what was to be written, as on a disk that fails."""
    files = TensorFiles(written)
    for name in wanted.infos:
        ours, theirs = wanted.tensor(name), files.tensor(name) if name in files.infos else None
        if theirs is None or theirs.dtype != ours.dtype or not _same_bits(ours, theirs):
            raise UserError(f"{name} came back from {written} with other numbers: look at the disk, and convert again.")


def _same_bits(a: Tensor, b: Tensor) -> bool:
    a, b = (x.contiguous().reshape(-1).view(torch.uint8) for x in (a, b))
    return torch.equal(a, b)


def load_released(
    src: Path,
    family: str | None = None,
    config: _Sizes | None = None,
    *,
    dtype: torch.dtype | None = None,
    packed: bool = False,
) -> ModelMixin:
    """The model with a single file's weights, straight from it; parts that diffusers keeps in float32 become that.

    With `packed`, matrices of blocks that are stored in fewer bits stay so, and become `dtype` when they compute.
    """
    model, tensors = released_and_rows(src, family, config, dtype)
    kept = matrices(model) if packed else []
    for name in kept:
        linear = model.get_submodule(name)
        if stored := tensors.packed(f"{name}.weight", 0, linear.out_features):
            stored.fill(linear, dtype or torch.bfloat16)
    return fill_empty(model, tensors.tensor, dtype)


def fill_empty(model: ModelMixin, read: Callable[[str], Tensor], dtype: torch.dtype | None) -> ModelMixin:
    """A model of the meta device with the tensors that `read` gives by name, in `dtype` or their own.

    Parts that diffusers keeps in float32 become that where a type is asked for. What is not on the meta device stays.
    """
    precise, state = set(model._keep_in_fp32_modules or ()), {}
    for name, own in model.state_dict(keep_vars=True).items():
        if not own.is_meta:
            state[name] = own
            continue
        tensor = read(name)
        state[name] = tensor.to(torch.float32 if dtype and precise & {*name.split(".")} else dtype or tensor.dtype)
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()


def released_and_rows(
    src: Path, family: str | None = None, config: _Sizes | None = None, dtype: torch.dtype | None = None
) -> tuple[ModelMixin, TensorsFromRows]:
    """The model on the meta device and a file's tensors cut for it; those of fewer bits are read in `dtype` (bfloat16).

    Reads headers alone; UserError where they do not fit.
    """
    row, files, sizes = released_tensors(src, family, dtype or torch.bfloat16)
    model = empty_model(row, files.shapes, read_sizes(config) or sizes)
    return model, TensorsFromRows(files, match_released(row, files, model))


class TensorsFromRows(Tensors):
    """Tensors made of rows of others. UserError where the rows of one are of different types."""

    def __init__(self, source: Tensors, pieces: Mapping[str, list[Rows]]):
        self.source, self.pieces, self.files = source, pieces, source.files
        self.infos = {}
        for name, parts in pieces.items():
            first = source.infos[parts[0].name]
            if any(source.infos[part.name].dtype != first.dtype for part in parts):
                raise UserError(f"The tensors that make {name} are of several types: save them all in one.")
            length = sum(part.stop - part.start for part in parts)
            self.infos[name] = TensorInfo((length, *first.shape[1:]) if first.shape else (), first.dtype)

    def tensor(self, name: str) -> Tensor:
        parts = [self.source.rows(*part) for part in self.pieces[name]]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        if not self.infos[name].shape:
            return self.tensor(name)
        parts = [self.source.rows(*part) for part in self._within(name, start, stop)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def packed(self, name: str, start: int, stop: int) -> Packed | None:
        parts = self._within(name, start, stop)
        return self.source.packed(*parts[0]) if len(parts) == 1 else None

    def packing(self, name: str) -> str | None:
        return self.source.packing(self.pieces[name][0].name) if len(self.pieces[name]) == 1 else None

    def note(self) -> Mapping[str, str]:
        return self.source.note()

    def _within(self, name: str, start: int, stop: int) -> list[Rows]:
        """The source's rows that some rows of a tensor are."""
        parts, at = [], 0
        for piece in self.pieces[name]:
            first, last = max(start - at, 0), min(stop - at, piece.stop - piece.start)
            if first < last:
                parts.append(Rows(piece.name, piece.start + first, piece.start + last))
            at += piece.stop - piece.start
        return parts


def match_released(row: Family, files: Tensors, model: ModelMixin) -> dict[str, list[Rows]]:
    """Our tensors, in our model's order, as rows of the released ones, after checking that each has its place."""
    ours = {name: tuple(p.shape) for name, p in model.state_dict().items()}
    layout = row.layout(ours)
    check_tensors(
        {name: released_shape(parts, ours) for name, parts in layout.items()},
        files.shapes,
        "these weights",
    )
    found: dict[str, dict[int, Rows]] = {name: {} for name in ours}
    for released, parts in layout.items():
        at = 0
        for part in parts:
            found[part.name][part.start] = Rows(released, at, at := at + part.stop - part.start)
    return {name: [places[start] for start in sorted(places)] for name, places in found.items()}


def released_shape(parts: list[Rows], ours: Shapes) -> tuple[int, ...]:
    """The shape of a released tensor that holds these rows of ours."""
    shape = ours[parts[0].name]
    return (sum(part.stop - part.start for part in parts), *shape[1:]) if shape else ()


def check_tensors(expected: Shapes, found: Shapes, where: str) -> None:
    """Raises UserError that names missing, unexpected and misshapen tensors."""
    faults = [f"{name} is missing" for name in expected if name not in found]
    faults += [f"{name} is unexpected" for name in found if name not in expected]
    faults += [
        f"{name} has shape {found[name]} where {shape} is needed"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if faults:
        more = f", and {len(faults) - 8} more" if len(faults) > 8 else ""
        raise UserError(f"The tensors of {where} do not fit the model: {'; '.join(faults[:8])}{more}.")


def empty_model(row: Family, shapes: Shapes, sizes: dict[str, object]) -> ModelMixin:
    """The family's model on the meta device, of the sizes given, the rest read off the tensors."""
    try:
        with init_empty_weights():
            return row.transformer(**row.config(shapes, sizes))
    except KeyError as error:
        raise UserError(f"Tensor {error.args[0]} is missing, or these are no {row.name} weights.") from error
    except (TypeError, ValueError, RuntimeError, ArithmeticError, IndexError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"These sizes make no {row.name} transformer ({error}): mend `config`.") from error


def read_sizes(config: _Sizes | None) -> dict[str, object]:
    """Sizes as a dictionary, without the sampler's keys and diffusers' notes."""
    if config is None:
        return {}
    sizes = read_object(config) if isinstance(config, Path) else config
    return {key: value for key, value in sizes.items() if key not in SAMPLER_KEYS and key[0] != "_"}


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The folder {folder} cannot be made ({error.strerror}): choose another place.") from error
