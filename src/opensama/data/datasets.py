"""The published datasets: how each lies on disk, what its columns mean, and what its licence allows.

A `Dataset` is data: which files are its tables, where its media lie, which of its names mean what. `drafts` reads the
rows of any of them into one form; `importing.py` finds the files and writes the manifest.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from opensama.data import tables
from opensama.data.dialects import Dialect
from opensama.data.manifest import EDIT_TASKS, read_manifest_table
from opensama.data.rows import BadRow, Blob, TableRow, name_of, text_of
from opensama.values import UserError

LEFT_OUT = ".left-out.jsonl"  # the ending of a list of rows that did not come in
_BESIDE = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
Media = tuple[str, ...] | Blob  # paths that may be meant, the likelier first, or the picture itself

_SOURCE = (
    "source", "source_path", "src_video", "original_video", "vace_video", "source_video_path", "source_video",
    "input_video", "source_image", "input_image", "local_input_image", "source_file_name", "src_image", "src_img",
    "source_file", "original_image", "input",
)  # fmt: skip
TARGET = (
    "target", "edited_path", "tar_video", "tgt_video", "target_video_path", "edited_video", "target_video",
    "output_video", "edited_image", "output_image", "target_image", "edited_file_name", "tgt_image", "tgt_img",
    "edited_file", "output", "video_path", "clip", "video", "path", "file",
)  # fmt: skip
_INSTRUCTION = (
    "instruction", "instruction_final_refine", "prompt", "instruct", "edit_prompt", "edit_instruction",
    "enhanced_instruction", "text", "summarized_text",
)  # fmt: skip
CAPTION = ("caption", "edit_caption", "target_prompt", "description", "text", "prompt", "input_description")
TYPE = ("edited_type", "edit_type", "task", "task_type", "type", "category")
_ID = ("id", "iid", "sample_id", "uid", "key", "videoid", "video_id")
REFERENCE = ("ref_image", "ref_img", "reference", "reference_image")


@dataclass(frozen=True)
class Dataset:
    """A published dataset. `tables` are patterns in its folder, alternatives in the order in which they are tried."""

    name: str
    title: str
    licence: str
    holds: str  # in a few words
    tables: tuple[tuple[str, ...], ...]
    kind: Literal["clip", "pair"] = "pair"
    bases: tuple[str, ...] = ()
    header: tuple[str, ...] | None = None
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # before the usual names
    renames: Mapping[str, str] = field(default_factory=dict)
    shape: Callable[[TableRow, Path], TableRow] = lambda row, table: row  # a row as the columns above have it
    by_name: bool = False  # a file may be found by its name alone
    sides: Mapping[str, str] = field(default_factory=dict)  # what folders of source and target are called then
    packed: bool = False  # rows may lie inside of tar files: pictures and a .json each


@dataclass(frozen=True, slots=True)
class Draft:
    """A row as its table says it, nothing looked up yet."""

    table: Path
    line: int
    target: Media
    source: Media | None = None
    whole: Media = ()  # in place of a target that is not there: the uncut video, from `start` to `end`
    start: float | None = None
    end: float | None = None
    instruction: str = ""
    caption: str = ""
    task: str = ""
    type: str = ""  # the task in the dataset's own words
    scores: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)


def find_dataset(name: str) -> Dataset:
    """The dataset of that name. UserError lists the names there are."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    for dataset in DATASETS:
        if plain in (dataset.name, dataset.title.lower()):
            return dataset
    if Path(name).is_file():
        raise UserError(f"{name} is a table: bring it in with `opensama data import table {name}`.")
    raise UserError(
        f"There is no dataset {name!r}: choose one of {', '.join(d.name for d in DATASETS)} (table: any CSV, JSON, "
        "JSONL, Parquet or Arrow), as `opensama data import --list` explains them."
    )


def find_tables(dataset: Dataset, folder: Path, pattern: str | None = None) -> list[Path]:
    """The dataset's tables in a folder, or those that a pattern names. UserError if there are none."""
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}: give the folder that {dataset.title} was downloaded into.")
    for patterns in ((pattern,),) if pattern else dataset.tables:
        found = {path for each in patterns for path in folder.glob(each) if path.is_file()}
        found = {path for path in found if tables.is_table(path) and not is_no_table(path)}
        if found:
            return sorted(found)
    wanted = pattern or " or ".join(", ".join(patterns) for patterns in dataset.tables)
    raise UserError(
        f"{folder} has no table of {dataset.title} ({wanted}): give its top folder, or name the table with `table`."
    )


