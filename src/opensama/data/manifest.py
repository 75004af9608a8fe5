"""One typed record for clips and pairs, and the files that hold many: Parquet, opened lazily, and JSONL and CSV.

A `pair` is an edit: source, target, instruction. A `clip` is one stretch of video, its file is the `target`. Paths are
relative to the manifest's folder, or absolute; times are seconds in the file, none means from the beginning or to the
end. A Parquet manifest of a million rows opens at once, because only its footer is read:

    write_manifest(path, records, {"dataset": "ditto"})
    manifest = read_manifest_table(path)        len(manifest), manifest[7], manifest[100:200], manifest.column("task")
    for record in manifest.select(task="style", media="video"): ...
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from itertools import accumulate, islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from opensama.data.dialects import named_rows
from opensama.first_bytes import check_first_bytes
from opensama.media import PICTURE_SUFFIXES
from opensama.runtime import whole_file
from opensama.values import UserError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

EDIT_TASKS = (
    "add", "remove", "replace", "recolor", "style", "background", "subtitle", "local-change", "motion", "camera",
    "creative", "reference", "inpaint", "outpaint", "control", "grounding", "reconstruct", "other",
)  # fmt: skip
"""What an edit does: every manifest and every report uses these names; the datasets' own are translated on import."""

_VERSION = 1
ROW_GROUP = 16_384  # rows that are decoded together


@dataclass(frozen=True, slots=True)
class Record:
    """A clip or a pair. Everything in it is text, a number, or a mapping of names to these, so it becomes JSON."""

    id: str  # stable: dataset and row, or a hash of the content
    kind: Literal["clip", "pair"]
    target: str
    source: str | None = None
    target_start: float | None = None
    target_end: float | None = None
    source_start: float | None = None
    source_end: float | None = None
    width: int | None = None  # of the target, as it is shown
    height: int | None = None
    frames: int | None = None  # that can be used: from start to end, no more than the source has
    fps: float | None = None
    seconds: float | None = None
    caption: str = ""
    instruction: str = ""
    task: str = ""  # one of TASKS, or empty
    scores: dict[str, float] = field(default_factory=dict)
    dataset: str = ""
    license: str = ""
    line: int = 0  # of the file that it was read from
    hash: str = ""  # of the target's content, empty if not computed
    media: Literal["image", "video"] = "video"
    notes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.id or not self.target:
            raise ValueError("a record needs an id and a target")
        if self.kind not in ("clip", "pair") or self.media not in ("image", "video"):
            raise ValueError(f"a record is a clip or a pair of images or videos, not {self.kind!r} of {self.media!r}")
        if (self.kind == "pair") != (self.source is not None):
            raise ValueError("a pair has a source, a clip none")
        if self.task and self.task not in EDIT_TASKS:
            raise ValueError(f"the task {self.task!r} is none of {', '.join(EDIT_TASKS)}")
        for start, end in ((self.target_start, self.target_end), (self.source_start, self.source_end)):
            if (start is not None and start < 0) or (end is not None and end <= (start or 0)):
                raise ValueError(f"the times {start} to {end} are no stretch of a video")
        said = (self.caption, self.instruction, self.dataset, self.license, *self.notes, *self.notes.values())
        texts = (self.id, self.target, self.source or "", *said)
        if not all(map(str.isascii, texts)):
            for text in texts:
                if text != text.encode("utf-8", "replace").decode():
                    raise ValueError(f"{text!a} is not Unicode: rename the file, or mend the text")

    def to_dict(self) -> dict[str, object]:
        """All fields, the mappings copied."""
        return {name: dict(value) if isinstance(value := getattr(self, name), dict) else value for name in FIELDS}

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Self:
        """A record of the fields among `values`; other keys are left alone. ValueError says what is wrong."""
        return cls(**{name: _TAKE[name](name, values[name]) for name in FIELDS if name in values})

    def where(self, folder: Path) -> Self:
        """The same with paths that can be opened, for a manifest in that folder."""
        return self.with_paths(lambda path: str(folder / path))

    def with_paths(self, path: Callable[[str], str]) -> Self:
        """The same with both paths changed."""
        return replace(self, target=path(self.target), source=None if self.source is None else path(self.source))


FIELDS = tuple(entry.name for entry in fields(Record))
_NUMBERS: dict[str, type] = {"width": int, "height": int, "frames": int, "line": int}
_NUMBERS |= dict.fromkeys(("target_start", "target_end", "source_start", "source_end", "fps", "seconds"), float)
_MAPPINGS = {"scores": float, "notes": str}


