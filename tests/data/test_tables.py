"""Tables as programs write them, and what a broken row, page, batch or member takes with it: nothing but itself."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from opensama.apps.cli import main as opensama
from opensama.data import tables
from opensama.data.dialects import detect, dialect_of
from opensama.data.importing import Choice, ImportReport, import_dataset
from opensama.data.manifest import Record, iter_records
from opensama.data.rows import BadRow, Blob, normalized_row
from opensama.values import UserError


def picture(value: int) -> bytes:
    held = io.BytesIO()
    Image.fromarray(np.full((32, 48, 3), value, np.uint8)).save(held, "PNG")
    return held.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five pairs of pictures, s1.png and t1.png and so on."""
    root = tmp_path / "set"
    root.mkdir()
    for number in range(1, 6):
        (root / f"s{number}.png").write_bytes(picture(60))
        (root / f"t{number}.png").write_bytes(picture(200))
    return root


def bring(root: Path, **choice: object) -> tuple[ImportReport, list[Record]]:
    out = (root if root.is_dir() else root.parent).parent / "m.jsonl"
    report = import_dataset("table", root, out, Choice(**choice))  # type: ignore[arg-type]
    return report, list(iter_records(out))


def read(path: Path, **how: object) -> list[object]:
    return [row for _, row in tables.table_rows(path, **how)]  # type: ignore[arg-type]


# --- dialects

SAID = ['Write "Hello, 1" on it; now.', "It's 5 | 6.", "Make it\nred.", "Make it blue.", 'A "b" c']


def written(separator: str, quote: str = '"', escape: str | None = None, end: str = "\n") -> str:
    """Rows as a program writes them that quotes every text."""
    rows = [f"source{separator}target{separator}instruction"]
    for number, text in enumerate(SAID, 1):
        inside = text.replace(quote, (escape or quote) + quote)
        rows.append(separator.join((f"s{number}.png", f"t{number}.png", f"{quote}{inside}{quote}")))
    return end.join(rows) + end


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize(("quote", "escape"), [('"', None), ('"', "\\"), ("'", None), ("'", "\\")])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_any_dialect_gives_the_same_rows(tmp_path, separator, quote, escape, encoding):
    path = tmp_path / "rows.csv"
    path.write_bytes(written(separator, quote, escape, "\r\n" if encoding == "utf-16" else "\n").encode(encoding))
    assert [row["instruction"] for row in read(path)] == SAID  # type: ignore[index]
    assert (detect(path).separator, detect(path).quote, detect(path).escape) == (separator, quote, escape or "")


def test_quotes_escaped_by_backslashes_come_in_as_pairs_and_are_told(folder, capsys):
    rows = "".join(f's{k}.png,t{k}.png,"Write \\"Hello {k}\\" on the sign."\n' for k in (1, 2, 3))
    rows += 's4.png,t4.png,"Write \\"Hello, you\\" on the sign."\ns5.png,t5.png,Make it red.\n'
    (folder / "spark.csv").write_text("source,target,instruction\n" + rows)
    report, records = bring(folder)
    assert [r.instruction for r in records] == [
        *(f'Write "Hello {k}" on the sign.' for k in (1, 2, 3)), 'Write "Hello, you" on the sign.', "Make it red."
    ]  # fmt: skip
    assert report.dialects == {"spark.csv": "comma between fields, double quotes escaped by backslashes"}
    asked = ["data", "import", "table", str(folder), "--out", str(folder.parent / "x.jsonl")]
    assert opensama(asked) == 0
    assert "spark.csv was read as CSV with comma between fields, double quotes escaped" in capsys.readouterr().out
    assert opensama([*asked, "--csv-dialect", "excel", "--overwrite"]) == 0
    assert next(iter_records(folder.parent / "x.jsonl")).instruction == 'Write \\Hello 1\\" on the sign."'
    assert opensama([*asked, "--csv-dialect", "sprak", "--overwrite"]) == 2
    assert "'sprak' is no part of a CSV dialect" in capsys.readouterr().err


