"""No type of edit drowns the others."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opensama.curation.balancing import balance, limit
from opensama.data.manifest import Record
from opensama.values import UserError


def pairs(**counts: int) -> list[Record]:
    return [
        Record(f"{task}-{n}", "pair", "b.mp4", "a.mp4", task=task, scores={"vlm_quality": float(n % 10)})
        for task, count in counts.items()
        for n in range(count)
    ]


def test_a_type_is_cut_to_so_many_times_the_median() -> None:
    records = pairs(remove=100, add=10, replace=12, style=1)
    kept = Counter(records[i].task for i in balance(records, 2))
    assert kept == {"remove": 20, "add": 10, "replace": 12, "style": 1}
    assert limit({"a": 10, "b": 1000}, 2) == 20


def test_the_best_scored_stay_in_their_order() -> None:
    records = pairs(remove=40, add=4)
    kept = balance(records, 1)
    assert kept == sorted(kept)
    assert [records[i].scores["vlm_quality"] for i in kept if records[i].task == "remove"] == [9.0] * 4


def test_without_a_ratio_everything_stays() -> None:
    assert balance(pairs(remove=9, add=1), 0) == list(range(10))
    assert balance([], 2) == []
    with pytest.raises(UserError, match="from 1 to 1000"):
        balance([], 0.5)


@given(
    st.dictionaries(st.sampled_from(["add", "remove", "style", "other"]), st.integers(1, 30), min_size=1),
    st.floats(1, 5),
)
def test_what_stays_is_a_part_and_no_type_is_lost(counts: dict[str, int], ratio: float) -> None:
    records = pairs(**counts)
    kept = balance(records, ratio)
    assert len(set(kept)) == len(kept)
    left = Counter(records[i].task for i in kept)
    most = limit(counts, ratio)
    assert left == {task: min(count, most) for task, count in counts.items()}
    assert balance([records[i] for i in reversed(range(len(records)))], ratio) == sorted(
        len(records) - 1 - i for i in kept
    )
