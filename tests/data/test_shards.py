"""Shards: the files of a manifest in tars, which read as the files themselves do, and by others' tools."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from opensama.apps.cli import main
from opensama.data.manifest import iter_records, read_manifest_table
from opensama.data.samples import Layout, read_manifest
from opensama.data.shards import shard_records, write_tar_shards
from opensama.media.video_io import read_video
from opensama.pretext import Mixture
from opensama.values import UserError

LAYOUT = Layout(lambda width, height: (32, 32), 9, Mixture({"none": 1}))


@pytest.fixture(scope="module")
def folder(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared manifest as small shards."""
    out = tmp_path_factory.mktemp("shards") / "out"
    report = write_tar_shards(manifest, out, size=9_000)
    assert report.records == 5
    assert report.shards > 1
    assert not report.left_out
    return out


def refuse(row, reason):
    raise AssertionError((row, reason))


def test_what_lies_in_shards_trains_as_what_lies_in_files(manifest, folder):
    before, after = (LAYOUT.items(read_manifest(path).rows, refuse) for path in (manifest, folder / "manifest.parquet"))
    assert [item.shape for item in before] == [item.shape for item in after]
    for one, other in zip(before, after, strict=True):
        first, second = LAYOUT.read(one), LAYOUT.read(other)
        assert first.text == second.text
        assert torch.equal(first.target, second.target)
        assert torch.equal(first.source, second.source)


def test_the_manifest_can_be_made_again_from_the_tars(manifest, folder):
    records = list(shard_records(folder))
    assert records == list(read_manifest_table(folder / "manifest.parquet"))
    for record, original in zip(records, iter_records(manifest), strict=True):
        assert (record.id, record.instruction, record.caption) == (original.id, original.instruction, original.caption)
        bytes_inside = read_member(folder / record.target)
        assert bytes_inside == (manifest.parent / original.target).read_bytes()


def read_member(path: Path) -> bytes:
    with tarfile.open(path.parent) as tar:
        return tar.extractfile(path.name).read()


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # its own
def test_the_webdataset_library_reads_them(folder):
    webdataset = pytest.importorskip("webdataset")
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    said = [json.loads(sample["json"])["instruction"] for sample in samples]
    assert said == [record.instruction for record in shard_records(folder)]


def test_a_late_frame_of_a_video_in_a_tar(folder):
    record = next(record for record in shard_records(folder) if record.kind == "clip")
    video = read_video(folder / record.target)
    (late,) = video.frames(video.frame_count - 1)
    np.testing.assert_array_equal(late, video.array()[-1])
    small = read_video(folder / record.target, cover=(32, 16)).array()
    assert small.shape == (video.frame_count, 16, 32, 3)


def test_files_that_cannot_be_read_leave_their_records_out(manifest, tmp_path):
    at = manifest.parent
    rows = [
        {"source": f"{at}/a.mp4", "target": f"{at}/b.mp4", "instruction": "x"},
        {"clip": f"{at}/a.mp4"},
        {"clip": "no"},
    ]
    (tmp_path / "part.jsonl").write_text("\n".join(map(json.dumps, rows)))
    report = write_tar_shards(tmp_path / "part.jsonl", tmp_path / "out")
    assert (report.records, report.shards) == (2, 1)
    ((name, reason),) = report.left_out
    assert name == "part-3"
    assert "no" in reason
    with tarfile.open(tmp_path / "out" / "shard-00000.tar") as tar:
        names = tar.getnames()
    assert sum(name.endswith(".mp4") for name in names) == 2, "the file that two records name is stored once"


def test_what_cannot_be_done(manifest, folder, tmp_path):
    with pytest.raises(UserError, match="holds something"):
        write_tar_shards(manifest, folder)
    with pytest.raises(UserError, match="no shards"):
        list(shard_records(tmp_path))
    (tmp_path / "none.jsonl").write_text('{"clip": "none.mp4", "caption": "x"}\n')
    with pytest.raises(UserError, match="No row"):
        write_tar_shards(tmp_path / "none.jsonl", tmp_path / "none")
    assert not list((tmp_path / "none").iterdir())
    with pytest.raises(UserError, match=r"There is no x\.mp4 in"):
        read_video(folder / "shard-00000.tar" / "x.mp4")
    cut = tmp_path / "cut.tar"
    cut.write_bytes((folder / "shard-00000.tar").read_bytes()[:3000])
    with pytest.raises(UserError, match=r"cut off|damaged"):
        read_video(cut / "000000000.target.mp4")
    (tmp_path / "odd.tar").write_bytes(b"no tar at all")
    with pytest.raises(UserError, match="no plain tar"):
        read_video(tmp_path / "odd.tar" / "a.mp4")


def test_shards_are_replaced_when_the_new_ones_are_whole(manifest, tmp_path):
    """Larger ones in place of smaller ones, from their own manifest; what else lies there stays."""
    out = tmp_path / "out"
    assert write_tar_shards(manifest, out, size=9_000).shards > 1
    (out / "notes.txt").write_text("mine")
    before = list(shard_records(out))
    (tmp_path / "none.jsonl").write_text("")
    with pytest.raises(UserError, match="has no rows"):
        write_tar_shards(tmp_path / "none.jsonl", out, overwrite=True)
    assert list(shard_records(out)) == before
    assert main(["data", "shard", str(out / "manifest.parquet"), "--out", str(out)]) == 2
    assert main(["data", "shard", str(out / "manifest.parquet"), "--out", str(out), "--overwrite"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["manifest.parquet", "notes.txt", "shard-00000.tar"]
    assert [record.id for record in shard_records(out)] == [record.id for record in before]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
