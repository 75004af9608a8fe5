"""Rows of Parquet and Arrow: what cannot be read, a page, a batch or a value, takes no other row with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from opensama.data.rows import BadRow, TableRow
from opensama.values import UserError

if TYPE_CHECKING:
    import pyarrow as pa

TOGETHER = 64  # rows that are read together: they may hold pictures
MAGIC = b"ARROW1\0\0"


def parquet(path: Path) -> Iterator[tuple[int, TableRow | BadRow]]:
    """Number and values of each row; a BadRow for the rest of a row group from a damaged page on."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path, memory_map=True, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is not Parquet, or cut off ({error}): download it again.") from None
    first = 0
    for group in range(file.metadata.num_row_groups):
        count, given = file.metadata.row_group(group).num_rows, 0
        try:
            for batch in file.iter_batches(TOGETHER, row_groups=[group]):
                for row in _rows(batch):
                    given += 1
                    yield first + given, row
        except (pa.ArrowException, OSError) as error:
            lost = f"rows {first + given + 1:,} to {first + count:,} cannot be read, their pages are damaged ({error})"
            yield first + given + 1, BadRow(lost, count - given)
        first += count


def count(path: Path) -> int:
    """How many rows a Parquet file says it has, 0 for one that cannot be opened."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError):
        return 0


def arrow(path: Path) -> Iterator[tuple[int, TableRow | BadRow]]:
    """Number and values of each row of an Arrow file or stream (`datasets` writes streams under the same name).

    A file that lost its end is read as the stream that it begins with.
    """
    import pyarrow as pa

    given = 0
    try:
        with pa.memory_map(str(path)) as source:
            batches = _batches(source)
            while True:
                try:
                    batch = next(batches, None)
                    if batch is None:
                        return
                    if isinstance(batch, pa.RecordBatch):
                        batch.validate(full=True)  # nothing else checks it: offsets may lead anywhere
                except (pa.ArrowException, OSError) as error:
                    yield given + 1, BadRow(f"a batch of rows behind row {given:,} is damaged ({error})")
                    continue
                if isinstance(batch, BadRow):
                    yield given + 1, batch
                    continue
                for row in _rows(batch):
                    given += 1
                    yield given, row
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is not Arrow, or damaged ({error}): download it again.") from None


def _batches(source: pa.NativeFile) -> Iterator[pa.RecordBatch | BadRow]:
    import pyarrow as pa

    if source.read(len(MAGIC)) == MAGIC:
        try:
            file = pa.ipc.open_file(source)
        except (pa.ArrowException, OSError):
            source.seek(len(MAGIC))
        else:
            for number in range(file.num_record_batches):
                try:
                    yield file.get_batch(number)
                except (pa.ArrowException, OSError) as error:
                    yield BadRow(f"batch {number + 1} of {file.num_record_batches} is damaged ({error})")
            return
    else:
        source.seek(0)
    stream = pa.ipc.open_stream(source)
    while True:
        try:
            yield stream.read_next_batch()
        except StopIteration:
            return
        except (pa.ArrowException, OSError) as error:
            yield BadRow(f"the file is cut off or damaged, no row behind this place can be read ({error})")
            return


def _rows(batch: pa.RecordBatch) -> Iterator[TableRow | BadRow]:
    """The rows of a batch; a BadRow names the column of a value that cannot be read."""
    import pyarrow as pa

    plain = pa.RecordBatch.from_arrays([_spoken(column) for column in batch.columns], batch.schema.names)
    try:
        readable = plain.to_pylist()
    except (ValueError, OverflowError, pa.ArrowException):  # text that is not UTF-8, times that Python has not
        readable = []
    yield from readable
    for place in range(len(readable), plain.num_rows):
        row: TableRow = {}
        bad: BadRow | None = None
        for name, column in zip(plain.schema.names, plain.columns, strict=True):
            try:
                row[name] = column[place].as_py()
            except (ValueError, OverflowError, pa.ArrowException) as error:
                bad = bad or BadRow(f"its column {name} cannot be read ({error})")
        yield bad or row


def _spoken(column: pa.Array) -> pa.Array:
    """Times as text: Python has neither nanoseconds nor every year."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_temporal(column.type) or pa.types.is_interval(column.type):
        return column
    try:
        return pc.cast(column, pa.string())
    except pa.ArrowException:
        return column
