"""The embedded models, stage after stage, each of which can be stopped and goes on where it was.

    autoencoder   our drawings and textures                      -> RUN/autoencoder     SAMA, from nothing
    semantic      frames and captions, contrastive               -> RUN/semantic        SAMA, from nothing
    pretrain      unpaired clips of one scene, and stills        -> RUN/pretrain        ICVE
    pictures      single frames from their captions alone        -> RUN/pictures        SAMA
    windows       windows of edits, and some whole frames        -> RUN/windows
    images        edits of single frames, in three shapes        -> RUN/images
    videos        edits of 17 frames, images mixed in; SAMA: clips under pretext tasks, too -> RUN/videos
    decoder       the autoencoder's decoder once more            -> RUN/decoder         SAMA
    export        a pipeline folder that `opensama.load` reads   -> RUN/model

Run it as `opensama train tiny --out RUN`; give the same folder again to go on. From `pretrain` on, a stage of 0 minutes
is left out, and what it alone would have read is not drawn.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.models.modeling_utils import ModelMixin
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast, SiglipVisionModel, UMT5EncoderModel

from opensama.models.families import family_of, find_family
from opensama.models.registry import TINY, WORDS_FILE, find
from opensama.models.tiny import PatchAutoencoder
from opensama.runtime import quiet_loading
from opensama.training.autoencoder import AutoencoderStage, EditorAnswers, drawn_clips, set_latent_statistics
from opensama.training.budget import TimeBudget
from opensama.training.config import LossSettings
from opensama.training.drawn import DRAWN_STAGES, Pools
from opensama.training.edit_stage import EditStage
from opensama.training.embedded_config import StageConfig, TinyConfig
from opensama.training.loop import Trainer
from opensama.training.pool import PoolEncoders
from opensama.training.scores import HeldOut, held_out_scores
from opensama.training.semantic_encoder import SemanticStage, make_semantic_encoder
from opensama.training.sources import PoolSource, PoolStream
from opensama.training.stage import TrainingStage
from opensama.training.text import PromptEncoding, known_words, make_text_encoder, train_tokenizer, training_texts
from opensama.values import UserError

_log = logging.getLogger(__name__)
EASY = 0.3  # below this noise level a picture's error divided by the level says little: velocities count less there


class _Parts(NamedTuple):
    """An embedded editor's modules."""

    vae: PatchAutoencoder
    encoder: SiglipVisionModel
    text: UMT5EncoderModel
    tokenizer: PreTrainedTokenizerFast
    transformer: ModelMixin


_M = TypeVar("_M", bound=torch.nn.Module)


def _to(module: _M, device: torch.device) -> _M:
    """`module.to(device)`, whose own signature some libraries hide."""
    torch.nn.Module.to(module, device)
    return module


def _run(stage: TrainingStage, settings: StageConfig, out: Path, budget: TimeBudget) -> None:
    """Trains a stage for its own minutes, or for what a limit for the whole run leaves to it."""
    trainer = Trainer(stage, settings.loop(), out)
    if budget.total < inf:
        seconds = trainer.progress.seconds
        minutes = 0.0 if stage.name in budget.ended else (seconds + budget.left()) / 60
        trainer.config = replace(trainer.config, minutes=minutes)
    trainer.run()
    budget.end(stage.name)


