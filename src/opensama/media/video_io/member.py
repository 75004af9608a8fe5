"""Files in a tar, read where they lie, as if the tar were a folder: `shards/00003.tar/000412.target.mp4`.

Only plain tars: in a compressed one nothing can be sought. A tar's list of files is read once and remembered.
"""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO

from opensama.values import UserError


@dataclass(frozen=True, slots=True)
class Member:
    """Bytes `start` to `start + size` of a tar."""

    tar: Path
    start: int
    size: int

    @property
    def url(self) -> str:
        """How FFmpeg reads it."""
        return f"subfile,,start,{self.start},end,{self.start + self.size},,:file:{self.tar.absolute()}"


def member_of(path: Path) -> Member | None:
    """Where a file lies that is in a tar, None for any other path. UserError if the tar does not hold it."""
    tar = next((parent for parent in path.parents if parent.suffix == ".tar"), None)
    if tar is None or not tar.is_file():
        return None
    name, stat = path.relative_to(tar).as_posix(), tar.stat()
    place = tar_index(tar, stat.st_mtime_ns, stat.st_size).get(name)
    if place is None:
        raise UserError(f"There is no {name} in {tar}; check the name.")
    return Member(tar, *place)


def open_file(path: Path) -> IO[bytes]:
    """A file's bytes, wherever it lies."""
    member = member_of(path)
    if member is None:
        return path.open("rb")
    with member.tar.open("rb") as file:
        file.seek(member.start)
        return io.BytesIO(file.read(member.size))


def first_bytes_of(path: Path, count: int) -> bytes:
    """A file's first bytes, wherever it lies; no more than these are read."""
    member = member_of(path)
    with (path if member is None else member.tar).open("rb") as file:
        file.seek(0 if member is None else member.start)
        return file.read(count if member is None else min(count, member.size))


def size_of(path: Path) -> int:
    member = member_of(path)
    return path.stat().st_size if member is None else member.size


@lru_cache(1024)
def tar_index(tar: Path, changed: int, size: int) -> dict[str, tuple[int, int]]:
    """Name: begin and size of each file in a plain tar. `changed` and `size` are the tar's own, so that it is new."""
    try:
        with tarfile.open(tar, "r:") as opened:
            found = {entry.name: (entry.offset_data, entry.size) for entry in opened if entry.isreg()}
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"{tar} is no plain tar, or damaged ({error}); copy it again, or unpack it.") from None
    if any(begin + length > size for begin, length in found.values()):
        raise UserError(f"{tar} is cut off; copy it again.")
    return found
