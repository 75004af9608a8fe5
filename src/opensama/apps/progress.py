"""How far a long command is, on stderr: a bar with an estimate on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from opensama.values import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

EVERY = 10.0  # seconds between two plain lines of one stage
LONG = 3.0  # seconds: a stage that will take longer says so at once


class Display:
    """Shows `Progress` values: `with Display() as show: show(Progress("edit", 3, 10, seconds))`."""

    def __init__(self) -> None:
        self._bar: Bar | None = None
        self._tasks: dict[str, TaskID] = {}
        self._last: dict[str, float] = {}

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = ("{task.description:<10}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = Bar(*columns, TextColumn("left"), TimeRemainingColumn(), console=Console(stderr=True))
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        if self._bar is not None:
            if progress.stage not in self._tasks:
                self._tasks[progress.stage] = self._bar.add_task(progress.stage, total=progress.total)
            self._bar.update(self._tasks[progress.stage], completed=progress.done, total=progress.total)
            return
        now = time.monotonic()
        long = progress.stage not in self._last and (progress.remaining or 0) > LONG
        if progress.done == progress.total or long or now - self._last.setdefault(progress.stage, now) >= EVERY:
            self._last[progress.stage] = now
            print(sentence(progress), file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """A line that stays, above the bar."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)


def sentence(progress: Progress) -> str:
    """`denoise: 3/10, about 21 s left`."""
    text = f"{progress.stage}: {progress.done}/{progress.total}"
    left = progress.remaining
    return text if left is None or progress.done == progress.total else f"{text}, about {duration(left)} left"


def duration(seconds: float) -> str:
    """`8 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