def train_tiny(
    config: TinyConfig,
    out: Path,
    *,
    device: str | torch.device = "cpu",
    began: float | None = None,
) -> Path:
    """Trains, or goes on training, in the folder `out`; returns the model folder.

    `began` is the moment of `time.monotonic` from which a limit of minutes counts; by default now.
    """
    config.check_start()
    out.mkdir(parents=True, exist_ok=True)
    saved = out / "config.yaml"
    if saved.exists() and TinyConfig.read(saved).model_dump(exclude=_BUDGETS) != config.model_dump(exclude=_BUDGETS):
        raise UserError(f"The run in {out} was begun with other settings (see {saved}): choose another folder.")
    config.save(saved)
    shares = {name: getattr(config, name).minutes for name in config.stages}
    if config.start_from is not None:
        shares = {name: share for name, share in shares.items() if name not in ("autoencoder", "semantic")}
    budget = TimeBudget(out / "budget.json", config.minutes, shares, began=began)
    torch.manual_seed(config.seed)
    device = torch.device(device)
    if config.start_from is not None or "autoencoder" not in config.stages:
        parts = given_parts(config, device)
    else:
        parts = own_parts(config, out, device, budget)
    vae, encoder, text, tokenizer, transformer = parts
    for module in (vae, encoder):
        module.requires_grad_(False).eval()
    pools = Pools(config, out / "pools", PoolEncoders(vae, encoder, tokenizer), budget=budget, device=device)
    for name in config.stages:
        settings, plan = getattr(config, name), DRAWN_STAGES.get(name)
        if plan is None or not (settings.minutes > 0 or (out / name).exists()):
            continue
        budget.begin(name, pools=plan.pools)
        stage = drawn_stage(
            name,
            transformer,
            text,
            tokenizer,
            plan.streams(pools, config),
            tests=pools.held_out if settings.measure_every else {},
            emphasis=config.emphasis,
            importance=latent_importance(vae).sqrt(),
            shift=config.shift,
            text_dropout=config.text_dropout,
            word_dropout=config.word_dropout,
            objects=config.objects,
            seed=config.seed + plan.seed,
        )
        _run(stage, settings, out, budget)
        if plan.export:
            export_embedded(out / f"{name}-model", config.family, parts)
    pools.close()
    if "decoder" in config.stages and (config.decoder.minutes > 0 or (out / "decoder").exists()):
        budget.begin("decoder")
        seed, answers = config.seed + 5, None
        if config.decoder_answers:
            answers = EditorAnswers(embedded_pipeline(config.family, parts), config.decoder_answers, seed)
        pictures = _textures(config, budget)
        decoder = AutoencoderStage(vae, name="decoder", pictures=pictures, seed=seed, answers=answers)
        _run(decoder, config.decoder, out, budget)
    folder = export_embedded(out / "model", config.family, parts)
    budget.save()
    (folder / "training.json").write_text(json.dumps(training_notes(out, config), indent=2) + "\n")
    if said := budget.closing(_edit_steps(out, config), from_nothing=config.start_from is None):
        _log.info("%s", said)
    return folder


def drawn_stage(
    name: str,
    transformer: ModelMixin,
    text: UMT5EncoderModel,
    tokenizer: PreTrainedTokenizerFast,
    streams: Sequence[PoolStream],
    *,
    tests: Mapping[str, HeldOut] | None = None,
    emphasis: float = 9.0,
    importance: torch.Tensor | None = None,
    shift: float = 3.0,
    text_dropout: float = 0.1,
    word_dropout: float = 0.0,
    objects: float = 0.0,
    seed: int = 0,
) -> EditStage:
    """A stage on drawn pools, whose text encoder learns along unless it is frozen."""
    anchored, pads_text = bool(transformer.config.get("semantic_dim")), family_of(transformer).pads_text
    hook = PromptEncoding(text, masked=not pads_text)
    source = PoolSource(
        streams, tokenizer, anchored=anchored, pads_text=pads_text, shift=shift, text_dropout=text_dropout,
        word_dropout=word_dropout, seed=seed,
    )  # fmt: skip
    scores = partial(held_out_scores, tests=tests or {})
    loss = LossSettings(emphasis=emphasis, ease=EASY)
    return EditStage(name, transformer, source, loss, importance=importance, hook=hook, scores=scores, objects=objects)


