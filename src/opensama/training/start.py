"""What a run of SAMA begins from: the transformer, the frozen models around it, and the data encoded by them.

wan     text-to-video weights: every tensor of them, a zero type embedding, fresh semantic modules. Before the first
        step the target's velocity is the one that Wan gives with the source's tokens beside it.
sama    SAMA weights: a released file, or a transformer's folder as `opensama train` leaves it
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
from opensama.models.lora import NEW, add_lora
from opensama.models.sama import SamaTransformer3DModel
from opensama.models.semantic import SemanticEmbedder, SemanticHead, anchor_frames, pool_anchor_tokens
from opensama.models.tiny import PatchAutoencoder
from opensama.models.weights import TensorFiles
from opensama.pipeline.assemble import missing_parts
from opensama.pipeline.buckets import closest
from opensama.pipeline.sama import SamaPipeline
from opensama.pretext import Mixture
from opensama.training.config import SamaConfig, SemanticSettings
from opensama.training.plan import KNOWN, SPATIAL
from opensama.values import UserError

WAN_ONLY = {"_class_name", "_diffusers_version", "_name_or_path"}


def sizes_of(config: SamaConfig) -> dict[str, Any]:
    """The arguments that make the transformer which the settings name. UserError if its sizes are not known."""
    if config.model.weights is not None and config.model.start == "wan":
        raise UserError(
            "model.weights names SAMA weights, but model.start is wan, which begins from the base's own: "
            "set model.start=sama, or leave model.weights away."
        )
    folder = Path(config.model.base).expanduser()
    if folder.is_dir():
        sizes = runtime.read_object(folder / "transformer" / "config.json")
    elif config.model.base in KNOWN:
        sizes = {"num_layers": 40, **KNOWN[config.model.base]}
    else:
        raise UserError(
            f"There is no folder {config.model.base}, and the sizes of a repository of that name are not known here: "
            f"download it and set model.base to its folder, or choose {', '.join(KNOWN)}."
        )
    sizes = {key: value for key, value in sizes.items() if key not in WAN_ONLY and key[0] != "_"}
    semantic = config.semantic
    return sizes | {
        "type_embedding": config.model.type_embedding,
        "source_rotary": config.model.source_rotary,
        "semantic_rotary": config.model.semantic_rotary,
        "semantic_dim": semantic.width if semantic.encoder else None,
        "semantic_tokens_per_anchor": semantic.tokens_per_anchor,
        "num_anchors": semantic.anchors,
    }


def full_config(sizes: dict[str, Any]) -> dict[str, Any]:
    """Sizes with the model's own defaults filled in. UserError for those that make no model."""
    try:
        with init_empty_weights():
            model = SamaTransformer3DModel(**sizes)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise UserError(f"These settings make no SAMA transformer: {error}.") from None
    return {key: value for key, value in dict(model.config).items() if key[0] != "_"}


def spatial_of(config: SamaConfig) -> int:
    """Pixels of a latent cell's side."""
    vae = Path(config.model.base).expanduser() / "vae" / "config.json"
    if vae.is_file():
        return int(runtime.read_object(vae).get("scale_factor_spatial") or 8)
    return SPATIAL.get(config.model.base, 8)


def layout_of(config: SamaConfig, model: dict[str, Any]) -> Layout:
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


def make_transformer(config: SamaConfig) -> SamaTransformer3DModel:
    """The transformer with the weights that it begins from, in float32 (in bfloat16 where they stay as they are)."""
    precision = torch.bfloat16 if config.lora and config.compute == "bfloat16" else torch.float32
    folder = base_folder(config, ("transformer/*",)) if config.model.weights is None else None
    if config.model.start == "wan":
        folder = folder or base_folder(config, ("transformer/*",))
        model = from_wan(folder / "transformer", sizes_of(config), precision, config.seed)
    else:
        model = from_sama(config.model.weights or Path(folder or "") / "transformer", sizes_of(config), precision)
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


def from_wan(folder: Path, sizes: dict[str, Any], dtype: torch.dtype, seed: int = 0) -> SamaTransformer3DModel:
    """A SAMA transformer that holds a Wan transformer's weights and nothing yet of its own."""
    files = TensorFiles(folder)
    with init_empty_weights():
        model = SamaTransformer3DModel(**full_config(sizes))
    state = {name: p for name, p in model.state_dict().items() if name.split(".")[0] not in NEW}
    if any(name.split(".")[0] in NEW for name in files):
        raise UserError(f"{folder} holds SAMA weights already: set model.start=sama to go on with them.")
    check({n: tuple(p.shape) for n, p in state.items()}, {n: i.shape for n, i in files.infos.items()}, str(folder))
    config = model.config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        d = config["num_attention_heads"] * config["attention_head_dim"]
        if model.token_types is not None:
            model.token_types = torch.nn.Embedding(3, d, _weight=torch.zeros(3, d))
        if config["semantic_dim"]:
            model.semantic_embedder = SemanticEmbedder(config["semantic_dim"], config["semantic_hidden"], d)
            model.semantic_head = SemanticHead(d, config["semantic_dim"])
    fill(model, files, list(state), dtype)
    left = [name for name, p in model.named_parameters() if p.is_meta]
    assert not left, left
    return model


