"""What clients of servers share: an address, and asking once more where one was busy or gone."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

from opensama.values import UserError
from opensama.vlm.asking import VlmQuota, VlmUnavailable

PAUSE = 1.0  # seconds before the second attempt; doubles each time
_LONGEST = 60.0  # seconds between attempts where the server does not say
_PATIENCE = 600.0  # seconds that a server may ask for; beyond, the run ends and goes on another time


class Again(Exception):
    """An attempt that failed where the next may not. `wait` is how many seconds the server asks for, if it does."""

    def __init__(self, failure: str, *, crowded: bool = False, wait: float | None = None) -> None:
        super().__init__(failure)
        self.crowded, self.wait = crowded, wait


def check_address(url: str) -> None:
    """UserError for what is no server's address."""
    if not url.startswith(("http://", "https://")):
        raise UserError(
            f"The address {url!r} does not begin with http:// or https://, as http://localhost:8000/v1 does."
        )


def told_to_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that a response asks to wait: `Retry-After` holds a number of them, or a date (RFC 9110, 10.2.3)."""
    said = headers.get("retry-after")
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


def persist(attempt: Callable[[], str], url: str, retries: int, pause: float) -> str:
    """What the first attempt gives that raises no `Again`. VlmQuota or VlmUnavailable when all have."""
    for number in range(retries + 1):
        try:
            return attempt()
        except Again as again:
            last = again
        if last.wait is not None and last.wait > _PATIENCE:
            raise VlmQuota(f"{url} asks to come back in {last.wait:,.0f} s: {last}")
        if number < retries:
            time.sleep(last.wait or min(_LONGEST, pause * 2**number) * random.uniform(0.75, 1.25))
    asked = "asked once" if not retries else f"asked {retries + 1} times"
    if last.crowded:
        raise VlmQuota(f"{url} limits the rate, {asked}: {last}")
    raise VlmUnavailable(f"{url} does not answer, {asked}: {last}")
