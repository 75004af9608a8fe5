"""Rows of any table that people publish: CSV with whatever separator, JSON, JSONL, Parquet.

    for line, row in rows(path): ...        row is a dict of named values, or a BadRow that says what is wrong

Names are made alike (`Source Video` and `source-video` are `source_video`), nested objects are spread one level, and a
broken line is one row's fault, not the table's. UserError is for a file that is no table at all.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opensama.values import UserError

SUFFIXES = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson", ".parquet")
SEPARATORS = ",;\t|"
NOTHING = {"", "none", "null", "nan", "error", "n/a"}


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be read, and why."""

    reason: str


@dataclass(frozen=True)
class Blob:
    """A picture that lies in the table itself."""

    data: bytes
    suffix: str  # .jpg


Row = dict[str, Any]


def rows(path: Path, header: Sequence[str] | None = None) -> Iterator[tuple[int, Row | BadRow]]:
    """Number (from 1, the header's line counted) and values of each row.

    `header` names the columns of a CSV whose own first line cannot be relied on, if it has so many; that line is
    skipped if it looks like names. Empty values are left out.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        found: Iterator[tuple[int, Any]] = _parquet(path)
    elif suffix == ".json":
        found = _tree(path)
    elif suffix in (".jsonl", ".ndjson"):
        found = _lines(path)
    else:
        found = _separated(path, header)
    for line, row in found:
        if isinstance(row, BadRow):
            yield line, row
        elif not isinstance(row, Mapping):
            yield line, BadRow(f"the row is {type(row).__name__}, not named values")
        else:
            yield line, _alike(row)


def estimate(path: Path) -> int:
    """About how many rows a table has, without reading it as one."""
    if path.suffix.lower() == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return int(pq.read_metadata(path).num_rows)
        except (pa.ArrowInvalid, OSError):
            return 0
    mark = b"{" if path.suffix.lower() == ".json" else b"\n"
    with path.open("rb") as file:
        return sum(block.count(mark) for block in iter(lambda: file.read(2**20), b""))


def name_of(column: str) -> str:
    """A column's name as the aliases write it."""
    return re.sub(r"[^a-z0-9]+", "_", column.strip().lower()).strip("_")


def text_of(value: object) -> str:
    """A value as text, empty for the many ways of writing that there is none."""
    if isinstance(value, (list, tuple)) and value:
        value = value[0]
    text = value.strip() if isinstance(value, str) else "" if isinstance(value, (Mapping, Blob)) else str(value)
    return "" if value is None or text.lower() in NOTHING else text


def _alike(row: Mapping[Any, Any]) -> Row:
    out: Row = {}
    for key, value in row.items():
        blob = _blob(value)
        if blob is not None:
            out[name_of(str(key))] = blob
        elif isinstance(value, Mapping):
            for inner, part in value.items():
                out.setdefault(name_of(str(inner)), part)
        elif value is not None and value != "":
            out[name_of(str(key))] = value
    return out


def _blob(value: object) -> Blob | None:
    """Bytes, or Hugging Face's picture: {bytes, path}."""
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
        return Blob(value["bytes"], Path(str(value.get("path") or "")).suffix or suffix_of(value["bytes"]))
    return Blob(value, suffix_of(value)) if isinstance(value, bytes) and value else None


def suffix_of(data: bytes) -> str:
    """The ending of a file that begins so."""
    if data[:3] == b"\xff\xd8\xff":
        return ".jpg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ".webp"
    return ".mp4" if data[4:8] == b"ftyp" else ".png"


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8: give the table itself, or convert it.") from None


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is not Parquet, or cut off ({error}): download it again.") from None
    line = 0
    for batch in file.iter_batches(64):  # rows may hold pictures
        for row in batch.to_pylist():
            line += 1
            yield line, {key: dict(value) if _is_map(value) else value for key, value in row.items()}


def _is_map(value: object) -> bool:
    """Whether this is what Arrow makes of a mapping: a list of pairs."""
    return isinstance(value, list) and bool(value) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value)


def _tree(path: Path) -> Iterator[tuple[int, Any]]:
    """A list of rows, a mapping of names to rows, or either under one key; or one row alone."""
    text = _text(path)
    try:
        tree = json.loads(text)
    except ValueError as error:
        if text.count("\n") > 1 and _is_json(text.split("\n", 1)[0]):  # one object a line
            yield from _lines(path)
            return
        raise UserError(f"{path} is not JSON ({error}): download it again.") from None
    if isinstance(tree, Mapping) and any(isinstance(part, list) and _are_rows(part) for part in tree.values()):
        tree = next(part for part in tree.values() if isinstance(part, list) and _are_rows(part))
    elif isinstance(tree, Mapping) and tree and _are_rows(list(tree.values())):
        tree = [{"id": key, **row} for key, row in tree.items()]
    elif isinstance(tree, Mapping):
        tree = [tree]
    if not isinstance(tree, list):
        raise UserError(f"{path} holds {type(tree).__name__}, no list of rows: choose the table with --table.")
    yield from enumerate(_flat(tree), 1)


def _flat(rows: Sequence[Any]) -> Iterator[Any]:
    """The rows of a list, and of lists in it."""
    for row in rows:
        if isinstance(row, list):
            yield from _flat(row)
        else:
            yield row


def _are_rows(parts: Sequence[Any]) -> bool:
    return bool(parts) and all(isinstance(part, Mapping) and len(part) > 1 for part in parts)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as file:
        for line, content in enumerate(file, 1):
            text = content.removeprefix(b"\xef\xbb\xbf").strip()
            if text:
                try:
                    yield line, json.loads(text)
                except ValueError as error:
                    yield line, BadRow(f"the line is not JSON ({error})")


def _separated(path: Path, header: Sequence[str] | None) -> Iterator[tuple[int, Any]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = next((line for line in file if line.strip()), "")
            file.seek(0)
            yield from _fields(file, _separator(first), header)
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8: give the table itself, or convert it.") from None


def _fields(file: Iterable[str], separator: str, header: Sequence[str] | None) -> Iterator[tuple[int, Any]]:
    reader = csv.reader(file, delimiter=separator)
    names: Sequence[str] | None = None
    try:
        for fields in reader:
            if not any(fields):
                continue
            if names is None:
                header = header if header and len(fields) >= len(header) else None
                names = list(header) if header else fields
                if header is None or not any(re.search(r"\.\w{3,4}$", field.strip()) for field in fields):
                    continue
            if len(fields) != len(names) and not (header and len(fields) > len(names)):
                yield reader.line_num, BadRow(f"the row has {len(fields)} fields, the header {len(names)}")
            else:
                yield reader.line_num, dict(zip(names, fields, strict=False))
    except csv.Error as error:
        yield reader.line_num, BadRow(f"the line cannot be read, nor those after it ({error})")


def _separator(first: str) -> str:
    """The separator that the first line has most of."""
    return max(SEPARATORS, key=first.count)
