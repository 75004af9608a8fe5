#!/usr/bin/env bash
# Ray Data's `iter_rows` holds a finished row back until the next block is made: a record that is to outlive a kill is
# written one item late, by as long as an item takes.
#
# Ray 2.60.0. Documented: Ray Data is a streaming engine, and `iter_rows` iterates over the rows, without a word on when
# each comes. Expected, where each row is a block of its own that one actor takes 3 s to make: a row is there within
# some tenths of a second of its end. What happens: every row but the last comes 3 s late, when the one after it is made,
# since one batch is read ahead (`prefetch_batches=1`), which `iter_rows` has no option for. `iter_batches` has:
# `iter_batches(batch_size=None, prefetch_batches=0)` gives each at once.
#
# Seen on 29 November 2026 (seconds from a row's end to its arrival):
#   ray 2.60.0
#   iter_rows                     3.1 3.1 3.2 0.2
#   iter_batches, prefetch 0      0.0 0.0 0.0 0.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "ray[data]==2.60.0"
cat > "$folder/late.py" <<'PY'
import logging
import time

import ray
import ray.data


class Slow:
    def __call__(self, row):
        time.sleep(3)
        return {"id": row["id"], "ended": time.time()}


def made():
    pool = ray.data.ActorPoolStrategy(size=1, max_tasks_in_flight_per_actor=1)
    items = ray.data.from_items([{"id": number} for number in range(4)], override_num_blocks=4)
    return items.map(Slow, compute=pool, num_cpus=0.5)


def late(name, rows):
    waits = [time.time() - row["ended"] for row in rows]
    print(f"{name:<29}", *(f"{wait:.1f}" for wait in waits), flush=True)
    return waits


print("ray", ray.__version__)
logging.getLogger("ray.data").setLevel(logging.ERROR)
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=2**27)
ray.data.DataContext.get_current().enable_progress_bars = False
by_rows = late("iter_rows", made().iter_rows())
batches = made().iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow")
at_once = late("iter_batches, prefetch 0", (row for batch in batches for row in batch.to_pylist()))
ray.shutdown()
assert min(by_rows[:-1]) > 2 and max(at_once) < 2, "Ray does otherwise now"
PY
RAY_USAGE_STATS_ENABLED=0 "$folder/venv/bin/python" "$folder/late.py" 2> "$folder/said" || { cat "$folder/said"; exit 1; }
