"""`opensama models`: which models there are, what each needs, and released weights made ours and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from opensama.apps.options import OVERWRITE
from opensama.values import UserError

if TYPE_CHECKING:
    from opensama.models.registry import ModelEntry

app = App(name="models", help="The models: list, explain, convert.")


@app.command(name="list")
def list_models() -> None:
    """List the models by name, and say whether their weights are on this machine."""
    from opensama.models.registry import entries

    rows = [
        (entry.name, "here" if is_here(entry) else "missing" if entry.folder else "to download", entry.summary)
        for entry in entries()
    ]
    names, states = (max(len(row[i]) for row in rows) for i in (0, 1))
    for name, state, summary in rows:
        print(f"{name:<{names}}  {state:<{states}}  {summary}")
    print("A folder written by a pipeline's save_pretrained is a model too, and a single file: --model PATH.")


@app.command
def info(name: str, /) -> None:
    """Explain one model: licence, memory, weights and default settings.

    Parameters
    ----------
    name
        A name that `opensama models list` shows, one with a preset (NAME:PRESET), a pipeline folder, or a file of
        weights.
    """
    from opensama.models.registry import WORDS_FILE, find
    from opensama.pipeline.room import is_cached

    entry = find(name)
    print(f"{entry.name}: {entry.summary}")
    for line in strengths(entry):
        print(f"  {line}")
    rows = {"styles it was taught": ", ".join(entry.styles)} if entry.styles else {}
    rows["licence"] = " ".join(part for part in (entry.licence.name, entry.licence.url) if part)
    if entry.licence.notice:
        rows["notice"] = entry.licence.notice
    rows["memory"] = entry.memory
    if entry.folder is not None:
        rows["folder"] = f"{entry.folder} ({'here' if is_here(entry) else 'missing'})"
        if (entry.folder / WORDS_FILE).is_file():
            rows["words it knows"] = f"listed in {entry.folder / WORDS_FILE}"
    if entry.shared is not None:
        rows["parts that it shares"] = f"its other parts are those in {entry.shared}"
    for part in filter(None, (entry.base, entry.edit)):
        state = "here" if is_cached(part) else f"to download, {part.size}"
        listed = f"{', '.join(part.files) or 'all files'} ({state})"
        before = rows.get(f"weights from {part.repo}")  # where both parts are of one repository
        rows[f"weights from {part.repo}"] = f"{before}; {listed}" if before else listed
    if entry.presets:
        rows["presets"] = ", ".join(f"{entry.name}:{preset}" for preset in entry.presets)
    settings = entry.defaults.to_dict()
    rows |= {key.replace("_", " "): f"{value!r}" for key, value in settings.items() if value is not None}
    for key, value in rows.items():
        print(f"  {key}: {value}")


@app.command
def convert(
    source: Path,
    out: Path,
    /,
    *,
    family: str | None = None,
    config: Path | None = None,
    to: Literal["ours", "released", "comfyui", "fp8", "gguf"] = "ours",
    quantization: str = "q8_0",
    overwrite: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Convert published weights into a transformer's folder, or a transformer into a file that other tools read.

    Parameters
    ----------
    source
        A single file (or a folder of shards) with the released names or ComfyUI's, or a transformer's folder.
    out
        The folder to write with --to ours, else the file.
    family
        Which family the weights are of: sama, icve or bernini. By default what their names say.
    config
        A JSON file with the model's sizes, where neither the file nor its tensors say them.
    to
        What to write: ours is a transformer's folder as diffusers has it; released is a file with the names of the
        model's authors, comfyui one with the names that ComfyUI reads, fp8 the same with the blocks' matrices in 8 bits
        and a scale for each, gguf one for ComfyUI-GGUF.
    quantization
        What the blocks' matrices become in a GGUF file: q8_0, q5_1, q5_0, q4_1, q4_0 or bf16.
    overwrite
        Replace what is at OUT.
    """
    from opensama.models.families import find_family

    if family is not None:
        find_family(family)
    if not source.exists():
        raise UserError(f"There is no file or folder {source}; check the name.")
    if out.exists() and not overwrite:
        raise UserError(f"{out} exists; choose another name, or write over it with --overwrite.")
    from opensama.models.convert import convert_released, convert_to_file

    if to == "ours":
        written = convert_released(source, out, family, config)
    else:
        written = convert_to_file(source, out, to, family, config, quantization=quantization)
    print(f"written: {written}")


