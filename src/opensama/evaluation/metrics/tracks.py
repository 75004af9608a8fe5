"""Points followed through a video by chained optical flow, and whether an edit moves as its source does.

A track begins at a detail of the source and goes on for `LENGTH` frames; then new ones begin. The edit's track begins
at the same place. With the steps u of the source's and v of the edit's track, in pixels, a track's agreement is

    (2 sum u.v + e) / (sum |u|^2 + |v|^2 + e),    e = NOISE^2 for each step

which is 1 for the same motion, 0 where only one moves, and -1 for the opposite one; two that stand still agree.
"""

from __future__ import annotations

import math

import numpy as np

from opensama.evaluation.metrics.moments import Pair
from opensama.media.motion import opencv

LENGTH = 16
CELLS = 20  # along the longer side; one point in each cell that has a detail
DETAIL = 1e-4  # smallest eigenvalue of the gradients' covariance, in squares of grey 0..1 over a pixel
NOISE = 0.25  # pixels: less is not told from rest


def details(gray: np.ndarray, cells: int = CELLS) -> np.ndarray:
    """The strongest corner in each cell of a grid, where there is one: float32 `n (x, y)`."""
    cv2 = opencv()
    height, width = gray.shape
    corners = cv2.cornerMinEigenVal(gray.astype(np.float32) / 255, 5, ksize=3)
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


def advanced(points: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Where points `n (x, y)` are one frame later; NaN once they have left the picture."""
    height, width = flow.shape[:2]
    inside = (points[:, 0] >= 0) & (points[:, 0] <= width - 1) & (points[:, 1] >= 0) & (points[:, 1] <= height - 1)
    x, y = np.where(inside, points[:, 0], 0), np.where(inside, points[:, 1], 0)
    x0, y0 = np.minimum(x.astype(int), max(0, width - 2)), np.minimum(y.astype(int), max(0, height - 2))
    x1, y1 = np.minimum(x0 + 1, width - 1), np.minimum(y0 + 1, height - 1)
    right, down = (x - x0)[:, None], (y - y0)[:, None]
    step = (flow[y0, x0] * (1 - right) + flow[y0, x1] * right) * (1 - down)
    step = step + (flow[y1, x0] * (1 - right) + flow[y1, x1] * right) * down
    return np.asarray(np.where(inside[:, None], points + step, np.nan).astype(np.float32))


class MotionFidelity:
    """The mean agreement of all tracks."""

    _source: np.ndarray
    _edited: np.ndarray
    _same: np.ndarray
    _both: np.ndarray
    _steps: np.ndarray

    def __init__(self) -> None:
        self._age = LENGTH
        self._total, self._count = 0.0, 0
        self._begin(np.zeros((0, 2), np.float32))

    def see(self, pair: Pair) -> None:
        if self._age == LENGTH or pair.source.before is None:
            self._close()
            self._begin(details(pair.source.gray))
            return
        if len(self._source):
            ours, theirs = advanced(self._source, pair.source.flow), advanced(self._edited, pair.edited.flow)
            u, v = ours - self._source, theirs - self._edited
            known = ~np.isnan(u + v).any(1)
            self._steps += known
            self._same += np.where(known, (u * v).sum(1), 0)
            self._both += np.where(known, (u * u).sum(1) + (v * v).sum(1), 0)
            self._source, self._edited = ours, theirs
        self._age += 1
        if self._age == LENGTH:  # this frame ends the tracks and begins the next
            self._close()
            self._begin(details(pair.source.gray))

    def value(self) -> float:
        total, count = self._sums()
        return (self._total + total) / (self._count + count) if self._count + count else math.nan

    def _begin(self, points: np.ndarray) -> None:
        self._source = self._edited = points
        self._same, self._both, self._steps = np.zeros((3, len(points)))
        self._age = 0

    def _close(self) -> None:
        total, count = self._sums()
        self._total, self._count = self._total + total, self._count + count

    def _sums(self) -> tuple[float, int]:
        seen = self._steps > 0
        noise = NOISE**2 * self._steps[seen]
        agreement = (2 * self._same[seen] + noise) / (self._both[seen] + noise)
        return float(agreement.sum()), int(seen.sum())
