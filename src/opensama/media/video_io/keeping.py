"""What else a file holds: tags, chapters, subtitles, timecode. Kept where the new file can hold it, else named.

Subtitles of text are rewritten as the new file's own kind of text; pictures of text, attachments, covers and data
tracks are left out. Pictures come upright, so a rotation is not kept but done.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import av
from av.subtitles.stream import SubtitleStream

from opensama.media.video_io.containers import FileFormat
from opensama.media.video_io.opening import open_container, video_stream
from opensama.media.video_io.pyav import as_fraction, side_data_of
from opensama.values import UserError, Video

if TYPE_CHECKING:
    from av.container.core import Chapter

_OWN = re.compile(
    r"major_brand|minor_version|compatible_brands|encoder|encoded_by|handler_name|vendor_id|duration|bps.*|"
    r"number_of_.*|_statistics.*|hw|software-version|com\.android\.version|language|"
    r".*-[a-z]{3}|variant_bitrate|service_.*|software|application_platform|company_name|product_.*|(.*_)?um?id|"
    r"operational_pattern_ul|.*_package_.*|modification_date|opensama_edit"
)
"""Tags that describe a file's making or coding, which is new."""
_ALIKE = {
    "com.apple.quicktime.location.iso6709": "location",
    "com.apple.quicktime.creationdate": "date",
    "com.apple.quicktime.title": "title",
    "com.apple.quicktime.author": "artist",
    "com.apple.quicktime.description": "description",
    "com.apple.quicktime.comment": "comment",
    "com.apple.quicktime.copyright": "copyright",
    "date_recorded": "date",
}
"""Tags that are one container's name for what all know."""
_TEXT = {"mov_text", "subrip", "ass", "webvtt", "text"}
_SUBTITLES = {"mp4": "mov_text", "mov": "mov_text", "matroska": "srt"}
_IN_MOV = {
    "deu": "ger", "fre": "fra", "nld": "dut", "ell": "gre", "isl": "ice", "zho": "chi", "sqi": "alb", "rum": "ron",
    "cze": "ces", "slo": "slk", "swe": "sve",
}  # fmt: skip
"""QuickTime numbers its languages; FFmpeg knows the numbers of these spellings only."""
_STYLE = (
    b"[Script Info]\r\nScriptType: v4.00+\r\n\r\n[V4+ Styles]\r\nFormat: Name, Fontname, Fontsize, PrimaryColour, "
    b"SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, StrikeOut, ScaleX, ScaleY, Spacing, Angle, "
    b"BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding\r\nStyle: Default,Arial,16,&Hffffff,"
    b"&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,1\r\n\r\n[Events]\r\nFormat: Layer, Start, End, Style, "
    b"Name, MarginL, MarginR, MarginV, Effect, Text\r\n"
)
"""White letters at the foot of the picture; FFmpeg's encoders of subtitles do not open without a style."""
_DYNAMIC = {
    "DYNAMIC_HDR_PLUS": "HDR10+", "DYNAMIC_HDR_VIVID": "HDR Vivid", "DOVI_METADATA": "Dolby Vision",
    "DOVI_RPU_BUFFER": "Dolby Vision",
}  # fmt: skip


@dataclass(frozen=True)
class _Line:
    """One subtitle: seconds of the video, and plain text."""

    track: int
    begin: Fraction
    end: Fraction
    text: str