def given_parts(config: TinyConfig, device: torch.device) -> _Parts:
    """The parts of a model folder; where the family has none of its own, the embedded SAMA's beside its transformer."""
    family, start_from = find_family(config.family), config.start_from
    own = "autoencoder" in config.stages
    frozen = start_from if own and start_from is not None else TINY.folder
    assert frozen is not None
    texts = start_from if start_from is not None and (start_from / "text_encoder").is_dir() else frozen
    with quiet_loading():
        text = UMT5EncoderModel.from_pretrained(texts / "text_encoder")
        given = find_family(find(frozen).family).pipeline.from_pretrained(frozen, text_encoder=text)
        encoder = SiglipVisionModel.from_pretrained(frozen / "semantic_encoder")
    vae, transformer = given.vae, given.transformer
    if not own:
        theirs = {"text_width": text.config.d_model, "latent_channels": vae.config["z_dim"]}
        for name, size in theirs.items():
            if getattr(config, name) != size:
                raise UserError(f"This model takes what tiny's frozen parts give: leave {name} at {size}.")
        text.requires_grad_(False)
        if start_from is not None:
            with quiet_loading():
                transformer = family.transformer.from_pretrained(start_from / "transformer")
    transformer = with_added_parts(transformer, config, vae) if start_from is not None else new_transformer(config, vae)
    modules: tuple[torch.nn.Module, ...] = (vae, encoder, text, transformer)
    with quiet_loading():
        for module in modules:  # saved in bfloat16, trained in float32
            module.to(device, torch.float32)
    return _Parts(vae, encoder, text, given.tokenizer, transformer)


def own_parts(config: TinyConfig, out: Path, device: torch.device, budget: TimeBudget) -> _Parts:
    """Parts from nothing: autoencoder, text and image encoders are trained, the transformer's weights are random."""
    budget.begin("autoencoder")
    vae = _autoencoder(config, out, device, budget)
    budget.begin("semantic")
    texts = training_texts(budget.scaled(config.texts, least=2_000, a_minute=2_000))
    tokenizer = train_tokenizer(texts, config.vocabulary)
    text = _to(make_text_encoder(tokenizer, config.text_width, config.text_layers), device)
    encoder = _to(make_semantic_encoder(config.semantic_width), device)
    _run(SemanticStage(encoder, text, tokenizer), config.semantic, out, budget)
    return _Parts(vae, encoder, text, tokenizer, _to(new_transformer(config, vae), device))


def new_transformer(config: TinyConfig, vae: PatchAutoencoder) -> ModelMixin:
    """The settings' transformer with random weights, beside an autoencoder."""
    transformer = find_family(config.family).transformer(**config.transformer_sizes)
    if config.color_rank:
        transformer.local_color.read_autoencoder(vae)
    return transformer


def with_added_parts(transformer: ModelMixin, config: TinyConfig, vae: PatchAutoencoder) -> ModelMixin:
    """A start's transformer as the settings ask for it: with parts that it had not, and what costs no tensor."""
    family, sizes = find_family(config.family), config.transformer_sizes.items()
    chosen = {name: size for name, size in sizes if name in family.free and getattr(config, name, size) is not None}
    parts = {name: size for name in ("color_rank", "color_shapes", "frame_waves") if (size := getattr(config, name))}
    added = {name: size for name, size in parts.items() if not transformer.config[name]}
    if not added and all(transformer.config[name] == size for name, size in chosen.items()):
        return transformer
    weights = transformer.state_dict()
    made = family.transformer.from_config(transformer.config, **chosen, **added)
    if "color_rank" in added:
        made.local_color.read_autoencoder(vae.float())
    made.load_state_dict(made.state_dict() | weights)
    return made


# what may change when a run goes on: budgets, and where the model lies that it began from
_BUDGETS = {"start_from", "minutes", "autoencoder", "semantic", "decoder", *DRAWN_STAGES}


def _textures(config: TinyConfig, budget: TimeBudget) -> int:
    """How many there is time to draw."""
    return budget.scaled(config.textures, least=16, a_minute=25)


