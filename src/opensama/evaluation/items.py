"""Published benchmarks as they lie on disk: what is to be edited, and where somebody's edits of it are.

    items, faults = read_benchmark("openve", Path("OpenVE-Bench"))
    edits, faults = find_edits("openve", items, Path("results"))        # id -> file

What is wrong with one row or one file is a `Fault` beside the rest, never the end: a benchmark with holes is scored,
and its holes are reported. A folder that is not this benchmark at all is a `UserError`.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from opensama.data.dialects import detect, open_text, records
from opensama.data.rows import BadRow
from opensama.first_bytes import check_first_bytes
from opensama.values import UserError

_Row = Mapping[str, Any]
_VIDEOS = {".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".gif"}
CLIP_MARK = "--"  # between a clip's name and who made it
_HINTS = 40  # files of which it is asked whose they may be

_SOURCE = ("source", "source_video", "src_video", "original_video", "source_path", "input_video", "video", "video_path")
_INSTRUCTION = ("instruction", "edit_prompt", "prompt", "edit_instruction", "instruct", "text")
TASK = ("task", "type", "edit_type", "edited_type", "category", "edit_task")
REFERENCE_IMAGE = ("reference_image", "ref_image", "ref_img", "reference", "image")
ID = ("id", "index", "iid", "name")


@dataclass(frozen=True)
class Item:
    """One edit to make. `source` is None where the file is not there; the item counts as missing then."""

    id: str
    task: str
    instruction: str
    source: Path | None
    reference: Path | None = None
    """A published answer, where the benchmark has one."""
    notes: dict[str, str] = field(default_factory=dict)
    """What else its row says: `reference_image`, `subset`, `target_prompt`, ..."""


class Fault(NamedTuple):
    """A file, a row or an item, and what is wrong with it."""

    where: str
    reason: str


@dataclass(frozen=True)
class Benchmark:
    """How a benchmark lies on disk: how it is read, and what files with edits are called."""

    title: str
    read: Callable[[Path], tuple[list[Item], list[Fault]]]
    edited: Callable[[Item], tuple[str, ...]]
    beside: tuple[str, ...] = ()
    """Files that lie among edits and are none."""


def read_benchmark(name: str, folder: Path) -> tuple[list[Item], list[Fault]]:
    """Its items in the order in which they are listed, and what is wrong with some of them."""
    benchmark = find_benchmark(name)
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}: --data is the folder in which {benchmark.title} lies.")
    items, faults = benchmark.read(folder)
    seen: dict[str, Item] = {}
    for item in items:
        if item.id in seen:
            faults.append(Fault(item.id, "is listed twice; the first counts"))
        elif not item.instruction.strip():
            faults.append(Fault(item.id, "has no instruction, so it is left out"))
        else:
            seen[item.id] = item
    if not seen:
        hint = f"a clip is called NAME{CLIP_MARK}source.mp4." if name == "clips" else f"is it {benchmark.title}?"
        raise UserError(f"{folder} lists nothing to edit: {hint}")
    return list(seen.values()), faults


def find_benchmark(name: str) -> Benchmark:
    if name not in BENCHMARKS:
        raise UserError(f"There is no benchmark {name!r}: choose among {', '.join(BENCHMARKS)}.")
    return BENCHMARKS[name]


def find_edits(name: str, items: Iterable[Item], folder: Path) -> tuple[dict[str, Path], list[Fault]]:
    """Where each item's edit lies in a folder, by the benchmark's own file names or as `ID.mp4`.

    Faults say which items have none, which files nobody asks for (with what they may have meant) and which names are
    asked for twice.
    """
    benchmark = find_benchmark(name)
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}: --edits is the folder in which the edited videos lie.")
    at: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in _VIDEOS and file.is_file() and file.name not in benchmark.beside:
            at.setdefault(_plain(file.name), []).append(file)
    found: dict[str, Path] = {}
    missing: dict[str, Item] = {}
    owner: dict[Path, str] = {}
    faults: list[Fault] = []
    for item in items:
        names = (*benchmark.edited(item), f"{item.id}.mp4")
        candidates = (_nearest(wanted, item, at, folder) for wanted in names)
        path = next((candidate for candidate in candidates if candidate), None)
        if path is None:
            missing[names[0]] = item
        elif path in owner:
            faults.append(
                Fault(item.id, f"its edit would be {_inside(path, folder)}, which is the edit of {owner[path]}")
            )
        else:
            found[item.id], owner[path] = path, item.id
    left = [path for paths in at.values() for path in paths if path not in owner]
    for index, extra in enumerate(left):
        near = get_close_matches(extra.name, missing, 1, 0.7) if index < _HINTS else []
        meant = f"; did you mean {near[0]}, the edit of {missing[near[0]].id}?" if near else ""
        faults.append(Fault(_inside(extra, folder), f"no item's edit is called so{meant}"))
    faults += [Fault(item.id, f"has no edit: there is no {wanted}") for wanted, item in missing.items()]
    return found, faults


def find_clips(items: Iterable[Item], folder: Path, system: str) -> dict[str, Path]:
    """What a system made, in a folder of `NAME--SYSTEM.mp4`: it was asked for no more."""
    files = {file.stem: file for file in (sorted(folder.iterdir()) if folder.is_dir() else []) if file.is_file()}
    named = {item.id: files.get(f"{item.id}{CLIP_MARK}{system}") for item in items}
    return {name: file for name, file in named.items() if file is not None and file.suffix.lower() in _VIDEOS}


def _nearest(wanted: str, item: Item, at: Mapping[str, list[Path]], folder: Path) -> Path | None:
    """The file of that name: where it lies several times, the one below a folder named as the item's task or subset."""
    name = PurePosixPath(_plain(wanted))
    paths = [
        path for path in at.get(name.name, []) if path.parts[-len(name.parts) :] == name.parts or _same(path, name)
    ]
    if len(paths) > 1:
        mine = {item.task, item.notes.get("subset", ""), item.id}
        paths = [path for path in paths if mine & set(path.relative_to(folder).parts[:-1])] or paths
    return paths[0] if paths else None


