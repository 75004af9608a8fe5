r"""CSV as people's programs write it: its separator, quotes and escapes, told by the whole file, and its rows.

    s.mp4,t.mp4,"A ""sign"" is red"     quotes doubled, as RFC 4180 has it: spreadsheets, pandas
    s.mp4,t.mp4,"A \"sign\" is red"     quotes escaped by backslashes: Spark
    s.mp4;t.mp4;'A "sign" is red'       other separators, single quotes
    sep=;                               Excel's own first line: what separates

A row that cannot be read takes no other with it: a quote that never closes ends with its line.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import TextIO

from opensama.data.rows import BadRow
from opensama.values import UserError

SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}
QUOTES = {"double": '"', "single": "'"}
BLOCK = 2**20
_MEDIA = re.compile(r"\.(mp4|mov|mkv|webm|avi|m4v|gif|png|jpe?g|webp|bmp|tiff?)\s*$", re.IGNORECASE)
_DECLARED = re.compile(r"\s*\"?sep=(.)\"?\s*$", re.IGNORECASE)
_BACKSLASH = re.compile(r'\\([\\"\'])|\\')


@dataclass(frozen=True)
class Dialect:
    """How a file's lines become fields. `header`: whether the first row names the columns; None: as it looks."""

    separator: str = ","
    quote: str = '"'
    escape: str = ""  # what stands before a quote that is part of a field, beside the quote doubled
    header: bool | None = None

    def __str__(self) -> str:
        named = {value: name for name, value in (SEPARATORS | QUOTES).items()}
        said = f"{named.get(self.separator, self.separator)} between fields, {named[self.quote]} quotes"
        said += " escaped by backslashes" if self.escape else ""
        return said + {None: "", True: ", with a header", False: ", without a header"}[self.header]


EXCEL = Dialect()
_NAMED = {"excel": EXCEL, "excel-tab": Dialect("\t"), "spark": Dialect(escape="\\")}


def dialect_of(said: str) -> Dialect | None:
    """A dialect as people name it: `spark`, or `separator=; quote=single escape=backslash header=no`; None for auto."""
    if said == "auto":
        return None
    if said in _NAMED:
        return _NAMED[said]
    dialect = EXCEL
    for word in said.split():
        key, _, value = word.partition("=")
        separator, quote = SEPARATORS.get(value, value), QUOTES.get(value, value)
        if key == "separator" and len(separator) == 1 and separator not in "\"'\\":
            dialect = replace(dialect, separator=separator)
        elif key == "quote" and quote in QUOTES.values():
            dialect = replace(dialect, quote=quote)
        elif key == "escape" and value in ("backslash", "double"):
            dialect = replace(dialect, escape="\\" if value == "backslash" else "")
        elif key == "header" and value in ("yes", "no"):
            dialect = replace(dialect, header=value == "yes")
        else:
            raise UserError(
                f"{word!r} is no part of a CSV dialect: give auto, {', '.join(_NAMED)}, or a list such as "
                "'separator=semicolon quote=single escape=backslash header=no'."
            )
    return dialect


def open_text(path: Path) -> TextIO:
    """A table's text, gzipped or not; bytes that are no UTF-8 come as surrogates, so that they are one row's fault."""
    stream = gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")  # noqa: SIM115, closed by the reader
    head = stream.read(2)
    stream.seek(0)
    encoding = "utf-16" if head in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    return io.TextIOWrapper(stream, encoding, errors="surrogateescape", newline="")


def detect(path: Path) -> Dialect:
    """The dialect in which fewest rows of the whole file are broken."""
    found = path.stat()
    return _detect(path, found.st_size, found.st_mtime_ns)


@lru_cache(64)
def _detect(path: Path, size: int, changed: int) -> Dialect:
    with open_text(path) as file:
        lines = (line for line in _whole_lines(file) if line.strip())
        first = next(lines, "")
        if declared := _DECLARED.match(first):
            separators, first = [declared[1]], next(lines, "")
        else:
            separators = sorted((one for one in SEPARATORS.values() if one in first), key=first.count, reverse=True)
    separators = separators or [","]
    slashed, single = _evidence(path)
    tried = [
        Dialect(separator, quote, escape)
        for separator, quote, escape in product(separators, ['"', "'"][: 1 + single], ["", "\\"][: 1 + slashed])
    ]
    return tried[0] if len(tried) == 1 else min(tried, key=lambda dialect: _faults(path, dialect))


def _evidence(path: Path) -> tuple[bool, bool]:
    """Whether a backslash stands before a quote anywhere, and a single quote where a field may begin."""
    slashed = single = False
    before = "\n"
    with open_text(path) as file:
        while (block := _read(file)) and not (slashed and single):
            held = before + block
            slashed = slashed or '\\"' in held or "\\'" in held
            single = single or re.search(r"[,;\t|\n\r]'", held) is not None
            before = block[-1:]
    return slashed, single


