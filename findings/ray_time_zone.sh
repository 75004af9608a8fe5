#!/usr/bin/env bash
# A time with its zone goes into Ray Data and comes back two hours earlier, without a zone.
#
# Guess, written down first: from_items(...).take_all() gives the datetime that went in, zone and all, as Arrow's
# timestamp[us, tz=+02:00] would.
# Seen with ray 2.60.0 (records of clips with the time at which each was filmed):
#   in:  2024-06-01 12:00:00+02:00
#   out: 2024-06-01 10:00:00, tzinfo None
#   comparing both: TypeError
# Text (isoformat) goes through unchanged; so does a number of seconds.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "ray[data]==2.60.0"
RAY_USAGE_STATS_ENABLED=0 PYTHONWARNINGS=ignore "$work/venv/bin/python" - <<'P'
import logging
from datetime import datetime, timedelta, timezone

import ray
import ray.data

ray.init(num_cpus=1, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
ray.data.DataContext.get_current().enable_progress_bars = False
logging.getLogger("ray.data").setLevel(logging.ERROR)
filmed = datetime(2024, 6, 1, 12, tzinfo=timezone(timedelta(hours=2)))
print("ray", ray.__version__)
(row,) = ray.data.from_items([{"filmed": filmed, "text": filmed.isoformat()}]).take_all()
print("expected:", filmed)
print("seen:    ", row["filmed"], "tzinfo", row["filmed"].tzinfo)
assert row["filmed"] == datetime(2024, 6, 1, 10)
assert row["filmed"].tzinfo is None
assert datetime.fromisoformat(row["text"]) == filmed
try:
    print(row["filmed"] < filmed)
except TypeError as error:
    print("comparing both:", type(error).__name__)
else:
    raise SystemExit("the zone is kept now")
ray.shutdown()
P
