"""Where and how to compute: device, number type, seeds, where weights lie, and what is said about them once.

Weights come from local folders if they are given, else from the Hugging Face hub's cache (which follows HF_HOME), else
they are downloaded there.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

from opensama.first_bytes import check_first_bytes
from opensama.values import UserError

if TYPE_CHECKING:
    import torch

HUB_PATIENCE = 10.0  # seconds for the hub's first answer
SHARD = re.compile(r"(?P<stem>.+)-\d+-of-(?P<count>\d+)\.safetensors")
_PICKLES = {".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle"}
_DTYPES = ("float32", "bfloat16", "float16")
OFFLOADS = ("auto", "none", "model", "group", "disk")  # where weights lie while others compute: see pipeline/memory.py
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Numbers of the errors of a disk that takes no more."""
_said: set[str] = set()


def install_line(extra: str) -> str:
    """The command that installs an extra where this package was installed from: a clone, or an index."""
    import importlib.metadata
    import shlex
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    try:
        record = importlib.metadata.distribution("opensama").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:  # run from its sources, without being installed
        record = None
    said = json.loads(record or "{}")
    clone = url2pathname(urlsplit(said["url"]).path) if "dir_info" in said else ""
    wanted = f"{clone}[{extra}]" if clone else f"opensama[{extra}]"
    editable = "--editable " if said.get("dir_info", {}).get("editable") else ""
    return f"{sys.executable} -m pip install {editable}{shlex.quote(wanted)}"


def pick_device(name: str | torch.device | None = None) -> torch.device:
    """The device asked for, or the best there is: CUDA, Apple's MPS, else the CPU. UserError if it is not there."""
    import torch

    if name is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"There is no device {name!r}: choose cpu, cuda, cuda:N or mps.") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"The device {name} is not here: PyTorch sees {torch.cuda.device_count()} CUDA devices.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("The device mps is not here: choose cpu.")
    return device


def own_device(name: str | None = None) -> torch.device:
    """The device of this process: of torchrun's processes on a machine each takes a GPU of its own.

    UserError if there are more of them than GPUs.
    """
    import torch

    if world_size() == 1 or name not in (None, "cuda") or not torch.cuda.is_available():
        return pick_device(name)
    local, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= there:
        raise UserError(f"torchrun started more processes a machine than its {there} GPUs: lower --nproc-per-node.")
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def pick_dtype(name: str | torch.dtype | None, device: torch.device, preferred: str = "bfloat16") -> torch.dtype:
    """The number type asked for, else `preferred` on an accelerator and float32 on a CPU."""
    import torch

    if isinstance(name, torch.dtype):
        return name
    if name is None:
        name = "float32" if device.type == "cpu" else preferred
    check_dtype(name)
    return getattr(torch, name)


def check_dtype(name: str) -> None:
    """UserError for a number type that no model computes in."""
    if name not in _DTYPES:
        raise UserError(f"There is no number type {name!r}: choose {', '.join(_DTYPES)}.")


def check_offload(name: str) -> None:
    """UserError for a kind of offloading that there is none of."""
    if name not in OFFLOADS:
        raise UserError(f"There is no offload {name!r}: choose {', '.join(OFFLOADS)}.")


