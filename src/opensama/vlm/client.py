"""The client of a model: it checks the connection, retries, caches answers on disk and keeps to a budget.

vlm = CachedVlm(ServerVlm("http://localhost:8000/v1", "qwen"), Path("answers"), budget=1000)
check_connection(vlm)
answer = ask(vlm, question)
"""

from __future__ import annotations

import base64
import io
import random
import sqlite3
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from opensama.values import UserError
from opensama.vlm.answer import BadAnswer
from opensama.vlm.question import Question, Vlm, VlmFailed, VlmQuota, VlmRefused, VlmUnavailable

if TYPE_CHECKING:
    import numpy as np

_Read = TypeVar("_Read")
BACK_OFF = 1.0  # seconds before the second attempt; doubles each time
_LONGEST_BACK_OFF = 60.0  # seconds between attempts where the server does not say
_LONGEST_WAIT = 600.0  # seconds that a server may ask for; beyond, the run ends and goes on another time
_JPEG_QUALITY = 95
_CACHE_FILE = "answers.sqlite"
_LOCK_TIMEOUT = 60.0  # seconds to wait for others who write into the cache


def check_connection(vlm: Vlm) -> None:
    """Asks one short question, past cache and budget. UserError where nobody answers: key, address, model are wrong."""
    try:
        _uncached(vlm).ask(Question("Say yes.", max_tokens=16))
    except VlmUnavailable as error:
        raise UserError(f"{error}; start the server, or mend its address.") from error
    except (VlmQuota, VlmRefused, VlmFailed):
        pass  # somebody is there, and cached answers need no quota


def ask(vlm: Vlm, question: Question) -> str:
    """The answer, or the errors of `Vlm.ask`; VlmQuota, which ends a run, also where no other question would be
    answered either."""
    try:
        return vlm.ask(question)
    except UserError as error:  # a key that has expired, a server with another model: no item's fault
        raise VlmQuota(str(error)) from error
    except VlmUnavailable as error:
        try:
            check_connection(vlm)
        except UserError:
            raise VlmQuota(str(error)) from error
        raise  # others are answered: it is this question
    except VlmFailed as error:
        if not _answers_alike(vlm, question):
            raise VlmQuota(f"no such question is answered ({error}): mend the server or the settings") from error
        raise


def ask_twice(vlm: Vlm, question: Question, read: Callable[[str], _Read], *, later: int = 1) -> _Read:
    """What `read` finds in the answer, see `ask`; on a BadAnswer it is asked once more, so many turns `later`."""
    try:
        return read(ask(vlm, question))
    except BadAnswer:
        return read(ask(vlm, replace(question, turn=question.turn + later)))


def _uncached(vlm: Vlm) -> Vlm:
    return vlm.vlm if isinstance(vlm, CachedVlm) else vlm


def _answers_alike(vlm: Vlm, question: Question) -> bool:
    """Whether an easy question of the same form is answered: as many images, as large, as many tokens."""
    images = tuple(_noise_image(*image.shape[:2]) for image in question.images)
    try:
        _uncached(vlm).ask(Question("Say yes.", images, question.system, question.max_tokens, question.temperature))
    except VlmRefused:
        return True
    except (VlmFailed, VlmUnavailable, VlmQuota, UserError):
        return False
    return True


