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
        return mean_apart(self.before.frame, self.frame)

    @cached_property
    def warp_error(self) -> float:
        """The same after every pixel of the frame before has been followed by the flow; what leaves does not count."""
        assert self.before is not None
        return mean_apart(self.before.frame, *pulled(self.frame, self.flow))

    @cached_property
    def middle_error(self) -> float:
        """How far the frame before is from the mean of its neighbours, each followed half the way, in levels."""
        cv2 = opencv()
        assert self.before is not None
        assert self.before.before is not None
        first = self.before.before
        flow = self._flow(first.gray, self.gray)
        one, one_inside = pulled(first.frame, flow, -0.5)
        two, two_inside = pulled(self.frame, flow, 0.5)
        drawn = cv2.addWeighted(one, 0.5, two, 0.5, 0)
        return mean_apart(self.before.frame, drawn, cv2.bitwise_and(one_inside, two_inside))


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
        return mean_apart(self.source.frame, self.edited.frame, self.unchanged, squared=True)

    @cached_property
    def ssim(self) -> np.ndarray:
        """Structural similarity of the greys (Wang et al. 2004: gaussian window, sigma 1.5): float32 `h w`.

        With the window's means m, of the squares and the product too,
        (2 m_a m_b + c1) (2 (m_ab - m_a m_b) + c2) / ((m_a^2 + m_b^2 + c1) (m_aa+bb - m_a^2 - m_b^2 + c2)).
        """
        a, b = (moment.gray.astype(np.float32) for moment in (self.source, self.edited))
        product, squares = a * b, a * a
        squares += b * b
        mean_a, mean_b, both, squares = (_window(values) for values in (a, b, product, squares))
        c1, c2 = np.float32((0.01 * 255) ** 2), np.float32((0.03 * 255) ** 2)
        np.multiply(mean_a, mean_b, out=product)  # in place from here on: new pages cost more than what is computed
        both -= product
        both *= 2
        both += c2
        product *= 2
        product += c1
        product *= both
        mean_a *= mean_a
        mean_b *= mean_b
        mean_a += mean_b
        squares -= mean_a
        squares += c2
        mean_a += c1
        squares *= mean_a
        product /= squares
        return product


def pulled(frame: np.ndarray, flow: np.ndarray, far: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """At each pixel what `frame` shows where `far` of the flow leads, and where that lies inside (uint8 0 and 255)."""
    cv2 = opencv()
    height, width = flow.shape[:2]
    there = cv2.scaleAdd(flow, far, _grid(height, width))
    four = cv2.cvtColor(frame, cv2.COLOR_RGB2RGBA)  # the same codes as of three channels in less than half the time
    taken = cv2.remap(four, there, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return cv2.cvtColor(taken, cv2.COLOR_RGBA2RGB), cv2.inRange(there, (0, 0), (width - 1, height - 1))


def mean_apart(first: np.ndarray, second: np.ndarray, mask: np.ndarray | None = None, squared: bool = False) -> float:
    """How far two frames uint8 `h w 3` are apart, or that squared: the mean over pixels and channels where the mask is
    not 0; 0 where it is nowhere. Exact: the sum is one of whole numbers."""
    cv2 = opencv()
    count = first.size if mask is None else 3 * cv2.countNonZero(mask)
    return float(cv2.norm(first, second, cv2.NORM_L2SQR if squared else cv2.NORM_L1, mask)) / max(1, count)


def masked_mean(picture: np.ndarray, mask: np.ndarray) -> float:
    """The mean of `h w` where the mask is not 0; 0 where it is nowhere."""
    return float(opencv().mean(picture, mask)[0])


def _window(values: np.ndarray) -> np.ndarray:
    return np.asarray(opencv().GaussianBlur(values, (11, 11), 1.5, borderType=opencv().BORDER_REFLECT))


@lru_cache(maxsize=4)
def _grid(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    return np.stack([x, y], -1)
