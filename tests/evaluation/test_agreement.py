"""Rank correlations are what statisticians mean by them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opensama.evaluation.agreement import agreement, agreement_table, kendall, ranks, spearman
from opensama.values import UserError

PAIRS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=30)


def results(judge: str, marks: dict[str, float], benchmark: str = "vie") -> dict[str, Any]:
    items = [{"id": name, "task": "add", "scores": {"mean": mark}} for name, mark in marks.items()]
    return {"benchmark": benchmark, "judge": judge, "systems": [{"name": "ours", "items": items}]}


def test_ranks_share_ties() -> None:
    assert ranks([30, 10, 20, 10]).tolist() == [4, 1.5, 3, 1.5]


@given(PAIRS)
def test_correlations_are_scipys(pairs: list[tuple[int, int]]) -> None:
    stats = pytest.importorskip("scipy.stats")
    a, b = map(list, zip(*pairs, strict=True))
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert spearman(a, b) is kendall(a, b) is None
        return
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-9)
    assert kendall(a, b) == pytest.approx(stats.kendalltau(a, b).statistic, abs=1e-9)


def test_two_judges() -> None:
    marks = {f"v{i}": float(i) for i in range(12)}
    mild = {name: mark / 2 + 5 for name, mark in marks.items()} | {"other": 1.0}
    found = agreement(results("strict", marks), results("mild", mild))
    row = found["scores"]["mean"]
    assert (row["n"], row["rho"], row["tau"]) == (12, pytest.approx(1), pytest.approx(1))
    assert row["mean_difference"] == pytest.approx(np.mean([m - m / 2 - 5 for m in marks.values()]))
    assert row["low"] > 0.9
    assert [(item["first"]["mean"], item["second"]["mean"]) for item in found["items"][:2]] == [(0, 5), (1, 5.5)]
    assert "strict and mild over 12 edits" in agreement_table(found)


def test_what_cannot_be_compared_is_said() -> None:
    with pytest.raises(UserError, match="of vie and of reco"):
        agreement(results("a", {"v": 1}), results("b", {"v": 1}, "reco"))
    with pytest.raises(UserError, match="share no"):
        agreement(results("a", {"v": 1}), results("b", {"w": 1}))
