"""The queue on disk: a row of SQLite for each job, and a folder of its files, named by the job's own id.

Writes that must outlive a loss of power wait for the disk; reports of progress do not. A job is `queued`,
`in_progress`, `completed` or `failed`, as clients know them; `deleted` is one that a worker must let go first.
"""

from __future__ import annotations

import json
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

from opensama.apps.jobs.limits import JobLimits, Owner, Refusal, RefusalCode
from opensama.apps.records import JobAsked, JobResult, MediaFigures
from opensama.runtime import sync_folder
from opensama.values import UserError

VERSION = 1  # of the table
OVERTAKEN = 16  # younger jobs that may go first, for their model or shape, before an old one is taken in any case
_TABLE = """
CREATE TABLE IF NOT EXISTS jobs (
  number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, status TEXT NOT NULL,
  model TEXT NOT NULL, shape TEXT NOT NULL, asked TEXT NOT NULL, media TEXT NOT NULL, remixed_from TEXT,
  idempotency_key TEXT, fingerprint TEXT NOT NULL,
  progress INTEGER NOT NULL DEFAULT 0, stage TEXT NOT NULL DEFAULT '',
  created_at REAL NOT NULL, started_at REAL, completed_at REAL, expires_at REAL,
  worker INTEGER, crashes INTEGER NOT NULL DEFAULT 0, overtaken INTEGER NOT NULL DEFAULT 0,
  error_code TEXT, error TEXT, result TEXT
);
CREATE UNIQUE INDEX IF NOT EXISTS by_key ON jobs (owner, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX IF NOT EXISTS by_status ON jobs (status, number);
CREATE INDEX IF NOT EXISTS by_owner ON jobs (owner, number);
CREATE TABLE IF NOT EXISTS webhooks (
  job TEXT PRIMARY KEY, id TEXT NOT NULL, url TEXT NOT NULL, tries INTEGER NOT NULL DEFAULT 0, due REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS totals (name TEXT PRIMARY KEY, value REAL NOT NULL);
"""
_JSON = ("asked", "media", "result")
_WAITING = "('queued', 'in_progress')"


@dataclass(frozen=True)
class VideoJob:
    """A row of the queue."""

    number: int
    id: str
    owner: str
    status: str
    model: str
    shape: str
    """Jobs of one shape are edited after one another."""
    asked: JobAsked
    media: MediaFigures
    remixed_from: str | None
    fingerprint: str
    progress: int
    stage: str
    created_at: float
    started_at: float | None
    completed_at: float | None
    expires_at: float | None
    worker: int | None
    crashes: int
    error_code: str | None
    error: str | None
    result: JobResult | None

    @property
    def outputs(self) -> int:
        return self.asked["n"]

    @property
    def is_over(self) -> bool:
        return self.status in ("completed", "failed")


@dataclass(frozen=True)
class NewJob:
    """A job before it has a place in the queue; its files lie in the folder of its id."""

    id: str
    model: str
    shape: str
    asked: JobAsked
    media: MediaFigures
    fingerprint: str
    """Of all that was asked, by which a repeated request is known for the same."""
    idempotency_key: str | None = None
    remixed_from: str | None = None


@dataclass(frozen=True)
class Webhook:
    """What is to be sent of a job that is over."""

    job: str
    owner: str
    id: str
    """Of the event, which stays the same at every try."""
    url: str
    tries: int
    """Those that have failed."""


_COLUMNS = ", ".join(one.name for one in fields(VideoJob))


