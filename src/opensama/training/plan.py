"""What a run will cost before it begins: parameters, tokens, operations, memory, hours and price.

Operations are those of `models/costs.py`.
Memory: fp32 weights, gradients, two moments and the average are sharded; then activations, gathered blocks, encoders.
These are predictions. What was measured stands in docs/train.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, prod
from pathlib import Path

from accelerate import init_empty_weights
from torch import nn

from opensama.data.samples import BatchSampler, Shape, ShapeIndex
from opensama.models.costs import INPUT_BYTES, TransformerConfig, training_flops
from opensama.models.families import find_family
from opensama.models.lora import count_lora
from opensama.models.parallel import blocks
from opensama.models.registry import part_folder
from opensama.models.weights import TensorFiles
from opensama.pipeline.buckets import buckets
from opensama.training.config import DataSettings, EditConfig, MeshSettings
from opensama.values import UserError, how_many

ENCODER_TFLOPS = 120.0  # 3D convolutions reach less than matrices do: published figures lie between 70 and 180
PIXEL_BYTES = 12  # of one that is read: three numbers in float32


@dataclass(frozen=True)
class Plan:
    """What a run is predicted to take; sizes in gigabytes (10^9 bytes), times in seconds."""

    parameters: int
    trained: int
    gpus: int
    passes: int
    tokens: float  # a step
    flops: float  # a step
    memory: Mapping[str, float]  # gigabytes a GPU, by what for
    loading: tuple[float, float]  # gigabytes of a GPU, and of host memory for a process, at the peak of loading
    ahead: float  # gigabytes of host memory for a process: pixels that are read ahead
    available: float
    seconds: float  # a step
    encoding: float  # of these, for encoding in the step
    steps: int
    price: float  # a GPU and hour

    @property
    def gigabytes(self) -> float:
        """Memory of a GPU, all parts together."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        """Whether a GPU has that much."""
        return self.gigabytes <= self.available

    @property
    def hours(self) -> float:
        return self.steps * self.seconds / 3600

    @property
    def dollars(self) -> float:
        return self.hours * self.gpus * self.price

    def table(self) -> str:
        """The prediction as text, a quantity a line with its unit."""
        share = "" if self.trained == self.parameters else f", {self.trained / 1e6:,.1f} M of them trained"
        rows = {
            "parameters": f"{self.parameters / 1e9:.3g} B{share}",
            "passes a step": f"{self.passes} on each group of GPUs that shares a sample",
            "tokens a step": f"{self.tokens / 1e6:.3g} M",
            "FLOPs a step": f"{self.flops / 1e15:,.3g} PF",
            "memory a GPU": f"{self.gigabytes:.1f} GB of {self.available:g}{'' if self.fits else '  DOES NOT FIT'}",
            **{f"  {name}": f"{size:.1f} GB" for name, size in self.memory.items()},
            "while it loads": f"{self.loading[0]:.1f} GB a GPU, {self.loading[1]:.2g} GB of host memory a process",
            **({"host memory": f"{self.ahead:.1f} GB a process for pixels read ahead"} if self.ahead else {}),
            "a step": f"{self.seconds:,.1f} s on {self.gpus} GPUs"
            + (
                f", {self.encoding:,.1f} s of them encoding (latents made beforehand save them)"
                if self.encoding
                else ""
            ),
            "all": f"{self.steps:,} steps, {self.hours:,.0f} hours, {self.hours * self.gpus:,.0f} GPU-hours",
            **(
                {}
                if self.fits
                else {"to fit": "more GPUs, mesh.context, latents made beforehand, or a smaller data.video_batch"}
            ),
            "price": f"${self.dollars:,.0f} at ${self.price:g} a GPU-hour",
        }
        wide = max(map(len, rows))
        return "\n".join(f"{name:<{wide}}  {value}" for name, value in rows.items())


def make_plan(
    config: EditConfig,
    model: TransformerConfig,
    shapes: Sequence[Shape],
    *,
    spatial: int = 8,
    gpus: int | None = None,
    nominal: bool = False,
) -> Plan:
    """The plan of a run on data of these shapes, with a transformer of this config; `nominal` ones say no length.

    Operations are of the mean sample, memory of the longest. UserError where GPUs, batches or heads do not divide.
    """
    sizes, gpus = find_family(config.family).sizes.of(model, spatial), gpus or config.machine.gpus
    data, mesh = config.data, config.mesh
    shard = mesh.shard or gpus // mesh.replicate
    check_mesh(mesh, model["num_attention_heads"], gpus)
    readers = gpus // mesh.context
    anchoring = config.anchoring

    passes, tokens, flops, encoding, longest, epoch, ahead = 0, 0.0, 0.0, 0.0, 0, 0, 0
    for kind, a_step, batch in (("image", data.images, data.image_batch), ("video", data.videos, data.video_batch)):
        if not a_step:
            continue
        of_kind = {shape: n for shape, n in ShapeIndex.among(shapes).counts().items() if shape.kind == kind}
        if not of_kind:
            raise UserError(
                f"The data has no {kind}s, but {a_step} are wanted a step: add some, or set data.{kind}s=0."
            )
        passes += count_passes(kind, a_step, batch, readers)
        epoch = max(epoch, BatchSampler(shapes, kind, batch, 0).steps(a_step))  # type: ignore[arg-type]
        joints, costs, pixels, number = [], [], [], sum(of_kind.values())
        for shape in of_kind:
            semantic = 0
            if anchoring is not None:
                most = (shape.frames - 1) // sizes.temporal + 1
                semantic = anchoring.tokens_per_anchor * min(anchoring.anchors, most)
            target, source = (sizes.tokens(t, shape.height, shape.width) for t in (shape.frames, shape.source_frames))
            joints.append(source + semantic + target)
            costs.append(training_flops(sizes, joints[-1], data.text_tokens, semantic=semantic, full=not config.lora))
            pixels.append((shape.frames + shape.source_frames) * shape.width * shape.height)
        tokens += a_step * sum(n * c for n, c in zip(joints, of_kind.values(), strict=True)) / number
        flops += a_step * sum(n * c for n, c in zip(costs, of_kind.values(), strict=True)) / number
        mean = sum(n * c for n, c in zip(pixels, of_kind.values(), strict=True)) / number
        own = ceil(batch / mesh.context)  # samples that a process reads and encodes, where others share the batch
        encoding += a_step * (sizes.vae_flops * mean + sizes.text_flops) * own * mesh.context / batch
        ahead = max(ahead, own * max(pixels) * PIXEL_BYTES * (config.machine.workers + 1))
        longest = max(longest, batch * max(joints))

    parameters, trained, block, depth = count_parameters(config, model)
    kept = {"none": sizes.block_bytes, "selective": sizes.selective_bytes, "full": INPUT_BYTES}[mesh.checkpointing]
    share = longest / mesh.context * sizes.d / 1e9
    gathered = 4 if mesh.compile or config.compute == "float32" else 2  # bytes, see `parallel.shard`
    weights = parameters * (2 if config.lora else 4) + (trained * 4 if config.lora else 0)
    memory = {
        "weights": weights / shard / 1e9,
        "gradients, moments, average": trained * 16 / shard / 1e9,
        "gathered blocks": 2 * block * gathered / 1e9 if shard > 1 else 0.0,
        "kept activations": share * kept * depth,
        "one block at work": share * sizes.block_bytes,
    }
    beside = frozen_memory(config)
    memory |= beside
    loading, host = loading_memory(config, model, shard)
    epochs = config.optimizer.epochs
    steps = config.optimizer.steps if epochs is None or nominal else ceil(epochs * epoch)
    seconds_encoding = 0.0 if data.latents else encoding / (gpus * ENCODER_TFLOPS * 1e12)
    return Plan(
        parameters=parameters,
        trained=trained,
        gpus=gpus,
        passes=passes,
        tokens=tokens,
        flops=flops,
        loading=(loading + sum(beside.values()), max(host, *beside.values(), 0.0)),
        ahead=0.0 if data.latents else ahead / 1e9,
        memory={name: size for name, size in memory.items() if size},
        available=config.machine.memory,
        seconds=flops / (gpus * config.machine.tflops * 1e12) + seconds_encoding,
        encoding=seconds_encoding,
        steps=steps,
        price=config.machine.price,
    )


def loading_memory(config: EditConfig, model: Mapping[str, object], shard: int) -> tuple[float, float]:
    """Gigabytes of a GPU and of the host that a process takes at most while the transformer is loaded.

    On the GPU its shards of all weights; on the host its rows of one tensor, in float32 at most, and what is not in the
    files: modules that are new to the base, or all of random weights.
    """
    family = find_family(config.family)
    sizes = {name: p.numel() for name, p in _empty_transformer(config, model).named_parameters()}
    added = sum(n for name, n in sizes.items() if family.is_added(name))
    drawn = {"nothing": sum(sizes.values()), family.start: added}
    width = 2 if config.lora and config.compute == "bfloat16" else 4
    host = max(sizes.values()) * 4 / shard + drawn.get(config.model.start, 0) * 4
    return sum(sizes.values()) * width / shard / 1e9, host / 1e9


def frozen_memory(config: EditConfig) -> dict[str, float]:
    """Gigabytes of the models beside the transformer, on a GPU, by name; each comes through host memory once.

    Those that encode in the step, where latents are not cached, and what previews decode with. Text encoders lie there
    in half precision, the others in float32. Folders are counted, of a hub repository the usual sizes are given.
    """
    base, anchoring = Path(config.model.base).expanduser(), config.anchoring
    out = dict(find_family(config.family).sizes.encoders)
    texts = sum(count_numbers(part_folder(base, part)) for part in ("text_encoder", "text_encoder_2"))
    found = {name: texts * 2 for name in out if name.startswith("text")}
    found["autoencoder"] = count_numbers(part_folder(base, "vae")) * 4
    if anchoring is None or anchoring.encoder is None:
        out.pop("image encoder", None)
    else:
        found["image encoder"] = count_numbers(Path(anchoring.encoder).expanduser(), "vision_model.") * 4
    out |= {name: size / 1e9 for name, size in found.items() if size}
    previews = {"autoencoder of previews": out["autoencoder"]} if config.preview_every else {}
    return (out if config.data.latents is None else {}) | previews


def count_numbers(folder: Path, only: str = "") -> int:
    """How many numbers the tensors in a folder hold; of those that begin with `only`, where some do. 0: no folder."""
    if not any(folder.glob("*.safetensors")):
        return 0
    infos = TensorFiles(folder).infos
    names = [name for name in infos if name.startswith(only)] or list(infos)
    return sum(prod(infos[name].shape) for name in names)


def count_passes(kind: str, a_step: int, batch: int, world: int) -> int:
    """Passes of one process that make the step's images or videos. UserError where they do not divide."""
    count, rest = divmod(a_step, batch * world)
    if rest:
        raise UserError(
            f"{how_many(a_step, kind)} a step do not split over {how_many(world, 'data group')} in batches of {batch}: "
            f"set data.{kind}s to a multiple of {batch * world}, or change data.{kind}_batch."
        )
    return count


