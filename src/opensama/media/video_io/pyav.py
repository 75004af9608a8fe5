"""PyAV 18 and 19 as one: the few things that its versions call differently, and what all of them leave to their caller.

PyAV 19 reads metadata leniently without being asked to, has a rational number of its own, and iterates the kinds of
side data where 18 iterates the entries.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import IO, TYPE_CHECKING, cast

import av

if TYPE_CHECKING:
    from av.rational import AVRational
    from av.sidedata.sidedata import SideData, SideDataContainer

_LENIENT = int(av.__version__.split(".")[0]) >= 19


def open_input(source: str | IO[bytes]) -> av.container.InputContainer:
    """An open container; metadata that is no UTF-8 does not matter."""
    return av.open(source, "r") if _LENIENT else av.open(source, "r", metadata_errors="ignore")


def as_fraction(rational: Fraction | AVRational | int) -> Fraction:
    """PyAV's rational, whichever it is, as a `Fraction`."""
    return Fraction(rational.numerator, rational.denominator)


def tick_of(stream: av.VideoStream | av.AudioStream) -> Fraction:
    """Seconds in one tick of a stream."""
    assert stream.time_base is not None
    return as_fraction(stream.time_base)


def side_data_of(frame: av.VideoFrame) -> Iterator[SideData]:
    """What was attached to a frame: entries with `type.name` and bytes; nothing if PyAV meets a kind newer than it."""
    try:
        found = cast("SideDataContainer", frame.side_data)
        entries = list(found)
    except ValueError:
        return
    for entry in entries:
        yield entry if hasattr(entry, "type") else found[entry]


def is_repeat(packet: av.Packet) -> bool:
    """Whether a packet holds nothing and has its time all the same: the frame before is shown on (Theora, AVI)."""
    return packet.size == 0 and (packet.dts is not None or packet.pts is not None)
