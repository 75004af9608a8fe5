"""JobEngine: jobs taken in, looked up, deleted, their files found; workers and what tidies up run while it is open.

with JobEngine(settings, devices) as engine:
    upload = engine.new_upload()                        # a folder; files go into it
    job, new = engine.submit(owner, upload, {"prompt": "Make it night."}, video=path)
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, Self, TypedDict

from opensama.apps.edit_settings import EditSettings
from opensama.apps.jobs.inspection import inspect, inspect_clip, with_suffix
from opensama.apps.jobs.limits import MIB, Owner, Refusal
from opensama.apps.jobs.renditions import Rendition, extract_frame, leave_frame, rendition
from opensama.apps.jobs.store import JobStore, NewJob, VideoJob
from opensama.apps.jobs.words import StoredWish, read_wish
from opensama.apps.jobs.worker import WorkerSettings
from opensama.apps.jobs.workers import WorkerPool, wait_for_lock
from opensama.apps.records import JobAsked, JobResult, OutputFigures
from opensama.pipeline.batch import ActorShare
from opensama.pipeline.room import free_bytes
from opensama.values import MAX_EDITS, UserError

EDIT_MASKS = tuple(f"mask-{number}" for number in range(1, MAX_EDITS + 1))
"""The files of masks of single edits of a split instruction."""
_TIDY = 30.0  # seconds between two looks for what has expired
_HANDOVER = 3.0  # seconds for a service that ends to let go of the folder
_LOOKS = 2  # files that are looked at at the same time


@dataclass
class Upload:
    """A folder that a request's files go into, until they are a job's; `with` removes it where they are none's."""

    engine: JobEngine
    id: str
    files: dict[str, list[Path]] = field(default_factory=dict)
    """By the name of the field: under names of our own, `upload-0` and so on."""
    digests: dict[str, list[str]] = field(default_factory=dict)
    kept: bool = False

    @property
    def folder(self) -> Path:
        return self.engine.store.files(self.id)

    def next_place(self, name: str) -> Path:
        """Where the next file of that field is to be written."""
        place = self.folder / f"upload-{sum(map(len, self.files.values()))}"
        self.files.setdefault(name, []).append(place)
        return place

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.kept:
            self.engine.store.drop_folder(self.id)


class NamedFiles(TypedDict):
    """A job's files, by their names in its folder; `regions` are NUMBER:NAME."""

    source: str
    mask: str | None
    references: list[str]
    regions: list[str]


