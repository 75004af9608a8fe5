"""LoRA files of any trainer, added to a transformer's weights exactly: every tensor of a file is used, or named.

    W + s (alpha / rank) B A        s: the scale asked for; alpha is the rank where a file says nothing
    W + s diff,  b + s diff_b       whole differences of a weight and of a bias (norms, head)
    set_weight                      takes a weight's place whatever s is

Layouts, by what stands before a module's name and what it is called (ours, or the released one):
diffusers and PEFT `transformer.` `base_model.model.`, ComfyUI and kijai `diffusion_model.`, lightx2v and DiffSynth
none, musubi `lora_unet_` with underscores for dots; matrices `lora_A`, `lora_B` or `lora_down`, `lora_up`, perhaps with
an adapter's name. Sums are taken in float32 over all files and rounded once.
"""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict, cast

import torch
from accelerate import init_empty_weights
from diffusers.models.modeling_utils import ModelMixin
from safetensors import safe_open
from torch import Tensor

from opensama.models.acceleration import refuse_fused
from opensama.models.convert import check_tensors, fill_empty, read_sizes
from opensama.models.families import Rows, family_of, find_family
from opensama.models.lora import ADDED_FILE, DIFFUSERS_FILE, weights_of
from opensama.models.weights import TensorFiles
from opensama.runtime import read_object
from opensama.values import UserError

Lora = tuple[str | Path, float]
"""A file or a folder, and its scale."""

PREFIXES = (
    "base_model.model.", "model.diffusion_model.", "diffusion_model.", "transformer.", "pipe.dit.", "dit.",
    "lora_unet_", "_",
)  # fmt: skip
MATRIX = re.compile(r"(.+)\.lora[_.](A|B|down|up)(\.\w+)?\.(weight|bias)")
_WHOLE = re.compile(r"(.+)\.(alpha|diff|diff_b|set_weight)")
_EXPERT = re.compile(r"(?i:(high|low)[ _-]?noise)|(?<![A-Za-z])(HIGH|LOW)(?![A-Za-z])")


@dataclass
class _Change:
    """What a file does to one tensor of the model's or of the released layout, by the keys that hold it."""

    rows: list[Rows]  # of our tensors, one after the other
    keys: dict[str, str] = field(default_factory=dict)  # down, up, alpha; or diff; or set


class LoraMetadata(TypedDict, total=False):
    """Of PEFT's settings those that scale a pair of matrices."""

    lora_alpha: float
    alpha_pattern: dict[str, float]
    use_rslora: bool


@dataclass
class LoraFile:
    """The tensors of one file: their shapes, how to read one, and what is said of rank and alpha beside them."""

    name: str
    shapes: dict[str, tuple[int, ...]]
    tensor: Callable[[str], Tensor]
    settings: LoraMetadata = field(default_factory=LoraMetadata)

    @classmethod
    def read(cls, path: Path) -> LoraFile:
        files = TensorFiles(path)
        return cls(path.name, files.shapes, files.tensor, settings_of(path))

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> LoraFile:
        return cls("these tensors", {name: tuple(t.shape) for name, t in tensors.items()}, tensors.__getitem__)

    def scale(self, change: _Change, layer: str) -> float:
        """alpha / rank of a pair of matrices."""
        rank = self.shapes[change.keys["down"]][0]
        if "alpha" in change.keys:
            return float(self.tensor(change.keys["alpha"])) / rank
        alpha, patterns = self.settings.get("lora_alpha"), self.settings.get("alpha_pattern") or {}
        alpha = next((a for pattern, a in patterns.items() if re.fullmatch(rf"(.*\.)?({pattern})", layer)), alpha)
        if alpha is None:
            return 1.0
        return float(alpha) / (math.sqrt(rank) if self.settings.get("use_rslora") else rank)


def load_loras(model: ModelMixin, loras: Sequence[Lora]) -> set[str]:
    """Adds LoRA files or folders, each with its scale, to the weights; the names of our tensors that changed.

    A folder is one that training wrote: what a run from plain Wan weights added to the model lies in it, too.
    Raises UserError, and changes nothing, for a file that does not fit whole.
    """
    own = weights_of(model)
    if any(not p.is_floating_point() for p in own.values()):
        raise UserError("A LoRA cannot be added to quantized weights: load the model without quantization.")
    refuse_fused(model.modules())
    work = plan_changes(model, loras)
    with torch.no_grad():
        for name, todo in work.items():
            new = own[name].detach().float().clone()
            for file, change, scale in todo:
                add_change(new, name, file, change, scale)
            own[name].copy_(new)
    return set(work)


def plan_changes(model: ModelMixin, loras: Sequence[Lora]) -> dict[str, list[tuple[LoraFile, _Change, float]]]:
    """What LoRAs do to each tensor of the model, which may be on the meta device. UserError for a file that does not
    fit whole."""
    work: dict[str, list[tuple[LoraFile, _Change, float]]] = {}
    for path, scale in loras:
        for file in files_of(Path(path).expanduser()):
            for change in lora_changes(model, file):
                for name in {part.name for part in change.rows}:
                    work.setdefault(name, []).append((file, change, scale))
    return work


