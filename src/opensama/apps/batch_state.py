"""What a batch has done, on disk: a line for each edit that was begun or ended, of which the last counts.

An edit is done when its record says so, its row, its sources and the model are what they were, and its result decodes
to its end. From the records come the files for people and programs: results.jsonl, failed.jsonl, manifest.parquet and
report.json.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

from opensama.apps.batch_table import BatchItem
from opensama.apps.edit_checks import parse_regions
from opensama.apps.records import ResultFigures
from opensama.data.journal import Journal
from opensama.runtime import whole_file
from opensama.values import UserError

if TYPE_CHECKING:
    from opensama.data.manifest import Record

STATE_FOLDER = "state"
REPORTS = ("results.jsonl", "failed.jsonl", "manifest.parquet", "report.json")
"""What a run writes beside the results."""
_PART = re.compile(r"\.(?P<stem>.+)\.[0-9a-f]{8}\.part")


class VideoShape(TypedDict):
    width: int
    height: int
    frames: int
    fps: float


class BatchEnd(ResultFigures, total=False):
    """How an edit of a batch ended: its figures and its source's shape, or an `error`."""

    shape: VideoShape
    error: str


class ItemAsked(TypedDict):
    """All that an edit depends on: its row, the settings that are in force, the model, size and time of its sources."""

    video: str
    instruction: str
    settings: dict[str, object]
    model: dict[str, object]
    sources: list[list[int]]


class BatchRecord(BatchEnd):
    """A line of the state: an edit that was begun, or has ended."""

    out: str
    row: int
    outcome: Literal["begun", "done", "failed"]
    asked: ItemAsked


class BatchState(Journal[BatchRecord]):
    """The records of a batch in `OUT/state/edits.jsonl`, by the names of the results."""

    def __init__(self, out: Path) -> None:
        super().__init__(out / STATE_FOLDER, "edits", out)
        self.records: dict[str, BatchRecord] = {}

    def note(self, entry: BatchRecord, place: int) -> None:
        self.records[entry["out"]] = entry

    def begin(self, item: BatchItem, asked: ItemAsked) -> None:
        """The item's results are from now on this batch's own."""
        self.append(_record(item, "begun", asked))

    def end(self, item: BatchItem, asked: ItemAsked, told: BatchEnd) -> None:
        """Done, or with an `error` failed."""
        self.append({**_record(item, "failed" if "error" in told else "done", asked), **told})

    def of(self, item: BatchItem, asked: ItemAsked) -> BatchRecord | None:
        """The record of this very edit; None where there is none, or the row, a source or the model has changed."""
        record = self.records.get(item.name)
        return record if record is not None and record["asked"] == json.loads(json.dumps(asked)) else None

    def is_done(self, item: BatchItem, asked: ItemAsked) -> bool:
        """Whether the item's record says so and its results decode to their end."""
        record = self.of(item, asked)
        if record is None or record["outcome"] != "done":
            return False
        return all(decodes(place, record["frames"]) for place in item.places)


def _record(item: BatchItem, outcome: Literal["begun", "done", "failed"], asked: ItemAsked) -> BatchRecord:
    return {"out": item.name, "row": item.row, "outcome": outcome, "asked": asked}


def decodes(path: Path, frames: int) -> bool:
    """Whether a result has that many frames, and all of them can be decoded."""
    from opensama.media.video_io import check_frames, read_video

    if not path.is_file():
        return False
    try:
        video = read_video(path)
        check_frames(video)
    except UserError:
        return False
    return video.frame_count == frames


def stamps(sources: Sequence[Path]) -> list[list[int]]:
    """Size and time (ns) of each source, of a folder of pictures those of all its files."""
    from opensama.media.video_io.member import member_of

    found = []
    for source in sources:
        member = None if source.exists() else member_of(source)
        path = source if member is None else member.tar
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        states = [one.stat() for one in inside if one.is_file()]
        found.append([sum(one.st_size for one in states), max((one.st_mtime_ns for one in states), default=0)])
    return found


def check_table(table: Path, out: Path) -> None:
    """UserError where the folder has the results of another table, or files of somebody else's under the names of a
    batch's own. A table that was moved is no other."""
    try:
        other = Path(json.loads((out / STATE_FOLDER / "table.json").read_text("utf-8"))["table"])
    except (OSError, ValueError, KeyError, TypeError):
        for name in REPORTS:
            if (out / name).exists():
                raise UserError(
                    f"{out / name} exists, and no run of this batch made it; choose another folder with --out."
                ) from None
        return
    if other.exists() and not other.samefile(table):
        raise UserError(f"{out} has the results of another table, {other}; choose another folder with --out.")


