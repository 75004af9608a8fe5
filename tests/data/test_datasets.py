"""Each published dataset, small and real: its layout on disk is built here as it is published, and comes in whole."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from opensama.data import tables
from opensama.data.archives import Joined, find_archives
from opensama.data.datasets import DATASETS, find_dataset, task_name
from opensama.data.importing import Choice, ImportReport, import_dataset
from opensama.data.manifest import Record, iter_records, read_manifest_table
from opensama.data.samples import read_manifest
from opensama.media.video_io import read_video, write_video
from opensama.values import Progress, UserError, Video
from tests.pipeline.conftest import moving_picture


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> dict[str, bytes]:
    """Real files: two videos of 9 frames, one of 6, two pictures."""
    folder = tmp_path_factory.mktemp("clips")
    picture = moving_picture(t=9, h=32, w=48)
    for name, frames in {"a": picture, "b": picture[:, :, ::-1], "short": picture[:6]}.items():
        write_video(Video.from_frames(frames, 8), folder / f"{name}.mp4", on_note=lambda note: None)
    for name, frame in {"a": picture[0], "b": picture[5]}.items():
        Image.fromarray(frame).save(folder / f"{name}.png")
        Image.fromarray(frame).save(folder / f"{name}.jpg")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def lay(tmp_path, clips):
    """Lays a dataset out: a path, and the name of a clip, text, a table of dicts, or bytes. Gives the folder."""

    def lay(files: Mapping[str, object]) -> Path:
        root = tmp_path / "set"
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            elif isinstance(content, str) and content in clips:
                path.write_bytes(clips[content])
            elif isinstance(content, str):
                path.write_text(content, encoding="utf-8")
            elif path.suffix == ".jsonl":
                path.write_text("".join(json.dumps(row) + "\n" for row in content))
            else:
                path.write_text(json.dumps(content))
        return root

    return lay


def bring(name: str, root: Path, opens: bool = True, **choice) -> tuple[ImportReport, list[Record]]:
    out = root.parent / "manifest.parquet"
    report = import_dataset(name, root, out, Choice(**choice))
    records = list(read_manifest_table(out))
    assert len(records) == report.kept
    for record in records if opens else ():  # every path opens, and the manifest trains
        read_video(record.where(out.parent).target)
        assert record.source is None or read_video(record.where(out.parent).source)
    assert len(read_manifest(out).rows) == report.kept
    return report, records


def left_out(report: ImportReport) -> list[dict]:
    assert report.list is not None
    return [json.loads(line) for line in report.list.read_text().splitlines()]


DITTO = {
    "training_metadata/global_style.json": [
        {"source_path": "source/0000/x.mp4", "instruction": "Make it a watercolor.",
         "edited_path": "global_style1/0000/x_1.mp4"},
        {"source_path": "source/0000/y.mp4", "instruction": "Make it a sketch.",
         "edited_path": "global_style2/0000/y_1.mp4"},
    ],
    "training_metadata/local.json": [
        {"source_path": "source/0000/x.mp4", "instruction": "Make the ball blue.", "edited_path": "local/0281/x_3.mp4"},
    ],
    "csvs_for_DiffSynth/all.csv": "video,vace_video,prompt\nlocal/0281/x_3.mp4,source/0000/x.mp4,again\n",
}  # fmt: skip


def test_ditto_with_its_doubled_folders(lay):
    root = lay(DITTO | {
        "videos/source/source/0000/x.mp4": "a.mp4", "videos/source/source/0000/y.mp4": "a.mp4",
        "videos/global_style1/global_style1/0000/x_1.mp4": "b.mp4", "videos/global_style2/0000/y_1.mp4": "b.mp4",
        "videos/local/local/0281/x_3.mp4": "b.mp4",
    })  # fmt: skip
    report, records = bring("ditto", root)
    assert (report.rows, report.kept, report.list) == (3, 3, None)
    assert [record.task for record in records] == ["style", "style", "local-change"]
    assert records[0].source == "set/videos/source/source/0000/x.mp4"
    assert (records[0].width, records[0].height, records[0].frames, records[0].fps) == (48, 32, 9, 8)
    assert records[0].license == "CC BY-NC-SA 4.0"
    report, records = bring("Ditto-1M", root, tasks=("style",), hash=True)
    assert (report.kept, report.not_chosen) == (2, 1)
    assert len(records[0].hash) == 64


def test_ditto_by_its_diffsynth_tables(lay):
    root = lay({"csvs_for_DiffSynth/all.csv": DITTO["csvs_for_DiffSynth/all.csv"],
                "videos/local/0281/x_3.mp4": "b.mp4", "videos/source/0000/x.mp4": "a.mp4"})  # fmt: skip
    _, (record,) = bring("ditto", root)
    assert record.target.endswith("x_3.mp4"), "`video` is the edit"
    assert record.instruction == "again"


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_openve_with_any_separator_drops_frames_and_swaps_one_type(lay, separator):
    table = ["video", "original_video", "prompt"]
    rows = {
        "background_change": ["background_change/1.mp4", "background_change/1_src.mp4", "Make it a beach"],
        "subtitles": ["subtitles/2.mp4", "subtitles/2_src.mp4", '"Write ""hi"", below; there"'],
        "local_remove": ["local_remove/3.mp4", "local_remove/3_src.mp4", "Remove the ball"],
    }
    quoted = {name: [*row[:2], row[2] if row[2][0] == '"' else f'"{row[2]}"'] for name, row in rows.items()}
    root = lay(
        {f"{name}.csv": f"\ufeff{separator.join(table)}\n{separator.join(row)}" for name, row in quoted.items()}
        | {row[0]: "b.mp4" for row in rows.values()}
        | {f"videos/{row[1]}": "a.mp4" for row in rows.values()}
    )  # fmt: skip
    report, records = bring("openve", root, swap=("background",), drop_first=4, tasks=("background", "subtitle"))
    assert (report.kept, report.not_chosen) == (2, 1)
    by_task = {record.task: record for record in records}
    assert by_task["background"].source == "set/background_change/1.mp4"
    assert by_task["background"].notes["swapped"] == "yes"
    assert by_task["subtitle"].source == "set/videos/subtitles/2_src.mp4"
    assert by_task["subtitle"].instruction == 'Write "hi", below; there'
    for record in records:
        assert (record.frames, record.target_start, record.source_start) == (5, 0.5, 0.5)
    (row, _) = read_manifest(root.parent / "manifest.parquet").rows
    assert row.target_time == (0.5, None)


def test_reco_leaves_out_what_has_no_instruction(lay):
    rows = [
        {"src_video": "add/src_videos/x.mp4", "tar_video": "add/tar_videos/x.mp4", "instruction": "draft",
         "instruction_final_refine": "Add a dog."},
        {"src_video": "add/src_videos/x.mp4", "tar_video": "add/tar_videos/x.mp4", "instruction_final_refine": "none"},
    ]  # fmt: skip
    style = [{"src_video": "style/src_videos/x.mp4", "tar_video": "style/tar_videos/x-oil paint.mp4",
              "instruction_final_refine": "Oil paint."}]  # fmt: skip
    root = lay({"add/add_data_configs.json": rows, "add/src_videos/x.mp4": "a.mp4", "add/tar_videos/x.mp4": "b.mp4",
                "style/style_data_configs.json": style, "style/src_videos/x.mp4": "a.mp4",
                "style/tar_videos/x-oil paint.mp4": "b.mp4"})  # fmt: skip
    report, records = bring("reco", root)
    assert [(record.instruction, record.task) for record in records] == [("Add a dog.", "add"), ("Oil paint.", "style")]
    assert report.left_out == {"no instruction": 1}
    assert left_out(report)[0]["line"] == 2


def test_senorita_whose_folders_have_other_names(lay):
    root = lay({
        "style_transfer.json": [{"source_video_path": "./style_transfer/01/x_org.mp4",
                                 "target_video_path": "./style_transfer/01/x.mp4", "instruction": "Van Gogh"}],
        "filtered_obj_addition.json": [{"source_video_path": "./obj_removal_videos_upload/60/y.mp4",
                                        "target_video_path": "./obj_removal_videos_upload/60/y_org.mp4",
                                        "enhanced_instruction": "Add a cat", "instruction": "cat"}],
        "swap.json": [[{"source_video_path": "./obj_swap_videos/2/z_org.mp4", "instruction": "Swap it",
                        "target_video_path": "./obj_swap_videos/2/z.mp4"}]],
        "obj_swap_upload/2/z_org.mp4": "a.mp4", "obj_swap_upload/2/z.mp4": "b.mp4",
        "style_transfer_upload/01/x_org.mp4": "a.mp4", "style_transfer_upload/01/x.mp4": "b.mp4",
        "obj_removal_videos_upload2/60/y.mp4": "a.mp4", "obj_removal_videos_upload/60/y_org.mp4": "b.mp4",
    })  # fmt: skip
    _, records = bring("Señorita-2M", root)
    assert {(record.task, record.instruction) for record in records} == {
        ("style", "Van Gogh"), ("add", "Add a cat"), ("replace", "Swap it")}  # fmt: skip


def test_insvie_one_name_for_both_sides(lay):
    root = lay({
        "train_insvie_align.csv": "video,instruct\n"
                                  'pexel-static-7_1_2_3.mp4,"Make it red, all of it"\n'
                                  "magicbrush-2_0_0_1.mp4,Make it a dog\n",
        "source_1/pexel-static-7_1_2_3.mp4": "a.mp4", "edited_9/pexel-static-7_1_2_3.mp4": "b.mp4",
        "source/magicbrush-2_0_0_1.mp4": "a.mp4", "edited/magicbrush-2_0_0_1.mp4": "b.mp4",
    })  # fmt: skip
    _, records = bring("insvie", root)
    assert [(record.source, record.target, record.instruction) for record in records] == [
        ("set/source_1/pexel-static-7_1_2_3.mp4", "set/edited_9/pexel-static-7_1_2_3.mp4", "Make it red, all of it"),
        ("set/source/magicbrush-2_0_0_1.mp4", "set/edited/magicbrush-2_0_0_1.mp4", "Make it a dog"),
    ]


def test_insvie_as_its_loader_has_it(lay):
    """Five columns that go by their order, and a folder of the edit's."""
    root = lay({
        "InsViE.csv": 'name,caption,instruct,edit caption,folder\n'
                      'pexel_1.mp4,"a sea, blue",Make it red,a red sea,part_1\n',
        "source/pexel_1.mp4": "a.mp4", "edited/part_1/pexel_1.mp4": "b.mp4",
    })  # fmt: skip
    _, (record,) = bring("insvie", root)
    assert (record.source, record.target) == ("set/source/pexel_1.mp4", "set/edited/part_1/pexel_1.mp4")
    assert (record.instruction, record.caption) == ("Make it red", "a red sea")


