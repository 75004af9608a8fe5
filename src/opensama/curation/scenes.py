"""One pass over a video: where its cuts are (PySceneDetect), and how much moves in each scene between them.

Frames are decoded once, small, and given to PySceneDetect's adaptive detector, which compares how much a frame differs
from the one before with how much its neighbours do. Slow fades are no cuts to it. How much moves is by the dense
optical flow between small frames. A speed is in frame diagonals a second, so that neither the size of the picture nor
its rate changes it: 0.1 crosses the frame in ten seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from opensama.curation.settings import HIGH_MOTION, LOW_MOTION
from opensama.curation.stage import Drop, GraphItem
from opensama.runtime import install_line
from opensama.values import UserError, Video

_SIDE = 256  # pixels of the longer side
SHORTEST = 6  # frames between two cuts: short, because no clip may go across a cut, but longer than a flash
PAIRS_A_SECOND = 4  # neighbours whose flow is looked at


class Cuts:
    """The numbers of the frames with which scenes begin (`starts`), of frames that come one by one (`add`)."""

    def __init__(self) -> None:
        try:
            import scenedetect
            from scenedetect.detectors import AdaptiveDetector
        except ImportError:
            raise UserError(f"PySceneDetect is not installed; run: {install_line('curate')}") from None
        self._code = scenedetect.FrameTimecode
        from opensama.media.motion import opencv

        self._cv2, self._detector = opencv(), AdaptiveDetector(min_scene_len=SHORTEST)
        self._count = 0
        self.starts = [0]

    def add(self, frame: np.ndarray) -> None:
        """The next frame, uint8 RGB `h w 3`, small."""
        bgr = self._cv2.merge([frame[..., 2], frame[..., 1], frame[..., 0]])
        found = self._detector.process_frame(self._code(self._count, 25.0), bgr)
        self.starts += [int(code.frame_num) for code in found]
        self._count += 1


def scenes(item: GraphItem, *, frames: int) -> list[GraphItem]:
    """The stage: one item for each scene, with its frames, its times, its motion and when its clips begin and end.

    As many clips of so many frames as fit lie one behind the other; both ends of the scene share the rest.
    """
    from opensama.media.motion import Flow
    from opensama.media.video_io import read_video

    video = read_video(Path(item["_path"]))
    times = seconds_of(video)
    stride = max(1, round(float(video.fps) / PAIRS_A_SECOND))
    cuts, flow = Cuts(), Flow()
    before: np.ndarray | None = None
    speeds: dict[int, float] = {}  # by the number of the second frame
    for number, frame in enumerate(small_frames(video)):
        cuts.add(frame)
        if before is not None and number % stride == 0:
            speeds[number] = mean_speed(flow(before, frame), times[number] - times[number - 1])
        before = frame
    bounds = [*cuts.starts, video.frame_count]
    found = []
    for scene, (first, stop) in enumerate(pairwise(bounds)):
        within = [value for number, value in speeds.items() if first < number < stop]
        if not within:
            continue
        count, rest = divmod(stop - first, frames)
        edges = times[first + rest // 2 : stop + 1 : frames][: count + 1]
        found.append(
            item
            | {
                "id": f"{item['id']}/{scene}",
                "target_start": times[first],
                "target_end": times[stop],
                "frames": stop - first,
                "seconds": times[stop] - times[first],
                "scores": item["scores"] | {"motion": round(sum(within) / len(within), 5)},
                "_clips": list(pairwise(edges)),
            }
        )
    if not found:
        raise Drop("no scene that lasts")
    return found


def small_frames(video: Video) -> Iterator[np.ndarray]:
    """Every frame of a file's video, uint8 RGB `h w 3`, its longer side of 256 pixels."""
    from opensama.media.frames import eight_bit
    from opensama.media.video_io import read_video

    assert video.path is not None
    scale = _SIDE / max(video.width, video.height)
    size = max(1, round(video.width * scale)), max(1, round(video.height * scale))
    yield from map(eight_bit, read_video(video.path, cover=size, threads=0).frames())


def seconds_of(video: Video) -> list[float]:
    """When each frame begins, and when the last one ends."""
    ends = video.timestamps[-1] + video.durations[-1]
    return [float(stamp * video.time_base) for stamp in (*video.timestamps, ends)]


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
