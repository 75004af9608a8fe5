"""Records are checked, a manifest holds what was written, opens lazily, and says what is wrong with a bad file."""

from __future__ import annotations

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opensama.data.manifest import (
    EDIT_TASKS,
    FIELDS,
    Manifest,
    Record,
    iter_records,
    read_manifest_table,
    write_manifest,
)
from opensama.data.samples import Layout, read_manifest
from opensama.pretext import Mixture
from opensama.values import UserError
from tests.any_text import any_text

texts = any_text(8)
words = st.text("abc /.ä", min_size=1, max_size=8)
numbers = st.none() | st.integers(1, 10**6)
seconds = st.none() | st.floats(0, 1e6)


@st.composite
def records(draw) -> Record:
    pair = draw(st.booleans())
    return Record(
        id=draw(words),
        kind="pair" if pair else "clip",
        target=draw(words),
        source=draw(words) if pair else None,
        target_start=draw(seconds),
        width=draw(numbers),
        frames=draw(numbers),
        fps=draw(st.none() | st.floats(0.1, 100)),
        caption=draw(texts),
        instruction=draw(texts),
        task=draw(st.sampled_from(["", *EDIT_TASKS])),
        scores=draw(st.dictionaries(texts, st.floats(-10, 10), max_size=3)),
        line=draw(st.integers(0, 2**40)),
        media=draw(st.sampled_from(["image", "video"])),
        notes=draw(st.dictionaries(texts, texts, max_size=3)),
    )


@given(st.lists(records(), max_size=9))
@settings(max_examples=60)
def test_what_is_written_is_read(tmp_path_factory, wanted):
    folder = tmp_path_factory.mktemp("m")
    for name in ("m.parquet", "m.jsonl"):
        assert write_manifest(folder / name, iter(wanted), {"dataset": "x"}) == len(wanted)
        assert list(iter_records(folder / name)) == wanted
    manifest = read_manifest_table(folder / "m.parquet")
    assert manifest.meta == {"dataset": "x"}
    assert [manifest[i] for i in range(len(manifest))] == wanted
    for record in wanted:
        assert Record.from_dict(json.loads(json.dumps(record.to_dict()))) == record
        assert tuple(record.to_dict()) == FIELDS


def plain(i: int, **values) -> Record:
    return Record(id=f"r{i}", kind="clip", target=f"{i}.mp4", line=i, task=EDIT_TASKS[i % 3], **values)


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Manifest:
    """Several row groups."""
    path = tmp_path_factory.mktemp("many") / "m.parquet"
    write_manifest(path, (plain(i, scores={"quality": i / 2}) for i in range(100)), row_group=16)
    return read_manifest_table(path)


@given(st.slices(100), st.slices(20))
@settings(max_examples=40)
def test_slices_and_columns_are_as_of_a_list(many, first, second):
    ids = [f"r{i}" for i in range(100)]
    part = many[first]
    assert [record.id for record in part] == part.column("id") == ids[first]
    assert len(part) == len(ids[first])
    assert part[second].column("id") == ids[first][second]


def test_selections(many):
    chosen = many.select(task=(EDIT_TASKS[0], EDIT_TASKS[2]))
    assert len(chosen) == 67
    assert {record.task for record in chosen} == {EDIT_TASKS[0], EDIT_TASKS[2]}
    assert [record.line for record in chosen.select(line=(3, 4, 9))] == [3, 9]
    assert chosen[-1].id == "r99"
    assert len(many.select(task="style")) == 0 == len(list(many.select(task="style")))
    assert many.columns("line", "scores").column_names == ["line", "scores"]
    with pytest.raises(UserError, match="no column 'lines'"):
        many.column("lines")
    with pytest.raises(IndexError):
        many[100]


@pytest.mark.parametrize(
    "wrong",
    [{"id": ""}, {"target": ""}, {"kind": "edit"}, {"kind": "pair"}, {"source": "x"}, {"task": "adding"},
     {"media": "gif"}, {"target_start": -1.0}, {"target_start": 2.0, "target_end": 1.0}],
)  # fmt: skip
def test_records_check_themselves(wrong):
    with pytest.raises(ValueError, match=r"."):
        Record(**{"id": "x", "kind": "clip", "target": "a.mp4"} | wrong)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [({"width": "wide"}, "no whole number"), ({"width": 1.5}, "no whole number"), ({"fps": True}, "no number"),
     ({"caption": 3}, "no text"), ({"scores": {"a": "b"}}, "names to numbers"), ({"notes": {"a": 1}}, "names to texts"),
     ({"line": None}, "no whole number"), ({"fps": float("nan")}, "no number")],
)  # fmt: skip
def test_wrong_values_are_named(tmp_path, values, sentence):
    whole = {"id": "x", "kind": "clip", "target": "a.mp4"}
    with pytest.raises(ValueError, match=sentence):
        Record.from_dict(whole | values)
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps(whole) + "\n" + json.dumps(whole | values))
    with pytest.raises(UserError, match=f"Line 2 of .*{sentence}"):
        list(iter_records(path))


