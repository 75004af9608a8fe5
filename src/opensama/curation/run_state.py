"""What a run has done, on disk: a line for each item given, of which the last counts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypedDict

from opensama.curation.stage import GraphItem, RowEnd, StageCall
from opensama.data.journal import Journal


class Outcome(TypedDict):
    """Everything that came of one item given: records for the manifest, items that failed and are to be tried again
    (none: it is done), the ends of its rows, the calls made."""

    key: str
    records: list[GraphItem]
    failed: list[GraphItem]
    ends: list[RowEnd]
    calls: list[StageCall]


class RunState(Journal[Outcome]):
    """The outcomes of a run in `FOLDER/NAME.jsonl`; only their places are held in memory."""

    def __init__(self, folder: Path, name: str):
        super().__init__(folder, name, folder.parent)
        self._places: dict[str, int] = {}
        self._to_retry: set[str] = set()

    def has(self, key: str) -> bool:
        """Whether the item is done and need not be tried again."""
        return key in self._places and key not in self._to_retry

    def outcomes(self, keys: Iterable[str]) -> Iterator[Outcome]:
        """What is known of these items, in their order."""
        self.sync()
        for key in keys:
            if key in self._places:
                yield self.read(self._places[key])

    def note(self, entry: Outcome, place: int) -> None:
        key, failed = entry["key"], entry["failed"]
        self._places[key] = place
        (self._to_retry.add if failed else self._to_retry.discard)(key)
