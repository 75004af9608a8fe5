"""`opensama bench`: what an edit takes on this machine, part by part, beside what the machine can do at all.

ceiling    the fastest of a few products of large square matrices, and of copies of a large tensor, measured here
share      operations of a forward pass (`torch.utils.flop_counter`) a second, over the ceiling's: MFU
"""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, ParamSpec, TypedDict, TypeVar

from cyclopts import Parameter

from opensama.apps.edit_settings import FLAG, LoadSettings
from opensama.apps.options import OVERWRITE, check_json
from opensama.apps.progress import loading
from opensama.runtime import whole_file
from opensama.values import UserError

if TYPE_CHECKING:
    import torch
    from diffusers import ModelMixin
    from torch import Tensor, nn

    from opensama.models.registry import ModelEntry
    from opensama.pipeline.editor import Editor

_FPS = 16
_LONG = 0.05  # seconds of a matrix product that are enough to measure it
_NO_SOURCE = {"source_hidden_states": None}
_Call = tuple[tuple[Any, ...], dict[str, Any]]
_P = ParamSpec("_P")
_R = TypeVar("_R")


@dataclass
class MachineSpeed:
    """What was measured on, and what it can do at all: operations and bytes (read and written) a second."""

    device: str
    threads: int
    dtype: str
    versions: dict[str, str]
    operations: float
    bytes: float
    peak: int = 0
    """Of memory, in bytes, after all: PyTorch's on a GPU, the process's on a CPU."""


@dataclass
class Part:
    """Seconds of each time that a part of an edit ran; `operations` of one of them where they are known."""

    what: str
    seconds: list[float] = field(default_factory=list)
    operations: float = 0.0


class PeerSpeed(TypedDict):
    """Seconds of each forward pass of ours and of a peer over as many tokens, and the median of their ratios."""

    peer: str
    tokens: int
    seconds: list[list[float]]
    ratio: float


