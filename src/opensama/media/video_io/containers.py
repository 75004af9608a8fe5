"""What each kind of video file holds: codecs for the pictures, sound that is copied, sound that is made.

| ending | pictures | sound copied | other sound becomes |
|---|---|---|---|
| .mp4 .m4v | H.264, HEVC for more than 8 bit | AAC, MP3, AC-3, E-AC-3 | AAC |
| .mkv | H.264, HEVC for more than 8 bit | what Matroska names | AAC |
| .mov | ProRes 422 HQ, 4444 with alpha or odd widths | AAC, MP3, AC-3, E-AC-3, ALAC, PCM | PCM |
| .webm | VP9 | Opus, Vorbis | Opus |

Other codecs are chosen by name, where the kind of file holds them, and so are encoders of the hardware.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import cast

import av

from opensama.values import ColorInfo, UserError, Video

CODECS = {"h264": "H.264", "hevc": "HEVC", "av1": "AV1", "vp9": "VP9", "prores": "ProRes", "prores-4444": "ProRes 4444"}
"""What may be asked for, with the names of the field."""
HARDWARE = ("nvenc", "qsv", "amf", "videotoolbox")
"""FFmpeg's endings of encoders on a graphics card or in a processor: hevc_nvenc."""
_SMALLEST_HEVC = 64  # x265 4.2 takes no side below 16 and corrupts memory at widths from 33 to 48
_LOOKS_AHEAD = 40 * 2**20
"""Pixels of the frames that x264 holds to look ahead: its own forty up to a megapixel, then as many fewer."""
_MP4_SOUND = frozenset({"aac", "mp3", "ac3", "eac3"})
_PCM = frozenset({"pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_s16be", "pcm_s24be", "pcm_s32be", "pcm_f32le"})


@dataclass(frozen=True)
class FileFormat:
    """One kind of file; names of muxers and codecs are FFmpeg's."""

    name: str
    muxer: str
    copied: frozenset[str]
    """Sound codecs that are kept as they are."""
    codecs: tuple[str, ...]
    """Of the pictures; the first one is taken where nobody asks for another."""
    encoder: str
    """For all other sound: `aac`, `libopus` or `pcm`, which means 16 or 24 bit as the source has."""
    reason: str
    """Why sound is made anew."""
    holds_alpha: bool = False
    milliseconds: bool = False
    """Whether times are stored in milliseconds, in place of any ticks."""


_MP4 = FileFormat("MP4", "mp4", _MP4_SOUND, ("h264", "hevc", "av1"), "aac", "MP4 players do not play it as it is")
FORMATS = {
    ".mp4": _MP4,
    ".m4v": _MP4,
    ".mov": FileFormat(
        "MOV",
        "mov",
        _MP4_SOUND | _PCM | {"alac"},
        ("prores", "prores-4444", "h264", "hevc"),
        "pcm",
        "QuickTime does not play it as it is",
        holds_alpha=True,
    ),
    ".mkv": FileFormat(
        "MKV",
        "matroska",
        _MP4_SOUND | _PCM | {"mp2", "dts", "truehd", "flac", "alac", "opus", "vorbis", "tta", "wavpack"},
        ("h264", "hevc", "av1", "vp9"),
        "aac",
        "Matroska has no name for it",
        milliseconds=True,
    ),
    ".webm": FileFormat(
        "WebM",
        "webm",
        frozenset({"opus", "vorbis"}),
        ("vp9", "av1"),
        "libopus",
        "WebM holds only Opus and Vorbis",
        holds_alpha=True,
        milliseconds=True,
    ),
}
"""By the ending of the name."""


def format_of(path: Path) -> FileFormat:
    """The kind of file that the name's ending asks for. Raises UserError for one that is not written."""
    found = FORMATS.get(path.suffix.lower())
    if found is None:
        known = ", ".join(FORMATS)
        raise UserError(
            f"{path} is not the name of a file that can be written; end it in one of {known}, a picture in .png, .jpg "
            "or .webp."
        )
    return found


@dataclass(frozen=True)
class Encoding:
    """Codec, pixel format, size and colours of the pictures, with what there is to say about them."""

    codec: str
    pixel_format: str
    width: int
    height: int
    color: ColorInfo
    options: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        video: Video,
        kind: FileFormat,
        quality: float,
        even: bool,
        alpha: bool = False,
        codec: str | None = None,
    ) -> Encoding:
        """The best that the format's players show, or what the named codec makes. Raises UserError for a wrong quality,
        for a codec that does not go into such a file or is not here, and for alpha that does not fit."""
        name, hardware = check_coding(kind, quality, alpha, codec)
        if hardware:
            return _by_hardware(video, quality, even, name, hardware)
        if name.startswith("prores"):
            return _prores(video, quality, alpha, whole=name == "prores-4444")
        if name == "vp9":
            return _vp9(video, quality, alpha)
        if name == "av1":
            return _av1(video, quality)
        return _h264_or_hevc(video, quality, even, codec)


