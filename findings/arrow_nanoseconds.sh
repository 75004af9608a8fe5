#!/usr/bin/env bash
# Reading rows of an Arrow table gives other Python values, or an error, depending on whether pandas is installed.
#
# Guess, written down first: to_pylist() on a column of timestamp[ns] gives datetime, cut to microseconds, everywhere.
# Seen with pyarrow 26.0.1 (a table of clips with the time at which each was recorded, one to the nanosecond):
#   without pandas: ValueError, and with it every row of the table; a whole number of microseconds is a datetime
#   with pandas 3.1.1: both are pandas.Timestamp
# Casting such columns to text, or to timestamp[us], gives the same in both.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q pyarrow==26.0.1
cat > "$work/look.py" <<'P'
import sys

import pyarrow as pa
import pyarrow.compute as pc

print("pyarrow", pa.__version__)
whole = pa.table({"clip": ["a.mp4"], "recorded": pa.array([1_700_000_000_000_001_000], pa.timestamp("ns"))})
fine = pa.table({"clip": ["a.mp4"], "recorded": pa.array([1_700_000_000_000_001_001], pa.timestamp("ns"))})
seen = []
for table in (whole, fine):
    try:
        seen.append(type(table.to_pylist()[0]["recorded"]).__name__)
    except ValueError as error:
        seen.append(type(error).__name__)
print("expected: datetime datetime; seen:", *seen)
assert seen == sys.argv[1:], seen
assert pc.cast(fine["recorded"], pa.string()).to_pylist() == ["2023-11-14 22:13:20.000001001"]
P
"$work/venv/bin/python" "$work/look.py" datetime ValueError
"$work/venv/bin/pip" install -q pandas==3.1.1
"$work/venv/bin/python" "$work/look.py" Timestamp Timestamp