def is_no_table(path: Path) -> bool:
    """Whether a file is what an import wrote, hidden, or what `datasets` keeps beside its tables."""
    if path.name.startswith(".") or path.name.endswith(LEFT_OUT) or path.name in _BESIDE:
        return True
    if path.suffix == ".parquet":
        try:
            read_manifest_table(path)
        except UserError:
            return False
        return True
    return False


def drafts(
    dataset: Dataset, table: Path, columns: Mapping[str, str] | None = None, dialect: Dialect | None = None
) -> Iterator[tuple[int, Draft | BadRow]]:
    """The rows of a table. `columns` says which column is source, target, instruction, caption or task; `dialect` how
    a CSV is read, by default as its content tells."""
    for line, row in tables.table_rows(table, dataset.header, dialect):
        yield line, row if isinstance(row, BadRow) else draft(dataset, row, table, line, columns)


def draft(
    dataset: Dataset, row: TableRow, table: Path, line: int, columns: Mapping[str, str] | None = None
) -> Draft | BadRow:
    """One row of a dataset's table in the common form."""
    row = dataset.shape(dict(row), table)
    named = {key: (name_of(column),) for key, column in (columns or {}).items()}

    def first(key: str, usual: Sequence[str]) -> object:
        names = named.get(key) or (*dataset.columns.get(key, ()), *usual)
        return next((row[name] for name in names if name in row and (text_of(row[name]) or _is_media(row[name]))), "")

    absent = [column for column in (columns or {}).values() if name_of(column) not in row]
    if absent:
        return BadRow(f"the row has no column {absent[0]}")
    target, source = media_of(first("target", TARGET)), media_of(first("source", _SOURCE))
    kind = dataset.kind if dataset.name != "table" else "pair" if source else "clip"
    if not target or (kind == "pair" and not source):
        side = "source" if target else "target"
        return BadRow(
            f"the row names no {side} (it has {', '.join(row)}): say which it is with `columns`, as in {side}=NAME"
        )
    said = text_of(first("task", TYPE))
    places = (said, table.stem, *_folders(target), *_folders(source or ()), table.parent.name)
    found = next((t for t in map(task_name, places) if t != "other"), "other")
    notes = {"id": text_of(first("id", _ID)), "type": said, "reference": text_of(first("reference", REFERENCE))}
    instruction = text_of(first("instruction", _INSTRUCTION)) if kind == "pair" else ""
    return Draft(
        table,
        line,
        target,
        source if kind == "pair" else None,
        whole=media_of(row.get("whole", "")),
        start=number(row.get("start")),
        end=number(row.get("end")),
        instruction=instruction,
        caption=text_of(first("caption", CAPTION[:4] if kind == "pair" else CAPTION)),
        task=found if kind == "pair" else "",
        type=said,
        scores={key: value for key in row if "score" in key and (value := number(row[key])) is not None},
        notes={key: value for key, value in notes.items() if value},
    )


def media_of(value: object) -> Media:
    """Paths that a cell may mean, or the picture in it."""
    if isinstance(value, Blob):
        return value
    if isinstance(value, tuple):
        return tuple(part for part in map(text_of, value) if part)
    said = text_of(value)
    return (said,) if said else ()


def _is_media(value: object) -> bool:
    return isinstance(value, (Blob, tuple))


def _folders(media: Media) -> Sequence[str]:
    """The folders of a path, the nearest first."""
    return () if isinstance(media, Blob) or not media else media[0].replace("\\", "/").split("/")[-2::-1]


def number(value: object) -> float | None:
    """A number, or None for what is none."""
    try:
        found = float(str(value))
    except ValueError:
        return None
    return found if found == found and abs(found) != float("inf") and not isinstance(value, bool) else None


# --- what an edit does, in one vocabulary


def task_name(said: str) -> str:
    """One of EDIT_TASKS for a dataset's own word or phrase; `other` for what is not understood."""
    name = name_of(said)
    if name.replace("_", "-") in EDIT_TASKS:
        return name.replace("_", "-")
    words = f"_{name}_"
    return next((task for task, pattern in _WORDS if re.search(pattern, words)), "other")