def _same(path: Path, name: PurePosixPath) -> bool:
    return tuple(_plain(part) for part in path.parts[-len(name.parts) :]) == name.parts


def _plain(name: str) -> str:
    """A file's name with letters composed: some disks take them apart."""
    return unicodedata.normalize("NFC", name)


def _inside(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


# --- VIE-Bench: no layout was published, so any table with an instruction and a source


def read_vie(folder: Path) -> tuple[list[Item], list[Fault]]:
    """Every row of the folder's .json, .jsonl and .csv tables."""
    tables = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".json", ".jsonl", ".csv"))
    items: list[Item] = []
    faults: list[Fault] = []
    for table in tables:
        for number, row in enumerate(read_rows(table, faults=faults)):
            if not any(name in row for name in _INSTRUCTION):
                faults.append(Fault(f"{table.name} {number}", f"has none of the columns {', '.join(_INSTRUCTION)}"))
                continue
            name = safe_id(_first(row, ID) or (f"{number:03d}" if len(tables) == 1 else f"{table.stem}-{number:03d}"))
            notes = {}
            if image := _first(row, REFERENCE_IMAGE):
                path = locate(folder, image, name, faults)
                notes = {"reference_image": str(path)} if path else {}
            source = locate(folder, _first(row, _SOURCE), name, faults)
            task = vie_task(_first(row, TASK) or table.stem)
            items.append(Item(name, task, _first(row, _INSTRUCTION), source, notes=notes))
    if not tables:
        raise UserError(f"{folder} has no .json, .jsonl or .csv that lists what to edit.")
    return items, faults


