"""What an edit needs of a device's memory: a window is computed on the meta device, and what it allocates counted.

    peak = weights that lie on the device + the most that is allocated beside them at once

A transformer's blocks are alike, so one of each kind is enough. Attention is counted as kernels compute it that never
write its weights out, a norm as a CPU computes it. What a CUDA context takes, and gaps between allocations, are not in
it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from inspect import signature
from math import ceil, prod
from typing import TypedDict

import torch
from accelerate import init_empty_weights
from diffusers import ModelMixin
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from opensama.models.families import find_family, imported
from opensama.models.families.family import Family, TransformerConfig
from opensama.models.float8 import matrices
from opensama.models.layouts import keep_packed
from opensama.models.registry import ModelEntry, find
from opensama.models.rotary import Grid
from opensama.models.weights import TensorFiles
from opensama.pipeline.assemble import EMBEDDED_VAE
from opensama.pipeline.buckets import Placement
from opensama.pipeline.windows import WindowPlan
from opensama.runtime import read_object

META = torch.device("meta")
_BLOCKS = ("num_layers", "num_single_layers", "num_refiner_layers")
_TOO_MUCH = 2**62
_Named = Mapping[str, object]
_CHUNK = 9  # frames after which an autoencoder that goes from group to group of four has met everything


class PeakMemory(TorchDispatchMode):
    """Counts bytes of tensors that are made under it: `peak`, the most at once. `beside` are there before."""

    def __init__(self, *beside: nn.Module):
        super().__init__()
        self.now = self.peak = 0
        self._known = {id_of(tensor) for module in beside for tensor in (*module.parameters(), *module.buffers())}

    def __torch_dispatch__(
        self, func: Callable[..., object], types: object, args: Sequence[object] = (), kwargs: _Named | None = None
    ) -> object:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and id_of(tensor) not in self._known:
                storage = tensor.untyped_storage()
                self._known.add(id_of(tensor))
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._gone, id_of(tensor), storage.nbytes())
        return out

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def id_of(tensor: Tensor) -> int:
    """What tells a tensor's memory from that of all others."""
    return tensor.untyped_storage()._cdata


class _Fused(TorchFunctionMode):
    """Attention that allocates its answer and nothing else."""

    def __torch_function__(
        self, func: Callable[..., object], types: object, args: Sequence[object] = (), kwargs: _Named | None = None
    ) -> object:
        if func is nn.functional.scaled_dot_product_attention:
            query = kwargs["query"] if kwargs and "query" in kwargs else args[0]
            assert isinstance(query, Tensor)
            return torch.empty_like(query)
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class EditMemory:
    """Bytes: of weights by part, and of what is allocated beside them while a window is edited."""

    transformer: int
    transformers: int
    """How many the transformer's weights are divided among; one computes at a time."""
    text_encoders: int
    autoencoder: int
    block: int
    """The weights of the largest block; what is in no block is in `ends`."""
    ends: int
    text_layer: int
    denoising: int
    coding: int
    """The larger of encoding and decoding."""
    coding_tiled: int
    float8: EditMemory | None = None
    """The same with the transformer's matrices in 8 bits; None where they are stored in few bits already."""


class _TransformerMemory(TypedDict):
    transformer: int
    block: int
    denoising: int


def edit_memory(
    entry: ModelEntry,
    dtype: torch.dtype,
    *,
    frames: int | None = None,
    size: tuple[int, int] | None = None,
    tiled_only: bool = False,
) -> EditMemory:
    """Of one window of so many frames and (height, width); by default those of `window_shape`.

    With `tiled_only` the autoencoder is not tried whole, which takes the most time: that then fits nowhere.
    """
    longest, *sides = window_shape(entry)
    plan = WindowPlan.of(frames or longest, entry.defaults.window, entry.defaults.overlap)
    packed = (entry.edit.packed, entry.edit.bits) if entry.edit is not None else ("", 16.0)
    return _edit_memory(entry.name, dtype, plan.length, size or (sides[0], sides[1]), *packed, tiled_only)


def window_shape(entry: ModelEntry, area: int | None = None) -> tuple[int, int, int]:
    """Frames, height and width of a model's longest window, of a film at 16:9, at its own area or another."""
    placement = Placement.of(1920, 1080, area or entry.defaults.area, entry.defaults.multiple)
    return entry.defaults.window, placement.height, placement.width


