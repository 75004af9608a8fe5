"""How much moves, by the dense optical flow between small frames.

A speed is in frame diagonals a second, so that neither the size of the picture nor its rate changes it: 0.1 crosses the
frame in ten seconds.
"""

from __future__ import annotations

import math

import numpy as np

from opensama.curation.settings import HIGH_MOTION, LOW_MOTION
from opensama.curation.stage import Drop, GraphItem


def mean_speed(flow: np.ndarray, seconds: float) -> float:
    """Mean speed of a flow [h w 2] between frames so far apart, in diagonals a second."""
    return float(np.linalg.norm(flow, axis=-1).mean()) / math.hypot(*flow.shape[:2]) / seconds


def moving(item: GraphItem, *, low: float = LOW_MOTION, high: float = HIGH_MOTION) -> GraphItem:
    """The stage: drops scenes in which almost nothing moves, or everything is a blur."""
    speed = item["scores"]["motion"]
    if speed < low:
        raise Drop("too little motion")
    if speed > high:
        raise Drop("too much motion")
    return item
