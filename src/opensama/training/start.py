"""What a run begins from: the transformer, the frozen models around it, and the data encoded by them.

wan, hunyuan    text-to-video weights: every tensor of them. For SAMA a zero type embedding and fresh semantic modules
                besides; ICVE has nothing more. Before the first step the target's velocity is the one that the base
                gives with the source's tokens beside it.
sama, icve      trained weights: a released file, or a transformer's folder as `opensama train` leaves it
nothing         random weights
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import init_empty_weights
from torch import Tensor

from opensama import runtime
from opensama.data.latents import DTYPES, Encoded, Encoders, Live, Shards
from opensama.data.samples import Layout, Manifest, Row, read_manifest
from opensama.models.convert import check, load_released
from opensama.models.layouts import FAMILIES
from opensama.models.lora import NEW, add_lora
from opensama.models.sama import SamaTransformer3DModel
from opensama.models.semantic import SemanticEmbedder, SemanticHead, anchor_count, anchor_frames, pool_anchor_tokens
from opensama.models.weights import TensorFiles
from opensama.pipeline.assemble import PIPELINES, base_parts, load_part, text_dtype
from opensama.pipeline.buckets import closest
from opensama.pretext import Mixture
from opensama.training.config import EditConfig, IcveConfig, SamaConfig, SemanticSettings
from opensama.training.plan import KNOWN, SPATIAL
from opensama.values import UserError

START_OF_BASE = {"sama": "wan", "icve": "hunyuan"}
FREE = {"sama": ("source_rotary", "semantic_rotary", "num_anchors"), "icve": ("source_time",)}
"""Arguments of transformers that cost no tensor: trained weights go on with a run's own."""


def sizes_of(config: EditConfig) -> dict[str, Any]:
    """The arguments that make the transformer which the settings name. UserError if its sizes are not known."""
    family, model, known = config.family, config.model, KNOWN[config.family]
    if model.weights is not None and model.start != family:
        raise UserError(
            f"model.weights names {family.upper()} weights, but model.start is {model.start}, which begins "
            f"without them: set model.start={family}, or leave model.weights away."
        )
    folder = Path(model.base).expanduser()
    if isinstance(config, IcveConfig) and config.model.sizes is not None:
        sizes = config.model.sizes
    elif folder.is_dir():
        sizes = runtime.read_object(folder / "transformer" / "config.json")
    elif model.base in known:
        sizes = known[model.base]
    else:
        raise UserError(
            f"There is no folder {model.base}, and the sizes of a repository of that name are not known here: "
            f"download it and set model.base to its folder, or choose {', '.join(known)}."
        )
    return {key: value for key, value in sizes.items() if key[0] != "_"} | config.sizes


def full_config(sizes: dict[str, Any], family: str = "sama") -> dict[str, Any]:
    """Sizes with the model's own defaults filled in. UserError for those that make no model."""
    try:
        with init_empty_weights():
            model = FAMILIES[family].model(**sizes)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise UserError(f"These settings make no {family.upper()} transformer: {error}.") from None
    return {key: value for key, value in dict(model.config).items() if key[0] != "_"}


def spatial_of(config: EditConfig) -> int:
    """Pixels of a latent cell's side."""
    vae = Path(config.model.base).expanduser() / "vae" / "config.json"
    if vae.is_file():
        sizes = runtime.read_object(vae)
        return int(sizes.get("scale_factor_spatial") or sizes.get("spatial_compression_ratio") or 8)
    return SPATIAL.get(config.model.base, 8)


def layout_of(config: EditConfig, model: dict[str, Any]) -> Layout:
    """How rows become items. UserError for shapes that the model cannot take."""
    data, cell = config.data, spatial_of(config) * max(model["patch_size"][1:])
    if data.multiple % cell:
        raise UserError(
            f"data.multiple is {data.multiple}, but the model takes sides that are multiples of {cell}: set it to one."
        )
    return Layout(
        bucket=partial(closest, area=data.area, multiple=data.multiple),
        frames=data.frames,
        pretext=Mixture(data.pretext),
        variants=data.variants,
        seed=config.seed,
        prefix=data.prefix,
    )


def make_transformer(config: EditConfig) -> Any:
    """The transformer with the weights that it begins from, in float32.

    Weights that stay as they are, beside a LoRA, are in bfloat16 if `compute` says bfloat16 (not if it says auto).
    """
    precision = torch.bfloat16 if config.lora and config.compute == "bfloat16" else torch.float32
    sizes, family = sizes_of(config), config.family

    def base() -> Path:
        return base_folder(config, ("transformer/*",)) / "transformer"

    if config.model.start == "nothing":
        model = from_nothing(sizes, family, precision, config.seed)
    elif config.model.start == family:
        model = from_trained(config.model.weights or base(), sizes, precision, family)
    else:
        model = from_base(base(), sizes, precision, family, config.seed)
    model.train()
    if config.lora:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            new = config.model.start == "wan"
            add_lora(model, config.lora.rank, config.lora.alpha, config.lora.targets, also_new=new)
        for p in model.parameters():
            if p.requires_grad:
                p.data = p.data.float()
    return model