class JobEngine:
    """A queue in a folder, and the workers that edit what is in it. One process a folder may have one."""

    def __init__(
        self,
        settings: WorkerSettings,
        devices: Sequence[str | None] = (None,),
        start_method: str = "spawn",
        share: ActorShare | None = None,
    ) -> None:
        self.settings, self.limits = settings, settings.limits
        self._devices, self._start_method, self._share = devices, start_method, share
        self._looks = threading.BoundedSemaphore(_LOOKS)
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        folder = self.settings.folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = (folder / "lock").open("w")
        if not wait_for_lock(self._lock, _HANDOVER):
            self._lock.close()
            raise UserError(f"Another service works in {folder}; end it, or choose another folder.")
        try:
            self.store = JobStore(folder)
        except BaseException:
            self._lock.close()
            raise
        self.workers = WorkerPool(self.store, self.settings, self._devices, self._start_method, self._share)
        try:
            self.workers.begin()
        except BaseException:
            self.store.close()
            self._lock.close()
            raise
        self._tidier = threading.Thread(target=self._tidy, name="tidier", daemon=True)
        self._tidier.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._tidier.join()
        self.workers.end()
        self.store.close()
        self._lock.close()

    def _tidy(self) -> None:
        while not self._closed.wait(_TIDY):
            self.store.expire()

    # --- taking in

    def check_room(self, owner: Owner, coming: int = 0) -> None:
        """Refusal where no job can be taken in now: asked before an upload of so many bytes is read."""
        if coming > self.limits.upload_bytes:
            raise Refusal("too_large", f"A request has at most {self.limits.max_upload} MB; make the video smaller.")
        if free_bytes(self.settings.folder) - coming < self.limits.free_disk * MIB:
            raise Refusal("disk_full", "The service's disk is nearly full; try again later.")
        self.store.check_room(owner, self.limits)

    def new_upload(self) -> Upload:
        return Upload(self, self.store.new_folder())

    def take(
        self, upload: Upload, name: str, owner: Owner, job_id: str, index: int = 0, frame: int | None = None
    ) -> None:
        """A finished job's result, or one frame of it as a picture, goes into the upload as the file of a field."""
        job = self.find(owner, job_id)
        path = self.result(job, index)
        place = upload.next_place(name)
        if frame is not None:
            with self._looks:
                extract_frame(path, frame, place, self.limits)
        else:
            try:
                os.link(path, place)
            except OSError:  # of another file system
                shutil.copyfile(path, place)
        upload.digests.setdefault(name, []).append(f"{job.id}:{path.name}:{frame}")

    def pick_frame(self, upload: Upload, name: str, frame: int) -> None:
        """Leaves one frame of the last file of a field that is a film; the picture itself of one that is none."""
        place = upload.files[name][-1]
        with self._looks:
            leave_frame(place, frame, self.limits)
        upload.digests[name][-1] += f":{frame}"

    def submit(
        self,
        owner: Owner,
        upload: Upload,
        values: Mapping[str, object],
        *,
        idempotency_key: str | None = None,
        remixed_from: str | None = None,
    ) -> tuple[VideoJob, bool]:
        """A job of the upload's files and the settings, in the queue; False where this request made it before.

        Files are `video`, `mask`, `references` and, for single edits, `mask-1` and so on. Refusal or UserError for all
        that can be wrong with them.
        """
        self._check_files(upload)
        settings = self.settings
        wish = read_wish(values, settings.models, self.limits, settings.anyway, settings.webhooks)
        said = json.dumps([wish.model, wish.asked("", None, [], []), upload.digests], sort_keys=True, default=str)
        fingerprint = hashlib.sha256(said.encode()).hexdigest()
        if (known := self.store.known_by_key(owner, idempotency_key, fingerprint)) is not None:
            return known, False
        asked = wish.asked(**self._named(upload))
        StoredWish.of(asked, upload.folder).check_alpha()
        with self._looks:
            media = inspect(upload.folder, asked, self.settings.models[wish.model], self.limits)
        part = wish.settings.frames or (wish.settings.begin, wish.settings.end)
        shape = f"{media['width']}x{media['height']}x{media['frames']}:{wish.settings.size}:{part}"
        new = NewJob(upload.id, wish.model, shape, asked, media, fingerprint, idempotency_key, remixed_from)
        job, is_new = self.store.add(new, owner, self.limits)
        upload.kept = is_new
        return job, is_new

    def keep(self, owner: Owner, upload: Upload) -> VideoJob:
        """A job of the upload's video that is finished as it is, its result the video: to be edited, several times.

        Refusal or UserError for all that can be wrong with it.
        """
        self._check_files(upload)
        if beside := upload.files.keys() - {"video"}:
            raise UserError(f"Only a video is kept: send {', '.join(sorted(beside))} with an edit.")
        source = self._named(upload)["source"]
        with self._looks:
            media = inspect_clip(upload.folder, source, self.limits)
        asked: JobAsked = {
            "prompt": "", "n": 1, "anyway": False, "notes": [], "source": source,
            "settings": asdict(EditSettings()),
        }  # fmt: skip
        made: OutputFigures = {"file": source, "seed": 0, "frames": media["frames"], "seconds": 0.0, "changed": 0.0,
                               "unknown_words": []}  # fmt: skip
        result: JobResult = {"outputs": [made], "notes": media["notes"]}
        new = NewJob(upload.id, "", "", asked, media, "")
        job, upload.kept = self.store.add(new, owner, self.limits, result)
        return job

    def _check_files(self, upload: Upload) -> None:
        for name, found in upload.files.items():
            if name not in ("video", "mask", "references", *EDIT_MASKS):
                raise UserError(f"The file {name[:40]!r} is of no use here; the video is sent as `video`.")
            if len(found) > 1 and name != "references":
                raise UserError(f"{len(found)} files came as {name}, and an edit takes one.")
        if "video" not in upload.files:
            raise UserError("The video is missing: send it as the file `video`, or name a job whose result it is.")

    def _named(self, upload: Upload) -> NamedFiles:
        """Gives the files their names by what they are and hold: source.mp4, mask.png, reference-0.jpg."""
        names: NamedFiles = {"source": "", "mask": None, "references": [], "regions": []}
        for field_name, found in upload.files.items():
            for place in found:
                place = with_suffix(place)
                if field_name == "references":
                    named = place.with_name(f"reference-{len(names['references'])}{place.suffix}")
                    names["references"].append(named.name)
                elif field_name in EDIT_MASKS:
                    named = place.with_name(f"{field_name}{place.suffix}")
                    names["regions"].append(f"{field_name.removeprefix('mask-')}:{named.name}")
                else:
                    stem: Literal["source", "mask"] = "source" if field_name == "video" else "mask"
                    named = place.with_name(f"{stem}{place.suffix}")
                    names[stem] = named.name
                os.rename(place, named)
        return names

    # --- looking up

    def find(self, owner: Owner, job_id: str) -> VideoJob:
        """Refusal where there is none, which is also what another owner's job is."""
        job = self.store.get(owner.name, job_id)
        if job is None:
            raise Refusal("not_found", f"There is no video {job_id[:60]!r}; it may have expired.")
        return job

    def delete(self, owner: Owner, job_id: str) -> None:
        """Ends the job if it runs, and removes all that is kept of it."""
        if not self.store.delete(owner.name, job_id):
            self.find(owner, job_id)

    def result(self, job: VideoJob, index: int, kind: Rendition | None = None) -> Path:
        """The file of an output, or of what it is shown by. Refusal where there is none yet."""
        if job.status == "failed":
            raise Refusal("edit_failed", f"The video {job.id} has no result: {job.error}")
        if job.status != "completed":
            raise Refusal("not_ready", f"The video {job.id} is not finished; wait until its status is completed.")
        if not 0 <= index < job.outputs:
            raise Refusal("not_found", f"The video {job.id} has the outputs 0 to {job.outputs - 1}, and no {index}.")
        folder = self.store.files(job.id)
        assert job.result is not None
        file = job.result["outputs"][index]["file"]
        if kind is None:
            return folder / file
        with self._looks:
            return rendition(kind, folder, job.asked, file, self.limits)

    def source(self, job: VideoJob, kind: Rendition | None = None) -> Path:
        """The file that a job edits, or what it is shown by."""
        folder, file = self.store.files(job.id), job.asked["source"]
        if kind is None:
            return folder / file
        with self._looks:
            return rendition(kind, folder, job.asked, file, self.limits)

    def wait(self, owner: Owner, job_id: str, seconds: float) -> VideoJob:
        """The job when it is over, or as it is after so many seconds."""
        until = time.monotonic() + seconds
        while not (job := self.find(owner, job_id)).is_over and time.monotonic() < until:
            time.sleep(0.05)
        return job