class Manifest(Sequence[Record]):
    """Rows of a Parquet file, decoded when they are asked for; `meta` is what the writer said about all of them.

    A slice and a selection are manifests too: the same file, fewer rows.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file = _open_parquet(path)
        footer = self._file.schema_arrow.metadata or {}
        said = json.loads(footer.get(b"opensama", b"{}"))
        self.meta: dict[str, object] = said.get("meta", {})
        counts = (self._file.metadata.row_group(i).num_rows for i in range(self._file.metadata.num_row_groups))
        self._firsts = [0, *accumulate(counts)]  # of each row group, and behind the last
        self._rows: range | np.ndarray = range(self._firsts[-1])
        self._group = lru_cache(2)(self._read)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Manifest: ...
    def __getitem__(self, index: int | slice) -> Record | Manifest:
        if isinstance(index, slice):
            return self._with(self._rows[index])
        row = int(self._rows[index])
        group = bisect_right(self._firsts, row) - 1
        (values,) = self._group(group).slice(row - self._firsts[group], 1).to_pylist()
        return _of_row(values)

    def __iter__(self) -> Iterator[Record]:
        for _, table in self._tables(None):
            for batch in table.to_batches(1024):
                yield from map(_of_row, batch.to_pylist())

    def columns(self, *names: str) -> pa.Table:
        """These columns of all rows as an Arrow table; nothing else is read."""
        import pyarrow as pa

        unknown = [name for name in names if name not in FIELDS]
        if unknown:
            raise UserError(f"A manifest has no column {unknown[0]!r}; it has {', '.join(FIELDS)}.")
        tables = [table for _, table in self._tables(names)]
        return pa.concat_tables(tables) if tables else schema().empty_table().select(list(names))

    def column(self, name: str) -> list[object]:
        """One column of all rows."""
        return self.columns(name).column(0).to_pylist()

    def select(self, **wanted: object) -> Manifest:
        """The rows whose columns have these values, or one of several: `select(task=("style", "background"))`."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        table = self.columns(*wanted)
        keep = np.ones(len(self), bool)
        for name, value in wanted.items():
            many = isinstance(value, Collection) and not isinstance(value, str)
            values = pa.array(list(value) if many else [value], schema().field(name).type)  # type: ignore[call-overload]
            keep &= pc.is_in(table.column(name), value_set=values).to_numpy()
        return self._with(np.asarray(self._rows)[keep])

    def _with(self, rows: range | np.ndarray) -> Manifest:
        same = object.__new__(Manifest)
        same.__dict__ |= self.__dict__ | {"_rows": rows}
        return same

    def _read(self, group: int, names: Sequence[str] = FIELDS) -> pa.Table:
        """One row group. UserError if it is damaged."""
        try:
            return self._file.read_row_group(group, list(names))
        except OSError as error:  # Arrow's own are OSErrors, too
            raise UserError(f"{self.path} is damaged ({error}): make it again, or copy it whole.") from None

    def _tables(self, names: Sequence[str] | None) -> Iterator[tuple[int, pa.Table]]:
        """The chosen rows in their order, as tables of row groups that lie one behind the other."""
        import numpy as np

        names = FIELDS if names is None else names
        if isinstance(self._rows, range) and self._rows == range(self._firsts[-1]):
            for group in range(len(self._firsts) - 1):
                yield group, self._read(group, names)
            return
        rows = np.asarray(self._rows)
        groups = np.searchsorted(self._firsts, rows, side="right") - 1
        cuts = [0, *(np.flatnonzero(np.diff(groups)) + 1).tolist(), len(rows)]
        for first, last in pairwise(cuts):
            if first < last:
                group = int(groups[first])
                yield group, self._read(group, names).take(rows[first:last] - self._firsts[group])


def read_manifest_table(path: str | Path) -> Manifest:
    """A Parquet manifest, opened lazily and memory-mapped. UserError for what is none."""
    return Manifest(Path(path))


def iter_records(path: str | Path) -> Iterator[Record]:
    """The records of a Parquet, JSONL or CSV manifest, one by one. UserError names the first line that is wrong.

    JSONL and CSV may also be short, as `opensama train` takes them: source, target, instruction, or clip, caption.
    """
    path = Path(path)
    if path.suffix.lower() == ".parquet":
        yield from read_manifest_table(path)
        return
    for line, values in text_rows(path):
        whole = _whole(values, line, path.stem)
        if not whole.get("target"):
            raise UserError(f"Line {line} of {path} has no target; {bring_in(values)}")
        try:
            yield Record.from_dict(whole)
        except (ValueError, TypeError) as error:
            raise UserError(f"Line {line} of {path} is no record: {error}; mend it.") from None


def write_manifest(
    path: str | Path, records: Iterable[Record], meta: Mapping[str, object] | None = None, row_group: int = ROW_GROUP
) -> int:
    """Writes Parquet, or JSONL for a name that ends so (which has no room for `meta`); the number of rows comes out.

    The records are taken one by one, and the file gets its name when it is whole.
    """
    path = Path(path)
    check_name(path)
    ending, count = path.suffix.lower(), 0
    with whole_file(path) as temporary:
        if ending == ".jsonl":
            with temporary.open("w", encoding="utf-8") as lines:
                for record in records:
                    lines.write(json.dumps(record.to_dict(), ensure_ascii=False) + "\n")
                    count += 1
            return count
        import pyarrow as pa
        import pyarrow.parquet as pq

        said = {"version": _VERSION, "meta": dict(meta or {})}
        shape = schema().with_metadata({"opensama": json.dumps(said)})
        stream = iter(records)
        with pq.ParquetWriter(temporary, shape, compression="zstd") as writer:
            while chunk := [_to_row(record) for record in islice(stream, row_group)]:
                writer.write_table(pa.Table.from_pylist(chunk, shape), row_group_size=row_group)
                count += len(chunk)
    return count


