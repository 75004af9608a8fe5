"""What is said of a family of editors: its classes, how its weights are named, how it is asked, and what it costs.

A file of this folder describes one family as `FAMILY`. Nobody else asks for a family's name. Classes are named by their
module and imported when they are first used, so that looking through the families is instant.

One table a family, released module or parameter on the left, ours on the right; * is a block's number. Several on the
right are rows of one released tensor, one after the other; `name[1]` is the second half of ours, `name[0]` the first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from opensama.models.costs import Sizes, TransformerConfig
from opensama.models.defaults import Defaults
from opensama.values import UserError
from opensama.values.names import SemanticRotary

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
    from torch import Tensor, nn

Shapes = Mapping[str, tuple[int, ...]]
Names = tuple[tuple[str, str | tuple[str, ...]], ...]
Call = dict[str, "Tensor"]
"""Keyword arguments of a transformer's call."""


class EmbeddedSettings(Protocol):
    """What an embedded model's settings say of its transformer (`training/embedded_config.py`)."""

    width: int
    head: int
    layers: int
    joint_layers: int
    latent_channels: int
    text_width: int
    semantic_width: int
    semantic_rotary: SemanticRotary | None
    color_rank: int
    color_shapes: int
    frame_waves: int


def on_source(settings: EmbeddedSettings) -> dict[str, object]:
    """An embedded transformer's arguments for the parts of `models/source_gate.py`."""
    parts = {"color_rank": settings.color_rank, "color_shapes": settings.color_shapes}
    return {"source_gate": True, **parts, "frame_waves": settings.frame_waves}


def draw_on_source(config: TransformerConfig) -> dict[str, nn.Module]:
    """Those of these parts that a transformer has, with fresh weights, which change nothing yet."""
    from opensama.models.source_gate import parts_on_source

    d = config["num_attention_heads"] * config["attention_head_dim"]
    sizes = config["color_rank"], config["color_shapes"], config["frame_waves"]
    names, parts = ("frame_position", "local_color"), parts_on_source(d, config["out_channels"], *sizes)
    return {name: part for name, part in zip(names, parts, strict=True) if part is not None}


class Rows(NamedTuple):
    """Rows `start` to `stop` of a tensor."""

    name: str
    start: int
    stop: int


