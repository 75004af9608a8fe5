"""GGUF files of a transformer, as ComfyUI-GGUF has them: matrices in blocks of 32 or 256 numbers, a few bits each.

    Q8_0, Q5_1, Q5_0, Q4_1, Q4_0      read and written
    K and I types                     read: the gguf package does not make them

Names are those of the base's authors, `general.architecture` says which base; norms, biases and tables are F32. A
tensor that was folded to fill its blocks has its shape in `comfy.gguf.orig_shape.NAME`. Values are the gguf package's;
layers that keep their blocks in memory are diffusers', which multiply out in float16.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from opensama.first_bytes import check_first_bytes
from opensama.models.weights import TYPE_NAMES, Packed, TensorInfo, Tensors
from opensama.runtime import install_line, whole_file
from opensama.values import UserError

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

WRITTEN = ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "bf16")
"""What the matrices of blocks may be written as."""
NOTE_KEY = "opensama.model"
_SHAPE_KEY = "comfy.gguf.orig_shape."
_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class GgufFile(Tensors):
    """The tensors of a GGUF file, multiplied out: those of few bits in `dtype`. UserError for other files."""

    def __init__(self, path: Path, dtype: torch.dtype = torch.bfloat16):
        if not path.is_file():
            raise UserError(f"There is no file {path}: check the path of the weights.")
        check_first_bytes(path)
        gguf = gguf_package()
        try:
            reader = gguf.GGUFReader(path)
            self._note = {field.name: field.contents() for field in reader.fields.values()}
            listed = [(t.name, t.tensor_type, t.shape.tolist()[::-1], t.data_offset, t.n_bytes) for t in reader.tensors]
        except (ValueError, LookupError, TypeError, OverflowError, MemoryError) as error:
            raise UserError(f"{path} is not a whole GGUF file ({error}): download it again.") from error
        self.files, self.dtype, self.infos = [path], dtype, {}
        self._stored: dict[str, tuple[GGMLQuantizationType, tuple[int, ...], int, int]] = {}
        for name, kind, stored, offset, size in listed:
            if kind.name not in _PLAIN and not _is_readable(kind):
                raise UserError(
                    f"{name} of {path} is stored as {kind.name}, which is not read here: take another file."
                )
            shape = tuple(stored)
            if isinstance(whole := self._note.get(_SHAPE_KEY + name), list):
                shape = tuple(whole)
            if math.prod(shape) != math.prod(stored):
                raise UserError(f"{name} of {path} has {math.prod(stored)} numbers and shape {shape}: get it again.")
            self._stored[name] = kind, tuple(stored), offset, size
            self.infos[name] = TensorInfo(shape, kind.name if kind.name in _PLAIN else TYPE_NAMES[dtype])

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        kind, stored, *_ = self._stored[name]
        shape = self.infos[name].shape
        cut = len(shape) > 1 and stored == shape  # else rows do not lie one after the other, or are numbers
        raw, shape = (self.raw(name, start, stop), (stop - start, *shape[1:])) if cut else (self.raw(name), shape)
        if kind.name in _PLAIN:
            found = torch.from_numpy(raw).view(_PLAIN[kind.name])
        else:
            blocks = raw.reshape(stop - start if cut else stored[0], -1)
            found = torch.from_numpy(gguf_package().quants.dequantize(blocks, kind)).to(self.dtype)
        found = found.reshape(shape)
        return found if cut or not shape else found[start:stop]

    def packing(self, name: str) -> str | None:
        from diffusers.quantizers.gguf.utils import SUPPORTED_GGUF_QUANT_TYPES

        kind, stored, *_ = self._stored[name]
        kept = kind.name not in _PLAIN and kind in SUPPORTED_GGUF_QUANT_TYPES and stored == self.infos[name].shape
        return kind.name if kept else None

    def packed(self, name: str, start: int, stop: int) -> Packed | None:
        if self.packing(name) is None:
            return None
        blocks = torch.from_numpy(self.raw(name, start, stop)).reshape(stop - start, -1)
        return GgufRows(blocks, self._stored[name][0])

    def raw(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """The bytes of some rows, all by default; only they are read."""
        _, stored, offset, size = self._stored[name]
        if stop is not None:
            row = size // stored[0]
            offset, size = offset + start * row, (stop - start) * row
        return np.fromfile(self.files[0], np.uint8, size, offset=offset)

    def note(self) -> Mapping[str, str]:
        return {name: value for name, value in self._note.items() if isinstance(value, str)}


class GgufRows(Packed):
    """Blocks of a matrix's rows [n_out bytes]."""

    def __init__(self, data: Tensor, kind: GGMLQuantizationType):
        self.data, self.kind = data, kind

    def fill(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        from diffusers.quantizers.gguf.utils import GGUFLinear, GGUFParameter

        linear.__class__ = GGUFLinear
        assert isinstance(linear, GGUFLinear)
        linear.compute_dtype = dtype
        linear.weight = GGUFParameter(self.data, quant_type=self.kind)


def write_gguf(
    file: Path, tensors: Tensors, architecture: str, note: str, chosen: Collection[str], quantization: str
) -> None:
    """Writes tensors one at a time, the `chosen` matrices in blocks, under a temporary name until the file is whole.

    UserError where what lies on the disk at the end is not what was written.
    """
    gguf = gguf_package()
    kinds = {name: _kind(name, info, name in chosen, quantization) for name, info in tensors.infos.items()}
    sums: dict[str, int] = {}
    with whole_file(file) as part:
        writer = gguf.GGUFWriter(part, architecture)
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{quantization.upper()}"])
        writer.add_string(NOTE_KEY, note)
        for name, info in tensors.infos.items():
            shape = gguf.quants.quant_shape_to_byte_shape(info.shape or (1,), kinds[name])
            writer.add_tensor_info(name, shape, np.dtype(np.uint8), math.prod(shape), raw_dtype=kinds[name])
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for name in tensors.infos:
                data = _encoded(tensors.tensor(name), kinds[name])
                sums[name] = zlib.crc32(data.data)
                out = writer.fout[0]
                writer.write_padding(out, out.tell())
                out.write(data.data)
                writer.write_padding(out, data.nbytes)
        finally:
            writer.close()
    written = GgufFile(file)
    for name, wanted in sums.items():
        if zlib.crc32(written.raw(name).data) != wanted:
            raise UserError(f"{name} came back from {file} with other numbers: look at the disk, and convert again.")


def gguf_package() -> ModuleType:
    """The gguf package. UserError where it is not installed."""
    try:
        import gguf
    except ImportError as error:
        raise UserError(f"GGUF files need the gguf package: run {install_line('gguf')}.") from error
    return gguf


def _kind(name: str, info: TensorInfo, chosen: bool, quantization: str) -> GGMLQuantizationType:
    """What a tensor is written as: what ComfyUI's layers do not multiply out themselves stays in whole numbers."""
    gguf = gguf_package()
    kinds, sizes = gguf.GGMLQuantizationType, gguf.GGML_QUANT_SIZES
    if chosen and info.shape[-1] % sizes[kinds[quantization.upper()]][0] == 0:
        return kinds[quantization.upper()]
    matrix = len(info.shape) == 2 and name.endswith(".weight")
    return kinds[info.dtype] if matrix and info.dtype in _PLAIN else kinds.F32


def _encoded(tensor: Tensor, kind: GGMLQuantizationType) -> np.ndarray:
    """The bytes of a tensor, [.. bytes of a row]."""
    if kind.name in _PLAIN:
        plain = tensor.to(_PLAIN[kind.name]).contiguous()
        return plain.reshape(tensor.shape or (1,)).view(torch.uint8).numpy()
    return gguf_package().quants.quantize(tensor.float().contiguous().numpy(), kind)


def _is_readable(kind: GGMLQuantizationType) -> bool:
    """Whether the gguf package multiplies such blocks out."""
    gguf = gguf_package()
    try:
        gguf.quants.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return True
