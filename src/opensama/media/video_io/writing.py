"""`Video`s to files that browsers, phones and editors play, frame for frame and tick for tick.

The ending of the name says which kind (`containers`). Time stamps are kept in the source's own ticks. At a constant
rate B-frames are used; at a variable rate they are not, because MP4 stores the time from one frame to the next in coded
order, and only without B-frames is that the time on screen. The file is written under a temporary name in the same
folder, read back, and renamed when it is whole.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import cast

import av
import numpy as np

from opensama.media.credentials import SigningIdentity, side_file, sign
from opensama.media.frames import of_depth
from opensama.media.video_io.alpha import lifted
from opensama.media.video_io.color import FromRGB, tag
from opensama.media.video_io.containers import Encoding, FileFormat, common_ticks, format_of, own_priority
from opensama.media.video_io.edit_record import append_record, tags_of, with_record
from opensama.media.video_io.keeping import Kept
from opensama.media.video_io.pictures import PictureCoding, is_picture, write_picture
from opensama.media.video_io.sound import Sound
from opensama.media.video_io.splicing import NotSpliced, Splice
from opensama.runtime import DISK_FULL, whole_file
from opensama.values import UserError, Video

_MOMENT = Fraction(2)
"""Seconds of sound in a rehearsal."""


@dataclass(frozen=True)
class WriteReport:
    """What was written, and what a person should know about it."""

    path: Path
    width: int
    height: int
    frame_count: int
    codec: str
    pixel_format: str
    sound: str
    """`none`, or what was done: `copied aac`, `opus made aac`."""
    notes: tuple[str, ...] = ()


def write_video(
    video: Video,
    path: str | Path,
    *,
    quality: float = 80,
    even: bool = False,
    codec: str | None = None,
    record: str = "settings",
    credentials: SigningIdentity | None = None,
    overwrite: bool = False,
    on_note: Callable[[str], None] = print,
) -> WriteReport:
    """Writes an MP4, MOV, MKV or WebM, or of one frame a PNG, JPEG or WebP, and says what it did; whatever goes wrong,
    no file is left behind.

    `quality` runs from 0 to 100 (80: crf 18, hard to tell from the source). `even` pads odd sides by one pixel in
    place of 4:4:4. `codec` is one of `CODECS` or a hardware encoder (`hevc_nvenc`), by default the format's own. A
    video's transparency is kept in MOV, WebM, PNG and WebP. Of an edit the file tells by what settings it was made:
    `record` is "settings", "instruction" (the words that were typed too) or "none"; `credentials` sign it. `on_note`
    gets each sentence that a person should read.
    Raises `UserError` if the file cannot be written.
    """
    path = Path(path)
    with _user_errors(path):
        check_writable(path, overwrite)
    written = {"quality": (quality, 80), "even": (even, False), "codec": (codec, None)}
    signed = _Signing(path, credentials if video.record is not None else None, overwrite)
    video = with_record(video, record, {key: value for key, (value, own) in written.items() if value != own})
    if is_picture(path):
        how = _check_picture(video, path, quality, even, codec)
        with _user_errors(path), whole_file(path) as temporary:
            temporary.touch(exist_ok=False)
            write_picture(video, temporary, how, quality)
            signed.sign(temporary, video)
            check_writable(path, overwrite)
        signed.finish()
        for note in video.notes:
            on_note(note)
        return WriteReport(path, video.width, video.height, 1, how.codec, how.pixel_format, "none", video.notes)
    kind, again = format_of(path), list[str]()
    try:
        if (splice := Splice.of(video, kind, quality, even, codec)) is not None:
            return _write_splice(video, path, splice, signed, overwrite, on_note)
    except NotSpliced as why:
        again = [_all_again(why)]
    plan = _plan(video, kind, quality, even, codec)
    with _user_errors(path), whole_file(path) as temporary:
        temporary.touch(exist_ok=False)
        sound, kept = _encode(video, plan, kind, temporary)
        lost = _check_written(temporary, video, kind, kept)
        signed.sign(temporary, video)
        check_writable(path, overwrite)
    signed.finish()
    notes = (*video.notes, *again, *plan.notes, *sound.notes, *kept.notes, *lost)
    for note in notes:
        on_note(note)
    return WriteReport(
        path, plan.width, plan.height, video.frame_count, plan.codec, plan.pixel_format, sound.summary, notes
    )


class _Signing:
    """Signs a file when all else is in its place; what belongs beside it is written when the file has its name."""

    def __init__(self, path: Path, identity: SigningIdentity | None, overwrite: bool) -> None:
        self.path, self.identity, self.beside = path, identity, b""
        self.side = None if identity is None else side_file(path)
        if self.side is not None and self.side.exists() and not overwrite:
            raise UserError(f"{self.side} exists; choose another name, or write over it with `overwrite=True`.")

    def sign(self, temporary: Path, video: Video) -> None:
        if self.identity is not None:
            with _user_errors(self.path):
                self.beside = sign(temporary, self.path, self.identity, video.path, video.record) or b""

    def finish(self) -> None:
        if self.side is not None:
            with _user_errors(self.side), whole_file(self.side) as temporary:
                temporary.write_bytes(self.beside)


def _write_splice(
    video: Video, path: Path, splice: Splice, signed: _Signing, overwrite: bool, on_note: Callable[[str], None]
) -> WriteReport:
    """Writes a video of which only a span is other than its file. NotSpliced if it turns out that this cannot be."""
    with _user_errors(path), whole_file(path) as temporary:
        temporary.touch(exist_ok=False)
        sound, left_out = splice.write(temporary)
        signed.sign(temporary, video)
        check_writable(path, overwrite)
    signed.finish()
    notes = (*video.notes, splice.note, *left_out)
    for note in notes:
        on_note(note)
    plan = splice.plan
    return WriteReport(path, plan.width, plan.height, video.frame_count, plan.codec, plan.pixel_format, sound, notes)


def _all_again(why: NotSpliced) -> str:
    return f"All frames are encoded again, not only the span's: {why}."


def rehearse(
    video: Video,
    path: str | Path,
    *,
    quality: float = 80,
    even: bool = False,
    codec: str | None = None,
    overwrite: bool = False,
    on_note: Callable[[str], None] = lambda note: None,
) -> tuple[int, int]:
    """Does all of `write_video` that can fail, with one black picture and a moment of the sound, before a long edit.

    `video` is the source, or anything of the edit's size, times, sound and span. Leaves nothing behind. The frames that
    will be encoded come out, start and stop; if these are all though only a span was edited, `on_note` hears why.
    Raises `UserError` as `write_video` would.
    """
    path = Path(path)
    with _user_errors(path):
        check_writable(path, overwrite)
        if is_picture(path):
            _check_picture(video, path, quality, even, codec)
            return 0, video.frame_count
        kind = format_of(path)
        try:
            if (splice := Splice.of(video, kind, quality, even, codec)) is not None:
                return splice.start, splice.stop
        except NotSpliced as why:
            on_note(_all_again(why))
        plan = _plan(video, kind, quality, even, codec)
        with tempfile.TemporaryDirectory(prefix=".rehearsal.", suffix=".part", dir=path.absolute().parent) as scratch:
            _encode(video, plan, kind, Path(scratch) / path.name, moment=_MOMENT)
        return 0, video.frame_count


def _plan(video: Video, kind: FileFormat, quality: float, even: bool, codec: str | None) -> Encoding:
    return Encoding.of(video, kind, quality, even, video.transparency is not None and kind.holds_alpha, codec)


def _check_picture(video: Video, path: Path, quality: float, even: bool, codec: str | None) -> PictureCoding:
    if codec is not None:
        raise UserError(f"{path} is a picture, which has no codec to choose; leave `codec={codec}` out.")
    return PictureCoding.of(video, path, quality, even)


def check_writable(path: Path, overwrite: bool = False) -> None:
    """Raises `UserError` unless a video or a picture can be written there: worth calling before a long edit."""
    if not is_picture(path):
        format_of(path)
    folder = path.absolute().parent
    try:
        there = folder.is_dir()
    except PermissionError:
        raise UserError(f"The folder {folder} is not writable; choose another place.") from None
    if not there:
        raise UserError(f"There is no folder {folder}; make it first.")
    if path.is_dir() or (path.exists() and not path.is_file()):
        raise UserError(f"{path} is not a regular file; choose another name.")
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists; choose another name, or write over it with `overwrite=True`.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"The folder {folder} is not writable; choose another place.")


def _encode(
    video: Video, plan: Encoding, kind: FileFormat, temporary: Path, moment: Fraction | None = None
) -> tuple[Sound, Kept]:
    """Pictures and sound into one file, interleaved as they come; with `moment`, one picture and seconds of sound."""
    ticks, stamps, durations = _clock(video, kind)
    with Sound.of(video, kind) as sound, Kept.of(video, kind) as kept:
        options = {}
        if not kind.milliseconds:
            options = {
                "movflags": "+faststart",
                "video_track_timescale": str(ticks),
                "movie_timescale": str(common_ticks(ticks, sound.rates)),
            }
        container = av.open(f"file:{temporary.absolute()}", "w", format=kind.muxer, options=options)
        try:
            stream = _add_pictures(container, video, plan, kind, ticks)
            sound.add_to(container)
            kept.add_to(container, stream)
            container.metadata.update(tags_of(video, kind))
            convert = FromRGB(plan.pixel_format, plan.color, video.width, video.height)
            duration_at, b_frames = dict(zip(stamps, durations, strict=True)), _b_frames(video)

            def put(packets: list[av.Packet]) -> None:
                for packet in packets:
                    assert packet.pts is not None
                    packet.duration = duration_at[packet.pts]
                    packet.dts = packet.dts if b_frames else packet.pts
                    container.mux(packet)

            pictures = _pictures(video, plan)
            if moment is not None:
                stamps, pictures = stamps[:1], iter([_black(video, plan)])
            for stamp, (picture, alpha) in zip(stamps, pictures, strict=True):
                frame = convert(picture, alpha)
                frame.pts, frame.time_base = stamp, Fraction(1, ticks)
                sound.mux_until(container, Fraction(stamp, ticks))
                kept.mux_until(container, Fraction(stamp, ticks))
                put(stream.encode(frame))
            put(stream.encode(None))
            if moment is not None:
                sound.mux_until(container, Fraction(stamps[0], ticks) + moment)
                sound.finish(container)
            sound.mux_until(container, None)
            kept.mux_until(container, None)
        except BaseException:
            with contextlib.suppress(Exception):
                container.close()
            raise
        container.close()
        append_record(temporary, video, kind)
        return sound, kept


def _black(video: Video, plan: Encoding) -> tuple[np.ndarray, np.ndarray | None]:
    black = np.zeros((plan.height, plan.width, 3), np.uint8 if video.bit_depth == 8 else np.uint16)
    return black, black[..., 0] if plan.pixel_format.startswith("yuva") else None


def _pictures(video: Video, plan: Encoding) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Frames as they are written: straight colours beside alpha, or padded."""
    clear = video.transparency
    if clear is None or not plan.pixel_format.startswith("yuva"):
        yield from ((_padded(picture, plan.width, plan.height), None) for picture in video.frames())
        return
    for picture, alpha in zip(video.frames(), clear.source(0, video.frame_count), strict=True):
        share = of_depth(alpha, picture.dtype)
        yield lifted(picture, share, clear.background), share