def check_name(path: Path) -> None:
    """UserError unless a manifest can be written there."""
    if path.suffix.lower() not in (".parquet", ".jsonl"):
        raise UserError(f"A manifest is written as .parquet or .jsonl, not as {path.name}: choose another name.")
    if not path.parent.is_dir():
        raise UserError(f"There is no folder {path.parent} to write {path.name} into: make it first.")


def check_there(path: Path) -> None:
    """UserError where there is no manifest of that name."""
    if not path.exists():
        raise UserError(f"There is no manifest {path}: check the name.")


def text_rows(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    """Line number and values of each row of a JSONL or CSV manifest; empty cells of a CSV are left out."""
    check_there(path)
    if path.is_file() and path.stat().st_size:
        check_first_bytes(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except IsADirectoryError:
        raise UserError(f"{path} is a folder: give its manifest, a .parquet, .jsonl or .csv file.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8: a manifest is a .parquet, .jsonl or .csv file.") from None
    if path.suffix.lower() == ".csv":
        for line, row in named_rows(path):
            yield line, {key: value for key, value in row.items() if value != ""}
        return
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            record = json.loads(content)
        except ValueError as error:
            raise UserError(f"Line {line} of {path} is not JSON ({error}): mend it.") from None
        if not isinstance(record, dict):
            raise UserError(f"Line {line} of {path} is no JSON object such as {{'clip': 'a.mp4'}}: mend it.")
        yield line, record


def schema() -> pa.Schema:
    """The columns of a Parquet manifest, in the order of `Record`."""
    import pyarrow as pa

    types = {int: pa.int64(), float: pa.float64(), str: pa.string()}
    return pa.schema(
        pa.field(
            name, pa.map_(pa.string(), types[_MAPPINGS[name]]) if name in _MAPPINGS else types[_NUMBERS.get(name, str)]
        )
        for name in FIELDS
    )


# --- one row


def _to_row(record: Record) -> dict[str, object]:
    return {name: list(value.items()) if isinstance(value := getattr(record, name), dict) else value for name in FIELDS}


def _of_row(values: dict[str, Any]) -> Record:
    values["scores"], values["notes"] = dict(values["scores"] or ()), dict(values["notes"] or ())
    return Record(**values)


def bring_in(columns: Iterable[str]) -> str:
    """How a table of other columns becomes a manifest: the end of a sentence."""
    return f"a table of {', '.join(columns)} is brought in with `opensama data import table`."


def _whole(values: dict[str, object], line: int, dataset: str) -> dict[str, object]:
    """A short row with what it leaves out, a whole one as it is."""
    out = dict(values)
    if "clip" in out:
        out["target"] = out.pop("clip")
    media = "image" if str(out.get("target", "")).lower().endswith(PICTURE_SUFFIXES) else "video"
    kind = "pair" if out.get("source") else "clip"
    return {"id": f"{dataset}-{line}", "kind": kind, "line": line, "media": media} | out


def _text(name: str, value: object) -> str | None:
    if value is None and name == "source":
        return None
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r}, which is no text")
    return value


def _number(name: str, value: Any) -> int | float | None:
    if value is None and name != "line":
        return None
    try:
        if isinstance(value, bool) or (out := _NUMBERS[name](value)) != float(value) or not -1e15 < out < 1e15:
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {value!r}, which is no{' whole' * (_NUMBERS[name] is int)} number") from None
    return out


def _mapping(name: str, value: object) -> dict[str, object]:
    if isinstance(value, str):  # a cell of a CSV
        value = json.loads(value)
    kind = _MAPPINGS[name]
    good = (int, float) if kind is float else str
    if not isinstance(value, Mapping) or not all(isinstance(k, str) and isinstance(v, good) for k, v in value.items()):
        raise ValueError(f"{name} is {value!r}, which does not map names to {'numbers' if kind is float else 'texts'}")
    return {k: kind(v) for k, v in value.items()}


_TAKE: dict[str, Callable[[str, object], Any]] = {
    name: _number if name in _NUMBERS else _mapping if name in _MAPPINGS else _text for name in FIELDS
}


def _open_parquet(path: Path) -> pq.ParquetFile:
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_there(path)
    if path.is_file() and path.stat().st_size:
        check_first_bytes(path)
    try:
        file = pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowInvalid, OSError) as error:
        what = (
            "empty (0 bytes)" if path.is_file() and path.stat().st_size == 0 else f"not Parquet, or cut off ({error})"
        )
        raise UserError(f"{path} is {what}: make it again, or copy it whole.") from None
    missing = [name for name in FIELDS if name not in file.schema_arrow.names]
    if missing:
        raise UserError(
            f"{path} is a table of something else (it has no column {missing[0]!r}): bring it in with "
            "`opensama data import table`."
        )
    return file