def test_kiwi_and_sama_name_the_files_of_other_datasets(lay):
    root = lay({
        "video_edit_metadata/v.csv": "src_video,tgt_video,prompt,ref_image\n"
        "video/Ditto-1M/source/0/x.mp4,video/Ditto-1M/global_style1/0/x_1.mp4,Style it,\n"
        "video/reco_data/source/z.mp4,video/reco_data/target/z.mp4,Remove it,refs/1.jpg\n",
        "rows.jsonl": [{"original_video": "OpenVE-3M/local_change/s.mp4", "edited_video": "local_change/t.mp4",
                        "prompt": "Make it red", "type": "Local Change", "motion_score": 8.5}],
        "Ditto-1M/videos/source/source/0/x.mp4": "a.mp4", "Ditto-1M/videos/global_style1/0/x_1.mp4": "b.mp4",
        "ReCo-Data/remove/src_videos/z.mp4": "a.mp4", "ReCo-Data/remove/tar_videos/z.mp4": "b.mp4",
        "OpenVE-3M/videos/local_change/s.mp4": "a.mp4", "OpenVE-3M/videos/local_change/t.mp4": "b.mp4",
    })  # fmt: skip
    _, records = bring("kiwi", root)
    assert [record.task for record in records][:1] == ["style"]
    assert records[1].source == "set/ReCo-Data/remove/src_videos/z.mp4"
    assert records[1].notes["reference"] == "refs/1.jpg"
    _, (record,) = bring("sama", root, table="rows.jsonl")
    assert (record.task, record.scores, record.source) == (
        "local-change", {"motion_score": 8.5}, "set/OpenVE-3M/videos/local_change/s.mp4")  # fmt: skip


