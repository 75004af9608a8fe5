#!/usr/bin/env bash
# An encoder is a matter of one file. Guess: whatever a program encodes, the operating system schedules it as before.
# Seen with PyAV 18.1.0 (SVT-AV1 4.1.0), run by root on Linux: opening libsvtav1 puts the calling thread into the
# real-time class SCHED_FIFO at priority 99, above everything else on the machine, and leaves it there after the file is
# closed; each process and thread that is started later inherits it. libx265 and libvpx-vp9 leave the thread alone.
# Where root may not raise priorities (a container without CAP_SYS_NICE) nothing happens.
#
#   PyAV 18.1.0
#   expected: SCHED_OTHER 0 after each file
#   libx265: SCHED_OTHER 0
#   libvpx-vp9: SCHED_OTHER 0
#   libsvtav1: SCHED_FIFO 99
#   a process started afterwards: SCHED_FIFO 99
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "run this as root: it is about what root's processes become" >&2; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q av==18.1.0 numpy==2.3.5
cat > "$folder/look.py" <<'P'
import os
import subprocess
import sys

import av
import numpy as np

NAMES = {os.SCHED_OTHER: "SCHED_OTHER", os.SCHED_FIFO: "SCHED_FIFO"}
SAY = "import os; print(os.sched_getscheduler(0), os.sched_getparam(0).sched_priority)"


def said(policy: int, priority: int) -> str:
    return f"{NAMES.get(policy, policy)} {priority}"


print(f"PyAV {av.__version__}")
print("expected: SCHED_OTHER 0 after each file")
seen = []
for codec in ("libx265", "libvpx-vp9", "libsvtav1"):
    with av.open(sys.argv[1], "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    seen.append(said(os.sched_getscheduler(0), os.sched_getparam(0).sched_priority))
    print(f"{codec}: {seen[-1]}")
child = subprocess.run([sys.executable, "-c", SAY], capture_output=True, text=True, check=True).stdout.split()
seen.append(said(*map(int, child)))
print(f"a process started afterwards: {seen[-1]}")
sys.exit(seen != ["SCHED_OTHER 0", "SCHED_OTHER 0", "SCHED_FIFO 99", "SCHED_FIFO 99"])
P
"$folder/venv/bin/python" "$folder/look.py" "$folder/clip.mp4" 2>"$folder/said" || { cat "$folder/said" >&2; exit 1; }
