"""A manifest's files in few large ones: webdataset shards, which train without being unpacked.

    DIR/shard-00003.tar       000412.json  000412.source.mp4  000412.target.mp4  000413.json ...
    DIR/manifest.parquet      the same rows; their paths lead into the tars: shard-00003.tar/000412.target.mp4

Thousands of small files are slow on the file systems of clusters, a tar is read as one. `opensama train --data
DIR/manifest.parquet` reads each video where it lies in its tar (`media/video_io/member.py`), at any place and in any
order; the `webdataset` library streams the same tars. A sample's JSON is its record, with the names of its files in the
tar, so the manifest can be made again from the tars alone (`shard_records`). A file that several records of one shard
name is stored once.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from opensama.data.manifest import Manifest, Record, iter_records, read_manifest_table, write_manifest
from opensama.media.video_io.member import member_of, open_file, size_of
from opensama.runtime import whole_file
from opensama.values import Progress, UserError

SIZE = 10**9  # bytes of a shard, about
MANIFEST = "manifest.parquet"


@dataclass
class ShardReport:
    """What was written. `left_out` are the records whose files could not be read: name, reason."""

    records: int = 0
    shards: int = 0
    bytes: int = 0
    left_out: list[tuple[str, str]] = field(default_factory=list)


def write_tar_shards(
    manifest: Path,
    out: Path,
    *,
    size: int = SIZE,
    overwrite: bool = False,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> ShardReport:
    """Copies a manifest's files into tars of about `size` bytes in `out`, and writes the manifest that names them.

    The manifest comes last, so a folder that has one is whole. Files that cannot be read leave their records out.
    With `overwrite` shards that are there are replaced by the new ones when these are whole; other files stay.
    """
    if size < 1:
        raise UserError(f"A shard's size must be positive, not {size}.")
    total = len(read_manifest_table(manifest)) if manifest.suffix.lower() == ".parquet" else 0
    records = iter_records(manifest)
    first = next(records, None)
    if first is None:
        raise UserError(f"The manifest {manifest} has no rows: there is nothing to write.")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file, where a folder belongs: choose another name.")
    if out.exists() and any(out.iterdir()):
        if not overwrite:
            raise UserError(f"{out} holds something: choose another folder, or write over it with `overwrite=True`.")
        with TemporaryDirectory(prefix=f".{out.name[:60]}.", suffix=".part", dir=out.absolute().parent) as scratch:
            report = write_tar_shards(manifest, Path(scratch), size=size, progress=progress)
            for old in (*out.glob("shard-*.tar"), out / MANIFEST):
                old.unlink(missing_ok=True)
            for new in sorted(Path(scratch).iterdir(), reverse=True):  # the manifest last
                new.rename(out / new.name)
        return report
    out.mkdir(parents=True, exist_ok=True)
    report, began = ShardReport(), time.monotonic()

    def written() -> Iterator[Record]:
        coming = chain([first], records)
        record = next(coming, None)
        while record is not None:
            name = f"shard-{report.shards:05}.tar"
            with whole_file(out / name) as temporary:
                inside: list[Record] = []
                with tarfile.open(temporary, "w") as tar:
                    shard = _Shard(tar, manifest.parent)
                    while record is not None and (shard.bytes < size or not inside):
                        try:
                            inside.append(shard.add(record, report.records + len(inside)))
                        except (OSError, UserError) as error:
                            report.left_out.append((record.id, str(error)))
                        done = report.records + len(inside) + len(report.left_out)
                        progress(Progress("Writing", done, max(done, total), time.monotonic() - began))
                        record = next(coming, None)
            if not inside:
                (out / name).unlink()
                break
            report.shards, report.records = report.shards + 1, report.records + len(inside)
            report.bytes += (out / name).stat().st_size
            for entry in inside:
                yield entry.with_paths(lambda path, name=name: f"{name}/{path}")  # type: ignore[misc]

    meta = Manifest(manifest).meta if total else {}
    write_manifest(out / MANIFEST, written(), meta)
    if not report.records:
        for path in out.iterdir():
            path.unlink()
        raise UserError(f"No row of {manifest} can be read; the first: {report.left_out[0][1]}")
    return report


def shard_records(folder: Path) -> Iterator[Record]:
    """The records of a folder's shards in order, from the tars alone; paths are relative to the folder."""
    tars = sorted(folder.glob("*.tar"))
    if not tars:
        raise UserError(f"There are no shards (*.tar) in {folder}: check the name.")
    for path in tars:
        try:
            with tarfile.open(path, "r:") as tar:
                for entry in tar:
                    if entry.name.endswith(".json") and (file := tar.extractfile(entry)) is not None:
                        record = Record.from_dict(json.load(file))
                        yield record.with_paths(lambda name, tar=path.name: f"{tar}/{name}")  # type: ignore[misc]
        except (tarfile.TarError, OSError, ValueError, TypeError) as error:
            raise UserError(f"{path} is no shard, or damaged ({error}): copy it again.") from None


class _Shard:
    """A tar that is being written."""

    def __init__(self, tar: tarfile.TarFile, folder: Path):
        self.tar, self.folder, self.bytes = tar, folder, 0
        self.names: dict[Path, str] = {}

    def add(self, record: Record, number: int) -> Record:
        """The record with the names of its files within the tar. Nothing is written if one cannot be read."""
        key = f"{number:09}"
        sides = {"target": record.target} | ({} if record.source is None else {"source": record.source})
        paths = {side: self.folder / path for side, path in sides.items()}
        for path in paths.values():
            if member_of(path) is None and path.is_dir():
                raise UserError(f"{path} is a folder of images, which shards do not hold")
            if size_of(path) == 0:
                raise UserError(f"{path} is empty (0 bytes)")
            if not os.access(path, os.R_OK) and member_of(path) is None:
                raise UserError(f"{path} may not be read")
        new = {path: f"{key}.{side}{path.suffix}" for side, path in paths.items() if path not in self.names}
        self.names |= new
        inside = record.with_paths(lambda path: self.names[self.folder / path])
        text = json.dumps(inside.to_dict(), ensure_ascii=False).encode()
        self._write(f"{key}.json", io.BytesIO(text), len(text))
        for path, name in new.items():
            with open_file(path) as file:
                self._write(name, file, size_of(path))
        return inside

    def _write(self, name: str, file: IO[bytes], size: int) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = size
        self.tar.addfile(entry, file)
        self.bytes += size