def test_sama_finds_media_in_other_folders(lay, tmp_path, clips):
    root = lay({"meta.parquet": b""})
    table = pa.table(
        {"src_video": ["source/0/x.mp4"], "tgt_video": ["global_style1/0/x.mp4"], "instruction": ["Style"]}
    )
    pq.write_table(table, root / "meta.parquet")
    for name, clip in {"source/0/x.mp4": "a.mp4", "global_style1/0/x.mp4": "b.mp4"}.items():
        path = tmp_path / "elsewhere" / "videos" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(clips[clip])
    with pytest.raises(UserError, match="No row of SAMA"):
        bring("sama", root)
    _, (record,) = bring("sama", root, media=(tmp_path / "elsewhere",))
    assert record.task == "style"


def test_paths_that_lead_out_of_the_folder_are_not_followed_and_the_sentence_says_how_to_mend_it(lay, tmp_path, clips):
    root = lay({"x.jsonl": [{"video": "../other/x.mp4", "text": "A ball."}]})
    (root.parent / "other").mkdir(exist_ok=True)
    (root.parent / "other" / "x.mp4").write_bytes(clips["a.mp4"])
    with pytest.raises(UserError, match=r"`\.\.` is not followed.*give the folder that holds other with `media`"):
        bring("table", root)
    _, (record,) = bring("table", root, media=(root.parent,))
    assert record.target.endswith("other/x.mp4")


