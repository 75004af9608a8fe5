#!/usr/bin/env bash
# diffusers 0.42.1: FlowMatchEulerDiscreteScheduler shifts its lowest noise level twice when it makes its own steps.
#
# Guess, written down first: `shift` maps evenly spaced levels from 1 to 1/1000 once, s -> shift s / (1 + (shift - 1) s), both
# in the table that the constructor makes (the one that trainers draw from) and in set_timesteps. So a walk of 1,000 steps
# visits exactly that table, and one of 10 ends, before 0, at the table's last level: 0.0050 for shift 5.
#
# Seen: set_timesteps spreads its steps between the ends of the table, which are shifted already, and shifts them again. With
# shift 5 the last level is 0.0244, five times too high, and the last step jumps from there; a level of training below it is
# never visited. Levels that the caller gives are shifted once.
#   diffusers 0.42.1, shift 5
#   expected: the last level above 0 is 0.0050, as in the table of training; 1,000 steps are that table
#   10 steps, its own: 1.0000 0.9757 ... 0.3951 0.0244
#   10 steps, given:   1.0000 0.9756 ... 0.3867 0.0050
#   1,000 steps, its own, differ from the table of training by up to 0.0194
#   shift 1: no difference (0.0010)
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q torch==2.13.0 diffusers==0.42.1 transformers==5.23.0 numpy==2.3.5
"$place/venv/bin/python" - <<'PYTHON'
import diffusers
import numpy as np
from diffusers import FlowMatchEulerDiscreteScheduler

print(f"diffusers {diffusers.__version__}, shift 5")
print("expected: the last level above 0 is 0.0050, as in the table of training; 1,000 steps are that table")


def levels(shift, steps, sigmas=None):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    table = scheduler.sigmas.numpy()
    scheduler.set_timesteps(steps, sigmas=sigmas)
    return table, scheduler.sigmas.numpy()[:-1]


def words(name, found):
    print(f"10 steps, {name} {found[0]:.4f} {found[1]:.4f} ... {found[-2]:.4f} {found[-1]:.4f}")


table, own = levels(5.0, 10)
_, given = levels(5.0, None, np.linspace(1, 1 / 1000, 10))
words("its own:", own)
words("given:  ", given)
assert abs(table[-1] - 0.00498) < 1e-4 and abs(given[-1] - table[-1]) < 1e-5
assert abs(own[-1] - 5 * table[-1] / (1 + 4 * table[-1])) < 1e-5 and own[-1] > 4 * table[-1]

table, all_of_them = levels(5.0, 1000)
print(f"1,000 steps, its own, differ from the table of training by up to {np.abs(all_of_them - table).max():.4f}")
assert np.abs(all_of_them - table).max() > 0.01

table, all_of_them = levels(1.0, 1000)
print(f"shift 1: no difference ({all_of_them[-1]:.4f})")
assert np.abs(all_of_them - table).max() < 1e-5
PYTHON
