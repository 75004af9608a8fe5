"""What pages that commands write have in common: one file that holds everything itself, its style, clips that play."""

from __future__ import annotations

import base64
from importlib.resources import files
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory

from opensama.values import Video


def fill(template: str, **parts: str) -> str:
    """The template `apps/NAME` with its parts, and the shared style and script as `$style` and `$script`."""
    folder = files("opensama.apps")
    style, script = (folder.joinpath(name).read_text("utf-8") for name in ("page.css", "page.js"))
    whole = Template(folder.joinpath(template).read_text("utf-8"))
    return whole.substitute(parts, style=style, script=script)


def film(video: Video, quality: float) -> str:
    """A clip as an MP4 in an address of its own."""
    from opensama.media.video_io import write_video

    with TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_video(video, path, quality=quality, on_note=lambda _: None)
        return "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()
