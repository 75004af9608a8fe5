"""Published layouts are read, and what is wrong in them is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from opensama.evaluation.benchmarks.benchmark import BenchmarkData
from opensama.evaluation.benchmarks.reco import RecoBench, parse_reco_line
from opensama.evaluation.benchmarks.registry import BENCHMARKS, read_benchmark
from opensama.evaluation.benchmarks.vie import vie_task
from opensama.evaluation.items import BenchmarkItem, Fault
from opensama.evaluation.metric_files import read_metric_file
from opensama.values import UserError
from tests.evaluation.benchmarks import MAKERS


def read(name: str, folder: Path) -> tuple[list[BenchmarkItem], list[Fault]]:
    data = read_benchmark(name, folder)
    return data.items, data.faults


def edits_of(name: str, items: list[BenchmarkItem], folder: Path) -> tuple[dict[str, Path], list[Fault]]:
    found, faults = BENCHMARKS[name].find_edits(items, folder, "somebody")
    return {item: path for item, path in found.items() if path is not None}, faults


@pytest.mark.parametrize("name", BENCHMARKS)
def test_layout_is_read_without_faults(name: str, tmp_path: Path) -> None:
    items, faults = read(name, MAKERS[name](tmp_path))
    assert faults == []
    assert all(item.source is not None and item.source.is_file() for item in items)
    assert len({item.id for item in items}) == len(items) > 1
    assert all(item.instruction and "<video1>" not in item.instruction for item in items)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_another_folder_is_said_to_be_another(name: str, tmp_path: Path) -> None:
    (tmp_path / "other.txt").touch()
    with pytest.raises(UserError):
        read(name, tmp_path)
    with pytest.raises(UserError, match="no folder"):
        read_benchmark(name, tmp_path / "nowhere")


def test_reco_line_splits_at_the_first_colon_and_then_at_a_bar() -> None:
    assert parse_reco_line("a.mp4: Add a clock: 5:30. | x/y.png") == ("a.mp4", "Add a clock: 5:30.", "x/y.png")
    assert parse_reco_line("b c.mp4:Remove it.") == ("b c.mp4", "Remove it.", "")
    assert parse_reco_line("no colon") is None
    assert parse_reco_line(": no file") is None


def test_reco_file_name() -> None:
    item = BenchmarkItem(
        "add-001", "add", "Add a red hat, then wait. At 5:30 it goes.", None, notes={"file": "v 1.mp4"}
    )
    assert RecoBench().edit_names(item) == ("v 1_Add_a_red_hat_then_wait_At_5 30_it_goes.mp4",)
    (long,) = RecoBench().edit_names(BenchmarkItem("x", "add", "word " * 40, None, notes={"file": "a.mp4"}))
    assert long == f"a_{('word_' * 40)[:80]}.mp4"


def test_reco_configs(tmp_path: Path) -> None:
    items, _ = read("reco", MAKERS["reco"](tmp_path))
    assert [item.id for item in items] == ["add-001", "remove-001", "replace-001", "style-001"]
    assert items[0].instruction == "Add a red hat, then wait. At 5:30 it goes."
    assert items[1].notes["reference_image"] == "refs/two.png"


def test_openve_paths_begin_above_the_folder(tmp_path: Path) -> None:
    items, _ = read("openve", MAKERS["openve"](tmp_path))
    assert items[0].id == "0000_global_style_make_it"
    assert items[0].source == tmp_path / "videos" / "0000_global_style_make_it.mp4"
    assert items[0].task == "global_style"


def test_vie_tasks() -> None:
    said = ("Object Swap", "colour change", "Add", "removal", "Style Change", "weather change", "hybrid edit")
    assert [vie_task(task) for task in said] == ["swap", "color", "add", "remove", "style", "tone", "hybrid"]
    assert [vie_task(task) for task in ("ref swap", "Reference-based Add")] == ["ref-swap", "ref-add"]


def test_holes_are_faults_and_no_end(tmp_path: Path) -> None:
    folder = MAKERS["vie"](tmp_path)
    rows = json.loads((folder / "vie.json").read_text())
    (folder / "sources/1.mp4").unlink()
    rows[2]["source_video"] = "../../secret.mp4"
    rows[3]["instruction"] = " "
    rows[4]["id"] = "v0"
    rows[5] = {"id": "v5", "wish": "none"}
    (folder / "vie.json").write_text(json.dumps(rows))
    items, faults = read("vie", folder)
    assert {item.id: item.source is not None for item in items} == {"v0": True, "v1": False, "v2": False}
    told = {fault.where: fault.reason for fault in faults}
    assert "sources/1.mp4" in told["v1"]
    assert "outside" in told["v2"]
    assert "no instruction" in told["v3"]
    assert "twice" in told["v0"]
    assert "none of the columns" in told["vie.json 5"]


def test_damaged_tables_are_named(tmp_path: Path) -> None:
    MAKERS["openve"](tmp_path)
    table = tmp_path / "benchmark_videos.csv"
    table.write_text("edited_kind;prompt;original_video\na;b;c\n")
    with pytest.raises(UserError, match="no column 'edited_type'"):
        read("openve", tmp_path)
    table.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="UTF-8"):
        read_benchmark("openve", tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        'edited_type,prompt,original_video\nadd,"Write \\"open, now\\" on it.",a.mp4\nx\nswap,Swap it.,b.mp4\n',
        'sep=;\nedited_type;prompt;original_video\nadd;"Write ""open, now"" on it.";a.mp4\nx\nswap;Swap it.;b.mp4\n',
        'edited_type\tprompt\toriginal_video\nadd\tWrite "open, now" on it.\ta.mp4\nx\nswap\tSwap it.\tb.mp4\n',
    ],
    ids=["spark", "excel", "tabs"],
)
def test_tables_of_any_dialect_are_read(text: str, tmp_path: Path) -> None:
    (tmp_path / "benchmark_videos.csv").write_text(text)
    for name in "ab":
        (tmp_path / f"{name}.mp4").touch()
    items, faults = read("openve", tmp_path)
    assert [(item.id, item.task, item.instruction, item.source is not None) for item in items] == [
        ("a", "add", 'Write "open, now" on it.', True),
        ("b", "swap", "Swap it.", True),
    ]
    (fault,) = faults
    assert fault.where.startswith("benchmark_videos.csv line ")
    assert "fields" in fault.reason


def test_edits_are_found_and_the_others_told(tmp_path: Path) -> None:
    items, _ = read("vie", MAKERS["vie"](tmp_path / "data"))
    edits = tmp_path / "edits"
    (edits / "deep").mkdir(parents=True)
    for name in ("v0_edited.mp4", "v1.mp4", "deep/v2_edited.mp4", "v3_editted.mp4", "notes.txt", "cat.mp4"):
        (edits / name).touch()
    found, faults = edits_of("vie", items, edits)
    assert {name: path.relative_to(edits).as_posix() for name, path in found.items()} == {
        "v0": "v0_edited.mp4",
        "v1": "v1.mp4",
        "v2": "deep/v2_edited.mp4",
    }
    told = {fault.where: fault.reason for fault in faults}
    assert "did you mean v3_edited.mp4" in told["v3_editted.mp4"]
    assert told["cat.mp4"] == "no item's edit is called so"
    assert "has no edit" in told["v4"]
    assert "notes.txt" not in told


def test_one_file_is_the_edit_of_one_item(tmp_path: Path) -> None:
    same = [BenchmarkItem(name, "add", "Add it.", None, notes={"file": "a.mp4"}) for name in ("add-001", "add-002")]
    (tmp_path / "a_Add_it.mp4").touch()
    found, faults = edits_of("reco", same, tmp_path)
    assert list(found) == ["add-001"]
    assert "edit of add-001" in faults[0].reason


def test_edits_of_tasks_in_folders_of_their_own(tmp_path: Path) -> None:
    same = [BenchmarkItem(f"{task}-001", task, "Do it.", None, notes={"file": "a.mp4"}) for task in ("add", "style")]
    for task in ("add", "style"):
        (tmp_path / task).mkdir()
        (tmp_path / task / "a_Do_it.mp4").touch()
    found, faults = edits_of("reco", same, tmp_path)
    assert found == {f"{task}-001": tmp_path / task / "a_Do_it.mp4" for task in ("add", "style")}
    assert faults == []


def test_editverse_edits_lie_beside_their_sources(tmp_path: Path) -> None:
    items, _ = read("editverse", MAKERS["editverse"](tmp_path / "data"))
    for name in ("0/generate.mp4", "0/video1.mp4", "1/generate.mp4"):
        (tmp_path / "edits" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "edits" / name).touch()
    found, faults = edits_of("editverse", items, tmp_path / "edits")
    assert found == {name: tmp_path / "edits" / name / "generate.mp4" for name in ("0", "1")}
    assert faults == []


def test_metric_files(tmp_path: Path) -> None:
    data = read_benchmark("ive", MAKERS["ive"](tmp_path / "data"))
    table = tmp_path / "measured.csv"
    table.write_text("src_video_name,vtss,Motion Fidelity,extra\nshort0.mp4,0.017,-1,9\nother.mp4,1,1,1\n")
    found, faults = read_metric_file(table, data)
    assert found == {"short-0": {"vtss": 0.017}}
    assert "other.mp4" in faults[0].reason
    with pytest.raises(UserError, match="only"):
        read_metric_file(table, BenchmarkData(BENCHMARKS["reco"], data.items, []))