def test_image_datasets(lay):
    root = lay({
        "train/metadata.jsonl": [{"sample_id": "s1", "source_file_name": "images/00/x.jpg", "category": "Remove",
                                  "edited_file_name": "images/00/y.jpg", "edit_instruction": "Remove the ball"}],
        "images/00/x.jpg": "a.jpg", "images/00/y.jpg": "b.jpg",
    })  # fmt: skip
    _, (record,) = bring("nhr-edit", root, drop_first=4)
    assert (record.media, record.task, record.frames, record.notes["id"]) == ("image", "remove", 1, "s1")
    shutil.rmtree(root)
    root = lay({
        "gpt-edit/hqedit/edit/metadata/hqedit_edit.json": [
            {"id": "1", "task": "edit", "input": "input/1.png", "output": "output/1.png", "instruction": "Redden"}],
        "gpt-edit/omniedit/background_swap/metadata/omniedit.json": [
            {"id": "1", "task": "background_swap", "input": "input/1.png", "output": "output/1.png",
             "instruction": "Sea"}],
        "gpt-edit/hqedit/edit/input/1.png": "a.png", "gpt-edit/hqedit/edit/output/1.png": "b.png",
        "gpt-edit/omniedit/background_swap/input/1.png": "a.png",
        "gpt-edit/omniedit/background_swap/output/1.png": "b.png",
    })  # fmt: skip
    _, records = bring("gpt-image-edit", root)
    assert [(record.task, record.instruction) for record in records] == [("other", "Redden"), ("background", "Sea")]
    assert records[1].source == "set/gpt-edit/omniedit/background_swap/input/1.png"
    shutil.rmtree(root)
    root = lay({
        "sft_with_local_source_image_path.jsonl": [
            {"open_image_input_url": "https://x/1_o.jpg", "local_input_image": "train_0/0e.jpg", "text": "Take it away",
             "output_image": "images/positive-edit/1.png", "edit_type": "Remove an existing object",
             "summarized_text": "Away"},
            {"open_image_input_url": "https://x/2_o.jpg", "text": "Make it a cartoon",
             "output_image": "images/positive-edit/2.png", "edit_type": "Strong artistic style transfer"}],
        "openimage_source_images/train_0/0e.jpg": "a.jpg", "flickr/2_o.jpg": "a.jpg",
        "nb/images/positive-edit/1.png": "b.png", "nb/images/positive-edit/2.png": "b.png",
    })  # fmt: skip
    _, records = bring("pico-banana", root)
    assert [(r.task, r.instruction) for r in records] == [("remove", "Take it away"), ("style", "Make it a cartoon")]