def computes_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is worth computing in: on an accelerator, and on processors that multiply it as fast as float32.

    A processor without units for it (AVX2, as most laptops have) takes tens of times as long as in float32. x86
    processors say what they have; of others one product of each kind tells. The bits of a run depend on the answer.
    """
    return device.type != "cpu" or _multiplies_bfloat16()


@cache
def _multiplies_bfloat16() -> bool:
    import torch

    has = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if "avx512_bf16" in has:  # ATEN_CPU_CAPABILITY may have bidden torch not to use them
        wide = torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "AVX2")
        return wide and bool(has["avx512_bf16"] or has.get("amx_bf16"))

    def seconds(dtype: torch.dtype) -> float:
        a, taken = torch.ones(256, 256, dtype=dtype), []
        for _ in range(4):  # the first one sets the library up
            begun = perf_counter()
            torch.mm(a, a)
            taken.append(perf_counter() - begun)
        return min(taken)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several wait for each other where other programs run
    try:
        return seconds(torch.bfloat16) <= seconds(torch.float32)
    finally:
        torch.set_num_threads(threads)


def compute_type(name: Literal["auto", "bfloat16", "float32"], device: torch.device) -> Literal["bfloat16", "float32"]:
    """The number type of a forward pass there: as told, or for `auto` what `computes_bfloat16` says."""
    if name == "auto":
        return "bfloat16" if computes_bfloat16(device) else "float32"
    return name


def autocast(device: torch.device, name: Literal["auto", "bfloat16", "float32"] = "auto") -> torch.autocast:
    """Autocast to bfloat16 where `compute_type` says so, else none. A device that has no autocast gets none."""
    import torch

    known = torch.amp.is_autocast_available(device.type)
    return torch.autocast(
        device.type if known else "cpu", torch.bfloat16, enabled=compute_type(name, device) == "bfloat16"
    )


def lora_and_scale(text: str) -> tuple[Path, float]:
    """`FILE[:SCALE]`, or a folder that training wrote. UserError where there is none, or the scale is no number."""
    path, colon, scale = Path(text).expanduser(), "", "1"
    if not path.exists():
        name, colon, scale = text.rpartition(":")
        path = Path(name if colon else text).expanduser()
    if not path.exists():
        raise UserError(f"There is no LoRA {path}: give a file, or the folder that training wrote, as FILE[:SCALE].")
    try:
        number = float(scale)
    except ValueError:
        number = math.inf
    if not math.isfinite(number):
        raise UserError(f"The scale of a LoRA is a number, as in {path.name}:0.8, not {scale!r}.")
    return path, number


def seeded(seed: int) -> torch.Generator:
    """A generator on the CPU: its numbers are the same whatever device computes."""
    import torch

    return torch.Generator().manual_seed(seed)


def world_size() -> int:
    """How many processes torchrun has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process's number among those that compute together; 0 alone."""
    return int(os.environ.get("RANK", "0"))


def say_once(text: str, out: Callable[[str], object] = print) -> None:
    """Says a notice the first time in this process, and only in its first rank."""
    if text and text not in _said and rank() == 0:
        _said.add(text)
        out(text)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Loads and saves without the progress bars and warnings of diffusers and transformers: who loads checks it."""
    import diffusers.utils.logging as diffusers_logging
    import transformers.utils.logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    before = [(library, library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, verbosity, bars in before:
            library.set_verbosity(verbosity)
            if bars:
                library.enable_progress_bar()


def read_object(file: Path) -> dict[str, Any]:
    """What a JSON file of settings holds. UserError if it is not there, or holds something else."""
    check_first_bytes(file)
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"There is no file {file}: check the name and the folder.") from None
    except ValueError as error:
        raise UserError(f"The file {file} is damaged or not JSON ({error}): mend it, or copy it again.") from error
    if not isinstance(settings, dict):
        raise UserError(f"The file {file} holds no JSON object such as {{'dim': 5120}}: mend it, or copy it again.")
    return settings


def missing_files(folder: Path, patterns: Sequence[str]) -> list[str]:
    """What a folder lacks of `patterns` (`vae/*`, `*.safetensors`): those that no file answers, and named files.

    Weights are all there where each shard is that their index or their own names (`-00001-of-00005`) speak of. `PART/*`
    is one of a diffusers pipeline: its settings and weights are wanted, or a tokenizer's.
    """
    if not folder.is_dir():
        return list(patterns)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    missing: dict[str, None] = {}
    for pattern in patterns:
        found = [name for name in names if fnmatch(name, pattern)]
        missing |= {} if found else {pattern: None}
        part, slash, rest = pattern.partition("/")
        if found and slash and rest == "*":
            missing |= dict.fromkeys(missing_parts(folder, (part,)))
        for name in sorted(found):
            missing |= {shard: None for shard in _siblings(folder, name) if shard not in names}
    return list(missing)


def missing_parts(folder: Path, parts: Sequence[str]) -> list[str]:
    """Files that a diffusers pipeline's folder lacks, shards of split weights included."""
    missing = []
    for part in parts:
        if part.startswith("tokenizer"):
            names = ("tokenizer.json", "spiece.model", "vocab.json")
            if not any((folder / part / name).is_file() for name in names):
                missing.append(f"{part}/tokenizer.json")
            continue
        config = "scheduler_config.json" if part == "scheduler" else "config.json"
        if not (folder / part / config).is_file():
            missing.append(f"{part}/{config}")
        if part != "scheduler":
            file = weight_file(folder, part)
            wanted = shards(file) if file.name.endswith(".index.json") else [file]
            missing += [f"{part}/{shard.name}" for shard in wanted if not shard.is_file()]
    return missing


