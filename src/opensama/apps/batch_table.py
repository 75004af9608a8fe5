"""The table of `opensama batch`: its rows as edits to make, or one sentence about the first that cannot be made.

    video,instruction,out,seed,box
    a.mp4,Make the ball red.,a-red.mp4,1,
    a.mp4,Make the ball blue.,a-blue.mp4,,"40,60,200,200"

Columns are named as the settings of `EditSettings`, of which several files are a list, or stand in one field with `;`
between them. All that the table and the names in it can tell is looked at here, before a video is opened.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from opensama.apps.edit_checks import (
    check_alpha,
    compared_path,
    default_output,
    parse_range,
    parse_regions,
    parse_times,
    shorten,
)
from opensama.apps.edit_settings import EditSettings
from opensama.data.rows import BadRow, text_of
from opensama.data.tables import is_table, table_rows
from opensama.first_bytes import is_address
from opensama.values import EditRequest, UserError, how_many, nearest

_NEEDED = ("video", "instruction")
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", Path: "the name of a file", str: "text"}
_LISTS = {"references": "names of files", "regions": "regions such as 1:40,60,200,200"}
_OTHER_NAMES = {"reference": "references", "region": "regions", "from": "begin", "to": "end"}  # as the option is called
_MANY = 2**31  # frames: more than any video has


@dataclass(frozen=True)
class BatchItem:
    """One edit of a batch: a row of the table."""

    row: int
    said: str  # the video as the table names it
    video: Path
    instruction: str  # as the model reads it
    left_out: tuple[str, ...]  # of the instruction
    settings: EditSettings
    out: Path

    @property
    def name(self) -> str:
        """Of the result in the batch's folder, by which the item is known."""
        return self.out.name

    @property
    def request(self) -> EditRequest:
        return self.settings.request(self.video, self.instruction)

    @property
    def sources(self) -> list[Path]:
        """The files that the edit is made of."""
        return [self.video, *self.settings.masks, *self.settings.references]

    @property
    def places(self) -> list[Path]:
        """The files that the edit makes."""
        return [self.out, *([compared_path(self.out)] if self.settings.compare else [])]

    def clear(self) -> None:
        """Removes what is in these places: it is broken or of other settings."""
        for place in self.places:
            place.unlink(missing_ok=True)


def read_batch(table: Path, out: Path, defaults: EditSettings, model: str, anyway: bool) -> list[BatchItem]:
    """The table's edits, with `defaults` for what a row does not say; their results lie in the folder `out`.

    A path in the table begins at the table's own folder. UserError for the first row that cannot be an edit.
    """
    rows = _rows(table)
    _check_columns(table, rows)
    items, wrong = list[BatchItem](), list[str]()
    for row, values in rows:
        try:
            if isinstance(values, BadRow):
                raise UserError(f"{values.reason[:1].upper()}{values.reason[1:]}.")
            items.append(_item(table, row, values, out, defaults, model, anyway))
        except UserError as error:
            wrong.append(f"{table}, row {row}: {error}")
    if wrong:
        others = f" (and {how_many(len(wrong) - 1, 'other row')} to mend)." if wrong[1:] else ""
        raise UserError(wrong[0].rstrip(".") + others if others else wrong[0])
    _check_places(table, items)
    return items


def _rows(table: Path) -> list[tuple[int, dict[str, object] | BadRow]]:
    """Number and values of each row, without values that say nothing."""
    if not is_table(table):
        raise UserError(f"{table} is no table of edits; give a .csv, .jsonl or .parquet file.")
    if not table.is_file():
        raise UserError(f"There is no table {table}; check the name and the folder.")
    rows: list[tuple[int, dict[str, object] | BadRow]] = []
    for row, values in table_rows(table):
        if not isinstance(values, BadRow):
            values = {name: value for name, value in values.items() if isinstance(value, list) or text_of(value)}
            values = {_OTHER_NAMES.get(name, name): value for name, value in values.items()}
        rows.append((row, values))
    if not rows:
        raise UserError(f"{table} holds no edits; give it a row for each, with the columns video and instruction.")
    return rows


def _check_columns(table: Path, rows: Sequence[tuple[int, dict[str, object] | BadRow]]) -> None:
    found = dict.fromkeys(name for _, values in rows if not isinstance(values, BadRow) for name in values)
    known = [*_NEEDED, "out", *(f.name for f in fields(EditSettings))]
    missing = [name for name in _NEEDED if name not in found]
    if missing and found:
        raise UserError(
            f"{table} has no column {' and none '.join(missing)}, but {', '.join(found)}; an edit needs the columns "
            f"video and instruction."
        )
    for name in found:
        if name in ("model", "device", "dtype", "offload", "memory", "vae_tiling", "float8", "lora", "weights", "base"):
            raise UserError(
                f"{table} has a column {name}, but one model is loaded for all rows; give it once, as `{name}`."
            )
        if name not in known:
            raise UserError(f"{table} has a column {name}, which is no setting of an edit: {nearest(name, known)}")