class JobStore:
    """The rows and the files of a folder. Several processes may hold one each; each may be used by several threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "files").mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._base = sqlite3.connect(folder / "jobs.sqlite3", timeout=30, isolation_level=None, check_same_thread=False)
        self._base.row_factory = sqlite3.Row
        try:
            self._base.execute("PRAGMA journal_mode = WAL")
            version = self._base.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.DatabaseError as error:
            self._base.close()
            raise UserError(
                f"{folder / 'jobs.sqlite3'} is no queue of jobs ({error}); choose another folder."
            ) from None
        if version not in (0, VERSION):
            self._base.close()
            raise UserError(f"{folder} was written by another version of OpenSAMA; choose another folder.")
        self._base.executescript(f"{_TABLE} PRAGMA user_version = {VERSION};")

    def close(self) -> None:
        with self._lock:
            self._base.close()

    # --- files

    def files(self, job_id: str) -> Path:
        """The folder of a job's files; the id is one of this store's own."""
        return self.folder / "files" / job_id

    def new_folder(self) -> str:
        """The id of a job that is to be, whose folder is made."""
        job_id = f"video_{secrets.token_hex(16)}"
        self.files(job_id).mkdir(mode=0o700)
        return job_id

    def drop_folder(self, job_id: str) -> None:
        shutil.rmtree(self.files(job_id), ignore_errors=True)

    def sweep(self) -> None:
        """Removes rows that were to be deleted, and folders that no row speaks of. While nobody writes."""
        with self._write(True) as base:
            base.execute("DELETE FROM jobs WHERE status = 'deleted'")
            base.execute("DELETE FROM webhooks WHERE job NOT IN (SELECT id FROM jobs)")
        known = {row["id"] for row in self._read("SELECT id FROM jobs")}
        for place in (self.folder / "files").iterdir():
            if place.name not in known:
                self.drop_folder(place.name)

    # --- for who asks

    def add(
        self, new: NewJob, owner: Owner, limits: JobLimits, result: JobResult | None = None
    ) -> tuple[VideoJob, bool]:
        """The job in the queue, and whether it is new: a repeated key gives the job that it gave before.

        One that comes with its `result` is finished as it comes, and counts as nobody's work.
        """
        sync_folder(self.files(new.id))
        with self._write(True) as base:
            if (known := self._by_key(base, owner, new.idempotency_key, new.fingerprint)) is not None:
                return known, False
            self._check_room(base, owner, limits)
            values: dict[str, object] = {
                "id": new.id, "owner": owner.name, "status": "queued", "model": new.model, "shape": new.shape,
                "asked": json.dumps(new.asked), "media": json.dumps(new.media), "remixed_from": new.remixed_from,
                "idempotency_key": new.idempotency_key, "fingerprint": new.fingerprint, "created_at": time.time(),
            }  # fmt: skip
            if result is not None:
                now = time.time()
                values |= {"status": "completed", "progress": 100, "result": json.dumps(result)}
                values |= {"completed_at": now, "expires_at": now + 3600 * limits.keep_hours}
            names, places = ", ".join(values), ", ".join(f":{name}" for name in values)
            base.execute(f"INSERT INTO jobs ({names}) VALUES ({places})", values)
            if result is None:
                _count(base, "submitted", 1)
        job = self.get(owner.name, new.id)
        assert job is not None
        return job, True

    def check_room(self, owner: Owner, limits: JobLimits) -> None:
        """Refusal where one more job would be too many: asked before an upload is read."""
        with self._lock:
            self._check_room(self._base, owner, limits)

    def known_by_key(self, owner: Owner, key: str | None, fingerprint: str) -> VideoJob | None:
        """The job that an idempotency key gave before. Refusal where another request had the key."""
        with self._lock:
            return self._by_key(self._base, owner, key, fingerprint)

    def get(self, owner: str, job_id: str) -> VideoJob | None:
        found = self._read(
            f"SELECT {_COLUMNS} FROM jobs WHERE id = ? AND owner = ? AND status != 'deleted'", job_id, owner
        )
        return _job(found[0]) if found else None

    def page(self, owner: str, after: VideoJob | None, limit: int, descending: bool = True) -> list[VideoJob]:
        """At most `limit` jobs of an owner by their age, from the one behind `after` on."""
        place, order = ("<", "DESC") if descending else (">", "ASC")
        where = f"AND number {place} {after.number}" if after is not None else ""
        found = self._read(
            f"SELECT {_COLUMNS} FROM jobs WHERE owner = ? AND status != 'deleted' {where} "
            f"ORDER BY number {order} LIMIT ?", owner, limit,
        )  # fmt: skip
        return [_job(row) for row in found]

    def place_in_queue(self, job: VideoJob) -> int:
        """How many jobs are to be begun before this one, as far as age tells."""
        return self._read("SELECT count(*) FROM jobs WHERE status = 'queued' AND number < ?", job.number)[0][0]

    def delete(self, owner: str, job_id: str) -> bool:
        """The job goes, and its files; one that runs when its worker has let it go. Whether there was one."""
        job = self.get(owner, job_id)
        if job is None:
            return False
        try:
            runs = self._delete(job)
        except sqlite3.OperationalError:  # a full disk has no room to note that something goes: its files go first
            if job.status == "in_progress":
                raise
            self.drop_folder(job_id)
            runs = self._delete(job)
        if not runs:
            self.drop_folder(job_id)
        return True

    def _delete(self, job: VideoJob) -> bool:
        """Takes a job's row away, or marks it for the worker that is at it; whether one is."""
        with self._write(True) as base:
            running = base.execute(
                "UPDATE jobs SET status = 'deleted', idempotency_key = NULL WHERE id = ? AND status = 'in_progress'",
                (job.id,),
            ).rowcount
            if not running:
                base.execute("DELETE FROM jobs WHERE id = ? AND status != 'deleted'", (job.id,))
            base.execute("DELETE FROM webhooks WHERE job = ?", (job.id,))
            return bool(running)

    def expire(self) -> int:
        """Removes what has been kept long enough; how many jobs it was."""
        over = self._read("SELECT id, owner FROM jobs WHERE expires_at < ?", time.time())
        return sum(self.delete(row["owner"], row["id"]) for row in over)

    def figures(self) -> dict[str, float]:
        """What there is to measure: jobs by status, the age of the one that waits longest, and totals of all times."""
        found = {f"jobs_{status}": 0.0 for status in ("queued", "in_progress", "completed", "failed")}
        found |= dict.fromkeys(("submitted", "completed", "failed", "edit_seconds", "requeued"), 0.0)
        found |= dict.fromkeys(("webhooks_sent", "webhooks_given_up"), 0.0)
        for row in self._read("SELECT status, count(*) AS many FROM jobs WHERE status != 'deleted' GROUP BY status"):
            found[f"jobs_{row['status']}"] = row["many"]
        oldest = self._read("SELECT min(created_at) AS at FROM jobs WHERE status = 'queued'")[0]["at"]
        found["oldest_seconds"] = 0.0 if oldest is None else max(0.0, time.time() - oldest)
        return found | {row["name"]: row["value"] for row in self._read("SELECT name, value FROM totals")}

    # --- for who edits

    def claim(self, worker: int, model: str, shape: str) -> VideoJob | None:
        """The next job, now this worker's: of the model that is loaded and the shape of the last one where that keeps
        nobody waiting too long, else the oldest."""
        if not self._read("SELECT 1 FROM jobs WHERE status = 'queued' LIMIT 1"):
            return None
        with self._write(True) as base:
            row = base.execute(
                "SELECT id, number FROM jobs WHERE status = 'queued' ORDER BY overtaken < ?, "
                "CASE WHEN overtaken >= ? THEN 0 WHEN model != ? THEN 2 WHEN shape != ? THEN 1 ELSE 0 END, number "
                "LIMIT 1", (OVERTAKEN, OVERTAKEN, model, shape),
            ).fetchone()  # fmt: skip
            if row is None:
                return None
            base.execute(
                "UPDATE jobs SET overtaken = overtaken + 1 WHERE status = 'queued' AND number < ?", (row["number"],)
            )
            base.execute(
                "UPDATE jobs SET status = 'in_progress', worker = ?, started_at = ?, progress = 0, stage = '' "
                "WHERE id = ?", (worker, time.time(), row["id"]),
            )  # fmt: skip
            return _job(base.execute(f"SELECT {_COLUMNS} FROM jobs WHERE id = ?", (row["id"],)).fetchone())

    def running(self) -> list[VideoJob]:
        """The jobs that workers are at."""
        return [_job(row) for row in self._read(f"SELECT {_COLUMNS} FROM jobs WHERE status = 'in_progress'")]

    def is_held(self, job: VideoJob) -> bool:
        """Whether a worker may go on with a job: nobody has deleted it."""
        found = self._read("SELECT status, worker FROM jobs WHERE id = ?", job.id)
        return bool(found) and found[0]["status"] == "in_progress" and found[0]["worker"] == job.worker

    def report(self, job: VideoJob, stage: str, progress: int) -> None:
        with self._write(False) as base:
            base.execute(
                "UPDATE jobs SET stage = ?, progress = ? WHERE id = ? AND worker = ? AND status = 'in_progress'",
                (stage, min(progress, 99), job.id, job.worker),
            )

    def finish(self, job: VideoJob, result: JobResult, keep: float) -> bool:
        """The job is done, and kept for so many seconds; False where it is no longer the worker's to end."""
        return self._end(job, keep, "completed", progress=100, result=json.dumps(result))

    def fail(self, job: VideoJob, code: RefusalCode, sentence: str, keep: float) -> bool:
        """The same for one that cannot be done."""
        return self._end(job, keep, "failed", error_code=code, error=sentence)

    def _end(self, job: VideoJob, keep: float, status: str, **values: object) -> bool:
        now = time.time()
        values |= {"status": status, "completed_at": now, "expires_at": now + keep, "stage": ""}
        changes = ", ".join(f"{name} = :{name}" for name in values)
        with self._write(True) as base:
            ended = base.execute(
                f"UPDATE jobs SET {changes} WHERE id = :id AND status = 'in_progress' AND worker IS :worker",
                values | {"id": job.id, "worker": job.worker},
            )
            if ended.rowcount:
                _count(base, status, 1)
                _count(base, "edit_seconds", now - (job.started_at or now))
                if url := job.asked.get("webhook"):
                    event = f"evt_{secrets.token_hex(16)}"
                    base.execute(
                        "INSERT OR REPLACE INTO webhooks (job, id, url, due) VALUES (?, ?, ?, ?)",
                        (job.id, event, url, now),
                    )
        return bool(ended.rowcount)

    def let_go(self, job: VideoJob) -> None:
        """A worker has stopped what was deleted while it ran."""
        with self._write(True) as base:
            gone = base.execute("DELETE FROM jobs WHERE id = ? AND status = 'deleted'", (job.id,)).rowcount
        if gone:
            self.drop_folder(job.id)

    def release(self, worker: int | None, tries: int, keep: float) -> None:
        """What a worker that is no more was at waits again, or has failed where it has ended a worker `tries` times.
        Without a worker what all were at waits again: the service begins."""
        mine = "status = 'in_progress'" if worker is None else f"status = 'in_progress' AND worker = {int(worker)}"
        gone = "status = 'deleted'" if worker is None else f"status = 'deleted' AND worker = {int(worker)}"
        with self._write(True) as base:
            if worker is not None:
                base.execute(f"UPDATE jobs SET crashes = crashes + 1 WHERE {mine}")
            ours = f"SELECT {_COLUMNS} FROM jobs WHERE"
            lost = [_job(row) for row in base.execute(f"{ours} {mine} AND crashes >= {tries}")]
            released = base.execute(
                f"UPDATE jobs SET status = 'queued', worker = NULL, progress = 0, stage = '' "
                f"WHERE {mine} AND crashes < {tries}"
            )
            _count(base, "requeued", released.rowcount)
            deleted = [_job(row) for row in base.execute(f"{ours} {gone}")]
        for job in lost:
            self.fail(job, "worker_ended", f"The edit ended its worker {tries} times; it is not tried again.", keep)
        for job in deleted:
            self.let_go(job)

    # --- for who tells of it

    def due_webhooks(self, limit: int = 20) -> list[Webhook]:
        """Those whose time has come, of jobs that are there."""
        found = self._read(
            "SELECT job, owner, webhooks.id, url, tries FROM webhooks JOIN jobs ON jobs.id = job "
            "WHERE due <= ? AND status IN ('completed', 'failed') ORDER BY due LIMIT ?", time.time(), limit,
        )  # fmt: skip
        return [Webhook(*row) for row in found]

    def delay_webhook(self, webhook: Webhook, seconds: float) -> None:
        """A try has failed; the next one is due in so many seconds."""
        with self._write(True) as base:
            base.execute(
                "UPDATE webhooks SET tries = tries + 1, due = ? WHERE job = ?", (time.time() + seconds, webhook.job)
            )

    def end_webhook(self, webhook: Webhook, how: str) -> None:
        """It has been sent or given up, which the total of that name counts."""
        with self._write(True) as base:
            if base.execute("DELETE FROM webhooks WHERE job = ?", (webhook.job,)).rowcount:
                _count(base, how, 1)

    # --- parts

    def _by_key(self, base: sqlite3.Connection, owner: Owner, key: str | None, fingerprint: str) -> VideoJob | None:
        found = base.execute(
            f"SELECT {_COLUMNS} FROM jobs WHERE owner = ? AND idempotency_key = ? AND status != 'deleted'",
            (owner.name, key),
        ).fetchone()
        if found is None:
            return None
        if found["fingerprint"] != fingerprint:
            raise Refusal(
                "idempotency_conflict",
                "This idempotency key was used for another request; give each request a key of its own.",
            )
        return _job(found)

    def _check_room(self, base: sqlite3.Connection, owner: Owner, limits: JobLimits) -> None:
        waiting = base.execute(f"SELECT owner FROM jobs WHERE status IN {_WAITING}").fetchall()
        own, most = sum(row["owner"] == owner.name for row in waiting), owner.queue or limits.queue_per_owner
        if own >= most:
            raise Refusal("queue_full", f"You have {own} jobs that wait or run, of {most} that you may; wait for one.")
        if len(waiting) >= limits.queue:
            raise Refusal("server_full", f"The queue is full ({limits.queue} jobs); try again later.")

    def _read(self, query: str, *values: object) -> list[sqlite3.Row]:
        with self._lock:
            return self._base.execute(query, values).fetchall()

    @contextmanager
    def _write(self, durable: bool) -> Iterator[sqlite3.Connection]:
        """A transaction; a `durable` one is on the disk when it has ended."""
        with self._lock:
            self._base.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield self._base
                self._base.execute("COMMIT")
            except BaseException:
                if self._base.in_transaction:  # a full disk may have ended it already
                    self._base.execute("ROLLBACK")
                raise


def _job(row: sqlite3.Row) -> VideoJob:
    values = dict(row)
    return VideoJob(**values | {name: json.loads(values[name]) for name in _JSON if values[name] is not None})


def _count(base: sqlite3.Connection, name: str, by: float) -> None:
    base.execute(
        "INSERT INTO totals VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value", (name, by)
    )
