"""Archives as they are published, whole or cut into parts, read as they lie: nothing is joined or unpacked on disk.

    x.tar.gz.aa x.tar.gz.ab · x.tar.gz.part-00 · x.tar.part_aa · x.zip.001 · x.tar · x.tgz · x.zip

The parts of one archive are one stream of bytes. A tar is read once from beginning to end; several tars laid one behind
the other count as one, as some datasets have them. A zip is read where its index says.
"""

from __future__ import annotations

import io
import lzma
import os
import re
import tarfile
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

from opensama.first_bytes import HEAD, stand_in

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_KIND = r"\.(?:tar(?:\.(?:gz|bz2|xz))?|tgz|zip)"
_ARCHIVE = re.compile(rf"(?P<stem>.+?)(?P<kind>{_KIND})$", re.IGNORECASE)
_PART = re.compile(
    rf"(?P<stem>.+?)(?P<kind>{_KIND})[._-]?(?:part)?[._-]?(?P<part>\d{{1,4}}|[a-z]{{2,3}})$", re.IGNORECASE
)


@dataclass(frozen=True)
class Archive:
    """One archive: its parts in order, and the folder that it would be unpacked into, from the dataset's root."""

    parts: tuple[Path, ...]
    folder: str
    stem: str
    kind: str
    gap: str = ""  # the first part that is not there, by what would follow

    @property
    def name(self) -> str:
        return self.parts[0].name

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(part.stat().st_size for part in self.parts)


class BadArchive(Exception):
    """What is wrong with an archive; the members before it have been given."""


class BadMember(BadArchive):
    """What is wrong with one file of an archive whose others can be read."""


def find_archives(root: Path) -> list[Archive]:
    """All archives under a folder, in order of their names."""
    groups: dict[tuple[str, str, str], list[tuple[str, Path]]] = {}
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        at = Path(folder).relative_to(root).as_posix()
        for name in files:
            match = _ARCHIVE.fullmatch(name) or _PART.fullmatch(name)
            if match:
                part = match.groupdict().get("part") or ""
                groups.setdefault((at, match["stem"], match["kind"].lower()), []).append((part, Path(folder) / name))
    out = []
    for (at, stem, kind), parts in sorted(groups.items()):
        whole = [path for part, path in parts if not part]
        cut = sorted(((part, path) for part, path in parts if part), key=lambda entry: _order(entry[0]))
        if whole:
            out.append(Archive((whole[0],), at, stem, kind))
        if cut and not whole:
            numbers = [_order(part)[1] for part, _ in cut]
            first = numbers[0] if numbers[0] in (0, 1) else 0
            there = next((i for i, number in enumerate(numbers) if number != first + i), len(cut))
            gap = "" if there == len(cut) else f"a part before {cut[there][1].name} is missing"
            if there:
                out.append(Archive(tuple(path for _, path in cut[:there]), at, stem, kind, gap))
            else:
                out.append(Archive((cut[0][1],), at, stem, kind, gap))
    return out


def _order(part: str) -> tuple[int, int]:
    """Parts count in numbers, or aa ab .. az ba: which, and the place."""
    if part.isdigit():
        return 0, int(part)
    place = 0
    for letter in part.lower():
        place = place * 26 + ord(letter) - ord("a")
    return 1, place


class Joined(io.RawIOBase):
    """Several files as one, read and sought without being joined."""

    def __init__(self, paths: tuple[Path, ...]):
        self._paths = paths
        self._ends = list(accumulate(path.stat().st_size for path in paths))
        self._at = 0
        self._open: tuple[int, io.BufferedReader] | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._ends[-1]}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        if self._at >= self._ends[-1]:
            return 0
        number = bisect_right(self._ends, self._at)
        if self._open is None or self._open[0] != number:
            self._shut()
            self._open = number, self._paths[number].open("rb")
        file = self._open[1]
        file.seek(self._at - (self._ends[number - 1] if number else 0))
        count = file.readinto(buffer)
        self._at += count
        return count

    def close(self) -> None:
        self._shut()
        super().close()

    def _shut(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None


@dataclass(frozen=True)
class Content:
    """One file of an archive, read like any other. Raises BadArchive where the archive ends or is damaged; BadMember
    where the next file can be read all the same, as in a zip, whose index says where each begins."""

    archive: Archive
    stream: IO[bytes]
    name: str

    def read(self, size: int = -1) -> bytes:
        try:
            return self.stream.read(size)
        except _ERRORS as error:
            if self.archive.kind == ".zip" and not self.archive.gap:
                raise BadMember(f"{self.name} in {self.archive.name} is damaged ({error})") from error
            raise _bad(self.archive, error) from error


def members(archive: Archive) -> Iterator[tuple[str, Content]]:
    """Name and content of each file in the archive, in its order. A content is read before the next is asked for.

    Raises BadArchive when the rest cannot be read. Names that would lead out of the folder are passed over.
    """
    with io.BufferedReader(Joined(archive.parts), 2**20) as stream:
        if said := stand_in(stream.peek(HEAD)[:HEAD], archive.size):
            raise BadArchive(f"{archive.name} {said}")
        try:
            for name, content in _zip(stream) if archive.kind == ".zip" else _tar(stream):
                if inside := safe_name(name):
                    yield inside, Content(archive, content, name)
        except _ERRORS as error:
            raise _bad(archive, error) from error
    if archive.gap:
        raise _bad(archive, None)


_ERRORS = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, NotImplementedError)


def _bad(archive: Archive, error: Exception | None) -> BadArchive:
    why = archive.gap or f"it is cut off, damaged or of a kind that is not read here ({error})"
    return BadArchive(f"{archive.name} cannot be read to its end: {why}; download it again")


def _tar(stream: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(fileobj=stream, mode="r|*", ignore_zeros=True) as tar:
        for entry in tar:
            content = tar.extractfile(entry) if entry.isfile() else None
            if content is not None:
                yield entry.name, content
            tar.members = []  # type: ignore[attr-defined]  # or it would keep every one of millions


def _zip(stream: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(stream) as archive:
        for entry in archive.infolist():
            if entry.is_dir():
                continue
            try:
                content = archive.open(entry)
            except (*_ERRORS, RuntimeError) as error:  # its own header is damaged, or it wants a password
                yield entry.filename, _Unreadable(error)  # type: ignore[misc]
                continue
            with content:
                yield entry.filename, content


class _Unreadable(io.RawIOBase):
    """A member that could not be opened: who reads it is told."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def read(self, size: int = -1) -> bytes:
        raise zipfile.BadZipFile(str(self.error))


def safe_name(name: str) -> str:
    """A member's name with single slashes, empty if it would lie outside of the folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    parts = [part for part in path.parts if part != "."]
    return "" if path.is_absolute() or ".." in parts or not parts else "/".join(parts)