def _noise_image(height: int, width: int) -> np.ndarray:
    """Smooth noise, uint8 `h w 3`, whose JPEG is about as large as a photograph's."""
    import numpy as np
    from PIL import Image

    small = np.random.default_rng(0).integers(0, 256, (-(-height // 4), -(-width // 4), 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


# --- servers


class TransientError(Exception):
    """An attempt that failed where the next may not: `retry_after` is how many seconds the server asks to wait, if it
    does; `rate_limited` says that it takes no more requests for now."""

    def __init__(self, failure: str, *, rate_limited: bool = False, retry_after: float | None = None) -> None:
        super().__init__(failure)
        self.rate_limited, self.retry_after = rate_limited, retry_after


class RemoteVlm(ABC):
    """A model behind an HTTP server, with retries. See `open_vlm`; `back_off` is the first pause in seconds.

    A subclass sends one request (`_attempt`), and says how its protocol names models and faults.
    """

    protocol: str
    key_variable: str

    def __init__(
        self,
        url: str,
        model: str | None,
        key: str = "none",
        *,
        retries: int = 5,
        timeout: float = 120.0,
        back_off: float = BACK_OFF,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise UserError(
                f"The address {url!r} does not begin with http:// or https://, as http://localhost:8000/v1 does."
            )
        self.url, self.retries, self.timeout, self.back_off = url.rstrip("/"), retries, timeout, back_off
        self._key = key
        self.name = self._model_name(model)

    def ask(self, question: Question) -> str:
        """See `Vlm.ask`: the first attempt's answer that no `TransientError` prevents."""
        for number in range(self.retries + 1):
            try:
                return self._attempt(question)
            except TransientError as error:
                last = error
            wait = last.retry_after
            if wait is not None and wait > _LONGEST_WAIT:
                raise VlmQuota(f"{self.url} asks to come back in {wait:,.0f} s: {last}")
            if number < self.retries:
                time.sleep(wait or min(_LONGEST_BACK_OFF, self.back_off * 2**number) * random.uniform(0.75, 1.25))
        asked = "asked once" if not self.retries else f"asked {self.retries + 1} times"
        if last.rate_limited:
            raise VlmQuota(f"{self.url} limits the rate, {asked}: {last}")
        raise VlmUnavailable(f"{self.url} does not answer, {asked}: {last}")

    @abstractmethod
    def _model_name(self, model: str | None) -> str:
        """The name to ask for; where none is given, that of the only model. UserError where there is no one model."""

    @abstractmethod
    def _attempt(self, question: Question) -> str:
        """One request. Raises TransientError where another may succeed."""

    @abstractmethod
    def _no_such_model(self, said: str) -> UserError: ...

    def _no_such_server(self) -> UserError:
        return UserError(f"{self.url} does not speak {self.protocol}: check the address.")

    def _error_of(
        self, status: int, said: str, *, bad_key: bool, quota: bool, retry_after: float | None = None
    ) -> Exception:
        """What to raise for an HTTP status, with what the server `said` about the key and the account's `quota`."""
        if status in (401, 403) or (status == 400 and bad_key):
            return UserError(f"{self.url} does not accept the key ({said}): set {self.key_variable} to a valid one.")
        if status == 404:
            return self._no_such_model(said)
        if status in (301, 302, 303, 307, 308, 405, 410):
            return self._no_such_server()
        if status == 402 or (status == 429 and quota):
            return VlmQuota(f"the quota at {self.url} is spent: {said}")
        if status in (408, 409, 425, 429) or status >= 500:
            return TransientError(f"{status} {said}", rate_limited=status == 429, retry_after=retry_after)
        return VlmFailed(f"{status} {said}")


def retry_after(said: str | None) -> float | None:
    """Seconds that a response asks to wait: `Retry-After` holds a number of them, or a date (RFC 9110, 10.2.3)."""
    if said is None:
        return None
    try:
        return max(0.0, float(said))
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(said)
    except ValueError:
        return None
    return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time.time())


def jpeg_base64(image: np.ndarray) -> str:
    """An image (uint8 `h w 3`) as a JPEG file in base64."""
    return _jpeg(image.tobytes(), image.shape[1], image.shape[0])


@lru_cache(256)  # the questions about a pair show the same frames again and again
def _jpeg(pixels: bytes, width: int, height: int) -> str:
    from PIL import Image

    out = io.BytesIO()
    Image.frombytes("RGB", (width, height), pixels).save(out, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return base64.b64encode(out.getvalue()).decode()


# --- the cache


class CachedVlm:
    """Asks `vlm` only what the folder `cache` does not hold yet, and at most `budget` times.

    The file in the folder may be shared by threads and by processes of one machine. Refusals are cached, too; failures
    (`VlmFailed`, `VlmUnavailable`, `VlmQuota`) are not. Several that name the same `budget_id` (and share the folder)
    spend one budget.
    """

    def __init__(self, vlm: Vlm, cache: Path | None = None, budget: int | None = None, budget_id: str = "") -> None:
        self.vlm, self.budget, self.budget_id = vlm, budget, budget_id
        self.name = vlm.name
        self._asked = 0
        self._lock = threading.Lock()
        self._folder = cache
        self._answers: sqlite3.Connection | None = None

    def ask(self, question: Question) -> str:
        self._open()
        digest = "" if self._answers is None else question.digest(self.name)
        if (known := self._look_up(digest)) is not None:
            answer, refused = known
            if refused:
                raise VlmRefused(answer)
            return answer
        self._spend()
        try:
            answer = self.vlm.ask(question)
        except VlmRefused as refusal:
            self._store(digest, str(refusal), True)
            raise
        self._store(digest, answer, False)
        return answer

    def _open(self) -> None:
        """The file, at the first question: a check of the connection leaves nothing behind."""
        with self._lock:
            if self._folder is not None and self._answers is None:
                self._answers = _open(self._folder)
                weakref.finalize(self, self._answers.close)

    def _spend(self) -> None:
        with self._lock:
            spent = self._asked
            if self._answers is not None and self.budget_id and self.budget is not None:
                with self._answers:
                    add = "INSERT INTO budgets VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET spent = spent + 1"
                    self._answers.execute(add, (self.budget_id,))  # locks the file for the question that follows
                    asked = "SELECT spent - 1 FROM budgets WHERE name = ?"
                    (spent,) = self._answers.execute(asked, (self.budget_id,)).fetchone()
            if self.budget is not None and spent >= self.budget:
                raise VlmQuota(f"the budget of {self.budget} questions is spent")
            self._asked += 1

    def _look_up(self, digest: str) -> tuple[str, bool] | None:
        if self._answers is None:
            return None
        with self._lock:
            row = self._answers.execute("SELECT answer, refused FROM answers WHERE digest = ?", (digest,)).fetchone()
        return None if row is None else (row[0], bool(row[1]))

    def _store(self, digest: str, answer: str, refused: bool) -> None:
        if self._answers is not None:
            row = digest, answer, refused, self.name
            with self._lock, self._answers:
                self._answers.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", row)


def _open(folder: Path) -> sqlite3.Connection:
    path, until = folder / _CACHE_FILE, time.monotonic() + _LOCK_TIMEOUT
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return _prepared(path)
        except (OSError, sqlite3.Error) as error:
            # SQLite's own timeout does not cover the change of the journal's mode
            if "locked" in str(error) and time.monotonic() < until:
                time.sleep(0.05)
                continue
            raise UserError(f"The cached answers in {path} cannot be used ({error}): choose another folder.") from error


def _prepared(path: Path) -> sqlite3.Connection:
    answers = sqlite3.connect(path, timeout=_LOCK_TIMEOUT, check_same_thread=False)
    try:
        answers.execute("PRAGMA journal_mode = WAL")
        answers.execute("PRAGMA synchronous = NORMAL")
        columns = "digest TEXT PRIMARY KEY, answer TEXT, refused INTEGER, model TEXT"
        answers.execute(f"CREATE TABLE IF NOT EXISTS answers ({columns}) WITHOUT ROWID")
        answers.execute("CREATE TABLE IF NOT EXISTS budgets (name TEXT PRIMARY KEY, spent INTEGER)")
    except sqlite3.Error:
        answers.close()
        raise
    return answers
