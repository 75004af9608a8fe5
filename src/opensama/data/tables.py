"""Rows of any table that people publish: CSV of whatever dialect, JSON, JSONL, Parquet, Arrow; text also gzipped.

    for line, row in rows(path): ...        row is a dict of named values, or a BadRow that says what is wrong

Names are made alike (`Source Video` and `source-video` are `source_video`), nested objects are spread, and what cannot
be read, a row, a page or a batch, takes no other with it. UserError is for a file that is no table at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from opensama.data import columnar
from opensama.data.dialects import Dialect, csv_columns, detect, open_text, records
from opensama.data.rows import BadRow, TableRow, normalized_row
from opensama.first_bytes import check_first_bytes, kind_of
from opensama.values import UserError

TEXT = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson")
ARROW = (".arrow", ".feather", ".ipc")
_SUFFIXES = (*TEXT, ".parquet", *ARROW)
_HEAD = 16  # bytes that tell one kind of table from another


def suffix_of_table(path: Path) -> str:
    """The ending that says what a table is: `.csv` of rows.csv and of rows.csv.gz."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix == ".gz" else suffix


def is_table(path: Path) -> bool:
    """Whether a file's name is that of a table."""
    suffix = suffix_of_table(path)
    return suffix in (TEXT if path.suffix.lower() == ".gz" else _SUFFIXES)


def table_rows(
    path: Path, header: Sequence[str] | None = None, dialect: Dialect | None = None
) -> Iterator[tuple[int, TableRow | BadRow]]:
    """Number (from 1; of text the line) and values of each row.

    `header` names the columns of a CSV whose own first line cannot be relied on, if it has so many; that line is
    skipped if it looks like names. `dialect` is a CSV's, by default as its content tells. Empty values are left out.
    """
    check_first_bytes(path)
    suffix = suffix_of_table(path)
    if suffix == ".parquet":
        found: Iterator[tuple[int, object]] = columnar.parquet(path)
    elif suffix in ARROW:
        found = columnar.arrow(path)
    else:
        _check_text(path)
        if suffix == ".json":
            found = _tree(path)
        elif suffix in (".jsonl", ".ndjson"):
            found = _lines(path)
        else:
            found = _separated(path, header, dialect)
    for line, row in found:
        if isinstance(row, BadRow):
            yield line, row
        elif not isinstance(row, Mapping):
            yield line, BadRow(f"the row is {type(row).__name__}, not named values")
        else:
            yield line, normalized_row(row)


def estimate_rows(path: Path) -> int:
    """About how many rows a table has, without reading it as one."""
    suffix = suffix_of_table(path)
    if suffix == ".parquet":
        return columnar.count(path)
    mark = b"{" if suffix == ".json" else b"\n"
    with path.open("rb") as file:
        return sum(block.count(mark) for block in iter(lambda: file.read(2**20), b""))


def dialect_told(path: Path) -> str:
    """How a CSV was read, in words; nothing for an ordinary one, and for tables of other kinds."""
    if suffix_of_table(path) not in (".csv", ".tsv", ".txt"):
        return ""
    found = detect(path)
    usual = found.quote == '"' and not found.escape and found.separator in ",\t"
    return "" if usual else str(found)


def _check_text(path: Path) -> None:
    """UserError for a file of another kind, under a text's name."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if path.suffix.lower() == ".gz" and not head.startswith(b"\x1f\x8b"):
        raise UserError(f"{path} is not gzipped, whatever its name says: rename it, or download it again.")
    kind = kind_of(head)
    if kind and path.suffix.lower() != ".gz":
        advice = "save the sheet as CSV" if head.startswith(b"PK") else "rename it, or export the table as text"
        raise UserError(f"{path} is {kind}, not the text that its name promises: {advice}.")


def _tree(path: Path) -> Iterator[tuple[int, object]]:
    """A list of rows, a mapping of names to rows, or either under one key; or one row alone."""
    with open_text(path) as file:
        try:
            text = file.read()
        except (EOFError, OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error}): download it again.") from None
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.count("\n") > 1 and _is_json(text.split("\n", 1)[0]):  # one object a line
            yield from _lines(path)
            return
        begins = re.match(r'\s*(?:\{\s*"[^"]*"\s*:\s*)?\[', text)
        if begins is None:
            raise UserError(f"{path} is not JSON ({error}): download it again.") from None
        yield from _salvaged(text, begins.end())
        return
    if isinstance(tree, Mapping) and any(isinstance(part, list) and _are_rows(part) for part in tree.values()):
        tree = next(part for part in tree.values() if isinstance(part, list) and _are_rows(part))
    elif isinstance(tree, Mapping) and tree and _are_rows(list(tree.values())):
        tree = [{"id": key, **row} for key, row in tree.items()]
    elif isinstance(tree, Mapping):
        tree = [tree]
    if not isinstance(tree, list):
        raise UserError(f"{path} holds {type(tree).__name__}, no list of rows: choose the table with `table`.")
    yield from enumerate(_flat(tree), 1)


def _salvaged(text: str, place: int) -> Iterator[tuple[int, object]]:
    """The rows of a list that is not JSON as a whole: each broken one alone, from its beginning to the next row's."""
    decoder, number = json.JSONDecoder(), 0
    while True:
        place += len(text[place:]) - len(text[place:].lstrip(" \t\r\n,")) if place < len(text) else 0
        if place >= len(text):
            yield number + 1, BadRow("the list ends early, in the middle of the file")
            return
        if text[place] == "]":
            return
        number += 1
        try:
            row, place = decoder.raw_decode(text, place)
            yield number, row
        except (ValueError, RecursionError) as error:
            yield number, BadRow(f"the row is not JSON ({error})")
            following = _NEXT_ROW.search(text, place + 1)
            if following is None:
                return
            place = following.start(1)


_NEXT_ROW = re.compile(r"[}\n]\s*,?\s*(\{\s*\")")


def _flat(rows: Sequence[object]) -> Iterator[object]:
    """The rows of a list, and of lists in it."""
    for row in rows:
        if isinstance(row, list):
            yield from _flat(row)
        else:
            yield row


def _are_rows(parts: Sequence[object]) -> bool:
    return bool(parts) and all(isinstance(part, Mapping) and len(part) > 1 for part in parts)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _lines(path: Path) -> Iterator[tuple[int, object]]:
    with open_text(path) as file:
        line = 0
        while True:
            line += 1
            try:
                content = file.readline()
            except (EOFError, OSError, ValueError) as error:
                yield line, BadRow(f"the file cannot be read from here on ({error})")
                return
            if not content:
                return
            text = content.strip()
            if text:
                try:
                    text.encode()
                    yield line, json.loads(text)
                except UnicodeEncodeError:
                    yield line, BadRow("the line is not text in UTF-8")
                except (ValueError, RecursionError) as error:
                    yield line, BadRow(f"the line is not JSON ({error})")


def _separated(path: Path, header: Sequence[str] | None, dialect: Dialect | None) -> Iterator[tuple[int, object]]:
    dialect = dialect or detect(path)
    names: Sequence[str] | None = None
    with open_text(path) as file:
        for line, fields in records(file, dialect):
            if isinstance(fields, BadRow):
                yield line, fields
                continue
            if names is None:
                names, named = csv_columns(fields, dialect)
                if header and len(fields) >= len(header):
                    names = header
                if named:
                    continue
            yield line, dict(zip(names, fields, strict=False))
