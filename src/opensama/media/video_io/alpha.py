"""Transparency: decoded where it lies beside the stream, composed on a background, and lifted off it again."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Iterator
from typing import cast

import av
import numpy as np

from opensama.media.video_io.pyav import is_repeat

RGB = tuple[int, int, int]
WHITE: RGB = (255, 255, 255)
_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""WebM holds alpha as a second stream within the packets, which only these decoders look at."""


def decoded(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """Every frame of the stream from here on, with its alpha; empty packets, which decoders refuse, are left out."""
    usual = stream.codec_context
    if (shares := _stream_beside(container, stream)) is not None:
        yield from _paired(container, stream, shares)
        return
    name = _WITH_ALPHA.get(usual.codec.canonical_name) if stream.metadata.get("alpha_mode") == "1" else None
    if name is None:
        for packet in container.demux(stream):
            if not is_repeat(packet):
                yield from cast(list[av.VideoFrame], packet.decode())
        return
    context = cast(av.VideoCodecContext, av.CodecContext.create(name, "r"))
    context.extradata, context.thread_count = usual.extradata, usual.thread_count
    for packet in container.demux(stream):
        if not is_repeat(packet):
            yield from context.decode(packet if packet.size else None)


def alpha_beside(frame: av.VideoFrame) -> av.VideoFrame | None:
    """The grey frame, of full range, that says how much of this one shows, where another stream holds it."""
    return frame.opaque if isinstance(frame.opaque, av.VideoFrame) else None


def _stream_beside(container: av.container.InputContainer, stream: av.VideoStream) -> av.VideoStream | None:
    """The alpha of an animated AVIF: a grey stream of the film's size and length. FFmpeg does not name its purpose."""
    brands = container.metadata.get("compatible_brands", "") + container.metadata.get("major_brand", "")
    if "avis" not in brands:
        return None
    film = (stream.width, stream.height, stream.frames)
    others = (other for other in container.streams.video if other.index != stream.index)
    alike = (other for other in others if (other.width, other.height, other.frames) == film)
    return next((other for other in alike if (other.codec_context.pix_fmt or "").startswith("gray")), None)


def _paired(
    container: av.container.InputContainer, stream: av.VideoStream, shares: av.VideoStream
) -> Iterator[av.VideoFrame]:
    """The stream's frames, in its order, once the alpha of the same time has come. One without alpha is damage."""
    shares.codec_context.thread_count = stream.codec_context.thread_count
    waiting: deque[av.VideoFrame] = deque()
    came: dict[int | None, av.VideoFrame] = {}
    for packet in container.demux(stream, shares):
        for frame in cast(list[av.VideoFrame], packet.decode()):
            if packet.stream.index == shares.index:  # which the empty packet at the end has only here
                came[frame.pts] = frame
            else:
                waiting.append(frame)
        while waiting and waiting[0].pts in came:
            frame = waiting.popleft()
            frame.opaque = came.pop(frame.pts)
            yield frame
    if waiting:
        raise av.error.InvalidDataError(errno.EINVAL, "a frame's alpha is missing")


def composed(picture: np.ndarray, alpha: np.ndarray, background: RGB) -> np.ndarray:
    """Straight colours `h w 3` with alpha `h w`, on a plain background."""
    full = int(np.iinfo(picture.dtype).max)
    if alpha.min() == full:
        return np.ascontiguousarray(picture)
    below = np.array(background, np.uint32) * np.uint32(full // 255)
    share = alpha[..., None].astype(np.uint32)
    return ((picture.astype(np.uint32) * share + below * (full - share) + full // 2) // full).astype(picture.dtype)


def lifted(picture: np.ndarray, alpha: np.ndarray, background: RGB) -> np.ndarray:
    """The straight colours that `composed` gives this picture of; the background itself where nothing shows."""
    full = int(np.iinfo(picture.dtype).max)
    if alpha.min() == full:
        return picture
    below = np.array(background, np.float32) * np.float32(full // 255)
    share = np.maximum(alpha, 1)[..., None].astype(np.float32) / np.float32(full)
    straight = (picture - below * (1 - share)) / share
    return np.where(alpha[..., None] > 0, np.rint(np.clip(straight, 0, full)), below).astype(picture.dtype)
