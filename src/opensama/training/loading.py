"""The transformer that a run begins from, on the meta device, and how its weights come into it, shard by shard.

wan, hunyuan    the base's weights under its own names: text-to-video ones, or Bernini-R's, which has Wan's names. For
                SAMA a zero type embedding and fresh semantic modules besides; ICVE and Bernini have nothing more.
                Before the first step the target's velocity is the one that the base gives with the source's tokens
                beside it; with semantic tokens, too, where `model.semantic_gate` reads them apart.
sama, icve, ..  trained weights: a released file, a transformer's folder as `opensama train` leaves it, or a checkpoint
                of a run (its averaged weights)
nothing         random weights

    initial = initial_transformer(config)          no number of the weights is in memory yet
    model = parallelise(initial.model, mesh)       cut, and room made for this process's shards
    initial.fill(model)                            reads from the files the rows of its shards, tensor by tensor

So a process holds its share of the weights and, beside it, its rows of one tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import init_empty_weights
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from opensama import runtime
from opensama.models.convert import check_tensors, released_and_rows
from opensama.models.costs import TransformerConfig
from opensama.models.families import Base, Family, find_family
from opensama.models.lora import add_lora, weights_of
from opensama.models.registry import part_folder
from opensama.models.tiny import PatchAutoencoder
from opensama.models.weights import TensorFiles
from opensama.training import checkpoint
from opensama.training.config import EditConfig, StartSettings
from opensama.training.frozen import base_folder
from opensama.values import UserError

_Rows = Callable[[str, int, int], Tensor]
"""Rows, from one to before another, of a tensor by its name in the model; a tensor without rows is whole."""


@dataclass(frozen=True)
class InitialTransformer:
    """A transformer on the meta device, and what fills it once there is room."""

    model: ModelMixin
    fill: Callable[[ModelMixin], None]


def initial_transformer(config: EditConfig) -> InitialTransformer:
    """The transformer that the settings name, in float32 (in bfloat16 what low-rank training leaves as it is)."""
    sizes, family, start = sizes_of(config), config.family, config.model.start

    def base() -> Path:
        return base_folder(config.model.base, ("transformer/*",)) / "transformer"

    if start == "nothing":
        found = from_nothing(sizes, family, config.seed)
    elif start == family:
        found = from_trained(config.model.weights or base(), sizes, config.sizes, family)
    else:
        found = from_base(base(), sizes, family, config.seed)
    if start != family:
        found = _with_planes(found, config.model.base)
    model = found.model
    ordered = config.anchoring is not None and config.anchoring.order == "global_first"
    if ordered and model.config["semantic_rotary"] == "grid":
        raise UserError(
            "The weights have semantic_rotary grid, and semantic.order global_first has no grid positions: set "
            "semantic.order=local_first, or model.semantic_rotary=zero."
        )
    model.train()
    if config.lora is None:
        return found
    if config.compute == "bfloat16":
        nn.Module.to(model, torch.bfloat16)  # diffusers' own warns
        precise = set(model._keep_in_fp32_modules or ())
        for name, p in model.named_parameters():
            if precise & {*name.split(".")}:
                p.data = p.data.float()
    from_base_weights = start == find_family(family).start
    with torch.device("meta"):
        add_lora(model, config.lora.rank, config.lora.alpha, config.lora.targets, also_new=from_base_weights)
    for p in model.parameters():
        if p.requires_grad:
            p.data = p.data.float()

    def fill(filled: ModelMixin) -> None:
        fill_low_rank(filled, config.seed)
        found.fill(filled)

    return InitialTransformer(model, fill)


def sizes_of(config: EditConfig) -> dict[str, object]:
    """The arguments that make the transformer which the settings name. UserError if its sizes are not known."""
    family, model, known = config.family, config.model, find_family(config.family).bases
    if model.weights is not None and model.start != family:
        raise UserError(
            f"model.weights names {family.upper()} weights, but model.start is {model.start}, which begins "
            f"without them: set model.start={family}, or leave model.weights away."
        )
    folder = Path(model.base).expanduser()
    sizes: Mapping[str, object]
    if model.own_sizes is not None:
        sizes = model.own_sizes
    elif folder.is_dir():
        sizes = runtime.read_object(folder / "transformer" / "config.json")
    elif model.base in known:
        sizes = known[model.base].sizes
    else:
        raise UserError(
            f"There is no folder {model.base}, and the sizes of a repository of that name are not known here: "
            f"download it and set model.base to its folder, or choose {', '.join(known)}."
        )
    return {key: value for key, value in sizes.items() if key[0] != "_"} | config.sizes


def full_config(sizes: dict[str, object], family: str = "sama") -> TransformerConfig:
    """Sizes with the model's own defaults filled in. UserError for those that make no model."""
    try:
        return find_family(family).full_config(sizes)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise UserError(f"These settings make no {family.upper()} transformer: {error}.") from None