def check_mesh(mesh: MeshSettings, heads: int, gpus: int) -> None:
    """UserError unless so many processes make the mesh."""
    shard = mesh.shard or gpus // mesh.replicate
    if shard * mesh.replicate != gpus:
        raise UserError(
            f"{gpus} GPUs are no mesh of {mesh.replicate} x {mesh.shard or 'any'}: set mesh.replicate and mesh.shard "
            "so that their product is the number of GPUs."
        )
    if gpus % mesh.context or heads % mesh.context:
        raise UserError(
            f"mesh.context={mesh.context} must divide both the {gpus} GPUs and the model's {heads} attention heads."
        )


def count_parameters(config: EditConfig, model: Mapping[str, object]) -> tuple[int, int, int, int]:
    """Parameters in all, trained ones, and those of the largest block; and the number of blocks."""
    empty = _empty_transformer(config, model)
    every = sum(p.numel() for p in empty.parameters())
    each = [sum(p.numel() for p in block.parameters()) for block in blocks(empty)]
    trained = sum(p.numel() for p in empty.parameters() if p.requires_grad)
    if config.lora is not None:
        new = config.model.start == find_family(config.family).start
        trained = count_lora(empty, config.lora.rank, config.lora.targets, also_new=new)
    return every, trained, max(each), len(each)


def _empty_transformer(config: EditConfig, model: Mapping[str, object]) -> nn.Module:
    """Without weights, and made once: to set up a thousand empty tensors takes seconds."""
    return _made_empty(config.family, json.dumps(dict(model)))


@lru_cache(maxsize=4)
def _made_empty(family: str, model: str) -> nn.Module:
    with init_empty_weights():
        return find_family(family).transformer(**json.loads(model))


def nominal_shapes(data: DataSettings) -> list[Shape]:
    """The shapes to plan with where no data is given: the widest bucket, an image, and a video of full length."""
    width, height = buckets(data.area, data.multiple)[0]
    return [Shape(width, height, 1, 1), Shape(width, height, data.frames, data.frames)]