_WORDS: tuple[tuple[str, str], ...] = (  # the first that fits
    ("other", r"_sim2real|_freeform"),
    ("outpaint", r"outpaint|zoom_out"),
    ("inpaint", r"inpaint"),
    ("local-change", r"local_style"),
    ("style", r"styl|_film_|vintage|_filter_|artistic|cartoon|anime|sketch|_tone"),
    ("subtitle", r"subtitle|_text|_font|caption_edit|typograph"),
    ("camera", r"_camera|viewpoint|perspective|_zoom|_angle"),
    ("remove", r"_remov|delet|eras"),
    ("add", r"^_add_|^_insert_"),
    ("background", r"background|_env_|environment|weather|season|_scene|_sky|_global_change|change_global"),
    ("replace", r"replac|_swap|substitut|_turn_"),
    ("add", r"_add_|addition|_insert"),
    ("recolor", r"colou?r"),
    ("motion", r"motion|_action|_pose|_move|relocat|movement"),
    ("local-change", r"_local|attribut|material|_size|shape|expression|cloth|hair|transform_local|_alter"),
    ("creative", r"creativ|complex|hybrid"),
    ("reference", r"subject_driven|referenc|subject_generation"),
    ("control", r"_contro|canny|depth"),
    ("grounding", r"ground|segment"),
)


# --- shapes of single datasets


def _insvie(row: TableRow, table: Path) -> TableRow:
    """One name for both sides, which only their folders tell apart."""
    name = text_of(row.get("video") or row.get("source_name"))
    if name and not name.endswith(".mp4"):
        name += ".mp4"
    folder = text_of(row.get("edit_folder"))
    if name:
        within = (f"{folder}/{name}", name) if folder else (name,)
        row["source"] = (f"source/{name}", f"source_videos/{name}")
        row["target"] = tuple(f"{side}/{place}" for side in ("edited", "edited_videos") for place in within)
        row["id"] = name
    return row


def _koala(row: TableRow, table: Path) -> TableRow:
    """Cut clips are called by the row's id; a whole video by the id without its last number."""
    name = text_of(row.get("videoid") or row.get("video_id"))
    if name:
        whole = re.sub(r"_\d+$", "", name)
        row["target"] = (f"{name}.mp4", f"videos/{name}.mp4", f"{name}/video.mp4")
        row["whole"] = (f"{whole}.mp4", f"videos/{whole}.mp4")
    times = [seconds for part in re.findall(r"[\d:.]+", text_of_list(row.get("timestamp"))) if
             (seconds := clock(part)) is not None]  # fmt: skip
    if len(times) == 2 and times[0] < times[1]:
        row["start"], row["end"] = times
    return row


def text_of_list(value: object) -> str:
    """A list as it would be printed, text as it is."""
    return value if isinstance(value, str) else "" if value is None else str(value)


def clock(said: str) -> float | None:
    """Seconds of `0:01:02.5` or `62.5`."""
    total = 0.0
    for part in said.split(":"):
        seconds = number(part)
        if seconds is None:
            return None
        total = 60 * total + seconds
    return total


def _motionbench(row: TableRow, table: Path) -> TableRow:
    name = text_of(row.get("key"))
    said = text_of(row.get("video_path")) or name
    folders = ("videos", "self-collected", "public-dataset")
    row["target"] = (said, *(f"{folder}/{said}" for folder in folders), *([f"{name}.mp4"] if name else []))
    return row


def _pico(row: TableRow, table: Path) -> TableRow:
    """The source is another collection's picture: mapped to a local file, or known by the end of its address."""
    url = text_of(row.get("open_image_input_url"))
    if not text_of(row.get("local_input_image")) and url:
        row["source"] = (url.rpartition("/")[2],)
    return row


def _x2edit(row: TableRow, table: Path) -> TableRow:
    """Unpacked samples: NAME.1.0.jpg, NAME.2.jpg and NAME.json, which is the table of one row."""
    if not _is_media(row.get("source")) and table.suffix == ".json":
        row["source"], row["target"] = (f"{table.stem}.1.0.jpg",), (f"{table.stem}.2.jpg",)
    return row


_ANY = ("**/*.csv", "**/*.tsv", "**/*.jsonl", "**/*.ndjson", "**/*.json", "**/*.parquet", "**/*.arrow", "**/*.gz")

