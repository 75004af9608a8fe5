"""How OpenMP's threads wait for one another, chosen before PyTorch is loaded, whose OpenMP reads it then and only then.

Threads that spin while they wait take the processor from whoever could use it: beside another busy program an edit or a
training takes a multiple of its time so. `python benchmarks/wait_policy.py` measures it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping

POLICY = "OMP_WAIT_POLICY"  # of the standard: GNU's OpenMP (PyTorch on Linux), LLVM's and Intel's read it
_OWN = (POLICY, "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")  # where a person has set one of these, it stays


def choose_wait_policy(environment: MutableMapping[str, str] = os.environ) -> None:
    """Has threads sleep while they wait, unless the environment says something else."""
    if "torch" not in sys.modules and not any(name in environment for name in _OWN):
        environment[POLICY] = "passive"
