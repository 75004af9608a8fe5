"""What a long run has done, on disk: lines of JSON that one process appends to, so that a killed run goes on."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

from opensama.values import UserError

_E = TypeVar("_E")


class Journal(Generic[_E]):
    """`FOLDER/NAME.jsonl`, open to one process at a time. A line that a kill tore is cut off when it is opened.

    Subclasses take in each line that is there, and each that is added, by `note`.
    """

    def __init__(self, folder: Path, name: str, out: Path | None = None):
        """`out` is the folder as the person who runs it knows it."""
        self.folder, self.path, self.out = folder, folder / f"{name}.jsonl", out or folder

    def note(self, entry: _E, place: int) -> None:
        """An entry, and where in the file it begins. KeyError or TypeError for one that is not understood."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UserError(f"There is a file where the folder {self.folder} belongs; choose another name.") from None
        self._lock = (self.folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise UserError(f"Another run writes to {self.out}; wait for it, or choose another name.") from None
        self._file = self.path.open("a+b")
        self._file.seek(0)
        whole = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break  # torn when the run was killed
            with suppress(ValueError, KeyError, TypeError):  # not ours: as if it were not done
                self.note(json.loads(line.decode("utf-8", "surrogateescape")), whole)
            whole += len(line)
        self._file.truncate(whole)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
        self._lock.close()

    def append(self, entry: _E) -> None:
        """Writes an entry, at once for who kills this process, and notes it."""
        place = self._file.seek(0, os.SEEK_END)
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()
        self.note(entry, place)

    def read(self, place: int) -> _E:
        """The entry that begins there."""
        self._file.seek(place)
        return json.loads(self._file.readline().decode("utf-8", "surrogateescape"))

    def sync(self) -> None:
        """Everything is on the disk, also for who pulls the plug."""
        os.fsync(self._file.fileno())
