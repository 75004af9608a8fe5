"""What `benchmarks/fuzz.py` sends: valid media files of every kind, damaged by chance, and odd requests.

Seven of ten changes to a file lie within its packets, so that the demuxer goes on and a decoder gets them.
"""

from __future__ import annotations

import io
import json
import random
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any, cast

import av
import numpy as np
from PIL import Image

PROMPT = "Make the scene look like night."


# --- media


_FILMS = {
    "mp4": ("mp4", "libx264", "aac"), "mp4 fragments": ("mp4", "libx264", "aac"), "mp4 hevc": ("mp4", "libx265", ""),
    "mov": ("mov", "prores_ks", "pcm_s16le"), "mov jpeg": ("mov", "mjpeg", "alac"),
    "mkv": ("matroska", "mpeg4", "flac"), "mkv ffv1": ("matroska", "ffv1", ""),
    "webm": ("webm", "libvpx-vp9", "libopus"), "avi": ("avi", "mpeg4", "mp2"),
    "avi jpeg": ("avi", "mjpeg", "pcm_s16le"), "ts": ("mpegts", "mpeg2video", "mp2"),
    "ts h264": ("mpegts", "libx264", "aac"), "mpg": ("mpeg", "mpeg2video", "mp2"), "flv": ("flv", "flv1", "aac"),
    "wmv": ("asf", "wmv2", "wmav2"), "gif": ("gif", "gif", ""),
}  # fmt: skip
_PICTURES = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP", "still gif": "GIF", "tiff": "TIFF", "avif": "AVIF",
             "moving webp": "WEBP", "moving png": "PNG"}  # fmt: skip
KINDS = sorted([*_FILMS, *_PICTURES])


@cache
def valid_file(name: str) -> bytes:
    """A small valid file of one of the kinds."""
    if name in _FILMS:
        return _film(*_FILMS[name], fragments="fragments" in name)
    held, more = io.BytesIO(), {}
    if name.startswith("moving"):
        more = {"save_all": True, "append_images": [Image.fromarray(_picture(4))]}
    Image.fromarray(_picture(0)).save(held, _PICTURES[name], **cast(Any, more))
    return held.getvalue()


def _picture(shift: int) -> np.ndarray:
    rows, columns = np.mgrid[:48, :64]
    return np.stack([(rows * 5 + shift * 9) % 256, (columns * 3 + shift * 5) % 256, (rows * columns) % 256], 2).astype(
        np.uint8
    )


def _film(form: str, codec: str, sound: str, fragments: bool) -> bytes:
    held = io.BytesIO()
    options = {"movflags": "frag_keyframe+empty_moov"} if fragments else {}
    with av.open(held, "w", form, options=options) as out:
        film = cast(av.VideoStream, out.add_stream(codec, 25, width=64, height=48))
        film.pix_fmt = {"prores_ks": "yuv422p10le", "mjpeg": "yuvj420p", "gif": "rgb8"}.get(codec, "yuv420p")
        if codec == "libx265":
            film.options = {"x265-params": "log-level=none"}
        beside = cast(av.AudioStream, out.add_stream(sound, 48000, layout="mono", bit_rate=64000)) if sound else None
        for index in range(6):
            frame = av.VideoFrame.from_ndarray(_picture(index), "rgb24").reformat(format=film.pix_fmt)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            out.mux(film.encode(frame))
        out.mux(film.encode(None))
        if beside is not None:
            heard = av.AudioFrame.from_ndarray(
                (8000 * np.sin(np.arange(11520) / 9)).astype(np.int16)[None], "s16", "mono"
            )
            heard.sample_rate, heard.pts = 48000, 0
            out.mux([*beside.encode(heard), *beside.encode(None)])
    return held.getvalue()


