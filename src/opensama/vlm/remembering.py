"""Answers kept on disk, and a budget: around any model, so that no question is paid for twice."""

from __future__ import annotations

import sqlite3
import threading
import time
import weakref
from pathlib import Path

from opensama.values import UserError
from opensama.vlm.asking import Question, Vlm, VlmQuota, VlmRefused, looks_cut

FILE = "answers.sqlite"
_WAIT = 60.0  # seconds for others who write into the file
_VERSION = 1  # of the file: from 1 on it holds verdicts and whole answers alone


class Remembering:
    """Asks `vlm` only what the folder `cache` does not know yet, and at most `budget` times.

    The file in the folder may be shared by threads and by processes of one machine. Refusals are kept, too; failures
    (`VlmFailed`, `VlmUnavailable`, `VlmQuota`) are not, and what earlier versions kept of them is forgotten. Several
    that name the same `purse` (and share the folder) spend one budget. `asked` and `remembered` count.
    """

    def __init__(self, vlm: Vlm, cache: Path | None = None, budget: int | None = None, purse: str = "") -> None:
        self.vlm, self.budget, self.purse = vlm, budget, purse
        self.name = vlm.name
        self.asked = self.remembered = 0
        self._lock = threading.Lock()
        self._folder = cache
        self._answers: sqlite3.Connection | None = None

    def ask(self, question: Question) -> str:
        self._open()
        digest = "" if self._answers is None else question.digest(self.name)
        if (known := self._recall(digest)) is not None:
            answer, refused = known
            if refused:
                raise VlmRefused(answer)
            return answer
        self._pay()
        try:
            answer = self.vlm.ask(question)
        except VlmRefused as refusal:
            self._keep(digest, str(refusal), True)
            raise
        self._keep(digest, answer, False)
        return answer

    def _open(self) -> None:
        """The file, at the first question: who only greets leaves nothing behind."""
        with self._lock:
            if self._folder is not None and self._answers is None:
                self._answers = _open(self._folder)
                weakref.finalize(self, self._answers.close)

    def _pay(self) -> None:
        with self._lock:
            spent = self.asked
            if self._answers is not None and self.purse and self.budget is not None:
                with self._answers:
                    add = "INSERT INTO purses VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET spent = spent + 1"
                    self._answers.execute(add, (self.purse,))  # locks the file for the question that follows
                    asked = "SELECT spent - 1 FROM purses WHERE name = ?"
                    (spent,) = self._answers.execute(asked, (self.purse,)).fetchone()
            if self.budget is not None and spent >= self.budget:
                raise VlmQuota(f"the budget of {self.budget} questions is spent")
            self.asked += 1

    def _recall(self, digest: str) -> tuple[str, bool] | None:
        if self._answers is None:
            return None
        with self._lock:
            row = self._answers.execute("SELECT answer, refused FROM answers WHERE digest = ?", (digest,)).fetchone()
            if row is None:
                return None
            self.remembered += 1
            return row[0], bool(row[1])

    def _keep(self, digest: str, answer: str, refused: bool) -> None:
        if self._answers is not None:
            row = digest, answer, refused, self.name
            with self._lock, self._answers:
                self._answers.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", row)


def _open(folder: Path) -> sqlite3.Connection:
    path, until = folder / FILE, time.monotonic() + _WAIT
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return _prepared(path)
        except (OSError, sqlite3.Error) as error:
            if "locked" in str(error) and time.monotonic() < until:  # SQLite waits for no change of the journal's mode
                time.sleep(0.05)
                continue
            raise UserError(f"The kept answers in {path} cannot be used ({error}): choose another folder.") from error


def _prepared(path: Path) -> sqlite3.Connection:
    answers = sqlite3.connect(path, timeout=_WAIT, check_same_thread=False)
    try:
        answers.execute("PRAGMA journal_mode = WAL")
        answers.execute("PRAGMA synchronous = NORMAL")
        columns = "digest TEXT PRIMARY KEY, answer TEXT, refused INTEGER, model TEXT"
        answers.execute(f"CREATE TABLE IF NOT EXISTS answers ({columns}) WITHOUT ROWID")
        answers.execute("CREATE TABLE IF NOT EXISTS purses (name TEXT PRIMARY KEY, spent INTEGER)")
        _heal(answers)
    except sqlite3.Error:
        answers.close()
        raise
    return answers


def _heal(answers: sqlite3.Connection) -> None:
    """Takes out of a file of the first form what was no verdict: all refusals, since requests that a server did not
    take stood among them, and answers that were cut off."""
    if answers.execute("PRAGMA user_version").fetchone()[0] >= _VERSION:
        return
    answers.create_function("cut_off", 1, looks_cut, deterministic=True)
    with answers:
        answers.execute("DELETE FROM answers WHERE refused OR cut_off(answer)")
        answers.execute(f"PRAGMA user_version = {_VERSION}")