def loras_of_experts(loras: Sequence[Lora]) -> tuple[list[Lora], list[Lora]]:
    """LoRAs for a model of two transformers: those for the one that sees high noise, and those for the other.

    They are published as two files, which say in their names (`high_noise_model.safetensors`, `..._LOW_fp16`), or in
    their folders', which of the two each is for. UserError for one that says neither, or both.
    """
    found: dict[str, list[Lora]] = {"high": [], "low": []}
    for lora in loras:
        path = Path(lora[0]).expanduser().absolute()
        said = [{(a or b).lower() for a, b in _EXPERT.findall(name)} for name in (path.name, path.parent.name)]
        which = said[0] or said[1]
        if len(which) != 1:
            raise UserError(
                f"This model has two transformers, and the name of the LoRA {path.name} does not say whether it is for "
                f"high or low noise: rename it so that it does, as in NAME_high_noise.safetensors."
            )
        found[which.pop()].append(lora)
    return found["high"], found["low"]


def load_base(folder: Path, family: str, loras: Sequence[Lora], dtype: torch.dtype) -> ModelMixin:
    """The transformer in a base model's diffusers folder, made an editor by LoRAs that were trained from it.

    UserError where these do not bring all that the family adds to its base.
    """
    model, added = empty_base(folder, family, loras)
    files, empty = TensorFiles(folder), model.state_dict()
    fill_empty(model, lambda name: torch.zeros(empty[name].shape) if name in added else files.tensor(name), dtype)
    load_loras(model, loras)
    return model


def empty_base(folder: Path, family: str, loras: Sequence[Lora]) -> tuple[ModelMixin, set[str]]:
    """The transformer that `load_base` makes, on the meta device, and the names of what its base lacks, which the LoRAs
    bring. Reads headers alone; UserError as there."""
    row, files = find_family(family), TensorFiles(folder)
    known = inspect.signature(row.transformer.__init__).parameters
    sizes = read_sizes(folder / "config.json")
    for path, _ in loras:
        whole = Path(path).expanduser()
        trained = whole if whole.is_dir() else whole.parent
        if (trained / DIFFUSERS_FILE).exists() and (trained / "config.json").exists():  # as training left it
            sizes |= read_sizes(trained / "config.json")
    with init_empty_weights():
        model: ModelMixin = row.transformer(**{key: value for key, value in sizes.items() if key in known})
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    added = {name for name in own if name not in files.infos and row.is_added(name)}
    expected = {name: shape for name, shape in own.items() if name not in added}
    check_tensors(expected, files.shapes, str(folder))
    left = sorted(added - plan_changes(model, loras).keys())
    if left:
        raise UserError(
            f"The weights in {folder} are a base model's and lack {', '.join(left[:3])}: give the folder of a LoRA that"
            " was trained from them with `lora`, or an editor's own weights."
        )
    return model, added


def add_change(weight: Tensor, name: str, file: LoraFile, change: _Change, scale: float) -> None:
    """Changes those rows of one of our tensors, in float32, that a change reaches."""
    at = 0
    for part in change.rows:
        here, at = slice(at, at + part.stop - part.start), at + part.stop - part.start
        if part.name != name:
            continue
        rows = weight[part.start : part.stop] if weight.ndim else weight
        if "set" in change.keys:
            rows.copy_(file.tensor(change.keys["set"]).float().view(-1, *weight.shape[1:])[here].view_as(rows))
        elif "diff" in change.keys:
            rows.add_(scale * file.tensor(change.keys["diff"]).float().view(-1, *weight.shape[1:])[here].view_as(rows))
        else:
            up, down = (file.tensor(change.keys[side]).float().flatten(1) for side in ("up", "down"))
            rows.add_((scale * file.scale(change, layer_of(name)) * (up[here] @ down)).view_as(rows))


def adapter_state(model: ModelMixin, file: LoraFile) -> dict[str, Tensor]:
    """The file as diffusers' own names, for adapters that stay apart from the weights, scales multiplied in."""
    out: dict[str, Tensor] = {}
    for change in lora_changes(model, file):
        if "down" not in change.keys or any(part.start for part in change.rows) or "bias" in change.keys:
            key = next(iter(change.keys.values()))
            raise UserError(
                f"{file.name} holds {key}, which no adapter carries: add it to the weights with"
                " opensama.load(..., lora=[FILE])."
            )
        up, down, at = file.tensor(change.keys["up"]), file.tensor(change.keys["down"]), 0
        for part in change.rows:
            layer, stop = layer_of(part.name), at + part.stop - part.start
            out[f"transformer.{layer}.lora_A.weight"] = down.clone()
            out[f"transformer.{layer}.lora_B.weight"] = up[at:stop] * file.scale(change, layer)
            at = stop
    return out


