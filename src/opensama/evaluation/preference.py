"""People's votes on pairs of edits: Bradley-Terry strengths with bootstrap intervals, and do people agree with a judge?

    P(a is preferred to b) = p_a / (p_a + p_b)

A tie is half a vote for either. Strengths are log p, centred on 0, found by minorisation-maximisation; every system
has, beside its votes, half a vote for and half a vote against it in a comparison with an average system, so that one
that won always stays finite. Intervals are 95 %, the wider of two: by drawing items (not votes: those on one item
belong together), which sees no doubt where all votes agree, and by the likelihood's own curvature, which does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from opensama.evaluation.agreement import kendall
from opensama.evaluation.statistics import wilson

_DRAWS = 500
_PRIOR = 1.0  # comparisons with an average system
ROUNDS = 300


@dataclass(frozen=True)
class Vote:
    """One person's answer to one pair: `share` is 1 for `first`, 0 for `second`, 0.5 for a tie."""

    item: str
    first: str
    second: str
    share: float


@dataclass(frozen=True)
class Standing:
    """A system among the others: its rank (and where it lay in 95 % of draws), its log strength, its votes."""

    name: str
    rank: int
    best: int
    worst: int
    strength: float
    low: float
    high: float
    won: int
    tied: int
    lost: int

    @property
    def votes(self) -> int:
        return self.won + self.tied + self.lost


def bradley_terry(votes: Sequence[Vote], draws: int = _DRAWS) -> list[Standing]:
    """The systems, strongest first. They can only be compared where votes link them: see `linked`."""
    names = sorted({name for vote in votes for name in (vote.first, vote.second)})
    if not names:
        return []
    place = {name: index for index, name in enumerate(names)}
    items = {item: index for index, item in enumerate(sorted({vote.item for vote in votes}))}
    wins = np.zeros((len(items), len(names), len(names)))  # item, winner, loser
    for vote in votes:
        a, b, i = place[vote.first], place[vote.second], items[vote.item]
        wins[i, a, b] += vote.share
        wins[i, b, a] += 1 - vote.share
    points = log_strengths(wins.sum(0)[None])[0]
    times = np.random.default_rng(0).multinomial(len(items), np.full(len(items), 1 / len(items)), draws)
    of_items = log_strengths(np.tensordot(times.astype(float), wins, 1))
    of_model = np.random.default_rng(1).multivariate_normal(points, covariance(wins.sum(0), points), draws)
    ends = [np.quantile(drawn, (0.025, 0.975), axis=0) for drawn in (of_items, of_model)]
    low, high = np.minimum(ends[0][0], ends[1][0]), np.maximum(ends[0][1], ends[1][1])
    places = [1 + (drawn[:, None, :] > drawn[:, :, None] + 1e-9).sum(2) for drawn in (of_items, of_model)]
    ranks = [np.quantile(place, (0.025, 0.975), axis=0, method="nearest") for place in places]
    best, worst = np.minimum(ranks[0][0], ranks[1][0]), np.maximum(ranks[0][1], ranks[1][1])
    found = []
    for name in sorted(names, key=lambda name: (-points[place[name]], name)):
        i = place[name]
        shares = [vote.share if vote.first == name else 1 - vote.share for vote in votes if name in _pair(vote)]
        rank = 1 + int((points > points[i] + 1e-9).sum())
        numbers = float(points[i]), float(low[i]), float(high[i])
        counts = shares.count(1.0), shares.count(0.5), shares.count(0.0)
        found.append(Standing(name, rank, int(best[i]), int(worst[i]), *numbers, *counts))
    return found


def log_strengths(wins: np.ndarray, prior: float = _PRIOR) -> np.ndarray:
    """Log strengths [draws systems] of counts [draws winner loser]; without a prior they may grow without end."""
    won = wins.sum(2) + prior / 2
    met = wins + wins.swapaxes(1, 2)
    p = np.ones_like(won)
    for _ in range(ROUNDS):
        p = won / ((met / (p[:, :, None] + p[:, None, :])).sum(2) + prior / (p + 1))
        if not prior:
            p = p / np.exp(np.log(p).mean(1, keepdims=True))
    logs = np.log(p)
    return np.asarray(logs - logs.mean(1, keepdims=True))


