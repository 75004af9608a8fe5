"""What a run has done, on disk: a line for each item, so that a killed run goes on. Torn lines are made anew."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from opensama.values import UserError

Entry = dict[str, Any]
"""JSON with at least `key`, the item's name, and `failed`, what is to be tried again (empty: done)."""


class Ledger:
    """`FOLDER/NAME.jsonl`, where the last line of a key counts. Only one process may have a folder's ledger open."""

    def __init__(self, folder: Path, name: str):
        self.folder, self.path = folder, folder / f"{name}.jsonl"
        self._places: dict[str, int] = {}
        self._to_retry: set[str] = set()

    def __enter__(self) -> Self:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UserError(f"There is a file where the folder {self.folder} belongs; choose another --out.") from None
        self._lock = (self.folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise UserError(
                f"Another run writes to {self.folder.parent}; wait for it, or choose another folder."
            ) from None
        self._file = self.path.open("a+b")
        self._file.seek(0)
        whole = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break  # torn when the run was killed
            self._note(line, whole)
            whole += len(line)
        self._file.truncate(whole)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
        self._lock.close()

    def has(self, key: str) -> bool:
        """Whether the item is done and need not be tried again."""
        return key in self._places and key not in self._to_retry

    def add(self, entry: Entry) -> None:
        line = json.dumps(entry, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n"
        self._note(line, self._file.seek(0, os.SEEK_END))
        self._file.write(line)
        self._file.flush()

    def entries(self, keys: Iterable[str]) -> Iterator[Entry]:
        """What is known of these items, in their order."""
        os.fsync(self._file.fileno())
        for key in keys:
            if key in self._places:
                self._file.seek(self._places[key])
                yield json.loads(self._file.readline().decode("utf-8", "surrogateescape"))

    def _note(self, line: bytes, place: int) -> None:
        try:
            entry = json.loads(line.decode("utf-8", "surrogateescape"))
            key, failed = entry["key"], entry["failed"]
        except (ValueError, KeyError, TypeError):
            return
        self._places[key] = place
        (self._to_retry.add if failed else self._to_retry.discard)(key)