@cache
def packets_of(name: str) -> list[tuple[int, int]]:
    """Where a valid file's packets lie; those of pictures are all behind their heads."""
    data = valid_file(name)
    try:
        with av.open(io.BytesIO(data), "r") as container:
            found = [(packet.pos, packet.size) for packet in container.demux() if packet.pos and packet.size > 8]
    except av.error.FFmpegError:
        found = []
    return [(at, size) for at, size in found if 16 < at < len(data)] or [(len(data) // 3, len(data) // 2)]


def damaged_file(lot: random.Random) -> tuple[str, bytes]:
    """A valid file's name, and the file with one to eight changes, seven of ten within its packets."""
    name = lot.choice(KINDS)
    data = bytearray(valid_file(name))
    for _ in range(lot.choice([1, 1, 2, 4, 8])):
        if lot.random() < 0.7:
            at, size = lot.choice(packets_of(name))
            first, last = min(at, len(data) - 1), min(at + size, len(data))
        else:
            first, last = 0, len(data)
        change(data, lot, first, max(first + 1, last), lot.random() < 0.15)
    return name, bytes(data)


_ODD = [
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x80\0\0\0",
    b"\0\0\0\1",
    b"\xff\xff\xff\x7f",
    b"\0\1\0\0",
]


def change(data: bytearray, lot: random.Random, first: int, last: int, lengths: bool) -> None:
    """One change between two places: bits, bytes, odd numbers; with `lengths` also pieces cut out, doubled, cut off."""
    if not data:
        return
    at = lot.randrange(first, last) % len(data)
    length = min(lot.choice([1, 2, 4, 16, 64]), len(data) - at)
    if lengths:
        how = lot.randrange(4)
        if how == 0:
            del data[at : at + length]
        elif how == 1:
            data[at:at] = data[at : at + length]
        elif how == 2:
            data[at:at] = lot.randbytes(length)
        else:
            del data[max(at, len(data) // 2) :]
        return
    how = lot.randrange(4)
    if how == 0:
        data[at] ^= 1 << lot.randrange(8)
    elif how == 1:
        data[at] = lot.choice([0, 1, 127, 128, 255, lot.randrange(256)])
    elif how == 2:
        data[at : at + 4] = lot.choice(_ODD)[: len(data) - at]
    else:
        data[at : at + length] = lot.randbytes(length)


# --- requests


@dataclass
class Sent:
    """A request as bytes are sent for it."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes


_NAMES = [
    "prompt", "model", "n", "seed", "steps", "guidance", "shift", "source_guidance", "speed", "negative_prompt",
    "frames",
    "span", "from", "to", "size", "box", "task", "model_fps", "preserve", "background", "alpha", "quality", "codec",
    "even",
    "record", "credentials", "anyway", "extra_body", "extra_params", "video", "mask", "references", "input_reference",
    "video_reference", "seconds", "fps", "num_inference_steps", "webhook", "enhance", "certificate", "__class__", "",
]  # fmt: skip
_WORDS = [
    "", " ", "0", "-1", "1", "2", "1e999", "nan", "inf", "-0", "9" * 400, "9" * 5000, "1/0", "0:1", "1:0", ":", "::",
    "-3:",
    "1.5", "true", "None", "null", "[]", "{}", "[[[", '{"id": 3}', '{"a": {"b": []}}', "../../etc/passwd",
    "file:///etc/passwd",
    "http://127.0.0.1/", "data:;base64,", "data:video/mp4;base64,AAAA", "video_0", "\0", "\u202e", "\U0001f3ac",
    "é" * 99,
    "a" * 4096, "%s%n", "';--", "$(id)", "2x2", "64x48", "0,0,8,8", "0,0,0,0", "8,8,1,1", "h264", "sama", "#fff",
    PROMPT,
]  # fmt: skip
_PATHS = [
    "/v1/videos", "/v1/videos/edits", "/v1/videos/uploads", "/v1/videos/{id}", "/v1/videos/{id}/content",
    "/v1/videos/{id}/remix",
    "/v1/models", "/v1/models/tiny", "/v1/models/{word}", "/healthz", "/metrics", "/openapi.json", "/", "/v1",
    "/{word}",
    "/page/facts", "/page/session", "/docs", "//v1/videos", "/v1/videos/../models", "/v1/videos/%2e%2e%2f",
    "/v1/videos/%00",
]  # fmt: skip
_HEADERS = [
    ("Range", "bytes=0-3"), ("Range", "bytes=5-2"), ("Range", "bytes=-0"), ("Range", "bytes=9999999-"),
    ("Range", "bytes=a-b"),
    ("Range", "bytes=0-0,2-3,5-9"), ("Range", "bytes=" + ",".join(["0-1"] * 500)), ("Range", "lines=1-2"),
    ("Range", ""),
    ("Range", "bytes=" + "9" * 99 + "-"), ("If-Range", "x"), ("Idempotency-Key", ""), ("Idempotency-Key", "k"),
    ("Idempotency-Key", "k" * 300), ("Idempotency-Key", "\xff\xfe"), ("Authorization", "Bearer"),
    ("Authorization", "\xff"),
    ("Host", "evil.example"), ("Host", "[::1"), ("Host", ""), ("Origin", "null"), ("Origin", "http://evil.example"),
    ("Origin", "http://[bad"), ("Sec-Fetch-Site", "cross-site"), ("Cookie", "opensama=\xff; ;=;"),
    ("Cookie", "opensama=" + "A" * 43),
    ("Content-Type", "application/json; charset=utf-16"), ("Content-Type", "multipart/form-data"), ("Content-Type", ""),
    ("Content-Type", "multipart/form-data; boundary=" + "b" * 300),
    ("Content-Type", "application/x-www-form-urlencoded"),
    ("Content-Type", 'multipart/form-data; boundary="b'), ("Content-Type", "text/plain"), ("Content-Encoding", "gzip"),
    ("Expect", "100-continue"), ("Accept", "\xe9"), ("X-Forwarded-For", "1.2.3.4"), ("Content-Length", "-1"),
    ("Content-Length", "5"), ("Content-Length", "99999999999999999999"), ("Transfer-Encoding", "chunked"),
    ("Upgrade", "websocket"),
]  # fmt: skip
_METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "QUERY", "get"]


def _value(lot: random.Random, depth: int = 0) -> Any:
    """Something that JSON can say."""
    kind = lot.randrange(9 if depth < 4 else 6)
    if kind < 4:
        return lot.choice(_WORDS)
    if kind == 4:
        return lot.choice([0, -1, 1, 2, 2**31, 2**63, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf")])
    if kind == 5:
        return lot.choice([True, False, None])
    if kind == 6:
        return {lot.choice(_NAMES): _value(lot, depth + 1) for _ in range(lot.randrange(4))}
    return [_value(lot, depth + 1) for _ in range(lot.randrange(6))]


def _json_body(lot: random.Random, ids: list[str]) -> bytes:
    if lot.random() < 0.05:
        return lot.choice(
            [b"[" * 100000, b'{"a":' * 50000, b'{"prompt": "\\ud800"}', b"\xff\xfe{}", b"NaN", b"", b"1" * 9999]
        )
    said: dict[str, Any] = {"prompt": PROMPT, "video": {"id": lot.choice(ids)}, "steps": 1}
    for _ in range(lot.choice([0, 1, 1, 2, 4])):
        said[lot.choice(_NAMES)] = _value(lot)
    return json.dumps(said).encode()


def _pairs(lot: random.Random, ids: list[str]) -> list[tuple[str, str]]:
    found = [("prompt", PROMPT), ("video[id]", lot.choice(ids)), ("steps", "1")]
    for _ in range(lot.choice([0, 1, 2, 4])):
        name = lot.choice(_NAMES) + lot.choice(
            ["", "", "[]", "[0]", "[a]", "[a][b]", "[", "]", "[[]]", "[" * 50, "[id]"]
        )
        found.append((name, lot.choice(_WORDS)))
    lot.shuffle(found)
    return found


def form_body(parts: list[tuple[str, str | None, bytes]], boundary: str = "b") -> bytes:
    """A form of fields and files: names, file names and what they hold."""
    out = bytearray()
    for name, filename, held in parts:
        said = f'; filename="{filename}"' if filename is not None else ""
        out += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{said}\r\n\r\n'.encode() + held + b"\r\n"
    return bytes(out + f"--{boundary}--\r\n".encode())


def odd_request(lot: random.Random, ids: list[str]) -> Sent:
    """A valid request with changes to its method, address, headers or body."""
    ids = [*ids, "video_0", "video_" + "0" * 32, "\U0001f3ac", "x" * 200]
    target = lot.choice(_PATHS).replace("{id}", lot.choice(ids)).replace("{word}", lot.choice(_WORDS)[:300])
    if lot.random() < 0.4:
        names = ("limit", "after", "order", "variant", "index", "x")
        queries = [f"{lot.choice(names)}={lot.choice([*_WORDS, 'thumbnail', 'strip', 'asc'])[:300]}" for _ in range(2)]
        target += "?" + "&".join(queries)
    method = lot.choice(_METHODS) if lot.random() < 0.3 else lot.choice(["GET", "POST", "POST", "DELETE"])
    headers, body = list[tuple[str, str]](), b""
    if method not in ("GET", "HEAD", "DELETE") or lot.random() < 0.1:
        if lot.random() < 0.7:
            target = lot.choice([_PATHS[0], _PATHS[1], _PATHS[5].replace("{id}", lot.choice(ids))])
        how = lot.randrange(3)
        if how == 0:
            headers, body = [("Content-Type", "application/json")], _json_body(lot, ids)
        elif how == 1:
            pairs = [f"{name}={value}" for name, value in _pairs(lot, ids)]
            headers = [("Content-Type", "application/x-www-form-urlencoded")]
            body = lot.choice(["&", "&&", ";"]).join(pairs).encode("utf-8", "surrogatepass")
        else:
            parts = [(name, None, value.encode("utf-8", "surrogatepass")) for name, value in _pairs(lot, ids)]
            headers, body = [("Content-Type", "multipart/form-data; boundary=b")], form_body(cast(Any, parts))
        if lot.random() < 0.4:
            held = bytearray(body)
            for _ in range(lot.choice([1, 2, 8])):
                change(held, lot, 0, max(1, len(held)), lot.random() < 0.4)
            body = bytes(held)
    for _ in range(lot.choice([0, 0, 1, 2])):
        headers.append(lot.choice(_HEADERS))
    return Sent(method, target, headers, body)