def vie_task(said: str) -> str:
    """A row's task in one of nine words."""
    word = said.lower()
    if "ref" in word:
        return "ref-add" if "add" in word or "insert" in word else "ref-swap"
    for task, marks in VIE_TASKS.items():
        if any(mark in word for mark in marks):
            return task
    return word.strip()


VIE_TASKS = {
    "color": ("colo",),
    "tone": ("tone", "weather"),
    "style": ("style", "styli"),
    "swap": ("swap", "replace", "change"),
    "remove": ("remov", "delet", "eras"),
    "add": ("add", "insert"),
    "hybrid": ("hybrid", "mixed"),
}


# --- OpenVE-Bench


def read_openve(folder: Path) -> tuple[list[Item], list[Fault]]:
    """`benchmark_videos.csv`, whose paths begin at the folder itself or above it."""
    faults: list[Fault] = []
    rows = read_rows(folder / "benchmark_videos.csv", ("edited_type", "prompt", "original_video"), faults)
    items: list[Item] = []
    for row in rows:
        said = str(row["original_video"] or "")
        name = safe_id(PurePosixPath(said.replace("\\", "/")).stem)
        source = locate(folder, said.replace("\\", "/").removeprefix("OpenVE-Bench/"), name, faults)
        items.append(Item(name, str(row["edited_type"] or ""), str(row["prompt"] or ""), source))
    return items, faults


def openve_names(item: Item) -> tuple[str, ...]:
    return (f"{item.id}_edited.mp4",)


# --- ReCo-Bench