def test_a_path_keeps_its_backslashes_where_they_escape_nothing(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('source,instruction\n"clips\\new\\a.mp4","Write \\"a\\""\nclips\\b.mp4,\\N\n')
    assert read(path)[0] == {"source": "clips\\new\\a.mp4", "instruction": 'Write "a"'}
    path.write_text('source,instruction\n"clips\\a\\","Make it ""red"""\n"clips\\b\\",Go\n')
    assert read(path)[0] == {"source": "clips\\a\\", "instruction": 'Make it "red"'}, "RFC 4180 fits all rows"


def test_excel_says_what_separates(folder):
    (folder / "rows.csv").write_text('sep=;\nsource;target;instruction, long\ns1.png;t1.png;"Make it red, now"\n')
    _, (record,) = bring(folder, columns={"instruction": "instruction, long"})
    assert record.instruction == "Make it red, now"


def test_the_whole_file_tells_the_separator_not_its_first_line(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("source|target|what, where, when, how\na.mp4|b.mp4|Red\nc.mp4|d.mp4|Blue, then red\n")
    assert read(path)[1] == {"source": "c.mp4", "target": "d.mp4", "what_where_when_how": "Blue, then red"}


def test_tables_without_a_header_name_their_columns_by_number(folder):
    (folder / "rows.csv").write_text("s1.png,t1.png,Make it red\ns2.png,t2.png,Make it blue\n")
    with pytest.raises(UserError, match=r"column_1, column_2, column_3.*`columns`, as in target=NAME"):
        bring(folder)
    columns = {"source": "column_1", "target": "column_2", "instruction": "column_3"}
    _, records = bring(folder, columns=columns)
    assert [record.instruction for record in records] == ["Make it red", "Make it blue"]
    odd = Choice(columns=columns, dialect=dialect_of("header=yes"))
    with pytest.raises(UserError, match="no column column_1"):
        import_dataset("table", folder, folder.parent / "m.jsonl", odd)


def test_separators_behind_the_last_column(tmp_path):
    path = tmp_path / "t.csv"
    for text in ("a,b,\n1,2,\n3,4\n", "a,b\n1,2,,\n3,4,\n", "a,b,\n1,2\n\n,,\n3,4,,,\n"):
        path.write_text(text)
        assert read(path) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


@pytest.mark.parametrize(
    ("said", "reads"),
    [("auto", None), ("separator=; quote=single", (";", "'", "", None)), ("separator=tab", ("\t", '"', "", None)),
     ("spark", (",", '"', "\\", None)), ("separator=pipe escape=backslash header=no", ("|", '"', "\\", False))],
)  # fmt: skip
def test_dialects_as_people_name_them(said, reads):
    found = dialect_of(said)
    assert (found and (found.separator, found.quote, found.escape, found.header)) == reads
    for wrong in ("separator=ab", "quote=x", "escape=%", "header=maybe", "comma", "separator="):
        with pytest.raises(UserError, match="is no part of a CSV dialect"):
            dialect_of(wrong)


# --- one row's fault


def test_a_broken_row_of_text_is_its_own_fault(tmp_path):
    rows = [f"s{i}.mp4,t{i}.mp4,Make it {i}" for i in range(6)]
    rows[1] = 's1.mp4,t1.mp4,"Make it 1'  # never closed: it ends with its line
    rows[2] = "s2.mp4,t2.mp4"
    rows[4] = "s4.mp4,t4.mp4,Make it 4,and more"
    path = tmp_path / "t.csv"
    path.write_bytes(("source,target,instruction\n" + "\n".join(rows)).encode() + b"\ns6.mp4,t6.mp4,na\xefve\n")
    found = list(tables.table_rows(path))
    assert [row["instruction"] for _, row in found if isinstance(row, dict)] == [f"Make it {i}" for i in (0, 1, 3, 5)]
    assert [line for line, row in found if isinstance(row, BadRow)] == [4, 6, 8]
    assert "UTF-8" in found[-1][1].reason  # type: ignore[union-attr]
    path = tmp_path / "t.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 2\n{"a": "\xff"}\n' + b"[" * 100_000 + b'\n{"a": 3}\n')
    assert [row["a"] if isinstance(row, dict) else None for row in read(path)] == [1, None, None, None, 3]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ('[{"a": 1, "b": 0}, {"a": 2, "b": }, {"a": 3, "b": 0}]', [1, None, 3]),
        ('{"data": [\n{"a": 1, "b": 0},\n{"a": "x" "b": 0},\n{"a": 3, "b": 0}\n]}', [1, None, 3]),
        ('[{"a": 1, "b": 0}, {"a": 2, "b": 0},]', [1, 2]),
        ('[{"a": 1, "b": 0}, {"a": 2, "b": 0}, {"a": 3, "b', [1, 2, None]),
        ('[{"a": 1, "b": 0}, ', [1, None]),
    ],
)
def test_a_broken_row_of_a_list_is_its_own_fault(tmp_path, text, values):
    (tmp_path / "t.json").write_text(text)
    assert [row["a"] if isinstance(row, dict) else None for row in read(tmp_path / "t.json")] == values


def test_a_gzipped_table_and_one_that_is_cut_off(tmp_path):
    text = "source,target,instruction\n" + "".join(f"s{i}.mp4,t{i}.mp4,{i * 7919 % 10007}\n" for i in range(4000))
    packed = gzip.compress(text.encode())
    for name, data in (("t.csv.gz", packed), ("u.csv.gz", packed[: len(packed) // 2])):
        (tmp_path / name).write_bytes(data)
    assert len(read(tmp_path / "t.csv.gz")) == 4000
    half = read(tmp_path / "u.csv.gz")
    assert 1000 < len(half) < 3000
    assert [isinstance(row, BadRow) for row in half] == [False] * (len(half) - 1) + [True]


def table_of(count: int) -> pa.Table:
    said = [f"Make it {i:05}" for i in range(count)]
    names = [f"s{i % 5 + 1}.png" for i in range(count)]
    return pa.table({"source": names, "target": [name.replace("s", "t") for name in names], "instruction": said})


def test_a_damaged_page_takes_its_row_group_and_no_other(folder):
    path = folder / "t.parquet"
    pq.write_table(
        table_of(30), path, row_group_size=10, use_dictionary=False, compression="none", write_page_checksum=True
    )
    data = bytearray(path.read_bytes())
    place = data.index(b"Make it 00012")
    data[place + 9] ^= 255
    path.write_bytes(data)
    report, records = bring(folder, check="files")
    assert [int(record.instruction[-5:]) for record in records] == [*range(10), *range(20, 30)]
    assert (report.rows, dict(report.left_out)) == (30, {"broken row": 10})
    (listed,) = map(json.loads, report.list.read_text().splitlines())  # type: ignore[union-attr]
    assert (listed["line"], listed["rows"]) == (11, 10)
    assert "rows 11 to 20 cannot be read" in listed["why"]


def test_a_value_that_python_cannot_hold_is_one_rows_fault(tmp_path):
    texts = pa.array([b"red", b"\xff\xfe", b"blue"], pa.binary()).view(pa.string())
    times = pa.array([1, 2**60 + 1, -(2**62)], pa.timestamp("ns"))
    pq.write_table(pa.table({"instruction": texts, "made": times, "n": [1, 2, 3]}), tmp_path / "t.parquet")
    first, second, third = read(tmp_path / "t.parquet")
    assert (first["instruction"], first["n"], third["instruction"]) == ("red", 1, "blue")  # type: ignore[index]
    assert first["made"] == "1970-01-01 00:00:00.000000001"  # type: ignore[index]
    assert isinstance(second, BadRow)
    assert "column instruction cannot be read" in second.reason


@pytest.mark.parametrize("kind", ["file", "stream"])
def test_arrow_files_and_streams_whole_and_cut_off(tmp_path, kind):
    table, path = table_of(300), tmp_path / "data-00000-of-00001.arrow"
    opened = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
    with opened(path, table.schema) as writer:
        for batch in table.to_batches(100):
            writer.write_batch(batch)
    assert [row["instruction"] for row in read(path)] == table["instruction"].to_pylist()  # type: ignore[index]
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 5 // 8])
    rows = read(path)
    assert [row["instruction"] for row in rows[:-1]] == table["instruction"].to_pylist()[:100]  # type: ignore[index]
    assert isinstance(rows[-1], BadRow)


def test_columns_of_every_type(tmp_path):
    columns = {
        "source": pa.array(["a.mp4", "b.mp4"]).dictionary_encode(),
        "target": pa.array(["c.mp4", "d.mp4"], pa.large_string()),
        "prompts": pa.array([["Make it red", "Redden"], []], pa.list_(pa.string())),
        "meta": pa.array([[("fps", "8")], [("fps", "9")]], pa.map_(pa.string(), pa.string())),
        "size": pa.array([{"w": 4, "h": 3}, None], pa.struct([("w", pa.int32()), ("h", pa.int32())])),
        "view": pa.array(["x", "y"], pa.string_view()),
        "day": pa.array([1, None], pa.date32()),
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    first, second = read(tmp_path / "t.parquet")
    wanted = {"source": "a.mp4", "target": "c.mp4", "prompts": ["Make it red", "Redden"], "fps": "8", "w": 4, "h": 3}
    assert first.items() >= (wanted | {"view": "x", "day": "1970-01-02"}).items()  # type: ignore[union-attr]
    assert "w" not in second  # type: ignore[operator]


# --- names that collide


FEATURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def test_pictures_named_by_their_paths_alone_come_in_as_pairs(folder):
    def column(side: str) -> pa.Array:
        return pa.array([{"bytes": None, "path": f"{side}{k}.png"} for k in (1, 2, 3)], FEATURE)

    said = [f"Make it bright {k}." for k in (1, 2, 3)]
    pq.write_table(
        pa.table({"source_image": column("s"), "edited_image": column("t"), "instruction": said}), folder / "p.parquet"
    )
    _, records = bring(folder)
    assert [(r.kind, Path(r.source or "").name, Path(r.target).name, r.instruction) for r in records] == [
        ("pair", f"s{k}.png", f"t{k}.png", f"Make it bright {k}.") for k in (1, 2, 3)
    ]


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"source_video": {"path": "a.mp4"}, "edited_video": {"path": "b.mp4"}},
         {"source_video": "a.mp4", "edited_video": "b.mp4"}),
        ({"source": {"video": "a.mp4", "fps": 8}, "target": {"video": "b.mp4", "fps": 8}},
         {"source": "a.mp4", "target": "b.mp4", "fps": 8}),
        ({"a": {"instruction": None}, "b": {"instruction": "Make it red"}}, {"instruction": "Make it red"}),
        ({"a": {"instruction": ""}, "b": {"instruction": "Make it red"}}, {"instruction": "Make it red"}),
        ({"instruction": None, "b": {"instruction": "Make it red"}}, {"instruction": "Make it red"}),
        ({"b": {"instruction": "Make it blue"}, "instruction": "Make it red"}, {"instruction": "Make it red"}),
        ({"Edit Prompt": "", "edit-prompt": "Make it red"}, {"edit_prompt": "Make it red"}),
        ({"both": {"source": {"path": "a.mp4"}, "target": {"path": "b.mp4"}}}, {"source": "a.mp4", "target": "b.mp4"}),
        ({"images": [{"bytes": b"\xff\xd8\xff", "path": None}]}, {"images": Blob(b"\xff\xd8\xff", ".jpg")}),
        ({"video": {"bytes": b"\0\0\0\x18ftypmp42", "path": None}}, {"video": Blob(b"\0\0\0\x18ftypmp42", ".mp4")}),
    ],
)  # fmt: skip
def test_nested_names(row, wanted):
    found = normalized_row(row)
    assert found.items() >= wanted.items()
    if len(row) > 1 and "instruction" not in wanted:
        assert "path" not in found
        assert "video" not in found


# --- stand-ins and archives


@pytest.mark.parametrize("name", ["t.csv", "t.json", "t.jsonl", "t.parquet", "t.arrow"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123456\n",
            "Git LFS pointer to 123,456 bytes",
        ),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "is a web page"),
        (b"", "is empty"),
        (bytes(4096), "download was not finished"),
    ],
)
def test_what_stands_in_for_a_table_is_named(folder, name, content, said):
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        bring(folder / name)