def _item(
    table: Path, row: int, values: Mapping[str, object], out: Path, defaults: EditSettings, model: str, anyway: bool
) -> BatchItem:
    from opensama.media.video_io.containers import check_coding, format_of
    from opensama.media.video_io.pictures import is_picture
    from opensama.models.registry import find
    from opensama.models.vocabulary import check_words, without_politeness
    from opensama.pipeline.request_checks import check_family
    from opensama.values.numbers import check_number

    for name in _NEEDED:
        if name not in values:
            raise UserError(f"The {name} is missing.")
    given = {name: value_of(name, values[name]) for name in values}
    said, instruction = given.pop("video"), given.pop("instruction")
    place = given.pop("out", None)
    if "frames" in given or "begin" in given or "end" in given:  # a row's own choice stands above the one for all
        given = {"frames": None, "begin": None, "end": None} | given
    settings = replace(defaults, **given)
    if "mask" in given:
        settings = replace(settings, mask=_beside(table, str(given["mask"])))
    if "references" in given:
        settings = replace(settings, references=tuple(_beside(table, str(path)) for path in given["references"]))
    if "regions" in given:
        settings = replace(settings, regions=tuple(_region_beside(table, region) for region in given["regions"]))
    if "mask" in given and "box" not in given:  # so it does of these two
        settings = replace(settings, box=None)
    if "box" in given and "mask" not in given:
        settings = replace(settings, mask=None)
    video = _beside(table, said)
    for source in (video, *settings.masks, *settings.references):
        _check_source(source)
    if place is not None and (Path(place).name != place or place.startswith(".")):
        raise UserError(f"The result {shorten(place)!r} must be a plain name, of a file in the folder of --out.")
    instruction, left_out = without_politeness(model, instruction)
    item = BatchItem(
        row, said, video, instruction, left_out, settings,
        out / (place or default_output(video, settings.alpha == "keep", settings.is_part).name),
    )  # fmt: skip
    request = item.request
    check_family(find(model), request, anyway)
    check_words(model, instruction, anyway or settings.enhance is not None)
    check_number("quality", settings.quality, 0, 100)
    if settings.frames is not None and "-" not in settings.frames:
        parse_range(settings.frames, _MANY)
    parse_times(settings.begin, settings.end, None)
    check_alpha(request, item.out)
    if not is_picture(item.out):
        check_coding(format_of(item.out), settings.quality, settings.alpha == "keep", settings.codec)
    return item


def value_of(name: str, value: object) -> Any:
    """A value of a table as the setting of that name takes it: numbers may be text, `frames` and `box` lists."""
    from pydantic import TypeAdapter, ValidationError

    if isinstance(value, list) and name in ("frames", "box"):
        value = (":" if name == "frames" else ",").join(map(str, value))
    if name in ("begin", "end") and isinstance(value, int | float):
        value = str(value)
    if isinstance(value, str):
        value = value.strip()
    if isinstance(value, str) and name in ("references", "regions"):
        value = [part.strip() for part in value.split(";") if part.strip()]
    kind = _setting_types().get(name, str)
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError:
        wanted = next((words for one, words in _KINDS.items() if kind in (one, one | None)), _LISTS.get(name, "text"))
        raise UserError(f"The {name.replace('_', ' ')} must be {wanted}, not {shorten(repr(value))}.") from None


@cache
def _setting_types() -> dict[str, Any]:
    return get_type_hints(EditSettings)


def _beside(table: Path, said: str) -> Path:
    """A path that a table names, from the table's folder on."""
    return Path(said) if is_address(said) else table.parent / Path(said).expanduser()


def _region_beside(table: Path, said: str) -> str:
    """A region, whose mask's path begins at the table's folder."""
    region = parse_regions([said])
    return next(f"{n}:{_beside(table, str(mask))}" if isinstance(mask, Path) else said for n, mask in region.items())


def _check_source(path: Path) -> None:
    from opensama.media.video_io.opening import check_readable

    if not path.is_dir():  # of pictures
        check_readable(path)


def _check_places(table: Path, items: Sequence[BatchItem]) -> None:
    """UserError where two rows write one file, or a row writes what another reads."""
    reading = {os.path.realpath(source): item.row for item in items for source in item.sources}
    writing = dict[str, int]()
    for item, place in _places(items):
        if (row := reading.get(os.path.realpath(place))) is not None:
            raise UserError(
                f"{table}, row {item.row}: Its result {place} is what row {row} reads; choose another folder with "
                f"--out, or name the result in a column out."
            )
        other = writing.setdefault(place.name.lower(), item.row)  # which some file systems take for the same
        if other != item.row:
            raise UserError(
                f"{table}: the rows {other} and {item.row} would both write {place}; name each result in a column out."
            )


def _places(items: Sequence[BatchItem]) -> Iterator[tuple[BatchItem, Path]]:
    for item in items:
        for place in item.places:
            yield item, place
