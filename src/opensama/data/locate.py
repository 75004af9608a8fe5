"""Where a published path lies on this disk: under another folder, in a folder twice, or with a prefix too many.

A table says `source/0000/x.mp4`; the disk has `videos/source/source/0000/x.mp4`, because each archive brings its own
folder. Every way of reading a path is tried, the one that worked last for such paths first.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from threading import Lock

Way = tuple[int, str, int, int, str]  # root, base, parts dropped, part doubled (-1: none), folder in place of another


class Finder:
    """Finds files under several roots. `bases` are folders in them; `renames` says how the disk calls some of them."""

    def __init__(self, roots: Sequence[Path], bases: Sequence[str] = (), renames: Mapping[str, str] | None = None):
        self.roots = [*roots]
        self.bases = ("", *bases)
        self.renames = dict(renames or {})
        self._worked: dict[str, Way] = {}
        self._lock = Lock()
        self._names: dict[str, list[tuple[str, str]]] | None = None
        self._is_folder = lru_cache(100_000)(Path.is_dir)

    def find(self, said: str, near: Sequence[Path] = ()) -> Path | None:
        """The file, or None. `near` are folders around the table that says so, which are tried first."""
        path = Path(said).expanduser()
        if path.is_absolute() and path.is_file():
            return path
        parts = path_parts(said)
        if not parts:
            return None
        for folder in near:
            if (beside := folder.joinpath(*parts)).is_file():
                return beside
        key = "/".join(parts[:2]) if len(parts) > 2 else parts[0]
        if key in self._worked:
            found = self._at(parts, self._worked[key])
            if found is not None:
                return found
        for way in self._ways(parts):
            found = self._at(parts, way)
            if found is not None:
                self._worked[key] = way
                return found
        return None

    def readings(self, said: str) -> set[str]:
        """Every place, from a root, that the path may mean."""
        parts = path_parts(said)
        ways = (self._place(parts, way) for way in self._ways(parts) if way[0] == 0)
        return {place for place in ways if place}

    def _ways(self, parts: Sequence[str]) -> Iterator[Way]:
        for drop in range(max(1, len(parts) - 1)):  # never down to the bare file name
            for rename in ("", *self.renames):
                for doubled in (-1, 0, 1):
                    for base in self.bases:
                        for root in range(len(self.roots)):
                            yield root, base, drop, doubled, rename

    def _at(self, parts: Sequence[str], way: Way) -> Path | None:
        place = self._place(parts, way)
        if not place:
            return None
        path = self.roots[way[0]] / place
        return path if self._is_folder(path.parent) and path.is_file() else None

    def find_name(self, name: str, among: str = "") -> Path | None:
        """The only file of that name under the roots, with or without its ending; None where several have it.

        With `among` only those files count of which a folder's name fits that pattern.
        """
        with self._lock:
            if self._names is None:
                self._names = {}
                for root in self.roots:
                    for folder, _, found in os.walk(root):
                        near = os.path.relpath(folder, root).lower()
                        for file in found:
                            self._names.setdefault(PurePosixPath(file).stem, []).append((near, f"{folder}/{file}"))
        named = (*self._names.get(name, ()), *self._names.get(PurePosixPath(name).stem, ()))
        fits = {Path(path) for near, path in named if re.search(among, near)}
        fits = {path for path in fits if name in (path.name, path.stem)}
        return fits.pop() if len(fits) == 1 else None

    def _place(self, parts: Sequence[str], way: Way) -> str:
        """The place that a way of reading leads to, empty if it does not apply."""
        _, base, drop, doubled, rename = way
        kept = list(parts[drop:])
        if rename:
            old = rename.split("/")
            if kept[: len(old)] != old or len(kept) == len(old):
                return ""
            kept = [*self.renames[rename].split("/"), *kept[len(old) :]]
        if doubled >= 0:
            if doubled >= len(kept) - 1:
                return ""
            kept.insert(doubled, kept[doubled])
        return "/".join([*base.split("/"), *kept] if base else kept)


def climbs(said: str) -> str:
    """Why a path with `..` is not found, and what to do: the end of a sentence; nothing for another path."""
    if ".." not in PurePosixPath(said.replace("\\", "/")).parts or not (parts := path_parts(said)):
        return ""
    return (
        f": `..` is not followed, since a table may not lead out of its folder; give the folder that holds {parts[0]} "
        "with `media`"
    )


def path_parts(said: str) -> list[str]:
    """The parts of a path as people write them: `./a/b.mp4`, `/a/b.mp4`, `a\\b.mp4`."""
    return [part for part in PurePosixPath(said.strip().replace("\\", "/")).parts if part not in (".", "..", "/", "//")]
