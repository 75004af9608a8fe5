"""How many pairs of each type are kept, so that no type drowns the others.

The papers say only that types are balanced. Ours: no type has more than `ratio` times the (lower) median of all types'
counts, and of a type that has more the best scored stay. Letters: none; everything is counts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from opensama.curation.scoring import mean_score, order_by_lot
from opensama.curation.settings import check_balance
from opensama.data.manifest import Record


def balance(records: Sequence[Record], ratio: float) -> list[int]:
    """The numbers of the records to keep, in their order; all of them for a ratio of 0."""
    check_balance(ratio)
    if not ratio or not records:
        return list(range(len(records)))
    most = limit(Counter(record.task for record in records), ratio)
    left: Counter[str] = Counter()
    keep = []
    for index in sorted(range(len(records)), key=lambda i: _rank(records[i])):
        left[records[index].task] += 1
        if left[records[index].task] <= most:
            keep.append(index)
    return sorted(keep)


def limit(counts: Mapping[str, int], ratio: float) -> int:
    """The most that any type may have."""
    ordered = sorted(counts.values())
    return math.ceil(ratio * ordered[(len(ordered) - 1) // 2])


def _rank(record: Record) -> tuple[float, str]:
    """Best scored first; what is equal in an order that depends on nothing but the names."""
    return -round(mean_score(record), 6), order_by_lot(record)
