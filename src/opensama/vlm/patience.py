"""What clients of servers share: an address, and asking once more where one was busy or gone."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from opensama.values import UserError
from opensama.vlm.asking import VlmQuota, VlmUnavailable

PAUSE = 1.0  # seconds before the second attempt; doubles each time
LONGEST = 60.0  # seconds


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


def persist(attempt: Callable[[], str], url: str, retries: int, pause: float) -> str:
    """What the first attempt gives that raises no `Again`. VlmQuota or VlmUnavailable when all have."""
    for number in range(retries + 1):
        try:
            return attempt()
        except Again as again:
            last = again
        if number < retries:
            pausing = min(LONGEST, pause * 2**number) * random.uniform(0.75, 1.25)
            time.sleep(min(last.wait or pausing, LONGEST))
    asked = "asked once" if not retries else f"asked {retries + 1} times"
    if last.crowded:
        raise VlmQuota(f"{url} limits the rate, {asked}: {last}")
    raise VlmUnavailable(f"{url} does not answer, {asked}: {last}")
