#!/usr/bin/env bash
# The language of a sound track survives MOV in one spelling of ISO 639 and not in the other, and MP4 takes both.
#
# Guess, written down first: MOV keeps whatever MP4 keeps, for FFmpeg writes both with one muxer.
# Seen with PyAV 18.1.0 (FFmpeg 8.1): German as "deu" is gone from a MOV, as "ger" it is kept; for French it
# is the other way round ("fra" is kept, "fre" gone). QuickTime numbers its languages, and FFmpeg's table of the numbers
# holds one spelling of each, now the older, now the newer.
#   mp4: deu=deu ger=ger fra=fra fre=fre
#   mov: deu=None ger=ger fra=fra fre=None
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q av==18.1.0 numpy==2.4.6
cat > "$work/look.py" <<'P'
import av
import numpy as np


def written(ending: str, language: str) -> str | None:
    with av.open(f"x.{ending}", "w") as output:
        stream = output.add_stream("aac", rate=48_000, layout="mono")
        stream.metadata["language"] = language
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48_000
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    with av.open(f"x.{ending}") as container:
        return container.streams.audio[0].metadata.get("language")


print("PyAV", av.__version__, "; expected: what goes in comes out")
seen = {}
for ending in ("mp4", "mov"):
    seen[ending] = {language: written(ending, language) for language in ("deu", "ger", "fra", "fre")}
    print(ending, *(f"{given}={got}" for given, got in seen[ending].items()))
assert seen["mp4"] == {"deu": "deu", "ger": "ger", "fra": "fra", "fre": "fre"}
assert seen["mov"] == {"deu": None, "ger": "ger", "fra": "fra", "fre": None}
P
cd "$work" && "$work/venv/bin/python" look.py
