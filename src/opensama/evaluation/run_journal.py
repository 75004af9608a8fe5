"""What a run of a benchmark has done, on disk: one line for each result, so that a killed run goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter

from opensama.data.journal import Journal

_T = TypeVar("_T")


class RunJournal(Journal[dict[str, object]]):
    """`FOLDER/ledger.jsonl`: lines of {"key", "value"}, which threads may ask for and add."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "ledger")
        self._known: dict[str, object] = {}
        self._turn = threading.Lock()

    def find(self, key: str, kind: type[_T]) -> _T | None:
        """What is known under the key, as an object of that kind; None where nothing is."""
        with self._turn:
            value = self._known.get(key)
        return None if value is None else TypeAdapter(kind).validate_python(value)

    def keep(self, key: str, value: object) -> None:
        """Writes an object of dataclasses, lists and numbers down."""
        with self._turn:
            self.append({"key": key, "value": TypeAdapter(type(value)).dump_python(value, mode="json")})

    def once(
        self, key: str, kind: type[_T], make: Callable[[], _T], keep: Callable[[_T], bool] = lambda value: True
    ) -> _T:
        """What is known under the key and worth keeping, else what `make` makes, written down if `keep` says so."""
        known = self.find(key, kind)
        if known is not None and keep(known):
            return known
        value = make()
        if keep(value):
            self.keep(key, value)
        return value

    def note(self, entry: dict[str, object], place: int) -> None:
        self._known[str(entry["key"])] = entry["value"]
