"""Sizes to edit at: the released list and choices, and that no part of any picture is lost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from opensama.media.frames import resize
from opensama.pipeline.buckets import STRETCH, Placement, buckets, closest

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "buckets_480p.json").read_text())


def test_the_released_buckets():
    assert buckets() == [tuple(bucket) for bucket in GOLDEN["buckets"]]


@pytest.mark.parametrize("case", GOLDEN["closest"], ids=lambda case: "x".join(map(str, case["source"])))
def test_the_released_choice(case):
    assert closest(*case["source"]) == tuple(case["bucket"])


@given(st.integers(16, 1500), st.sampled_from([8, 16, 32]))
def test_buckets_of_any_area_are_near_it(side, multiple):
    found = buckets(side * side, multiple)
    assert found
    for width, height in found:
        assert width % multiple == height % multiple == 0
        assert 0.5 <= width / height <= 2
    if side > 6 * multiple:
        assert all(abs(width * height / side**2 - 1) < 0.15 for width, height in found)
        assert {(h, w) for w, h in found} & set(found)


@given(st.integers(1, 16_384), st.integers(1, 16_384))
def test_the_whole_picture_lies_in_its_bucket(width, height):
    place = Placement.of(width, height, 128 * 128, 16)
    assert 0 <= place.left <= place.width - place.inner_width
    assert 0 <= place.top <= place.height - place.inner_height
    assert place.inner_width == place.width or place.inner_height == place.height
    if place.inner_width > 8 and place.inner_height > 8:
        distortion = (width / height) / (place.inner_width / place.inner_height)
        assert 1 / STRETCH - 0.1 < distortion < STRETCH + 0.1


@given(st.sampled_from([(64, 48), (48, 64), (90, 30), (30, 90), (17, 33), (200, 30)]))
@settings(deadline=None)
def test_into_the_bucket_and_back(size):
    """A smooth picture survives; its corners are where they were."""
    width, height = size
    rows, columns = np.mgrid[:height, :width]
    frame = np.stack([rows / max(1, height - 1), columns / max(1, width - 1), np.full((height, width), 0.5)], axis=2)
    place = Placement.of(width, height, 64 * 64, 16)
    pixels = place.enter((frame * 255).astype(np.uint8))
    assert pixels.shape == (3, place.height, place.width)
    assert pixels.abs().max() <= 1
    back = resize(place.leave(pixels)[None, :, None], height, width)[0, :, 0]
    assert (back.permute(1, 2, 0) - torch.from_numpy(frame * 2 - 1).float()).abs().mean() < 0.04


def test_sixteen_bit_frames_enter_alike():
    frame = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    place = Placement.of(60, 40, 64 * 64, 16)
    torch.testing.assert_close(place.enter(frame), place.enter(frame.astype(np.uint16) * 257))