def bench(
    *,
    model: Annotated[str, Parameter(name=["--model", "-m"])] = "tiny",
    frames: int | None = None,
    width: int = 832,
    height: int = 480,
    steps: int | None = None,
    random_weights: Annotated[bool, FLAG] = False,
    against: Literal["diffusers"] | None = None,
    rounds: int = 3,
    anyway: Annotated[bool, FLAG] = False,
    load_settings: LoadSettings | None = None,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> int:
    """Measure an edit's parts on this machine, and their share of what it can do.

    Parameters
    ----------
    model
        A name that `opensama models list` shows, a pipeline folder, or a file of weights.
    frames
        Frames of the drawn clip that is edited, or, with --random-weights, of the window that passes through the
        transformer. By default the model's longest window.
    width
        Of the clip.
    height
        Of the clip.
    steps
        Denoising steps. By default the model's own number.
    random_weights
        Measure forward passes of the transformer alone, with random weights: nothing is downloaded, and seconds and
        memory do not depend on what the weights are.
    against
        What to compare a forward pass with, in turns in the same process: diffusers' own transformer of the same sizes
        over as many tokens.
    rounds
        How often a forward pass is repeated with --random-weights or --against; the median is said. An edit has as many
        as its steps ask for.
    anyway
        Measure, though the model needs more memory or disk than this machine has.
    json_file
        Also write all of it into this file.
    overwrite
        Replace that file where it exists.
    """
    for name, value, least in (("frames", frames, 1), ("width", width, 16), ("height", height, 16),
                               ("steps", steps, 1), ("rounds", rounds, 1)):  # fmt: skip
        if value is not None and value < least:
            raise UserError(f"`{name}={value}` is too small: {least} is the least.")
    from opensama.models.registry import find

    entry, load_settings = find(model), load_settings or LoadSettings()
    check_json(json_file, overwrite=overwrite)
    if not random_weights:
        load_settings.check(entry, anyway)
    import torch

    with torch.no_grad():
        if random_weights:
            machine, parts, transformer, call = random_passes(entry, load_settings, frames, rounds, anyway)
        else:
            frames = entry.defaults.window if frames is None else frames
            machine, parts, transformer, call = edit_parts(model, load_settings, frames, (width, height), steps, anyway)
        peer = None if against is None else against_diffusers(transformer, call, rounds)
        machine.peak = peak_memory(next(transformer.parameters()).device)
    say(machine, parts, peer)
    if json_file is not None:
        found = {"machine": asdict(machine), "parts": [asdict(part) for part in parts], "against": peer}
        with whole_file(json_file) as temporary:
            temporary.write_text(json.dumps(found, indent=2) + "\n")
    return 0


def edit_parts(
    model: str, settings: LoadSettings, frames: int, size: tuple[int, int], steps: int | None, anyway: bool
) -> tuple[MachineSpeed, list[Part], ModelMixin, _Call]:
    """The parts of one edit of a drawn clip, read from a file and written to one."""
    from opensama.media.video_io import read_video, write_video
    from opensama.values import EditRequest, Video
    from opensama.world import sample_edit

    loading(model)
    load = Part("loading the model, libraries included")
    with _timed(load):
        editor = settings.load(model, anyway, print)
    pipe = editor.pipeline
    device = pipe._execution_device
    machine = measure_machine(device, pipe.transformer.dtype)
    drawn = sample_edit(0, "test", "recolor", frames=frames, size=(size[1], size[0]))
    text = Part("the instruction to prompt embeddings")
    encode, decode = Part("a window to latents"), Part("latents to a window")
    forward, whole = Part("a forward pass"), Part("the edit, from file to file")
    calls: list[_Call] = []
    with tempfile.TemporaryDirectory() as folder, _watched(editor, text, encode, decode, forward, calls):
        path = Path(folder) / "clip.mp4"
        write_video(Video.from_frames(drawn.source, _FPS), path, on_note=lambda note: None)
        with _timed(whole):
            request = EditRequest(read_video(path), drawn.instruction, steps=steps)
            write_video(editor.edit(request), path.with_name("edited.mp4"), on_note=lambda note: None)
    transformer, call = pipe.transformer, calls[-1]
    passes = len(forward.seconds)
    forward.what += f", {tokens_of(transformer, call):,} tokens; {passes} of them"
    forward.operations = operations_of(editor.entry, transformer, call)
    spent = sum(sum(part.seconds) for part in (text, encode, decode, forward))
    rest = Part("all else: files, full size, the sampler", [whole.seconds[0] - spent])
    return machine, [load, text, encode, forward, decode, rest, whole], transformer, call


def random_passes(
    entry: ModelEntry, settings: LoadSettings, frames: int | None, rounds: int, anyway: bool
) -> tuple[MachineSpeed, list[Part], ModelMixin, _Call]:
    """Forward passes over a model's longest window, or over so many frames, with random weights."""
    import torch
    from accelerate import init_empty_weights

    from opensama import runtime
    from opensama.models.families import find_family
    from opensama.pipeline.peaks import transformer_config, transformer_inputs, window_grid
    from opensama.pipeline.room import GB, memory_of_computer

    device = runtime.pick_device(settings.device)
    dtype = runtime.pick_dtype(settings.dtype, device, entry.defaults.dtype)
    family, config = find_family(entry.family), transformer_config(entry)
    with init_empty_weights():
        model = family.transformer(**config)
    need = sum(p.numel() for p in model.parameters()) * dtype.itemsize
    there = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else memory_of_computer()
    if need > there and not anyway:
        raise UserError(
            f"The weights of {entry.name} take {need / GB:.0f} GB in {dtype_name(dtype)}, and "
            f"{device} has {there / GB:.0f} GB: choose a smaller model or number type."
        )
    fill_randomly(model, dtype, device)
    machine = measure_machine(device, dtype)

    def new(*shape: int, kind: torch.dtype = dtype) -> Tensor:
        drawn = torch.rand(shape, device=device)
        return drawn > 0 if kind == torch.bool else drawn.to(kind)

    batch = transformer_inputs(family, config, window_grid(entry, frames), entry.defaults.max_text_tokens, new)
    call: _Call = (), {**batch, "return_dict": False}
    part = Part(f"a forward pass, {tokens_of(model, call):,} tokens")
    model(**call[1])
    for _ in range(rounds):
        with _timed(part, device):
            model(**call[1])
    part.operations = operations_of(entry, model, call)
    return machine, [part], model, call


def against_diffusers(own: ModelMixin, call: _Call, rounds: int) -> PeerSpeed:
    """The same call of our transformer and of diffusers' over as many tokens, in turns: seconds of each and the ratio.

    The peer has random weights; its clip has one frame of one row of as many tokens as ours has jointly.
    """
    import inspect

    import torch

    kind: type[ModelMixin] = next(
        base for base in type(own).__mro__ if base.__module__.startswith("diffusers.models.transformers")
    )
    sizes = {name: own.config[name] for name in inspect.signature(kind.__init__).parameters if name in own.config}
    joint, (p_t, p_h, p_w) = tokens_of(own, call), own.config["patch_size"]
    if "patch_size_t" in sizes:
        sizes["patch_size"] = p_w  # HunyuanVideo knows square ones
    if "rope_max_seq_len" in sizes:
        sizes["rope_max_seq_len"] = max(joint, sizes["rope_max_seq_len"])
    parameter = next(own.parameters())
    with torch.device("meta"):
        peer = kind(**sizes)
    fill_randomly(peer, own.dtype, parameter.device)
    arguments = dict(zip(inspect.signature(own.forward).parameters, call[0], strict=False)) | call[1]
    taken = {name: arguments[name] for name in inspect.signature(kind.forward).parameters if name in arguments}
    shown = taken["hidden_states"]
    taken["hidden_states"] = torch.randn(shown.shape[0], sizes["in_channels"], p_t, p_h, p_w * joint).to(shown)
    if "encoder_attention_mask" in inspect.signature(kind.forward).parameters:
        text = taken["encoder_hidden_states"]
        taken.setdefault("encoder_attention_mask", torch.ones(text.shape[:2], dtype=torch.bool, device=text.device))
    if sizes.get("guidance_embeds") and taken.get("guidance") is None:
        taken["guidance"] = torch.full_like(taken["timestep"], 1000.0)
    if taken["timestep"].ndim == 2:
        taken["timestep"] = taken["timestep"][:, 0]
    sides = Part("ours"), Part("diffusers")
    runs: tuple[Callable[[], object], ...] = (lambda: own(*call[0], **call[1]), lambda: peer(**taken))
    for run in runs:
        run()
    for _ in range(rounds):
        for part, run in zip(sides, runs, strict=True):
            with _timed(part, parameter.device):
                run()
    ratio = statistics.median(a / b for a, b in zip(*(part.seconds for part in sides), strict=True))
    return {"peer": kind.__name__, "tokens": joint, "seconds": [part.seconds for part in sides], "ratio": ratio}


def measure_machine(device: torch.device, dtype: torch.dtype) -> MachineSpeed:
    """The device, the libraries' versions, and the fastest of a few matrix products and of a few copies."""
    import diffusers
    import torch

    from opensama import __version__

    on_cpu = device.type == "cpu"
    n = 512 if on_cpu else 8192  # some CPUs multiply short numbers slowly
    product, copy = Part("product"), Part("copy")
    while True:
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        product.seconds.clear()
        with _timed(product, device):
            a @ b
        if product.seconds[0] > _LONG or n >= 2048:
            break
        n *= 2
    numbers = torch.zeros(2**26 if on_cpu else 2**28, device=device)
    there = torch.empty_like(numbers)
    for _ in range(4):
        with _timed(product, device):
            a @ b
        with _timed(copy, device):
            there.copy_(numbers)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device} ({platform.machine()})"
    return MachineSpeed(
        name,
        torch.get_num_threads(),
        dtype_name(dtype),
        {"opensama": __version__, "torch": torch.__version__, "diffusers": diffusers.__version__},
        2 * n**3 / min(product.seconds),
        2 * numbers.nbytes / min(copy.seconds),
    )


