"""A request's body to settings and files: multipart or JSON, streamed, measured as it comes, in nobody's memory.

    box=1,2,3,4   box[]=1&box[]=2   box=[1, 2, 3, 4]   extra_body={"seed": 3}   video[id]=video_...   {"video": {"id"}}

all mean what they seem to. Files go into the upload's folder under names of ours; those of the sender are not looked
at. `video` has many names among servers; `references` too.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO
from urllib.parse import parse_qsl

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from opensama.apps.jobs.engine import EDIT_MASKS, JobEngine, Upload
from opensama.apps.jobs.limits import MIB, Owner, Refusal
from opensama.first_bytes import is_address
from opensama.values import UserError

VIDEO = ("video", "input_reference", "video_reference", "source_video")
"""By which a source comes."""
_FILES = dict.fromkeys(VIDEO, "video") | {"mask": "mask"}
_FILES |= {name: name for name in EDIT_MASKS}
_FILES |= dict.fromkeys(("reference", "references", "input_references"), "references")
_MERGED = ("extra_body", "extra_params")  # settings in a setting, as some servers have it
_PARTS, _FIELD = 200, MIB  # of a form, and bytes of one that is no file
_BODY = 64 * MIB  # of one that is not in parts, files in addresses included
_SILENCE = 60.0  # seconds within which more of a body must come


async def read_body(request: Request, upload: Upload) -> dict[str, object]:
    """The settings of a request; its files, those in data addresses apart, lie in the upload."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind == b"multipart/form-data":
        return await _read_form(request, upload, options.get(b"boundary", b""))
    if kind == b"application/x-www-form-urlencoded":
        return _read_pairs(await _whole(request, upload.engine))
    if kind in (b"application/json", b""):
        return _read_json(await _whole(request, upload.engine))
    raise UserError("Send a form (multipart/form-data) with the file `video`, or JSON (application/json).")


async def _whole(request: Request, engine: JobEngine) -> bytes:
    """A body without files, which is kept in memory."""
    most, body = min(engine.limits.upload_bytes, _BODY), bytearray()
    async for chunk in _chunks(request):
        body += chunk
        if len(body) > most:
            raise Refusal("too_large", f"A body without files has at most {most // MIB} MB; send the video in a form.")
    return bytes(body)


def _read_json(body: bytes) -> dict[str, object]:
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        raise UserError("The body is no JSON; check its commas and quotes.") from None
    if not isinstance(said, dict):
        raise UserError('The body must be an object, such as {"prompt": "Make it night.", "video": {"id": "..."}}.')
    return _merged(said)


def _read_pairs(body: bytes) -> dict[str, object]:
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=_PARTS)
    except ValueError:
        raise UserError("The form is damaged; let an HTTP library write it.") from None
    return _merged(_unfolded(pairs))


async def _read_form(request: Request, upload: Upload, boundary: bytes) -> dict[str, object]:
    if not boundary or len(boundary) > 256:
        raise UserError("The form names no boundary in its content type; let the HTTP library write that header.")
    form = _Form(upload)
    parser = MultipartParser(boundary, {
        "on_part_begin": form.begin, "on_header_field": form.header_name, "on_header_value": form.header_value,
        "on_header_end": form.header_end, "on_headers_finished": form.headers_end, "on_part_data": form.data,
        "on_part_end": form.end, "on_end": form.finish,
    })  # fmt: skip
    read = 0
    try:
        async for chunk in _chunks(request):
            read += len(chunk)
            if read > upload.engine.limits.upload_bytes + _FIELD:
                raise Refusal("too_large", f"A request has at most {upload.engine.limits.max_upload} MB.")
            parser.write(chunk)
    except MultipartParseError:
        raise UserError("The form is damaged; let an HTTP library write it.") from None
    finally:
        form.close()
    if not form.whole:
        raise UserError("The form is cut off: its last boundary is missing.")
    return _merged(_unfolded(form.fields))


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    stream = request.stream().__aiter__()
    while True:
        try:
            yield await asyncio.wait_for(anext(stream), _SILENCE)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise UserError(f"Nothing more of the request came for {_SILENCE:g} s.") from None