def read_reco(folder: Path) -> tuple[list[Item], list[Fault]]:
    """`configs/{add,remove,replace,style}.txt` beside `ori_videos/`."""
    items: list[Item] = []
    faults: list[Fault] = []
    for task in RECO_TASKS:
        path = folder / "configs" / f"{task}.txt"
        if not path.is_file():
            faults.append(Fault(f"configs/{task}.txt", "is not there"))
            continue
        for number, line in enumerate(read_text(path).splitlines(), 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            name = f"{task}-{number:03d}"
            if (parsed := parse_reco_line(line)) is None:
                faults.append(Fault(f"configs/{task}.txt line {number}", "is not `FILE.mp4: INSTRUCTION`"))
                continue
            file, instruction, image = parsed
            notes = {"file": file} | ({"reference_image": image} if image else {})
            items.append(Item(name, task, instruction, locate(folder / "ori_videos", file, name, faults), notes=notes))
    return items, faults


RECO_TASKS = ("add", "remove", "replace", "style")


def parse_reco_line(line: str) -> tuple[str, str, str] | None:
    """File, instruction and image (or "") of one line; None if it is none. Split at the first colon, then at a `|`."""
    file, colon, rest = line.partition(":")
    instruction, _, image = rest.partition("|")
    return (file.strip(), instruction.strip(), image.strip()) if colon and file.strip() else None


def reco_names(item: Item) -> tuple[str, ...]:
    """`{source}_{instruction}.mp4`, the instruction cut after 80 characters."""
    said = item.instruction.replace(" ", "_").replace(".", "").replace(",", "").replace(":", " ")
    stem = PurePosixPath(item.notes.get("file", item.id)).stem
    return (f"{stem}_{said[:80]}.mp4",)


# --- IVEBench


def read_ive(folder: Path) -> tuple[list[Item], list[Fault]]:
    """The short and the long subset, as far as they are there."""
    items: list[Item] = []
    faults: list[Fault] = []
    for subset in ("short", "long"):
        table = folder / f"ivebenchdb_prompt_{subset}.json"
        if not table.is_file():
            faults.append(Fault(table.name, "is not there"))
            continue
        for row in read_rows(table, ("src_video_name", "edit_prompt")):
            file = str(row["src_video_name"] or "")
            name = safe_id(f"{subset}-{row.get('id') if row.get('id') is not None else PurePosixPath(file).stem}")
            if not str(row.get("category") or "").strip():
                faults.append(Fault(name, "has no category, so it is left out"))
                continue
            kept = ("category", "subcategory", "source_prompt", "target_prompt")
            notes = {key: str(row[key]) for key in kept if row.get(key)} | {"subset": subset, "file": file}
            source = locate(folder / f"ivebenchdb_mp4_{subset}", file, name, faults)
            items.append(Item(name, str(row["category"]), str(row["edit_prompt"] or ""), source, notes=notes))
    return items, faults


def ive_names(item: Item) -> tuple[str, ...]:
    return (f"{PurePosixPath(item.notes['file']).stem}.mp4",)


# --- EditVerseBench


def read_editverse(folder: Path) -> tuple[list[Item], list[Fault]]:
    """`test.json`: sources are looked for where it says and, beside results, as `ID/video1.mp4`."""
    table = folder / "test.json"
    items: list[Item] = []
    faults: list[Fault] = []
    for number, row in enumerate(read_rows(table, ("<text>",))):
        name = safe_id(row.get("key") or number)
        said = str(row.get("<video1>") or "")
        beside = folder / name / "video1.mp4"
        source = beside if beside.is_file() else locate(folder, said, name, faults)
        text = re.sub(r"\s*<video1>\s*", " ", str(row["<text>"] or "")).strip()
        kept = ("direction", "source_prompt", "target_prompt")
        notes = {key: str(row[key]) for key in kept if row.get(key)}
        items.append(Item(name, str(row.get("type") or ""), text, source, notes=notes))
    return items, faults


def editverse_names(item: Item) -> tuple[str, ...]:
    return (f"{item.id}/generate.mp4",)


# --- folders of one's own, and the drawn world


def read_clips(folder: Path) -> tuple[list[Item], list[Fault]]:
    """Every `NAME--source.mp4`; what is asked stands in a table of `id`, `instruction`, `task`, or is the name."""
    rows: dict[str, _Row] = {}
    faults: list[Fault] = []
    for table in sorted(path for path in folder.iterdir() if path.suffix.lower() in (".json", ".jsonl", ".csv")):
        rows |= {
            _first(row, ID): row for row in read_rows(table, faults=faults) if any(name in row for name in _INSTRUCTION)
        }
    files = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in _VIDEOS]
    sources = {name: file for file in files if (name := file.stem.removesuffix(f"{CLIP_MARK}source")) != file.stem}
    items = []
    for name, file in sources.items():
        row = rows.pop(name, {})
        items.append(Item(name, _first(row, TASK), _first(row, _INSTRUCTION) or name, file))
    for file in files:
        name, mark, _ = file.stem.partition(CLIP_MARK)
        if not mark:
            faults.append(Fault(file.name, f"is called neither NAME{CLIP_MARK}source nor NAME{CLIP_MARK}SYSTEM"))
        elif name not in sources:
            faults.append(Fault(file.name, f"there is no {name}{CLIP_MARK}source beside it"))
    faults += [Fault(name, f"is listed, and there is no {name}{CLIP_MARK}source.mp4") for name in rows]
    return items, faults


def clip_systems(folder: Path) -> list[str]:
    """Whose edits lie there as `NAME--SYSTEM.mp4`."""
    files = folder.iterdir() if folder.is_dir() else []
    found = {file.stem.partition(CLIP_MARK)[2] for file in files if file.suffix.lower() in _VIDEOS}
    return sorted(found - {"", "source"})


def read_world(folder: Path) -> tuple[list[Item], list[Fault]]:
    """`world.json`, as `opensama.evaluation.world.draw` writes it; all but id, task, instruction are notes."""
    faults: list[Fault] = []
    items = []
    for row in read_rows(folder / "world.json", ("id", "task", "instruction")):
        said = {key: str(row.pop(key)) for key in ("id", "task", "instruction")}
        source = locate(folder, f"{said['id']}.mp4", said["id"], faults)
        notes = {key: str(value) for key, value in row.items()}
        items.append(Item(said["id"], said["task"], said["instruction"], source, notes=notes))
    return items, faults