def window_grid(entry: ModelEntry, frames: int | None = None) -> tuple[int, int, int]:
    """Latent times, rows and columns of a window of so many frames, by default of the longest."""
    longest, height, width = window_shape(entry)
    spatial = _spatial(_autoencoder(entry))
    plan = WindowPlan.of(frames or longest, entry.defaults.window, entry.defaults.overlap)
    return plan.length, ceil(height / spatial), ceil(width / spatial)


@lru_cache(maxsize=32)
def _edit_memory(
    name: str,
    dtype: torch.dtype,
    latent_frames: int,
    size: tuple[int, int],
    packed: str,
    bits: float,
    tiled_only: bool,
) -> EditMemory:
    entry = find(name)
    family = find_family(entry.family)
    config, whole = _transformer(name)
    vae = _autoencoder(entry)
    spatial = _spatial(vae)
    grid = latent_frames, ceil(size[0] / spatial), ceil(size[1] / spatial)
    height, width = grid[1] * spatial, grid[2] * spatial
    words = entry.defaults.max_text_tokens
    numbers = {part: sum(p.numel() for p in module.parameters()) for part, module in (("t", whole), ("v", vae))}
    kept = {f"{name}.weight" for name in matrices(whole)}
    stacks = [(name, child) for name, child in whole.named_children() if isinstance(child, nn.ModuleList)]
    blocks = [(f"{name}.{i}.", block) for name, stack in stacks for i, block in enumerate(stack)]
    in_blocks = [sum(p.numel() for p in block.parameters()) for _, block in blocks]
    kept_in_block = [sum(p.numel() for n, p in b.named_parameters() if at + n in kept) for at, b in blocks]
    in_matrices = sum(p.numel() for n, p in whole.named_parameters() if n in kept)
    text = int(1e9 * sum(gb for part, gb in family.sizes.encoders.items() if part.startswith("text")))
    if entry.folder is not None:
        text = _text_bytes(entry)
    copies = 2 if any("transformer_2/" in name for name in (entry.edit.files if entry.edit else ())) else 1
    width_of = dtype.itemsize

    def transformer(kind: str, bits: float) -> _TransformerMemory:
        """Of its weights with the matrices kept so."""
        saved = (width_of - bits / 8) if kind else 0.0
        block = max(n * width_of - saved * m for n, m in zip(in_blocks, kept_in_block, strict=True))
        return {
            "transformer": copies * round(numbers["t"] * width_of - saved * in_matrices),
            "block": round(block),
            "denoising": peak_of_step(family, config, grid, words, dtype, kind),
        }

    plain = EditMemory(
        **transformer(packed, bits),
        transformers=copies,
        text_encoders=text * width_of // 2,
        autoencoder=numbers["v"] * 4,
        ends=(numbers["t"] - sum(in_blocks)) * width_of,
        text_layer=text * width_of // 2 // 8,  # an embedding of a quarter million words is the largest piece
        coding=_TOO_MUCH if tiled_only else _peak_of_coding(vae, latent_frames, height, width, tiled=False),
        coding_tiled=_peak_of_coding(vae, latent_frames, height, width, tiled=True),
    )
    return plain if packed else replace(plain, float8=replace(plain, **transformer("float8", 8.0)))


def transformer_config(entry: ModelEntry) -> TransformerConfig:
    """All arguments of a model's transformer: its folder's, or those of the base that it was trained from."""
    family = find_family(entry.family)
    if entry.config:
        sizes = dict(entry.config)
    elif entry.folder is not None:
        sizes = read_object(entry.folder / "transformer" / "config.json")
    else:
        assert entry.base is not None
        sizes = dict(family.bases[entry.base.repo].sizes)
    return family.full_config({name: value for name, value in sizes.items() if not name.startswith("_")})


@lru_cache(maxsize=4)
def _transformer(name: str) -> tuple[TransformerConfig, ModelMixin]:
    """A model's transformer on the meta device, and its arguments."""
    entry = find(name)
    config = transformer_config(entry)
    with init_empty_weights():
        return config, find_family(entry.family).transformer(**config)


@lru_cache(maxsize=4)
def _base_autoencoder(family: str) -> ModelMixin:
    """A family's base's, on the meta device."""
    with init_empty_weights():
        return imported(find_family(family).parts["vae"])().eval().to(META)  # its buffers, too


def _autoencoder(entry: ModelEntry) -> ModelMixin:
    """A model folder's own, or its base's, on the meta device."""
    if entry.folder is None:
        return _base_autoencoder(entry.family)
    kind: type[ModelMixin] = imported(find_family(entry.family).parts["vae"])
    folder = entry.holder("vae")
    assert folder is not None
    index = read_object(folder / "model_index.json")["vae"][1]
    if index != kind.__name__:
        kind = imported(EMBEDDED_VAE)
    with init_empty_weights():
        return kind.from_config(read_object(folder / "vae" / "config.json")).eval().to(META)


