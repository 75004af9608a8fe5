"""How much a person may ask of the service, and the refusal of more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cyclopts import Parameter

from opensama.values import UserError
from opensama.values.numbers import check_int, check_number

RefusalCode = Literal[
    "not_found", "not_ready", "edit_failed", "idempotency_conflict", "queue_full", "server_full", "disk_full",
    "too_large", "too_long", "too_many_pixels", "too_many_streams", "took_too_long", "model_not_found",
    "invalid_media", "invalid_value", "unknown_words", "disk_error", "internal_error", "worker_ended",
]  # fmt: skip
"""What a program is told a refusal by."""

MIB = 2**20


class Refusal(UserError):
    """What the service does not do, with a code for programs beside the sentence for people."""

    def __init__(self, code: RefusalCode, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


@Parameter(name="*")
@dataclass(frozen=True)
class JobLimits:
    """How much may be asked.

    Parameters
    ----------
    max_upload
        Megabytes (2^20 bytes) of one request, its files together.
    max_seconds
        Seconds of a video.
    max_frames
        Frames of a video.
    max_pixels
        Pixels of a frame.
    max_streams
        Streams of a file: pictures, sound, subtitles.
    max_steps
        Denoising steps of an edit.
    max_outputs
        Variants of one job.
    queue_per_owner
        Jobs of one owner that wait or run.
    queue
        Jobs of all together that wait or run.
    rate
        Requests a minute of one owner.
    free_disk
        Megabytes that must stay free where the jobs lie; nothing is taken in below that.
    keep_hours
        Hours for which a finished job and its files are kept.
    inspect_seconds
        Seconds in which an upload must have been looked at, all of its frames decoded.
    inspect_memory
        Megabytes that looking at an upload may take.
    job_seconds
        Seconds for which a worker is at one job, all of its outputs, before it is ended as failed.
    tries
        How often a job may take its worker down with it before it counts as failed.
    """

    max_upload: int = 512
    max_seconds: float = 120
    max_frames: int = 7200
    max_pixels: int = 3840 * 2160
    max_streams: int = 32
    max_steps: int = 200
    max_outputs: int = 4
    queue_per_owner: int = 20
    queue: int = 200
    rate: int = 600
    free_disk: int = 1024
    keep_hours: float = 24
    inspect_seconds: float = 120
    inspect_memory: int = 4096
    job_seconds: float = 6 * 3600
    tries: int = 3

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            said = name.replace("_", " ")
            if name in ("max_seconds", "keep_hours", "inspect_seconds", "job_seconds"):
                check_number(said, value, 1e-3, 1e6)
            else:
                check_int(said, value, 0 if name == "free_disk" else 1, 10**9)

    @property
    def upload_bytes(self) -> int:
        return self.max_upload * MIB


@dataclass(frozen=True)
class Owner:
    """Who asks: jobs belong to one, and nobody else finds them. A limit of None is the service's own."""

    name: str
    queue: int | None = None
    rate: int | None = None
