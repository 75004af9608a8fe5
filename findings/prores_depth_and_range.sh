#!/usr/bin/env bash
# ProRes 4444 that was written with 10 bits comes back as 12, and full range as limited.
#
# Guess, written down first: the pixel format and the range that went in come out, as with ProRes 422 HQ and H.264.
# Seen with PyAV 18.1.0 (FFmpeg 8.1):
#   422 HQ: yuv422p10le limited -> yuv422p10le limited;   yuv422p10le full -> yuv422p10le limited
#   4444:   yuv444p10le limited -> yuv444p12le limited;   yuv444p10le full -> yuv444p12le limited
# The stream does not say how deep it was meant, so the decoder gives all that 4444 can hold: a program that chooses its
# arithmetic by the depth of the source computes with 12 bits from the second generation on. Nor does the stream have a
# place for the range: full-range codes are written as they are, and read as if they were limited.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q av==18.1.0 numpy==2.4.6
cat > "$work/look.py" <<'P'
import av
import numpy as np

RANGES = {1: "limited", 2: "full"}


def through(pixels: str, profile: str, full: bool) -> tuple[str, str]:
    with av.open("x.mov", "w") as output:
        stream = output.add_stream("prores_ks", rate=25, options={"profile": profile})
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        stream.codec_context.color_range = 2 if full else 1
        frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 128, np.uint8), format="rgb24")
        frame = frame.reformat(format=pixels, dst_color_range=2 if full else 1)
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    with av.open("x.mov") as container:
        frame = next(container.decode(video=0))
        return frame.format.name, RANGES.get(int(frame.color_range), "unspecified")


print("PyAV", av.__version__, "; expected: what goes in comes out")
seen = []
for pixels, profile in (("yuv422p10le", "hq"), ("yuv444p10le", "4444")):
    for full in (False, True):
        seen.append(through(pixels, profile, full))
        print(profile, pixels, "full" if full else "limited", "->", *seen[-1])
assert [pixels for pixels, _ in seen] == ["yuv422p10le"] * 2 + ["yuv444p12le"] * 2
assert [found for _, found in seen] == ["limited"] * 4
P
cd "$work" && "$work/venv/bin/python" look.py
