"""H.264 in which each picture is two fields with a packet of its own, which x264 does not write: coded here, plainly.

Macroblocks are stored as they are (I_PCM), so that all there is to code is the headers (ITU-T H.264, 7.3).
"""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av


class Bits:
    """A bit string that grows."""

    def __init__(self) -> None:
        self.text = ""

    def u(self, value: int, count: int) -> Bits:
        self.text += f"{value:0{count}b}"
        return self

    def ue(self, *values: int) -> Bits:
        """Exp-Golomb numbers."""
        for value in values:
            code = f"{value + 1:b}"
            self.text += "0" * (len(code) - 1) + code
        return self

    def align(self) -> Bits:
        self.text += "0" * (-len(self.text) % 8)
        return self

    def raw(self, data: bytes) -> Bits:
        self.text += "".join(f"{byte:08b}" for byte in data)
        return self

    def unit(self, kind: int) -> bytes:
        """A NAL unit behind its start code, with emulation prevented."""
        self.text += "1"
        self.align()
        data = int(self.text, 2).to_bytes(len(self.text) // 8, "big")
        safe, zeros = bytearray(), 0
        for byte in data:
            if zeros >= 2 and byte <= 3:
                safe.append(3)
                zeros = 0
            safe.append(byte)
            zeros = zeros + 1 if byte == 0 else 0
        return b"\0\0\0\1" + bytes([0x60 | kind]) + bytes(safe)


COLUMNS, ROWS = 4, 2  # macroblocks of a field: 64 x 64 pixels a frame


def _head() -> bytes:
    sequence = Bits().u(77, 8).u(0, 8).u(30, 8).ue(0, 0, 2, 1).u(0, 1).ue(COLUMNS - 1, ROWS - 1)
    sequence.u(0, 1).u(0, 1).u(1, 1).u(0, 1).u(0, 1)  # fields, not adaptive by macroblock; nothing cropped or said
    picture = Bits().ue(0, 0).u(0, 2).ue(0, 0, 0).u(0, 3).ue(0, 0, 0).u(0, 3)
    return sequence.unit(7) + picture.unit(8)


def _field(number: int, bottom: bool, level: int) -> bytes:
    slice_ = Bits().ue(0, 7, 0).u(0, 4).u(1, 1).u(int(bottom), 1)
    if bottom:
        slice_.u(0, 1)  # a reference field without memory commands
    else:
        slice_.ue(number % 2).u(0, 2)
    slice_.ue(0)  # no change of the quantizer
    for _ in range(COLUMNS * ROWS):
        slice_.ue(25).align().raw(bytes([level] * 256 + [128] * 128))
    return slice_.unit(1 if bottom else 5)


def field_coded(path: Path, frames: int) -> Path:
    """An MPEG transport stream of 25 frames a second, each two fields; the pictures grow brighter one by one."""
    data = b"".join(
        _head() + _field(index, False, 40 + 5 * index) + _field(index, True, 40 + 5 * index) for index in range(frames)
    )
    with av.open(io.BytesIO(data), format="h264") as source, av.open(str(path), "w", format="mpegts") as target:
        given = source.streams.video[0]
        stream: Any = target.add_stream_from_template(given)
        fields = [packet for packet in source.demux(given) if packet.size]
        assert len(fields) == 2 * frames
        for index, packet in enumerate(fields):
            packet.pts = packet.dts = 1800 * index
            packet.duration, packet.time_base, packet.stream = 1800, Fraction(1, 90_000), stream
            target.mux(packet)
    return path
