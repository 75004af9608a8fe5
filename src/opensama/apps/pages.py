"""What pages that commands write have in common: one file that holds everything itself, its style, clips that play."""

from __future__ import annotations

import base64
import math
from importlib.resources import files
from itertools import islice
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory

from opensama.values import Video


def fill(template: str, *, title: str, **parts: str) -> str:
    """The template `apps/NAME` with its parts: `$head` is the shared beginning, `$script` the shared script."""
    folder = files("opensama.apps")
    texts = (folder.joinpath(name).read_text("utf-8") for name in ("page.html", "page.css", "page.js", template))
    head, style, script, page = texts
    head = Template(head.rstrip("\n")).substitute(title=title, style=style)
    return Template(page).substitute(parts, title=title, head=head, script=script)


def how_many(number: int, noun: str) -> str:
    """`1 item`, `1,200 items`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def clip_excerpt(
    path: Path, height: int, seconds: float, rate: float, start: float | None = None, end: float | None = None
) -> Video:
    """The first `seconds` of a stretch (`start` to `end`, in seconds), at most `rate` frames a second, `height` rows
    and three times as many columns: uint8 frames in memory."""
    from opensama.media.frames import eight_bit
    from opensama.media.video_io import read_video

    whole = read_video(path)
    width = min(3 * height, max(2, 2 * round(height * whole.width / whole.height / 2)))
    first, stop = whole.frame_range(start, end)
    stop = min(stop, first + max(1, math.ceil(seconds * whole.fps)))
    step = max(1, round(float(whole.fps) / rate))
    shown = read_video(path, cover=(width, height)).frames(first, stop)
    return Video.from_frames([eight_bit(frame) for frame in islice(shown, 0, None, step)], whole.fps / step)


def data_url(video: Video, quality: float) -> str:
    """A clip as an MP4 in an address that holds it."""
    from opensama.media.video_io import write_video

    with TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_video(video, path, quality=quality, on_note=lambda _: None)
        return "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()