def test_pictures_within_a_table_are_taken_out(lay, tmp_path, clips):
    root = lay({"data/x.parquet": b""})
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    sides = {"source_image": {"bytes": clips["a.png"]}, "edited_image": {"bytes": clips["b.png"], "path": "b.png"}}
    rows = [sides | {"edit_instruction": text, "category": task} for text, task in [("Away", "Remove"), ("Dog", "Add")]]
    shape = pa.schema([("source_image", picture), ("edited_image", picture),
                       ("edit_instruction", pa.string()), ("category", pa.string())])  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, shape), root / "data/x.parquet")
    with pytest.raises(UserError, match="`unpack=FOLDER`"):
        bring("nhr-edit", root)
    _, (record,) = bring("nhr-edit", root, unpack=tmp_path / "out", tasks=("add",))
    assert record.instruction == "Dog"
    assert len(list((tmp_path / "out").rglob("*.png"))) == 2


def test_koala_clips_cut_or_by_their_times(lay):
    root = lay({
        "Koala_36M_1.csv": "videoID,url,timestamp,caption,clarity_score,video_training_suitability_score\n"
        "abc_7,https://x,\"['0:00:00.000', '0:00:01.000']\",a ball,0.9,4.5\n"
        "def_12,https://x,\"['0:00:00.500', '0:00:01.000']\",a box,0.8,3.5\n",
        "videos/abc_7.mp4": "a.mp4", "raw/deep/def.mp4": "b.mp4",
    })  # fmt: skip
    _, (cut, whole) = bring("koala", root)
    assert (cut.kind, cut.caption, cut.target_start, cut.frames) == ("clip", "a ball", None, 9)
    assert cut.scores == {"clarity_score": 0.9, "video_training_suitability_score": 4.5}
    assert (whole.target_start, whole.target_end, whole.frames) == (0.5, 1.0, 4)


def test_motionbench(lay):
    root = lay({
        "MotionBench/video_info.meta.jsonl": [
            {"key": "k1", "video_path": "x.mp4", "video_info": {"resolution": {}, "caption": "it jumps"}, "qa": []}],
        "MotionBench/public-dataset/x.mp4": "a.mp4",
    })  # fmt: skip
    _, (record,) = bring("motionbench", root)
    assert (record.kind, record.caption) == ("clip", "it jumps")
    shutil.rmtree(root)
    root = lay({
        "MotionBenchCaption-train/train.jsonl": [{"video_path": "1.mp4", "motion_caption": "He waves, then sits."}],
        "MotionBenchCaption-train/videos/1.mp4": "a.mp4",
    })  # fmt: skip
    for folder in (root, root / "MotionBenchCaption-train"):
        _, (record,) = bring("motionbench", folder)
        assert record.caption == "He waves, then sits."
        (folder.parent / "manifest.parquet").unlink()


def tar_of(files: Mapping[str, bytes], mode: str = "w") -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode=mode) as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return held.getvalue()


