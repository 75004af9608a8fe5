"""What can be wrong with a table of edits: rows for `bad_input.py`, each a name, its arguments and its exit code."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

_FULL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))"  # bytes a file


class Place(Protocol):
    """Where the rows' files and their model are."""

    @property
    def files(self) -> Path: ...

    @property
    def model(self) -> Path: ...


def batch(table: str, *options: str, out: str = "batched", name: str = "jobs.csv") -> Callable[[Place], list[str]]:
    """Arguments that make the edits of a table, which is written when they are asked for."""

    def arguments(at: Place) -> list[str]:
        path = at.files / name
        path.write_text(table)
        model = [] if "--model" in options else ["--model", str(at.model)]
        return ["batch", str(path), "--out", str(at.files / out), *model, *options]

    return arguments


def edits(*rows: str, columns: str = "video,instruction,out,box") -> str:
    """A table as CSV: `...` is an instruction, and what is left out at a row's end is empty."""
    wide = columns.count(",") + 1
    fields = [next(csv.reader([row.replace("...", "Make the ball red.")])) for row in rows]
    text = io.StringIO()
    csv.writer(text).writerows([columns.split(","), *(row + [""] * (wide - len(row)) for row in fields)])
    return text.getvalue()


def other(at: Place) -> list[str]:
    """Arguments of a table into the folder of another one's results."""
    (at.files / "first.csv").write_text("video,instruction\n")
    (at.files / "held" / "state").mkdir(parents=True)
    (at.files / "held" / "state" / "table.json").write_text(f'{{"table": "{at.files}/first.csv"}}')
    return batch(edits("clip.mp4,...", columns="video,instruction"), out="held")(at)


def nothing(at: Place) -> list[str]:
    """Arguments without a table."""
    return ["batch", str(at.files / "none.csv"), "--out", str(at.files / "batched")]


SETTINGS = "video,instruction,steps,seed,compare,frames"
PICTURE, SAMA = "video,instruction,reference", ("--model", "sama-14b")
ROWS: list[tuple[str, Callable[[Place], list[str]], int, str, str]] = [
    ("a table of edits that is not there", nothing, 2, "", ""),
    ("a table of edits that is none", batch("", name="jobs.docx"), 2, "", ""),
    ("a table of edits without rows", batch("video,instruction\n"), 2, "", ""),
    ("a table of edits with a column missing", batch(edits("clip.mp4,x", columns="video,prompt")), 2, "", ""),
    ("a column that is no setting", batch(edits("clip.mp4,...,3", columns="video,instruction,stepz")), 2, "", ""),
    ("a model for each row", batch(edits("clip.mp4,...,tiny", columns="video,instruction,model")), 2, "", ""),
    ("a row without an instruction", batch(edits("clip.mp4,...", "one.mp4,", columns="video,instruction")), 2, "", ""),
    (
        "a value out of range in two rows",
        batch(edits("clip.mp4,...,0", "one.mp4,...,2000", columns=SETTINGS)),
        2,
        "",
        "",
    ),
    ("a word for a number in a row", batch(edits("clip.mp4,...,,lucky", columns=SETTINGS)), 2, "", ""),
    ("neither true nor false in a row", batch(edits("clip.mp4,...,,,often", columns=SETTINGS)), 2, "", ""),
    ("frames backwards in a row", batch(edits("clip.mp4,...,,,,4:2", columns=SETTINGS)), 2, "", ""),
    ("a row's video that is not there", batch(edits("clip.mp4,...", "none.mp4,...,x.mp4")), 2, "", ""),
    ("a row's mask that is not there", batch(edits("clip.mp4,...,m.png", columns="video,instruction,mask")), 2, "", ""),
    (
        "a row's picture for a model that takes none",
        batch(edits("clip.mp4,...,still.png", columns=PICTURE), *SAMA),
        2,
        "",
        "",
    ),
    ("a row's result in another folder", batch(edits("clip.mp4,...,../x.mp4")), 2, "", ""),
    ("a row's result whose ending is not written", batch(edits("clip.mp4,...,x.avi")), 2, "", ""),
    ("a row's codec of another kind of file", batch(edits("clip.mp4,...,x.webm"), "--codec", "prores"), 2, "", ""),
    ("two rows of one result", batch(edits("clip.mp4,...", "one.mp4,...", "clip.mp4,...")), 2, "", ""),
    (
        "a row's result that is another's source",
        batch(edits("clip.mp4,...", "one.mp4,...,clip.mp4"), out=""),
        2,
        "",
        "",
    ),
    ("a row's result that is somebody else's", batch(edits("clip.mp4,...,taken.mp4"), out=""), 2, "", ""),
    ("results of another table", other, 2, "", "held"),
    ("results in a file's place, of a table", batch(edits("clip.mp4,..."), out="clip.mp4"), 2, "", ""),
    ("a setting out of range for all rows", batch(edits("clip.mp4,..."), "--steps", "0"), 2, "", ""),
    ("a table for an unknown model", batch(edits("clip.mp4,..."), "--model", "tinny"), 2, "", ""),
    ("workers of a table without Ray", batch(edits("clip.mp4,..."), "--workers", "2"), 2, "", ""),
    ("a device for Ray to choose", batch(edits("clip.mp4,..."), "--ray", "--device", "cuda:1"), 2, "", ""),
    ("a table of a broken and a good video", batch(edits("taken.mp4,...", "one.mp4,..."), out="half"), 2, "", "half"),
    ("a row's box outside the picture", batch(edits('clip.mp4,...,,"0,0,500,500"'), out="boxed"), 2, "", "boxed"),
    ("the disk is full in a batch", batch(edits("noise.mp4,..."), out="filled"), 2, _FULL, "filled"),
    ("and there is room again, for the batch", batch(edits("noise.mp4,..."), out="filled"), 0, "", ""),
]
