"""`opensama data`: published datasets and folders of one's own as one manifest that trains."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from opensama.apps.options import HOW_MANY, OUT, OVERWRITE, check_free
from opensama.apps.progress import Display, duration
from opensama.values import UserError, how_many

if TYPE_CHECKING:
    from opensama.data.importing import ImportReport

app = App(name="data", help="Training data: bring published datasets in, look at them, pack them.")


@app.command(name="import")
def import_data(
    name: str | None = None,
    folder: Path | None = None,
    /,
    *,
    out: Annotated[Path | None, OUT] = None,
    task: str | None = None,
    swap: str | None = None,
    drop_first: int = 0,
    number: Annotated[int | None, HOW_MANY] = None,
    unpack: Path | None = None,
    media: Annotated[tuple[Path, ...] | None, Parameter(negative=())] = None,
    table: str | None = None,
    column: Annotated[tuple[str, ...] | None, Parameter(negative=())] = None,
    csv_dialect: str = "auto",
    check: Literal["open", "files"] = "open",
    hash_content: Annotated[bool, Parameter(name="--hash", negative=())] = False,
    overwrite: Annotated[bool, OVERWRITE] = False,
    list_all: Annotated[bool, Parameter(name="--list", negative=())] = False,
) -> None:
    """Write a manifest of a downloaded dataset: `opensama data import ditto Ditto-1M --out ditto.parquet`.

    Each row's files are looked for in all the ways in which such datasets lie on disks, and opened. Rows whose files
    are missing or broken are counted and listed in NAME.left-out.jsonl beside the manifest; the rest trains.

    Parameters
    ----------
    name
        Which dataset, as --list names them; table: any CSV, JSON, JSONL, Parquet or Arrow.
    folder
        The folder it was downloaded into; or one table.
    out
        The manifest to write: .parquet, or .jsonl.
    task
        Only edits of these tasks, with commas between: local-change,background,style,subtitle.
    swap
        Tasks whose source and target are published the wrong way round, with commas between, or: all.
    drop_first
        Leave out so many frames at the beginning of both sides (4 for OpenVE-3M, as SAMA did).
    number
        Stop after so many rows.
    unpack
        Take the files that chosen rows need out of archives, split ones too, into this folder, and no others.
    media
        One more folder in which files may lie; may be given several times.
    table
        Which files are the tables, as a pattern within FOLDER, in place of the usual ones.
    column
        Which column is what, where it is not understood: source=before, target=after, instruction=text, caption=...,
        task=...; may be given several times.
    csv_dialect
        How CSV tables are read: auto, as the whole content tells; excel, excel-tab, spark (quotes escaped by
        backslashes); or a list such as "separator=semicolon quote=single escape=backslash header=no".
    check
        open: open each file, which finds broken ones and writes down size and length; files: only look whether it is
        there and not empty.
    hash_content
        Write the SHA-256 of each target into the manifest.
    overwrite
        Replace the manifest where it exists.
    list_all
        List the datasets that are understood, with their licences, and stop.
    """
    if list_all:
        list_datasets()
        return
    from opensama.data.datasets import find_dataset

    if name is not None:
        find_dataset(name)
    if name is None or folder is None or out is None:
        raise UserError(
            "Say which dataset, where it is and what to write: `opensama data import ditto Ditto-1M --out "
            "ditto.parquet`; --list shows the datasets."
        )
    check_free(out, overwrite)
    from opensama.data.dialects import dialect_of
    from opensama.data.importing import Choice, import_dataset, parse_columns, tasks_of

    choice = Choice(
        tasks=tasks_of(task),
        swap=tasks_of(swap),
        drop_first=drop_first,
        limit=number,
        check=check,
        unpack=unpack,
        media=media or (),
        table=table,
        columns=parse_columns(column or ()),
        hash=hash_content,
        dialect=dialect_of(csv_dialect),
    )
    with Display() as show:
        report = import_dataset(name, folder, out, choice, progress=show)
    print(import_summary(report, out))
    licence = find_dataset(name).licence
    if licence:
        print(f"licence: {licence}")


@app.command
def show(
    manifest: Path,
    /,
    *,
    out: Annotated[Path | None, OUT] = None,
    number: Annotated[int, HOW_MANY] = 24,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> None:
    """Write a page about a manifest: counts, plots, samples that play, with a filter.

    The page is one HTML file that holds everything itself. Samples are picked at random, in turn from every task, kind
    and dataset.

    Parameters
    ----------
    manifest
        A .parquet, .jsonl or .csv manifest.
    out
        The page to write; by default NAME.html here.
    number
        How many samples, at most 300; each takes about 0.1 MB.
    overwrite
        Replace the page where it exists.
    """
    from opensama.apps.show import show_manifest, written_line

    page = out or Path(manifest.stem + ".html")
    check_free(page, overwrite)
    with Display() as display:
        found = show_manifest(manifest, page, number=number, progress=display)
    print(written_line(found, page))


@app.command(name="shard")
def shard_command(
    manifest: Path,
    /,
    *,
    out: Annotated[Path, OUT],
    size: Annotated[int, Parameter(name="--megabytes")] = 1000,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> None:
    """Copy a manifest's files into webdataset shards, which train without being unpacked.

    Writes OUT/shard-00000.tar and so on, then OUT/manifest.parquet, whose paths lead into them. Rows whose files cannot
    be read are said and left out.

    Parameters
    ----------
    manifest
        A .parquet, .jsonl or .csv manifest.
    out
        A new folder.
    size
        How large a shard becomes, about.
    overwrite
        Replace the shards that lie in the folder, once the new ones are whole.
    """
    check_free(out, overwrite)
    from opensama.data.shards import MANIFEST, write_tar_shards

    with Display() as display:
        report = write_tar_shards(manifest, out, size=size * 10**6, overwrite=overwrite, progress=display)
    for name, reason in report.left_out[:5]:
        print(f"left out {name}: {reason}")
    left = f", {how_many(len(report.left_out), 'row')} left out" if report.left_out else ""
    size_written = f"{how_many(report.shards, 'shard')}, {report.bytes / 1e6:,.1f} MB"
    print(f"written: {out / MANIFEST}, {how_many(report.records, 'row')} in {size_written}{left}")


def list_datasets() -> None:
    """Names, what they hold, licences."""
    from opensama.data.datasets import DATASETS

    width = max(len(dataset.name) for dataset in DATASETS)
    for dataset in DATASETS:
        licence = f"; licence: {dataset.licence}" if dataset.licence else ""
        title = f"{dataset.title}: " if dataset.name != "table" else ""
        print(f"{dataset.name:<{width}}  {title}{dataset.holds}{licence}")
    print("\nThe licences are as their cards said when this was written: read them yourself before you train.")


def import_summary(report: ImportReport, out: Path) -> str:
    """What came of it, in lines for people."""
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in report.kinds.most_common())
    rows = f"{report.kept:,} of {how_many(report.rows, 'row')}"
    lines = [f"written: {out}, {rows} ({kinds}) in {duration(report.seconds)}"]
    if report.not_chosen:
        lines.append(f"not chosen: {report.not_chosen:,}")
    if report.left_out:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in report.left_out.most_common())
        lines.append(f"left out: {report.left_out.total():,} ({reasons}), listed in {report.list}")
    for table, dialect in report.dialects.items():
        lines.append(f"{table} was read as CSV with {dialect}; --csv-dialect chooses another way")
    if report.unlike:
        lines.append(f"sides of unlike length: {report.unlike:,}, cut to the shorter")
    if report.unpacked:
        lines.append(f"taken out of archives: {how_many(report.unpacked, 'file')}")
    lines += report.archives
    if report.unopened:
        lines.append(f"archives not looked into: {report.unopened:,}; --unpack FOLDER takes out what is missing")
    return "\n".join(lines)