class Kept:
    """All of a source but pictures and sound, ready to be put into another file."""

    def __init__(self, source: av.container.InputContainer | None, video: Video, kind: FileFormat) -> None:
        self.kind = kind
        self.tags: dict[str, str] = {}
        self.chapters: list[Chapter] = []
        self.timecode, self.language = "", ""
        self.languages: list[str] = []
        self.notes: list[str] = []
        self._subtitles: list[dict[str, str]] = []
        self._lines: list[_Line] = []
        if source is None or video.path is None:
            return
        pictures = video_stream(source, video.path)
        self.tags = _tags(source.metadata)
        self.language = pictures.metadata.get("language", "")
        self.languages = [_language(stream) for stream in source.streams.audio if video.has_audio]
        self.timecode = "" if video.is_clip else _timecode(pictures) or self.tags.get("timecode", "")
        self.tags.pop("timecode", None)
        self.chapters = _chapters(source, video)
        self._name_what_goes(source, pictures)
        self._read_subtitles(source, video)

    @classmethod
    @contextmanager
    def of(cls, video: Video, kind: FileFormat) -> Iterator[Kept]:
        """Opened and read; empty for videos that come from no file."""
        if video.path is None or not video.path.is_file():
            yield cls(None, video, kind)
            return
        try:
            with open_container(video.path) as source:
                kept = cls(source, video, kind)
            with open_container(video.path) as source:
                kept.notes += dynamic_notes(next(source.decode(video_stream(source, video.path)), None))
        except (UserError, av.error.FFmpegError):  # a picture, or what else only Pillow reads
            kept = cls(None, video, kind)
        yield kept

    def add_to(self, output: av.container.OutputContainer, pictures: av.VideoStream) -> None:
        """Before the first packet: tags, chapters and the subtitles' tracks."""
        output.metadata.update(self.tags)
        if self.language:
            pictures.metadata["language"] = self.language
        if self.timecode:
            pictures.metadata["timecode"] = self.timecode
        if self.chapters:
            output.set_chapters(self.chapters)
        self._targets: list[SubtitleStream] = []
        for described in self._subtitles:
            target = output.add_stream(_SUBTITLES[self.kind.muxer])
            assert isinstance(target, SubtitleStream)
            target.codec_context.subtitle_header = _STYLE
            target.time_base = Fraction(1, 1000)
            target.metadata.update(described)
            if "language" in described:
                target.metadata["language"] = language_in(self.kind, described["language"])
            self._targets.append(target)

    def mux_until(self, output: av.container.OutputContainer, seconds: Fraction | None) -> None:
        """Writes the subtitles that begin up to then."""
        while self._lines and (seconds is None or self._lines[0].begin <= seconds):
            line = self._lines.pop(0)
            text = line.text.encode()
            packet = av.Packet(len(text).to_bytes(2, "big") + text if self.kind.muxer != "matroska" else text)
            packet.stream, packet.time_base = self._targets[line.track], Fraction(1, 1000)
            packet.pts = packet.dts = round(line.begin * 1000)
            packet.duration = round((line.end - line.begin) * 1000)
            output.mux(packet)

    def lost(self, written: av.container.InputContainer) -> list[str]:
        """A sentence about the tags that the new file did not take, if any."""
        found = {*_tags(written.metadata)}
        gone = sorted(tag for tag in self.tags if tag not in found)
        if self.timecode and not any(_timecode(stream) for stream in written.streams):
            gone.append("timecode")
        found_languages = {_language(stream) for stream in written.streams.audio}
        gone += [f"language ({name})" for name in dict.fromkeys(self.languages) if name not in found_languages]
        return (
            [f"{self.kind.name} has no place for these tags, which were left out: {', '.join(gone)}."] if gone else []
        )

    def _name_what_goes(self, source: av.container.InputContainer, pictures: av.VideoStream) -> None:
        gone = []
        for stream in source.streams:
            name = _codec(stream) or stream.metadata.get("handler_name") or "data"
            if stream.type == "video" and stream.index != pictures.index:
                cover = stream.disposition & av.stream.Disposition.attached_pic
                gone.append("a cover picture" if cover else f"a second video track ({name})")
            elif stream.type == "attachment":
                gone.append(f"an attachment ({stream.metadata.get('filename', 'without name')})")
            elif stream.type == "data" and not is_of_ours(stream):
                gone.append(f"a data track ({name})")
            elif stream.type == "subtitle":
                if _codec(stream) in _TEXT and self.kind.muxer in _SUBTITLES:
                    described: dict[str, str] = {
                        key: stream.metadata[key] for key in ("language", "title") if key in stream.metadata
                    }
                    self._subtitles.append(described)
                else:
                    gone.append(f"subtitles ({name})")
        if gone:
            self.notes.append(f"Left out, because {self.kind.name} is written without: {', '.join(gone)}.")

    def _read_subtitles(self, source: av.container.InputContainer, video: Video) -> None:
        wanted = [s for s in source.streams if s.type == "subtitle" and _codec(s) in _TEXT] if self._subtitles else []
        track_of = {stream.index: track for track, stream in enumerate(wanted)}
        for packet in source.demux(wanted) if wanted else ():
            if packet.pts is None or packet.time_base is None or not packet.size:
                continue
            text = _plain(_codec(packet.stream), bytes(packet))
            begin = packet.pts * as_fraction(packet.time_base) - video.origin
            end = begin + (packet.duration or 0) * as_fraction(packet.time_base)
            if video.is_clip:
                end = min(end, video.duration)
            if text and end > max(begin, Fraction(0)):
                self._lines.append(_Line(track_of[packet.stream_index], max(begin, Fraction(0)), end, text))
        self._lines.sort(key=lambda line: line.begin)


