"""HEVC with other numbers for its parameter sets, so that two encoders' pictures can lie in one file.

x265 calls each of its parameter sets 0, as most encoders do, and has no option for it. In a file that holds another
encoder's pictures too, its sets need a number of their own: it is written into the sets and into the head of each slice
(H.265 7.3.6.1); the slices' data stays as it is. Only what x265 writes with `X265` is understood: one slice a picture,
no B-slices, tiles, wavefronts, weighted prediction or long-term references. ValueError for anything else.
"""

from __future__ import annotations

from dataclasses import dataclass

from opensama.media.video_io.bitstream import HEVC_PPS, HEVC_SPS, HEVC_VPS, Bits, escaped, exp_golomb, unescaped

X265 = {"bframes": "0", "wpp": "0", "weightp": "0", "slices": "1", "open-gop": "0"}
"""What x265 is told, so that its slices are understood."""
_IDR, _IRAP, _P_SLICE, _I_SLICE = (19, 20), range(16, 24), 1, 2


class Renumbering:
    """NAL units with `number`, 1 to 15, for the numbers of their parameter sets. The sets come before the slices."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._sps: _SequenceSet | None = None
        self._pps: _PictureSet | None = None

    def __call__(self, nal: bytes) -> bytes:
        kind = nal[0] >> 1 & 63
        if kind == HEVC_VPS:
            return nal[:2] + bytes([self.number << 4 | nal[2] & 15]) + nal[3:]
        if kind == HEVC_SPS:
            return self._sequence(nal)
        if kind == HEVC_PPS:
            return self._picture(nal)
        return self._slice(nal, kind) if kind < HEVC_VPS else nal

    def _sequence(self, nal: bytes) -> bytes:
        data = unescaped(nal)
        bits = Bits(data)
        bits.read(16 + 4)
        if bits.read(3):
            raise ValueError("sub-layers")
        bits.read(1 + 96)
        begin = bits.at
        bits.skip(1)
        changed = _replaced(data, begin, bits.at, exp_golomb(self.number))
        self._sps = _SequenceSet.read(bits)
        return escaped(changed[:2] + bytes([self.number << 4 | changed[2] & 15]) + changed[3:])

    def _picture(self, nal: bytes) -> bytes:
        data = unescaped(nal)
        bits = Bits(data)
        bits.read(16)
        bits.skip(2)
        changed = _replaced(data, 16, bits.at, 2 * exp_golomb(self.number))
        self._pps = _PictureSet.read(bits)
        return escaped(changed)

    def _slice(self, nal: bytes, kind: int) -> bytes:
        data = unescaped(nal)
        bits = Bits(data[:128])
        bits.read(16)
        if not bits.read():
            raise ValueError("several slices")
        bits.read(kind in _IRAP)
        begin = bits.at
        bits.skip(1)
        end = bits.at
        self._pass_slice_head(bits, kind)
        if not bits.read() or bits.read(-bits.at % 8):
            raise ValueError("a slice's head of another form")
        body = bits.at // 8
        return escaped(_replaced(data[:body], begin, end, exp_golomb(self.number)) + data[body:])

    def _pass_slice_head(self, bits: Bits, kind: int) -> None:
        """From behind the picture parameter set's number up to the bit that aligns."""
        sps, pps = self._sps, self._pps
        assert sps is not None
        assert pps is not None
        bits.read(pps.extra_bits)
        slice_type = bits.unsigned()
        if slice_type not in (_P_SLICE, _I_SLICE):
            raise ValueError("B-slices")
        bits.read(pps.output_flag)
        temporal = 0
        if kind not in _IDR:
            bits.read(sps.order_bits)
            if bits.read():
                raise ValueError("reference sets of the sequence")
            for _ in range(bits.unsigned() + bits.unsigned()):
                bits.skip(1)
                bits.read()
            temporal = bits.read(sps.temporal)
        filtered = bits.read(sps.offsets * (1 + sps.chroma))
        if slice_type == _P_SLICE:
            references = bits.unsigned() + 1 if bits.read() else pps.references
            bits.read(pps.cabac_init)
            bits.skip(1 + (temporal and references > 1))
        bits.skip(1 + 2 * pps.chroma_offsets)
        deblocked = pps.deblocked
        if pps.override and bits.read():
            deblocked = not bits.read()
            bits.skip(2 * deblocked)
        bits.read(pps.across and bool(filtered or deblocked))


def _replaced(data: bytes, begin: int, end: int, bits: str) -> bytes:
    """Other bits in place of begin..end of what ends with a one and zeros up to a byte, and ends so again."""
    text = f"{int.from_bytes(data, 'big'):0{8 * len(data)}b}"
    text = (text[:begin] + bits + text[end:]).rstrip("0")
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


@dataclass(frozen=True)
class _SequenceSet:
    """What of a sequence parameter set (H.265 7.3.2.2) a slice's head depends on."""

    chroma: bool
    order_bits: int
    offsets: int  # sample adaptive ones
    temporal: int  # motion vector prediction

    @classmethod
    def read(cls, bits: Bits) -> _SequenceSet:
        """From behind the set's number."""
        chroma = bits.unsigned()
        if chroma == 3 and bits.read():
            raise ValueError("separate planes")
        bits.skip(2)
        bits.skip(4 * bits.read())
        bits.skip(2)
        order_bits = bits.unsigned() + 4
        bits.read()
        bits.skip(3 + 6)
        scaled, _, offsets, pcm = (bits.read() for _ in range(4))
        if scaled or pcm or bits.unsigned() or bits.read():
            raise ValueError("scaling lists, PCM or reference sets of the sequence")
        return cls(chroma > 0, order_bits, offsets, bits.read())


@dataclass(frozen=True)
class _PictureSet:
    """What of a picture parameter set (H.265 7.3.2.3) a slice's head depends on."""

    output_flag: int
    extra_bits: int
    cabac_init: int
    references: int
    chroma_offsets: int
    across: int
    override: int
    deblocked: bool

    @classmethod
    def read(cls, bits: Bits) -> _PictureSet:
        """From behind the numbers."""
        dependent, output_flag, extra_bits, _, cabac_init = (bits.read(n) for n in (1, 1, 3, 1, 1))
        references = bits.unsigned() + 1
        bits.skip(2)
        bits.read(2)
        bits.skip(bits.read() + 2)
        chroma_offsets, weighted, _, parted = (bits.read(n) for n in (1, 2, 1, 2))
        if dependent or weighted or parted:
            raise ValueError("dependent slices, weighted prediction, tiles or wavefronts")
        across, override, deblocked = bits.read(), 0, True
        if bits.read():
            override, deblocked = bits.read(), not bits.read()
            bits.skip(2 * deblocked)
        if bits.read(2):
            raise ValueError("scaling lists or changed reference lists")
        bits.skip(1)
        if bits.read():
            raise ValueError("extensions of slices' heads")
        return cls(output_flag, extra_bits, cabac_init, references, chroma_offsets, across, override, deblocked)
