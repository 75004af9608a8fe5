"""What an edit was made by, kept in the edited file's own metadata: settings that repeat it, and its source's SHA-256.

| file | where |
|---|---|
| MP4, MOV, M4V | an XMP packet in a `uuid` box behind all others, so that no place in the file moves |
| PNG, JPEG, WebP | the same packet where each has it: iTXt, APP1, an XMP chunk |
| MKV, WebM | the tag OPENSAMA_EDIT |

The packet holds the settings as JSON, and IPTC's digital source type, by which others know a picture that was partly
made by a trained model.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeGuard
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from PIL import Image

from opensama.media.video_io.containers import FileFormat
from opensama.media.video_io.member import first_bytes_of, open_file
from opensama.media.video_io.opening import open_container
from opensama.media.video_io.stills import PILLOW_RAISES
from opensama.values import EditRecord, NamedFile, UserError, Video

RECORDS = ("settings", "instruction", "none")
"""How much of an edit its file tells: all but the words, the words too, or nothing."""
MATROSKA_TAG = "OPENSAMA_EDIT"
COMPOSITE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""IPTC's digital source type of what is partly made by a trained model."""
_NAMESPACE = "opensama:ns:edit/"
_XMP_BOX = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
_LARGEST = 1 << 20  # bytes of a packet that is read
_PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:opensama="{namespace}"
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">
<Iptc4xmpExt:DigitalSourceType>{source_type}</Iptc4xmpExt:DigitalSourceType>
<opensama:edit>{record}</opensama:edit>
</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="r"?>"""


def with_record(video: Video, how: str, writing: Mapping[str, object]) -> Video:
    """The video with its record as the file is to tell it, or with none: the source's name and SHA-256 are added, and
    how it is written; words that a person typed stay only if `how` is "instruction". UserError for another `how`."""
    check_record(how)
    if video.record is None or how == "none":
        return replace(video, record=None)
    record = video.record.copy()
    record["settings"] = {**record["settings"], **writing}
    if how != "instruction":
        record.pop("instruction", None)
        record["settings"].pop("negative_prompt", None)
    if video.path is not None and video.path.exists():
        record["source"] = file_named(video.path)
    return replace(video, record=record)


def check_record(how: str) -> None:
    """UserError unless it is one of `RECORDS`."""
    if how not in RECORDS:
        raise UserError(f"There is no record {str(how)[:40]!r}: choose {', '.join(RECORDS)}.")


def file_named(path: Path) -> NamedFile:
    """How a record names a file: its name without its folder, and its SHA-256."""
    return {"name": path.name, "sha256": sha256_of(path)}


def sha256_of(path: Path) -> str:
    """Of a file's bytes; of a folder of pictures, of these one after the other by name."""
    digest = hashlib.sha256()
    for one in sorted(filter(Path.is_file, path.iterdir())) if path.is_dir() else [path]:
        with open_file(one) as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def tags_of(video: Video, kind: FileFormat) -> dict[str, str]:
    """The tag that a Matroska file says it by."""
    return {} if video.record is None or not kind.milliseconds else {MATROSKA_TAG: _text(video.record)}


def xmp_of(video: Video) -> bytes | None:
    """The packet for a file that has room for XMP."""
    if video.record is None:
        return None
    text = escape(_text(video.record))
    return _PACKET.format(namespace=_NAMESPACE, source_type=COMPOSITE, record=text).encode()


def append_record(path: Path, video: Video, kind: FileFormat) -> None:
    """Writes it behind the last box of a whole MP4 or MOV file."""
    packet = xmp_of(video)
    if packet is not None and not kind.milliseconds:
        with path.open("ab") as file:
            file.write(struct.pack(">I", 24 + len(packet)) + b"uuid" + _XMP_BOX + packet)


def read_record(path: Path) -> EditRecord | None:
    """What a file says about the edit that made it; None where it says nothing, or nothing that can be read."""
    head = first_bytes_of(path, 12)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free"):
        return _record_in(_xmp_in_boxes(path))
    if head[:4] == b"\x1aE\xdf\xa3":
        with open_container(path) as container:
            tags: Mapping[str, str] = container.metadata
            said = next((value for key, value in tags.items() if key.upper() == MATROSKA_TAG), None)
        return _parsed(said)
    try:
        with open_file(path) as file, Image.open(file) as image:
            packet = image.info.get("xmp")
    except PILLOW_RAISES:
        return None
    return _record_in(packet if isinstance(packet, bytes) else None)


def _text(record: EditRecord) -> str:
    return json.dumps(record, separators=(",", ":"))


def _xmp_in_boxes(path: Path) -> bytes | None:
    """The last XMP packet among the outermost boxes."""
    found, place = None, 0
    with open_file(path) as file:
        end = file.seek(0, 2)
        while place + 8 <= end:
            file.seek(place)
            head = file.read(32)
            size, begin = int.from_bytes(head[:4], "big"), 8
            if size == 1:
                size, begin = int.from_bytes(head[8:16], "big"), 16
            size = end - place if size == 0 else size
            if size < begin:
                return found
            if head[4:8] == b"uuid" and head[begin : begin + 16] == _XMP_BOX and size < _LARGEST:
                file.seek(place + begin + 16)
                found = file.read(size - begin - 16)
            place += size
    return found


def _record_in(packet: bytes | None) -> EditRecord | None:
    if packet is None or len(packet) > _LARGEST or b"<!" in packet:  # no entities of its own
        return None
    try:
        tree = ElementTree.fromstring(re.sub(rb"<\?xpacket[^>]*\?>", b"", packet).strip(b"\0 \r\n\t"))
    except ElementTree.ParseError:
        return None
    name = f"{{{_NAMESPACE}}}edit"
    said = next((element.get(name) or element.findtext(name) for element in tree.iter() if _says(element, name)), None)
    return _parsed(said)


def _says(element: ElementTree.Element, name: str) -> bool:
    return element.get(name) is not None or element.find(name) is not None


def _parsed(said: str | None) -> EditRecord | None:
    try:
        record = json.loads(said or "")
    except (ValueError, RecursionError):
        return None
    return record if _is_record(record) else None


def _is_record(said: object) -> TypeGuard[EditRecord]:
    """Whether all is there, and of the types that records have: the file is from outside."""
    if not isinstance(said, dict) or not isinstance(model := said.get("model"), dict):
        return False
    loras = model.get("loras", [])
    kinds = (
        (said.get("settings"), dict), (said.get("source", {}), dict), (said.get("instruction", ""), str),
        (model.get("weights", {}), dict), (model.get("dtype", ""), str), (loras, list),
    )  # fmt: skip
    return all(isinstance(value, kind) for value, kind in kinds) and all(isinstance(one, dict) for one in loras)
