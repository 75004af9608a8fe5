"""What a run of a benchmark has done, on disk: one line for each result, so that a killed run goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from opensama.data.journal import Journal


class Ledger(Journal):
    """`FOLDER/ledger.jsonl`: lines of {"key", "value"}, which threads may ask for and add."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "ledger")
        self._known: dict[str, Any] = {}
        self._turn = threading.Lock()

    def once(self, key: str, make: Callable[[], Any], keep: Callable[[Any], bool] = lambda value: True) -> Any:
        """What is known under the key and worth keeping, else what `make` makes, written down if `keep` says so."""
        with self._turn:
            if key in self._known and keep(self._known[key]):
                return self._known[key]
        value = make()
        if keep(value):
            with self._turn:
                self.append({"key": key, "value": value})
        return value

    def note(self, entry: dict[str, Any], place: int) -> None:
        self._known[entry["key"]] = entry["value"]
