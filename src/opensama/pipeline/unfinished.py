"""An edit that was broken off goes on: what is done of it lies in a folder beside its result until that is written.

    NAME.mp4.unfinished-KEY/
        about.json                               SHA-256 of source, settings and model; KEY is of these and the name
        lock                                     held by the process that is at work
        source-*, velocity-*, state-*            see `part_store`
        edit-2/                                  the same of the second edit of a chain, and so on

Of the words that were typed only the SHA-256 is there.
"""

from __future__ import annotations

import glob
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
import torch
from safetensors import SafetensorError

from opensama.media.video_io.edit_record import sha256_of
from opensama.pipeline.part_store import FolderStore, PartStore
from opensama.pipeline.room import GB, free_bytes
from opensama.runtime import whole_file
from opensama.values import Cancelled, EditRecord, EditRequest, UserError, Video

WORTH = 10.0  # seconds of work that a person would not want to wait for again
_LARGEST = 1 << 30  # bytes of a source that is read for its SHA-256; of a larger one size and time are taken


class Unfinished:
    """Where one edit is kept until its result `out` is written; `with` it around edit and writing.

    It goes when the block ends, but stays where the block is broken off after `WORTH` seconds; a kill leaves it in any
    case. `notice` hears whether the edit goes on, and why it does not.
    """

    def __init__(self, out: Path, notice: Callable[[str], object] = print, worth: float = WORTH):
        self.out, self.notice, self.worth = out, notice, worth
        self.folder: Path | None = None
        self._own = set[Path]()  # folders that this process has begun or gone on with
        self._lock: IO[str] | None = None
        self._begun = time.monotonic()
        self._name = out.name[:57]  # file systems take 255 bytes, and a letter may have four

    def __enter__(self) -> Unfinished:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.folder is None:
            return
        brief = time.monotonic() - self._begun < self.worth
        if error is None or brief or isinstance(error, Cancelled):
            self._remove()
            return
        self._unlock()
        if next(self.folder.rglob("velocity-*.safetensors"), None) is not None:
            self.notice(f"What is done of the edit is kept in {self.folder}: the same command goes on from there.")
        else:
            self._remove()

    def store(self, identity: Mapping[str, str], size: int, steps: int, edit: tuple[int, int] = (0, 1)) -> PartStore:
        """The store of an edit of that identity, which takes up to `size` bytes, with what was done of it before;
        `edit` is which of a chain, whose edits have one identity, and of how many.

        UserError where another process is at work on it. In memory where the disk has no room.
        """
        key = _sha256(json.dumps([self.out.name, dict(identity)], sort_keys=True).encode())[:12]
        folder = self.out.with_name(f"{self._name}.unfinished-{key}")
        if self.folder is not None and self.folder != folder:  # begun otherwise by this process
            self._remove()
        inside = folder / f"edit-{edit[0] + 1}" if edit[0] else folder
        new, own = not inside.exists(), inside in self._own
        self._own.add(inside)
        if new:
            if inside == folder:
                self._tell_others(identity)
            free = free_bytes(self.out.parent)
            if free < size:
                self.notice(
                    f"To go on after a kill this edit would keep up to {size / GB:.1f} GB beside its result, where "
                    f"{free / GB:.1f} GB are free: it is kept in memory, and a kill loses it."
                )
                return PartStore()
            inside.mkdir(parents=True)
        self._take(folder)
        which = "this edit" if edit[1] == 1 else f"edit {edit[0] + 1} of {edit[1]}"
        try:
            store = FolderStore(inside)
        except (SafetensorError, KeyError, ValueError):
            self.notice(f"What was kept of {which} in {inside} is damaged, and it begins anew.")
            for path in inside.glob("*.safetensors"):
                path.unlink()
            store = FolderStore(inside)
        if new:
            with whole_file(folder / "about.json") as temporary:
                temporary.write_text(json.dumps(dict(identity), indent=2) + "\n")
        elif (starts := store.starts("velocity")) and not own:
            done = max(0, min(store.step("state", start) for start in starts))
            self.notice(f"Going on with {which}, which was broken off after {done} of {steps} steps.")
        return store

    def _tell_others(self, identity: Mapping[str, str]) -> None:
        """Says of edits to the same place that were broken off in what they were others."""
        for folder in sorted(self.out.parent.glob(f"{glob.escape(self._name)}.unfinished-*")):
            with suppress(OSError, ValueError, AttributeError):
                then = json.loads((folder / "about.json").read_text())
                other = [name for name, value in identity.items() if then.get(name) != value]
                self.notice(
                    f"An edit to {self.out.name} that was broken off had another {' and '.join(other)}, so this one "
                    f"begins anew; it stays in {folder} until you delete that."
                )

    def _take(self, folder: Path) -> None:
        if self.folder == folder:
            return
        self.folder, self._lock = folder, (folder / "lock").open("w")
        try:
            import fcntl
        except ImportError:  # not on this system
            return
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.folder = None
            self._unlock()
            raise UserError(
                f"Another process makes {self.out} by this edit now: wait for it, or choose another name with `out`."
            ) from None

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _remove(self) -> None:
        assert self.folder is not None
        self._unlock()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._own.clear()
        self.folder = None


def identity_of(request: EditRequest, video: Video, record: EditRecord) -> dict[str, str]:
    """SHA-256 of what an edit's numbers hang on: its source, its settings with the words, and the model."""
    masks = [request.mask, *(edit.mask for edit in request.edits)]
    pictures = [one for one in (*masks, *request.references) if isinstance(one, np.ndarray)]
    settings = [record["settings"], record["instruction"], [_sha256(one.tobytes()) for one in pictures]]
    model = [record["model"], record["device"], record["opensama"], torch.__version__]
    source = _source_of(video, *request.frame_range(video))
    return {
        "source": _sha256(f"{source} {video.origin} {video.shape}".encode()) if video.is_clip else source,
        "setting": _sha256(json.dumps(settings, sort_keys=True).encode()),
        "model": _sha256(json.dumps(model, sort_keys=True).encode()),
    }


def _source_of(video: Video, start: int, stop: int) -> str:
    if video.path is None or not video.path.exists() or video.record is not None:  # frames of no file, or of an edit
        digest = hashlib.sha256()
        for frame in video.frames(start, stop):
            digest.update(frame.tobytes())
        return digest.hexdigest()
    state = video.path.stat()
    if video.path.is_dir() or state.st_size <= _LARGEST:
        return sha256_of(video.path)
    return _sha256(f"{state.st_size} {state.st_mtime_ns}".encode())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
