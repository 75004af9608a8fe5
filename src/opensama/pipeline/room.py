"""Whether a model fits on this machine, in memory and on disk: asked before anything is downloaded or loaded.

Weights are read into the computer's memory and then placed: a CPU holds them all, in 32 bits twice what their files
take; a GPU holds as much of them as `offload` leaves on it.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from opensama.models.registry import WEIGHT_ENDINGS, ModelEntry, Weights
from opensama.runtime import (
    check_dtype,
    check_offload,
    check_weights_name,
    locate,
    missing_files,
    pick_device,
    pick_dtype,
)
from opensama.values import UserError

if TYPE_CHECKING:
    import torch

GB = 10**9
STORED = 16  # bits of a number that sizes are weighed in
_INDEX = ("model_index.json",)  # of a part of which no file is named


@dataclass(frozen=True)
class Machine:
    """What there is, in bytes: the computer's memory, the device's own (None on a CPU), disk free at the weights'."""

    memory: int
    device_memory: int | None
    disk: int
    folder: Path

    @classmethod
    def here(cls, device: torch.device) -> Machine:
        import torch

        own = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
        folder = hub_folder()
        return cls(memory_of_computer(), own, free_bytes(folder), folder)


def hub_folder() -> Path:
    """Where downloaded weights lie."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def free_bytes(folder: Path) -> int:
    """Free bytes where a folder is, or will be."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def memory_of_computer() -> int:
    """Bytes; 0 where the system does not say."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0


def check_model(
    entry: ModelEntry,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    *,
    weights: str | Path | None = None,
    base: str | Path | None = None,
    offload: str = "auto",
    float8: bool = False,
    anyway: bool = False,
) -> None:
    """UserError for what is wrong with how a model is asked for, and, unless `anyway`, where this machine is too small.

    PyTorch is imported only where the answer hangs on it: for a device other than the CPU, and for a model whose parts
    must be weighed against the device's memory.
    """
    check_offload(offload)
    if isinstance(dtype, str):
        check_dtype(dtype)
    check_given(entry, weights=weights, base=base)
    parts = [part for part in (entry.base, entry.edit) if part is not None]
    if not parts and str(device) in ("None", "cpu"):
        return
    where = pick_device(device)
    if not parts or anyway:
        return
    bits = 8 * pick_dtype(dtype, where, entry.defaults.dtype).itemsize
    real, missing = weighed(entry, weights=weights, base=base), to_download(entry, weights=weights, base=base)
    check_room(real, Machine.here(where), missing, bits=bits, offload=offload, float8=float8)


def check_given(entry: ModelEntry, *, weights: str | Path | None = None, base: str | Path | None = None) -> None:
    """UserError for a file or a folder that was named for a model and is not there, or that the model does not take.

    Looks at names only, so it costs nothing; nothing is downloaded.
    """
    if entry.folder is not None and (weights is not None or base is not None):
        raise UserError(f"The model {entry.name} is one folder: leave `weights` and `base` out.")
    if entry.file is not None and weights is not None:
        raise UserError(f"The model {entry.name} is a file of weights itself: leave `weights` out.")
    if entry.edit is not None and weights is not None:
        path = Path(weights).expanduser()
        if path.is_file():
            check_weights_name(path)
        elif not is_transformer(path, entry.edit):
            locate(entry.edit.repo, entry.edit.files, folder=path, size=entry.edit.size, option="weights")
    if entry.base is not None and base is not None:
        locate(entry.base.repo, entry.base.files, folder=base, size=entry.base.size, option="base")


def is_transformer(folder: Path, edit: Weights) -> bool:
    """Whether `weights` names a base model's own transformer, which a LoRA goes onto, and not the released file."""
    return (folder / "config.json").is_file() and not (folder / edit.files[0]).exists()


def to_download(entry: ModelEntry, *, weights: object = None, base: object = None) -> list[Weights]:
    """The parts of a model that are neither given nor in the hub's cache, each with the size of what it still lacks."""
    parts = ((entry.base, base), (entry.edit, entry.file or weights))
    return [_rest(part) for part, given in parts if part is not None and given is None and not is_cached(part)]


def _rest(part: Weights) -> Weights:
    """The part with the size of what a download that was cut has left to do."""
    folder = _cached_folder(part)
    names = {path for pattern in part.files for path in folder.glob(pattern)} if folder is not None else set()
    held = sum(path.stat().st_size for path in names if path.is_file())
    rest = max(0.0, gigabytes(part.size) - held / GB)
    return part if held < GB / 100 or not part.size else replace(part, size=f"{rest:.1f} GB")


def weighed(entry: ModelEntry, *, weights: str | Path | None = None, base: str | Path | None = None) -> ModelEntry:
    """The entry with the sizes of the files that are given in place of the released ones."""
    return replace(entry, base=_weighed(entry.base, base), edit=_weighed(entry.edit, entry.file or weights))


def unpacked(entry: ModelEntry) -> ModelEntry:
    """The entry with its transformer in plain numbers, as LoRAs need it."""
    return entry if entry.edit is None else replace(entry, edit=replace(entry.edit, packed="", bits=STORED))