DATASETS: tuple[Dataset, ...] = (
    Dataset(
        "ditto", "Ditto-1M", "CC BY-NC-SA 4.0", "1M video edits: style, free form, local",
        (("training_metadata/*.json",), ("csvs_for_DiffSynth/*.csv",), _ANY), bases=("videos",),
    ),
    Dataset(
        "openve", "OpenVE-3M", "CC BY-NC 4.0", "3M video edits of eight types",
        (("*.csv", "csv_files/*.csv"), _ANY), bases=("videos", "data"),
    ),
    Dataset(
        "reco", "ReCo-Data", "not stated (its benchmark: CC BY-NC-SA 4.0)",
        "500K video edits: add, remove, replace, style",
        (("*/*_data_configs.json", "*_data_configs.json"), _ANY), bases=("add", "remove", "replace", "style"),
        columns={"instruction": ("instruction_final_refine",)},
    ),
    Dataset(
        "senorita", "Senorita-2M", "non-commercial", "2M video edits of 18 tasks",
        (("*.json",), _ANY),
        columns={"instruction": ("enhanced_instruction",)},
        renames={name: f"{name}_upload" for name in (
            "style_transfer", "local_style_transfer", "obj_swap", "inpainting", "grounding", "controlable_videos")}
        | {"obj_removal": "obj_removal_videos_upload", "obj_removal_videos": "obj_removal_videos_upload",
           "obj_removal_videos_upload": "obj_removal_videos_upload2", "obj_swap_videos": "obj_swap_upload"},
    ),
    Dataset(
        "insvie", "InsViE-1M", "CC BY 4.0", "1M video edits of 25 frames",
        (("train*.csv",), ("*.csv",), _ANY), bases=("videos", "data"), shape=_insvie, by_name=True,
        sides={"source": r"source|src|orig", "target": r"edit"},
        header=("source_name", "source_caption", "instruct", "edit_caption", "edit_folder"),
        columns={"caption": ("edit_caption",)},
    ),
    Dataset(
        "kiwi", "Kiwi-Edit mixtures", "that of the datasets in it, non-commercial",
        "video and image edits of other datasets",
        (("video_edit_metadata/*.csv", "image_edit_metadata/*.csv"), ("*.csv", "*.parquet"), _ANY),
        bases=("Ditto-1M", "Ditto-1M/videos", "OpenVE-3M", "OpenVE-3M/videos", "ReCo-Data",
               *(f"ReCo-Data/{task}" for task in ("add", "remove", "replace", "style"))),
        renames={"source": "src_videos", "target": "tar_videos", "reco_data/source": "ReCo-Data/src_videos",
                 "reco_data/target": "ReCo-Data/tar_videos"},
    ),
    Dataset(
        "sama", "SAMA-edit-filtered-1M", "that of Ditto-1M, OpenVE-3M and ReCo-Data, non-commercial",
        "the video edits that SAMA kept, by reference to three datasets",
        (_ANY,),
        bases=("videos", "Ditto-1M", "Ditto-1M/videos", "OpenVE-3M", "OpenVE-3M/videos", "ReCo-Data"),
    ),
    Dataset(
        "nhr-edit", "NHR-Edit", "Apache-2.0 by users of it; see its card", "720K image edits",
        (("train/metadata.jsonl", "metadata.jsonl"), ("**/*.parquet",), _ANY), bases=("train", "images"),
        columns={"instruction": ("edit_instruction",), "task": ("category",)},
    ),
    Dataset(
        "gpt-image-edit", "GPT-Image-Edit-1.5M", "CC BY 4.0", "1.5M image edits by GPT-Image-1",
        (("**/metadata/*.json",), _ANY),
    ),
    Dataset(
        "x2edit", "X2Edit", "see its card", "6M image edits of 14 tasks, in tar files",
        (("**/*.json",),), shape=_x2edit, packed=True,
    ),
    Dataset(
        "pico-banana", "Pico-Banana-400K", "CC BY-NC-ND 4.0, sources CC BY 2.0", "257K image edits of 35 types",
        (("sft*.jsonl", "**/sft*.jsonl"), _ANY), shape=_pico, by_name=True,
        bases=("openimage_source_images", "nb"), columns={"instruction": ("text", "summarized_text")},
    ),
    Dataset(
        "koala", "Koala-36M", "research, as HD-VILA-100M", "36M clips with long captions and scores",
        (("Koala_36M*.csv", "*.csv", "*.parquet"), _ANY), kind="clip", bases=("videos", "clips"), shape=_koala,
        by_name=True,
    ),
    Dataset(
        "motionbench", "MotionBench", "CC BY-NC-SA 4.0", "clips of motion: 5K with captions, others with questions",
        (("**/train.jsonl", "**/video_info.meta.jsonl"), _ANY), kind="clip", bases=("videos", "MotionBench"),
        shape=_motionbench, by_name=True, columns={"caption": ("motion_caption",)},
    ),
    Dataset(
        "table", "a table", "", "any CSV, JSON, JSONL, Parquet, Arrow: source, target, instruction; or clip, caption",
        (_ANY,),
    ),
)  # fmt: skip
