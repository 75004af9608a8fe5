"""People's votes on disk: lines of votes.jsonl, of which a voter's last on a pair counts, and what they come to."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, cast

from opensama.evaluation.preference import (
    JudgeAgreement,
    Standing,
    Vote,
    agreement_with_judge,
    bradley_terry,
    linked,
    standings_table,
)
from opensama.evaluation.results import Results, headline_score
from opensama.values import UserError, how_many

VOTE_FILE = "votes.jsonl"
VOTE_FILE_BYTES = 50_000_000
VOTE_SHARES = {"left": 1.0, "tie": 0.5, "right": 0.0}
"""An answer -> the share of the vote that the edit shown on the left gets."""


class VoteRow(TypedDict):
    """A line: the item, the systems shown left and right, an answer of `VOTE_SHARES` or `none` (taken back)."""

    item: str
    left: str
    right: str
    vote: str
    voter: str


@dataclass(frozen=True)
class VoteTally:
    """Ranks by the votes so far; `joined` says whether votes link all systems, so that ranks mean something."""

    judge: str | None
    votes: int
    voters: int
    joined: bool
    standings: list[Standing]
    agreement: JudgeAgreement

    def lines(self) -> str:
        """For people."""
        if not self.votes:
            return "No votes yet."
        lines = [f"{how_many(self.votes, 'vote')} of {how_many(self.voters, 'voter')}", standings_table(self.standings)]
        if not self.joined:
            lines.append("No votes join some of these systems, so they cannot be ranked against each other yet.")
        a = self.agreement
        if a.share is not None:
            interval = "" if a.low is None else f", 95 % {a.low:.2f} to {a.high:.2f}"
            tau = "" if a.tau is None else f"; the orders of the systems agree by tau-b {a.tau:.2f}"
            lines.append(
                f"people chose the edit that {self.judge or 'the judge'} marked higher in {a.share:.2f} of "
                f"{how_many(a.n, 'vote')}{interval} ({a.judge_ties} more it marked alike){tau}"
            )
        return "\n".join(lines)


def tally_votes(results: Results, folder: Path) -> VoteTally:
    """Ranks by the votes in a folder, and their agreement with the judge of the results."""
    rows = read_votes(folder / VOTE_FILE)
    votes = counted_votes(rows, results)
    marks = {
        (system["name"], item["id"]): value
        for system in results["systems"]
        for item in system["items"]
        if (value := headline_score(item, system["summary"].get("headline"))) is not None
    }
    ranks = bradley_terry(votes)
    voters = len({row["voter"] for row in rows})
    return VoteTally(
        results.get("judge"), len(votes), voters, linked(votes), ranks, agreement_with_judge(votes, marks, ranks)
    )


def read_votes(path: Path) -> list[VoteRow]:
    """The lines that are votes; others, such as one that was cut off, are passed over."""
    if not path.is_file():
        return []
    if path.stat().st_size > VOTE_FILE_BYTES:
        raise UserError(f"{path} is larger than {VOTE_FILE_BYTES // 1_000_000} MB: that is no file of votes.")
    found = []
    for line in path.read_bytes().splitlines():
        try:
            row = {"voter": "", **json.loads(line)}
            if all(isinstance(row[name], str) for name in VoteRow.__annotations__):
                found.append(cast(VoteRow, row))
        except (ValueError, KeyError, TypeError):
            continue
    return found


def counted_votes(rows: Iterable[VoteRow], results: Results) -> list[Vote]:
    """The last vote of each voter on each pair of systems that the results have."""
    known = {(system["name"], item["id"]) for system in results["systems"] for item in system["items"]}
    last: dict[tuple[str, str, frozenset[str]], Vote | None] = {}
    for row in rows:
        item, left, right, answer = row["item"], row["left"], row["right"], row["vote"]
        if {(left, item), (right, item)} <= known and left != right:
            key = (row["voter"], item, frozenset((left, right)))
            last[key] = Vote(item, left, right, VOTE_SHARES[answer]) if answer in VOTE_SHARES else None
    return [found for found in last.values() if found is not None]
