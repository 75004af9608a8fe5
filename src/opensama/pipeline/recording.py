"""What an edit says of itself: the model, its weights and LoRAs, and the settings that repeat it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from opensama import __version__, runtime
from opensama.media.video_io.edit_record import file_named, sha256_of
from opensama.models.lora_files import Lora
from opensama.models.registry import ModelEntry
from opensama.pipeline.split_rules import join_edits, split_by_rules
from opensama.values import EditRecord, EditRequest, MadeWith, NamedFile

_MOST = 1 << 30
"""Bytes of the largest file of weights that is read for its SHA-256: two seconds. The hub's cache knows it of any."""
_SETTINGS = ("guidance", "shift", "source_guidance", "negative_prompt", "size", "task", "model_fps", "preserve")


def record_of(entry: ModelEntry, request: EditRequest, steps: int, device: str, made_with: MadeWith) -> EditRecord:
    """An edit's record: settings by the names that the command has them under, those at their defaults left out."""
    settings: dict[str, object] = {"seed": request.seed, "steps": steps}
    instruction = request.instruction
    settings |= {name: value for name in _SETTINGS if (value := getattr(request, name)) is not None}
    if request.frames is not None:
        settings["frames"] = "{}:{}".format(*request.frames)
    if request.box is not None:
        settings["box"] = ",".join(map(str, request.box))
    if request.mask is not None:
        settings["mask"] = _named(request.mask)
    if request.references:
        settings["references"] = [_named(one) for one in request.references]
    if request.edits:
        said = tuple(edit.instruction for edit in request.edits)
        instruction = instruction if split_by_rules(instruction) == said else join_edits(said)
        settings["split"] = "rules"  # which find these edits in the instruction again
        regions = list[object]()
        for number, edit in enumerate(request.edits, 1):
            if edit.box is not None:
                regions.append(f"{number}:{','.join(map(str, edit.box))}")
            elif edit.mask is not None:
                regions.append({"edit": number} | _named(edit.mask))
        settings |= ({"regions": regions} if regions else {}) | ({"one_pass": True} if request.one_pass else {})
    if request.speed != "exact":
        settings["speed"] = request.speed
    if request.background != "white":
        settings["background"] = request.background
    if request.alpha != "flatten":
        settings["alpha"] = request.alpha
    return {
        "opensama": __version__, "model": {"name": _model_name(entry), **made_with}, "device": device,
        "instruction": instruction, "settings": settings,
    }  # fmt: skip


def _model_name(entry: ModelEntry) -> str:
    """As it may be asked for again; of a model's folder or file only its own name."""
    if (place := entry.folder or entry.file) is not None and Path(entry.name) == place:
        return place.resolve().name
    preset = next((name for name, defaults in entry.presets.items() if defaults == entry.defaults), None)
    return entry.name if preset is None else f"{entry.name}:{preset}"


def weights_named(entry: ModelEntry, weights: str | Path | None, loras: Sequence[Lora]) -> MadeWith:
    """The SHA-256 of each file of the transformer's weights, and of the LoRAs, with their scales; None of what is too
    large to be read for it."""
    found = {name: _cheap_sha256(path) for name, path in _weight_files(entry, weights)}
    told: MadeWith = {"weights": found}
    if loras:
        told["loras"] = [
            {"name": Path(path).name, "scale": scale, "sha256": _cheap_sha256(_lora_file(Path(path)))}
            for path, scale in loras
        ]
    return told


def _weight_files(entry: ModelEntry, weights: str | Path | None) -> Iterator[tuple[str, Path]]:
    if weights is not None or entry.file is not None:
        folder = Path(weights or entry.file or "").expanduser()
    elif entry.folder is not None:
        folder = entry.folder
    else:
        assert entry.edit is not None
        folder = runtime.locate(entry.edit.repo, entry.edit.files)
    if folder.is_file():
        yield folder.name, folder
        return
    found = sorted(folder.glob("transformer*/*.safetensors")) or sorted(folder.glob("*.safetensors"))
    for path in found:
        yield path.relative_to(folder).as_posix(), path


def _lora_file(path: Path) -> Path:
    return path if path.is_file() else next(iter(sorted(path.rglob("*.safetensors"))), path)


def _cheap_sha256(path: Path) -> str | None:
    real = path.resolve()
    if real.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", real.name):  # of the hub's cache
        return real.name
    return sha256_of(real) if real.is_file() and real.stat().st_size <= _MOST else None


def _named(picture: Path | str | np.ndarray) -> NamedFile:
    """A file by its name and SHA-256; of an array nothing can be told that would find it again."""
    return {"name": ""} if isinstance(picture, np.ndarray) else file_named(Path(picture))