def _spatial(vae: ModelMixin) -> int:
    config = vae.config
    return int(config["scale_factor_spatial" if "scale_factor_spatial" in config else "spatial_compression_ratio"])


def _text_bytes(entry: ModelEntry) -> int:
    """Of the text encoders in a model's folder, in 16 bits."""
    folder = entry.holder("text_encoder")
    found = folder.glob("text_encoder*/*.safetensors") if folder else ()
    return 2 * sum(prod(info.shape) for file in found for info in TensorFiles(file).infos.values())


@torch.no_grad()
def peak_of_step(
    family: Family, config: TransformerConfig, grid: Grid, text: int, dtype: torch.dtype, packed: str = ""
) -> int:
    """Bytes that the transformer allocates in one forward pass over source and target, its matrices `packed` or not."""
    usual = signature(family.transformer.__init__).parameters
    kinds = [name for name in _BLOCKS if name in usual and config.get(name, usual[name].default)]
    with init_empty_weights():
        model = family.transformer(**config | dict.fromkeys(kinds, 1)).eval().to(META)  # buffers, too
    for name, p in model.named_parameters():
        kept = any(part in name.split(".") for part in getattr(model, "_keep_in_fp32_modules", None) or ())
        p.data = p.data.to(torch.float32 if kept else dtype)
    if packed:
        keep_packed(model, packed, dtype)

    def new(*shape: int, kind: torch.dtype = dtype) -> Tensor:
        return torch.empty(shape, device=META, dtype=kind)

    call = transformer_inputs(family, model.config, grid, text, new)
    with _Fused(), PeakMemory(model) as memory:
        model(**call, return_dict=False)
    return memory.peak


def transformer_inputs(
    family: Family, config: TransformerConfig, grid: Grid, text: int, new: Callable[..., Tensor]
) -> dict[str, object]:
    """Arguments of a forward pass over source and target of so many latent times, rows and columns.

    `new(*shape, kind=dtype)` makes their tensors; without a `kind` they are in the number type of the latents.
    """
    latents = new(1, config["in_channels"], *grid)
    batch = {"noisy": latents, "source": latents.clone(), "sigma": new(1, kind=torch.float32)}
    batch["text"] = new(1, text, config.get("text_dim") or config["text_embed_dim"])
    if not family.pads_text:
        batch |= {"text_mask": new(1, text, kind=torch.bool), "pooled": new(1, config["pooled_projection_dim"])}
    if config.get("semantic_dim"):
        tokens = config["num_anchors"] * config["semantic_tokens_per_anchor"]
        batch["noisy_semantic"] = new(1, tokens, config["semantic_dim"])
    return family.condition(batch)


@torch.no_grad()
def _peak_of_coding(vae: ModelMixin, latent_frames: int, height: int, width: int, *, tiled: bool) -> int:
    """Bytes that the autoencoder allocates to encode a window and to decode it, the larger of the two.

    What it holds of each frame grows with their number, the rest does not, so a few frames tell; tiles are alike.
    """
    frames, worked = 4 * (latent_frames - 1) + 1, (height, width)
    if tiled:
        sides = (getattr(vae, f"tile_sample_min_{side}", 256) for side in ("height", "width"))
        worked = min(height, next(sides)), min(width, next(sides))
    few = min(frames, 1 + getattr(vae, "tile_sample_min_num_frames", _CHUNK - 1))
    peak = _peak_of_frames(vae, few, worked)
    whole, part = frames * height * width, few * worked[0] * worked[1]
    return peak + (whole - part) * 3 * 4 * 2  # the frames so far, and once more as they are joined


@lru_cache(maxsize=32)
@torch.no_grad()
def _peak_of_frames(vae: ModelMixin, frames: int, size: tuple[int, int]) -> int:
    """Bytes that the autoencoder allocates to encode so many frames of a size, and to decode them, the larger."""
    spatial, channels = _spatial(vae), vae.config["z_dim" if "z_dim" in vae.config else "latent_channels"]
    pixels = torch.empty(1, 3, frames, *size, device=META)
    z = torch.empty(1, channels, (frames - 1) // 4 + 1, *(side // spatial for side in size), device=META)
    peaks = []
    for call in (lambda: vae.encode(pixels).latent_dist.mode(), lambda: vae.decode(z).sample):
        with _Fused(), PeakMemory(vae) as memory:
            call()
        peaks.append(memory.peak)
    return max(peaks)
