"""Options that every command has in one form.

`--out`, `--output` and `-o` are one: the file or the folder that a command writes. What is there is never replaced
unless `--overwrite` says so. A run's folder is gone on with where the command says that it goes on (`train --resume`,
benchmarks, curation, reproduction).
"""

from __future__ import annotations

import os
from pathlib import Path

from cyclopts import Parameter

from opensama.values import UserError

OUT = Parameter(name=["--out", "--output", "-o"])
OVERWRITE = Parameter(negative=())


def check_free(place: Path, overwrite: bool, option: str = "--out") -> None:
    """UserError where a file or a folder with something in it is there, which a command would write over."""
    try:
        taken = place.exists() and not (place.is_dir() and not any(place.iterdir()))
    except PermissionError:
        raise UserError(f"{place} may not be read; choose another with {option}.") from None
    if taken and not overwrite:
        held = "holds something" if place.is_dir() else "exists"
        raise UserError(f"{place} {held}; choose another with {option}, or write over it with --overwrite.")


def check_room(folder: Path, option: str = "--out") -> None:
    """UserError unless the folder is there or can be made, and may be written into. Makes nothing."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise UserError(f"{there} is a file, where a folder belongs; choose another with {option}.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"The folder {there} is not writable; choose another with {option}.")
