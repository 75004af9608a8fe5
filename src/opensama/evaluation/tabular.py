"""Files of benchmarks: tables of any form, sources that their rows name, and edits that somebody laid into a folder.

What is wrong with one row or one file is a `Fault` beside the rest, never the end: a benchmark with holes is scored,
and its holes are reported. A folder that is not this benchmark at all is a `UserError`.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

from opensama.data.dialects import detect, open_text, records
from opensama.data.rows import BadRow
from opensama.evaluation.items import BenchmarkItem, Fault
from opensama.first_bytes import check_first_bytes
from opensama.media import VIDEO_SUFFIXES
from opensama.values import UserError

TabularRow = Mapping[str, object]
EDIT_SUFFIXES = (*VIDEO_SUFFIXES, ".gif")
_HINTS = 40  # files of which it is asked whose they may be

SOURCE_COLUMNS = (
    "source", "source_video", "src_video", "original_video", "source_path", "input_video", "video", "video_path",
)  # fmt: skip
INSTRUCTION_COLUMNS = ("instruction", "edit_prompt", "prompt", "edit_instruction", "instruct", "text")
TASK_COLUMNS = ("task", "type", "edit_type", "edited_type", "category", "edit_task")
ID_COLUMNS = ("id", "index", "iid", "name")


def tabular_rows(
    path: Path, columns: tuple[str, ...] = (), faults: list[Fault] | None = None
) -> list[dict[str, object]]:
    """The rows of a .csv (of any dialect), .jsonl or .json (a list, or a dictionary whose keys come out as `key`).

    A line of a .csv that cannot be read is added to `faults`; without these it is a UserError.
    """
    text = read_text(path)
    try:
        if path.suffix.lower() == ".csv":
            rows: object = _separated(path, faults)
        elif path.suffix.lower() == ".jsonl":
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            rows = json.loads(text)
            if isinstance(rows, dict):
                rows = [{"key": key} | value for key, value in rows.items() if isinstance(value, dict)]
    except ValueError as error:
        raise UserError(f"{path} cannot be read as a table ({error}): get it again.") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path} is not a list of rows with names: get it again.")
    if rows and (lacking := [name for name in columns if not any(name in row for row in rows)]):
        raise UserError(f"{path} has no column {lacking[0]!r}: it has {', '.join(map(str, rows[0]))}.")
    return [dict.fromkeys(columns) | row for row in rows]


def _separated(path: Path, faults: list[Fault] | None) -> list[dict[str, str]]:
    """Rows by the names in the first one."""
    names: list[str] = []
    rows = []
    with open_text(path) as file:
        for line, fields in records(file, detect(path)):
            if not isinstance(fields, BadRow):
                rows += [dict(zip(names, fields, strict=True))] if names else []
                names = names or fields
            elif faults is None:
                raise UserError(f"Line {line} of {path} cannot be used: {fields.reason}; mend it.")
            else:
                faults.append(Fault(f"{path.name} line {line}", fields.reason))
    return rows


def read_text(path: Path) -> str:
    check_first_bytes(path)
    try:
        return path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"There is no {path}: is this the benchmark's folder?") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason}): get it again.") from error


def locate_source(folder: Path, said: str, name: str, faults: list[Fault]) -> Path | None:
    """The source that a row names, below the folder or one named `videos`; a fault where it is not there."""
    parts = PurePosixPath(said.replace("\\", "/").removeprefix("./"))
    if not parts.name:
        faults.append(Fault(name, "names no source video"))
        return None
    if parts.is_absolute() or ".." in parts.parts:
        faults.append(Fault(name, f"names a source outside the benchmark: {said}"))
        return None
    for place in (folder / parts, folder / "videos" / parts, folder / f"{parts}.mp4", folder / parts.with_suffix("")):
        if place.exists():
            return place
    faults.append(Fault(name, f"its source is not there: {parts}"))
    return None


def safe_id(said: object) -> str:
    """What a row calls itself, as a file may be called."""
    return re.sub(r"[^\w.+-]+", "_", str(said)).strip("._") or "unnamed"


def first_value(row: TabularRow, names: tuple[str, ...]) -> str:
    return next((str(row[name]).strip() for name in names if row.get(name) not in (None, "")), "")


# --- edits in a folder


def check_edits(folder: Path) -> None:
    """UserError where there is no such folder."""
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder} of edited videos: check the name.")


def match_edits(
    items: Iterable[BenchmarkItem], names: Mapping[str, tuple[str, ...]], folder: Path, not_edits: Sequence[str] = ()
) -> tuple[dict[str, Path | None], list[Fault]]:
    """Each item's edit below a folder, or None, by the `names` that its file may have.

    Faults say which items have none, which files nobody asks for (with what they may have meant) and which names are
    asked for twice.
    """
    check_edits(folder)
    at: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in EDIT_SUFFIXES and file.is_file() and file.name not in not_edits:
            at.setdefault(_plain(file.name), []).append(file)
    found: dict[str, Path | None] = {}
    missing: dict[str, BenchmarkItem] = {}
    owner: dict[Path, str] = {}
    faults: list[Fault] = []
    for item in items:
        candidates = (_nearest(wanted, item, at, folder) for wanted in names[item.id])
        path = next((candidate for candidate in candidates if candidate), None)
        found[item.id] = None
        if path is None:
            missing[names[item.id][0]] = item
        elif path in owner:
            faults.append(
                Fault(item.id, f"its edit would be {_inside(path, folder)}, which is the edit of {owner[path]}")
            )
        else:
            found[item.id], owner[path] = path, item.id
    left = [path for paths in at.values() for path in paths if path not in owner]
    for index, extra in enumerate(left):
        near = get_close_matches(extra.name, missing, 1, 0.7) if index < _HINTS else []
        meant = f"; did you mean {near[0]}, the edit of {missing[near[0]].id}?" if near else ""
        faults.append(Fault(_inside(extra, folder), f"no item's edit is called so{meant}"))
    faults += [Fault(item.id, f"has no edit: there is no {wanted}") for wanted, item in missing.items()]
    return found, faults


def _nearest(wanted: str, item: BenchmarkItem, at: Mapping[str, list[Path]], folder: Path) -> Path | None:
    """The file of that name: where it lies several times, the one below a folder named as the item's task or subset."""
    name = PurePosixPath(_plain(wanted))
    paths = [
        path for path in at.get(name.name, []) if path.parts[-len(name.parts) :] == name.parts or _same(path, name)
    ]
    if len(paths) > 1:
        mine = {item.task, item.notes.get("subset", ""), item.id}
        paths = [path for path in paths if mine & set(path.relative_to(folder).parts[:-1])] or paths
    return paths[0] if paths else None


def _same(path: Path, name: PurePosixPath) -> bool:
    return tuple(_plain(part) for part in path.parts[-len(name.parts) :]) == name.parts


def _plain(name: str) -> str:
    """A file's name with letters composed: some disks take them apart."""
    return unicodedata.normalize("NFC", name)


def _inside(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
