"""What is in a file, stream by stream, as a person would name it."""

from __future__ import annotations

from pathlib import Path

import av

from opensama.media.video_io.images import DEMUXERS
from opensama.media.video_io.opening import check_readable, open_container
from opensama.media.video_io.reading import read_video
from opensama.values import UserError


def streams_of(path: Path) -> list[dict[str, object]]:
    """Kind and codec of each stream; of the pictures size, frames, rate and seconds, of sound its rate and channels.

    UserError for what is neither a video nor a picture.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; give a video or a picture.")
    check_readable(path)
    try:
        video = read_video(path)
    except UserError:
        with open_container(path) as container:  # sound alone is worth a look, too
            if not container.streams.audio:
                raise
        video = None
    shown: dict[str, object] = {}
    if video is not None:
        shown = {"width": video.width, "height": video.height, "frames": video.frame_count}
        shown |= {"fps": round(float(video.fps), 3), "seconds": round(float(video.duration), 3)}
    try:
        with open_container(path) as container:
            if container.format.name in DEMUXERS:
                return [{"kind": "picture", "codec": container.streams[0].codec_context.name, **_size(shown)}]
            found = []
            for stream in container.streams:
                one: dict[str, object] = {"kind": stream.type}
                if stream.codec_context is not None:
                    one["codec"] = stream.codec_context.codec.canonical_name
                if stream.type == "video":
                    one |= shown
                elif isinstance(stream.codec_context, av.AudioCodecContext):
                    one |= {"rate": stream.codec_context.sample_rate, "channels": stream.codec_context.channels}
                found.append(one)
            return found
    except UserError:
        if video is None:
            raise
        return [{"kind": "picture", **_size(shown)}]  # which only Pillow reads


def _size(shown: dict[str, object]) -> dict[str, object]:
    return {key: shown[key] for key in ("width", "height")}