class Base(NamedTuple):
    """Sizes of a base model that recipes name, so that a plan needs no download, and pixels of a latent cell's side."""

    sizes: Mapping[str, object] = {}
    spatial: int = 8


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family of editors. Classes are written `module:Class`.

    `condition(batch, **kwargs)` gives the arguments of the transformer's call for a batch of training: `noisy`
    [b c t h w], `sigma` [b], and as far as it has them `source`, `text` [b l d], `text_mask` [b l], `pooled` [b d],
    `noisy_semantic` [b s e], `source_places` and `target_places` [b n 3]. `prompt(batch, **kwargs)` gives those of
    the text alone; the keyword arguments are the settings' `condition_kwargs`.
    """

    name: str
    transformer_class: str
    pipeline_class: str
    lora_loader: str
    """diffusers' class that writes LoRA files for the family's base."""
    names: Names
    config: Callable[[Shapes, dict[str, object]], dict[str, object]]
    """Tensor shapes and given sizes -> the transformer's arguments."""
    embedded: Callable[[EmbeddedSettings], dict[str, object]]
    """Settings of an embedded model -> its transformer's arguments."""
    sizes: type[Sizes]
    condition: Callable[..., dict[str, object]]
    prompt: Callable[..., Call]
    parts: Mapping[str, str]
    """What the pipeline takes from its base, and the classes that read it."""
    bases: Mapping[str, Base] = field(default_factory=dict)
    start: str
    """What `model.start` calls the base's text-to-video weights."""
    added: tuple[str, ...] = ()
    """Modules that the transformer has and its base has not."""
    draw_added: Callable[[TransformerConfig], dict[str, nn.Module]] = lambda config: {}
    """The transformer's config -> these modules with fresh weights."""
    free: tuple[str, ...] = ()
    """Arguments of the transformer that cost no tensor."""
    comfy_names: Names = ()
    """What files for ComfyUI, LoRAs among them, call its layers, where that is not `names`."""
    comfy_spelling: tuple[tuple[str, str], ...] = ()
    """Patterns of what ComfyUI calls things inside, as it saves a model itself, and what of `comfy_names` they are."""
    gguf_architecture: str = ""
    """What GGUF files call the base; without a name none are written."""
    lora_targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2")
    defaults: Defaults = field(default_factory=Defaults)
    scheduler: str = "diffusers:FlowMatchEulerDiscreteScheduler"
    """The class that its released weights are sampled with."""
    tasks: Mapping[str, str] = field(default_factory=dict)
    """What goes before a prompt, by the name of an edit's task, where the model was trained with such words."""
    prompt_guide: str = (
        "It takes one imperative sentence or two that say what to add, remove, replace or change, and name each thing"
        " by how it looks or where it is, so that it is found."
    )
    """How to write for it, for who rewrites instructions (`pipeline/enhance.py`)."""
    takes_references: bool = False
    """Whether pictures may be given beside the video."""
    text_half: str = "bfloat16"
    """Number type of the text encoders where the rest computes in bfloat16."""
    pads_text: bool = False
    """Whether the transformer sees the places past a text's end, too; else it reads a mask, and a pooled vector."""
    recipe: str = "tiny"
    """The recipe of `opensama train tiny` that makes its embedded model."""
    stages: tuple[str, ...] = ("images", "videos")
    """The stages of that recipe; without `autoencoder`, the embedded SAMA's frozen parts are taken as they are."""

    @property
    def transformer(self) -> type[ModelMixin]:
        """The transformer's class, imported when it is first used."""
        return imported(self.transformer_class)

    @property
    def pipeline(self) -> type[DiffusionPipeline]:
        """The pipeline's class, imported when it is first used."""
        return imported(self.pipeline_class)

    def scheduler_at(self, shift: float) -> SchedulerMixin:
        """The scheduler that its released weights are sampled with, at a shift."""
        kind = imported(self.scheduler)
        return kind(**{name: shift for name in ("shift", "flow_shift") if name in signature(kind).parameters})

    @property
    def pipeline_name(self) -> str:
        """The pipeline's class in a folder's model_index.json."""
        return self.pipeline_class.partition(":")[2]

    @property
    def command(self) -> str:
        """The command that trains its embedded model."""
        return "opensama train tiny" + ("" if self.recipe == "tiny" else f" --recipe {self.recipe}")

    def full_config(self, sizes: Mapping[str, Any]) -> TransformerConfig:
        """Sizes with the transformer's own defaults filled in."""
        from accelerate import init_empty_weights

        defaults = {name: given.default for name, given in signature(self.transformer.__init__).parameters.items()}
        layers = {name: sizes.get(name, defaults[name]) for name in defaults if name.endswith("layers")}
        with init_empty_weights():  # one layer shows as well as all that the sizes fit together
            model = self.transformer(**{**sizes, **{name: min(1, count) for name, count in layers.items()}})
        own = {name: value for name, value in dict(model.config).items() if not name.startswith("_")}
        return cast(TransformerConfig, own | layers)

    def is_added(self, name: str) -> bool:
        """Whether the transformer has the tensor of that name and its base has not."""
        return name.split(".")[0] in self.added

    def from_comfy(self, key: str) -> str | None:
        """The released name of a tensor that a file for ComfyUI calls `key`, None for one that the family has not."""
        if self.to_ours(key) or self.is_added(key) or (not self.names and self._comfy.to_released(key)):
            return key
        spelled = key
        for theirs, inside in self.comfy_spelling:
            spelled = re.sub(theirs, inside, spelled)
        if self.to_ours(spelled):
            return spelled
        ours = self._comfy.to_ours(spelled) if self.comfy_names else ()
        return (self.to_released(ours[0]) or ours[0]) if len(ours) == 1 else None

    @property
    def _comfy(self) -> Family:
        return replace(self, names=self.comfy_names or self.names)

    def to_ours(self, key: str) -> tuple[str, ...]:
        """Our names of a released tensor's rows, in their order; empty if the table has none."""
        return rename(key, {released: as_tuple(ours) for released, ours in self.names})

    def to_released(self, key: str) -> str | None:
        """The released name of the tensor that holds one of ours, None if the table has none."""
        table = {part.partition("[")[0]: (released,) for released, ours in self.names for part in as_tuple(ours)}
        return next(iter(rename(key, table)), None)

    def comfy_layout(self, ours: Shapes) -> dict[str, list[Rows]]:
        """`layout`, by the names in files for ComfyUI."""
        return self._comfy.layout(ours)

    def layout(self, ours: Shapes) -> dict[str, list[Rows]]:
        """Every released tensor that a model of these shapes has, as rows of ours one after the other.

        A tensor that the table does not know keeps its name.
        """
        out: dict[str, list[Rows]] = {}
        for name in ours:
            released = self.to_released(name) or name
            if released not in out:
                out[released] = [_rows(part, ours) for part in self.to_ours(released) or (name,)]
        return out


