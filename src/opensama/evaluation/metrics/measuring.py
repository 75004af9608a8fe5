"""A source and its edit measured in one pass, with three things beside that are no edits.

Controls are measured as if they were the edit: `copy` is the source itself, `black` is black, `shuffled` is the source
with the frames of every eight in another order. A metric on which one of them is as good as an edit says nothing alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from opensama.evaluation.metrics.alignment import SIDE, Alignment, align
from opensama.evaluation.metrics.meters import METRICS, Meter
from opensama.evaluation.metrics.moments import Moment, Pair
from opensama.media.motion import Flow
from opensama.values import UserError, Video

METRIC_CONTROLS = ("copy", "black", "shuffled")
SHUFFLE = (3, 6, 1, 4, 7, 2, 5, 0)


@dataclass(frozen=True)
class Measured:
    """The values of an edit and of the controls by metric; one that cannot be said is left out."""

    values: dict[str, float]
    controls: dict[str, dict[str, float]]
    alignment: Alignment

    def to_dict(self) -> dict[str, object]:
        """What a JSON file holds."""
        at = self.alignment
        return {
            "values": self.values,
            "controls": self.controls,
            "pairs": len(at),
            "paired": at.paired,
            "fit": at.fit,
            "left_over": at.left_over,
            "size": list(at.size),
        }


def measure_edit(
    source: Video, edited: Video, chosen: Iterable[str] | None = None, *, side: int = SIDE
) -> dict[str, float]:
    """The chosen metrics (all if None) of an edit by name; one that cannot be said is left out."""
    return measure_with_controls(source, edited, chosen, side=side, controls=()).values


def measure_with_controls(
    source: Video,
    edited: Video,
    chosen: Iterable[str] | None = None,
    *,
    side: int = SIDE,
    controls: Sequence[str] = METRIC_CONTROLS,
) -> Measured:
    """The same with controls beside, in one pass that holds a dozen small frames. UserError for unknown names."""
    names = known(METRICS if chosen is None else chosen)
    if unknown := [name for name in controls if name not in METRIC_CONTROLS]:
        raise UserError(f"There is no control {unknown[0]!r}: choose among {', '.join(METRIC_CONTROLS)}.")
    alignment = align(source, edited, side)
    flow = Flow()
    meters: dict[str, list[Meter]] = {who: [METRICS[name].make() for name in names] for who in ("edit", *controls)}
    last: dict[str, Moment | None] = dict.fromkeys(("source", *meters))
    for frames in _with_controls(alignment.pairs(), controls):
        now = {who: Moment(frame, last[who], flow) for who, frame in frames.items()}
        for who, own in meters.items():
            pair = Pair(now["source"], now["source" if who == "copy" else who])
            for meter in own:
                meter.see(pair)
        last.update(now)
    found = {
        who: {name: value for name, meter in zip(names, own, strict=True) if not math.isnan(value := meter.value())}
        for who, own in meters.items()
    }
    return Measured(found.pop("edit"), found, alignment)


def known(names: Iterable[str]) -> tuple[str, ...]:
    """The names in the table's order. UserError for one that is not in it."""
    wanted = set(names)
    if unknown := sorted(wanted - METRICS.keys()):
        raise UserError(f"There is no metric {unknown[0]!r}: choose among {', '.join(METRICS)}.")
    return tuple(name for name in METRICS if name in wanted)


def _with_controls(
    pairs: Iterator[tuple[np.ndarray, np.ndarray]], controls: Sequence[str]
) -> Iterator[dict[str, np.ndarray]]:
    """Frames by who shows them: the source, the edit and the controls but `copy`, which is the source."""
    block: list[tuple[np.ndarray, np.ndarray]] = []
    black: np.ndarray | None = None

    def told() -> Iterator[dict[str, np.ndarray]]:
        order = [i for i in SHUFFLE if i < len(block)]
        for (source, edited), other in zip(block, order, strict=True):
            frames = {"source": source, "edit": edited}
            if black is not None:
                frames["black"] = black
            if "shuffled" in controls:
                frames["shuffled"] = block[other][0]
            yield frames

    for pair in pairs:
        if black is None and "black" in controls:
            black = np.zeros_like(pair[0])
        block.append(pair)
        if len(block) == (len(SHUFFLE) if "shuffled" in controls else 1):
            yield from told()
            block.clear()
    yield from told()