@app.command
def convert_lora(
    source: Path,
    out: Path,
    /,
    *,
    to: Literal["diffusers", "comfyui", "kijai", "musubi"] = "comfyui",
    family: str | None = None,
    config: Path | None = None,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> None:
    """Convert a LoRA into a file of another tool's layout.

    Parameters
    ----------
    source
        A file of any layout that --lora takes, or the folder that training wrote.
    out
        The file to write.
    to
        Whose layout.
    family
        Which family's model it is for: sama, icve or bernini. By default the first that it fits.
    config
        The config.json of its model's transformer, where that has not the sizes of a known one.
    """
    if not source.exists():
        raise UserError(f"There is no file or folder {source}; check the name.")
    if out.exists() and not overwrite:
        raise UserError(f"{out} exists; choose another name, or write over it with --overwrite.")
    from opensama.models.lora_convert import convert_lora_file

    print(f"written: {convert_lora_file(source, out, to, family, config)}")


@app.command
def card(folder: Path, /, *, scores: Path | None = None, overwrite: Annotated[bool, OVERWRITE] = False) -> None:
    """Write an embedded model's card (README.md) from its folder, the notes of its training and its scores.

    Parameters
    ----------
    folder
        A folder written by `opensama train tiny`.
    scores
        What `opensama evaluate world --json` wrote; the folder keeps a summary of it. By default the kept one.
    overwrite
        Replace the card, and with --scores the kept summary, where they exist.
    """
    from opensama.apps.card import SCORES, keep_scores, write_card

    if not (folder / "model_index.json").is_file():
        raise UserError(f"{folder} is no model folder (it has no model_index.json); check the name.")
    for name in ("README.md", *([SCORES] if scores is not None else [])):
        if (folder / name).exists() and not overwrite:
            raise UserError(f"{folder / name} exists; write over it with --overwrite.")
    if scores is not None:
        keep_scores(scores, folder)
    (folder / "README.md").write_text(write_card(folder))
    print(f"written: {folder / 'README.md'}")


def strengths(entry: ModelEntry) -> list[str]:
    """What a model is good and bad at, by its scores on the drawn world and the notes of its training."""
    from opensama.runtime import read_object

    if entry.folder is None:
        return ["good and bad at: we have not measured it; its authors' pages show what it does"]
    scores, training = (entry.folder / name for name in ("scores.json", "training.json"))
    lines = []
    if scores.is_file():
        families = read_object(scores).get("families", {})
        right = sorted(((row["success"], name) for name, row in families.items()), reverse=True)
        for title, listed in (
            ("often right", [f"{name} ({success:.0%})" for success, name in right if success >= 0.5]),
            ("sometimes right", [f"{name} ({success:.0%})" for success, name in right if 0.1 <= success < 0.5]),
            ("hardly ever right", [name for success, name in right if success < 0.1]),
        ):
            if listed:
                lines.append(f"{title} on drawings: {', '.join(listed)}")
    if entry.footage:
        lines.append(f"on footage: {', '.join(entry.footage)}; little else comes out")
    if training.is_file():
        lines.append("limits: " + " ".join(str(read_object(training).get("limits", "")).split()))
    return lines


def is_here(entry: ModelEntry) -> bool:
    """Whether a model can be loaded without a download."""
    from opensama.pipeline.room import is_cached

    if entry.folder is not None:
        return all((folder / "model_index.json").is_file() for folder in (entry.folder, entry.shared) if folder)
    return all(is_cached(part) for part in (entry.base, entry.edit) if part is not None)
