"""What can go wrong where data is curated: rows for `bad_input.py`, each a name, its arguments and its exit code."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Protocol

from tests.curation.server import Asked, ChatServer, Fault

DOWN = "http://127.0.0.1:9/v1"  # where nobody listens


class Place(Protocol):
    """Where the rows' files are."""

    @property
    def files(self) -> Path: ...


@cache
def locked() -> str:
    """A server that wants a key which nobody has."""
    return ChatServer(key="another").__enter__().url


@cache
def broke() -> str:
    """A server whose owner has not paid."""

    def answer(asked: Asked) -> Fault:
        return Fault(429, "you exceeded your current quota", "insufficient_quota")

    return ChatServer(answer).__enter__().url


@cache
def chatty() -> str:
    """A server that never answers in JSON."""
    return ChatServer(lambda asked: "I would rather not say.").__enter__().url


@cache
def one_eyed() -> str:
    """A server that takes one picture a question."""

    def answer(asked: Asked) -> str | Fault:
        return Fault(400, "at most 1 image may be given") if len(asked.images) > 1 else "yes"

    return ChatServer(answer).__enter__().url


def curate(command: str, given: str, *options: str, out: str = "curated") -> Callable[[Place], list[str]]:
    """Arguments of `opensama curate`; where an option is a function, what it gives, once it is asked."""
    return lambda at: ["curate", command, str(at.files / given), "--out", str(at.files / out), *options]


def clips(ask: Callable[[], str], out: str) -> Callable[[Place], list[str]]:
    """Arguments that pair the clips of a folder."""
    rules = ("--frames", "3", "--min-side", "32", "--min-seconds", "0", "--min-fps", "1", "--low-motion", "0")
    rules += ("--high-motion", "1000", "--retries", "0")
    return lambda at: curate("clips", "raw", *rules, "--vlm-url", ask(), out=out)(at)


def prepare(files: Path) -> None:
    """A folder with a video, one of 0 bytes and one that is none."""
    (files / "raw").mkdir()
    (files / "raw" / "good.mp4").write_bytes((files / "noise.mp4").read_bytes())
    (files / "raw" / "empty.mp4").touch()
    (files / "raw" / "letter.mp4").write_text("Dear reader, this is no video.\n" * 50)


FILTER = "data/data.jsonl"
ROWS: list[tuple[str, Callable[[Place], list[str]], int, str, str]] = [
    ("videos to cut that are not there", curate("clips", "nowhere"), 2, "", ""),
    ("a folder without videos", curate("clips", "empty"), 2, "", ""),
    ("clips of no length", curate("clips", "raw", "--frames", "0"), 2, "", ""),
    ("an empty and a broken file among videos", curate("clips", "raw", "--min-side", "32", out="cut"), 0, "", ""),
    ("a VLM that is down", clips(lambda: DOWN, "down"), 2, "", ""),
    ("a VLM that wants another key", clips(locked, "locked"), 2, "", ""),
    ("a VLM whose quota is spent", clips(broke, "broke"), 2, "", "broke"),
    ("a VLM that takes one picture a question", clips(one_eyed, "one_eyed"), 2, "", "one_eyed"),
    ("a VLM that does not answer in JSON", clips(chatty, "chatty"), 0, "", ""),
    ("pairs to filter that are not there", curate("filter", "none.jsonl", "--vlm-url", DOWN), 2, "", ""),
    ("pairs to filter in a damaged manifest", curate("filter", "cut.parquet", "--vlm-url", DOWN), 2, "", ""),
    ("a filter that may ask nobody", curate("filter", FILTER), 2, "", ""),
    ("a filter whose VLM's address is none", curate("filter", FILTER, "--vlm-url", "localhost"), 2, "", ""),
    ("thresholds too few", curate("filter", FILTER, "--vlm-url", DOWN, "--video-thresholds", "8,9"), 2, "", ""),
    ("an unknown kind of edit", curate("pairs", "raw", "--vlm-url", DOWN, "--kinds", "fly"), 2, "", ""),
    ("a segmenter that is none", curate("pairs", "raw", "--vlm-url", DOWN, "--segmenter", "one"), 2, "", ""),
]
