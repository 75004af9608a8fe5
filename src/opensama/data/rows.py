"""One row of a table, whatever table it was: names made alike, nested values spread, pictures and paths told apart."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_NOTHING = {"", "none", "null", "nan", "error", "n/a", r"\n"}  # the last is how MySQL and PostgreSQL write NULL
_PLACES = (
    "path",
    "file_path",
    "filepath",
    "file",
    "file_name",
    "filename",
    "video",
    "image",
    "clip",
    "url",
    "src",
    "uri",
)
"""Inner names that say where a column's file lies, the likelier first."""


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be read, and why; or so many of them where they are lost together."""

    reason: str
    rows: int = 1


@dataclass(frozen=True)
class Blob:
    """A picture that lies in the table itself."""

    data: bytes
    suffix: str  # .jpg


TableRow = dict[str, object]


def name_of(column: str) -> str:
    """A column's name as the aliases write it."""
    return re.sub(r"[^a-z0-9]+", "_", column.strip().lower()).strip("_")


def text_of(value: object) -> str:
    """A value as text, empty for the many ways of writing that there is none."""
    if isinstance(value, (list, tuple)):
        value = value[0] if value else ""
    text = value.strip() if isinstance(value, str) else "" if isinstance(value, (Mapping, Blob)) else str(value)
    return "" if value is None or text.lower() in _NOTHING else text


def normalized_row(row: Mapping[object, object]) -> TableRow:
    """A row with its names made alike and nested objects spread; values that say nothing are left out.

    Of several columns of one name the first that has a value counts. `{"meta": {"size": 3}}` comes out as `meta_size`
    and, unless a column of its own has that name, as `size`; an object that is a file (Hugging Face's image and video
    features, or anything with a path in it) also as a value of the column itself. Inner names that say where a file
    lies do not come out alone where several columns have them: the source's `path` is not the target's.
    """
    out: TableRow = {}
    inner: list[tuple[str, str, object]] = []
    for key, value in row.items():
        name, value = name_of(str(key)), _plain(value)
        if isinstance(value, Mapping):
            file = _file(value)
            if file is not None:
                _put(out, name, file)
            inner += [(name, *part) for part in _parts(value)]
        elif (blob := _blob(value)) is not None:
            _put(out, name, blob)
        else:
            _put(out, name, value)
    for outer, name, value in inner:
        _put(out, f"{outer}_{name}", value)
    for outer, name, value in inner:
        place = name.rpartition("_")[2] in _PLACES or name in _PLACES
        if not place or all(other == outer for other, same, _ in inner if same == name):
            _put(out, name, value)
    return out


def _put(out: TableRow, name: str, value: object) -> None:
    """The first value of a name that says anything."""
    if value is None or value in ("", b""):
        return
    if name not in out or (_says(value) and not _says(out[name])):
        out[name] = value


def _says(value: object) -> bool:
    return isinstance(value, (Blob, tuple, Mapping)) or bool(text_of(value))


def _plain(value: object) -> object:
    """A list of one object as that object, and Arrow's list of pairs as the mapping that it is."""
    if isinstance(value, list) and value:
        if all(isinstance(pair, tuple) and len(pair) == 2 for pair in value):
            return dict(value)
        if len(value) == 1 and isinstance(value[0], Mapping):
            return value[0]
    return value


def _parts(value: Mapping[object, object]) -> Iterator[tuple[str, object]]:
    """The values within an object, those of objects in it under both names."""
    for key, part in value.items():
        name, part = name_of(str(key)), _plain(part)
        if not isinstance(part, Mapping):
            yield name, _blob(part) or part
            continue
        if (file := _file(part)) is not None:
            yield name, file
        for deeper, inside in _parts(part):
            yield f"{name}_{deeper}", inside


def _file(value: Mapping[object, object]) -> Blob | str | None:
    """The file that an object stands for: its bytes, else where it lies."""
    data = value.get("bytes")
    if isinstance(data, bytes) and data:
        return Blob(data, Path(str(value.get("path") or "")).suffix or suffix_of(data))
    named = {name_of(str(key)): part for key, part in value.items()}
    said = (named.get(place) for place in _PLACES)
    return next((place for place in said if isinstance(place, str) and text_of(place)), None)


def _blob(value: object) -> Blob | None:
    return Blob(value, suffix_of(value)) if isinstance(value, bytes) and value else None


def suffix_of(data: bytes) -> str:
    """The ending of a file that begins so."""
    if data[:3] == b"\xff\xd8\xff":
        return ".jpg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ".webp"
    if data[:4] == b"\x1a\x45\xdf\xa3":
        return ".webm"
    return ".mp4" if data[4:8] == b"ftyp" else ".png"