def language_in(kind: FileFormat, language: str) -> str:
    """The language's three letters as the kind of file spells them."""
    return _IN_MOV.get(language, language) if kind.muxer == "mov" else language


def _language(stream: av.stream.Stream) -> str:
    """As MOV spells it, so that spellings of one language are equal; empty for none."""
    language = stream.metadata.get("language", "")
    return "" if language == "und" else _IN_MOV.get(language, language)


def _timecode(stream: av.stream.Stream) -> str:
    return stream.metadata.get("timecode") or stream.metadata.get("TIMECODE", "")


def dynamic_notes(frame: av.VideoFrame | None) -> list[str]:
    """What changes from frame to frame and cannot be made anew for an edit: HDR10+, Dolby Vision."""
    data = [] if frame is None else list(side_data_of(frame))
    found = sorted({_DYNAMIC[entry.type.name] for entry in data if entry.type.name in _DYNAMIC})
    return [f"{' and '.join(found)} metadata was left out; the picture below it was edited."] if found else []


def _tags(metadata: dict[str, str]) -> dict[str, str]:
    """Tags under the names that all containers share."""
    found: dict[str, str] = {}
    for key, value in metadata.items():
        low = key.lower()
        unset = low == "creation_time" and value.startswith(
            "1970-01-01T00:00:00"
        )  # an ASF without a date, as libavformat 63 reads it
        if value and not unset and not _OWN.fullmatch(low):
            found.setdefault(_ALIKE.get(low, low), value)
    return found


def _chapters(source: av.container.InputContainer, video: Video) -> list[Chapter]:
    """Moved to the video's clock and cut to its length."""
    found: list[Chapter] = []
    length = round((video.duration + video.timestamps[0] * video.time_base) * 1000)
    for chapter in source.chapters():
        assert chapter["time_base"] is not None
        base = as_fraction(chapter["time_base"])
        begin, end = (round((tick * base - video.origin) * 1000) for tick in (chapter["start"], chapter["end"]))
        begin, end = max(0, begin), min(length, end)
        if begin < end:
            found.append({**chapter, "id": len(found), "start": begin, "end": end, "time_base": Fraction(1, 1000)})
    return found


def _codec(stream: av.stream.Stream) -> str:
    return "" if stream.codec_context is None else stream.codec_context.codec.canonical_name


def is_of_ours(stream: av.stream.Stream) -> bool:
    """Timecode tracks are made anew from the timecode, chapters' texts from the chapters."""
    handler = stream.metadata.get("handler_name", "")
    return "timecode" in stream.metadata or handler in (
        "SubtitleHandler",
        "Core Media Text",
        "Apple Text Media Handler",
    )


def _plain(codec: str, data: bytes) -> str:
    """A subtitle packet's words; lines are kept, looks are not."""
    if codec == "mov_text":
        return data[2 : 2 + int.from_bytes(data[:2], "big")].decode("utf-8", "replace").strip()
    text = data.decode("utf-8", "replace")
    if codec == "ass":
        text = re.sub(r"\\[Nn]", "\n", re.sub(r"\{[^}]*\}", "", text.split(",", 8)[-1]))
    return re.sub(r"</?[^>]{1,40}>", "", text).replace("\r\n", "\n").strip()