def from_sama(path: Path, sizes: dict[str, Any], dtype: torch.dtype) -> SamaTransformer3DModel:
    """SAMA weights, of a released file or a transformer's folder; settings that cost no tensor are this run's."""
    path = path.expanduser()
    if (path / "model_index.json").is_file():
        path = path / "transformer"
    config_file = path / "config.json"
    if not config_file.is_file():
        return load_released(path, "sama", sizes, dtype=dtype)  # type: ignore[return-value]
    saved = runtime.read_object(config_file)
    if saved.get("_class_name") != "SamaTransformer3DModel":
        raise UserError(
            f"{path} holds a {saved.get('_class_name')}, no SAMA weights: set model.start=wan to begin there."
        )
    free = ("source_rotary", "semantic_rotary", "num_anchors")
    with init_empty_weights():
        model = SamaTransformer3DModel.from_config({**saved, **{key: sizes[key] for key in free}})
    files = TensorFiles(path)
    state = model.state_dict()
    check({n: tuple(p.shape) for n, p in state.items()}, {n: i.shape for n, i in files.infos.items()}, str(path))
    fill(model, files, list(state), dtype)
    return model


def fill(model: SamaTransformer3DModel, files: TensorFiles, names: list[str], dtype: torch.dtype) -> None:
    """Gives a model on the meta device these tensors; what diffusers computes in float32 stays that."""
    precise = set(model._keep_in_fp32_modules or ())
    state = {name: files.tensor(name).to(torch.float32 if precise & {*name.split(".")} else dtype) for name in names}
    model.load_state_dict(model.state_dict() | state, assign=True)


def base_folder(config: SamaConfig, files: tuple[str, ...]) -> Path:
    """The base's folder on this machine, downloaded if it is a repository. UserError names what is missing."""
    folder = Path(config.model.base).expanduser()
    return runtime.locate(config.model.base, files, folder=folder if folder.is_dir() else None)


def make_encoders(config: SamaConfig, device: torch.device) -> Encoders:
    """The frozen models, from the base and the semantic encoder's folder, as functions."""
    from transformers import AutoTokenizer, UMT5EncoderModel

    folder = base_folder(config, ("text_encoder/*", "tokenizer/*", "vae/*"))
    missing = missing_parts(folder, ("tokenizer", "text_encoder", "vae"))
    if missing:
        raise UserError(f"The base model in {folder} has no {', '.join(missing)}: copy it again, whole.")
    text_dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    with runtime.quiet_loading():
        pipe = SamaPipeline(
            tokenizer=AutoTokenizer.from_pretrained(folder / "tokenizer"),
            text_encoder=UMT5EncoderModel.from_pretrained(folder / "text_encoder", dtype=text_dtype),
            vae=make_vae(config, device),
            transformer=None,
            scheduler=None,
            defaults={"max_text_tokens": config.data.text_tokens, "prompt_prefix": ""},
        )
    pipe.to(device)
    pipe.text_encoder.requires_grad_(False).eval()
    semantic = make_semantic(config.semantic, device)
    return Encoders(pipe.encode_video, lambda text: pipe.encode_prompt(text), semantic, DTYPES[config.data.keep])


def make_vae(config: SamaConfig, device: torch.device) -> Any:
    """The base's autoencoder, in float32."""
    from diffusers import AutoencoderKLWan

    folder = base_folder(config, ("vae/*",)) / "vae"
    ours = runtime.read_object(folder / "config.json").get("_class_name") == "PatchAutoencoder"
    kind: Any = PatchAutoencoder if ours else AutoencoderKLWan
    with runtime.quiet_loading():
        return kind.from_pretrained(folder, torch_dtype=torch.float32).to(device).requires_grad_(False).eval()


def make_semantic(settings: SemanticSettings, device: torch.device) -> Callable[[Tensor], Tensor] | None:
    """A function from target frames [3 t h w] in [-1, 1] to the tokens of its anchors [s e]."""
    if settings.encoder is None:
        return None
    from transformers import SiglipVisionModel

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
    anchors = min(settings.anchors, (t - 1) // 4 + 1)
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


def fingerprint(config: SamaConfig, manifest: Manifest | None) -> dict[str, Any]:
    """What latents depend on: they serve only a run that has the same."""
    data = config.data.model_dump(
        include={"area", "multiple", "frames", "pretext", "variants", "prefix", "no_text", "text_tokens", "keep"}
    )
    encoder = config.semantic.model_dump(exclude={"width"})
    settings = {"base": config.model.base, "seed": config.seed, **data, "semantic": encoder}
    return settings | ({"manifest": manifest.fingerprint} if manifest else {})


def open_data(
    config: SamaConfig, device: torch.device, on_bad: Callable[[Row, str], None]
) -> tuple[Encoded, dict[str, Any]]:
    """The run's items, from latents or live, and what fingerprints them."""
    manifest = read_manifest(config.data.manifest) if config.data.manifest else None
    if config.data.latents is not None:
        settings = fingerprint(config, manifest)
        return Shards(config.data.latents, settings), settings
    if manifest is None:
        raise UserError("There is nothing to train on: name a manifest with --data, or latents with data.latents.")
    layout = layout_of(config, full_config(sizes_of(config)))
    items = layout.items(manifest.rows, on_bad)
    if not items:
        raise UserError(f"No row of {manifest.path} can be read; the first: {manifest.rows[0].target}.")
    encoders = make_encoders(config, device)
    return Live(items, layout, encoders, config.data.no_text), fingerprint(config, manifest)
