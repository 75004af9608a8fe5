"""How OpenMP's threads wait for one another, chosen before PyTorch is loaded, whose OpenMP reads it then and only then.

Threads that spin while they wait take the processor from whoever could use it: beside another busy program an edit
takes twice as long so. Threads that sleep are woken a little later: training's many small steps, alone on a machine,
take longer so. `python benchmarks/wait_policy.py` measures both.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping, Sequence

POLICY = "OMP_WAIT_POLICY"  # of the standard: GNU's OpenMP (PyTorch on Linux), LLVM's and Intel's read it
_OWN = (POLICY, "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")  # where a person has set one of these, it stays
QUIET = 0.25  # processes that want to run, for each core, below which a machine is quiet


def choose_wait_policy(
    arguments: Sequence[str], environment: MutableMapping[str, str] = os.environ, busy: float | None = None
) -> None:
    """Sets the policy for a command: passive, or active for training on a quiet machine.

    `busy` is how many processes want to run for each core, by default what the system says of the last minute.
    """
    if "torch" in sys.modules or any(name in environment for name in _OWN):
        return
    training = next((word for word in arguments if not word.startswith("-")), "") == "train"
    quiet = training and (_busy() if busy is None else busy) < QUIET
    environment[POLICY] = "active" if quiet else "passive"


def _busy() -> float:
    if not hasattr(os, "getloadavg"):  # Windows
        return 1.0
    return os.getloadavg()[0] / (os.cpu_count() or 1)
