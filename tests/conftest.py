"""What holds for every test: no network, one thread a process (two run side by side), no haste on a busy machine."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests import fork_server

settings.register_profile("patient", deadline=None, max_examples=25)  # new ones in every run
settings.load_profile("patient")


@pytest.fixture(autouse=True, scope="session")
def server() -> None:
    """Before the first test does anything."""
    fork_server.start()


@pytest.fixture(autouse=True)
def own_priority() -> Iterator[None]:
    """AV1 that a test makes by itself leaves root's process above all others (findings/av1_is_real_time.sh)."""
    if not hasattr(os, "sched_getscheduler"):
        yield
        return
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    yield
    if os.sched_getscheduler(0) != before[0]:
        os.sched_setscheduler(0, *before)