def _b_frames(video: Video) -> bool:
    """Not at a variable rate (see above), nor in a handful of frames, which x265 gives stray decoding times."""
    return video.is_constant_rate and video.frame_count >= 16


def _clock(video: Video, kind: FileFormat) -> tuple[int, list[int], list[int]]:
    """Ticks a second, and time stamps and durations in them: the source's own, or coarser ones that say the same.

    MP4 holds 32 bits for the ticks and for each duration, which nanoseconds overflow: these become microseconds.
    Matroska and WebM count in milliseconds.
    """
    base = video.time_base
    stamps, durations = list(video.timestamps), list(video.durations)
    coarse = 1000 if kind.milliseconds else 1_000_000
    if kind.milliseconds or base.denominator >= 2**31 or max(durations) * base.numerator >= 2**31:
        ends = [round(stamp * base * coarse) for stamp in (*stamps, stamps[-1] + durations[-1])]
        steps = [b - a for a, b in pairwise(ends)]
        if min(steps[:-1], default=1) < 1:
            raise UserError(
                f"{kind.name} files tell no two frames apart that are shown within {1000 / coarse:g} milliseconds; "
                "choose a name that ends in .mp4."
            )
        return coarse, ends[:-1], [max(1, step) for step in steps]
    # A base of 1001/30000 counts 1001 ticks of 1/30000.
    return base.denominator, [s * base.numerator for s in stamps], [d * base.numerator for d in durations]


