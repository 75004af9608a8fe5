"""Files of weights, read and written one tensor at a time, so that they may be larger than the memory."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from opensama.first_bytes import check_first_bytes
from opensama.runtime import check_weights_name, shards, whole_file
from opensama.values import UserError

SHARD_BYTES = 5 * 10**9
MAPPED_BYTES = 2**20  # are read of a file before it is closed and its pages let go of
STEM = "diffusion_pytorch_model"  # what diffusers calls a component's weights

# Bytes of one number, by the file format's names of types.
ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
ITEM_BYTES |= {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}

TYPE_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


class TensorInfo(NamedTuple):
    """What a file says of a tensor before it is read."""

    shape: tuple[int, ...]
    dtype: str  # as safetensors writes it: BF16, F32, ...

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


class Packed(ABC):
    """Rows of a matrix as they are stored, in fewer bits than they compute in."""

    @abstractmethod
    def fill(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        """Makes a layer keep them as its weight, and compute in `dtype`, in place."""


class Tensors(ABC):
    """Named tensors that lie in files: `infos` says what there is, `tensor` reads one, `rows` some rows of it."""

    files: list[Path]
    infos: dict[str, TensorInfo]

    def __iter__(self) -> Iterator[str]:
        return iter(self.infos)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of each tensor, by name."""
        return {name: info.shape for name, info in self.infos.items()}

    def tensor(self, name: str) -> Tensor:
        """One tensor, from disk to CPU memory."""
        shape = self.infos[name].shape
        return self.rows(name, 0, shape[0] if shape else 1)

    @abstractmethod
    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Some rows of a tensor; only they are read. A number alone is one row."""

    def packed(self, name: str, start: int, stop: int) -> Packed | None:
        """Some rows of a tensor as they are stored, None where that is in plain numbers."""
        return None

    def packing(self, name: str) -> str | None:
        """How `packed` rows of a tensor are stored: "float8", or a GGUF type."""
        return None

    def note(self) -> Mapping[str, str]:
        """What the files say of themselves beside their tensors."""
        return {}


class Renamed(Tensors):
    """Tensors under other names: each new one with the old."""

    def __init__(self, source: Tensors, names: Mapping[str, str]):
        self.source, self.names, self.files = source, names, source.files
        self.infos = {new: source.infos[old] for new, old in names.items()}

    def tensor(self, name: str) -> Tensor:
        return self.source.tensor(self.names[name])

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        return self.source.rows(self.names[name], start, stop)

    def packed(self, name: str, start: int, stop: int) -> Packed | None:
        return self.source.packed(self.names[name], start, stop)

    def packing(self, name: str) -> str | None:
        return self.source.packing(self.names[name])

    def note(self) -> Mapping[str, str]:
        return self.source.note()


class TensorFiles(Tensors):
    """The tensors of a safetensors file, of an index's shards, or of the safetensors files in a folder.

    Raises UserError for anything that is not safetensors.
    """

    def __init__(self, path: Path):
        self.files = weight_files(path)
        self.infos = {}
        self._file: dict[str, Path] = {}
        for file in self.files:
            check_first_bytes(file)
            try:
                with safe_open(file, framework="pt") as f:
                    for name in f.keys():  # noqa: SIM118  (a file handle, not a dictionary)
                        if name in self._file:
                            raise UserError(
                                f"Tensor {name} is in {self._file[name].name} and in {file.name}: keep one."
                            )
                        part = f.get_slice(name)
                        self._file[name] = file
                        self.infos[name] = TensorInfo(tuple(part.get_shape()), part.get_dtype())
            except SafetensorError as error:
                raise UserError(f"{file} is not a whole safetensors file ({error}): download it again.") from error
        self._opened: tuple[Path, safe_open] | None = None
        self._read = 0

    def tensor(self, name: str) -> Tensor:
        return self._from_file(name, lambda f: f.get_tensor(name))

    def note(self) -> Mapping[str, str]:
        with safe_open(self.files[0], framework="pt") as f:
            return f.metadata() or {}

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        shape = self.infos[name].shape
        if not shape or (start, stop) == (0, shape[0]):
            return self.tensor(name)
        return self._from_file(name, lambda f: f.get_slice(name)[start:stop])

    def _from_file(self, name: str, get: Callable[[safe_open], Tensor]) -> Tensor:
        """What `get` reads of a tensor's file; opening one takes as long as it has names, so small tensors share it."""
        file, opened = self._file[name], self._opened
        if opened is None or opened[0] != file:
            opened, self._read = (file, safe_open(file, framework="pt")), 0
        read = get(opened[1])
        self._read += read.nbytes
        self._opened = opened if self._read <= MAPPED_BYTES else None
        return read if read.nbytes > MAPPED_BYTES else read.clone()  # the file's own pages are for others, too


def weight_files(path: Path) -> list[Path]:
    """The safetensors files that `path` stands for: itself, an index's shards, or those of a folder."""
    if path.is_dir():
        index = path / f"{STEM}.safetensors.index.json"
        files = weight_files(index) if index.exists() else sorted(path.glob("*.safetensors"))
        if not files:
            raise UserError(f"There is no safetensors file in {path}: name the folder or file that has the weights.")
        return files
    if not path.exists():
        raise UserError(f"There is no file {path}: check the path of the weights.")
    check_weights_name(path)
    if path.name.endswith(".index.json"):
        files = shards(path)
        for file in files:
            if not file.exists():
                raise UserError(f"Shard {file.name} named by {path.name} is missing in {path.parent}: download it too.")
        return files
    return [path]


def write_safetensors(
    file: Path, infos: dict[str, TensorInfo], read: Callable[[str], Tensor], note: Mapping[str, str] | None = None
) -> None:
    """Writes one file, tensor by tensor, under a temporary name until it is whole."""
    header: dict[str, object] = {"__metadata__": {"format": "pt", **(note or {})}}
    end = 0
    for name, info in infos.items():
        header[name] = {"dtype": info.dtype, "shape": info.shape, "data_offsets": [end, end + info.bytes]}
        end += info.bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with whole_file(file) as part, part.open("wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for name in infos:
            f.write(read(name).contiguous().flatten().view(torch.uint8).numpy().data)


def write_shards(
    folder: Path, infos: dict[str, TensorInfo], read: Callable[[str], Tensor], shard_bytes: int = SHARD_BYTES
) -> None:
    """Writes a folder's weights as diffusers names them: one file, or shards of at most `shard_bytes` and an index."""
    shards: list[dict[str, TensorInfo]] = [{}]
    filled = 0
    for name, info in infos.items():
        if shards[-1] and filled + info.bytes > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = info
        filled += info.bytes
    stale = {*folder.glob(f"{STEM}*.safetensors"), *folder.glob(f"{STEM}.safetensors.index.json")}
    weight_map: dict[str, str] = {}
    for i, shard in enumerate(shards, start=1):
        part = f"-{i:05}-of-{len(shards):05}" if len(shards) > 1 else ""
        file = folder / f"{STEM}{part}.safetensors"
        write_safetensors(file, shard, read)
        weight_map |= dict.fromkeys(shard, file.name)
        stale.discard(file)
    for file in stale:  # of an earlier conversion into this folder
        file.unlink()
    if len(shards) == 1:
        return
    index = {"metadata": {"total_size": sum(info.bytes for info in infos.values())}, "weight_map": weight_map}
    (folder / f"{STEM}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
