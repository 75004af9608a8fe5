"""`opensama doctor`: what is installed, which device there is, which models will run, and how to mend the rest."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from opensama.apps.options import as_options
from opensama.runtime import install_line

if TYPE_CHECKING:
    from opensama.models.registry import ModelEntry

NEEDED = ("torch", "diffusers", "transformers", "tokenizers", "safetensors", "peft", "av", "numpy", "pillow")
EXTRAS = {  # and the package of each that our code, or transformers for it, imports
    "wan": "sentencepiece",
    "train": "tensorboard",
    "curate": "scenedetect-headless",
    "cluster": "ray",
    "evaluate": "matplotlib",
}


@dataclass(frozen=True)
class Device:
    """Where models run here, and in bytes the memory there and the computer's."""

    name: str
    kind: str
    memory: int
    computer: int


def doctor() -> int:
    """Say what is installed, which device there is, which models will run here and what they need."""
    from opensama import __version__
    from opensama.models.registry import entries

    print(f"opensama {__version__}, Python {platform.python_version()}, {platform.platform(terse=True)}")
    missing = [name for name in NEEDED if installed_version(name) is None]
    print("packages: " + ", ".join(f"{name} {installed_version(name) or 'MISSING'}" for name in NEEDED))
    for extra, package in EXTRAS.items():
        state = installed_version(package) or f"not installed ({install_line(extra)})"
        print(f"  extra {extra}: {package} {state}")
    if missing:
        print(f"to mend: {sys.executable} -m pip install {' '.join(missing)}")
        return 2

    from opensama.pipeline.room import GB, free_bytes, hub_folder

    device = find_device()
    print(f"device: {device.name}, {device.memory / GB:.0f} GB of memory, {os.cpu_count()} CPU cores")
    for what, folder in (("here", Path.cwd()), ("for downloaded weights", hub_folder())):
        print(f"disk {what}: {free_bytes(folder) / GB:.0f} GB free in {folder}")

    print("models:")
    verdicts = {entry.name: runs_here(entry, device, free_bytes(hub_folder())) for entry in entries()}
    for name, (runs, sentence) in verdicts.items():
        print(f"  {name}: {'yes' if runs else 'no'}, {as_options(sentence)}")
    if fault := video_fault():
        print(f"video: a clip of ten frames could not be written and read with av {installed_version('av')}: {fault}")
        print(f"to mend: {sys.executable} -m pip install {supported_av()}")
        return 2
    print("video: a clip of ten frames was written and read")
    runs = any(ok for ok, _ in verdicts.values())
    print("ready: opensama demo" if runs else "not ready: no model can run here yet, see the lines above")
    return 0 if runs else 2


def video_fault() -> str:
    """What goes wrong when ten small frames are written as an MP4 and read back; nothing if nothing does."""
    import numpy as np

    from opensama.media import read_video, write_video
    from opensama.values import Video

    frames = [np.full((48, 64, 3), 20 * index, np.uint8) for index in range(10)]
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "ten.mp4"
            write_video(Video.from_frames(frames, 10), file, on_note=lambda note: None)
            again = read_video(file)
            levels = [round(float(frame.mean())) for frame in again.frames()]
            if (again.width, again.height, again.duration) != (64, 48, 1):
                return f"it came back as {again!r}"
    except Exception as error:  # whatever a library that does not fit may raise
        return f"{type(error).__name__}: {error}"
    if any(abs(level - 20 * index) > 3 for index, level in enumerate(levels)) or len(levels) != 10:
        return f"its greys came back as {levels}"
    return ""


def supported_av() -> str:
    """The range of PyAV's versions that this package asks for, as pip takes it."""
    wanted = [line.partition(";")[0].strip() for line in importlib.metadata.requires("opensama") or []]
    return next((f"'{line}'" for line in wanted if line.startswith(("av>", "av<", "av="))), "av")


def installed_version(package: str) -> str | None:
    """The installed version, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def find_device() -> Device:
    """The accelerator that PyTorch sees, else the CPU."""
    import torch

    from opensama.pipeline.room import memory_of_computer

    memory = memory_of_computer()
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return Device(f"cuda ({properties.name})", "cuda", properties.total_memory, memory)
    if torch.backends.mps.is_available():
        return Device("mps (Apple)", "mps", memory, memory)
    return Device("cpu", "cpu", memory, memory)


def runs_here(entry: ModelEntry, device: Device, free: int) -> tuple[bool, str]:
    """Whether a model will run on this device, and one sentence why or what to do."""
    from opensama.apps.models import is_here
    from opensama.pipeline.room import Machine, gigabytes, hub_folder, shortage, to_download

    if entry.folder is not None:
        if is_here(entry):
            return True, f"its weights are here; {entry.memory}"
        return False, f"there are no weights in {entry.folder}: install opensama anew"
    missing, on_cpu = to_download(entry), device.kind == "cpu"
    machine = Machine(device.computer, device.memory if device.kind == "cuda" else None, free, hub_folder())
    if short := shortage(entry, machine, missing, bits=32 if on_cpu else 16):  # a CPU computes in float32
        return False, f"it {short.removeprefix(f'{entry.name} ')}; {entry.memory}"
    download = sum(gigabytes(part.size) for part in missing)
    slow = "; on a CPU it takes hours" if on_cpu else ""
    fetch = f"after a download of {download:.0f} GB" if download else "its weights are here"
    return True, f"{fetch}; {entry.memory}{slow}"