def _add_pictures(
    container: av.container.OutputContainer, video: Video, plan: Encoding, kind: FileFormat, ticks: int
) -> av.VideoStream:
    rate = video.fps.limit_denominator(100_000)
    if kind.milliseconds and not video.is_constant_rate:
        rate = Fraction(1000)  # Matroska writes the rate as every frame's duration, unless it is as short as its ticks
    stream = cast(av.VideoStream, container.add_stream(plan.codec, rate=rate))
    context = stream.codec_context
    stream.width, stream.height, stream.pix_fmt = plan.width, plan.height, plan.pixel_format
    context.time_base = stream.time_base = Fraction(1, ticks)
    tag(context, plan.color)
    options = dict(plan.options)
    if not _b_frames(video) and plan.codec in ("libx264", "libx265"):
        options["bf"] = "0"
    if (plan.codec == "libx265" or plan.codec.startswith("hevc_")) and not kind.milliseconds:
        context.codec_tag = "hvc1"
    if plan.codec == "libx265":
        parameters = {"log-level": "error", **video.extra}
        if "bf" in options:
            parameters["bframes"] = options.pop("bf")
        options["x265-params"] = ":".join(f"{key}={value}" for key, value in parameters.items())
    stream.options = cast(dict[str, object], options)
    if plan.codec == "libsvtav1":
        with own_priority():
            context.open()
    return stream


def _padded(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    below, right = height - picture.shape[0], width - picture.shape[1]
    return np.pad(picture, ((0, below), (0, right), (0, 0)), mode="edge") if below or right else picture


def _check_written(path: Path, video: Video, kind: FileFormat, kept: Kept) -> list[str]:
    """Reads the packets back: a write that failed without a word leaves fewer. Says what else was lost."""
    with av.open(f"file:{path.absolute()}", format=kind.muxer) as container:
        packets = sum(packet.size > 0 for packet in container.demux(video=0))
        lost = kept.lost(container)
    if packets != video.frame_count:
        raise OSError(errno.EIO, f"{packets} of {video.frame_count} frames arrived")
    return lost


@contextlib.contextmanager
def _user_errors(path: Path) -> Iterator[None]:
    """What the operating system says while writing, as a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise UserError(f"The disk is full: {path} could not be written; free some space.") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(f"{path} may not be written ({error.strerror}); choose another place.") from error
        raise UserError(f"{path} could not be written ({error.strerror}); choose another place.") from error
    except av.error.FFmpegError as error:
        raise UserError(f"{path} could not be encoded ({error.strerror}).") from error
