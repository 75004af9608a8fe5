"""A Ray cluster of two CPUs, for tests; importing the fixture `cluster` makes it the module's."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest

from opensama.pipeline.batch import OBJECT_STORE


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster that has begun and goes on, which this process has joined."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own
        # where memory is short it ends workers, and begins their work anew
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")
        there = ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=OBJECT_STORE)
        yield there.address_info["gcs_address"]
        assert ray.is_initialized()
        ray.shutdown()
