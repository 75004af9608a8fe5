"""Manifests are read line by line, rows become items that depend on nothing else, batches are of one shape."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from opensama.data.samples import (
    BadSample,
    BatchSampler,
    Layout,
    Shape,
    TrainingRow,
    read_manifest,
    shapes_of,
    training_length,
)
from opensama.pretext import Mixture, SpeedPerturbation
from opensama.values import UserError

LAYOUT = Layout(
    lambda w, h: (32, 32), 9, Mixture({"none": 1, "cube": 2, "speed": 3, "tube": 4}), 6, prefix="[Video edit] "
)


def refuse(row: TrainingRow, reason: str) -> None:
    raise AssertionError((row, reason))


def test_rows_of_both_kinds_and_both_formats(tmp_path, manifest):
    read = read_manifest(manifest)
    assert [row.is_clip for row in read.rows] == [False, True, True, False, False]
    assert read.rows[0].target == manifest.parent / "b.mp4"
    table = tmp_path / "data.csv"
    table.write_text("clip,caption,width,height,frames\na.mp4,a ball,64,48,10\n")
    (row,) = read_manifest(table).rows
    assert row == TrainingRow(2, None, tmp_path / "a.mp4", "a ball", (64, 48, 10))
    before = read.fingerprint
    manifest_again = tmp_path / "again.jsonl"
    manifest_again.write_text(manifest.read_text() + "\n")
    assert read_manifest(manifest_again).fingerprint != before


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "has no rows"),
        ("{", "Line 1 of .* is not JSON"),
        ("[]", "Line 1 of .* is no JSON object"),
        ('{"sorce": "a", "target": "b", "instruction": "c"}', "did you mean source?"),
        ('{"source": "a", "target": "b"}', "Line 1 of .* has no instruction"),
        ('{"clip": "a", "caption": ""}', "has no caption"),
        ('{"clip": "a", "caption": "b", "width": 0, "height": 1, "frames": 1}', "no positive number"),
    ],
)
def test_wrong_manifests(tmp_path, text, sentence):
    path = tmp_path / "data.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=sentence):
        read_manifest(path)


def test_a_manifest_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="There is no manifest"):
        read_manifest(tmp_path / "none.jsonl")
    with pytest.raises(UserError, match="is a folder"):
        read_manifest(tmp_path)


def test_items_are_what_the_layout_says(manifest):
    items = LAYOUT.items(read_manifest(manifest).rows, refuse)
    assert [item.name for item in items[:3]] == ["1", "2.0", "2.1"]
    assert len(items) == 1 + 2 * 6 + 2
    assert {item.shape.kind for item in items} == {"image", "video"}
    for item in items:
        pair = LAYOUT.read(item)
        assert pair.target.shape == (3, item.shape.frames, 32, 32)
        assert pair.source.shape[1] == item.shape.source_frames
        again = LAYOUT.read(item)
        torch.testing.assert_close(again.source, pair.source, atol=0, rtol=0)
        assert pair.text.startswith("[Video edit] ") == pair.is_edit
    corrupted = {LAYOUT.read(item).text.partition("]")[0] for item in items if item.row.is_clip}
    assert len(corrupted) > 2, "tasks differ"


def test_no_task_is_run_to_know_a_length_and_items_are_as_many_bytes_as_arrays():
    class Costly(SpeedPerturbation):
        def corrupt(self, video, generator):
            raise AssertionError("a clip was corrupted")

    layout = Layout(lambda w, h: (32, 32), 81, Mixture({"none": 1, "speed": 1}, [Costly()]), 4)
    rows = [TrainingRow(line, None, "a.mp4", "a ball", (64, 48, 100)) for line in range(1, 501)]
    items = layout.items(rows, refuse)
    assert len(items) == 2000
    assert shapes_of(items).counts().keys() == {Shape(32, 32, 81, 81), Shape(32, 32, 81, 37)}
    assert 800 < shapes_of(items).counts()[Shape(32, 32, 81, 37)] < 1200
    assert (items[5].name, items[5].row.line, items[-1].name) == ("2.1", 2, "500.3")
    assert len({item.seed for item in items}) == 2000
    other = layout.items(rows[250:], refuse)
    assert [item.seed for item in other] == [item.seed for item in items[1000:]], "an item depends on its row alone"


def test_rows_that_cannot_be_opened_are_told(manifest):
    row = TrainingRow(7, None, Path("nowhere.mp4"), "x")
    told = []
    assert not LAYOUT.items([row], lambda row, reason: told.append((row.line, reason)))
    assert told[0][0] == 7
    known = TrainingRow(7, None, Path("nowhere.mp4"), "x", (64, 48, 9))
    (item, *_) = LAYOUT.items([known], refuse)
    with pytest.raises(BadSample, match=re.escape("nowhere.mp4")):
        LAYOUT.read(item)


@given(st.integers(1, 2000))
def test_lengths(frames):
    found = training_length(frames)
    assert found <= frames
    assert found % 4 == 1
    assert frames - found < 16
    assert frames < 17 or found % 16 == 1


@given(
    st.lists(st.tuples(st.sampled_from([1, 5, 9]), st.sampled_from([32, 64])), min_size=1, max_size=40),
    st.integers(1, 7),
    st.integers(0, 5),
)
@settings(max_examples=40)
def test_an_epoch_shows_everything_in_batches_of_one_shape(sizes, batch, seed):
    shapes = [Shape(w, w, t, t) for t, w in sizes]
    for kind in ("image", "video"):
        sampler = BatchSampler(shapes, kind, batch, seed)
        wanted = {i for i, shape in enumerate(shapes) if shape.kind == kind}
        seen = [sampler.numbers(index) for index in range(sampler.epoch_length)]
        assert {number for numbers in seen for number in numbers} == wanted
        for numbers in seen:
            assert len(numbers) == batch
            assert len({shapes[number] for number in numbers}) == 1
        if wanted:
            again = BatchSampler(shapes, kind, batch, seed)
            assert again.numbers(3 * sampler.epoch_length) == sampler.numbers(3 * sampler.epoch_length)
            number = min(wanted)
            assert shapes[sampler.other(number, 1)] == shapes[number]