def spatial_of(family: str, base: str) -> int:
    """Pixels of a latent cell's side: as the base's autoencoder says, else as its family knows the base."""
    vae = part_folder(Path(base).expanduser(), "vae") / "config.json"
    if vae.is_file():
        sizes = runtime.read_object(vae)
        return int(sizes.get("scale_factor_spatial") or sizes.get("spatial_compression_ratio") or 8)
    return find_family(family).bases.get(base, Base()).spatial


def missing_start(family: str, model: StartSettings) -> str:
    """What to say where the settings want trained weights, name none, and the base has none; else nothing."""
    if model.weights is not None or model.start != family:
        return ""
    file = Path(model.base).expanduser() / "transformer" / "config.json"
    own = file.is_file() and runtime.read_object(file).get("_class_name") == find_family(family).transformer.__name__
    if own or (model.base not in find_family(family).bases and not file.is_file()):
        return ""
    return (
        f"This recipe goes on from trained {family.upper()} weights, and {model.base} has none: name them with "
        f"model.weights (the first stage's RUN/model, a checkpoint of it, or a released file), or begin from the "
        f"base's with model.start={find_family(family).start}."
    )


def fill_rows(model: nn.Module, rows: _Rows, names: Callable[[str], bool] = lambda name: True) -> None:
    """Writes into this process's shards of the model's tensors, those whose names are wanted, their rows."""
    with torch.no_grad():
        for name, p in weights_of(model).items():
            own, first, stop = _own_rows(p)
            if stop > first and names(name):
                own.copy_(rows(name, first, stop))


def fill_low_rank(model: nn.Module, seed: int) -> None:
    """A as peft draws it, B zero; the same on every process, however the matrices are cut."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if ".lora_" not in name:
                continue
            whole = torch.zeros(p.shape)
            if ".lora_A." in name:
                nn.init.kaiming_uniform_(whole, a=5**0.5, generator=g)
            own, first, stop = _own_rows(p)
            own.copy_(whole[first:stop])


def _own_rows(p: Tensor) -> tuple[Tensor, int, int]:
    """This process's shard of a parameter, and the rows of the whole that it is."""
    if not isinstance(p, DTensor):
        return p, 0, p.shape[0] if p.ndim else 1
    shape, offset = compute_local_shape_and_global_offset(p.shape, p.device_mesh, p.placements)
    return p.to_local(), offset[0], offset[0] + shape[0]


def rows_of(tensors: Mapping[str, Tensor]) -> _Rows:
    """Reads rows of tensors that are in memory, as `fill_rows` asks for them."""
    return lambda name, first, stop: tensors[name][first:stop] if tensors[name].ndim else tensors[name]


def from_nothing(sizes: dict[str, object], family: str, seed: int) -> InitialTransformer:
    """Random weights: each process draws all of them, so this is for models that fit."""

    def fill(model: ModelMixin) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            drawn = find_family(family).transformer(**full_config(sizes, family))
        fill_rows(model, rows_of(drawn.state_dict()))

    return InitialTransformer(_empty(sizes, family), fill)


def _with_planes(found: InitialTransformer, base: str) -> InitialTransformer:
    """Weights that begin without them get the planes that local colours are said in, from the base's autoencoder."""
    if not found.model.config.get("color_rank"):
        return found
    folder = part_folder(base_folder(base, ("vae/*",)), "vae")
    kind = runtime.read_object(folder / "config.json").get("_class_name")
    if kind != PatchAutoencoder.__name__:
        raise UserError(
            f"The transformer of {base} draws local colours, and its {kind} has no colour planes to begin them with: "
            f"go on with its trained weights (model.start=sama), or take an embedded model as base."
        )

    def fill(filled: ModelMixin) -> None:
        found.fill(filled)
        filled.local_color.read_autoencoder(PatchAutoencoder.from_pretrained(folder, torch_dtype=torch.float32))

    return InitialTransformer(found.model, fill)