def split(data: bytes, n: int) -> list[bytes]:
    step = -(-len(data) // n)
    return [data[i : i + step] for i in range(0, len(data), step)]


def test_x2edit_within_its_tars_also_when_a_name_comes_twice(lay, tmp_path, clips):
    def sample(text: str) -> dict[str, bytes]:
        said = json.dumps({"instruction": text, "task": "subject_addition"}).encode()
        return {"000.1.0.jpg": clips["a.jpg"], "000.2.jpg": clips["b.jpg"], "000.json": said, "000.txt": b"x"}

    both = tar_of(sample("Add a dog")) + tar_of(sample("Add a cat"))  # one laid behind the other
    root = lay({"X2Edit_data/kontext/0/0.tar": both})
    with pytest.raises(UserError, match="`unpack=FOLDER`"):
        bring("x2edit", root)
    _, records = bring("x2edit", root, unpack=tmp_path / "out")
    assert [(record.instruction, record.task) for record in records] == [("Add a dog", "add"), ("Add a cat", "add")]
    assert len({record.target for record in records}) == len({record.id for record in records}) == 2
    shutil.rmtree(root)
    root = lay({f"X2Edit_data/bagel/0/0/{name}": data for name, data in sample("Add a fox").items()})
    _, (record,) = bring("x2edit", root)
    assert record.instruction == "Add a fox"


@pytest.mark.parametrize(
    "names",
    [("x.tar.gz.aa", "x.tar.gz.ab", "x.tar.gz.ac"), ("x.tar.gz.part-00", "x.tar.gz.part-01", "x.tar.gz.part-02"),
     ("x.tar.gz.part-9", "x.tar.gz.part-10", "x.tar.gz.part-11"), ("x.zip.001", "x.zip.002", "x.zip.003"),
     ("x.tar.part_aa", "x.tar.part_ab", "x.tar.part_ac"), ("x.zip",), ("x.tgz",)],
)  # fmt: skip
def test_split_archives_give_what_chosen_rows_need_and_no_more(lay, tmp_path, clips, names):
    held = {
        "source/0000/x.mp4": clips["a.mp4"], "source/0000/y.mp4": clips["a.mp4"],
        "source/0000/other.mp4": clips["b.mp4"], "../../evil.mp4": b"evil",
    }  # fmt: skip
    if ".zip" in names[0]:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in held.items():
                archive.writestr(name, data)
        data = buffer.getvalue()
    else:
        data = tar_of(held, "w" if ".tar.part" in names[0] else "w:gz")
    parts = split(data, len(names))
    if names[0].endswith("-9"):  # as if parts 0 to 8 were empty
        parts = [b""] * 9 + parts
        names = (*(f"x.tar.gz.part-{i}" for i in range(9)), *names)
    root = lay(
        DITTO
        | {f"videos/source/{name}": part for name, part in zip(names, parts, strict=True)}
        | {"videos/global_style1/0000/x_1.mp4": "b.mp4", "videos/global_style2/0000/y_1.mp4": "b.mp4"}
    )
    with pytest.raises(UserError, match=r"no source file 2.*Archives not looked into: 1; give `unpack=FOLDER`"):
        bring("ditto", root, tasks=("style",))
    report, records = bring("ditto", root, tasks=("style",), unpack=tmp_path / "out")
    assert (report.kept, report.unpacked, report.archives) == (2, 2, [])
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.mp4")) == ["x.mp4", "y.mp4"]
    assert records[0].source == "out/videos/source/source/0000/x.mp4"
    report, _ = bring("ditto", root, tasks=("style",), unpack=tmp_path / "out")
    assert report.unpacked == 0, "what is there stays"


def test_archives_that_are_cut_off_or_lack_a_part(lay, tmp_path, clips):
    held = {f"source/0000/{name}.mp4": clips["a.mp4"] + bytes(i * 200_000) for i, name in enumerate("xy")}
    parts = split(tar_of(held), 6)
    edits = {"videos/global_style1/0000/x_1.mp4": "b.mp4", "videos/global_style2/0000/y_1.mp4": "b.mp4"}
    kept = {i: part for i, part in enumerate(parts) if i != 4}
    root = lay(DITTO | edits | {f"videos/source/s.tar.a{'abcdef'[i]}": part for i, part in kept.items()})
    report, records = bring("ditto", root, tasks=("style",), unpack=tmp_path / "out")
    assert len(records) == 1, "what lies before the gap is there"
    assert "a part before s.tar.af is missing" in report.archives[0]
    assert report.left_out == {"no source file": 1}
    shutil.rmtree(root)
    root = lay(DITTO | edits | {"videos/source/s.tar.gz": b"\x1f\x8b garbage", "videos/source/t.zip": b"no zip"})
    with pytest.raises(UserError, match="No row of Ditto"):
        bring("ditto", root, unpack=tmp_path / "out2")


def test_parts_read_as_one_file(tmp_path):
    data = bytes(range(256)) * 40
    for i, part in enumerate(split(data, 7)):
        (tmp_path / f"x.zip.{i + 1:03}").write_bytes(part)
    (archive,) = find_archives(tmp_path)
    with io.BufferedReader(Joined(archive.parts), 64) as joined:
        assert joined.read() == data
        joined.seek(-300, 2)
        assert joined.read(10) == data[-300:-290]
        joined.seek(5)
        assert joined.read(6000) == data[5:6005]


def test_missing_and_broken_files_are_counted_and_listed(lay, clips):
    rows = "source;target;instruction\n" + "".join(f"s/{n}.mp4;t/{n}.mp4;Make it {n}\n" for n in "abcdefg")
    rows += "s/a.mp4;t/a.mp4\n" + "s/a.mp4;;No target\n" + "s/a.mp4;t/a.mp4;\n"
    root = lay(
        {"rows.csv": rows, "t/c.mp4": b"", "t/d.mp4": b"this is no video", "t/e.mp4": clips["a.mp4"][:900]}
        | {f"s/{n}.mp4": "a.mp4" for n in "acdefg"}
        | {"t/a.mp4": "b.mp4", "t/b.mp4": "b.mp4", "t/g.mp4": "short.mp4"}
    )
    report, records = bring("table", root)
    assert [record.instruction for record in records] == ["Make it a", "Make it g"]
    assert report.rows == 10
    assert report.left_out == {"no source file": 1, "empty file": 1, "unreadable file": 2, "no target file": 1,
                               "broken row": 2, "no instruction": 1}  # fmt: skip
    listed = left_out(report)
    assert [row["line"] for row in listed] == [3, 4, 5, 6, 7, 9, 10, 11]
    assert "is not a video" in listed[2]["why"]
    assert (records[1].frames, records[1].notes["source_frames"], report.unlike) == (6, "9", 1)
    report, records = bring("table", root, opens=False, check="files", limit=3)
    assert [record.instruction for record in records] == ["Make it a", "Make it d", "Make it e"], "not opened"
    assert records[0].frames is None


def test_what_stops_an_import_leaves_nothing(lay, tmp_path):
    rows = "source,target,instruction\n" + "s.mp4,t.mp4,Make it red\n" * 3000
    root = lay({"rows.csv": rows, "s.mp4": "a.mp4", "t.mp4": "b.mp4"})

    def stop(progress: Progress) -> None:
        assert progress.total >= progress.done > 0
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_dataset("table", root, tmp_path / "m.parquet", Choice(check="files"), progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize(
    "text",
    ['a,b\n"1\n2",3\n4,5', 'a;b\r\n"1\n2";3\r\n4;5\r\n', '[{"a": "1\\n2", "b": 3}, {"a": 4, "b": 5}]'],
)
def test_tables_of_any_kind_hold_the_same_rows(tmp_path, text):
    path = tmp_path / ("t.json" if text[0] == "[" else "t.csv")
    path.write_text(text)
    found = [{key: str(value) for key, value in row.items()} for _, row in tables.table_rows(path)]
    assert found == [{"a": "1\n2", "b": "3"}, {"a": "4", "b": "5"}]


def test_tables_of_odd_forms(tmp_path):
    def rows(name: str, text: str) -> list[object]:
        (tmp_path / name).write_text(text)
        return [row for _, row in tables.table_rows(tmp_path / name)]

    assert rows("b.json", '{"k1": {"Source Video": "a", "b": 1}, "k2": {"Source Video": "c", "b": 2}}') == [
        {"id": "k1", "source_video": "a", "b": 1}, {"id": "k2", "source_video": "c", "b": 2}]  # fmt: skip
    assert rows("c.json", '{"a": 1, "b": 2}\n{"a": 3, "b": 4}\n') == [{"a": 1, "b": 2}, {"a": 3, "b": 4}]
    assert rows("d.txt", "a\tb\n1\t2\n") == [{"a": "1", "b": "2"}]
    assert [type(row).__name__ for row in rows("e.jsonl", '{"a": 1}\n{"a": \n[1]\n')] == ["dict", "BadRow", "BadRow"]
    (tmp_path / "f.csv").write_bytes(b"a,b\n\xff\xfe,1\n2,3\n")
    bad, good = (row for _, row in tables.table_rows(tmp_path / "f.csv"))
    assert ("not text in UTF-8" in bad.reason, good) == (True, {"a": "2", "b": "3"})


def test_columns_may_be_named(lay):
    root = lay({"t.json": {"rows": [{"before": "a.mp4", "after": "b.mp4", "words": "Do it", "what": "Object removal"}]},
                "a.mp4": "a.mp4", "b.mp4": "b.mp4"})  # fmt: skip
    columns = {"source": "before", "target": "after", "instruction": "words", "task": "what"}
    _, (record,) = bring("table", root / "t.json", columns=columns)
    assert (record.instruction, record.task, record.dataset) == ("Do it", "remove", "t")
    with pytest.raises(UserError, match="no column nowhere"):
        bring("table", root, columns=columns | {"caption": "nowhere"})
    with pytest.raises(UserError, match="There is no column 'sauce'"):
        Choice(columns={"sauce": "x"})


def test_what_cannot_be_done_is_said(lay, tmp_path):
    with pytest.raises(UserError, match="There is no dataset 'dito'"):
        find_dataset("dito")
    with pytest.raises(UserError, match="There is no folder"):
        bring("ditto", tmp_path / "nowhere")
    root = lay({"readme.md": "hello"})
    with pytest.raises(UserError, match="has no table of ReCo-Data"):
        bring("reco", root)
    with pytest.raises(UserError, match="There is no task 'stile'"):
        Choice(tasks=("stile",))
    root = lay({"rows.csv": "source,target,instruction\n", "x.json": "{not json"})
    with pytest.raises(UserError, match="its tables are empty"):
        bring("table", root, table="*.csv")
    with pytest.raises(UserError, match="is not JSON"):
        bring("table", root, table="*.json")
    with pytest.raises(UserError, match="is written as"):
        import_dataset("table", root, tmp_path / "x.csv")
    assert not list(tmp_path.glob("x.*"))


def test_jsonl_comes_out_too(lay, tmp_path):
    root = lay({"rows.tsv": "clip\tcaption\na.mp4\ta ball\n", "a.mp4": "a.mp4"})
    import_dataset("table", root, tmp_path / "m.jsonl")
    (record,) = iter_records(tmp_path / "m.jsonl")
    assert (record.kind, record.caption) == ("clip", "a ball")
    (row,) = read_manifest(tmp_path / "m.jsonl").rows
    assert (row.text, row.size) == ("a ball", (48, 32, 9))


@pytest.mark.parametrize(
    ("said", "task"),
    [("Add a new object to the scene", "add"), ("obj_removal_videos_upload", "remove"), ("global_style1", "style"),
     ("Change background", "background"), ("change_color", "recolor"), ("style_transfer_upload", "style"),
     ("local_style_transfer_upload", "local-change"), ("outpainting", "outpaint"), ("Subtitles", "subtitle"),
     ("controlable_videos_upload", "control"), ("zzz", "other"), ("", "other"), ("Add film grain filter", "style"),
     ("address", "other"), ("local-change", "local-change")],
)  # fmt: skip
def test_task_names(said, task):
    assert task_name(said) == task


def test_every_dataset_says_what_it_is():
    assert len({dataset.name for dataset in DATASETS}) == len(DATASETS) == 14
    for dataset in DATASETS:
        assert dataset.holds
        assert dataset.licence or dataset.name == "table"
