"""`opensama doctor`: what is installed, which device there is, which models will run, and how to mend the rest."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from opensama.apps.options import as_options
from opensama.runtime import install_line
from opensama.values import UserError

if TYPE_CHECKING:
    from opensama.models.registry import ModelEntry

NEEDED = ("torch", "diffusers", "transformers", "tokenizers", "safetensors", "peft", "av", "numpy", "pillow")
EXTRAS = {  # and the package of each that our code, or transformers for it, imports
    "wan": "sentencepiece",
    "train": "tensorboard",
    "curate": "scenedetect-headless",
    "cluster": "ray",
    "evaluate": "matplotlib",
    "gguf": "gguf",
    "credentials": "c2pa-python",
}


@dataclass(frozen=True)
class Device:
    """Where models run here, and in bytes the memory there and the computer's."""

    name: str
    kind: str
    memory: int
    computer: int


def doctor(*, model: Annotated[str | None, Parameter(name=["--model", "-m"])] = None, memory: str | None = None) -> int:
    """Say what is installed, which device there is, which models will run here and what they need.

    Parameters
    ----------
    model
        Say in place of all that what an edit by this model will need, for each way of placing its weights: predicted by
        computing a window on a device that holds no numbers, in the number type that it computes in on a GPU.
    memory
        The GPU's memory to choose for, such as 12GB. By default what is free here.
    """
    if model is not None:
        return say_needs(model, memory)
    if memory is not None:
        raise UserError("`memory` says what a model is to fit into: name one with `model`.")
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


def say_needs(model: str, memory: str | None) -> int:
    """Prints what an edit of the model's longest window needs by each plan, and the one that is chosen."""
    import torch

    from opensama.models.families import find_family
    from opensama.models.registry import find
    from opensama.pipeline.memory_plans import PLANS, largest_size, parse_memory, plans_that_fit
    from opensama.pipeline.peaks import edit_memory, transformer_config, window_shape
    from opensama.pipeline.room import GB, memory_of_computer, weighed

    entry, given = weighed(find(model)), parse_memory(memory)
    dtype = getattr(torch, entry.defaults.dtype)
    need, (frames, height, width) = edit_memory(entry, dtype), window_shape(entry)
    device, host = find_device(), memory_of_computer()
    there = given or (torch.cuda.mem_get_info()[0] if device.kind == "cuda" else None)
    unit, name = (GB, "gigabytes") if need.transformer > GB else (10**6, "megabytes")
    print(f"{entry.name}: {frames} frames of {width}x{height} in {entry.defaults.dtype}; {name}, predicted")
    print(f"  {'settings':<44}{'weights on the GPU':>19}{'at the peak':>13}{'in the computer':>17}")
    for plan in PLANS:
        if plan.float8 and need.float8 is None:  # few bits are what the file has
            continue
        sizes = plan.resident(need), plan.peak(need), plan.host(need)
        said = as_options(plan.options).replace(",", "")
        print(f"  {said:<44}" + "".join(f"{size / unit:>{n}.1f}" for size, n in zip(sizes, (19, 13, 17), strict=True)))
    cost = find_family(entry.family).sizes.of(transformer_config(entry), 16 if entry.folder else 8)
    tokens = 2 * cost.tokens(frames, height, width)
    step = sum(cost.operations(tokens, entry.defaults.max_text_tokens, 0, tokens // 2)) / 1e12
    print(f"a forward pass over {tokens:,} tokens is {step:,.3g} TFLOP; an edit takes {entry.defaults.steps} or more")
    if there is None:
        print("there is no GPU here: name its memory, such as --memory 12GB, to see what is chosen")
        return 0
    places = f"{there / GB:.0f} GB of a GPU and {host / GB:.0f} GB of this computer"
    fits = plans_that_fit(need, there, host)
    if not fits and not plans_that_fit(need, 1e15, host):
        waiting = min(plan.host(need) for plan in PLANS) / GB
        print(f"nothing fits into {places}, which needs {waiting:.1f} GB at the least while weights are loaded")
        return 2
    if not fits and (found := largest_size(entry, dtype, there, host)):
        size, (height, width), plan = found
        said = as_options(plan.options).replace(",", "")
        print(f"nothing fits into {places} at that size; {frames} frames of {width}x{height} do: --size {size} {said}")
        return 0
    if not fits:
        print(f"nothing fits into {places}")
        return 2
    print(f"chosen for {places}: {as_options(fits[0].options).replace(',', '')}")
    return 0


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
