#!/usr/bin/env bash
# A service lets a process that decodes uploads have so much memory (RLIMIT_AS). Guess: a decoder that finds none raises
# PyAV's MemoryError, as ENOMEM is called there, so that one `except` tells a large file from a damaged one.
# Seen with PyAV 18.1.0 on a whole H.264 file of 2000x2000: it is never MemoryError. With one thread the decoder that
# finds no room for a frame says that the data is invalid, as of a damaged file. With eight threads the first thing that
# finds none is a thread's stack, to which the system's answer is EAGAIN: opening the decoder raises a BlockingIOError,
# as if one should just ask again.
#
#   PyAV 18.1.0
#   expected: MemoryError wherever there is too little
#   1 threads, 4 MB more: InvalidDataError, Invalid data found when processing input
#   8 threads, 4 MB more: BlockingIOError, Resource temporarily unavailable
#   8 threads, 20 MB more: BlockingIOError, Resource temporarily unavailable
#   8 threads, 1000 MB more: 2 frames
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q av==18.1.0 numpy==2.3.5
cat > "$folder/look.py" <<'P'
import resource
import sys
from pathlib import Path

import av
import numpy as np

path, threads, room = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if not threads:
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width = stream.height = 2000
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((2000, 2000, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    sys.exit()
with av.open(path) as container:
    stream = container.streams.video[0]
    stream.thread_type, stream.codec_context.thread_count = "AUTO", threads
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + room * 2**20,) * 2)
    try:
        said = f"{sum(1 for _ in container.decode(stream))} frames"
    except av.error.FFmpegError as error:
        said = f"{type(error).__name__}, {error.strerror}"
print(f"{threads} threads, {room} MB more: {said}")
P
look() { "$folder/venv/bin/python" "$folder/look.py" "$folder/a.mp4" "$@" 2> "$folder/log"; }
look 0 0
echo "PyAV 18.1.0"
echo "expected: MemoryError wherever there is too little"
{ look 1 4; look 8 4; look 8 20; look 8 1000; } | tee "$folder/said"
[ "$(grep -c BlockingIOError "$folder/said")" = 2 ]
grep -q "1 threads.*InvalidDataError" "$folder/said"
grep -q "8 threads, 1000 MB more: 2 frames" "$folder/said"
