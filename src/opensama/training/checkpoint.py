"""Checkpoints that are whole or not there: written in a folder of another name, synced to disk, then renamed.

    RUN/STAGE/step-00000120/state.json            step, seconds used, settings, fingerprint of the data, sizes of files
    RUN/STAGE/step-00000120/weights.safetensors   every tensor by name; from several processes one file each
    RUN/STAGE/step-00000120/own-0.safetensors     what is a process's own: its random state
    RUN/STAGE/step-00000180.partial               being written, or left by a run that was killed: never read

Several processes write through torch's distributed checkpointing in its safetensors format (no pickled data), each its
own shards; any number of processes, one included, reads what any other number wrote. The last few are kept.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from opensama.training.collectives import slow_group
from opensama.values import UserError

WEIGHTS = "weights.safetensors"
STATE = "state.json"
PARTIAL = ".partial"


class CheckpointError(UserError):
    """A checkpoint could not be written; those before it are whole."""


def save_checkpoint(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, object],
    *,
    own: Mapping[str, Tensor] | None = None,
    keep: int = 2,
) -> Path:
    """Writes the checkpoint of a step, then removes all but the last `keep`; every process calls it.

    `own` are tensors of this process alone, such as its random state.
    """
    final = folder / f"step-{step:08d}"
    partial = folder / (final.name + PARTIAL)

    def begin() -> None:
        remove_partial(folder)
        partial.mkdir(parents=True)

    def write() -> None:
        _write(partial, tensors)
        save_file(dict(own or {}), partial / f"own-{_rank()}.safetensors")

    def commit() -> None:
        files = {path.name: path.stat().st_size for path in sorted(partial.iterdir())}
        (partial / STATE).write_text(json.dumps({**state, "files": files}, indent=1))
        for path in (*partial.iterdir(), partial):
            _sync(path)
        if final.exists():  # the same step once more: a run that was over is given a longer budget, or ends at once
            _remove(final)
        os.replace(partial, final)
        _sync(folder)
        for old in list_checkpoints(folder)[:-keep]:
            _remove(old)

    try:
        _together(begin, first=True)
        _together(write)
        _together(commit, first=True)
    except _WriteError as error:
        size, free = sum(_bytes(t) for t in tensors.values()), shutil.disk_usage(folder).free
        if _rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"The checkpoint of step {step} could not be written to {folder} ({error}): it needs {_gigabytes(size)}, "
            f"{_gigabytes(free)} are free; make room, what was saved before it is whole."
        ) from None
    return final


def load_checkpoint(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fills tensors in place from a checkpoint; each process takes its own shards. UserError if one is not there."""
    known = read_tensor_infos(path)
    missing = [name for name in tensors if name not in known]
    wrong = [name for name, t in tensors.items() if name in known and tuple(t.shape) != known[name][0]]
    if missing or wrong:
        named = [f"{name} is missing" for name in missing]
        named += [f"{name} is {list(known[name][0])} instead of {list(tensors[name].shape)}" for name in wrong]
        rest = f" and {len(named) - 3} more" if len(named) > 3 else ""
        raise UserError(f"The checkpoint {path} is of another model: {'; '.join(named[:3])}{rest}.")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process is meant to be one
        dcp.load(
            dict(tensors), storage_reader=dcp.HuggingFaceStorageReader(str(path)), no_dist=not dist.is_initialized()
        )


def read_tensor_infos(path: Path) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Names, whole shapes and types of the tensors in a checkpoint. UserError where a part of it is missing or cut."""
    for name, size in read_state(path).get("files", {}).items():
        found = (path / name).stat().st_size if (path / name).is_file() else None
        if found != size:
            fault = f"{name} is missing" if found is None else f"{name} has {found:,} of {size:,} bytes"
            raise _damaged(path, fault)
    try:
        metadata = dcp.HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata
    except (OSError, SafetensorError, ValueError) as error:
        raise _damaged(path, error) from None
    return {name: (tuple(m.size), m.properties.dtype) for name, m in metadata.items()}  # type: ignore[union-attr]


def read_state(path: Path) -> dict[str, Any]:
    """`state.json` of a checkpoint: `step`, `seconds`, settings, fingerprint. UserError where it is damaged."""
    try:
        state = json.loads((path / STATE).read_text())
        if not isinstance(state, dict) or "step" not in state:
            raise ValueError(f"{STATE} holds no step")
        return state
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, fault: object) -> UserError:
    return UserError(f"The checkpoint {path} is damaged ({fault}): remove it, and the one before it is used.")


def list_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, the oldest first."""
    return sorted(p for p in folder.glob("step-*") if p.name[5:].isdigit() and (p / STATE).is_file())


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint to go on from: the last whole one."""
    return next(reversed(list_checkpoints(folder)), None)


def remove_partial(folder: Path) -> None:
    """Removes what killed runs left half-written."""
    for left in folder.glob(f"step-*{PARTIAL}"):
        shutil.rmtree(left)


def differences(saved: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """Fields that differ, each as `a.b is 2, was 1`; nested mappings are compared field by field."""
    before, after = dict(_flat(saved)), dict(_flat(json.loads(json.dumps(now))))  # tuples as JSON keeps them
    return [
        f"{name} is {after.get(name, 'absent')!r}, was {before.get(name, 'absent')!r}"
        for name in sorted(before | after)
        if before.get(name, "absent") != after.get(name, "absent")
    ]


def check_space(folder: Path, size: int, keep: int) -> None:
    """UserError unless the checkpoints still to come, `size` bytes each, fit on the disk."""
    wanted = max(1, keep + 1 - len(list_checkpoints(folder))) * size
    free = shutil.disk_usage(folder).free
    if wanted > free:
        raise UserError(
            f"The disk of {folder} is too full: its checkpoints need {_gigabytes(wanted)}, {_gigabytes(free)} are free."
        )


def _write(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    if not dist.is_initialized():
        save_file({name: t.detach().contiguous() for name, t in tensors.items()}, folder / WEIGHTS)
        return
    dcp.save(dict(tensors), storage_writer=dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True))


def _flat(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _remove(path: Path) -> None:
    """A folder gone at once for every reader, then from the disk."""
    gone = path.with_name(f"{path.name}-old{PARTIAL}")
    os.replace(path, gone)
    shutil.rmtree(gone)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _WriteError(Exception):
    """Why a process could not write."""


def _together(action: Callable[[], None], *, first: bool = False) -> None:
    """Acts on every process, or on the first one; returns when all are done, and fails on all if one failed."""
    failure = None
    try:
        if _rank() == 0 or not first:
            action()
    except (OSError, SafetensorError, dcp.CheckpointException) as error:
        failure = _reason(error)
    failures = [failure]
    if dist.is_initialized():
        failures = [None] * dist.get_world_size()
        dist.all_gather_object(failures, failure, group=slow_group())  # the first one may write for long
    reasons = [reason for reason in failures if reason]
    if reasons:
        raise _WriteError(reasons[0])


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.3g} GB"


def _reason(error: BaseException) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