def say(machine: MachineSpeed, parts: list[Part], peer: PeerSpeed | None) -> None:
    """Prints the table."""
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    print(f"{machine.device}, {os.cpu_count()} CPU cores, {machine.threads} threads, {machine.dtype}; {versions}")
    rate = f"{machine.operations / 1e12:.3g} TFLOP/s in {machine.dtype}"
    print(f"it multiplies large matrices at {rate}, and copies {machine.bytes / 1e9:.3g} GB/s")
    print(f"{'':<56}{'seconds':>9}{'TFLOP/s':>9}{'share':>7}")
    for part in parts:
        seconds = statistics.median(part.seconds)
        line = f"{part.what:<56}{seconds:>9.3g}"
        if part.operations:
            done = part.operations / seconds
            line += f"{done / 1e12:>9.3g}{done / machine.operations:>7.0%}"
        print(line)
    print(f"peak memory: {machine.peak / 1e9:.1f} GB")
    if peer is not None:
        ours, other = (statistics.median(seconds) for seconds in peer["seconds"])
        print(f"{peer['peer']} of diffusers over as many tokens: {other:.3g} s, ours {ours:.3g} s, "
              f"ratio {peer['ratio']:.2f}")  # fmt: skip


def dtype_name(dtype: torch.dtype) -> str:
    """`float32` of `torch.float32`."""
    return str(dtype).removeprefix("torch.")