def check_coding(kind: FileFormat, quality: float, alpha: bool, codec: str | None) -> tuple[str, str]:
    """The codec, and whose hardware encodes it, if any's. UserError for what `Encoding.of` refuses of any video."""
    if not 0 <= quality <= 100:
        raise UserError(f"The quality must be from 0 to 100, not {quality:g}.")
    if alpha and not kind.holds_alpha:
        raise UserError(f"{kind.name} files hold no transparency; choose a name that ends in .mov or .webm.")
    name, _, hardware = (codec or kind.codecs[0]).partition("_")
    if name not in kind.codecs or (hardware and not has_encoder(f"{name}_{hardware}")):
        raise UserError(
            f"{kind.name} files cannot be made with the codec {codec!r} here; choose {_listed(possible(kind))}, or "
            "another ending of the name."
        )
    if alpha and (hardware or name not in ("vp9", "prores", "prores-4444")):
        raise UserError(f"The codec {codec} holds no transparency here; leave `codec` or `alpha=keep` out.")
    return name, hardware


def possible(kind: FileFormat) -> list[str]:
    """What pictures may be coded with in such a file on this machine: codecs, then encoders of its hardware."""
    hardware = (f"{codec}_{maker}" for codec in kind.codecs for maker in HARDWARE)
    return [*kind.codecs, *(name for name in hardware if has_encoder(name))]


@cache
def has_encoder(name: str) -> bool:
    """Whether this machine has that hardware encoder, by coding one small picture: FFmpeg lists all it was built for.

    Names that are not of `CODECS` and `HARDWARE` are none.
    """
    codec, _, maker = name.partition("_")
    if codec not in CODECS or maker not in HARDWARE:
        return False
    try:
        context = cast(av.VideoCodecContext, av.CodecContext.create(name, "w"))
        context.width, context.height, context.pix_fmt = 256, 256, "nv12"
        context.framerate = Fraction(25)
        frame = av.VideoFrame(256, 256, "nv12")
        frame.pts = 0
        return bool(context.encode(frame) + context.encode(None))
    except (av.error.FFmpegError, OSError, ValueError):
        return False