def from_nothing(sizes: dict[str, Any], family: str, dtype: torch.dtype, seed: int) -> Any:
    """A transformer of random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FAMILIES[family].model(**full_config(sizes, family))
    return torch.nn.Module.to(model, dtype)  # diffusers' own warns


def from_base(folder: Path, sizes: dict[str, Any], dtype: torch.dtype, family: str = "sama", seed: int = 0) -> Any:
    """A transformer that holds its base's weights and nothing yet of its own."""
    files = TensorFiles(folder)
    with init_empty_weights():
        model = FAMILIES[family].model(**full_config(sizes, family))
    state = {name: p for name, p in model.state_dict().items() if name.split(".")[0] not in NEW}
    if any(name.split(".")[0] in NEW for name in files):
        raise UserError(f"{folder} holds SAMA weights already: set model.start=sama to go on with them.")
    check({n: tuple(p.shape) for n, p in state.items()}, {n: i.shape for n, i in files.infos.items()}, str(folder))
    if isinstance(model, SamaTransformer3DModel):
        add_new(model, seed)
    fill(model, files, list(state), dtype)
    left = [name for name, p in model.named_parameters() if p.is_meta]
    assert not left, left
    return model


def add_new(model: SamaTransformer3DModel, seed: int) -> None:
    """Gives a SAMA transformer on the meta device what its base has not."""
    config = model.config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        d = config["num_attention_heads"] * config["attention_head_dim"]
        if model.token_types is not None:
            model.token_types = torch.nn.Embedding(3, d, _weight=torch.zeros(3, d))
        if config["semantic_dim"]:
            model.semantic_embedder = SemanticEmbedder(config["semantic_dim"], config["semantic_hidden"], d)
            model.semantic_head = SemanticHead(d, config["semantic_dim"])


def from_trained(path: Path, sizes: dict[str, Any], dtype: torch.dtype, family: str = "sama") -> Any:
    """Trained weights, of a released file or a transformer's folder; settings that cost no tensor are this run's."""
    kind = FAMILIES[family].model
    path = path.expanduser()
    if (path / "model_index.json").is_file():
        path = path / "transformer"
    config_file = path / "config.json"
    if not config_file.is_file():
        return load_released(path, family, sizes, dtype=dtype)
    saved = runtime.read_object(config_file)
    if saved.get("_class_name") != kind.__name__:
        raise UserError(
            f"{path} holds a {saved.get('_class_name')}, no {family.upper()} weights: set "
            f"model.start={START_OF_BASE[family]} to begin there."
        )
    with init_empty_weights():
        model = kind.from_config({**saved, **{key: sizes[key] for key in FREE[family]}})
    files = TensorFiles(path)
    state = model.state_dict()
    check({n: tuple(p.shape) for n, p in state.items()}, {n: i.shape for n, i in files.infos.items()}, str(path))
    fill(model, files, list(state), dtype)
    return model


def fill(model: Any, files: TensorFiles, names: list[str], dtype: torch.dtype) -> None:
    """Gives a model on the meta device these tensors; what diffusers computes in float32 stays that."""
    precise = set(model._keep_in_fp32_modules or ())
    state = {name: files.tensor(name).to(torch.float32 if precise & {*name.split(".")} else dtype) for name in names}
    model.load_state_dict(model.state_dict() | state, assign=True)


def base_folder(config: EditConfig, files: tuple[str, ...]) -> Path:
    """The base's folder on this machine, downloaded if it is a repository. UserError names what is missing."""
    folder = Path(config.model.base).expanduser()
    return runtime.locate(config.model.base, files, folder=folder if folder.is_dir() else None)


def make_encoders(config: EditConfig, device: torch.device) -> Encoders:
    """The frozen models, from the base and the semantic encoder's folder, as functions."""
    folder, parts = frozen_parts(config)
    missing = runtime.missing_parts(folder, tuple(parts))
    if missing:
        raise UserError(f"The base model in {folder} has no {', '.join(missing)}: copy it again, whole.")
    precision = text_dtype(config.family, torch.float32 if device.type == "cpu" else torch.bfloat16)
    defaults = {"max_text_tokens": config.data.text_tokens, "prompt_prefix": ""}
    if isinstance(config, IcveConfig):
        defaults["text_layer"] = config.model.text_layer
    with runtime.quiet_loading():
        loaded = {part: load_part(folder / part, kind, precision) for part, kind in parts.items()}
        pipe = PIPELINES[config.family](**loaded, transformer=None, scheduler=None, defaults=defaults)
    pipe.to(device)
    for part in parts:
        if not part.startswith("tokenizer"):
            getattr(pipe, part).requires_grad_(False).eval()

    def text(prompt: str) -> dict[str, Tensor]:
        found = pipe.encode_words(prompt)
        names = {"encoder_hidden_states": "text", "pooled_projections": "pooled"}
        return {ours: found[key] for key, ours in names.items() if key in found}

    semantic = None if config.anchoring is None else make_semantic(config.anchoring, device)
    return Encoders(pipe.encode_video, text, semantic, DTYPES[config.data.keep])