def covariance(wins: np.ndarray, points: np.ndarray, prior: float = _PRIOR) -> np.ndarray:
    """Of centred log strengths, by the curvature of the likelihood at `points`; counts [winner loser]."""

    def spread(logs: np.ndarray) -> np.ndarray:
        share = 1 / (1 + np.exp(-logs))
        return np.asarray(share * (1 - share))

    joined = (wins + wins.T) * spread(points[:, None] - points[None])
    curve = np.diag(joined.sum(1) + prior * spread(points)) - joined
    centre = np.eye(len(points)) - 1 / len(points)
    return np.asarray(centre @ np.linalg.inv(curve) @ centre)


def linked(votes: Sequence[Vote]) -> bool:
    """Whether every system is joined to every other by a chain of votes; if not, ranks across the gap mean nothing."""
    groups: list[set[str]] = []
    for vote in votes:
        touched = [group for group in groups if group & _pair(vote)]
        groups = [group for group in groups if group not in touched] + [_pair(vote).union(*touched)]
    return len(groups) <= 1


@dataclass(frozen=True)
class JudgeAgreement:
    """People and a judge on the same pairs: of `n` votes that are no tie on pairs that the judge marked differently the
    `share` for the edit it marked higher, with its 95 % interval; `judge_ties` more it marked alike; `tau` is Kendall's
    tau-b of the systems' strengths and mean marks. None where it cannot be said."""

    n: int
    judge_ties: int
    share: float | None = None
    low: float | None = None
    high: float | None = None
    tau: float | None = None


def agreement_with_judge(
    votes: Sequence[Vote], marks: Mapping[tuple[str, str], float], standings: Sequence[Standing]
) -> JudgeAgreement:
    """What people and a judge (`marks`: system, item -> score) say of the same pairs. The interval is by drawing items,
    or Wilson's where that is wider."""
    said: dict[str, list[float]] = {}
    judge_ties = 0
    for vote in votes:
        a, b = marks.get((vote.first, vote.item)), marks.get((vote.second, vote.item))
        if a is None or b is None or vote.share == 0.5:
            continue
        if a == b:
            judge_ties += 1
            continue
        said.setdefault(vote.item, []).append(float((a > b) == (vote.share > 0.5)))
    rows = np.array([(sum(row), len(row)) for row in said.values()], float).reshape(-1, 2)
    n = int(rows[:, 1].sum())
    share = float(rows[:, 0].sum() / n) if n else None
    low: float | None = None
    high: float | None = None
    if len(rows) > 1:
        picks = np.random.default_rng(0).integers(0, len(rows), (_DRAWS, len(rows)))
        drawn = rows[picks].sum(1)
        low, high = (float(x) for x in np.quantile(drawn[:, 0] / drawn[:, 1], (0.025, 0.975)))
        least, most = wilson(float(rows[:, 0].sum()), n)
        low, high = min(low, least), max(high, most)
    voted = {vote.item for vote in votes}
    means: dict[str, float] = {}
    for standing in standings:
        mine = [mark for (name, item), mark in marks.items() if name == standing.name and item in voted]
        if mine:
            means[standing.name] = sum(mine) / len(mine)
    both = [(standing.strength, means[standing.name]) for standing in standings if standing.name in means]
    tau = kendall([a for a, _ in both], [b for _, b in both]) if len(both) > 1 else None
    return JudgeAgreement(n, judge_ties, share, low, high, tau)


def standings_table(standings: Sequence[Standing]) -> str:
    """The ranks in lines."""
    lines = [f"{'rank':<8}{'system':<28}{'strength':>9}  {'95 %':>15}  {'won':>5} {'tied':>5} {'lost':>5}"]
    for row in standings:
        rank = str(row.rank) if row.best == row.worst else f"{row.rank} ({row.best}-{row.worst})"
        interval = f"{row.low:.2f}..{row.high:.2f}"
        counts = f"{row.won:>5} {row.tied:>5} {row.lost:>5}"
        lines.append(f"{rank:<8}{row.name:<28}{row.strength:>9.2f}  {interval:>15}  {counts}")
    return "\n".join(lines)


def _pair(vote: Vote) -> set[str]:
    return {vote.first, vote.second}
