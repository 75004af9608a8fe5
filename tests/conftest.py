"""What holds for every test: no network, one thread a process (two run side by side), no haste on a busy machine."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