def _faults(path: Path, dialect: Dialect) -> tuple[int, int, int]:
    """How badly a dialect fits: rows that it breaks, then how few columns, then how few quotes it finds at work."""
    bad = columns = quoted = 0
    mark = re.compile(f"(?:^|{re.escape(dialect.separator)}){dialect.quote}")
    with open_text(path) as file:
        found = _Records(file, dialect)
        for _, fields in found.run():
            bad += isinstance(fields, BadRow)
            columns = columns or (0 if isinstance(fields, BadRow) else len(fields))
    bad += found.mended
    with open_text(path) as file:
        quoted = sum(mark.search(line) is not None for line in _whole_lines(file))
    return bad, -columns, -quoted


def named_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and named fields of a CSV that must be whole. UserError names the first row that cannot be read."""
    names: list[str] | None = None
    with open_text(path) as file:
        for line, fields in records(file, detect(path)):
            if isinstance(fields, BadRow):
                raise UserError(f"Line {line} of {path} cannot be used: {fields.reason}; mend it.")
            if names is None:
                names = fields
            else:
                yield line, dict(zip(names, fields, strict=True))


def csv_columns(fields: list[str], dialect: Dialect) -> tuple[list[str], bool]:
    """The columns' names, and whether this first row is one of them; by their numbers where it is a row of data."""
    header = dialect.header
    if header is None:
        header = not any(_MEDIA.search(field) for field in fields)
    return (fields, True) if header else ([f"column_{i}" for i in range(1, len(fields) + 1)], False)


def records(file: TextIO, dialect: Dialect) -> Iterator[tuple[int, list[str] | BadRow]]:
    """Line number and fields of each record; all have as many fields as the first, its empty last ones left away."""
    return _Records(file, dialect).run()


class _Records:
    def __init__(self, file: TextIO, dialect: Dialect):
        self.dialect = dialect
        self.lines = enumerate(_whole_lines(file), 1)
        self.waiting: deque[tuple[int, str]] = deque()
        self.taken: list[tuple[int, str]] = []
        self.ended = False
        self.mended = 0  # rows whose quotes are not the dialect's, but which can be read all the same

    def run(self) -> Iterator[tuple[int, list[str] | BadRow]]:
        width = 0
        reader = self.reader(self.feed())
        while True:
            self.taken = []
            try:
                fields, why = next(reader), ""
            except StopIteration:
                return
            except csv.Error as error:
                fields, why = [], f"the line cannot be read ({error})"
            if not why and not any(map(str.strip, fields)):
                continue
            first, text = self.taken[0]
            if not width and not why:
                if _DECLARED.match(text) and len(self.taken) == 1 and first == 1:
                    continue
                while fields and not fields[-1].strip():
                    fields.pop()
                width = len(fields)
            fields = self.fit(fields, width)
            if why or (width and len(fields) != width):
                if len(self.taken) > 1 or why:  # a quote that does not close, or closes too early: this line alone
                    alone = self.fit(next(self.reader(iter([self.prepared(text)]), strict=False), []), width)
                    if len(alone) == width or not why:
                        fields = [field.strip("\r\n") for field in alone]
                        why = "" if len(alone) == width else why
                        self.mended += not why
                    self.waiting.extendleft(reversed(self.taken[1:]))
                    reader = self.reader(self.feed())
                if not why and len(fields) != width:
                    why = f"the row has {len(fields)} fields, the header {width}"
            if not why and any(not field.isascii() and _undecoded(field) for field in fields):
                why = "the row is not text in UTF-8"
            yield first, BadRow(why) if why else fields

    def feed(self) -> Iterator[str]:
        while self.waiting or not self.ended:
            entry = self.waiting.popleft() if self.waiting else next(self.lines, None)
            if entry is None:
                self.ended = True
                return
            self.taken.append(entry)
            yield self.prepared(entry[1])

    def prepared(self, line: str) -> str:
        """Backslashes that escape nothing stand for themselves, as in a path."""
        if not self.dialect.escape or "\\" not in line:
            return line
        return _BACKSLASH.sub(lambda found: found[0] if found[1] else "\\\\", line)

    def reader(self, lines: Iterator[str], strict: bool = True) -> Iterator[list[str]]:
        dialect = self.dialect
        return csv.reader(
            lines,
            delimiter=dialect.separator,
            quotechar=dialect.quote,
            escapechar=dialect.escape or None,
            doublequote=True,
            strict=strict,
        )

    def fit(self, fields: list[str], width: int) -> list[str]:
        """Without empty fields behind the last column."""
        return fields[:width] if len(fields) > width and not any(map(str.strip, fields[width:])) else fields


def _undecoded(text: str) -> bool:
    return any("\udc80" <= letter <= "\udcff" for letter in text)


def _whole_lines(file: TextIO) -> Iterator[str]:
    """The lines that can be read: a gzip file may end early."""
    while True:
        try:
            line = file.readline()
        except (EOFError, OSError, zlib.error, UnicodeDecodeError):
            yield "\udcff"  # one row that is no text: the end is missing
            return
        if not line:
            return
        yield line


def _read(file: TextIO) -> str:
    try:
        return file.read(BLOCK)
    except (EOFError, OSError, zlib.error, UnicodeDecodeError):
        return ""
