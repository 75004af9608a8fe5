"""The embedded models, stage after stage, each of which can be stopped and goes on where it was.

    autoencoder   our drawings and textures                      -> RUN/autoencoder     SAMA, from nothing
    semantic      frames and captions, contrastive               -> RUN/semantic        SAMA, from nothing
    pretrain      unpaired clips of one scene, and stills        -> RUN/pretrain        ICVE
    pictures      single frames from their captions alone        -> RUN/pictures        SAMA
    windows       windows of edits, and some whole frames        -> RUN/windows         SAMA
    images        edits of single frames, in three shapes        -> RUN/images
    videos        edits of 17 frames, images mixed in; SAMA: clips under pretext tasks, too -> RUN/videos
    export        a pipeline folder that `opensama.load` reads   -> RUN/model

Run it as `opensama train tiny --out RUN`; give the same folder again to go on. From `pretrain` on, a stage of 0 minutes
is left out, and what it alone would have read is not drawn.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial
from math import inf
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast, SiglipVisionModel, UMT5EncoderModel

from opensama.data.prefetch import one_core
from opensama.models.families import find_family
from opensama.models.registry import TINY, WORDS, find
from opensama.models.tiny import PatchAutoencoder
from opensama.runtime import quiet_loading
from opensama.training.autoencoder import AutoencoderStage, drawn_clips, set_latent_statistics
from opensama.training.budget import Budget
from opensama.training.config import StageConfig, TinyConfig
from opensama.training.editing import EditingStage, HeldOut, Stream
from opensama.training.loop import Stage, Trainer
from opensama.training.pool import (
    DRAWS,
    Draw,
    Pool,
    Renewed,
    Workers,
    build_pool,
    draw_clips,
    draw_in_turn,
    draw_unpaired,
)
from opensama.training.semantic_encoder import SemanticStage, make_semantic_encoder
from opensama.training.text import corpus, known_words, make_text_encoder, train_tokenizer
from opensama.values import UserError
from opensama.world import TIERS
from opensama.world.phrasing import Split

SHAPES = ((128, 128), (96, 176), (176, 96))  # height, width
SHARES = (0.6, 0.2, 0.2)  # of the batches
IMAGES = 1 / 6  # of the videos stage's batches that are edits
WHOLE = 1 / 4  # of the windows stage's batches; these alone have semantic tokens
SIDES = (4, 4, 5)  # of windows, in cells
PICTURE_SHIFT = 3.0  # of the noise levels of pictures: a caption says what, the noisy picture where
CLIPS = 1 / 4  # of the pretrain stage's batches; the others are stills


def make_transformer(config: TinyConfig) -> Any:
    """The family's transformer with random weights."""
    return find_family(config.family).transformer(**config.transformer_sizes)


M = TypeVar("M", bound=torch.nn.Module)


def _to(module: M, device: torch.device) -> M:
    """`module.to(device)`, whose own signature some libraries hide."""
    torch.nn.Module.to(module, device)
    return module


