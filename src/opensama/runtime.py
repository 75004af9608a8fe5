"""Where and how to compute: device, number type, seeds, where weights lie, and what is said about them once.

Weights come from local folders if they are given, else from the Hugging Face hub's cache (which follows HF_HOME), else
they are downloaded there.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opensama.first_bytes import check_first_bytes
from opensama.values import UserError

if TYPE_CHECKING:
    import torch

HUB_PATIENCE = 10.0  # seconds for the hub's first answer
DTYPES = ("float32", "bfloat16", "float16")
_said: set[str] = set()


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


def pick_dtype(name: str | torch.dtype | None, device: torch.device, preferred: str = "bfloat16") -> torch.dtype:
    """The number type asked for, else `preferred` on an accelerator and float32 on a CPU."""
    import torch

    if isinstance(name, torch.dtype):
        return name
    if name is None:
        name = "float32" if device.type == "cpu" else preferred
    if name not in DTYPES:
        raise UserError(f"There is no number type {name!r}: choose {', '.join(DTYPES)}.")
    return getattr(torch, name)


def seeded(seed: int) -> torch.Generator:
    """A generator on the CPU: its numbers are the same whatever device computes."""
    import torch

    return torch.Generator().manual_seed(seed)


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
    """Loads without the progress bars and warnings of diffusers and transformers: who loads checks what came."""
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
    """Those patterns (`vae/*`, `model.safetensors`) that no file in the folder answers."""
    if not folder.is_dir():
        return list(patterns)
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return [pattern for pattern in patterns if not any(fnmatch(name, pattern) for name in names)]


def locate(repo: str, files: Sequence[str], *, folder: Path | str | None = None, size: str = "") -> Path:
    """The folder that holds `files` (patterns) of a repository on the hub, downloaded if need be.

    With `folder` nothing is downloaded. Raises UserError that names the files that are missing and where they are.
    """
    where = f"https://huggingface.co/{repo}" + (f" ({size})" if size else "")
    if folder is not None:
        folder = Path(folder).expanduser()
        missing = missing_files(folder, files)
        if missing:
            state = "is not a folder" if not folder.is_dir() else f"has no {', '.join(missing)}"
            raise UserError(f"The folder {folder} {state}: get {', '.join(missing)} from {where}.")
        return folder

    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        cached = Path(snapshot_download(repo, allow_patterns=list(files), local_files_only=True))
        if not missing_files(cached, files):
            return cached
    except LocalEntryNotFoundError:
        pass
    try:
        HfApi().repo_info(repo, timeout=HUB_PATIENCE)  # the download itself waits for ever where nobody answers
        return Path(snapshot_download(repo, allow_patterns=list(files)))
    except Exception as error:
        raise UserError(
            f"The files {', '.join(files)} of {where} are not in {constants.HF_HUB_CACHE} and could not be downloaded"
            f" ({type(error).__name__}): download them yourself and pass their folder."
        ) from error


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, which it replaces when the block ends well, and which goes when it does not."""
    temporary = path.with_name(f".{path.stem[:60]}.{secrets.token_hex(4)}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
