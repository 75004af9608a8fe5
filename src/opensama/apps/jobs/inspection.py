"""Uploads are looked at before anything believes them: the kind by first bytes, the rest in a process with limits.

A name from outside is never used; a file's ending comes from its bytes, and what no video or picture begins with is
never opened, lists of addresses that FFmpeg would follow among it. The process has so much memory and time, and no say:
it answers with a line of JSON, and each way in which it can end without one has its sentence. It keeps a broken file
from harming the service, and is no sandbox.
"""

from __future__ import annotations

import errno
import json
import math
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar, TypeVarTuple

from opensama.apps.jobs.limits import MIB, JobLimits, Refusal, RefusalCode
from opensama.apps.jobs.words import StoredWish, plain
from opensama.apps.records import JobAsked, MediaFigures
from opensama.first_bytes import HEAD, kind_of, stand_in
from opensama.values import UserError, Video

_ASF = bytes.fromhex("3026b2758e66cf11")
_BEGINNINGS: tuple[tuple[int, bytes, str], ...] = (
    (4, b"ftypqt  ", ".mov"), (4, b"ftypavif", ".avif"), (4, b"ftypavis", ".avif"), (4, b"ftyp", ".mp4"),
    (4, b"moov", ".mov"), (4, b"mdat", ".mov"), (4, b"wide", ".mov"), (0, b"\x1aE\xdf\xa3", ".mkv"),
    (8, b"AVI ", ".avi"), (8, b"WEBP", ".webp"), (0, b"\x89PNG\r\n\x1a\n", ".png"), (0, b"\xff\xd8\xff", ".jpg"),
    (0, b"GIF8", ".gif"), (0, b"FLV\x01", ".flv"), (0, b"OggS", ".ogv"), (0, b"\x00\x00\x01\xba", ".mpg"),
    (0, _ASF, ".wmv"), (0, b"II*\x00", ".tif"), (0, b"MM\x00*", ".tif"),
)  # fmt: skip
"""Where it stands, how a kind of file begins, and what such a file is called here."""
PRELOADED = ["opensama.apps.jobs.inspection", "opensama.media.video_io.writing", "opensama.pipeline.request_checks"]
"""What the server of these processes imports once."""
_Answer = TypeVar("_Answer")
_Rest = TypeVarTuple("_Rest")


def media_suffix(head: bytes, size: int) -> str:
    """The ending that a file should have which begins so. Refusal for what is neither a video nor a picture."""
    if said := stand_in(head, size):
        raise Refusal("invalid_media", f"The file {said}.")
    for place, magic, suffix in _BEGINNINGS:
        if head[place : place + len(magic)] == magic:
            return ".webm" if suffix == ".mkv" and b"webm" in head[:64] else suffix
    for first, step in ((0, 188), (4, 192)):  # transport streams, plain and with a clock before each packet
        if len(head) > first + 2 * step and head[first] == head[first + step] == head[first + 2 * step] == 0x47:
            return ".ts"
    kind = kind_of(head)
    raise Refusal("invalid_media", f"The file is neither a video nor a picture{f' but {kind}' if kind else ''}.")


def with_suffix(path: Path) -> Path:
    """The same file under an ending that says what it is."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    named = path.with_suffix(media_suffix(head, path.stat().st_size))
    os.rename(path, named)
    return named


def inspect(folder: Path, asked: JobAsked, model: str, limits: JobLimits) -> MediaFigures:
    """What is in a job's source. All frames are decoded once, in a process of its own. Refusal or UserError for what is
    wrong with it and the other files."""
    return in_a_process(
        _look, folder, asked, model, limits, seconds=limits.inspect_seconds, memory=limits.inspect_memory
    )


def inspect_clip(folder: Path, name: str, limits: JobLimits) -> MediaFigures:
    """The same of a video that nothing is asked of yet."""
    return in_a_process(
        _look_at_clip, folder, name, limits, seconds=limits.inspect_seconds, memory=limits.inspect_memory
    )


def in_a_process(
    function: Callable[[Path, *_Rest], _Answer], folder: Path, *rest: *_Rest, seconds: float, memory: int
) -> _Answer:
    """What `function(folder, *rest)` answers in a process with so many seconds and megabytes.

    Refusal where it does not come to an end within them, or its decoder ends it.
    """
    posix = sys.platform != "win32"
    context = multiprocessing.get_context("forkserver") if posix else multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_limited, args=(theirs, function, folder, rest, seconds, memory), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(seconds):
            raise Refusal("took_too_long", _TOO_LONG.format(seconds))
        answer = json.loads(ours.recv_bytes(MIB))  # JSON: what a decoder was talked into is not unpickled
    except (EOFError, OSError):
        process.join(_GRACE)
        code, sentence = _ENDED.get(process.exitcode or 0, ("invalid_media", _BROKE_DOWN))
        raise Refusal(code, sentence.format(seconds)) from None
    finally:
        process.kill()
        process.join()
        process.close()
        ours.close()
    if "refused" in answer:
        raise Refusal(answer["code"], answer["refused"])
    return answer["found"]


_NEAR = 0.75  # of the memory; a decoder that fails so near to it, in silence, may have found none
_GRACE = 1.0  # seconds for a process that has let go of its pipe to end
_TOO_LONG = "The file took more than {:g} s to look at; give a shorter or smaller one."
_TOO_MUCH = "The file wants more than {} MB to be decoded; give a smaller one."
_BROKE_DOWN = "The file cannot be decoded: its decoder broke down. Convert it to another format."
_ENDED: dict[int, tuple[RefusalCode, str]] = {
    -signal.SIGXCPU: ("took_too_long", _TOO_LONG),
    -signal.SIGKILL: ("invalid_media", "The file wants more memory than there is to be decoded; give a smaller one."),
}
"""What a process ended by that signal says of its file: the system's answer to a limit, or to a lack of memory."""


