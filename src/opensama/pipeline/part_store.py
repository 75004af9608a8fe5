"""What an edit keeps of each part of its windows between two forward passes: in memory, or in files of a folder.

    source     latents, as encoded                          of no step
    velocity   velocities, what guidance keeps              of the step that they belong to
    state      latents, semantic tokens, the solver's own   of the step that comes next

A part is some neighbouring windows of the batch, named by the first of them. A file has its name only when it is whole
and on the disk, so whoever is killed between any two has lost one forward pass. Velocities of a step stay until every
part has taken it: a state is then either before the step or after it, never half.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from torch.utils._pytree import tree_map_only

from opensama.runtime import DISK_FULL, whole_file
from opensama.values import UserError

_T = TypeVar("_T")
PartKind = Literal["source", "velocity", "state"]
Values = dict[str, Any]
"""Tensors, numbers, texts and None, and lists and dictionaries of these."""
_NAME = re.compile(r"(source|velocity|state)-(\d+)\.safetensors")


class PartStore:
    """Parts in memory: the values of each, and the step that they belong to."""

    def __init__(self) -> None:
        self._steps: dict[tuple[str, int], int] = {}
        self._values: dict[tuple[str, int], Values] = {}

    def step(self, kind: PartKind, start: int) -> int:
        """The step of what is kept of a part; -1 where nothing is."""
        return self._steps.get((kind, start), -1)

    def starts(self, kind: PartKind) -> list[int]:
        """The first rows of the parts that are kept, ascending."""
        return sorted(start for name, start in self._steps if name == kind)

    def put(self, kind: PartKind, start: int, step: int, values: Values) -> None:
        """Keeps the values, in place of what was kept of that part."""
        self._write(kind, start, step, values)
        self._steps[kind, start] = step

    def get(self, kind: PartKind, start: int) -> Values:
        """What was put."""
        return self._values[kind, start]

    def rows(self, kind: PartKind, start: int, name: str, rows: slice = slice(None)) -> Tensor:
        """Some rows of one of a part's tensors."""
        return self._values[kind, start][name][rows]

    def count(self, kind: PartKind, start: int, name: str) -> torch.Size:
        """The shape of one of a part's tensors."""
        return self._values[kind, start][name].shape

    def _write(self, kind: PartKind, start: int, step: int, values: Values) -> None:
        self._values[kind, start] = values


class FolderStore(PartStore):
    """Parts in files of a folder that is there; those that it holds already are kept.

    Raises SafetensorError where one of them is damaged, UserError where the disk is full.
    """

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder
        for path in folder.iterdir():
            if named := _NAME.fullmatch(path.name):
                with safe_open(path, "pt") as file:
                    self._steps[named[1], int(named[2])] = int(file.metadata()["step"])

    def get(self, kind: PartKind, start: int) -> Values:
        with safe_open(self._path(kind, start), "pt") as file:
            values = json.loads(file.metadata()["values"])["values"]
            return {name: _built(value, file) for name, value in values.items()}

    def rows(self, kind: PartKind, start: int, name: str, rows: slice = slice(None)) -> Tensor:
        with safe_open(self._path(kind, start), "pt") as file:
            return file.get_slice(name)[rows]

    def count(self, kind: PartKind, start: int, name: str) -> torch.Size:
        with safe_open(self._path(kind, start), "pt") as file:
            return torch.Size(file.get_slice(name).get_shape())

    def _write(self, kind: PartKind, start: int, step: int, values: Values) -> None:
        tensors: dict[str, Tensor] = {}
        told = {"step": str(step), "values": json.dumps(_taken_apart(values, "", tensors))}
        try:
            with whole_file(self._path(kind, start)) as temporary, temporary.open("wb") as file:
                file.write(save(tensors, told))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            raise UserError(
                f"The disk is full, and what is done of the edit can no longer be kept in {self.folder}: make room, "
                "and the same command goes on from there."
            ) from error

    def _path(self, kind: PartKind, start: int) -> Path:
        return self.folder / f"{kind}-{start:06}.safetensors"


class StoredRows:
    """A batch [b ...] that lies in the parts of a store: a slice of it is a tensor, and so is each row that it gives
    one after the other."""

    def __init__(self, store: PartStore, kind: PartKind, name: str):
        self.store, self.kind, self.name = store, kind, name
        self.starts = store.starts(kind)
        self.sizes = [store.count(kind, start, name)[0] for start in self.starts]
        self.row = store.count(kind, self.starts[0], name)[1:] if self.starts else torch.Size()

    def __len__(self) -> int:
        return sum(self.sizes)

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self), *self.row))

    def __getitem__(self, rows: slice) -> Tensor:
        first, stop, _ = rows.indices(len(self))
        found = [
            self.store.rows(self.kind, start, self.name, slice(max(0, first - start), min(size, stop - start)))
            for start, size in zip(self.starts, self.sizes, strict=True)
            if start < stop and first < start + size
        ]
        return found[0] if len(found) == 1 else torch.cat(found)

    def __iter__(self) -> Iterator[Tensor]:
        for start in self.starts:
            yield from self.store.rows(self.kind, start, self.name)


BatchRows = Tensor | StoredRows
"""A batch [b ...], of which one asks for slices."""


def _taken_apart(value: object, place: str, tensors: dict[str, Tensor]) -> object:
    """Values as JSON in which each tensor stands by the name under which it goes into `tensors`."""
    if isinstance(value, Tensor):
        tensors[place] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": place}
    if isinstance(value, dict):
        return {"values": {key: _taken_apart(one, f"{place}.{key}".strip("."), tensors) for key, one in value.items()}}
    if isinstance(value, list):
        return [_taken_apart(one, f"{place}.{i}", tensors) for i, one in enumerate(value)]
    return value


def _built(value: object, file: safe_open) -> object:
    """The values again."""
    if isinstance(value, list):
        return [_built(one, file) for one in value]
    if isinstance(value, dict):
        if "tensor" in value:
            return file.get_tensor(value["tensor"])
        return {key: _built(one, file) for key, one in value["values"].items()}
    return value


def moved(value: _T, device: torch.device) -> _T:
    """Values with their tensors on a device, in lists and dictionaries of their own."""
    return tree_map_only(Tensor, lambda x: x.to(device), value)
