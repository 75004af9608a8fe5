"""What coded packets say of themselves: where decoding can begin, and the parameter sets in a file's head.

NAL units as in H.264 7.3.1 and H.265 7.3.1, the heads `avcC` and `hvcC` as in ISO/IEC 14496-15 5.3.3 and 8.3.3, OBUs as
in AV1 5.3, frame heads as in VP9 6.2 and AV1 5.9.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from enum import Enum

_ESCAPED, _START = re.compile(rb"\x00\x00(?=[\x00-\x03])"), re.compile(rb"\x00\x00\x01")
_H264_IDR, _H264_SPS, _H264_PPS = 5, 7, 8
_HEVC_IDR, _HEVC_IRAP = (19, 20), range(16, 24)
HEVC_VPS, HEVC_SPS, HEVC_PPS = 32, 33, 34
HEVC_END_OF_SEQUENCE = bytes([36 << 1, 1])
_AV1_SEQUENCE, _AV1_FRAME_HEAD, _AV1_FRAME = 1, 3, 6


class Entry(Enum):
    """How decoding can begin at a packet."""

    NOWHERE = 0
    CLEAN = 1
    """What follows decodes as it does after the packets before."""
    AFTER_END = 2
    """So it does where the sequence before was ended, but for pictures that follow and are shown before this one."""


def entry_of(codec: str, packet: bytes, head: bytes) -> Entry:
    """How decoding can begin at a packet of H.264, HEVC, VP9 or AV1 in a file with that head."""
    if codec in ("h264", "hevc"):
        nals = NalHead(codec, head)
        kinds = [nals.kind(nal) for nal in nals.split(packet)]
        if codec == "h264":
            return Entry.CLEAN if _H264_IDR in kinds else Entry.NOWHERE
        coded = next((kind for kind in kinds if kind < HEVC_VPS), -1)
        if coded in _HEVC_IDR:
            return Entry.CLEAN
        return Entry.AFTER_END if coded in _HEVC_IRAP else Entry.NOWHERE
    clean = _is_av1_key(packet) if codec == "av1" else _is_vp9_key(packet)
    return Entry.CLEAN if clean else Entry.NOWHERE


def _is_vp9_key(packet: bytes) -> bool:
    """Not of profile 3, whose heads have a bit more."""
    marked, shows_existing, inter = packet[0] >> 6 == 2, packet[0] & 8, packet[0] & 4
    return marked and not shows_existing and not inter


def _is_av1_key(packet: bytes) -> bool:
    """Whether a temporal unit begins with a sequence header and a key frame that is shown."""
    headed = False
    for kind, payload in _obus_of(packet):
        headed = headed or kind == _AV1_SEQUENCE
        if kind in (_AV1_FRAME_HEAD, _AV1_FRAME):
            return headed and payload[0] >> 4 == 0b0001  # shows no existing frame, key, shown
    return False


def _obus_of(packet: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(packet):
        kind, extended, sized = packet[at] >> 3 & 15, packet[at] >> 2 & 1, packet[at] >> 1 & 1
        at += 1 + extended
        size, shift = (0, 0) if sized else (len(packet) - at, -1)
        while shift >= 0:
            size |= (packet[at] & 127) << shift
            shift = shift + 7 if packet[at] & 128 else -1
            at += 1
        yield kind, packet[at : at + size]
        at += size


class NalHead:
    """The head of a file of H.264 (`avcC`) or HEVC (`hvcC`)."""

    def __init__(self, codec: str, data: bytes) -> None:
        self.hevc, self.data = codec == "hevc", data

    @property
    def length(self) -> int:
        """How many bytes say a NAL unit's size in the packets; 0 where start codes are used."""
        first = 21 if self.hevc else 4
        return (self.data[first] & 3) + 1 if len(self.data) > first + 1 and self.data[0] == 1 else 0

    def kind(self, nal: bytes) -> int:
        """A NAL unit's type."""
        return nal[0] >> 1 & 63 if self.hevc else nal[0] & 31

    def is_set(self, nal: bytes) -> bool:
        return self.kind(nal) in ((HEVC_VPS, HEVC_SPS, HEVC_PPS) if self.hevc else (_H264_SPS, _H264_PPS))

    def split(self, packet: bytes) -> Iterator[bytes]:
        """The NAL units of a packet."""
        if not self.length:
            yield from after_start_codes(packet)
            return
        at = 0
        while at + self.length < len(packet):
            begin = at + self.length
            at = begin + int.from_bytes(packet[at:begin], "big")
            yield packet[begin:at]

    def join(self, nals: Iterable[bytes]) -> bytes:
        """A packet of NAL units."""
        return _sized(nals, self.length)

    def numbers(self) -> set[int]:
        """What the parameter sets are called."""
        return {_number_of(nal, self.hevc) for _, nals in self._arrays()[0] for nal in nals}

    def with_sets(self, added: Iterable[bytes]) -> bytes:
        """The head with more parameter sets."""
        arrays, end = self._arrays()
        added = list(added)
        grown = self.data[:22] + bytes([len(arrays)]) if self.hevc else self.data[:5]
        for first, nals in arrays:
            kind = first & 63 if self.hevc else first
            nals = [*nals, *(nal for nal in added if self.kind(nal) == kind)]
            if self.hevc:
                grown += bytes([first]) + len(nals).to_bytes(2, "big")
            else:
                grown += bytes([len(nals) | (0xE0 if kind == _H264_SPS else 0)])
            grown += _sized(nals, 2)
        return grown + self.data[end:]

    def _arrays(self) -> tuple[list[tuple[int, list[bytes]]], int]:
        """Of each kind of set, the byte that says which and the NAL units; and where they end."""
        arrays, at = list[tuple[int, list[bytes]]](), 23 if self.hevc else 5
        for index in range(self.data[22] if self.hevc else 2):
            if self.hevc:
                first, count, at = self.data[at], int.from_bytes(self.data[at + 1 : at + 3], "big"), at + 3
            else:
                first, count, at = (_H264_SPS, _H264_PPS)[index], self.data[at] & (31, 255)[index], at + 1
            nals = list[bytes]()
            for _ in range(count):
                size = int.from_bytes(self.data[at : at + 2], "big")
                nals.append(self.data[at + 2 : at + 2 + size])
                at += 2 + size
            arrays.append((first, nals))
        return arrays, at


