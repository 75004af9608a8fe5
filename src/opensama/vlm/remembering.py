"""Answers kept on disk, and a budget: around any model, so that no question is paid for twice."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

from opensama.values import UserError
from opensama.vlm.asking import Question, Vlm, VlmQuota, VlmRefused

FILE = "answers.sqlite"


class Remembering:
    """Asks `vlm` only what the folder `cache` does not know yet, and at most `budget` times.

    The file in the folder may be shared by threads and by processes of one machine; refusals are kept, too.
    `asked` and `remembered` count.
    """

    def __init__(self, vlm: Vlm, cache: Path | None = None, budget: int | None = None) -> None:
        self.vlm, self.budget = vlm, budget
        self.name = vlm.name
        self.asked = self.remembered = 0
        self._lock = threading.Lock()
        self._answers = None if cache is None else _open(cache)

    def ask(self, question: Question) -> str:
        digest = "" if self._answers is None else question.digest(self.name)
        if (known := self._recall(digest)) is not None:
            answer, refused = known
            if refused:
                raise VlmRefused(answer)
            return answer
        with self._lock:
            if self.budget is not None and self.asked >= self.budget:
                raise VlmQuota(f"the budget of {self.budget} questions is spent")
            self.asked += 1
        try:
            answer = self.vlm.ask(question)
        except VlmRefused as refusal:
            self._keep(digest, str(refusal), True)
            raise
        self._keep(digest, answer, False)
        return answer

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
    path = folder / FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        answers = sqlite3.connect(path, timeout=60, check_same_thread=False)
        answers.execute("PRAGMA journal_mode = WAL")
        answers.execute("PRAGMA synchronous = NORMAL")
        columns = "digest TEXT PRIMARY KEY, answer TEXT, refused INTEGER, model TEXT"
        answers.execute(f"CREATE TABLE IF NOT EXISTS answers ({columns}) WITHOUT ROWID")
    except (OSError, sqlite3.Error) as error:
        raise UserError(f"The kept answers in {path} cannot be used ({error}): choose another folder.") from error
    return answers