def files_of(path: Path) -> Iterator[LoraFile]:
    """A file, or the files of a folder that training wrote; what was added to the model lies beside its matrices."""
    file = path / DIFFUSERS_FILE if path.is_dir() else path
    if path.is_dir() and not file.exists():
        raise UserError(f"The folder {path} has no {DIFFUSERS_FILE}: name the LoRA's file.")
    yield LoraFile.read(file)
    added = file.parent / ADDED_FILE
    if file.name == DIFFUSERS_FILE and added.exists():
        beside = LoraFile.read(added)
        names = {f"{name.removesuffix('.weight')}.set_weight": name for name in beside.shapes}
        shapes = {key: beside.shapes[name] for key, name in names.items()}
        yield LoraFile(added.name, shapes, lambda key: beside.tensor(names[key]))


def settings_of(path: Path) -> LoraMetadata:
    """What diffusers writes into a file's header, and PEFT into a file beside, of rank and alpha."""
    with safe_open(path, framework="pt") as f:
        header = (f.metadata() or {}).get("lora_adapter_metadata")
    if header:
        stored = json.loads(header)
        found = {key.partition(".")[2]: value for key, value in stored.items() if key.startswith("transformer.")}
    else:
        beside = path.parent / "adapter_config.json"
        found = read_object(beside) if path.name == "adapter_model.safetensors" and beside.exists() else {}
    return cast(LoraMetadata, found)


def lora_changes(model: ModelMixin, file: LoraFile) -> list[_Change]:
    """All that a file does. UserError that names what is left over, lacks its other half, or is of another size."""
    shapes = {name: tuple(p.shape) for name, p in weights_of(model).items()}
    table = lora_targets_of(family_of(model).comfy_layout(shapes), shapes)
    found: dict[tuple[str, str], _Change] = {}
    rest = []
    for key in file.shapes:
        place = place_of(key, table)
        if place is None:
            rest.append(key)
            continue
        tensor, kind, side = place
        change = found.setdefault((tensor, kind), _Change(table[tensor]))
        if side in change.keys:
            raise UserError(f"{file.name} holds {key} and {change.keys[side]}, which are one: keep one of them.")
        change.keys[side] = key
    for change in found.values():
        if change.keys.keys() - {"alpha"} not in ({"down", "up"}, {"diff"}, {"set"}):
            rest += change.keys.values()
    if rest:
        more = f", and {len(rest) - 8} more" if len(rest) > 8 else ""
        raise UserError(
            f"{file.name} is no LoRA for this model: of its {len(file.shapes)} tensors {len(rest)} have no place or"
            f" lack their other half ({', '.join(rest[:8])}{more})."
        )
    for change in found.values():
        check_shapes(file, change, shapes)
    return list(found.values())


def lora_targets_of(layout: Mapping[str, list[Rows]], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, list[Rows]]:
    """Rows of our tensors by the released names and by ours, with underscores for dots as some trainers write."""
    ours = {name: [Rows(name, 0, shape[0] if shape else 1)] for name, shape in shapes.items()}
    return {name.replace(".", "_"): rows for name, rows in (ours | dict(layout)).items()}


def place_of(key: str, table: Mapping[str, list[Rows]]) -> tuple[str, str, str] | None:
    """A key's tensor by the table's names, what kind of change it belongs to, and which side of it it is."""
    if matrix := MATRIX.fullmatch(key):
        stem, letter, _, kind = matrix.groups()
        if kind == "bias":
            return None
        name, kind, side = "weight", "matrices", "down" if letter in ("A", "down") else "up"
    elif whole := _WHOLE.fullmatch(key):
        stem, part = whole.groups()
        name = "bias" if part == "diff_b" else "weight"
        kind, side = {"alpha": ("matrices", "alpha"), "set_weight": ("set", "set")}.get(part, ("diff", "diff"))
    else:
        return None
    while True:
        for tensor in (f"{stem}_{name}", stem):
            tensor = tensor.replace(".", "_")
            if tensor in table and (tensor != stem or kind != "matrices"):
                return tensor, kind, side
        prefix = next((prefix for prefix in PREFIXES if stem.startswith(prefix)), None)
        if prefix is None:
            return None
        stem = stem.removeprefix(prefix)


def check_shapes(file: LoraFile, change: _Change, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """UserError for tensors that are not the size of the layer they change."""
    inner = shapes[change.rows[0].name][1:]
    rows = sum(part.stop - part.start for part in change.rows)
    if "down" in change.keys:
        up, down = (file.shapes[change.keys[side]] for side in ("up", "down"))
        fits = len(up) > 1 and len(down) > 1 and up[0] == rows and math.prod(up[1:]) == down[0]
        fits = fits and math.prod(down[1:]) == math.prod(inner)
    else:
        fits = math.prod(file.shapes[next(iter(change.keys.values()))]) == rows * math.prod(inner)
    if not fits:
        held = ", ".join(f"{key} {list(file.shapes[key])}" for key in change.keys.values())
        raise UserError(f"{file.name} is for a model of another size: {held} where a layer is {[rows, *inner]}.")


def layer_of(name: str) -> str:
    """The name of the layer that a parameter belongs to."""
    return name.removesuffix(".weight")