def _number_of(nal: bytes, hevc: bool) -> int:
    """The number that a parameter set has."""
    if not hevc:
        bits = Bits(unescaped(nal[1:]))
        bits.read(24 if nal[0] & 31 == _H264_SPS else 0)
        return bits.unsigned()
    bits, kind = Bits(unescaped(nal[2:])), nal[0] >> 1 & 63
    if kind == HEVC_VPS:
        return bits.read(4)
    if kind == HEVC_SPS:
        bits.read(4)
        layers = bits.read(3)
        bits.read(1 + 96)
        present = [(bits.read(), bits.read()) for _ in range(8 if layers else 0)]
        bits.read(sum(88 * profile + 8 * level for profile, level in present[:layers]))
    return bits.unsigned()


def after_start_codes(data: bytes) -> Iterator[bytes]:
    """NAL units as H.264 B.1 puts them one after another."""
    places = [match.end() for match in _START.finditer(data)]
    ends = [*(place - 3 for place in places[1:]), len(data)]
    for begin, end in zip(places, ends, strict=True):
        yield data[begin:end].rstrip(b"\0")


def _sized(nals: Iterable[bytes], length: int) -> bytes:
    return b"".join(len(nal).to_bytes(length, "big") + nal for nal in nals)


def unescaped(nal: bytes) -> bytes:
    """Without the bytes that keep start codes from appearing in it."""
    return nal.replace(b"\0\0\3", b"\0\0")


def escaped(nal: bytes) -> bytes:
    """With them."""
    return _ESCAPED.sub(b"\0\0\3", nal)


class Bits:
    """Bits to read, from the first one of some bytes. ValueError at their end."""

    def __init__(self, data: bytes) -> None:
        self._value, self._length, self.at = int.from_bytes(data, "big"), 8 * len(data), 0

    def read(self, count: int = 1) -> int:
        self.at += count
        if self.at > self._length:
            raise ValueError("the bits end too early")
        return self._value >> self._length - self.at & (1 << count) - 1

    def unsigned(self) -> int:
        """ue(v) of H.264 9.1."""
        zeros = 0
        while not self.read():
            zeros += 1
        return (1 << zeros) - 1 + self.read(zeros)

    def signed(self) -> int:
        """se(v) of H.264 9.1.1."""
        code = self.unsigned()
        return (code + 1) // 2 if code % 2 else -(code // 2)

    def skip(self, codes: int) -> None:
        """Passes over so many numbers in the form of ue(v) or se(v)."""
        for _ in range(codes):
            self.unsigned()


def exp_golomb(number: int) -> str:
    """ue(v) as zeros and ones."""
    code = f"{number + 1:b}"
    return "0" * (len(code) - 1) + code