def frozen_parts(config: EditConfig) -> tuple[Path, dict[str, Any]]:
    """The base's folder with tokenizers, text encoders and autoencoder in it, and their classes."""
    here = Path(config.model.base).expanduser()
    parts = base_parts(config.family, here if here.is_dir() else None)
    return base_folder(config, tuple(f"{part}/*" for part in parts)), parts


def make_vae(config: EditConfig, device: torch.device) -> Any:
    """The base's autoencoder, in float32."""
    folder, parts = frozen_parts(config)
    with runtime.quiet_loading():
        return load_part(folder / "vae", parts["vae"], torch.float32).to(device).requires_grad_(False).eval()


def make_semantic(settings: SemanticSettings, device: torch.device) -> Callable[[Tensor], Tensor]:
    """A function from target frames [3 t h w] in [-1, 1] to the tokens of its anchors [s e]."""
    from transformers import SiglipVisionModel

    assert settings.encoder is not None

    folder = Path(settings.encoder).expanduser()
    if not folder.is_dir():
        folder = runtime.locate(settings.encoder, ("config.json", "model.safetensors"))
    try:
        with runtime.quiet_loading():
            encoder: Any = SiglipVisionModel.from_pretrained(folder, dtype=torch.float32)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"semantic.encoder {folder} is no SigLIP model ({str(error).splitlines()[0]}).") from None
    found = encoder.config.hidden_size
    if found != settings.width:
        raise UserError(f"The features of semantic.encoder are {found} wide: set semantic.width={found}.")
    return partial(anchor_tokens, encoder.to(device).requires_grad_(False).eval(), settings)


def anchor_tokens(encoder: Any, settings: SemanticSettings, target: Tensor) -> Tensor:
    """Tokens [s e] of the target's anchor frames [3 t h w], squeezed to the encoder's square as its processor does."""
    t = target.shape[1]
    anchors = anchor_count((t - 1) // 4 + 1, settings.anchors)
    frames = target[:, anchor_frames(t, anchors)].transpose(0, 1).to(encoder.device)
    side = int(encoder.config.image_size)
    if frames.shape[-2:] != (side, side):
        frames = F.interpolate(frames, (side, side), mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)
    out = encoder(pixel_values=frames)
    whole = out.pooler_output if settings.global_token == "attention" else out.last_hidden_state.mean(1)
    tokens = pool_anchor_tokens(out.last_hidden_state, whole, settings.grid)
    if settings.order == "global_first":
        tokens = tokens.roll(1, dims=1)
    return tokens.flatten(0, 1)


def fingerprint(config: EditConfig, manifest: Manifest | None) -> dict[str, Any]:
    """What latents depend on: they serve only a run that has the same."""
    data = config.data.model_dump(
        include={"area", "multiple", "frames", "pretext", "variants", "prefix", "no_text", "text_tokens", "keep"}
    )
    settings = {"base": config.model.base, "seed": config.seed, **data}
    if isinstance(config, SamaConfig):
        settings["semantic"] = config.semantic.model_dump(exclude={"width"})
    if isinstance(config, IcveConfig):
        settings["text_layer"] = config.model.text_layer
    return settings | ({"manifest": manifest.fingerprint} if manifest else {})


def open_data(
    config: EditConfig, device: torch.device, on_bad: Callable[[Row, str], None]
) -> tuple[Encoded, dict[str, Any]]:
    """The run's items, from latents or live, and what fingerprints them."""
    manifest = read_manifest(config.data.manifest) if config.data.manifest else None
    if config.data.latents is not None:
        settings = fingerprint(config, manifest)
        return Shards(config.data.latents, settings), settings
    if manifest is None:
        raise UserError("There is nothing to train on: name a manifest with --data, or latents with data.latents.")
    layout = layout_of(config, full_config(sizes_of(config), config.family))
    items = layout.items(manifest.rows, on_bad)
    if not items:
        raise UserError(f"No row of {manifest.path} can be read; the first: {manifest.rows[0].target}.")
    encoders = make_encoders(config, device)
    return Live(items, layout, encoders, config.data.no_text), fingerprint(config, manifest)
