"""How far a long command is, on stderr: a bar with an estimate on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, Self

from opensama.apps.options import as_options
from opensama.values import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

_EVERY = 10.0  # seconds between two plain lines of one stage
_LONG = 3.0  # seconds: a stage that will take longer says so at once


def loading(model: object) -> None:
    """Says at once what a person then waits for: PyTorch, and the model's weights."""
    print(f"Loading {model} ...", file=sys.stderr, flush=True)


@contextmanager
def log_lines(logger: str) -> Iterator[None]:
    """Prints what a package logs, line by line, while a command runs."""
    handler = logging.StreamHandler(sys.stdout)
    log = logging.getLogger(logger)
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


class TimeLeft:
    """Seconds that a stage has left, by the pace of the newer half of what is done, once a tenth is.

    So a slow beginning (what is first computed warms up) is soon forgotten, and another program that comes or goes is
    soon noticed.
    """

    def __init__(self) -> None:
        self._done, self._seconds = [0], [0.0]

    def __call__(self, progress: Progress) -> float | None:
        """Seconds left after this report, which is later than those before it; None before the second, and a tenth."""
        if progress.done > self._done[-1]:
            self._done.append(progress.done)
            self._seconds.append(progress.seconds)
        if len(self._done) < 3 or progress.fraction < 0.1:
            return None
        half = max(1, bisect_right(self._done, progress.done // 2) - 1)  # the first report warms up
        half = min(half, len(self._done) - 2)
        pace = (self._seconds[-1] - self._seconds[half]) / (self._done[-1] - self._done[half])
        return pace * (progress.total - progress.done)


class Display:
    """Shows `Progress` values: `with Display() as show: show(Progress("edit", 3, 10, seconds))`.

    `end_code` is the exit code of a process that was told to end. What its signal's handler raises may be lost: within
    a destructor or a weak reference's callback Python prints it and goes on. So the next report raises it again.
    """

    end_code: ClassVar[int | None] = None

    def __init__(self) -> None:
        self._bar: Bar | None = None
        self._tasks: dict[str, TaskID] = {}
        self._estimates: dict[str, TimeLeft] = {}
        self._last: dict[str, float] = {}
        self._said: set[str] = set()  # stages whose length was said

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar

            columns = ("{task.description:<10}", BarColumn(), MofNCompleteColumn(), "{task.fields[unit]}")
            ends = (TimeElapsedColumn(), "{task.fields[left]}")
            self._bar = Bar(*columns, *ends, console=Console(stderr=True))
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        if self.end_code is not None:
            sys.exit(self.end_code)
        stage = progress.stage
        left = self._estimates.setdefault(stage, TimeLeft())(progress)
        if self._bar is not None:
            words = "" if left is None or progress.done == progress.total else f"about {duration(left)} left"
            if stage not in self._tasks:
                self._tasks[stage] = self._bar.add_task(stage, total=progress.total, unit=progress.unit, left="")
            self._bar.update(self._tasks[stage], completed=progress.done, total=progress.total, left=words)
            return
        now = time.monotonic()
        late = now - self._last.setdefault(stage, now) >= _EVERY
        news = stage if left is not None else f"{stage} has begun"
        long = news not in self._said and (progress.seconds if left is None else left) > _LONG
        if progress.done == progress.total or long or late:
            self._last[stage] = now
            if long:
                self._said.add(news)
            print(progress_line(progress, left), file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """A line that stays, above the bar; settings that it names in backquotes are the command line's options."""
        text = as_options(text)
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)


def progress_line(progress: Progress, left: float | None = None) -> str:
    """`Decoding: 34/81 frames, about 21 s left`; what is counted in percent has no total."""
    total = "" if progress.unit == "%" else f"/{progress.total}"
    text = f"{progress.stage}: {progress.done}{total} {progress.unit}".rstrip()
    return text if left is None or progress.done == progress.total else f"{text}, about {duration(left)} left"


def duration(seconds: float) -> str:
    """`0.3 s`, `8 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 0.95:
        return f"{max(0.1, seconds):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
