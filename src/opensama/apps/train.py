"""`opensama train`: recipes run in a folder, where they can be stopped and go on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from cyclopts import App, Parameter

from opensama import runtime
from opensama.apps.options import OUT, check_writable_folder
from opensama.apps.progress import log_lines
from opensama.values import UserError, how_many, nearest

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

    Settings = TypeVar("Settings", bound=BaseModel)

app = App(name="train", help="Train a model: the embedded ones (tiny), SAMA's stages on Wan, ICVE's on HunyuanVideo.")


@app.default
def editor(
    recipe: str,
    /,
    *,
    data: Path | None = None,
    out: Annotated[Path | None, OUT] = None,
    dry_run: Annotated[bool, Parameter(negative=())] = False,
    encode: Annotated[bool, Parameter(negative=())] = False,
    resume: Annotated[bool, Parameter(negative=())] = False,
    config: Path | None = None,
    set: Annotated[list[str] | None, Parameter(negative=(), consume_multiple=True)] = None,
    gpus: int | None = None,
    device: str | None = None,
) -> None:
    """Train a stage of an editor on your data: `opensama train sama-14b-stage0 --data clips.jsonl --out RUN`.

    With more GPUs the same under torchrun: `torchrun --nproc-per-node 8 -m opensama.apps.cli train ...`.

    Parameters
    ----------
    recipe
        sama-14b-stage0, sama-14b-stage1, sama-1.3b-stage0, sama-1.3b-stage1, wan2.2-ti2v-5b, tiny-stage0, tiny-stage1,
        icve-13b-pretrain, icve-13b-sft, each also with -lora; tiny-icve-pretrain, tiny-icve-sft.
    data
        The manifest, Parquet, JSONL or CSV: rows of source, target and instruction, or of clip and caption.
    out
        The run's folder: settings, checkpoints, and at the end the model. By default runs/RECIPE.
    dry_run
        Check settings and data, predict memory, time and price, and stop.
    encode
        Encode the data into OUT/latents for later runs (--set data.latents=OUT/latents), and stop.
    resume
        Go on with the run in that folder, with its own settings.
    config
        Settings from a YAML file, such as another run's config.yaml, in place of the recipe's.
    set
        Settings, as in --set optimizer.lr=1e-5 loss.shift=3; may be given more than once.
    gpus
        How many GPUs --dry-run plans for.
    device
        Where to compute, such as cpu or cuda:1. By default the best there is.
    """
    from opensama.data.manifest import check_there

    if data is not None:
        check_there(data)
    from opensama.recipes import bernini, icve, sama

    asked = find_recipe(recipe, {**sama.RECIPES, **icve.RECIPES, **bernini.RECIPES}, "tiny")
    if gpus is not None and gpus < 1:
        raise UserError(f"--gpus must be 1 or more, not {gpus}.")
    out = out or Path("runs") / recipe
    saved = out / "config.yaml"
    if not dry_run and not encode:
        check_folder(out, resume, config)
        if resume:
            check_stage(out, recipe)
    elif config is not None and not config.is_file():
        raise UserError(f"There is no file {config}; check the name.")

    import torch.distributed

    from opensama.training.train_editor import encode_data, plan_editor, train_editor

    kind = type(asked)
    chosen = from_file(saved if resume else config, kind) if resume or config else asked
    settings = chosen.model_dump()
    if data is not None:
        settings["data"]["manifest"] = data
    for assignment in set or []:
        assign(settings, assignment, "optimizer.lr=1e-5")
    final = validated_settings(kind, settings)

    rank, world = runtime.rank(), runtime.world_size()

    with log_lines("opensama") if rank == 0 else contextlib.nullcontext():
        if dry_run:
            done = plan_editor(final, gpus=gpus).table()
        elif encode:
            latents = out / "latents"
            bad = encode_data(final, latents, device=device, rank=rank, world=world)
            left = how_many(len(bad), "item")
            done = f"encoded: {latents}, {left} left out; use it with --set data.latents={latents}"
        else:
            done = f"trained: {train_editor(final, out, name=recipe, device=device)}"
    if rank == 0:
        print(done)
    if world > 1 and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@app.command(name="tiny")
def tiny_command(
    *,
    out: Annotated[Path | None, OUT] = None,
    minutes: float | None = None,
    resume: Annotated[bool, Parameter(negative=())] = False,
    recipe: str | None = None,
    config: Path | None = None,
    set: Annotated[list[str] | None, Parameter(negative=(), consume_multiple=True)] = None,
    start_from: Path | None = None,
    device: str | None = None,
) -> None:
    """Train an embedded model: tiny from nothing, or with --recipe icve an ICVE beside its frozen parts.

    Parameters
    ----------
    out
        The run's folder: settings, checkpoints, and at the end the model in its folder `model`. By default runs/RECIPE.
    minutes
        Minutes that the whole run may take, drawing and saving included, shared out as the recipe's stages share
        theirs. By default each stage has its own minutes, and drawing comes on top.
    resume
        Go on with the run in that folder, with its own settings.
    recipe
        tiny (what made tiny: autoencoder, text and image encoders, image edits, video edits); core (with --start-from,
        for days: the world's core from pictures and windows of edits) or core-gpu (the same for minutes of a GPU);
        decoder (with --start-from, an hour: the autoencoder's decoder alone); icve (what made tiny-icve: unpaired
        clips, image edits, video edits, with tiny's autoencoder and text encoder, which stay as they are) and
        icve-core (core for an ICVE); smoke or icve-smoke (a minute, to see that everything works). By default tiny.
    config
        Settings from a YAML file, such as another run's config.yaml, in place of a recipe.
    set
        Settings, as in --set images.minutes=10 videos.minutes=0; may be given more than once.
    start_from
        A model folder of the recipe's family to train further, in place of starting from nothing. A run that goes on
        knows its own.
    device
        Where to compute, such as cpu or cuda:1. By default the best there is.
    """
    began = time.monotonic()  # the minutes are those of the whole command: PyTorch takes seconds to load
    out = out or Path("runs") / (recipe or "tiny")
    saved = out / "config.yaml"
    check_folder(out, resume, config)

    from opensama.recipes.tiny import RECIPES
    from opensama.training.embedded_config import TinyConfig

    asked = find_recipe(recipe or "tiny", RECIPES)
    chosen = from_file(saved if resume else config, TinyConfig) if resume or config else asked
    if recipe and chosen.family != asked.family:
        raise UserError(f"The run in {out} is of another family than the recipe {recipe}: leave --recipe away.")
    settings = chosen.model_dump()
    if minutes is not None:
        if not 0 < minutes < 1e6:
            raise UserError(f"The minutes must be a positive number, not {minutes}.")
        settings["minutes"] = minutes
    if start_from is not None:
        settings["start_from"] = start_from.absolute()
    for assignment in set or []:
        assign(settings, assignment, "images.minutes=10")
    final = validated_settings(TinyConfig, settings)
    final.check_start()  # before PyTorch is loaded
    chosen_device = runtime.pick_device(device)
    from opensama.training.tiny import train_tiny

    with log_lines("opensama"):
        model = train_tiny(final, out, device=chosen_device, began=began)
    print(f"trained: {model} (try it: opensama edit VIDEO INSTRUCTION --model {model})")


def find_recipe(name: str, recipes: Mapping[str, Settings], *others: str) -> Settings:
    """A recipe by name. UserError names the nearest of them and of `others`."""
    if name not in recipes:
        raise UserError(f"There is no recipe {name!r}; {nearest(name, [*others, *recipes])}")
    return recipes[name]


def check_folder(out: Path, resume: bool, config: Path | None) -> None:
    """UserError where the folder, --resume and --config do not go together."""
    saved = out / "config.yaml"
    if saved.exists() and not resume:
        raise UserError(f"{out} holds a run; go on with it by --resume, or choose another folder with --out.")
    if resume and not saved.exists():
        raise UserError(f"{out} holds no run to go on with; leave --resume away to begin one.")
    if resume and config is not None:
        raise UserError("A run goes on with its own settings; leave --config away, or begin another with --out.")
    if config is not None and not config.is_file():
        raise UserError(f"There is no file {config}; check the name.")
    check_writable_folder(out)


def check_stage(out: Path, recipe: str) -> None:
    """UserError where the run in that folder was begun by another recipe, whose model would be overwritten."""
    begun = sorted(file.parent.name for file in out.glob("*/metrics.jsonl"))
    if begun and recipe not in begun:
        raise UserError(
            f"The run in {out} is one of {', '.join(begun)}, not of {recipe}: name it so, or choose another folder."
        )


def from_file(path: Path | None, kind: type[Settings]) -> Settings:
    """Settings as a run saved them."""
    import yaml

    assert path is not None
    try:
        values = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        reason = f"line {mark.line + 1}: {error.problem}" if mark else str(error).splitlines()[0]  # type: ignore[union-attr]
        raise UserError(f"{path} is not YAML ({reason}); mend it.") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no settings; give a file like a run's config.yaml.")
    return validated_settings(kind, values)


def assign(settings: dict[str, object], assignment: str, example: str) -> None:
    """Carries out `images.minutes=10` on nested settings."""
    import yaml

    key, equals, value = assignment.partition("=")
    *path, last = key.strip().split(".")
    if not equals:
        raise UserError(f"--set wants an existing setting and a value, as in {example}, not {assignment!r}.")
    if path == ["lora"] and settings.get("lora", 0) is None:  # its first field switches it on
        from opensama.training.config import LoraSettings

        settings["lora"] = LoraSettings().model_dump()
    place: object = settings
    for depth, part in enumerate([*path, last]):
        if not isinstance(place, dict) or part not in place:
            known = list(place) if isinstance(place, dict) else []
            where = ".".join(path[:depth]) or "the recipe"
            hint = nearest(part, known) if known else "it has no parts."
            raise UserError(f"--set {assignment} names no setting: {where} has no {part!r}; {hint}")
        holder, place = place, place[part]
    try:
        read = yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"The value in --set {assignment!r} cannot be read; give a number or a word.") from None
    if isinstance(read, str):  # YAML reads 1e-5 as a word
        with contextlib.suppress(ValueError):
            read = float(read)
    holder[last] = read


def validated_settings(kind: type[Settings], values: dict[str, object]) -> Settings:
    """Settings checked by their own model; what is wrong becomes one sentence."""
    from pydantic import ValidationError

    try:
        return kind(**values)
    except ValidationError as error:
        faults = [run_sentence(kind, fault["loc"], fault["type"], fault["msg"]) for fault in error.errors()]
        said = "; ".join(faults[:4])
        raise UserError(f"These settings do not work: {said}{'' if said.endswith('?') else '.'}") from None


def run_sentence(kind: type[BaseModel], place: tuple[int | str, ...], fault: str, message: str) -> str:
    """One fault of settings; for an unknown field, the nearest that there is."""
    name = ".".join(map(str, place))
    message = message.removeprefix("Value error, ")
    if fault != "extra_forbidden":
        return f"{name}: {message}" if name else message
    fields: Mapping[str, FieldInfo] = kind.model_fields
    for part in place[:-1]:
        section = fields[str(part)].annotation
        section = next((a for a in getattr(section, "__args__", ()) if hasattr(a, "model_fields")), section)
        fields = getattr(section, "model_fields", {})
    return f"there is no setting {name}; {nearest(str(place[-1]), fields).rstrip('.')}"
