"""A published dataset on this disk becomes one manifest that trains; what is missing or broken is counted and listed.

    report = import_dataset("ditto", Path("Ditto-1M"), Path("ditto.parquet"), Choice(tasks=("style",)))

Rows pass one by one: chosen by task, found on the disk, opened, written. With `Choice.unpack`, files that lie in
archives are taken out first into that folder, only those that chosen rows need.
"""

from __future__ import annotations

import errno
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Literal, TextIO

from opensama.data import archives, tables
from opensama.data.archives import BadArchive, BadMember
from opensama.data.datasets import LEFT_OUT, Dataset, Draft, Media, draft, drafts, find_dataset, find_tables, task_name
from opensama.data.dialects import Dialect
from opensama.data.locate import Finder, climbs
from opensama.data.manifest import EDIT_TASKS, Record, check_name, write_manifest
from opensama.data.rows import BadRow, Blob
from opensama.data.unpacking import missing_members, samples, take_out
from opensama.media import PICTURE_SUFFIXES
from opensama.runtime import whole_file
from opensama.values import Progress, UserError

CHUNK, BYTES, THREADS = 1024, 2**28, 16


@dataclass(frozen=True)
class Choice:
    """Which rows, and how they are read."""

    tasks: tuple[str, ...] = ()  # none: all
    swap: tuple[str, ...] = ()  # tasks whose sides are published the wrong way round, or ("all",)
    drop_first: int = 0  # frames at the beginning of both sides
    limit: int | None = None
    check: Literal["open", "files"] = "open"
    unpack: Path | None = None  # where files from archives go
    media: tuple[Path, ...] = ()  # more folders in which files may lie
    table: str | None = None  # pattern of the tables, in place of the dataset's own
    columns: Mapping[str, str] = field(default_factory=dict)
    hash: bool = False
    dialect: Dialect | None = None  # of CSV tables; none: as the content of each tells

    def __post_init__(self) -> None:
        for key in self.columns:
            if key not in ("source", "target", "instruction", "caption", "task"):
                raise UserError(f"There is no column {key!r} to name: source, target, instruction, caption or task.")
        for word in (*self.tasks, *(task for task in self.swap if task != "all")):
            if word not in EDIT_TASKS:
                raise UserError(f"There is no task {word!r}: choose among {', '.join(EDIT_TASKS)}.")
        if self.drop_first < 0 or (self.limit is not None and self.limit < 1):
            raise UserError("Frames to drop and the number of rows are positive numbers.")
        if self.drop_first and self.check == "files":
            raise UserError("To drop frames the files must be opened: leave `check` at open.")


@dataclass
class ImportReport:
    """How many rows came in, and what was left out for which reason."""

    kept: int = 0
    rows: int = 0
    not_chosen: int = 0
    left_out: Counter[str] = field(default_factory=Counter)  # by reason
    kinds: Counter[str] = field(default_factory=Counter)  # task of pairs, kind of clips
    unlike: int = 0  # pairs whose sides differ in length
    unpacked: int = 0
    archives: list[str] = field(default_factory=list)  # what is wrong with them
    unopened: int = 0  # archives that were not looked into, for want of a folder to unpack into
    dialects: dict[str, str] = field(default_factory=dict)  # CSV tables that are not ordinary, and how they were read
    list: Path | None = None  # every row that was left out
    seconds: float = 0.0


class _LeftOut(Exception):
    """A row that does not come in: kind of reason, the particulars, and how many rows it stands for."""

    def __init__(self, kind: str, why: str, rows: int = 1) -> None:
        super().__init__(kind, why)
        self.kind, self.why, self.rows = kind, why, rows