def _empty(sizes: dict[str, object], family: str) -> ModelMixin:
    with init_empty_weights():
        return find_family(family).transformer(**full_config(sizes, family))


def from_base(folder: Path, sizes: dict[str, object], family: str = "sama", seed: int = 0) -> InitialTransformer:
    """A transformer that holds its base's weights and nothing yet of its own."""
    files, row, model = TensorFiles(folder), find_family(family), _empty(sizes, family)
    if any(row.is_added(name) for name in files):
        raise UserError(
            f"{folder} holds {family.upper()} weights already: set model.start={family} to go on with them."
        )
    expected = {name: tuple(p.shape) for name, p in model.state_dict().items() if not row.is_added(name)}
    check_tensors(expected, files.shapes, str(folder))

    def fill(filled: ModelMixin) -> None:
        fill_rows(filled, files.rows, lambda name: not row.is_added(name))
        fill_rows(filled, rows_of(added_tensors(row, filled.config, seed)), row.is_added)

    return InitialTransformer(model, fill)


def added_tensors(family: Family, config: TransformerConfig, seed: int) -> dict[str, Tensor]:
    """What a transformer has beyond its base, drawn by the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = family.draw_added(config)
    return {f"{part}.{name}": tensor for part, module in parts.items() for name, tensor in module.state_dict().items()}


def from_trained(
    path: Path, sizes: dict[str, object], chosen: dict[str, object], family: str = "sama"
) -> InitialTransformer:
    """Trained weights, of a released file, a transformer's folder or a run's checkpoint.

    Of what costs no tensor (rotary positions, the source's time, anchors) the weights' own holds, unless `chosen`.
    """
    path = path.expanduser()
    if (path / "model_index.json").is_file():
        path = path / "transformer"
    if (path / checkpoint.STATE).is_file():
        return from_checkpoint(path, sizes, chosen, family)
    config_file = path / "config.json"
    if not config_file.is_file():
        return from_released(path, sizes, family)
    kind = find_family(family).transformer
    saved = runtime.read_object(config_file)
    if saved.get("_class_name") != kind.__name__:
        raise UserError(
            f"{path} holds a {saved.get('_class_name')}, no {family.upper()} weights: set "
            f"model.start={find_family(family).start} to begin there."
        )
    with init_empty_weights():
        model = kind.from_config({**saved, **tensorless_arguments(chosen, family)})
    files = TensorFiles(path)
    expected = {name: tuple(p.shape) for name, p in model.state_dict().items()}
    check_tensors(expected, files.shapes, str(path))
    return InitialTransformer(model, lambda filled: fill_rows(filled, files.rows))


def tensorless_arguments(values: Mapping[str, object], family: str) -> dict[str, object]:
    """Of a transformer's arguments those that cost no tensor."""
    return {name: values[name] for name in find_family(family).free if values.get(name) is not None}


def from_released(path: Path, sizes: dict[str, object], family: str) -> InitialTransformer:
    """A released file, which says nothing of what costs no tensor: it is as released unless `sizes` say more."""
    model, tensors = released_and_rows(path, family, sizes)
    return InitialTransformer(model, lambda filled: fill_rows(filled, tensors.rows))


def from_checkpoint(path: Path, sizes: dict[str, object], chosen: dict[str, object], family: str) -> InitialTransformer:
    """The averaged weights of a run's checkpoint. UserError for one of low-rank training, which holds no others."""
    settings = checkpoint.read_state(path).get("settings", {})
    if settings.get("lora"):
        raise UserError(f"{path} holds low-rank matrices only: name the model that they belong to, with them merged.")
    anchors = {"num_anchors": settings.get("semantic", {}).get("anchors")}
    saved = tensorless_arguments(settings.get("model", {}), family) | tensorless_arguments(anchors, family)
    model = _empty({**sizes, **saved, **tensorless_arguments(chosen, family)}, family)
    expected = {f"ema.transformer.{name}": tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: shape for name, (shape, _) in checkpoint.read_tensor_infos(path).items() if name.startswith("ema.")}
    check_tensors(expected, found, str(path))

    def fill(filled: ModelMixin) -> None:
        own = {f"ema.transformer.{name}": tensor.detach() for name, tensor in weights_of(filled).items()}
        checkpoint.load_checkpoint(path, own)

    return InitialTransformer(model, fill)