def _limited(
    answer: Connection, function: Callable[[Path, *_Rest], object], folder: Path, rest: tuple[*_Rest], seconds: float,
    memory: int,
) -> None:  # fmt: skip
    most = math.inf
    with suppress(ImportError):  # where the system has no such limits
        import resource

        held = _address_space("VmSize")
        spent = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        processor = math.ceil(spent + seconds) * (os.cpu_count() or 1)  # of all threads; also where nobody waits
        resource.setrlimit(resource.RLIMIT_CPU, (processor, processor + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if held:
            resource.setrlimit(resource.RLIMIT_AS, (held + memory * MIB,) * 2)
        most = held + memory * MIB * _NEAR
    try:
        said: dict[str, object] = {"found": function(folder, *rest)}
    except Exception as error:
        if _lacks_memory(error) or _address_space("VmPeak") > most:
            said = {"refused": _TOO_MUCH.format(memory), "code": "invalid_media"}
        elif isinstance(error, UserError):
            code = error.code if isinstance(error, Refusal) else "invalid_media"
            said = {"refused": plain(str(error), folder), "code": code}
        else:
            raise  # our log says more
    answer.send_bytes(json.dumps(said).encode())
    answer.close()


def _lacks_memory(error: BaseException | None) -> bool:
    """Whether a lack of memory is what an error comes of; threads without room for a stack are to be tried again."""
    while error is not None:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in (errno.ENOMEM, errno.EAGAIN):
            return True
        error = error.__cause__ or error.__context__
    return False


def _address_space(which: str) -> int:
    """Bytes that this process has mapped (VmSize), or had at most (VmPeak); 0 where the system does not say."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{which}:"):
                return int(line.split()[1]) * 1024
    return 0


def _look(folder: Path, asked: JobAsked, model: str, limits: JobLimits) -> MediaFigures:
    from opensama.apps.edit_checks import check_job

    wish = StoredWish.of(asked, folder)
    settings = wish.settings
    video = read_checked(wish.source, limits, settings.background)
    for other in wish.files[1:]:
        read_checked(other, limits)
    job = check_job(wish.source, wish.variant(0), wish.out(0), settings.writing(overwrite=True), span=settings.span)
    settings.completed(job.request, model, asked["anyway"])
    return _found(video, job.source.notes, folder)


def _look_at_clip(folder: Path, name: str, limits: JobLimits) -> MediaFigures:
    from opensama.media.video_io import check_frames

    video = read_checked(folder / name, limits)
    check_frames(video)
    return _found(video, video.notes, folder)


def read_checked(path: Path, limits: JobLimits, background: str = "white") -> Video:
    """A video from outside, of a kind that its bytes have told. Refusal where it has more than may be of anything."""
    from opensama.media.video_io import read_video

    _check_streams(path, limits)
    video = read_video(path, background=background)
    _check_limits(video.width, video.height, video.frame_count, float(video.duration), limits)
    return video


def _found(video: Video, notes: Iterable[str], folder: Path) -> MediaFigures:
    return {
        "width": video.width, "height": video.height, "frames": video.frame_count, "fps": round(float(video.fps), 3),
        "seconds": round(float(video.duration), 3), "notes": [plain(note, folder) for note in notes],
    }  # fmt: skip


def _check_streams(path: Path, limits: JobLimits) -> None:
    """Refusal for a file of more streams than may be: each has a decoder and buffers of its own."""
    from opensama.media import PICTURE_SUFFIXES
    from opensama.media.video_io.opening import streams_in

    if path.suffix in PICTURE_SUFFIXES:
        return
    if (streams := streams_in(path)) > limits.max_streams:
        raise Refusal(
            "too_many_streams",
            f"The file has {streams} streams, of {limits.max_streams} that may be; take out those that are not needed.",
        )


def _check_limits(width: int, height: int, frames: int, seconds: float, limits: JobLimits) -> None:
    if width * height > limits.max_pixels:
        raise Refusal(
            "too_many_pixels",
            f"A frame has {width}x{height} pixels, more than the {limits.max_pixels:,} that may be; make it smaller.",
        )
    if frames > limits.max_frames:
        raise Refusal("too_long", f"The video has {frames:,} frames, of {limits.max_frames:,} that may be; cut it.")
    if frames > 1 and seconds > limits.max_seconds:
        raise Refusal("too_long", f"The video lasts {seconds:.1f} s, of {limits.max_seconds:g} that may be; cut it.")
