"""What rows need out of archives: the chosen files are written where the dataset would have them, no others."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path

from opensama.data.archives import Archive, BadMember, members
from opensama.data.datasets import Draft
from opensama.data.locate import Finder
from opensama.data.rows import BadRow, Blob, TableRow, normalized_row
from opensama.runtime import whole_file

Wanted = dict[str, set[str]]  # by file name, the places that may be meant


def missing_members(rows: Iterable[Draft], finder: Finder) -> Wanted:
    """The files of these rows that are not on the disk."""
    wanted: Wanted = {}
    for row in rows:
        for media in (row.target, row.source or ()):
            if not isinstance(media, Blob) and all(finder.find(said) is None for said in media):
                for said in media:
                    wanted.setdefault(said.rpartition("/")[2], set()).update(finder.readings(said))
    return wanted


def take_out(archive: Archive, wanted: Wanted, into: Path) -> Iterator[Path | BadMember]:
    """Writes the wanted members under `into`, and gives each, or what is wrong with it. Raises BadArchive when the rest
    cannot be read."""
    base = "" if archive.folder == "." else f"{archive.folder}/"
    for name, content in members(archive):
        places = wanted.get(name.rpartition("/")[2], ())
        place = next((p for p in (f"{base}{name}", f"{base}{archive.stem}/{name}", name) if p in places), None)
        if place is None:
            continue
        path = into / place
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with whole_file(path) as temporary, temporary.open("wb") as file:
                while block := content.read(2**20):
                    file.write(block)
        except BadMember as error:
            yield error
        else:
            yield path


def samples(archive: Archive) -> Iterator[TableRow | BadRow]:
    """The rows of an archive that holds them: NAME.json says what, NAME.1.0.jpg is the source, NAME.2.jpg the target.

    The same name may come again later, for another sample: neighbours belong together. A sample with a broken or a
    missing part is a BadRow.
    """
    parts: dict[str, bytes | BadMember] = {}
    current = ""
    for name, content in chain(members(archive), [("", None)]):
        folder, _, file = name.rpartition("/")
        key, _, ending = file.partition(".")
        if (f"{folder}/{key}" != current or ending in parts) and parts:
            yield _sample(current.strip("/"), parts)
            parts = {}
        current = f"{folder}/{key}"
        if content is not None:
            try:
                parts[ending] = content.read()
            except BadMember as error:
                parts[ending] = error


def _sample(name: str, parts: Mapping[str, bytes | BadMember]) -> TableRow | BadRow:
    row: TableRow = {}
    for ending, data in parts.items():
        if isinstance(data, BadMember):
            return BadRow(str(data))
        if ending == "json":
            try:
                said = json.loads(data)
            except (ValueError, RecursionError) as error:
                return BadRow(f"{name}.json is not JSON ({error})")
            row |= normalized_row(said) if isinstance(said, dict) else {}
    for ending, data in parts.items():
        side = {"1.0": "source", "2": "target"}.get(ending.rpartition(".")[0])
        if side and isinstance(data, bytes) and data:
            row[side] = Blob(data, f".{ending.rpartition('.')[2]}")
    lacks = [f"{name}.{part}" for part, has in (("1.0", "source" in row), ("2", "target" in row)) if not has]
    if lacks and "json" in parts:
        return BadRow(f"the sample {name} has no {lacks[0]}.jpg or the like (it has {', '.join(parts)})")
    return row
