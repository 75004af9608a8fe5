"""Bradley-Terry on votes whose truth is known, and the agreement of people with a judge."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opensama.evaluation.preference import (
    Vote,
    agreement_with_judge,
    bradley_terry,
    linked,
    log_strengths,
    standings_table,
)

TRUTH = {"best": 1.5, "good": 0.5, "fair": -0.5, "worst": -1.5}


def drawn_votes(items: int, seed: int = 0) -> list[Vote]:
    """Each pair once an item, by the model itself."""
    rng = np.random.default_rng(seed)
    names = list(TRUTH)
    votes = []
    for item in range(items):
        for i, a in enumerate(names):
            for b in names[i + 1 :]:
                wins = rng.random() < 1 / (1 + math.exp(TRUTH[b] - TRUTH[a]))
                first, second, share = (a, b, float(wins)) if rng.random() < 0.5 else (b, a, float(not wins))
                votes.append(Vote(str(item), first, second, share))
    return votes


def test_known_strengths_come_back() -> None:
    found = bradley_terry(drawn_votes(150))
    assert [row.name for row in found] == list(TRUTH)
    assert [row.rank for row in found] == [1, 2, 3, 4]
    for row in found:
        assert row.low < TRUTH[row.name] < row.high
        assert (row.best, row.worst) == (row.rank, row.rank)
        assert row.high - row.low < 0.8
        assert row.votes == 450


def test_two_systems_are_as_the_formula_says() -> None:
    wins = np.array([[[0.0, 30.0], [10.0, 0.0]]])
    found = log_strengths(wins, prior=0)[0]
    assert found[0] - found[1] == pytest.approx(math.log(3))


def test_few_votes_have_wide_intervals_and_one_that_always_won_stays_finite() -> None:
    found = bradley_terry([Vote(str(i), "a", "b", 1.0) for i in range(3)])
    assert [row.name for row in found] == ["a", "b"]
    assert 0 < found[0].strength < 5
    assert found[0].low < 0, "three votes of one mind are no proof"
    assert (found[0].best, found[0].worst) == (1, 2)
    even = bradley_terry([Vote("0", "a", "b", 1.0), Vote("1", "a", "b", 0.0), Vote("2", "a", "b", 0.5)])
    assert [row.rank for row in even] == [1, 1]
    assert (even[0].best, even[0].worst) == (1, 2)
    assert (even[0].won, even[0].tied, even[0].lost) == (1, 1, 1)
    assert "1 (1-2)" in standings_table(even)
    assert bradley_terry([]) == []


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc"), st.sampled_from((0.0, 0.5, 1.0)))))
def test_sides_do_not_matter(rows: list[tuple[str, str, float]]) -> None:
    votes = [Vote(str(i), a, b, share) for i, (a, b, share) in enumerate(rows) if a != b]
    turned = [Vote(vote.item, vote.second, vote.first, 1 - vote.share) for vote in votes]
    for one, other in zip(bradley_terry(votes, 20), bradley_terry(turned, 20), strict=True):
        assert one.name == other.name
        assert one.strength == pytest.approx(other.strength)
    assert sum(row.strength for row in bradley_terry(votes, 20)) == pytest.approx(0, abs=1e-9)


def test_what_no_votes_join_is_told() -> None:
    apart = [Vote("0", "a", "b", 1.0), Vote("1", "c", "d", 1.0)]
    assert not linked(apart)
    assert linked([*apart, Vote("2", "b", "c", 0.5)])


def test_agreement_with_a_judge() -> None:
    votes = [Vote("0", "a", "b", 1.0), Vote("1", "b", "a", 0.0), Vote("2", "a", "b", 0.0), Vote("3", "a", "b", 0.5)]
    votes += [Vote("4", "a", "b", 1.0), Vote("5", "a", "b", 1.0)]
    marks = {(name, str(item)): mark for name, mark in (("a", 4.0), ("b", 2.0)) for item in range(5)}
    marks[("b", "4")] = 4.0
    found = agreement_with_judge(votes, marks, bradley_terry(votes))
    assert (found.n, found.judge_ties) == (3, 1)
    assert found.share == pytest.approx(2 / 3)
    assert found.low <= found.share <= found.high
    assert found.tau == pytest.approx(1)
    against = agreement_with_judge(votes, {key: -mark for key, mark in marks.items()}, bradley_terry(votes))
    assert against.share == pytest.approx(1 / 3)
    assert against.tau == pytest.approx(-1)
    assert agreement_with_judge(votes, {}, bradley_terry(votes)).share is None
