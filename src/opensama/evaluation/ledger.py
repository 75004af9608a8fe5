"""What a run of a benchmark has done, on disk: one line for each result, so that a killed run goes on."""

from __future__ import annotations

import fcntl
import json
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from opensama.values import UserError


class Ledger:
    """`FOLDER/ledger.jsonl`: lines of {"key", "value"}; a torn last line is made anew. One process at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[str, Any] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UserError(f"There is a file where the folder {self.folder} belongs; choose another --out.") from None
        self._file = (self.folder / "ledger.jsonl").open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise UserError(f"Another run writes to {self.folder}; wait for it, or choose another --out.") from None
        self._file.seek(0)
        whole = 0
        for line in self._file:
            try:
                entry = json.loads(line)
                self._known[entry["key"]] = entry["value"]
            except (ValueError, KeyError, TypeError):
                if not line.endswith(b"\n"):
                    break  # torn when the run was killed
            whole += len(line)
        self._file.truncate(whole)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def once(self, key: str, make: Callable[[], Any], keep: Callable[[Any], bool] = lambda value: True) -> Any:
        """What is known under the key, else what `make` makes, written down if `keep` says so."""
        with self._lock:
            if key in self._known:
                return self._known[key]
        value = make()
        if keep(value):
            line = json.dumps({"key": key, "value": value}, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
            with self._lock:
                self._known[key] = value
                self._file.write(line)
                self._file.flush()
        return value