def _weighed(part: Weights | None, given: str | Path | None) -> Weights | None:
    if part is None or given is None:
        return part
    path = Path(given).expanduser()
    files = [path] if path.is_file() else [file for pattern in part.files for file in path.glob(pattern)]
    held = sum(file.stat().st_size for file in files or path.glob("*.safetensors") if file.suffix in WEIGHT_ENDINGS)
    bits, packed = _bits_of([*files, *path.glob("*.safetensors")]) or part.bits, ""
    if path.is_file() and (bits < STORED or path.suffix == ".gguf"):
        from opensama.models.layouts import packing_of

        packed, bits = packing_of(path) or ("", STORED)
    return replace(part, size=f"{held / GB:.3f} GB", bits=bits, packed=packed)


def _bits_of(files: Sequence[Path]) -> int | None:
    """Bits of most of the numbers in the first safetensors file among these, None where none says so."""
    for file in files:
        if file.suffix == ".safetensors":
            with suppress(OSError, ValueError), file.open("rb") as opened:
                header = opened.read(min(int.from_bytes(opened.read(8), "little"), 10**8))
                found = Counter(re.findall(rb'"dtype"\s*:\s*"[A-Z]+(\d+)', header))
                return 8 if b"8" in found else int(found.most_common(1)[0][0]) if found else None
    return None


def is_cached(part: Weights) -> bool:
    """Whether all of the hub's files of a model's part are on this disk; those of a download that was cut are not."""
    folder = _cached_folder(part)
    return folder is not None and not missing_files(folder, part.files or _INDEX)


def _cached_folder(part: Weights) -> Path | None:
    """Where the hub's cache has a model's part, or the beginning of it: a file of it that has a name is there."""
    from huggingface_hub import try_to_load_from_cache

    for name in [name for name in part.files if "*" not in name] or _INDEX:
        if isinstance(found := try_to_load_from_cache(part.repo, name), str):
            return Path(found).parents[name.count("/")]
    return None


def download_notice(entry: ModelEntry, missing: Sequence[Weights]) -> str:
    """What is about to be downloaded, from where, under which licence; nothing where nothing is."""
    if not missing:
        return ""
    listed = " and ".join(f"{part.size} from {part.url}" for part in missing)
    return f"To be downloaded for {entry.name}: {listed}. Licence: {entry.licence.name}."


def check_room(
    entry: ModelEntry,
    machine: Machine,
    missing: Sequence[Weights],
    *,
    bits: int = 16,
    offload: str = "none",
    float8: bool = False,
) -> None:
    """UserError that says what a model needs, what there is, and what would fit."""
    if short := shortage(entry, machine, missing, bits=bits, offload=offload, float8=float8):
        raise UserError(f"{short}; `anyway=True` goes on all the same.")


def shortage(
    entry: ModelEntry,
    machine: Machine,
    missing: Sequence[Weights],
    *,
    bits: int = 16,
    offload: str = "none",
    float8: bool = False,
) -> str:
    """What is short for a model here, and what would fit; nothing where it fits."""
    given = [part for part in (entry.base, entry.edit) if part is not None]
    if not given:
        return ""
    parts = [gigabytes(part.size) * STORED / (bits if part.packed else part.bits) for part in given]
    download, free = sum(gigabytes(part.size) for part in missing), machine.disk / GB
    if download > free:
        return (
            f"{entry.name} needs a download of {download:.1f} GB and {free:.0f} GB of disk are free in {machine.folder}"
            f": make room, let HF_HOME name a larger disk, name copies with `weights` and `base`, or use `model=tiny`"
        )
    held, there = bits / STORED * sum(parts), machine.memory / GB
    if 0 < there < held:
        smaller = sum(parts) if bits > STORED else held
        fits = "`dtype=bfloat16` or `model=tiny`" if smaller < there else "`model=tiny`"
        return (
            f"{entry.name} needs {held:.0f} GB of memory to be loaded{' in 32 bits' if bits > STORED else ''} and this "
            f"machine has {there:.0f} GB: {fits} would fit here"
        )
    if machine.device_memory is None:
        return ""
    own = machine.device_memory / GB
    if float8 and len(parts) == 2 and not given[1].packed:
        parts[1] /= bits / 8
        held = bits / STORED * sum(parts)
    needs = {"none": held, "model": bits / STORED * max(parts), "group": 0.0, "disk": 0.0, "auto": 0.0}
    if needs[offload] <= own:
        return ""
    fits = "`dtype=bfloat16`" if bits > STORED and needs[offload] * STORED / bits <= own else ""
    fits = fits or f"`offload={next(name for name, need in needs.items() if need <= own)}`"
    return (
        f"{entry.name} needs {needs[offload]:.0f} GB of the GPU's memory with `offload={offload}`, and it has "
        f"{own:.0f} GB: {fits} would fit here"
    )


def gigabytes(size: str) -> float:
    """`28.6 GB` as 28.6."""
    return float(size.removesuffix("GB")) if size else 0.0
