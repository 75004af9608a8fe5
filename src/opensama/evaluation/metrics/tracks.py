"""Points followed through a video by sparse optical flow, and whether an edit moves as its source does.

A track begins at a detail of the source and goes on for `LENGTH` frames; then new ones begin. The edit's track begins
at the same place, if the edit has a detail there. Points are followed by Lucas and Kanade's method in pyramids, forth
and back: what does not return to where it came from is lost. With the steps u of the source's and v of the edit's
track, in pixels, over the steps on which the source's is known, a track's agreement is

    sum (2 u.v + e) / sum (|u|^2 + |v|^2 + e),    e = _NOISE^2,

where a step on which the edit's is lost adds nothing above. It is 1 for the same motion, about 0 where only one moves,
and -1 for the opposite one; two that stand still agree.
"""

from __future__ import annotations

import math

import numpy as np

from opensama.evaluation.metrics.moments import Pair
from opensama.media.motion import opencv

LENGTH = 16
_CELLS = 20  # along the longer side; one point in each cell that has a detail
DETAIL = 1e-4  # smallest eigenvalue of the gradients' covariance, greys from 0 to 1
_NEAR = 3  # pixels around a point in which the edit's detail may lie
_NOISE = 0.25  # pixels: less is not told from rest
RETURNS = 0.3  # pixels
_ENOUGH = 0.1  # share of the source's points that must be seen in the edit for a word on it


def details(gray: np.ndarray, cells: int = _CELLS) -> np.ndarray:
    """The strongest corner in each cell of a grid, where there is one: float32 `n (x, y)`."""
    height, width = gray.shape
    corners = _corners(gray)
    edge = max(height, width) / cells
    rows, columns = max(1, round(height / edge)), max(1, round(width / edge))
    found = []
    for row in range(rows):
        for column in range(columns):
            top, bottom = row * height // rows, (row + 1) * height // rows
            left, right = column * width // columns, (column + 1) * width // columns
            cell = corners[top:bottom, left:right]
            if cell.size and cell.max() > DETAIL:
                y, x = np.unravel_index(int(cell.argmax()), cell.shape)
                found.append((left + x, top + y))
    return np.asarray(found, np.float32).reshape(-1, 2)


def followed(points: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Where points `n (x, y)` of the grey `first` are in `second`; NaN for those that are lost, and stay so."""
    cv2 = opencv()
    found = np.full_like(points, np.nan)
    known = ~np.isnan(points).any(1)
    if not known.any():
        return found
    begin = np.ascontiguousarray(points[known])
    until = (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 20, 0.01)
    window = {"winSize": (21, 21), "maxLevel": 4, "criteria": until}
    end, there, _ = cv2.calcOpticalFlowPyrLK(first, second, begin, None, **window)
    again, back, _ = cv2.calcOpticalFlowPyrLK(second, first, end, None, **window)
    height, width = first.shape
    inside = (end >= 0).all(1) & (end[:, 0] <= width - 1) & (end[:, 1] <= height - 1)
    good = (there[:, 0] > 0) & (back[:, 0] > 0) & inside & (np.linalg.norm(again - begin, axis=1) < RETURNS)
    found[known] = np.where(good[:, None], end, np.nan)
    return found


class MotionFidelity:
    """The mean agreement of all tracks."""

    _source: np.ndarray
    _edited: np.ndarray
    _same: np.ndarray
    _all: np.ndarray

    def __init__(self) -> None:
        self._points, self._tried = 0, 0  # the source's, and those that the edit has, too
        self._total, self._count = 0.0, 0
        self._begin(np.zeros((0, 2), np.float32))

    def see(self, pair: Pair) -> None:
        if pair.source.before is not None and pair.edited.before is not None:
            ours = followed(self._source, pair.source.before.gray, pair.source.gray)
            theirs = ours
            if pair.edited is not pair.source:
                theirs = followed(self._edited, pair.edited.before.gray, pair.edited.gray)
            u, v = np.nan_to_num(ours - self._source), np.nan_to_num(theirs - self._edited)
            known, both = ~np.isnan(ours).any(1), ~np.isnan(ours + theirs).any(1)
            noise = _NOISE**2
            self._same += np.where(both, 2 * (u * v).sum(1) + noise, 0)
            self._all += np.where(known, (u * u).sum(1) + np.where(both, (v * v).sum(1), 0) + noise, 0)
            self._source, self._edited = ours, theirs
            self._age += 1
        if self._age == LENGTH or pair.source.before is None:  # this frame ends the tracks and begins the next
            self._close()
            points = details(pair.source.gray)
            self._points += len(points)
            self._begin(points[_has_detail(pair.edited.gray, points)])

    def value(self) -> float:
        total, count = self._sums()
        total, count = self._total + total, self._count + count
        return total / count if count and self._tried >= _ENOUGH * self._points else math.nan

    def _begin(self, points: np.ndarray) -> None:
        self._source = self._edited = points
        self._same, self._all = np.zeros((2, len(points)))
        self._age = 0
        self._tried += len(points)

    def _close(self) -> None:
        total, count = self._sums()
        self._total, self._count = self._total + total, self._count + count

    def _sums(self) -> tuple[float, int]:
        seen = self._all > 0
        return float((self._same[seen] / self._all[seen]).sum()), int(seen.sum())


def _corners(gray: np.ndarray) -> np.ndarray:
    cv2 = opencv()
    return np.asarray(cv2.cornerMinEigenVal(gray.astype(np.float32) / 255, 5, ksize=3))


def _has_detail(gray: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Whether there is a detail at or near each point."""
    if not len(points):
        return np.zeros(0, bool)
    size = 2 * _NEAR + 1
    near = opencv().dilate(_corners(gray), np.ones((size, size), np.uint8))
    x, y = points.astype(int).T
    return np.asarray(near[y, x] > DETAIL)
