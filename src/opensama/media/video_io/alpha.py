"""Transparency: decoded where it lies beside the stream, composed on a background, and lifted off it again."""

from __future__ import annotations

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