class _Form:
    """The parts of a form as the parser finds them: files are written, fields kept."""

    def __init__(self, upload: Upload) -> None:
        self.upload, self.fields, self.whole, self.parts = upload, list[tuple[str, str]](), False, 0
        self._file: IO[bytes] | None = None
        self._clear()

    def _clear(self) -> None:
        self._header, self._value, self._headers = b"", b"", dict[str, bytes]()
        self._name, self._text = "", bytearray()

    def begin(self) -> None:
        self.parts += 1
        if self.parts > _PARTS:
            raise Refusal("too_large", f"The form has more than {_PARTS} parts.")
        self._clear()

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        self._headers[self._header.lower().decode("latin-1")] = self._value
        self._header, self._value = b"", b""

    def headers_end(self) -> None:
        _, options = parse_options_header(self._headers.get("content-disposition", b""))
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if not self._name or len(self._name) > 200:
            raise UserError("A part of the form has no name, or a very long one.")
        if b"filename" in options:
            name = self._name.partition("[")[0]
            self._field = _FILES.get(name, name)
            self._file = self.upload.next_place(self._field).open("wb")
            self._digest = hashlib.sha256()

    def data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(data[start:end])
            self._digest.update(data[start:end])
            return
        self._text += data[start:end]
        if len(self._text) > _FIELD:
            raise Refusal("too_large", f"The field {self._name[:40]!r} is longer than {_FIELD:,} bytes.")

    def end(self) -> None:
        if self._file is not None:
            self.close()
            self.upload.digests.setdefault(self._field, []).append(self._digest.hexdigest())
            return
        try:
            self.fields.append((self._name, self._text.decode()))
        except UnicodeDecodeError:
            raise UserError(f"The field {self._name[:40]!r} is no UTF-8 text.") from None

    def finish(self) -> None:
        self.whole = True

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _unfolded(fields: list[tuple[str, str]]) -> dict[str, object]:
    """`a[b]=1`, `c[]=2`, `d=[3, 4]` as the values that they are of: text but for what is JSON of lists and objects."""
    found: dict[str, object] = {}
    for name, text in fields:
        first, *inner = [name.partition("[")[0], *re.findall(r"\[([^\[\]]*)\]", name)]
        value: object = text
        if text.lstrip()[:1] in ("{", "[") and first != "prompt":
            try:
                value = json.loads(text)
            except (ValueError, RecursionError):
                raise UserError(f"The field {name[:40]!r} is no JSON, as which it begins.") from None
        if not inner:
            found[first] = [*_listed(found[first]), value] if first in found else value
        elif inner[0] in ("",) or inner[0].isdigit():
            found[first] = [*_listed(found.get(first, [])), value]
        else:
            place = found.setdefault(first, {})
            if not isinstance(place, dict):
                raise UserError(f"The field {first[:40]!r} is text in one place, and has parts in another.")
            if inner[1:]:
                value = [*_listed(place.get(inner[0], [])), value]
            place[inner[0]] = value
    return found


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _merged(values: dict[str, object]) -> dict[str, object]:
    more: dict[str, object] = {}
    for name in _MERGED:
        inside = values.pop(name, None) or {}
        if not isinstance(inside, dict):
            raise UserError(f"{name} must be an object of settings.")
        more |= inside
    return more | values


def take_named_files(values: dict[str, object], upload: Upload, owner: Owner) -> str | None:
    """Takes what `values` name in place of files: finished jobs and data addresses. The id of the job whose result the
    source is."""
    source = None
    for name in [name for name in values if name in _FILES]:
        given, place = values.pop(name), _FILES[name]
        for one in _listed(given) if place == "references" else [given]:
            if one in (None, ""):
                continue
            job_id, address = _named(name, one)
            if job_id is not None:
                index = _number(name, one, "index") or 0
                upload.engine.take(upload, place, owner, job_id, index, _number(name, one, "frame"))
                source = job_id if place == "video" else source
            else:
                _write_address(name, address, upload, place)
                if (frame := _number(name, one, "frame")) is not None:
                    upload.engine.pick_frame(upload, place, frame)
    return source


def _named(name: str, value: object) -> tuple[str | None, str]:
    """The id of a job, or an address that holds the file."""
    if isinstance(value, dict):
        for key in ("id", "file_id", "url", "video_url", "image_url"):
            if value.get(key) is not None:
                inner = value[key]
                return _named(name, inner.get("url", "") if isinstance(inner, dict) else inner)
    if isinstance(value, str) and value.startswith("video_"):
        return value, ""
    if isinstance(value, str) and value.startswith("data:"):
        return None, value
    if isinstance(value, str) and is_address(value):
        raise UserError(f"{name} is an address, from which nothing is fetched here: send the file itself.")
    raise UserError(f'{name} must be a file, {{"id": "video_..."}}, or a data address (data:video/mp4;base64,...).')


def _number(name: str, value: object, key: str) -> int | None:
    """Which of a job's outputs is meant, or which of its frames: what `{"id": ..., "index": 1, "frame": 0}` says."""
    if not isinstance(value, dict) or value.get(key) is None:
        return None
    number = str(value[key])
    if not re.fullmatch(r"[0-9]{1,9}", number):
        raise UserError(f"The {key} of {name} must be a whole number from 0 on, not {number[:40]!r}.")
    return int(number)


def _write_address(name: str, address: str, upload: Upload, place: str) -> None:
    head, _, data = address.partition(",")
    if not head.endswith(";base64"):
        raise UserError(f"The data address of {name} is not in base64: write data:video/mp4;base64, and the bytes.")
    try:
        held = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise UserError(f"The data address of {name} holds characters that are no base64.") from None
    path: Path = upload.next_place(place)
    path.write_bytes(held)
    upload.digests.setdefault(place, []).append(hashlib.sha256(held).hexdigest())
