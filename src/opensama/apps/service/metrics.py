"""The service's figures in the text form that Prometheus reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping


def metrics_text(figures: Mapping[str, float], answered: Mapping[int, int], workers: int, free: int) -> str:
    """`figures` are those of `JobStore.figures`, `answered` counts requests by status, `free` is in bytes."""
    return "".join(f"{line}\n" for line in _lines(figures, answered, workers, free))


def _lines(figures: Mapping[str, float], answered: Mapping[int, int], workers: int, free: int) -> Iterator[str]:
    kept = {f'{{status="{name[5:]}"}}': value for name, value in figures.items() if name.startswith("jobs_")}
    yield from _metric("opensama_jobs", "gauge", "Jobs that are kept, by status.", kept)
    counters = {
        "submitted": "Jobs taken in.", "completed": "Jobs done.", "failed": "Jobs failed.",
        "requeued": "Jobs begun again after their worker had ended.",
        "edit_seconds": "Seconds that workers were at jobs.", "webhooks_sent": "Webhooks that were taken.",
        "webhooks_given_up": "Webhooks that nobody took.",
    }  # fmt: skip
    for name, words in counters.items():
        yield from _metric(f"opensama_{name}_total", "counter", words, {"": figures[name]})
    oldest = figures["oldest_seconds"]
    yield from _metric("opensama_queue_oldest_seconds", "gauge", "Age of the job that waits longest.", {"": oldest})
    yield from _metric("opensama_workers", "gauge", "Workers that live.", {"": workers})
    yield from _metric("opensama_free_disk_bytes", "gauge", "Free where the jobs lie.", {"": free})
    codes = {f'{{code="{code}"}}': many for code, many in sorted(answered.items())}
    yield from _metric("opensama_http_requests_total", "counter", "Requests answered, by status.", codes)


def _metric(name: str, kind: str, words: str, values: Mapping[str, float]) -> Iterator[str]:
    yield f"# HELP {name} {words}"
    yield f"# TYPE {name} {kind}"
    for labels, value in values.items():
        yield f"{name}{labels} {value:.10g}"
