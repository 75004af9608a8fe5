"""The edit that a file tells of, made again: everything that it needs is found and held against what was told first.

What a file tells is from outside. Only settings are taken from it, each checked as one that a table gives; files are
looked for by plain names beside the file and its source, and must have the SHA-256 that was told.
"""

from __future__ import annotations

import filecmp
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from opensama.apps.batch_table import value_of
from opensama.apps.edit import edit_command
from opensama.apps.edit_checks import parse_regions
from opensama.apps.edit_settings import EditSettings, LoadSettings
from opensama.apps.jobs.words import SETTINGS
from opensama.runtime import lora_and_scale
from opensama.values import EditRecord, MadeWith, UserError


@dataclass(frozen=True)
class Repetition:
    """An edit to make again, ready to be made."""

    file: Path
    record: EditRecord
    source: Path
    instruction: str
    model: str
    settings: EditSettings
    load_settings: LoadSettings

    @classmethod
    def of(
        cls,
        file: Path,
        record: EditRecord | None,
        source: Path | None,
        instruction: str | None,
        model: str | None,
        load_settings: LoadSettings,
    ) -> Repetition:
        """UserError for what the file does not tell or is not found, and for what is other than it was."""
        if record is None:
            raise UserError(f"{file} says nothing of an edit by OpenSAMA, so there is none to repeat.")
        if "shows" in record:
            raise UserError(f"{file} shows {record['shows']}, so it cannot be repeated: give a whole result.")
        said = instruction or record.get("instruction")
        if said is None:
            raise UserError(
                f"{file} does not tell its instruction: give it with `instruction`. (A file tells it where it was made "
                "with `record=instruction`.)"
            )
        told = record.get("source")
        if told is None:
            raise UserError(f"{file} was made of frames in memory, which nobody can find again.")
        if source is not None:
            _check_same(source, told)
        found = source if source is not None else _found(file, told, (file.parent,), "source")
        beside = tuple(dict.fromkeys((file.parent, found.parent)))
        settings = _settings(file, record["settings"], beside)
        settings = replace(settings, record="instruction" if "instruction" in record else "settings")
        made_with = record["model"]
        name = model or str(made_with.get("name"))
        return cls(file, record, found, said, name, settings, _check_model(file, name, made_with, load_settings))

    def run(self, out: Path, overwrite: bool, anyway: bool) -> int:
        """Makes it, and says whether the result is the same."""
        code = edit_command(
            [str(self.source)], self.instruction, out=str(out), model=self.model, settings=self.settings,
            overwrite=overwrite, anyway=anyway, load_settings=self.load_settings,
        )  # fmt: skip
        if code == 0:
            print(f"repeated: {self._compared(out)}")
        return code

    def _compared(self, out: Path) -> str:
        from opensama import __version__
        from opensama.media.video_io import read_video

        if filecmp.cmp(self.file, out, shallow=False):
            return f"every byte is as in {self.file}"
        before, after = read_video(self.file), read_video(out)
        if before.shape == after.shape:
            pairs = zip(before.frames(), after.frames(), strict=True)
            other = sum(not np.array_equal(one, two) for one, two in pairs)
            if not other:
                return f"all {after.frame_count} frames are as in {self.file}"
            said = f"{other} of {after.frame_count} frames differ from {self.file}"
        else:
            said = f"its frames are others than in {self.file}"
        version = self.record.get("opensama")
        made = f"by OpenSAMA {version}, this by {__version__}" if version != __version__ else "on another machine"
        return f"{said}: was it made {made}, or changed since?"


def _settings(file: Path, told: Mapping[str, object], beside: Sequence[Path]) -> EditSettings:
    found: dict[str, Any] = {}
    for name, value in told.items():
        if name == "mask":
            found[name] = _found(file, value, beside, "mask")
        elif name == "references" and isinstance(value, list):
            found[name] = tuple(_found(file, one, beside, "reference") for one in value)
        elif name == "regions" and isinstance(value, list):
            found[name] = tuple(_region(file, one, beside) for one in value)
        elif name in SETTINGS and not (name == "split" and value != "rules"):  # never an address
            found[name] = value_of(name, value)
        else:
            raise UserError(f"{file} was made with the setting {str(name)[:40]!r}, which this version does not know.")
    return EditSettings(**found)


def _region(file: Path, told: object, beside: Sequence[Path]) -> str:
    """A box or a mask of one edit, as the command takes it."""
    if isinstance(told, str) and all(isinstance(one, tuple) for one in parse_regions([told]).values()):
        return told
    if not isinstance(told, dict) or not isinstance(told.get("edit"), int):
        raise UserError(f"{file} names a region that is none.")
    return f"{told['edit']}:{_found(file, told, beside, 'mask')}"


def _found(file: Path, told: object, folders: Sequence[Path], what: str) -> Path:
    """The file that was told of, in one of the folders. UserError where it is not there, or is another now."""
    told = told if isinstance(told, dict) else {}
    name = told.get("name")
    if not isinstance(name, str) or not name or "\0" in name or Path(name).name != name or name in (".", ".."):
        raise UserError(f"{file} names no {what} that can be found again.")
    for folder in folders:
        if (folder / name).exists():
            _check_same(folder / name, told)
            return folder / name
    how = "name it with `source`" if what == "source" else "put it there"
    raise UserError(f"The {what} {name} does not lie beside {file}: {how}.")


def _check_same(path: Path, told: Mapping[str, object]) -> None:
    from opensama.media.video_io.edit_record import sha256_of
    from opensama.media.video_io.opening import check_readable

    if not path.is_dir():
        check_readable(path)
    if sha256_of(path) != told.get("sha256"):
        raise UserError(f"{path} is not the file that was edited with, or has changed since; give that one.")


def _check_model(file: Path, name: str, told: MadeWith, given: LoadSettings) -> LoadSettings:
    """The settings to load it with. UserError for other weights than it was made with, as far as these are known."""
    from opensama.models.registry import find, is_editor
    from opensama.pipeline.recording import weights_named

    if not is_editor(name):
        raise UserError(
            f"{file} was made with the model {name[:80]!r}, which is not here: give its folder with `model`."
        )
    entry, loras = find(name), [lora_and_scale(text) for text in given.lora or ()]
    wanted = [f"{one.get('name')}:{one.get('scale')}" for one in told.get("loras") or ()]
    if len(wanted) != len(loras):
        how = f"with the LoRA {' and '.join(wanted)}" if wanted else "without a LoRA"
        raise UserError(f"{file} was made {how}: give `lora` so.")
    if entry.folder is not None or given.weights is not None:  # others are the hub's
        now = weights_named(entry, given.weights, loras)
        if any(now.get(key, []) != (told.get(key) or []) for key in ("weights", "loras") if key in told):
            raise UserError(f"The weights of {name} are others than {file} was made with: give these with `model`.")
    return replace(given, dtype=given.dtype or told.get("dtype"), float8=given.float8 or told.get("float8") is True)
