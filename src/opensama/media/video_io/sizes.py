"""Whether the pictures change their size within a stream, told from its key packets without decoding them."""

from __future__ import annotations

import re

import av

_HEAD = 4096  # bytes of a packet that are looked at
_START = re.compile(rb"\x00\x00\x01")
_VP9_SYNC = b"\x49\x83\x42"


class SizeWatch:
    """Looks at key packets as they come; `changed` once two of them speak of different pictures."""

    def __init__(self, codec: str) -> None:
        self._codec, self._seen = codec, b""
        self._first = True
        self.changed = False

    def look(self, packet: av.Packet) -> None:
        said = _said(self._codec, bytes(memoryview(packet)[:_HEAD]))
        another = packet.has_sidedata("new_extradata") and not self._first  # another sample description of an MP4
        self.changed = self.changed or another or bool(said and self._seen and said != self._seen)
        self._seen, self._first = said or self._seen, False


def _said(codec: str, head: bytes) -> bytes:
    """The bytes that hold the size: those of two packets differ if the sizes do."""
    if codec in ("h264", "hevc"):
        return _parameter_set(codec, head)
    if codec == "vp9":
        return _vp9(head)
    if codec == "vp8":
        return head[6:10] if head[3:6] == b"\x9d\x01\x2a" else b""
    if codec == "prores":
        return head[16:20]
    return b""


def _parameter_set(codec: str, head: bytes) -> bytes:
    """The first sequence parameter set, behind start codes or lengths."""
    by_code = head.startswith((b"\0\0\1", b"\0\0\0\1"))
    places = [found.end() for found in _START.finditer(head, 0, len(head) - 1)] if by_code else []
    ends = [*places[1:], len(head)]
    if not places:
        at = 0
        while at + 4 < len(head):
            length = int.from_bytes(head[at : at + 4], "big")
            places.append(at + 4)
            at += 4 + length
        ends = [place + int.from_bytes(head[place - 4 : place], "big") for place in places]
    for place, end in zip(places, ends, strict=True):
        kind = head[place] & 31 if codec == "h264" else head[place] >> 1 & 63
        if kind == (7 if codec == "h264" else 33):
            return head[place:end].rstrip(b"\0\1")
    return b""


def _vp9(head: bytes) -> bytes:
    """Width and height less one, 16 bits each, of a key frame's uncompressed header."""
    bits = int.from_bytes(head[:16].ljust(16, b"\0"), "big")

    def take(at: int, count: int) -> int:
        return bits >> (128 - at - count) & (1 << count) - 1

    profile = take(2, 1) | take(3, 1) << 1
    at = 5 if profile == 3 else 4
    if take(0, 2) != 2 or take(at, 2):  # shows a frame that it has, or is no key frame
        return b""
    at += 4
    if take(at, 24) != int.from_bytes(_VP9_SYNC, "big"):
        return b""
    at += 24 + (1 if profile >= 2 else 0)
    rgb = take(at, 3) == 7
    at += 3 + (0 if rgb else 1) + (0 if profile in (0, 2) else 1 if rgb else 3)
    return take(at, 32).to_bytes(4, "big")
