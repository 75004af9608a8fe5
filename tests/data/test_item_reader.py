"""Items one by one: every good one is read once an epoch, bad ones are listed and passed over alike in every run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from opensama.data.item_reader import ItemReader
from opensama.data.samples import BatchSampler, Layout, read_manifest, shapes_of
from opensama.pretext import Mixture
from opensama.values import UserError

LAYOUT = Layout(lambda width, height: (32, 32), 9, Mixture({"none": 1, "cube": 1}), 4, prefix="[Video edit] ")


@pytest.fixture(scope="module")
def path(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared manifest and a clip that is cut off, whose size stands in its row, so that only reading finds it."""
    folder = tmp_path_factory.mktemp("items")
    for file in manifest.parent.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "cut.mp4").write_bytes((folder / "a.mp4").read_bytes()[:900])
    row = {"clip": "cut.mp4", "caption": "cut", "width": 64, "height": 48, "frames": 10}
    with (folder / "data.jsonl").open("a") as lines:
        lines.write(json.dumps(row) + "\n")
    return folder / "data.jsonl"


def reader_of(path):
    items = LAYOUT.items(read_manifest(path).rows, lambda row, reason: None)
    return ItemReader(items, lambda number: LAYOUT.read(items[number])), BatchSampler(shapes_of(items), "video", 2, 3)


def test_an_epoch_shows_every_good_item_and_lists_the_bad(path):
    reader, sampler = reader_of(path)
    batches = [[reader(sampler, i) for i in sampler.numbers(n)] for n in range(sampler.epoch_length)]
    names = [[reader.items[number].name for number, _ in batch] for batch in batches]
    assert {name for batch in names for name in batch} == {"1", *(f"{a}.{b}" for a in (2, 3) for b in range(4))}
    for batch in batches:
        shape = reader.items[batch[0][0]].shape
        for number, pair in batch:
            assert pair.target.shape == (3, shape.frames, 32, 32)
            assert pair.source.shape[1] == shape.source_frames
            assert pair.is_edit == (reader.items[number].name == "1")
    assert {name for name, _ in reader.skipped} == {f"6.{variant}" for variant in range(4)}
    assert all("cut.mp4" in reason for _, reason in reader.skipped)
    again, sampler = reader_of(path)  # backwards: what stands in for a bad item is the same
    for n in reversed(range(sampler.epoch_length)):
        assert [again.items[again(sampler, i)[0]].name for i in sampler.numbers(n)] == names[n]


def test_twenty_bad_ones_in_a_row_are_an_error(tmp_path):
    row = {"clip": "none.mp4", "caption": "x", "width": 64, "height": 48, "frames": 9}
    (tmp_path / "all.jsonl").write_text(json.dumps(row) + "\n")
    reader, sampler = reader_of(tmp_path / "all.jsonl")
    with pytest.raises(UserError, match=r"20 samples in a row could not be read, the last of them .*none\.mp4"):
        reader(sampler, 0)