def import_dataset(
    name: str,
    folder: Path,
    out: Path,
    choice: Choice | None = None,
    *,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> ImportReport:
    """Writes the manifest, and beside it NAME.left-out.jsonl if rows were left out. UserError if no row is left."""
    run = _Import(find_dataset(name), folder.expanduser(), out, choice or Choice(), progress)
    return run.write()


class _Import:
    def __init__(
        self, dataset: Dataset, folder: Path, out: Path, choice: Choice, progress: Callable[[Progress], None]
    ) -> None:
        check_name(out)
        self.dataset, self.out, self.choice, self.progress = dataset, out, choice, progress
        self.media = [extra.expanduser() for extra in choice.media]
        for extra in self.media:
            if not extra.is_dir():
                raise UserError(f"There is no folder {extra}: check `media`.")
        self.folder, self.first = folder, ""
        self.root = folder.parent if folder.is_file() else folder
        self.report = ImportReport()
        self.began = time.monotonic()
        self.archives = archives.find_archives(self.root) if self.root.is_dir() else []
        self.packed = self.archives if dataset.packed else []
        try:
            self.tables = find_tables(dataset, folder, choice.table)
        except UserError:
            if not self.packed:
                raise
            self.tables = []
        if self.packed and choice.unpack is None and not self.tables:
            raise UserError(
                f"The rows of {dataset.title} lie in {len(self.packed)} archives: give `unpack=FOLDER`, and those that "
                "are chosen are taken out into it."
            )
        self.total = sum(tables.estimate_rows(table) for table in self.tables)

    def write(self) -> ImportReport:
        choice, report = self.choice, self.report
        if choice.unpack is not None:
            choice.unpack.mkdir(parents=True, exist_ok=True)
            if not self.packed:
                self.take_out(choice.unpack)
        extra = () if choice.unpack is None else (choice.unpack,)
        self.finder = Finder([self.root, *extra, *self.media], self.dataset.bases, self.dataset.renames)
        listing = self.out.with_name(f"{self.out.stem}{LEFT_OUT}")
        meta = {
            "dataset": self.dataset.name, "title": self.dataset.title, "license": self.dataset.licence,
            "folder": str(self.root.absolute()), "tasks": list(choice.tasks), "swap": list(choice.swap),
            "drop_first": choice.drop_first,
        }  # fmt: skip
        with (
            whole_file(listing) as temporary,
            temporary.open("w", encoding="utf-8") as file,
            ThreadPoolExecutor(THREADS) as threads,
        ):
            write_manifest(self.out, self.records(threads, file), meta)
        if report.left_out:
            report.list = listing
        else:
            listing.unlink()
        if choice.unpack is None and (report.left_out["no target file"] or report.left_out["no source file"]):
            report.unopened = len(self.archives)
        if choice.dialect is None:
            told = {table.name: tables.dialect_told(table) for table in self.tables}
            report.dialects = {name: dialect for name, dialect in told.items() if dialect}
        report.seconds = time.monotonic() - self.began
        return report

    def nothing(self) -> str:
        """Why no row came in, in one sentence."""
        report, what = self.report, f"{self.dataset.title} in {self.folder}"
        if not report.left_out:
            why = f"none is of task {', '.join(self.choice.tasks)}" if report.rows else "its tables are empty"
            return f"{what} gives no row: {why}; choose other tasks, or another folder."
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in report.left_out.most_common())
        lies = f" Archives not looked into: {len(self.archives)}; give `unpack=FOLDER`." if self.archives else ""
        return (
            f"No row of {what} can be used ({reasons}); the first that cannot, {self.first}."
            f"{'' if self.choice.unpack else lies}"
        )

    # --- rows

    def drafts(self) -> Iterator[tuple[Path, int, Draft | BadRow]]:
        """All rows of all tables; of archives that hold rows, those too."""
        for table in self.tables:
            try:
                for line, row in drafts(self.dataset, table, self.choice.columns, self.choice.dialect):
                    yield table, line, row
            except UserError as error:
                yield table, 0, BadRow(str(error))
        for archive in self.packed if self.choice.unpack is not None else ():
            try:
                for line, sample in enumerate(samples(archive), 1):
                    name = archive.parts[0]
                    said = self.choice.columns
                    row = sample if isinstance(sample, BadRow) else draft(self.dataset, sample, name, line, said)
                    yield name, line, row
            except BadArchive as error:
                self.report.archives.append(str(error))

    def chosen(self, draft: Draft) -> bool:
        return not self.choice.tasks or draft.task in self.choice.tasks

    def records(self, threads: ThreadPoolExecutor, listing: TextIO) -> Iterator[Record]:
        """The records, in order; what does not come in is counted and listed. UserError if there are none."""
        report = self.report
        for chunk in chunks(self.drafts()):
            for (table, line, _), found in zip(chunk, threads.map(self.record, chunk), strict=True):
                lost = found.rows if isinstance(found, _LeftOut) else 1
                report.rows += lost * (line > 0)
                if isinstance(found, _LeftOut):
                    kind, why = found.kind, found.why
                    report.left_out[kind] += lost
                    self.first = self.first or (f"line {line} of {table}: {why}" if line else why).rstrip(".")
                    told = {"table": str(table), "line": line, "kind": kind, "why": why}
                    told |= {"rows": lost} if lost > 1 else {}
                    listing.write(json.dumps(told, ensure_ascii=False) + "\n")
                elif found is None:
                    report.not_chosen += 1
                else:
                    report.kept += 1
                    report.kinds[found.task or found.kind] += 1
                    report.unlike += "source_frames" in found.notes
                    yield found
                    if report.kept == self.choice.limit:
                        return
            self.progress(self.step(report.rows))
        if not report.kept:
            raise UserError(self.nothing())
        self.progress(self.step(report.rows, ended=True))

    def take_out(self, into: Path) -> None:
        """What chosen rows need and the disk lacks comes out of the archives."""
        finder = Finder([self.root, into, *self.media], self.dataset.bases, self.dataset.renames)
        rows = (row for *_, row in self.drafts() if not isinstance(row, BadRow) and self.chosen(row))
        wanted = missing_members(islice(rows, self.choice.limit), finder) if self.archives else {}
        done, total = 0, sum(archive.size for archive in self.archives)
        for archive in self.archives if wanted else ():
            try:
                for taken in take_out(archive, wanted, into):
                    if isinstance(taken, BadMember):
                        self.report.archives.append(str(taken))
                    else:
                        self.report.unpacked += 1
            except BadArchive as error:
                self.report.archives.append(str(error))
            done += archive.size
            self.progress(Progress("MB of archives", done >> 20, total >> 20, time.monotonic() - self.began))

    def step(self, rows: int, ended: bool = False) -> Progress:
        return Progress("rows", rows, rows if ended else max(self.total, rows + 1), time.monotonic() - self.began)

    def record(self, row: tuple[Path, int, Draft | BadRow]) -> Record | _LeftOut | None:
        """One row with its files looked up and opened; None for one that was not chosen."""
        *_, said = row
        if isinstance(said, BadRow):
            return _LeftOut("broken row" if row[1] else "unreadable table", said.reason, said.rows)
        if not self.chosen(said):
            return None
        try:
            return self.complete(said)
        except _LeftOut as reason:
            return reason
        except ValueError as error:
            return _LeftOut("broken row", str(error))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            return _LeftOut("unreadable file", str(error))

    def complete(self, draft: Draft) -> Record:
        dataset, choice = self.dataset, self.choice
        if draft.source is not None and not draft.instruction:
            raise _LeftOut("no instruction", "the row has no instruction")
        title = dataset.name if dataset.name != "table" else draft.table.stem
        table = draft.table.relative_to(self.root) if self.root in draft.table.parents else Path(draft.table.name)
        start, end = None, None
        source = None if draft.source is None else self.find(draft.source, draft, "source")
        try:
            target = self.find(draft.target, draft, "target")
        except _LeftOut:
            if not draft.whole:
                raise
            target, start, end = self.find(draft.whole, draft, "target"), draft.start, draft.end
        notes = dict(draft.notes) | {"table": draft.table.name}
        if source is not None and {"all", draft.task} & set(choice.swap):
            source, target, notes["swapped"] = target, source, "yes"
        image = target.suffix.lower() in PICTURE_SUFFIXES
        record = Record(
            id=f"{title}:{table.with_suffix('').as_posix()}:{draft.line}",
            kind="clip" if source is None else "pair",
            target=str(target),
            source=None if source is None else str(source),
            target_start=start,
            target_end=end,
            caption=draft.caption,
            instruction=draft.instruction,
            task=draft.task,
            scores=dict(draft.scores),
            dataset=title,
            license=dataset.licence,
            line=draft.line,
            hash=digest(target) if choice.hash else "",
            media="image" if image else "video",
            notes=notes,
        )
        if choice.check == "open":
            record = with_file_facts(record, choice.drop_first)
        folder = self.out.parent.absolute()
        return record.with_paths(lambda path: stored(Path(path), folder))

    def find(self, media: Media, draft: Draft, side: str) -> Path:
        """The file on the disk; a picture from within a table is written into the folder to unpack into."""
        if isinstance(media, Blob):
            return self.put(media, draft, side)
        around = (draft.table.parent, draft.table.parent.parent)
        within = [folder for folder in around if self.root in (folder, *folder.parents)]
        for said in media:
            path = self.finder.find(said, within)
            if path is None and self.dataset.by_name:
                path = self.finder.find_name(said.rpartition("/")[2], self.dataset.sides.get(side, ""))
            if path is not None:
                if path.stat().st_size == 0:
                    raise _LeftOut("empty file", f"{path} is empty (0 bytes)")
                return path
        raise _LeftOut(f"no {side} file", f"there is no file {media[0]}{climbs(media[0])}")

    def put(self, blob: Blob, draft: Draft, side: str) -> Path:
        if self.choice.unpack is None:
            raise _LeftOut(f"no {side} file", "the picture lies in the table: give `unpack=FOLDER`")
        near = draft.table.relative_to(self.root) if self.root in draft.table.parents else Path(draft.table.name)
        path = self.choice.unpack / near.with_suffix("") / f"{draft.line:07}-{side}{blob.suffix}"
        if not path.exists() or path.stat().st_size != len(blob.data):
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as temporary:
                temporary.write_bytes(blob.data)
        return path


