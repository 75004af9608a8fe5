"""What a benchmark asks for: items with instructions and sources, and faults of its rows and files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple


@dataclass(frozen=True)
class BenchmarkItem:
    """One edit to make. `source` is None where the file is not there; the item counts as missing then."""

    id: str
    task: str
    instruction: str
    source: Path | None
    notes: dict[str, str] = field(default_factory=dict)
    """What else its row says: `reference_image`, `subset`, `target_prompt`, ..."""


class Fault(NamedTuple):
    """A file, a row or an item, and what is wrong with it."""

    where: str
    reason: str