def _run(stage: Stage, settings: StageConfig, out: Path, budget: Budget, say: Callable[[str], None]) -> None:
    """Trains a stage for its own minutes, or for what a limit for the whole run leaves to it."""
    trainer = Trainer(stage, settings.loop(), out, say)
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
    start_from: Path | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Trains, or goes on training, in the folder `out`; returns the model folder.

    `start_from` is a model folder of the family whose weights are taken as the start of the editor. Its autoencoder,
    tokenizer and image encoder are kept as they are; an ICVE's, and its text encoder, are always the embedded SAMA's.
    """
    out.mkdir(parents=True, exist_ok=True)
    saved = out / "config.yaml"
    if saved.exists() and TinyConfig.read(saved).model_dump(exclude=_BUDGETS) != config.model_dump(exclude=_BUDGETS):
        raise UserError(f"The run in {out} was begun with other settings (see {saved}): choose another --out folder.")
    config.save(saved)
    shares = {name: getattr(config, name).minutes for name in config.stages}
    if start_from is not None:
        shares = {name: share for name, share in shares.items() if name not in ("autoencoder", "semantic")}
    budget = Budget(out / "budget.json", config.minutes, shares)
    texts = budget.scaled(20_000, least=2_000, a_minute=2_000)
    textures = budget.scaled(config.textures, least=32, a_minute=100)
    chunk = budget.scaled(config.chunk, least=64, a_minute=100 * max(1, config.workers)) if config.chunk else 0
    lots = (64, 8) if not budget.first or budget.first > 10 else (16, 2)  # a lot that is begun is drawn to its end
    torch.manual_seed(config.seed)
    device = torch.device(device)

    family = find_family(config.family)
    own = "autoencoder" in family.stages  # frozen parts, trained for its transformer; else the embedded SAMA's are
    if start_from is not None and find(start_from).family != config.family:
        recipe = find_family(find(start_from).family).recipe
        name = config.family.upper()
        raise UserError(f"{start_from} is no {name} model: choose another for --start-from, or the recipe {recipe}.")
    if start_from is not None or not own:
        frozen = start_from if own and start_from is not None else TINY.folder
        assert frozen is not None
        with quiet_loading():
            given = find_family(find(frozen).family).pipeline.from_pretrained(frozen)
            encoder = SiglipVisionModel.from_pretrained(frozen / "semantic_encoder")
        vae, tokenizer, text, transformer = given.vae, given.tokenizer, given.text_encoder, given.transformer
        if own:
            chosen = {name: size for name, size in config.transformer_sizes.items() if name in family.free}
            if any(transformer.config[name] != size for name, size in chosen.items()):
                weights = transformer.state_dict()
                transformer = family.transformer.from_config(transformer.config, **chosen)
                transformer.load_state_dict(weights)
        else:
            theirs = {"text_width": text.config.d_model, "latent_channels": vae.config["z_dim"]}
            for name, size in theirs.items():
                if getattr(config, name) != size:
                    raise UserError(f"This model takes what tiny's frozen parts give: leave {name} at {size}.")
            text.requires_grad_(False)
            transformer = make_transformer(config)
            if start_from is not None:
                with quiet_loading():
                    transformer = family.transformer.from_pretrained(start_from / "transformer")
        modules: tuple[torch.nn.Module, ...] = (vae, encoder, text, transformer)
        with quiet_loading():
            for module in modules:  # saved in bfloat16, trained in float32
                module.to(device, torch.float32)
    else:
        budget.begin("autoencoder")
        vae = _autoencoder(config, textures, out, device, budget, say)
        budget.begin("semantic")
        tokenizer = train_tokenizer(corpus(texts), config.vocabulary)
        text = _to(make_text_encoder(tokenizer, config.text_width, config.text_layers), device)
        encoder = _to(make_semantic_encoder(config.semantic_width), device)
        _run(SemanticStage(encoder, text, tokenizer), config.semantic, out, budget, say)
        transformer = _to(make_transformer(config), device)
    for module in (vae, encoder):
        module.requires_grad_(False).eval()

    def pool(
        size: tuple[int, int],
        n: int,
        first: int,
        frames: int,
        draw: Draw = DRAWS[config.tier],
        name: str | None = None,
        split: Split = "train",
        say: Callable[[str], None] = say,
        until: float | None = None,
    ) -> Pool:
        kinds: dict[Draw, str] = {draw_clips: "pretext-", draw_unpaired: "unpaired-"}
        return build_pool(
            out / "pools" / f"{name or kinds.get(draw, '')}{frames}x{size[0]}x{size[1]}.safetensors",
            n if size == SHAPES[0] else n // 4,
            vae,
            encoder,
            tokenizer,
            draw=draw,
            frames=frames,
            size=size,
            text_tokens=config.text_tokens,
            first=first + (config.seed * 100_000_000 if split == "train" else 0),
            split=split,
            batch=lots[0] if frames == 1 else lots[1],
            workers=workers,
            until=budget.pool() if until is None else until,
            say=say,
        )

    workers = Workers(config.workers, vae, encoder, tokenizer) if config.workers else None
    drawing = ThreadPoolExecutor(1, initializer=one_core)

    def renewed(stage: str, size: tuple[int, int]) -> Renewed:
        begin = 50_000_000 + 10_000_000 * list(config.stages).index(stage)

        def make(number: int) -> Pool:
            old, name = (f"{stage}-{k}-" for k in (number - config.chunks, number))
            (out / "pools" / f"{old}1x{size[0]}x{size[1]}.safetensors").unlink(missing_ok=True)
            return pool(size, chunk, begin + number * chunk, 1, name=name, say=lambda _: None, until=inf)

        return Renewed(make, steps=config.chunk_steps, kept=config.chunks, threads=drawing, device=device)

    fixed: list[Pool] = []

    def still_pools(stage: str) -> Sequence[Pool | Renewed]:
        """Image edits in the three shapes."""
        if config.chunk:
            return [renewed(stage, size) for size in SHAPES]
        fixed.extend(pool(size, config.image_edits, 0, 1) for size in SHAPES[len(fixed) :])
        return fixed

    @cache
    def tests() -> dict[str, HeldOut]:
        """Of both tiers, whichever is trained on."""
        drawn = {
            tier: pool(SHAPES[0], config.test_edits, 0, 1, partial(draw_in_turn, tier=tier), f"test-{tier}-", "test")
            for tier in TIERS
        }
        return {tier: HeldOut(edits, TIERS[tier].families) for tier, edits in drawn.items()}

    def editing(name: str, seed: int, streams: list[Stream], measured: float = 0.0) -> EditingStage:
        return EditingStage(
            name,
            transformer,
            text,
            tokenizer,
            streams,
            shift=config.shift,
            emphasis=config.emphasis,
            text_dropout=config.text_dropout,
            seed=seed,
            importance=importance(vae),
            tests=tests() if measured else {},
        )

    def wanted(name: str, settings: StageConfig) -> bool:
        return name in family.stages and (settings.minutes > 0 or (out / name).exists())

    if wanted("pretrain", config.pretrain):
        budget.begin("pretrain", pools=6)
        streams = []
        for size, share in zip(SHAPES, SHARES, strict=True):
            apart = pool(size, config.unpaired_stills, 30_000_000, 1, draw_unpaired)
            streams.append(Stream(apart, config.image_batch, (1 - CLIPS) * share))
            apart = pool(size, config.unpaired_clips, 40_000_000, 17, draw_unpaired)
            streams.append(Stream(apart, config.video_batch, CLIPS * share))
        _run(editing("pretrain", config.seed + 2, streams), config.pretrain, out, budget, say)
    if wanted("pictures", config.pictures):
        budget.begin("pictures", pools=5)
        drawn = zip(still_pools("pictures"), SHARES, strict=True)
        streams = [Stream(p, config.picture_batch, share, pictures=True, shift=PICTURE_SHIFT) for p, share in drawn]
        stage = editing("pictures", config.seed + 3, streams, config.pictures.measure_every)
        _run(stage, config.pictures, out, budget, say)
    if wanted("windows", config.windows):
        budget.begin("windows", pools=5)
        streams = []
        for p, share in zip(still_pools("windows"), SHARES, strict=True):
            streams.append(Stream(p, config.window_batch, (1 - WHOLE) * share, sides=SIDES))
            streams.append(Stream(p, config.image_batch, WHOLE * share))
        stage = editing("windows", config.seed + 4, streams, config.windows.measure_every)
        _run(stage, config.windows, out, budget, say)
        export(out / "windows-model", config.family, transformer, vae, text, tokenizer, encoder)
    if wanted("images", config.images):
        budget.begin("images", pools=3)
        streams = [Stream(p, config.image_batch, share) for p, share in zip(still_pools("images"), SHARES, strict=True)]
        _run(editing("images", config.seed, streams, config.images.measure_every), config.images, out, budget, say)
        export(out / "images-model", config.family, transformer, vae, text, tokenizer, encoder)
    if wanted("videos", config.videos):
        budget.begin("videos", pools=7)
        pretext = config.pretext
        edits = 1 - pretext
        still: Pool | Renewed = fixed[0] if fixed else pool(SHAPES[0], config.image_edits, 0, 1)
        streams = []
        for size, share in zip(SHAPES, SHARES, strict=True):
            clips = pool(size, config.video_edits, 10_000_000, 17)
            streams.append(Stream(clips, config.video_batch, edits * (1 - IMAGES) * share))
        streams.append(Stream(still, config.image_batch, edits * IMAGES))
        for size, share in zip(SHAPES, SHARES, strict=True) if pretext else ():
            clips = pool(size, config.pretext_clips, 20_000_000, 17, draw_clips)
            # whole, since tube shuffle may put what the first frames need at the source's end
            streams.append(Stream(clips, config.video_batch, pretext * share, cut=False))
        _run(editing("videos", config.seed + 1, streams, config.videos.measure_every), config.videos, out, budget, say)
    drawing.shutdown(cancel_futures=True)
    if workers:
        workers.close()
    folder = export(out / "model", config.family, transformer, vae, text, tokenizer, encoder)
    budget.keep()
    (folder / "training.json").write_text(json.dumps(notes(out, config, start_from), indent=2) + "\n")
    return folder


_BUDGETS = {
    "minutes",
    "autoencoder",
    "semantic",
    "pretrain",
    "pictures",
    "windows",
    "images",
    "videos",
}  # what may change when a run goes on


def _autoencoder(
    config: TinyConfig, textures: int, out: Path, device: torch.device, budget: Budget, say: Callable[[str], None]
) -> PatchAutoencoder:
    """The code is fixed by its components; the decoder is trained, and trained on where a run is given more minutes."""
    folder = out / "vae"
    begun = folder.exists()
    with quiet_loading():
        vae = PatchAutoencoder.from_pretrained(folder) if begun else PatchAutoencoder(config.latent_channels)
    vae = _to(vae, device)
    say("autoencoder: drawing textures")
    stage = AutoencoderStage(vae, pictures=textures, seed=config.seed)
    if not begun:
        stage.start(budget.scaled(40, least=10, a_minute=10))
        set_latent_statistics(vae, drawn_clips(budget.scaled(64, least=16, a_minute=10), 5_000_000, 17).to(device))
        vae.save_pretrained(folder)
    _run(stage, config.autoencoder, out, budget, say)
    vae.save_pretrained(folder)
    return vae


def importance(vae: PatchAutoencoder) -> torch.Tensor:
    """How much each latent number [c] counts in the loss, 1 on average over what there is to learn.

    Normalised latents still vary as the square root of a pixel's share in them (`set_latent_statistics`); this takes
    them half the way to pixels, so that shapes and colours are learnt before fine detail.
    """
    spread = torch.tensor(vae.config["latents_std"])
    return spread * (spread.square().sum() / spread.pow(3).sum())


def notes(run: Path, config: TinyConfig, start_from: Path | None = None) -> dict[str, object]:
    """What a model's card says of its training, the start's first; the texts are for people to amend."""
    begun = start_from / "training.json" if start_from else run / "none"
    before = json.loads(begun.read_text()) if begun.is_file() else {}
    stages = list(before.get("stages", []))
    for name in config.stages:
        state = run / name / "state.json"
        if state.exists():
            saved = json.loads(state.read_text())
            last = saved["history"][-1] if saved["history"] else {}
            last = {k: v for k, v in last.items() if k not in ("step", "minutes", "norm")}
            stages.append({"name": name, "minutes": saved["seconds"] / 60, "steps": saved["step"], "last": last})
    command = f"`{find_family(config.family).command}`"
    made = f"By {command}." if not before else f"{before['made']}\nTrained further by {command}."
    return {"made": made, "stages": stages, "limits": "See docs/lab-log.md."}


def export(
    folder: Path,
    family: str,
    transformer: Any,
    vae: PatchAutoencoder,
    text: UMT5EncoderModel,
    tokenizer: PreTrainedTokenizerFast,
    encoder: SiglipVisionModel,
) -> Path:
    """Writes the pipeline folder, weights in bfloat16, with the words that the model knows.

    SAMA's image encoder lies beside it for later training.
    """
    pipeline = find_family(family).pipeline(
        tokenizer=tokenizer,
        text_encoder=text,
        vae=vae,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=TINY.defaults.shift),
        defaults=TINY.defaults.to_dict(),
    )
    with quiet_loading():
        pipeline.save_pretrained(folder)
        if getattr(transformer.config, "semantic_dim", None):
            encoder.save_pretrained(folder / "semantic_encoder")
    (folder / WORDS).write_text("\n".join(known_words()) + "\n", "utf-8")
    for file in folder.rglob("*.safetensors"):
        halved = {k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in load_file(file).items()}
        save_file(halved, file, metadata={"format": "pt"})
    for file in folder.rglob("config.json"):
        settings = json.loads(file.read_text())
        settings.pop("_name_or_path", None)  # where the weights lay on the machine that trained them
        file.write_text(json.dumps(settings, indent=2) + "\n")
    return folder
