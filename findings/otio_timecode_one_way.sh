#!/usr/bin/env bash
# OpenTimelineIO 0.18.1: a timecode that it writes at 29.97 or 23.976 cannot be read at the same rate.
#
# Guess, written down first: `to_timecode` and `from_timecode` accept the same rates, so that what one writes at a rate the other
# reads at that rate; and a drop-frame label that does not exist (minute one has no frames 0 and 1) is refused.
#
# Seen with OpenTimelineIO 0.18.1: `to_timecode` takes 29.97 for 30000/1001 and writes drop-frame; `from_timecode` wants the
# fraction to the last digit and raises for 29.97. Labels that do not exist are read as two frames before, without a word.
#   OpenTimelineIO 0.18.1
#   expected: every rate that is written can be read, and 00:01:00;00 is refused
#   23.976: frame 100000 is written as 01:09:26:16, reading it raises ValueError
#   29.97: frame 100000 is written as 00:55:36;20, reading it raises ValueError
#   59.94: frame 100000 is written as 00:27:48;20, reading it raises ValueError
#   30000/1001: frame 100000 is written as 00:55:36;20, read as 100000
#   30000/1001: 00:01:00;00 is read as frame 1798, which is written as 00:00:59;28
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q opentimelineio==0.18.1
"$place/venv/bin/python" - <<'PYTHON'
import opentimelineio
from opentimelineio.opentime import RationalTime, from_timecode

print(f"OpenTimelineIO {opentimelineio.__version__}")
print("expected: every rate that is written can be read, and 00:01:00;00 is refused")
for rate in (23.976, 29.97, 59.94):
    label = RationalTime(100_000, rate).to_timecode()
    try:
        read = f"read as {from_timecode(label, rate).value:.0f}"
    except ValueError as error:
        read = f"reading it raises {type(error).__name__}"
    print(f"{rate}: frame 100000 is written as {label}, {read}")
    assert read == "reading it raises ValueError"

exact = 30000 / 1001
label = RationalTime(100_000, exact).to_timecode()
print(f"30000/1001: frame 100000 is written as {label}, read as {from_timecode(label, exact).value:.0f}")
assert from_timecode(label, exact).value == 100_000

missing = from_timecode("00:01:00;00", exact)
print(f"30000/1001: 00:01:00;00 is read as frame {missing.value:.0f}, which is written as {missing.to_timecode()}")
assert missing.value == 1798 and missing.to_timecode() == "00:00:59;28"
PYTHON
