"""What each kind of video file holds: codecs for the pictures, sound that is copied, sound that is made.

| ending | pictures | sound copied | other sound becomes |
|---|---|---|---|
| .mp4 .m4v | H.264, HEVC for more than 8 bit | AAC, MP3, AC-3, E-AC-3 | AAC |
| .mkv | H.264, HEVC for more than 8 bit | what Matroska names | AAC |
| .mov | ProRes 422 HQ, 4444 with alpha or odd widths | AAC, MP3, AC-3, E-AC-3, ALAC, PCM | PCM |
| .webm | VP9 | Opus, Vorbis | Opus |
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from opensama.values import ColorInfo, UserError, Video

_SMALLEST_HEVC = 64  # x265 4.2 takes no side below 16 and corrupts memory at widths from 33 to 48
_MP4_SOUND = frozenset({"aac", "mp3", "ac3", "eac3"})
_PCM = frozenset({"pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_s16be", "pcm_s24be", "pcm_s32be", "pcm_f32le"})


@dataclass(frozen=True)
class FileFormat:
    """One kind of file; names of muxers and codecs are FFmpeg's."""

    name: str
    muxer: str
    copied: frozenset[str]
    """Sound codecs that are kept as they are."""
    encoder: str
    """For all other sound: `aac`, `libopus` or `pcm`, which means 16 or 24 bit as the source has."""
    reason: str
    """Why sound is made anew."""
    holds_alpha: bool = False
    milliseconds: bool = False
    """Whether times are stored in milliseconds, in place of any ticks."""


_MP4 = FileFormat("MP4", "mp4", _MP4_SOUND, "aac", "MP4 players do not play it as it is")
FORMATS = {
    ".mp4": _MP4,
    ".m4v": _MP4,
    ".mov": FileFormat("MOV", "mov", _MP4_SOUND | _PCM | {"alac"}, "pcm", "QuickTime does not play it as it is", True),
    ".mkv": FileFormat(
        "MKV",
        "matroska",
        _MP4_SOUND | _PCM | {"mp2", "dts", "truehd", "flac", "alac", "opus", "vorbis", "tta", "wavpack"},
        "aac",
        "Matroska has no name for it",
        milliseconds=True,
    ),
    ".webm": FileFormat(
        "WebM",
        "webm",
        frozenset({"opus", "vorbis"}),
        "libopus",
        "WebM holds only Opus and Vorbis",
        True,
        milliseconds=True,
    ),
}
"""By the ending of the name."""


def format_of(path: Path) -> FileFormat:
    """The kind of file that the name's ending asks for. Raises UserError for one that is not written."""
    found = FORMATS.get(path.suffix.lower())
    if found is None:
        known = ", ".join(FORMATS)
        raise UserError(f"{path} is not the name of a video file that can be written; end it in one of {known}.")
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
    def of(cls, video: Video, kind: FileFormat, quality: float, even: bool, alpha: bool = False) -> Encoding:
        """The best that the format's players show. Raises UserError for a wrong quality, or alpha that does not fit."""
        if not 0 <= quality <= 100:
            raise UserError(f"The quality must be from 0 to 100, not {quality}.")
        if alpha and not kind.holds_alpha:
            raise UserError(f"{kind.name} files hold no transparency; choose a name that ends in .mov or .webm.")
        if kind.muxer == "mov":
            return _prores(video, quality, alpha)
        if kind.muxer == "webm":
            return _vp9(video, quality, alpha)
        return _h264_or_hevc(video, quality, even)


def _h264_or_hevc(video: Video, quality: float, even: bool) -> Encoding:
    width, height, notes = video.width, video.height, []
    subsampled = True
    if width % 2 or height % 2:
        if even:
            width, height = width + width % 2, height + height % 2
            notes.append(f"Padded from {video.width}x{video.height} to {width}x{height} by repeating the last pixels.")
        else:
            subsampled = False
            notes.append(
                f"{width}x{height} is odd-sized: written as 4:4:4, which some phones and browsers refuse; "
                "pad it by one pixel with --even."
            )
    deep = video.bit_depth > 8
    hevc = deep and min(width, height) >= _SMALLEST_HEVC
    notes += _depth_notes(video, 10) if deep else []
    if deep and not hevc:
        notes.append("Too small for HEVC: written as 10-bit H.264, which few browsers play.")
    pixel_format = ("yuv420p" if subsampled else "yuv444p") + ("10le" if deep else "")
    crf = 38 - quality / 4 + (3 if hevc else 0)  # about the same look
    options = {"crf": f"{crf:g}", "preset": "medium"}
    return Encoding("libx265" if hevc else "libx264", pixel_format, width, height, video.color, options, tuple(notes))


def _prores(video: Video, quality: float, alpha: bool) -> Encoding:
    """422 HQ, 10 bit; 4444 where there is alpha, or where 4:2:2 would halve an odd width. Never full range."""
    whole = alpha or video.width % 2 == 1
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
            f"The source has {video.bit_depth} bits a colour; WebM is written with 8: .mp4, .mkv and .mov keep more."
        )
    pixel_format = "yuva420p" if alpha else "yuv420p"
    return Encoding("libvpx-vp9", pixel_format, video.width, video.height, video.color, options, tuple(notes))


def _depth_notes(video: Video, bits: int) -> list[str]:
    if video.bit_depth == bits:
        return []
    return [f"The source has {video.bit_depth} bits a colour; the result has {bits}, which players can show."]
