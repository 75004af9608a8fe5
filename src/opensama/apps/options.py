"""Options that every command has in one form.

`--number` and `-n` say how many. `--out`, `--output` and `-o` are one: the file or the folder that a command writes.
What is there is never replaced unless `--overwrite` says so. A run's folder is gone on with where the command says that
it goes on (`train --resume`, benchmarks, curation, reproduction).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

from cyclopts import Parameter

from opensama.values import UserError

OUT = Parameter(name=["--out", "--output", "-o"])
OVERWRITE = Parameter(negative=())
HOW_MANY = Parameter(name=["--number", "-n"])
"""How many of what a command does or shows."""


_SETTING = re.compile(r"`([a-z_.][a-z0-9_.]*)(?:=([^`\s]+))?`")
_OPTIONS = {
    "columns": "--column",
    "data.manifest": "--data",
    "references": "--reference",
    "regions": "--region",
}  # settings that have another name in Python


def as_options(sentence: str) -> str:
    """A sentence of the library as a person at the command line needs it: `anyway=True` is --anyway there, and
    `offload=group` --offload group.

    Below `apps` sentences name settings as Python does, each in backquotes.
    """

    def option(found: re.Match[str]) -> str:
        name, value = found.groups()
        flag = _OPTIONS.get(name) or "--" + name.replace("_", "-")
        return flag if value in (None, "True") else f"{flag} {value}"

    return _SETTING.sub(option, sentence)


def check_free(place: Path, overwrite: bool, option: str = "--out") -> None:
    """UserError where a file or a folder with something in it is there, which a command would write over."""
    try:
        taken = place.exists() and not (place.is_dir() and not any(place.iterdir()))
    except PermissionError:
        raise UserError(f"{place} may not be read; choose another with {option}.") from None
    if taken and not overwrite:
        held = "holds something" if place.is_dir() else "exists"
        raise UserError(f"{place} {held}; choose another with {option}, or write over it with --overwrite.")


def check_json(
    place: Path | None, used: Iterable[str | Path] = (), *, overwrite: bool = False, known_by: str = ""
) -> None:
    """UserError where the file that `--json` names cannot be written, is one of those `used`, or holds something else.

    What is there is replaced where `overwrite` says so, or where it is an object of JSON with the key `known_by`, which
    is how a run that goes on knows its own file.
    """
    if place is None:
        return
    if not place.absolute().parent.is_dir():
        raise UserError(f"There is no folder {place.absolute().parent}; make it first.")
    if place.is_dir():
        raise UserError(f"{place} is a folder; give --json the name of a file.")
    if os.path.realpath(place) in {os.path.realpath(path) for path in used}:
        raise UserError(f"{place} is read or written by this command itself; choose another name with --json.")
    if place.exists() and not (overwrite or (known_by and _holds(place, known_by))):
        how = "" if known_by else ", or write over it with --overwrite"
        raise UserError(f"{place} exists; choose another name with --json{how}.")


def _holds(path: Path, key: str) -> bool:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and key in found


def check_writable_folder(folder: Path, option: str = "--out") -> None:
    """UserError unless the folder is there or can be made, and may be written into. Makes nothing."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise UserError(f"{there} is a file, where a folder belongs; choose another with {option}.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"The folder {there} is not writable; choose another with {option}.")
