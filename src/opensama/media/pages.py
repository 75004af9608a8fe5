"""What pages that commands write have in common: one file that holds everything itself, its style, clips that play."""

from __future__ import annotations

import base64
import io
import math
from importlib.resources import files
from itertools import islice
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from opensama.values import Video

if TYPE_CHECKING:
    import numpy as np


def fill_page(template: str, package: str, *, title: str, **parts: str) -> str:
    """A page: a package's `template` with its parts, in the frame and style that all pages share.

    A template is rules of style, a line `<body>`, and what is shown; `$title` is the title, `$script` what makes clips
    play and lists filter.
    """
    shared = files("opensama.media")
    frame, style, script = (shared.joinpath(f"page.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
    own, _, body = files(package).joinpath(template).read_text("utf-8").partition("<body>\n")
    shown = Template(body).substitute(parts, title=title, script=script)
    return Template(frame).substitute(title=title, style=style + own, body=shown)


def percent_of(part: float, whole: float) -> str:
    """`4.5 %`: a share as all pages and consoles print it."""
    return f"{100 * part / whole:.1f} %"


def picture_url(picture: np.ndarray, quality: int = 82) -> str:
    """A picture uint8 `h w 3` as a JPEG in an address that holds it."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()


def bar_cells(share: float) -> str:
    """Two cells of a table: a share (0 to 1) in percent, and as a bar."""
    return (
        f'<td>{percent_of(share, 1)}</td><td><svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" '
        f'aria-hidden="true"><rect width="{100 * share:.2f}" height="8"/></svg></td>'
    )


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


def video_url(video: Video, quality: float) -> str:
    """A clip as an MP4 in an address that holds it."""
    from opensama.media.video_io import write_video

    with TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_video(video, path, quality=quality, on_note=lambda _: None)
        return "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()
