#!/usr/bin/env bash
# FFmpeg's GIF demuxer has the option min_delay: shorter pictures are to last default_delay (0.1 s) instead, as in
# browsers. Guess: a picture of one hundredth of a second lasts 0.1 s by default (min_delay is 2), and for sure when
# min_delay is asked for. Seen with PyAV 18.1.0 (libavformat 62): neither; only a delay of nought becomes 0.1 s.
#
#   PyAV 18.1.0, libavformat 62.12.102
#   expected with delay 1: [0, 10, 20, 30]
#   delay 0, by default: [0, 10, 20, 30]
#   delay 1, by default: [0, 1, 2, 3]
#   delay 1, min_delay=20: [0, 1, 2, 3]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q av==18.1.0 numpy==2.3.5 pillow==12.0.0
cat > "$folder/look.py" <<'P'
import re
import sys

import av
from PIL import Image

path = sys.argv[1]
pictures = [Image.new("RGB", (32, 24), (40 * k, 90, 200 - 40 * k)) for k in range(4)]
pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=10, loop=0)
one = open(path, "rb").read()
nought = re.sub(rb"(\x21\xf9\x04.)\x01\x00", lambda found: found[1] + bytes(2), one)


def stamps(data, **options):
    open(path, "wb").write(data)
    with av.open(path, container_options=options) as container:
        return [packet.pts for packet in container.demux(video=0) if packet.pts is not None]


print(f"PyAV {av.__version__}, libavformat {'.'.join(map(str, av.library_versions['libavformat']))}")
print("expected with delay 1: [0, 10, 20, 30]")
seen = [stamps(nought), stamps(one), stamps(one, min_delay="20")]
for name, found in zip(("delay 0, by default", "delay 1, by default", "delay 1, min_delay=20"), seen):
    print(f"{name}: {found}")
sys.exit(seen != [[0, 10, 20, 30], [0, 1, 2, 3], [0, 1, 2, 3]])
P
"$folder/venv/bin/python" "$folder/look.py" "$folder/clip.gif"
