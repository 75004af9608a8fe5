"""The loader: everything once an epoch, the same batches whoever takes part and wherever one begins again."""

from __future__ import annotations

import json
import pickle
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from opensama.data.loader import Loader, PixelBatch, open_loader
from opensama.data.samples import Layout
from opensama.pretext import Mixture
from opensama.values import UserError


def bucket(width: int, height: int) -> tuple[int, int]:
    return 32, 32


LAYOUT = Layout(bucket, 9, Mixture({"none": 1, "cube": 1}), 4, prefix="[Video edit] ")


@pytest.fixture(scope="module")
def path(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared manifest and a clip that is cut off, whose size stands in its row, so that only reading finds it."""
    folder = tmp_path_factory.mktemp("loader")
    for file in manifest.parent.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "cut.mp4").write_bytes((folder / "a.mp4").read_bytes()[:900])
    row = {"clip": "cut.mp4", "caption": "cut", "width": 64, "height": 48, "frames": 10}
    with (folder / "data.jsonl").open("a") as lines:
        lines.write(json.dumps(row) + "\n")
    return folder / "data.jsonl"


def same(one: PixelBatch, other: PixelBatch) -> bool:
    told = [(b.number, b.shape, b.texts, b.edits, b.names) for b in (one, other)]
    return told[0] == told[1] and torch.equal(one.source, other.source) and torch.equal(one.target, other.target)


def test_an_epoch_shows_every_good_item_and_lists_the_bad(path):
    loader = open_loader(path, LAYOUT, batch=2, epochs=1, workers=3)
    batches = list(loader)
    assert len(batches) == len(loader)
    good = {"1", *(f"{line}.{variant}" for line in (2, 3) for variant in range(4))}
    assert {name for batch in batches for name in batch.names} == good
    for batch in batches:
        assert batch.target.shape == (2, 3, batch.shape.frames, 32, 32)
        assert batch.source.shape[2] == batch.shape.source_frames
        assert batch.edits == tuple(name == "1" for name in batch.names)
    assert {name for name, _ in loader.skipped} == {f"6.{variant}" for variant in range(4)}
    assert all("cut.mp4" in reason for _, reason in loader.skipped)
    images = list(open_loader(path, LAYOUT, kind="image", batch=1, epochs=1))
    assert {batch.names for batch in images} == {("4",), ("5",)}


def test_going_on_gives_what_an_unbroken_run_gives(path):
    whole = list(islice(open_loader(path, LAYOUT, batch=2, seed=3), 12))
    broken = open_loader(path, LAYOUT, batch=2, seed=3, workers=1)
    first = list(islice(broken, 5))
    state = json.loads(json.dumps(broken.state_dict()))
    resumed = open_loader(path, LAYOUT, batch=2, seed=3, workers=4)
    resumed.load_state_dict(state)
    for one, other in zip(whole, [*first, *islice(resumed, 7)], strict=True):
        assert same(one, other)


def test_processes_share_the_batches_and_may_become_fewer(path):
    whole = list(islice(open_loader(path, LAYOUT, batch=1), 8))
    ranks = [open_loader(path, LAYOUT, batch=1, rank=rank, world=2) for rank in (0, 1)]
    shared = [list(islice(rank, 2)) for rank in ranks]
    for number, one in enumerate(whole[:4]):
        assert same(one, shared[number % 2][number // 2])
    alone = open_loader(path, LAYOUT, batch=1)
    alone.load_state_dict(ranks[1].state_dict())
    assert same(whole[4], next(iter(alone)))
    alone.load_state_dict(alone.state_dict() | {"given": 3})
    with pytest.raises(UserError, match="3 batches, which 2 processes cannot share"):
        ranks[0].load_state_dict(alone.state_dict())
    with pytest.raises(UserError, match="with seed 0, this one has 1"):
        open_loader(path, LAYOUT, batch=1, seed=1).load_state_dict(alone.state_dict())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_torchs_own_workers_keep_the_order(path):
    whole = list(islice(open_loader(path, LAYOUT, batch=1), 6))
    loader = open_loader(path, LAYOUT, batch=1, workers=1)
    loader.position = 1
    through = DataLoader(loader, batch_size=None, num_workers=2, multiprocessing_context="fork")
    for one, other in zip(whole[1:], islice(through, 5), strict=True):
        assert same(one, other)
    again = pickle.loads(pickle.dumps(loader))
    assert isinstance(again, Loader)
    assert same(whole[1], next(iter(again)))


def test_nothing_to_load(path, tmp_path):
    (tmp_path / "none.jsonl").write_text("")
    with pytest.raises(UserError, match="has no rows"):
        open_loader(tmp_path / "none.jsonl", LAYOUT)
    (tmp_path / "bad.jsonl").write_text('{"clip": "none.mp4", "caption": "x"}\n')
    told = []
    with pytest.raises(UserError, match=r"No row of .* can be read"):
        open_loader(tmp_path / "bad.jsonl", LAYOUT, on_bad=lambda row, reason: told.append(row.line))
    assert told == [1]
    (tmp_path / "all.jsonl").write_text(
        '{"clip": "none.mp4", "caption": "x", "width": 64, "height": 48, "frames": 9}\n'
    )
    with pytest.raises(UserError, match="samples in a row could not be read"):
        next(iter(open_loader(tmp_path / "all.jsonl", LAYOUT)))
