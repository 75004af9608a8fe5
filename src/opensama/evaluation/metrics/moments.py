"""What metrics look at: a frame with what came just before it, and a pair of them; each thing is computed once.

Letters: h w pixels. A `Moment` knows the two before it, no more, so that a video is never in memory.
"""

from __future__ import annotations

from functools import cached_property, lru_cache

import numpy as np

from opensama.media.motion import Flow, opencv

_CHANGED = 20  # levels of 255, after a mean over BLUR pixels: what differs more has been edited
BLUR = 7
GROWN = 7  # pixels around what changed that are not counted as unchanged either


class Moment:
    """One frame of a video, uint8 RGB `h w 3`, after another."""

    def __init__(self, frame: np.ndarray, before: Moment | None, flow: Flow) -> None:
        self.frame, self.before, self._flow = frame, before, flow
        if before is not None and before.before is not None:
            before.before.before = None

    @cached_property
    def gray(self) -> np.ndarray:
        """uint8 `h w`."""
        cv2 = opencv()
        return np.asarray(cv2.cvtColor(self.frame, cv2.COLOR_RGB2GRAY))

    @cached_property
    def flow(self) -> np.ndarray:
        """Where each pixel of the frame before goes: `h w (right, down)`. Asked for only where there is one."""
        assert self.before is not None
        return self._flow(self.before.gray, self.gray)

    @cached_property
    def step(self) -> float:
        """Mean absolute difference to the frame before, in levels."""
        assert self.before is not None
        return float(np.mean(opencv().mean(opencv().absdiff(self.before.frame, self.frame))[:3]))

    @cached_property
    def warp_error(self) -> float:
        """The same after every pixel of the frame before has been followed by the flow; what leaves does not count."""
        assert self.before is not None
        followed, inside = pulled(self.frame, self.flow)
        return masked_mean(opencv().absdiff(self.before.frame, followed), inside)

    @cached_property
    def middle_error(self) -> float:
        """How far the frame before is from the mean of its neighbours, each followed half the way, in levels."""
        cv2 = opencv()
        assert self.before is not None
        assert self.before.before is not None
        first = self.before.before
        half = self._flow(first.gray, self.gray) / 2
        one, one_inside = pulled(first.frame, -half)
        two, two_inside = pulled(self.frame, half)
        drawn = cv2.addWeighted(one, 0.5, two, 0.5, 0)
        return masked_mean(cv2.absdiff(drawn, self.before.frame), cv2.bitwise_and(one_inside, two_inside))


class Pair:
    """A frame of the source and the same one of the edit."""

    def __init__(self, source: Moment, edited: Moment) -> None:
        self.source, self.edited = source, edited

    @cached_property
    def unchanged(self) -> np.ndarray:
        """Where the edit left the source alone, as uint8 `h w` of 0 and 255."""
        cv2 = opencv()
        blurred = [cv2.blur(moment.frame, (BLUR, BLUR)) for moment in (self.source, self.edited)]
        red, green, blue = cv2.split(cv2.absdiff(*blurred))
        changed = cv2.threshold(cv2.max(cv2.max(red, green), blue), _CHANGED, 255, cv2.THRESH_BINARY)[1]
        changed = cv2.morphologyEx(changed, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
        around = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * GROWN + 1, 2 * GROWN + 1))
        return np.asarray(cv2.bitwise_not(cv2.dilate(changed, around)))

    @cached_property
    def unchanged_share(self) -> float:
        return float(np.count_nonzero(self.unchanged)) / self.unchanged.size

    @cached_property
    def squared_error(self) -> float:
        """Mean over the unchanged pixels, in levels squared."""
        difference = opencv().absdiff(self.source.frame, self.edited.frame).astype(np.float32)
        return masked_mean(difference * difference, self.unchanged)

    @cached_property
    def ssim(self) -> np.ndarray:
        """Structural similarity of the greys (Wang et al. 2004: gaussian window, sigma 1.5): float32 `h w`."""
        a, b = (moment.gray.astype(np.float32) for moment in (self.source, self.edited))
        mean_a, mean_b = _window(a), _window(b)
        var_a, var_b = _window(a * a) - mean_a * mean_a, _window(b * b) - mean_b * mean_b
        both = _window(a * b) - mean_a * mean_b
        c1, c2 = np.float32((0.01 * 255) ** 2), np.float32((0.03 * 255) ** 2)
        above = (2 * mean_a * mean_b + c1) * (2 * both + c2)
        return np.asarray(above / ((mean_a * mean_a + mean_b * mean_b + c1) * (var_a + var_b + c2)))


def pulled(frame: np.ndarray, flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At each pixel what `frame` shows where the flow leads, and where that lies inside (uint8 0 and 255)."""
    cv2 = opencv()
    height, width = flow.shape[:2]
    there = _grid(height, width) + flow
    x, y = there[..., 0], there[..., 1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    taken = cv2.remap(frame, there, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(taken), inside.astype(np.uint8) * np.uint8(255)


def masked_mean(picture: np.ndarray, mask: np.ndarray) -> float:
    """The mean over pixels and channels where the mask is not 0; 0 where it is nowhere."""
    channels = picture.shape[2] if picture.ndim == 3 else 1
    return float(np.mean(opencv().mean(picture, mask)[:channels]))


def _window(values: np.ndarray) -> np.ndarray:
    return np.asarray(opencv().GaussianBlur(values, (11, 11), 1.5, borderType=opencv().BORDER_REFLECT))


@lru_cache(maxsize=4)
def _grid(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    return np.stack([x, y], -1)
