"""How much moves: dense optical flow between small frames (OpenCV's DIS).

A speed is in frame diagonals a second, so that neither the size of the picture nor its rate changes it: 0.1 crosses the
frame in ten seconds. Where nothing can be followed (flat colours), flow is what its surroundings do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from opensama.curation.graph import Drop, Item

LOW, HIGH = 0.01, 0.6  # diagonals a second: our own defaults, the paper's thresholds are not known


class Flow:
    """The flow between two frames of one size: `flow(first, second)`."""

    def __init__(self) -> None:
        import cv2

        cv2.setNumThreads(1)  # whoever runs stages has a worker for each core
        self._gray: Any = lambda frame: cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        self._dis: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def __call__(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Where each pixel of `first` (uint8 `h w 3`) goes: float32 `h w (right, down)` in pixels."""
        return np.asarray(self._dis.calc(self._gray(first), self._gray(second), None))


def speed(flow: np.ndarray, seconds: float) -> float:
    """Mean speed of a flow [h w 2] between frames so far apart, in diagonals a second."""
    return float(np.linalg.norm(flow, axis=-1).mean()) / math.hypot(*flow.shape[:2]) / seconds


def motion_of(speeds: Sequence[float]) -> float:
    """One number for a scene: the mean of its speeds."""
    return float(np.mean(speeds)) if len(speeds) else 0.0


def moving(item: Item, *, low: float = LOW, high: float = HIGH) -> Item:
    """The stage: drops scenes in which almost nothing moves, or everything is a blur."""
    speed = item["scores"]["motion"]
    if speed < low:
        raise Drop("too little motion")
    if speed > high:
        raise Drop("too much motion")
    return item
