"""Matrices in scaled FP8, as files for ComfyUI have them, and layers that keep them so while a model edits.

    W = s q        q: float8_e4m3fn, s: float32, one a matrix (or one a row),  s = max |W| / 448

Beside `NAME.weight` lies `NAME.scale_weight`, and a tensor `scaled_fp8`: of two numbers where layers are to multiply in
full precision, as those here do. Newer files say `NAME.weight_scale` and `NAME.comfy_quant`, or list the layers in
their header. What a product in FP8 would scale its inputs by (`scale_input`, `input_scale`) is read over.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping

import torch
import torch.nn.functional as F
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from opensama.models.parallel import blocks
from opensama.models.weights import TYPE_NAMES, Packed, TensorInfo, Tensors
from opensama.values import UserError

LARGEST = torch.finfo(torch.float8_e4m3fn).max
_SCALES = ("scale_weight", "weight_scale")
_BESIDE = ("scale_input", "input_scale", "comfy_quant")
_MARK = "scaled_fp8"
_FORMATS = ("float8_e4m3fn", "float8_e5m2")


class Float8Linear(nn.Linear):
    """nn.Linear whose weight is q, and becomes s q in its input's number type when it computes."""

    scale: float | Tensor  # of all rows, or [n_out 1]

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight.to(input.dtype if isinstance(self.scale, float) else torch.float32)
        return F.linear(input, weight.mul_(self.scale).to(input.dtype), self.bias)


class Float8Rows(Packed):
    """q, and s as it lies in a file: of one number, or of one a row."""

    def __init__(self, data: Tensor, scale: Tensor):
        self.data, self.scale = data, scale

    def fill(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        linear.__class__ = Float8Linear
        linear.weight = nn.Parameter(self.data, requires_grad=False)
        assert isinstance(linear, Float8Linear)
        if self.scale.numel() == 1:
            linear.scale = float(self.scale)
        else:
            linear.register_buffer("scale", self.scale.float().reshape(-1, 1), persistent=False)


def to_float8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix as q, and s []. UserError where a number is not finite."""
    low, high = torch.aminmax(weight.float())
    largest = max(-float(low), float(high))
    if not math.isfinite(largest):
        raise UserError("A weight is infinite or not a number: these weights are damaged.")
    scale = torch.tensor(largest / LARGEST or 1.0)
    return (weight.float() / scale).clamp_(-LARGEST, LARGEST).to(torch.float8_e4m3fn), scale


def keep_float8(model: ModelMixin) -> None:
    """Makes the matrices of a transformer's blocks such layers, in place."""
    with torch.no_grad():
        for name in matrices(model):
            linear = model.get_submodule(name)
            Float8Rows(*to_float8(linear.weight)).fill(linear, linear.weight.dtype)


def matrices(model: ModelMixin) -> list[str]:
    """The linear layers of a transformer's blocks, but for those that modulate or embed, by their names.

    A layer that keeps its weight packed, and the matrices of an adapter, are not among them.
    """
    inside = {module for block in blocks(model) for module in block.modules()}
    left_out = model._skip_layerwise_casting_patterns or ()
    return [
        name
        for name, module in model.named_modules()
        if type(module) is nn.Linear and module in inside
        if not any(re.search(part, name) for part in (*left_out, r"\.lora_"))
    ]


class ScaledFloat8(Tensors):
    """The tensors of a file with scaled FP8, multiplied out: s q in `dtype`. UserError for other number formats."""

    def __init__(self, source: Tensors, dtype: torch.dtype):
        self.source, self.dtype, self.files = source, dtype, source.files
        self.infos, self._scales = {}, {}
        for key, info in source.infos.items():
            layer, _, kind = key.rpartition(".")
            if kind == "comfy_quant":
                self._check(layer, bytes(source.tensor(key).tolist()))
            if kind in _SCALES:
                self._scales[f"{layer}.weight"] = key
            elif kind not in _BESIDE and key != _MARK:
                eight = info.dtype.startswith("F8_")
                self.infos[key] = TensorInfo(info.shape, TYPE_NAMES[dtype]) if eight else info
        listed = json.loads(source.note().get("_quantization_metadata", "{}")).get("layers", {})
        for layer, how in listed.items():
            self._check(layer, json.dumps(how).encode())
        for name, key in self._scales.items():
            matrix, scale = source.infos.get(name), source.infos[key].shape
            if matrix is None or not matrix.dtype.startswith("F8_"):
                raise UserError(f"{self.files[0]} has {key}, and no FP8 {name} beside: download it again.")
            if math.prod(scale) not in (1, matrix.shape[0]):
                raise UserError(f"{key} has shape {scale}: of FP8, one scale a matrix or one a row is read here.")

    def _check(self, layer: str, text: bytes) -> None:
        try:
            form = json.loads(text).get("format")
        except (ValueError, AttributeError):
            form = None
        if form not in _FORMATS:
            raise UserError(
                f"{layer} of {self.files[0]} is stored as {form}, which is not read here: take the file in bfloat16,"
                " scaled FP8 or GGUF."
            )

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        found = self.source.rows(name, start, stop)
        if not self.source.infos[name].dtype.startswith("F8_"):
            return found
        return found.float().mul_(self._scale(name, start, stop).view(-1, *[1] * (found.ndim - 1))).to(self.dtype)

    def packing(self, name: str) -> str | None:
        return "float8" if self.source.infos[name].dtype.startswith("F8_") else None

    def packed(self, name: str, start: int, stop: int) -> Packed | None:
        if self.packing(name) is None:
            return None
        return Float8Rows(self.source.rows(name, start, stop), self._scale(name, start, stop))

    def _scale(self, name: str, start: int, stop: int) -> Tensor:
        if name not in self._scales:
            return torch.ones(1)
        scale = self.source.tensor(self._scales[name]).float().flatten()
        return scale if scale.numel() == 1 else scale[start:stop]

    def note(self) -> Mapping[str, str]:
        return self.source.note()


class AsFloat8(Tensors):
    """What a file with scaled FP8 holds of these tensors: the `chosen` ones as q and s, the others as they are."""

    def __init__(self, source: Tensors, chosen: Collection[str]):
        self.source, self.chosen, self.files = source, set(chosen), source.files
        self.infos, self._last = {}, ("", torch.tensor(1.0))
        for name, info in source.infos.items():
            self.infos[name] = TensorInfo(info.shape, "F8_E4M3") if name in self.chosen else info
            if name in self.chosen:
                self.infos[_scale_name(name)] = TensorInfo((), "F32")
        self.infos[_MARK] = TensorInfo((2,), "F8_E4M3")

    def tensor(self, name: str) -> Tensor:
        if name == _MARK:
            return torch.zeros(2, dtype=torch.float8_e4m3fn)
        if name in self.chosen:
            q, scale = to_float8(self.source.tensor(name))
            self._last = (_scale_name(name), scale)  # which is asked for next
            return q
        if name in self.source.infos:
            return self.source.tensor(name)
        assert self._last[0] == name
        return self._last[1]

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        return self.tensor(name)[start:stop]


def _scale_name(name: str) -> str:
    return f"{name.removesuffix('.weight')}.{_SCALES[0]}"
