"""How pixels move between two frames: dense optical flow (OpenCV's DIS), and the door to OpenCV.

Where nothing can be followed (flat colours), flow is what its surroundings do.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np

from opensama.runtime import install_line
from opensama.values import UserError


def opencv() -> ModuleType:
    """The module `cv2` on one thread: whoever runs many jobs has a worker for each core."""
    try:
        import cv2
    except ModuleNotFoundError:
        raise UserError(f"OpenCV is not installed; run: {install_line('evaluate')}") from None
    cv2.setNumThreads(1)
    return cv2


class Flow:
    """The flow between two frames of one size: `flow(first, second)`."""

    def __init__(self) -> None:
        self._cv2 = opencv()
        self._dis = self._cv2.DISOpticalFlow.create(self._cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def __call__(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Where each pixel of `first` (uint8 `h w 3` or grey `h w`) goes: float32 `h w (right, down)` in pixels."""
        return np.asarray(self._dis.calc(self._gray(first), self._gray(second), None))

    def _gray(self, frame: np.ndarray) -> np.ndarray:
        return frame if frame.ndim == 2 else np.asarray(self._cv2.cvtColor(frame, self._cv2.COLOR_RGB2GRAY))
