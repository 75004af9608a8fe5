"""`opensama train`: recipes run in a folder, where they can be stopped and go on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from opensama.values import UserError

if TYPE_CHECKING:
    from opensama.training.config import TinyConfig

STAGES = ("autoencoder", "semantic", "images", "videos")

app = App(name="train", help="Train a model.")


@app.command
def tiny(
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])] = Path("runs/tiny"),
    minutes: float | None = None,
    resume: Annotated[bool, Parameter(negative=())] = False,
    recipe: str = "tiny",
    config: Path | None = None,
    set: Annotated[list[str] | None, Parameter(negative=())] = None,
    start_from: Path | None = None,
    device: str | None = None,
) -> None:
    """Train the embedded model from nothing: autoencoder, text and image encoders, image edits, then video edits.

    Parameters
    ----------
    out
        The run's folder: settings, checkpoints, and at the end the model in its folder `model`.
    minutes
        Minutes of training in all, split over the stages as the recipe splits them. By default the recipe's own.
    resume
        Go on with the run in that folder, with its own settings.
    recipe
        tiny (what made the embedded model) or smoke (a minute, to see that everything works).
    config
        Settings from a YAML file, such as another run's config.yaml, in place of a recipe.
    set
        One setting, as in --set images.minutes=10; may be given more than once.
    start_from
        A model folder to train further, in place of starting from nothing.
    device
        Where to compute, such as cpu or cuda:1. By default the best there is.
    """
    saved = out / "config.yaml"
    if saved.exists() and not resume:
        raise UserError(f"{out} holds a run; go on with it by --resume, or choose another folder with --out.")
    if resume and not saved.exists():
        raise UserError(f"{out} holds no run to go on with; leave --resume away to begin one.")
    if resume and config is not None:
        raise UserError("A run goes on with its own settings; leave --config away, or begin another with --out.")
    if config is not None and not config.is_file():
        raise UserError(f"There is no file {config}; check the name.")
    if start_from is not None and not (start_from / "model_index.json").is_file():
        raise UserError(f"{start_from} is no model folder (it has no model_index.json); check the name.")

    from opensama import runtime
    from opensama.training.config import TinyConfig
    from opensama.training.tiny import train_tiny

    chosen = from_file(saved if resume else config) if resume or config else named(recipe)
    settings = chosen.model_dump()
    if minutes is not None:
        settings = spread(settings, minutes)
    for assignment in set or []:
        assign(settings, assignment)
    final = checked(TinyConfig, settings)

    def say(line: str) -> None:
        print(line, flush=True)

    model = train_tiny(final, out, device=runtime.pick_device(device), start_from=start_from, say=say)
    print(f"trained: {model} (try it: opensama edit VIDEO INSTRUCTION --model {model})")


def named(recipe: str) -> TinyConfig:
    """A recipe by name."""
    from opensama.recipes.tiny import RECIPES

    if recipe not in RECIPES:
        raise UserError(f"There is no recipe {recipe!r}; choose {', '.join(RECIPES)}.")
    return RECIPES[recipe]


def from_file(path: Path | None) -> TinyConfig:
    """Settings as a run saved them."""
    import yaml

    from opensama.training.config import TinyConfig

    assert path is not None
    try:
        values = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML ({str(error).splitlines()[0]}); mend it.") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no settings; give a file like a run's config.yaml.")
    return checked(TinyConfig, values)


def spread(settings: dict[str, Any], minutes: float) -> dict[str, Any]:
    """The stages' minutes made to sum to `minutes`, in their own proportion."""
    if not 0 < minutes < 1e6:
        raise UserError(f"The minutes must be a positive number, not {minutes}.")
    whole = sum(settings[stage]["minutes"] for stage in STAGES)
    return settings | {
        stage: settings[stage] | {"minutes": settings[stage]["minutes"] * minutes / whole} for stage in STAGES
    }


def assign(settings: dict[str, Any], assignment: str) -> None:
    """Carries out `images.minutes=10` on nested settings."""
    import yaml

    key, equals, value = assignment.partition("=")
    *path, last = key.strip().split(".")
    place: Any = settings
    for part in path:
        place = place.get(part) if isinstance(place, dict) else None
    if not equals or not isinstance(place, dict) or last not in place:
        raise UserError(f"--set wants an existing setting and a value, as in images.minutes=10, not {assignment!r}.")
    try:
        place[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"The value in --set {assignment!r} cannot be read; give a number or a word.") from None


def checked(kind: type[TinyConfig], values: dict[str, Any]) -> TinyConfig:
    """Settings checked by their own model; what is wrong becomes one sentence."""
    from pydantic import ValidationError

    try:
        return kind(**values)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise UserError(f"These settings do not work: {'; '.join(faults[:4])}.") from None
