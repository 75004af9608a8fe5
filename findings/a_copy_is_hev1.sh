#!/usr/bin/env bash
# HEVC in MP4 is named hvc1 or hev1, by where its parameter sets may stand; Apple's players show only the first. Guess: a
# stream that is made from the source's (`add_stream_from_template`) has the source's name.
# Seen with PyAV 18.1.0: the copy of an hvc1 file is called hev1. The name is cleared with the template, and FFmpeg's
# writer then takes its own default. FFmpeg's own command keeps the name. Set on the new stream's codec context,
# `codec_tag` is kept.
#
#   PyAV 18.1.0
#   expected: hvc1, three times
#   source: hvc1
#   copied: hev1
#   copied with codec_tag set: hvc1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q av==18.1.0 numpy==2.3.5
cat > "$folder/look.py" <<'P'
import sys
from pathlib import Path

import av
import numpy as np

folder = Path(sys.argv[1])


def make(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx265", rate=24, options={"x265-params": "log-level=error"})
        stream.width, stream.height, stream.pix_fmt = 96, 80, "yuv420p"
        stream.codec_context.codec_tag = "hvc1"
        for index in range(12):
            picture = np.full((80, 96, 3), index * 10, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def copy(source: Path, path: Path, named: bool = False) -> None:
    with av.open(str(source)) as given, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(given.streams.video[0], opaque=True)
        if named:
            stream.codec_context.codec_tag = given.streams.video[0].codec_context.codec_tag
        for packet in given.demux(video=0):
            if packet.size:
                packet.stream = stream
                container.mux(packet)


def said(path: Path) -> str:
    with av.open(str(path)) as container:
        return container.streams.video[0].codec_context.codec_tag


make(folder / "source.mp4")
copy(folder / "source.mp4", folder / "copied.mp4")
copy(folder / "source.mp4", folder / "named.mp4", named=True)
name, copied, named = (said(folder / f"{one}.mp4") for one in ("source", "copied", "named"))
print(f"PyAV {av.__version__}")
print("expected: hvc1, three times")
print("source:", name)
print("copied:", copied)
print("copied with codec_tag set:", named)
if (name, copied, named) != ("hvc1", "hev1", "hvc1"):
    sys.exit("this is no longer what happens")
P
"$folder/venv/bin/python" "$folder/look.py" "$folder"