def keep_table(table: Path, out: Path) -> None:
    """Notes whose results these are."""
    with whole_file(out / STATE_FOLDER / "table.json") as temporary:
        temporary.write_text(json.dumps({"table": str(table.absolute())}) + "\n", "utf-8")


def check_own(items: Sequence[BatchItem], known: Mapping[str, object]) -> None:
    """UserError for a file in a result's place that no run of this batch wrote."""
    for item in items:
        for place in item.places:
            if item.name not in known and place.exists():
                raise UserError(
                    f"{place} exists, and no run of this batch made it; choose another folder with --out, or name the "
                    "result in a column out."
                )


def sweep(items: Sequence[BatchItem], out: Path) -> None:
    """Removes what a killed run left half-written."""
    stems = {place.stem[:60] for item in items for place in item.places} | {Path(name).stem for name in REPORTS}
    for path in (
        *out.glob(".*.part"),
        *(out / STATE_FOLDER).glob(".table.*.part"),
        *(out / STATE_FOLDER).glob("tries-*"),
    ):
        found = _PART.fullmatch(path.name)
        if path.is_dir() and path.name.startswith((".rehearsal.", "tries-")):
            shutil.rmtree(path, ignore_errors=True)
        elif found is not None and found["stem"] in (*stems, "table"):
            path.unlink(missing_ok=True)


def write_results(
    records: Sequence[BatchRecord | None], items: Sequence[BatchItem], out: Path, report: Mapping[str, object]
) -> None:
    """The items' records in the table's order, those that failed, the finished pairs as a manifest, and the figures."""
    from opensama.data.manifest import write_manifest

    told: list[dict[str, object]] = []
    for item, record in zip(items, records, strict=True):
        known = {key: value for key, value in (record or {}).items() if key not in ("out", "row", "outcome")}
        told.append(
            {"out": item.name, "row": item.row, "outcome": outcome_of(record), "video": str(item.video)} | known
        )
    for name, lines in (("results", told), ("failed", [one for one in told if one["outcome"] == "failed"])):
        with whole_file(out / f"{name}.jsonl") as temporary:
            text = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in lines)
            temporary.write_text(text, "utf-8", "surrogateescape")
    pairs = zip(items, records, strict=True)
    done = ((item, record) for item, record in pairs if record is not None and record["outcome"] == "done")
    write_manifest(out / "manifest.parquet", _pairs(done), {"made_by": "opensama batch"})
    with whole_file(out / "report.json") as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", "utf-8")


def outcome_of(record: BatchRecord | None) -> str:
    """`done`, `failed`, or `left`, as an edit is that a kill broke off."""
    return "left" if record is None or record["outcome"] == "begun" else record["outcome"]


def _pairs(done: Iterable[tuple[BatchItem, BatchRecord]]) -> Iterator[Record]:
    """Source and result of each edit, but for folders of pictures and names that are not Unicode: no manifest has
    these."""
    from opensama.data.manifest import Record
    from opensama.media.video_io.pictures import is_picture

    for item, record in done:
        if item.video.is_dir():
            continue
        with suppress(ValueError):
            yield Record(
                id=item.name,
                kind="pair",
                source=str(item.video.absolute()),
                target=item.name,
                instruction=item.instruction,
                media="image" if is_picture(item.out) else "video",
                line=item.row,
                **record["shape"],
            )


def asked_of(item: BatchItem, model: Mapping[str, object], defaults: Mapping[str, object]) -> ItemAsked:
    """What is asked of an item, with the model's own values where its row has none."""
    settings = asdict(item.settings)
    for name in ("mask", "certificate", "certificate_key"):
        settings[name] = settings[name] and os.path.abspath(settings[name])
    regions = parse_regions(item.settings.regions).items()
    settings["regions"] = [[n, os.path.abspath(one) if isinstance(one, Path) else one] for n, one in regions]
    settings["references"] = list(map(os.path.abspath, settings["references"]))
    settings |= {name: value for name, value in defaults.items() if settings[name] is None}
    return {
        "video": item.said,
        "instruction": item.instruction,
        "settings": settings,
        "model": dict(model),
        "sources": stamps(item.sources),
    }