def chunks(rows: Iterator[tuple[Path, int, Draft | BadRow]]) -> Iterator[list[tuple[Path, int, Draft | BadRow]]]:
    """Rows that are looked up together: not too many, and not too many pictures in them."""
    chunk, size = [], 0
    for row in rows:
        chunk.append(row)
        if isinstance(row[2], Draft):
            size += sum(len(media.data) for media in (row[2].target, row[2].source) if isinstance(media, Blob))
        if len(chunk) == CHUNK or size > BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


# --- files


def with_file_facts(record: Record, drop_first: int = 0) -> Record:
    """The record with what its files are like. Raises _LeftOut for a file that cannot be used."""
    from opensama.media.video_io import read_video

    try:
        target = read_video(record.target)
        source = None if record.source is None else read_video(record.source)
    except UserError as error:
        raise _LeftOut("unreadable file", str(error)) from None
    first, stop = target.frame_range(record.target_start, record.target_end)
    frames, notes = stop - first, dict(record.notes)
    if source is not None and source.frame_count != target.frame_count:
        notes["source_frames"] = str(source.frame_count)
        frames = min(frames, source.frame_count)
    start, source_start = record.target_start, None
    if drop_first and record.media == "video":
        frames -= drop_first
        if frames > 0:
            start = float(target.timestamps[first + drop_first] * target.time_base)
            source_start = None if source is None else float(source.timestamps[drop_first] * source.time_base)
    if frames < 1:
        raise _LeftOut("too short", f"{record.target} has {frames + drop_first} frames, {drop_first} are to be dropped")
    return replace(
        record,
        target_start=start,
        source_start=source_start,
        width=target.width,
        height=target.height,
        frames=frames,
        fps=float(target.fps),
        seconds=frames / float(target.fps),
        notes=notes,
    )


def stored(path: Path, folder: Path) -> str:
    """How a manifest in that folder names a file: relative if it lies below, else in full."""
    whole = path.absolute()
    return whole.relative_to(folder).as_posix() if folder in whole.parents else str(whole)


def digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tasks_of(words: str | None) -> tuple[str, ...]:
    """Tasks as a person lists them, with commas between; a dataset's own words count, too."""
    names: list[str] = []
    for word in filter(None, (part.strip() for part in (words or "").split(","))):
        task = "all" if word == "all" else task_name(word)
        names.append(task if task != "other" or word == "other" else word)
    return tuple(names)


def parse_columns(said: Sequence[str]) -> dict[str, str]:
    """`source=original_video` and the like."""
    out = {}
    for part in said:
        key, equals, column = part.partition("=")
        if not equals or not column.strip():
            raise UserError(f"{part!r} names no column: write it as source=original_video.")
        out[key.strip()] = column.strip()
    return out
