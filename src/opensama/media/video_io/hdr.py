"""HDR mastering metadata: read from a frame's side data, written as x265 parameters."""

from __future__ import annotations

import struct

import av

from opensama.media.video_io.pyav import side_data_of


def mastering_of(frame: av.VideoFrame) -> dict[str, str]:
    """`master-display` and `max-cll` in x265's notation, as far as the frame carries them.

    Chromaticities are in units of 0.00002, luminances of 0.0001 cd/m2. FFmpeg's structure: ten rationals (red, green,
    blue and white x, y; least and greatest luminance), then two flags.
    """
    found: dict[str, str] = {}
    for data in side_data_of(frame):
        if data.type.name == "MASTERING_DISPLAY_METADATA":
            *numbers, has_primaries, has_luminance = struct.unpack("=22i", bytes(data)[:88])
            values = [n / d if d else 0.0 for n, d in zip(numbers[0::2], numbers[1::2], strict=True)]
            if has_primaries and has_luminance:
                red, green, blue, white = (tuple(round(v * 50_000) for v in values[i : i + 2]) for i in (0, 2, 4, 6))
                low, high = (round(v * 10_000) for v in values[8:10])
                found["master-display"] = (
                    "".join(
                        f"{name}({x},{y})"
                        for name, (x, y) in zip(("G", "B", "R", "WP"), (green, blue, red, white), strict=True)
                    )
                    + f"L({high},{low})"
                )
        elif data.type.name == "CONTENT_LIGHT_LEVEL":
            brightest, average = struct.unpack("=2I", bytes(data)[:8])
            found["max-cll"] = f"{brightest},{average}"
    return found