def test_a_sheet_of_excel_is_named(folder):
    with zipfile.ZipFile(folder / "t.csv", "w") as sheet:
        sheet.writestr("xl/workbook.xml", "<workbook/>")
    with pytest.raises(UserError, match=r"is a ZIP archive, not the text.*save the sheet as CSV"):
        bring(folder / "t.csv")


def test_a_damaged_member_of_a_zip_is_its_own_fault(folder):
    rows = [f"in/s{k}.png,t{k}.png,Make it {k}\n" for k in (1, 2, 3)]
    (folder / "rows.csv").write_text("source,target,instruction\n" + "".join(rows))
    with zipfile.ZipFile(folder / "in.zip", "w") as archive:
        for number in (1, 2, 3):
            archive.writestr(f"in/s{number}.png", picture(60 + number))
    data = (folder / "in.zip").read_bytes()
    place = data.index(picture(62)) + 60
    (folder / "in.zip").write_bytes(data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :])
    report, records = bring(folder, unpack=folder.parent / "out")
    assert [record.instruction for record in records] == ["Make it 1", "Make it 3"]
    assert "in/s2.png in in.zip is damaged" in report.archives[0]
    (folder / "in.zip").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 99\n")
    report, _ = bring(folder, unpack=folder.parent / "out")
    assert report.archives == ["in.zip is a Git LFS pointer to 99 bytes: fetch the file itself with `git lfs pull`"]


