"""What a file is, said by its first bytes: whatever its name promises, this is what lies there.

Downloads and clones leave other things under the right names: a Git LFS pointer (a clone without git-lfs), the page
that a server showed in place of the file, nothing, or room that was set aside and never filled. Openers ask here first:

    check_first_bytes(path)     a file on disk: UserError if it is such a stand-in
    stand_in(head, size)        bytes from elsewhere: the end of the sentence, "" if nothing speaks against them
    is_address(name)            https://... and s3://..., which are no files
    kind_of(head)               "a ZIP archive", "a PDF document", ..., "" if unknown
"""

from __future__ import annotations

import re
from pathlib import Path

from opensama.values import UserError

HEAD = 1024
"""Bytes that are looked at. A Git LFS pointer is shorter."""

_LFS = re.compile(rb"version https://(git-lfs\.github\.com|hawser\.github\.com)/spec/v\d")
_ADDRESS = re.compile(r"(?!file:)[a-z][a-z0-9+.-]+:/{1,2}[^/]", re.IGNORECASE)  # of a Path one slash is left
_PAGE = re.compile(rb"<(!doctype\s+html|html|head|body)\b", re.IGNORECASE)
_XML_ERROR = re.compile(rb"<(?:\w+:)?Error\b.*?<Code>([^<]{1,80})</Code>", re.DOTALL)
_KINDS = (
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"%PDF-", "a PDF document"),
    (b"PAR1", "a Parquet table"),
    (b"ARROW1", "an Arrow table"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"\x80\x02", "a Python pickle"),
    (b"\x80\x04\x95", "a Python pickle"),
)


def check_first_bytes(path: Path) -> None:
    """Raises `UserError` if the file at `path` stands in for the wanted one. What is not there or may not be read
    passes: the opener says that."""
    try:
        with path.open("rb") as file:
            head, size = file.read(HEAD), path.stat().st_size
    except OSError:
        return
    if said := stand_in(head, size):
        raise UserError(f"{path} {said}.")


def stand_in(head: bytes, size: int) -> str:
    """What a file of `size` bytes that begins with `head` is in place of the wanted one, and how to mend it: the end of
    a sentence that begins with the file's name. Nothing if it may be the wanted one."""
    if size == 0:
        return "is empty (0 bytes); copy or download it again"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if _LFS.match(text):
        promised = re.search(rb"^size (\d{1,18})\s*$", text, re.MULTILINE)
        of = f" to {int(promised[1]):,} bytes" if promised else ""
        return f"is a Git LFS pointer{of}: fetch the file itself with `git lfs pull`"
    if text.startswith(b"/annex/objects/"):
        return "is a git-annex pointer: fetch the file itself with `git annex get`"
    if _PAGE.match(text) or (text.startswith((b"<?xml", b"<!--")) and _PAGE.search(text)):
        return "is a web page, not the file: a server's error or login page was saved in its place; download it again"
    if text.startswith(b"<") and (error := _XML_ERROR.search(text)):
        code = error[1].decode("ascii", "replace")
        return f"is a server's error message ({code}), not the file; download it again"
    if len(head) >= min(size, 64) and not head.strip(b"\0"):
        return "begins with nothing but zeros: its download was not finished; download it again"
    return ""


def is_address(name: str | Path) -> bool:
    """Whether a name is an address on the net or in a cloud's store, which a file system has no place for."""
    return _ADDRESS.match(str(name)) is not None


def kind_of(head: bytes) -> str:
    """A file's kind with its article, for `is not a video but ...`; nothing if its first bytes tell none."""
    return next((kind for magic, kind in _KINDS if head.startswith(magic)), "")
