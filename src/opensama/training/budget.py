"""The wall-clock time that a whole run may take, over all its resumptions, shared out among its stages.

A stage's share is for all that is done in it: drawing what it reads, training, scores and checkpoints. What one leaves
over is for those after it. Without a limit every deadline is infinite.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from math import inf
from pathlib import Path

from opensama.runtime import whole_file
from opensama.values import how_many

DRAWING = 0.4  # of a stage's share, at most
WRITING = 0.06  # of the whole, kept for the model at the end
LATE = 1.5  # times its minutes: a run that took longer says so


class TimeBudget:
    """`minutes` of `clock` (0: no limit), shared out as `shares` says of the stages, in their order.

    `began` is when the run began on the clock, where that was before now: loading the libraries counts, too.
    """

    def __init__(
        self,
        file: Path,
        minutes: float,
        shares: Mapping[str, float],
        clock: Callable[[], float] = time.monotonic,
        began: float | None = None,
    ):
        self.file, self.minutes, self.clock = file, minutes, clock
        self.total = 60 * minutes or inf
        kept = json.loads(file.read_text()) if file.exists() else {}
        self.before: float = kept.get("seconds", 0.0)
        self.ended: list[str] = kept.get("ended", []) if kept.get("minutes") == minutes else []
        self.full = sum(shares.values())  # minutes that the stages have of their own
        self.shares = {name: share for name, share in shares.items() if share > 0 and name not in self.ended}
        self.first: float = kept.get("first", minutes)  # what the run was begun with
        self.began, self.pools = clock() if began is None else began, 0
        self.until = self.drawing = inf
        self.save()

    def scaled(self, most: int, *, least: int, a_minute: int) -> int:
        """How many of what is made once a run of so many minutes has time for; the same when it goes on with more."""
        return most if not self.first else min(most, max(least, round(a_minute * self.first)))

    @property
    def used(self) -> float:
        """Seconds, those before a resumption included."""
        return self.before + self.clock() - self.began

    def begin(self, stage: str, pools: int = 0) -> None:
        """Gives a stage its time; it draws so many pools."""
        self.pools = pools
        if self.total == inf:
            return
        left = max(0.0, self.total * (1 - WRITING) - self.used)
        share = self.shares.get(stage, 0.0) / (sum(self.shares.values()) or 1.0)
        self.until = self.clock() + left * share
        self.drawing = self.clock() + left * share * DRAWING

    def pool_deadline(self) -> float:
        """When the next of the stage's pools has to be drawn, on the clock."""
        now, self.pools = self.clock(), max(1, self.pools) - 1
        return now + (self.drawing - now) / (self.pools + 1)

    def left(self) -> float:
        """Seconds until the stage has used its share; infinite without a limit."""
        return max(0.0, self.until - self.clock())

    def end(self, stage: str) -> None:
        """The stage has had its time, and a run that goes on with as many minutes does not train it again."""
        self.shares.pop(stage, None)
        if self.total < inf and stage not in self.ended:
            self.ended.append(stage)
        self.save()

    def closing(self, steps: int, *, from_nothing: bool) -> str:
        """One sentence where a run took far longer than it was given, or had too little to learn much from nothing."""
        said = []
        if self.used > LATE * self.total:
            said.append(
                f"the run took {self.used / 60:.1f} minutes where it was given {self.minutes:g}: what it does at least "
                "takes longer on this machine, or other programs shared it"
            )
        if from_nothing and 0 < self.minutes < self.full / 2:
            said.append(
                f"the model has learnt for {how_many(steps, 'step')} in {self.minutes:g} of the recipe's {self.full:g} "
                "minutes, and is far from the one that comes with this package"
            )
        sentence = "; ".join(said)
        return f"{sentence[:1].upper()}{sentence[1:]}." if said else ""

    def save(self) -> None:
        """Writes the seconds that are used and the stages that have ended to the file."""
        kept = {"first": self.first, "minutes": self.minutes, "seconds": round(self.used, 1), "ended": self.ended}
        with whole_file(self.file) as temporary:
            temporary.write_text(json.dumps(kept) + "\n")