BENCHMARKS: dict[str, Benchmark] = {
    "vie": Benchmark("VIE-Bench", read_vie, lambda item: (f"{item.id}_edited.mp4",)),
    "openve": Benchmark("OpenVE-Bench", read_openve, openve_names),
    "reco": Benchmark("ReCo-Bench", read_reco, reco_names),
    "ive": Benchmark("IVEBench", read_ive, ive_names),
    "editverse": Benchmark("EditVerseBench", read_editverse, editverse_names, ("video1.mp4",)),
    "clips": Benchmark("Clips", read_clips, lambda item: (f"{item.id}_edited.mp4",)),
    "world": Benchmark("The drawn world", read_world, lambda item: (f"{item.id}.mp4",)),
}


# --- tables and files


def read_rows(path: Path, columns: tuple[str, ...] = (), faults: list[Fault] | None = None) -> list[dict[str, Any]]:
    """The rows of a .csv (of any dialect), .jsonl or .json (a list, or a dictionary whose keys come out as `key`).

    A line of a .csv that cannot be read is added to `faults`; without these it is a UserError.
    """
    text = read_text(path)
    try:
        if path.suffix.lower() == ".csv":
            rows: Any = _separated(path, faults)
        elif path.suffix.lower() == ".jsonl":
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            rows = json.loads(text)
            if isinstance(rows, dict):
                rows = [{"key": key} | value for key, value in rows.items() if isinstance(value, dict)]
    except ValueError as error:
        raise UserError(f"{path} cannot be read as a table ({error}): get it again.") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path} is not a list of rows with names: get it again.")
    if rows and (lacking := [name for name in columns if not any(name in row for row in rows)]):
        raise UserError(f"{path} has no column {lacking[0]!r}: it has {', '.join(map(str, rows[0]))}.")
    return [dict.fromkeys(columns) | row for row in rows]


def _separated(path: Path, faults: list[Fault] | None) -> list[dict[str, str]]:
    """Rows by the names in the first one."""
    names: list[str] = []
    rows = []
    with open_text(path) as file:
        for line, fields in records(file, detect(path)):
            if not isinstance(fields, BadRow):
                rows += [dict(zip(names, fields, strict=True))] if names else []
                names = names or fields
            elif faults is None:
                raise UserError(f"Line {line} of {path} cannot be used: {fields.reason}; mend it.")
            else:
                faults.append(Fault(f"{path.name} line {line}", fields.reason))
    return rows


def read_text(path: Path) -> str:
    check_first_bytes(path)
    try:
        return path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"There is no {path}: is this the benchmark's folder?") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason}): get it again.") from error


def locate(folder: Path, said: str, name: str, faults: list[Fault]) -> Path | None:
    """The source that a row names, below the folder or one named `videos`; a fault where it is not there."""
    parts = PurePosixPath(said.replace("\\", "/").removeprefix("./"))
    if not parts.name:
        faults.append(Fault(name, "names no source video"))
        return None
    if parts.is_absolute() or ".." in parts.parts:
        faults.append(Fault(name, f"names a source outside the benchmark: {said}"))
        return None
    for place in (folder / parts, folder / "videos" / parts, folder / f"{parts}.mp4", folder / parts.with_suffix("")):
        if place.exists():
            return place
    faults.append(Fault(name, f"its source is not there: {parts}"))
    return None


def safe_id(said: object) -> str:
    """What a row calls itself, as a file may be called."""
    return re.sub(r"[^\w.+-]+", "_", str(said)).strip("._") or "unnamed"


def _first(row: _Row, names: tuple[str, ...]) -> str:
    return next((str(row[name]).strip() for name in names if row.get(name) not in (None, "")), "")