@cache
def imported(name: str) -> type:
    """The class that is written `module:Class`."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def as_tuple(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def _rows(part: str, shapes: Shapes) -> Rows:
    """`name` or `name[half]` as rows."""
    name, _, half = part.partition("[")
    size = shapes[name][0] if shapes[name] else 1
    if not half:
        return Rows(name, 0, size)
    return Rows(name, 0, size // 2) if half == "0]" else Rows(name, size // 2, size)


def rename(key: str, table: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """`key` with its module's name looked up in `table`; a block's number and the parameter's name stay."""
    number = re.search(r"blocks\.(\d+)\.", key)
    pattern = f"{key[: number.start(1)]}*{key[number.end(1) :]}" if number else key
    module, _, parameter = pattern.rpartition(".")
    if pattern in table:
        names = table[pattern]
    elif module in table and parameter in ("weight", "bias"):
        names = tuple(
            f"{name}.{parameter}" if name[-1] != "]" else f"{name[:-3]}.{parameter}{name[-3:]}"
            for name in table[module]
        )
    else:
        return ()
    return tuple(name.replace("*", number[1]) for name in names) if number else names


def known_sizes(sizes: dict[str, object], model: type[ModelMixin], released: Collection[str]) -> dict[str, Any]:
    """A copy of the sizes, all of which are names that were released or the model's own."""
    known = {*released, *signature(model.__init__).parameters} - {"self"}
    for key in sizes:
        if key not in known:
            raise UserError(f"{key!r} is no size of a {model.__name__}: remove it from `config`.")
    return dict(sizes)


def width_and_heads(sizes: dict[str, Any], d: int, name: str) -> tuple[int, int]:
    """The width and the number of heads, taken out of the sizes; heads of 128 where nothing is said."""
    heads = sizes.pop(name, sizes.pop("num_attention_heads", None))
    if heads is None:
        if d % 128:
            raise UserError(f"The number of heads is unknown for width {d}: give it as {name} in `config`.")
        heads = d // 128
    if d % heads:
        raise UserError(f"Width {d} does not split into {heads} heads: mend the width or {name} in `config`.")
    return d, heads


def depth(shapes: Shapes, blocks: str) -> int:
    """How many numbered blocks of that name the tensors have."""
    numbers = (re.match(rf"{re.escape(blocks)}\.(\d+)\.", key) for key in shapes)
    return max((int(number[1]) for number in numbers if number), default=-1) + 1