def test_working_keys_are_left_alone():
    assert Record.from_dict({"id": "x", "kind": "clip", "target": "a.mp4", "mask": [1]}).id == "x"


def test_short_rows_of_hand_made_manifests(tmp_path):
    path = tmp_path / "by-hand.csv"
    path.write_text("source,target,instruction,width\na.mp4,b.mp4,Make it red,64\n")
    (record,) = iter_records(path)
    assert (record.id, record.kind, record.width, record.line) == ("by-hand-2", "pair", 64, 2)
    path = tmp_path / "by-hand.jsonl"
    path.write_text('\n{"clip": "a.mp4", "caption": "a dog\\u2028 runs"}\n')
    (record,) = iter_records(path)
    assert (record.kind, record.target, record.caption, record.line) == ("clip", "a.mp4", "a dog\u2028 runs", 2)
    path.write_text('{"source": "a.png", "target": "b.JPG", "instruction": "Make it red."}\n')
    (picture,) = iter_records(path)
    assert (record.media, picture.media) == ("video", "image")


def test_a_failed_write_leaves_nothing_and_keeps_what_was_there(tmp_path):
    path = tmp_path / "m.parquet"
    write_manifest(path, [plain(1)])

    def breaking():
        yield plain(2)
        raise KeyboardInterrupt

    for name in ("m.parquet", "new.jsonl"):
        with pytest.raises(KeyboardInterrupt):
            write_manifest(tmp_path / name, breaking())
    assert os.listdir(tmp_path) == ["m.parquet"]
    assert read_manifest_table(path).column("id") == ["r1"]


def test_files_that_are_no_manifests(tmp_path):
    with pytest.raises(UserError, match="There is no manifest"):
        read_manifest_table(tmp_path / "none.parquet")
    path = tmp_path / "m.parquet"
    path.write_bytes(b"")
    with pytest.raises(UserError, match="is empty"):
        read_manifest_table(path)
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match="not Parquet, or cut off"):
        read_manifest_table(path)
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(UserError, match="opensama data import table"):
        read_manifest_table(path)
    write_manifest(path, [plain(i, caption=os.urandom(30).hex()) for i in range(200)])
    whole = path.read_bytes()
    path.write_bytes(whole[:300] + bytes(4000) + whole[4300:])
    damaged = read_manifest_table(path)
    assert len(damaged) == 200, "its footer is whole"
    for read in (
        lambda: damaged[0],
        lambda: damaged.column("caption"),
        lambda: list(damaged),
        lambda: read_manifest(path),
    ):
        with pytest.raises(UserError, match="is damaged"):
            read()
    for name, sentence in (("m.txt", "is written as"), ("nowhere/m.parquet", "There is no folder")):
        with pytest.raises(UserError, match=sentence):
            write_manifest(tmp_path / name, [])


def test_stretches_of_files_train(tmp_path, manifest):
    """The manifest of stretches gives the pixels of these stretches, from Parquet and from JSONL alike."""
    folder = manifest.parent
    rows = [
        Record(id="e", kind="pair", target="b.mp4", source="a.mp4", target_start=0.5, source_start=0.25,
               instruction="Make it red"),
        Record(id="c", kind="clip", target="c.mp4", target_start=0.25, target_end=0.875, caption="a box"),
    ]  # fmt: skip
    layout = Layout(lambda w, h: (32, 32), 9, Mixture({"none": 1}), prefix="")
    found = []
    for name in ("s.parquet", "s.jsonl"):
        write_manifest(folder / name, rows)
        read = read_manifest(folder / name)
        items = layout.items(read.rows, lambda row, reason: pytest.fail(reason))
        assert [item.shape.frames for item in items] == [5, 5], "6 and 5 frames, cut to 4k+1"
        found.append([layout.read(item) for item in items])
        assert read.fingerprint
    whole = read_manifest(manifest).rows[0]
    from opensama.data.samples import read_pixels

    edit = found[0][0]
    assert (edit.target == read_pixels(whole.target, 32, 32, 9)[:, 4:9]).all()
    assert (edit.source == read_pixels(whole.source, 32, 32, 7)[:, 2:7]).all()
    for one, other in zip(*found, strict=True):
        assert (one.target == other.target).all()
        assert one.text == other.text
    write_manifest(folder / "bad.parquet", [Record(id="e", kind="pair", target="b.mp4", source="a.mp4")])
    with pytest.raises(UserError, match=r"Row 1 of .* has no instruction"):
        read_manifest(folder / "bad.parquet")
