"""One pass over a video: where its cuts are (PySceneDetect), and how much moves in each scene between them.

Frames are decoded once, small, by `media.video_io`, and given to PySceneDetect's adaptive detector, which compares how
much a frame differs from the one before with how much its neighbours do. Slow fades are no cuts to it.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict

from opensama.curation.stage import Drop, GraphItem
from opensama.values import UserError, Video

if TYPE_CHECKING:
    import numpy as np

_SIDE = 256  # pixels of the longer side
ADAPTIVE, CONTENT = 3.0, 15.0  # PySceneDetect's own defaults: ratio to the neighbours' change, least change
SHORTEST = 6  # frames between two cuts: short, because no clip may go across a cut, but longer than a flash
PAIRS_A_SECOND = 4  # neighbours whose flow is looked at


class Cuts:
    """The numbers of the frames with which scenes begin (`starts`), of frames that come one by one (`add`)."""

    def __init__(self, adaptive: float = ADAPTIVE, content: float = CONTENT):
        try:
            import scenedetect
            from scenedetect.detectors import AdaptiveDetector
        except ImportError:
            raise UserError("PySceneDetect is not installed; run: pip install 'opensama[curate]'") from None
        self._code = scenedetect.FrameTimecode
        self._detector = AdaptiveDetector(adaptive_threshold=adaptive, min_content_val=content, min_scene_len=SHORTEST)
        self._count = 0
        self.starts = [0]

    def add(self, frame: np.ndarray) -> None:
        """The next frame, uint8 RGB `h w 3`, small."""
        found = self._detector.process_frame(self._code(self._count, 25.0), frame[..., ::-1].copy())
        self.starts += [int(code.frame_num) for code in found]
        self._count += 1


def scenes(
    item: GraphItem, *, adaptive: float = ADAPTIVE, content: float = CONTENT, side: int = _SIDE
) -> list[GraphItem]:
    """The stage: one item for each scene, with its frames, its times and its motion."""
    from opensama.curation.motion import mean_speed
    from opensama.media.motion import Flow
    from opensama.media.video_io import read_video
    from opensama.media.video_io.small import small_frames

    video = read_video(Path(item["_path"]))
    times = seconds_of(video)
    stride = max(1, round(float(video.fps) / PAIRS_A_SECOND))
    cuts, flow = Cuts(adaptive, content), Flow()
    before: np.ndarray | None = None
    speeds: dict[int, float] = {}  # by the number of the second frame
    for number, frame in enumerate(small_frames(video, side)):
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
        found.append(
            item
            | {
                "id": f"{item['id']}/{scene}",
                "target_start": times[first],
                "target_end": times[stop],
                "frames": stop - first,
                "seconds": times[stop] - times[first],
                "scores": item["scores"] | {"motion": round(sum(within) / len(within), 5)},
                "_clock": frame_clock(video, first, stop),
            }
        )
    if not found:
        raise Drop("no scene that lasts")
    return found


# --- time: what a frame's beginning is called must be the same everywhere, to the last bit


class FrameClock(TypedDict):
    """Time stamps of frames as JSON: `base` is the time base (numerator, denominator) in seconds; the stamps are
    `first`, `first + step` and so on, or all of `stamps`."""

    base: list[int]
    first: NotRequired[int]
    step: NotRequired[int]
    stamps: NotRequired[list[int]]


def seconds_of(video: Video) -> list[float]:
    """When each frame begins, and when the last one ends."""
    ends = video.timestamps[-1] + video.durations[-1]
    return [float(stamp * video.time_base) for stamp in (*video.timestamps, ends)]


def frame_clock(video: Video, first: int, stop: int) -> FrameClock:
    """The times of frames first to stop (included) as JSON: one step where all are alike, else all of them."""
    stamps = [*video.timestamps, video.timestamps[-1] + video.durations[-1]][first : stop + 1]
    steps = {b - a for a, b in pairwise(stamps)}
    base = [video.time_base.numerator, video.time_base.denominator]
    if len(steps) == 1:
        return {"base": base, "first": stamps[0], "step": steps.pop()}
    return {"base": base, "stamps": stamps}


def frame_time(clock: FrameClock, frame: int) -> float:
    """When a frame of the scene begins, in seconds of the file."""
    stamp = clock["stamps"][frame] if "stamps" in clock else clock["first"] + frame * clock["step"]
    numerator, denominator = clock["base"]
    return float(stamp * numerator / denominator)
