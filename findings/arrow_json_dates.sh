#!/usr/bin/env bash
# Words of a JSONL file come back as points in time, or as words, depending on the file's other rows.
#
# Guess, written down first: a JSON string is text, so pyarrow.json.read_json gives a column of strings.
# Seen with pyarrow 26.0.1 (the text that an edit is to write into a video, one JSONL file a shard):
#   shard 0: timestamp[s]  [datetime.datetime(2024, 1, 1, 0, 0), datetime.datetime(2024, 12, 31, 0, 0)]
#   shard 1: string        ['2024-01-01', 'SALE']
#   concat_tables: ArrowInvalid
# So the shards of one data set have two schemas, and what a person wrote ("2024-01-01") is a different text when it is
# printed again ("2024-01-01 00:00:00"). An explicit schema, or explicit_schema for these columns, keeps the words.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q pyarrow==26.0.1
"$work/venv/bin/python" - <<'P'
import io
import json

import pyarrow as pa
from pyarrow import json as pajson

print("pyarrow", pa.__version__)
print("expected: both shards hold strings")
shards = []
for number, texts in enumerate((["2024-01-01", "2024-12-31"], ["2024-01-01", "SALE"])):
    lines = "".join(json.dumps({"subtitle": text}) + "\n" for text in texts)
    table = pajson.read_json(io.BytesIO(lines.encode()))
    shards.append(table)
    print(f"shard {number}:", table.schema.field("subtitle").type, table["subtitle"].to_pylist())
assert pa.types.is_timestamp(shards[0].schema.field("subtitle").type)
assert pa.types.is_string(shards[1].schema.field("subtitle").type)
assert shards[1]["subtitle"].to_pylist() == ["2024-01-01", "SALE"]
try:
    pa.concat_tables(shards)
except pa.ArrowInvalid as error:
    print("concat_tables:", type(error).__name__)
else:
    raise SystemExit("the shards can be joined now")
schema = pa.schema([("subtitle", pa.string())])
kept = pajson.read_json(io.BytesIO(b'{"subtitle": "2024-01-01"}\n'), parse_options=pajson.ParseOptions(explicit_schema=schema))
assert kept["subtitle"].to_pylist() == ["2024-01-01"]
P