def check_weights_name(path: Path) -> None:
    """UserError for a file that by its name is no safetensors or GGUF file, and no index of some."""
    if path.suffix in _PICKLES:
        raise UserError(f"{path} is a pickle, which can run code when opened: use the safetensors file instead.")
    if path.suffix not in (".safetensors", ".gguf") and not path.name.endswith(".index.json"):
        raise UserError(f"{path} does not end in .safetensors or .gguf: only such files are read.")


def weight_file(folder: Path, part: str) -> Path:
    """A part's weights: its one file, or the index of its shards where there is only that."""
    stem = "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"
    single = folder / part / f"{stem}.safetensors"
    index = single.with_suffix(".safetensors.index.json")
    return index if index.is_file() and not single.is_file() else single


def shards(index: Path) -> list[Path]:
    """The files that an index of shards names, whether they are there or not."""
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return [index.parent / name for name in sorted(names)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index} is not an index of shards: it needs a weight_map.") from error


def _siblings(folder: Path, name: str) -> list[str]:
    """The shards that a file of a folder says belong together; of any other file none."""
    whole = name.removesuffix(".index.json")
    if whole != name and not (folder / whole).is_file():
        return [shard.relative_to(folder).as_posix() for shard in shards(folder / name)]
    numbered = SHARD.fullmatch(name)
    if numbered is None:
        return []
    stem, count = numbered["stem"], numbered["count"]
    return [f"{stem}-{i:0{len(count)}}-of-{count}.safetensors" for i in range(1, int(count) + 1)]


def locate(
    repo: str, files: Sequence[str], *, folder: Path | str | None = None, size: str = "", option: str = ""
) -> Path:
    """The folder that holds `files` (patterns) of a repository on the hub, downloaded if need be.

    A download that was cut goes on. With `folder` nothing is downloaded; `option` is the setting that names it.
    Raises UserError that names the files that are missing and where they are.
    """
    where = f"https://huggingface.co/{repo}" + (f" ({size})" if size else "")
    if folder is not None:
        folder = Path(folder).expanduser()
        missing = missing_files(folder, files)
        if missing:
            named = f" (`{option}`)" if option else ""
            if not folder.exists():
                raise UserError(f"There is no file or folder {folder}{named}: get {', '.join(missing)} from {where}.")
            state = "is not a folder" if not folder.is_dir() else f"has no {', '.join(missing)}"
            raise UserError(f"The folder {folder}{named} {state}: get {', '.join(missing)} from {where}.")
        return folder

    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    missing = list(files)
    try:
        cached = Path(snapshot_download(repo, allow_patterns=list(files), local_files_only=True))
        missing = missing_files(cached, files)
        if not missing:
            return cached
    except LocalEntryNotFoundError:
        pass
    try:
        HfApi().repo_info(repo, timeout=HUB_PATIENCE)  # the download itself waits for ever where nobody answers
        got = Path(snapshot_download(repo, allow_patterns=list(files)))
    except Exception as error:
        raise UserError(
            f"The files {', '.join(missing)} of {where} are not in {constants.HF_HUB_CACHE} and could not be downloaded"
            f" ({type(error).__name__}): download them yourself and name their folder"
            f"{f' with `{option}`' if option else ''}."
        ) from error
    missing = missing_files(got, files)
    if missing:
        raise UserError(f"{where} has no {', '.join(missing)}: name another repository, or a folder that has them.")
    return got


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, which it replaces when the block ends well, and which goes when it does not."""
    temporary = path.with_name(f".{path.stem[:60]}.{secrets.token_hex(4)}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """A folder's files and their names are on the disk, also for who pulls the plug."""
    for path in (*folder.iterdir(), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
