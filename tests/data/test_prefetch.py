"""What is made ahead: the same whatever the threads, no more than said, errors where they belong, no thread left."""

from __future__ import annotations

import threading
import time

import pytest

from opensama.data.prefetch import Prefetcher


@pytest.mark.parametrize("workers", [1, 3])
def test_each_index_gets_its_own_whoever_is_quicker(workers):
    before = threading.enumerate()

    def make(index: int) -> int:
        time.sleep(0.002 * (index % 3))
        return index * index

    prefetch = Prefetcher(make, workers=workers)
    asked = [*range(12), 4, 5, 30, 31]  # back, and far ahead
    assert [prefetch(index) for index in asked] == [index * index for index in asked]
    prefetch.close()
    assert not set(threading.enumerate()) - set(before)
    assert prefetch(2) == 4, "closed, it begins anew"
    prefetch.close()
    assert not set(threading.enumerate()) - set(before)


def test_several_are_made_at_once_and_no_more_than_said_are_held():
    together = threading.Barrier(3, timeout=5)  # broken, and an error, if three are never made at once
    began: list[int] = []

    def make(index: int) -> int:
        began.append(index)
        together.wait()
        return index

    prefetch = Prefetcher(make, workers=3, end=12)
    for index in range(12):
        assert prefetch(index) == index
        assert max(began) <= index + 3
        time.sleep(0.01)
    prefetch.close()
    assert sorted(began) == list(range(12)), "nothing behind the end, and each once"


def test_an_error_comes_out_at_its_index_and_the_next_goes_on():
    before = threading.enumerate()

    def make(index: int) -> int:
        if index == 2:
            raise ValueError(f"cannot make {index}")
        return index

    prefetch = Prefetcher(make, workers=2)
    assert prefetch(1) == 1
    for _ in range(2):
        with pytest.raises(ValueError, match="cannot make 2"):
            prefetch(2)
    assert prefetch(3) == 3
    prefetch.close()
    assert not set(threading.enumerate()) - set(before)
