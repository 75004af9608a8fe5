"""What a run has done, on disk: a line for each item, of which the last counts, in the order that is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from opensama.data.journal import Journal

Entry = dict[str, Any]
"""JSON with at least `key`, the item's name, and `failed`, what is to be tried again (empty: done)."""


class Ledger(Journal):
    """The entries of a run in `FOLDER/NAME.jsonl`; only their places are held in memory."""

    def __init__(self, folder: Path, name: str):
        super().__init__(folder, name, folder.parent)
        self._places: dict[str, int] = {}
        self._to_retry: set[str] = set()

    def has(self, key: str) -> bool:
        """Whether the item is done and need not be tried again."""
        return key in self._places and key not in self._to_retry

    def entries(self, keys: Iterable[str]) -> Iterator[Entry]:
        """What is known of these items, in their order."""
        self.sync()
        for key in keys:
            if key in self._places:
                yield self.read(self._places[key])

    def note(self, entry: Entry, place: int) -> None:
        key, failed = entry["key"], entry["failed"]
        self._places[key] = place
        (self._to_retry.add if failed else self._to_retry.discard)(key)