def common_ticks(ticks: int, rates: list[int]) -> int:
    """Edit lists count in the movie's ticks: ones that picture and sound share keep both exact."""
    common = math.lcm(ticks, *rates)
    return common if common < 2**31 else ticks


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _h264_or_hevc(video: Video, quality: float, even: bool, codec: str | None) -> Encoding:
    """HEVC for more than 8 bits, unless one of the two was asked for."""
    width, height, notes = _even(video) if even else (video.width, video.height, [])
    subsampled = not (width % 2 or height % 2)
    if not subsampled:
        notes.append(
            f"{width}x{height} is odd-sized: written as 4:4:4, which some phones and browsers refuse; "
            "pad it by one pixel with `even=True`."
        )
    deep, large = video.bit_depth > 8, min(width, height) >= _SMALLEST_HEVC
    if codec == "hevc" and not large:
        raise UserError(f"HEVC takes sides of {_SMALLEST_HEVC} pixels and more, not {width}x{height}; choose h264.")
    hevc = codec == "hevc" or (codec is None and deep and large)
    notes += _depth_notes(video, 10) if deep else []
    if deep and not hevc:
        why = "" if codec else "Too small for HEVC: "
        notes.append(f"{why}{'w' if why else 'W'}ritten as 10-bit H.264, which few browsers play.")
    pixel_format = ("yuv420p" if subsampled else "yuv444p") + ("10le" if deep else "")
    crf = 38 - quality / 4 + (3 if hevc else 0)  # about the same look
    options = {"crf": f"{crf:g}", "preset": "medium"}
    if not hevc and width * height > _LOOKS_AHEAD // 40:
        options["rc-lookahead"] = str(max(10, _LOOKS_AHEAD // (width * height)))
    return Encoding("libx265" if hevc else "libx264", pixel_format, width, height, video.color, options, tuple(notes))


def _even(video: Video) -> tuple[int, int, list[str]]:
    """Width and height padded to even numbers, and what there is to say about it."""
    width, height = video.width + video.width % 2, video.height + video.height % 2
    if (width, height) == (video.width, video.height):
        return width, height, []
    return (
        width,
        height,
        [f"Padded from {video.width}x{video.height} to {width}x{height} by repeating the last pixels."],
    )


def _by_hardware(video: Video, quality: float, even: bool, codec: str, maker: str) -> Encoding:
    """At a quality that is near the software encoder's; 10 bit where the source has more than 8, except in H.264."""
    width, height, notes = _even(video) if even else (video.width, video.height, [])
    if width % 2 or height % 2:
        raise UserError(f"Hardware encoders take no odd sides such as {width}x{height}; pad them with `even=True`.")
    deep = video.bit_depth > 8 and codec != "h264"
    notes += _depth_notes(video, 10 if deep else 8) if video.bit_depth > 8 else []
    level = str(round(40 - quality / 4))
    options = {
        "nvenc": {"rc": "vbr", "cq": level, "b": "0", "preset": "p5"},
        "qsv": {"global_quality": level},
        "amf": {"rc": "cqp", "qp_i": level, "qp_p": level},
        "videotoolbox": {"q": str(round(quality)), "allow_sw": "0"},
    }[maker]
    pixel_format = "p010le" if deep else "nv12"
    return Encoding(f"{codec}_{maker}", pixel_format, width, height, video.color, options, tuple(notes))


def _av1(video: Video, quality: float) -> Encoding:
    """SVT-AV1: 4:2:0, at odd sizes too, 10 bit where the source has more than 8."""
    os.environ.setdefault("SVT_LOG", "1")  # errors alone: it prints its settings, and FFmpeg cannot tell it not to
    deep = video.bit_depth > 8
    options = {"crf": f"{round(60 - quality * 0.45)}", "preset": "8"}
    notes = _depth_notes(video, 10) if deep else []
    pixel_format = "yuv420p10le" if deep else "yuv420p"
    return Encoding("libsvtav1", pixel_format, video.width, video.height, video.color, options, tuple(notes))


@contextmanager
def own_priority() -> Iterator[None]:
    """What a block opens leaves this process's threads the scheduling that they had.

    SVT-AV1, run by root, takes the highest real-time priority for its threads and for the one that opens it, which
    keeps it and hands it to all that it starts afterwards (findings/av1_is_real_time.sh). Linux only.
    """
    if not hasattr(os, "sched_setscheduler"):
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    yield
    if policy in (os.SCHED_FIFO, os.SCHED_RR):
        return  # as whoever started this process wanted it
    for thread in map(int, os.listdir("/proc/self/task")):
        with suppress(ProcessLookupError):  # it has ended
            if os.sched_getscheduler(thread) in (os.SCHED_FIFO, os.SCHED_RR):
                os.sched_setscheduler(thread, policy, parameters)


def _prores(video: Video, quality: float, alpha: bool, whole: bool) -> Encoding:
    """422 HQ, 10 bit; 4444 where that is asked for, where there is alpha, or where 4:2:2 would halve an odd width.
    Never full range."""
    whole = whole or alpha or video.width % 2 == 1
    pixel_format = ("yuva444p10le" if alpha else "yuv444p10le") if whole else "yuv422p10le"
    options = {
        "profile": "4444" if whole else "hq",
        "vendor": "apl0",
        # The encoder's budget for a macroblock: what Apple's own takes at 80, and up to twice that.
        "bits_per_mb": str(round((1500 if whole else 1100) * (0.5 + quality / 160))),
    }
    color = replace(video.color, range="limited")
    notes = _depth_notes(video, 10) if video.bit_depth > 10 else []
    return Encoding("prores_ks", pixel_format, video.width, video.height, color, options, tuple(notes))


def _vp9(video: Video, quality: float, alpha: bool) -> Encoding:
    """4:2:0, which VP9 takes at odd sizes too. 8 bit: the VP9 encoder that PyAV brings makes no more."""
    options = {
        "crf": f"{round(60 - quality / 2)}",
        "b": "0",
        "deadline": "good",
        "cpu-used": "4",
        "row-mt": "1",
        "auto-alt-ref": "0" if alpha else "1",
    }
    notes = []
    if video.bit_depth > 8:
        notes.append(
            f"The source has {video.bit_depth} bits a colour; VP9 is written with 8: .mp4, .mkv and .mov keep more."
        )
    pixel_format = "yuva420p" if alpha else "yuv420p"
    return Encoding("libvpx-vp9", pixel_format, video.width, video.height, video.color, options, tuple(notes))


def _depth_notes(video: Video, bits: int) -> list[str]:
    if video.bit_depth == bits:
        return []
    return [f"The source has {video.bit_depth} bits a colour; the result has {bits}, which players can show."]