def _autoencoder(config: TinyConfig, out: Path, device: torch.device, budget: TimeBudget) -> PatchAutoencoder:
    """The code is fixed by its components; the decoder is trained, and trained on where a run is given more minutes."""
    folder = out / "vae"
    begun = folder.exists()
    with quiet_loading():
        vae = PatchAutoencoder.from_pretrained(folder) if begun else PatchAutoencoder(config.latent_channels)
    vae = _to(vae, device)
    _log.info("autoencoder: drawing textures")
    stage = AutoencoderStage(vae, pictures=_textures(config, budget), seed=config.seed)
    if not begun:
        drawings = budget.scaled(config.drawings, least=80, a_minute=80)
        stage.start(drawings)
        set_latent_statistics(vae, drawn_clips(drawings // 10, 5_000_000, 17).to(device))
        vae.save_pretrained(folder)
    _run(stage, config.autoencoder, out, budget)
    vae.save_pretrained(folder)
    return vae


def latent_importance(vae: PatchAutoencoder) -> torch.Tensor:
    """How much each latent number [c] counts in the loss, 1 on average over what there is to learn.

    Normalised latents still vary as the square root of a pixel's share in them (`set_latent_statistics`); this takes
    them half the way to pixels, so that shapes and colours are learnt before fine detail.
    """
    spread = torch.tensor(vae.config["latents_std"])
    return spread * (spread.square().sum() / spread.pow(3).sum())


def _edit_steps(run: Path, config: TinyConfig) -> int:
    """Steps that the transformer was trained for in this run."""
    states = [run / name / "state.json" for name in config.stages if name in DRAWN_STAGES]
    return sum(int(json.loads(state.read_text())["step"]) for state in states if state.exists())


def training_notes(run: Path, config: TinyConfig) -> dict[str, object]:
    """What a model's card says of its training, the start's first; the texts are for people to amend."""
    begun = (config.start_from or run / "none") / "training.json"
    before = json.loads(begun.read_text()) if begun.is_file() else {}
    stages = list(before.get("stages", []))
    for name in config.stages:
        state = run / name / "state.json"
        if state.exists():
            saved = json.loads(state.read_text())
            last = saved["history"][-1] if saved["history"] else {}
            last = {k: v for k, v in last.items() if k not in ("step", "minutes", "norm") and "per_second" not in k}
            stages.append({"name": name, "minutes": saved["seconds"] / 60, "steps": saved["step"], "last": last})
    command = f"`{find_family(config.family).command}`"
    made = f"By {command}." if not before else f"{before['made']}\nTrained further by {command}."
    return {"made": made, "stages": stages, "limits": "See docs/lab-log.md."}


def embedded_pipeline(family: str, parts: _Parts) -> DiffusionPipeline:
    """The editor that these parts make."""
    return find_family(family).pipeline(
        tokenizer=parts.tokenizer,
        text_encoder=parts.text,
        vae=parts.vae,
        transformer=parts.transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=TINY.defaults.shift),
        defaults=replace(TINY.defaults, cache=None).to_dict(),  # which was measured on the embedded model
    )


def export_embedded(folder: Path, family: str, parts: _Parts) -> Path:
    """Writes the pipeline folder, weights in bfloat16, with the words that the model knows.

    The image encoder of a model with semantic tokens lies beside it for later training.
    """
    pipeline = embedded_pipeline(family, parts)
    with quiet_loading():
        pipeline.save_pretrained(folder)
        if parts.transformer.config.get("semantic_dim"):
            parts.encoder.save_pretrained(folder / "semantic_encoder")
    (folder / WORDS_FILE).write_text("\n".join(known_words()) + "\n", "utf-8")
    for file in folder.rglob("*.safetensors"):
        halved = {k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in load_file(file).items()}
        save_file(halved, file, metadata={"format": "pt"})
    for file in folder.rglob("config.json"):
        settings = json.loads(file.read_text())
        settings.pop("_name_or_path", None)  # where the weights lay on the machine that trained them
        file.write_text(json.dumps(settings, indent=2) + "\n")
    return folder