def test_samples_of_a_tar_with_broken_and_missing_parts(tmp_path):
    said = json.dumps({"instruction": "Add a dog", "task": "subject_addition"}).encode()
    parts = {"1.0.png": picture(60), "2.png": picture(200), "json": said}
    samples = {
        "000": parts, "001": parts | {"json": b"{broken"}, "002": {k: v for k, v in parts.items() if k != "2.png"},
        "003": {k: v for k, v in parts.items() if k != "1.0.png"}, "004": parts,
    }  # fmt: skip
    (tmp_path / "set").mkdir()
    with tarfile.open(tmp_path / "set" / "0.tar", "w") as tar:
        for key, held in samples.items():
            for ending, data in held.items():
                entry = tarfile.TarInfo(f"{key}.{ending}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    choice = Choice(unpack=tmp_path / "out")
    report = import_dataset("x2edit", tmp_path / "set", tmp_path / "m.jsonl", choice)
    assert (report.kept, report.rows, dict(report.left_out)) == (2, 5, {"broken row": 3})
    why = [json.loads(line)["why"] for line in report.list.read_text().splitlines()]  # type: ignore[union-attr]
    assert "001.json is not JSON" in why[0]
    assert "002 has no 002.2" in why[1]
    assert "003 has no 003.1.0" in why[2]


def test_a_damaged_picture_is_one_rows_fault(folder):
    held = io.BytesIO()
    y, x = np.mgrid[:120, :160]
    Image.fromarray(np.stack([x % 256, y * 2, x - x + 90], -1).astype(np.uint8)).save(held, "JPEG", quality=95)
    (folder / "half.jpg").write_bytes(held.getvalue()[: len(held.getvalue()) // 2])
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4096\n"
    (folder / "lfs.png").write_bytes(pointer)
    rows = [f"s1.png,{name},Make it {name}\n" for name in ("t1.png", "half.jpg", "lfs.png")]
    (folder / "rows.csv").write_text("source,target,instruction\n" + "".join(rows))
    report, records = bring(folder)
    assert [record.instruction for record in records] == ["Make it t1.png"]
    assert report.left_out == {"unreadable file": 2}
    half, lfs = (json.loads(line)["why"] for line in report.list.read_text().splitlines())  # type: ignore[union-attr]
    assert "half.jpg is damaged" in half
    assert "lfs.png is a Git LFS pointer to 4,096 bytes" in lfs
