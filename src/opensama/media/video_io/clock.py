"""Time stamps that rise, out of those that a file holds: repeated, missing and turned-back ones are mended in place.

A stamp that is true stays what it is, whatever happened before it. Arithmetic only: no file is read here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

_LOOK_AHEAD = 16  # frames: a clock that has not caught up after so many was set back for good
_LOCAL = 0.9  # at least this share of the stamps rises where faults are local


def rising(found: Sequence[int | None], usual: int) -> tuple[list[int], int]:
    """Stamps that rise strictly, one for each found, and into how many parts a tick was cut to make room for them.

    Kept (times the parts): the longest series of found stamps that rises. Whatever does not belong to it, a stamp that
    is there twice or not at all, stands evenly between its kept neighbours, and `usual` ticks apart before the first
    and after the last. Where the clock was set back for good (recordings joined end to end), it goes on from there.
    """
    kept = _longest_rise(found)
    if len(kept) < _LOCAL * sum(stamp is not None for stamp in found):
        found = _one_clock(found, usual)
        kept = _longest_rise(found)
    if not kept:
        return [usual * index for index in range(len(found))], 1
    at = {index: stamp for index in kept if (stamp := found[index]) is not None}
    parts = max([1, *(-(-(j - i) // (at[j] - at[i])) for i, j in pairwise(kept))])
    stamps = [parts * (at[kept[0]] - usual * (kept[0] - index)) for index in range(kept[0])]
    for i, j in pairwise(kept):
        gap = parts * (at[j] - at[i])
        stamps += [parts * at[i] + gap * step // (j - i) for step in range(j - i)]
    return stamps + [parts * (at[kept[-1]] + usual * step) for step in range(len(found) - kept[-1])], parts


def usual_step(stamps: Sequence[int | None], otherwise: int) -> int:
    """The middle one of the steps upwards between neighbours."""
    steps = sorted(b - a for a, b in pairwise(stamps) if a is not None and b is not None and b > a)
    return steps[len(steps) // 2] if steps else otherwise


def _longest_rise(found: Sequence[int | None]) -> list[int]:
    """Indices of the longest series of stamps that rises strictly; of equal stamps the first counts."""
    ends: list[int] = []  # the least stamp that a series of so many can end with
    last: list[int] = []  # its index
    before: dict[int, int] = {}
    for index, stamp in enumerate(found):
        if stamp is None:
            continue
        length = bisect_left(ends, stamp)
        if length < len(ends) and ends[length] == stamp:
            continue
        ends[length : length + 1] = [stamp]
        last[length : length + 1] = [index]
        if length:
            before[index] = last[length - 1]
    series = last[-1:]
    while series and series[-1] in before:
        series.append(before[series[-1]])
    return series[::-1]


def _one_clock(found: Sequence[int | None], usual: int) -> list[int | None]:
    """The same on one clock: each time that it is set back for good, it goes on one usual step later."""
    together: list[int | None] = []
    top, moved = None, 0
    for index, stamp in enumerate(found):
        if stamp is None:
            together.append(None)
            continue
        ahead = [later for later in found[index : index + _LOOK_AHEAD] if later is not None]
        if top is not None and max(ahead) + moved <= top:
            moved = top + usual - stamp
        together.append(stamp + moved)
        top = stamp + moved if top is None else max(top, stamp + moved)
    return together
