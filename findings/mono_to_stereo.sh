#!/usr/bin/env bash
# A mono recording made stereo by FFmpeg's resampler is 3 dB quieter in each channel.
#
# Guess, written down first: both channels hold the samples of the one, and back again is the mean of the two.
# Seen with PyAV 18.1.0 (FFmpeg 8.1), a tone with a peak of 0.5:
#   mono -> stereo [0.354, 0.354]
#   mono -> 5.1    [0.0, 0.0, 0.5, 0.0, 0.0, 0.0]
#   stereo -> mono [0.707], for a tone that is the same in both channels; full-scale sound passes 1.0
# The sum of powers is kept, not the samples: beside sound that was stereo all along, the mono part is quieter on one
# speaker, and floats that were within range are not any more (whole numbers are scaled down to fit, floats are not).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q av==18.1.0 numpy==2.4.6
cat > "$work/look.py" <<'P'
import av
import numpy as np

tone = (0.5 * np.sin(np.arange(4800) * 0.05)).astype(np.float32)[None]
print("PyAV", av.__version__, "; expected: a peak of 0.5 everywhere")
seen = {}
for given, wanted in (("mono", "stereo"), ("mono", "5.1"), ("stereo", "mono")):
    frame = av.AudioFrame.from_ndarray(np.repeat(tone, 1 if given == "mono" else 2, 0), format="fltp", layout=given)
    frame.sample_rate = 48_000
    change = av.AudioResampler(format="fltp", layout=wanted, rate=48_000)
    out = np.concatenate([part.to_ndarray() for part in change.resample(frame)], 1)
    seen[given, wanted] = [round(float(np.abs(channel).max()), 3) for channel in out]
    print(given, "->", wanted, seen[given, wanted])
assert seen["mono", "stereo"] == [0.354, 0.354]
assert seen["mono", "5.1"] == [0, 0, 0.5, 0, 0, 0]
assert seen["stereo", "mono"] == [0.707]
P
cd "$work" && "$work/venv/bin/python" look.py
