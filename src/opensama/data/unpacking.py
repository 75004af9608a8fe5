"""What rows need out of archives: the chosen files are written where the dataset would have them, no others."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path

from opensama.data import tables
from opensama.data.archives import Archive, members
from opensama.data.datasets import Draft
from opensama.data.locate import Finder
from opensama.data.tables import Blob
from opensama.runtime import whole_file

Wanted = dict[str, set[str]]  # by file name, the places that may be meant


def missing(rows: Iterable[Draft], finder: Finder) -> Wanted:
    """The files of these rows that are not on the disk."""
    wanted: Wanted = {}
    for row in rows:
        for media in (row.target, row.source or ()):
            if not isinstance(media, Blob) and all(finder.find(said) is None for said in media):
                for said in media:
                    wanted.setdefault(said.rpartition("/")[2], set()).update(finder.readings(said))
    return wanted


def take_out(archive: Archive, wanted: Wanted, into: Path) -> Iterator[Path]:
    """Writes the wanted members under `into`, and gives each. Raises BadArchive when the rest cannot be read."""
    base = "" if archive.folder == "." else f"{archive.folder}/"
    for name, content in members(archive):
        places = wanted.get(name.rpartition("/")[2], ())
        place = next((p for p in (f"{base}{name}", f"{base}{archive.stem}/{name}", name) if p in places), None)
        if place is None:
            continue
        path = into / place
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary, temporary.open("wb") as file:
            while block := content.read(2**20):
                file.write(block)
        yield path


def samples(archive: Archive) -> Iterator[tables.Row]:
    """The rows of an archive that holds them: NAME.json says what, NAME.1.0.jpg is the source, NAME.2.jpg the target.

    The same name may come again later, for another sample: neighbours belong together.
    """
    parts: dict[str, bytes] = {}
    current = ""
    for name, content in chain(members(archive), [("", None)]):
        folder, _, file = name.rpartition("/")
        key, _, ending = file.partition(".")
        if (f"{folder}/{key}" != current or ending in parts) and parts:
            yield _sample(parts)
            parts = {}
        current = f"{folder}/{key}"
        if content is not None:
            parts[ending] = content.read()


def _sample(parts: Mapping[str, bytes]) -> tables.Row:
    try:
        said = json.loads(parts.get("json", b""))
    except ValueError:
        said = None
    row = {tables.name_of(key): value for key, value in said.items()} if isinstance(said, dict) else {}
    for ending, data in parts.items():
        side = {"1.0": "source", "2": "target"}.get(ending.rpartition(".")[0])
        if side and data:
            row[side] = Blob(data, f".{ending.rpartition('.')[2]}")
    return row
