"""Pictures of HEIF (HEIC, AVIF) made of tiles, as telephones write them: ISO/IEC 23008-12, its smallest form."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import av
import numpy as np

CODECS = {"heic": ("libx265", b"hvc1", b"hvcC"), "avif": ("libsvtav1", b"av01", b"av1C")}


def make_tiled(path: Path, picture: np.ndarray, tile: int = 64) -> Path:
    """`picture`, `h w 3`, cut into square tiles that are coded apart; the file's primary item puts them together."""
    kind = path.suffix[1:]
    codec, item_type, configuration_type = CODECS[kind]
    height, width, _ = picture.shape
    rows, columns = -(-height // tile), -(-width // tile)
    padded = np.pad(picture, ((0, rows * tile - height), (0, columns * tile - width), (0, 0)), mode="edge")
    tiles = [
        _coded(path, codec, padded[r * tile : (r + 1) * tile, c * tile : (c + 1) * tile])
        for r in range(rows)
        for c in range(columns)
    ]
    grid, last = len(tiles) + 1, len(tiles)
    layout = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height)

    entries = b"".join(
        _full(b"infe", 2, 1 if number <= last else 0, struct.pack(">HH", number, 0) + name + b"\0")
        for number, name in [*((number, item_type) for number in range(1, last + 1)), (grid, b"grid")]
    )
    sizes = [
        _full(b"ispe", 0, 0, struct.pack(">II", tile, tile)),
        _box(configuration_type, tiles[0][0]),
        _full(b"pixi", 0, 0, b"\x03\x08\x08\x08"),
        _full(b"ispe", 0, 0, struct.pack(">II", width, height)),
    ]
    of_tile, of_grid = b"\x03\x01\x82\x03", b"\x02\x04\x03"  # properties by number; the upper bit: essential
    links = b"".join(struct.pack(">H", number) + of_tile for number in range(1, last + 1))
    properties = _box(b"ipco", b"".join(sizes)) + _full(
        b"ipma", 0, 0, struct.pack(">I", grid) + links + struct.pack(">H", grid) + of_grid
    )
    made_of = struct.pack(f">HH{last}H", grid, last, *range(1, last + 1))

    def meta(begin: int) -> bytes:
        places, at = b"", begin
        for number, (_, data) in enumerate(tiles, 1):
            places += struct.pack(">HHHHII", number, 0, 0, 1, at, len(data))
            at += len(data)
        places += struct.pack(">HHHHII", grid, 1, 0, 1, 0, len(layout))  # 1: in idat
        parts = [
            _full(b"hdlr", 0, 0, bytes(4) + b"pict" + bytes(13)),
            _full(b"pitm", 0, 0, struct.pack(">H", grid)),
            _full(b"iloc", 1, 0, b"\x44\x00" + struct.pack(">H", grid) + places),
            _full(b"iinf", 0, 0, struct.pack(">H", grid) + entries),
            _full(b"iref", 0, 0, _box(b"dimg", made_of)),
            _box(b"iprp", properties),
            _box(b"idat", layout),
        ]
        return _full(b"meta", 0, 0, b"".join(parts))

    brand = kind.encode()
    head = _box(b"ftyp", brand + bytes(4) + b"mif1" + brand)
    begin = len(head) + len(meta(0)) + 8
    path.write_bytes(head + meta(begin) + _box(b"mdat", b"".join(data for _, data in tiles)))
    return path


def _box(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", 8 + len(data)) + name + data


def _full(name: bytes, version: int, flags: int, data: bytes) -> bytes:
    return _box(name, struct.pack(">I", version << 24 | flags) + data)


def _coded(path: Path, codec: str, picture: np.ndarray) -> tuple[bytes, bytes]:
    """The decoder's configuration and one key frame, as MP4 holds them."""
    made = path.with_suffix(".tile.mp4")
    options = {"x265-params": "log-level=error:bframes=0"} if codec == "libx265" else {"preset": "12", "crf": "10"}
    with av.open(str(made), "w") as container:
        stream: Any = container.add_stream(codec, rate=1, options=options)
        stream.width, stream.height, stream.pix_fmt = picture.shape[1], picture.shape[0], "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts = 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with av.open(str(made)) as container:
        packet = next(packet for packet in container.demux(video=0) if packet.size)
        found = bytes(container.streams.video[0].codec_context.extradata or b""), bytes(packet)
    made.unlink()
    return found