def tokens_of(transformer: ModelMixin, call: _Call) -> int:
    """Video and semantic tokens of a call, those of the source among them."""
    cell = math.prod(transformer.config["patch_size"])
    given = call[1]
    source = given.get("source_hidden_states")
    streams = [given["hidden_states"], *(source if isinstance(source, list) else [source])]
    tokens = sum(math.prod(stream.shape[-3:]) // cell for stream in streams if stream is not None)
    semantic = given.get("semantic_hidden_states")
    return tokens + (0 if semantic is None else semantic.shape[1])


def operations_of(entry: ModelEntry, transformer: ModelMixin, call: _Call) -> float:
    """Operations of a call by `models/costs.py`: PyTorch's counter leaves out attention on a CPU."""
    from opensama.models.families import find_family

    joint, target = (tokens_of(transformer, (call[0], call[1] | left_out)) for left_out in ({}, _NO_SOURCE))
    semantic = call[1].get("semantic_hidden_states")
    s = 0 if semantic is None else semantic.shape[1]
    cost = find_family(entry.family).sizes.of(transformer.config)
    return sum(cost.operations(joint, call[1]["encoder_hidden_states"].shape[1], s, target - s))


def fill_randomly(model: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
    """Gives a model without memory its weights there: one block of random numbers again and again.

    No one waits for 14 billion. Modules that a model keeps in float32 are.
    """
    import torch

    precise = set(getattr(model, "_keep_in_fp32_modules", None) or ())
    block = 0.02 * torch.randn(2**20, generator=torch.Generator().manual_seed(0)).to(device)
    for name, p in list(model.named_parameters()):
        place, _, own = name.rpartition(".")
        kind = torch.float32 if precise & {*name.split(".")} else dtype
        numbers = torch.empty(p.numel(), dtype=kind, device=device)
        for part in numbers.split(len(block)):
            part.copy_(block[: len(part)])
        setattr(model.get_submodule(place), own, torch.nn.Parameter(numbers.view(p.shape), requires_grad=False))
    for module in model.modules():  # buffers: rotary tables, which ours do not read
        for key, buffer in module._buffers.items():
            if buffer is not None and buffer.is_meta:
                module._buffers[key] = torch.zeros(buffer.shape, dtype=buffer.dtype, device=device)
    model.eval()


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that PyTorch held on a GPU, or the whole process in the computer."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # not on Windows, whose peak is not said

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


@contextmanager
def _timed(part: Part, device: torch.device | None = None) -> Iterator[None]:
    """Adds the seconds of what runs to a part's, to the end of what a GPU still has to do."""
    _wait_for(device)
    began = time.perf_counter()
    yield
    _wait_for(device)
    part.seconds.append(time.perf_counter() - began)


def _wait_for(device: torch.device | None) -> None:
    if device is not None and device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


@contextmanager
def _watched(
    editor: Editor, text: Part, encode: Part, decode: Part, forward: Part, calls: list[_Call]
) -> Iterator[None]:
    """Times the parts of the editor's edits, and keeps the call of its transformer that was the last."""
    pipe = editor.pipeline
    device = pipe._execution_device

    def watched(method: Callable[_P, _R], part: Part) -> Callable[_P, _R]:
        def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            if part is forward:
                calls[:] = [(args, kwargs)]
            with _timed(part, device):
                return method(*args, **kwargs)

        return run

    places = [(pipe, "encode_text", text), (pipe, "encode_video", encode), (pipe, "decode_latents", decode)]
    places += [(one, "forward", forward) for one in pipe.experts]
    before = [(owner, name, vars(owner).get(name)) for owner, name, _ in places]
    for owner, name, part in places:
        setattr(owner, name, watched(getattr(owner, name), part))
    try:
        yield
    finally:
        for owner, name, own in before:
            if own is None:
                delattr(owner, name)
            else:
                setattr(owner, name, own)
