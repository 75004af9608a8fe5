"""What the service refuses, one row each: the request, its status and its code; and what `opensama serve` refuses.

`test_serve.py` sends each request to a running service and holds docs/bad-requests.md to what comes back; `make docs`
writes that page anew:

    python -m tests.apps.bad_requests docs/bad-requests.md
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import av
import httpx2 as httpx
import numpy as np

from opensama.media.video_io import write_video
from opensama.values import Video
from tests.apps.bad_batch import Place
from tests.apps.serving import Service, serving, settings_for
from tests.pipeline.conftest import moving_picture

PAGE = """# Requests that are refused

Each of these was sent to a running `opensama serve` (of 1 MB, 2 s, 20 frames, 128x128 pixels and 4 streams at most, so
that small files do), and this is what it answered, as `error.message`. Nothing stays of a request that is refused.

| what | status | code | what is said |
|---|---|---|---|
"""
LIMITS = {"max_upload": 1, "max_seconds": 2, "max_pixels": 128 * 128, "max_frames": 20, "max_streams": 4}
PROMPT = "Make the ball red."
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAEAAAAAwCAAAAACEICPDAAAAJ0lEQVR42u3MMREAAAgEoNf+nTWEmwcBqMlNRyAQ"
    "CAQCgUAgEDwNFnjTAV+xE6eAAAAAAElFTkSuQmCC"
)


@dataclass(frozen=True)
class Request:
    """One request: `owner` is whose key it has, nobody's where it is empty."""

    what: str
    status: int
    code: str
    method: str
    address: str
    values: Callable[[bytes], dict[str, Any]]
    owner: str = "alice"


def form(video: Callable[[bytes], bytes] | None = lambda good: good, more: str = "", **values: Any) -> Any:
    """An edit as a form; `video` makes the file of a good one, and `more` is another file's field."""

    def given(good: bytes) -> dict[str, Any]:
        files = {} if video is None else {"video": ("a.mp4", video(good))}
        files |= {more: ("b", b"x")} if more else {"none": (None, "")}
        return {"data": {"prompt": PROMPT, "anyway": "true"} | values, "files": files}

    return given


def said(**values: Any) -> Any:
    """An edit as JSON."""
    return lambda good: {"json": {"prompt": PROMPT} | values}


def film(width: int, height: int, frames: int) -> Callable[[bytes], bytes]:
    """A black film of that size."""

    def made(good: bytes) -> bytes:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "a.mp4"
            write_video(Video.from_frames(np.zeros((frames, height, width, 3), np.uint8), 8), path)
            return path.read_bytes()

    return made


def of_streams(number: int) -> Callable[[bytes], bytes]:
    """A film in so many streams of one frame each."""

    def made(good: bytes) -> bytes:
        held = io.BytesIO()
        with av.open(held, "w", "matroska") as out:
            streams = [out.add_stream("mpeg4", 8, width=16, height=16) for _ in range(number)]
            for stream in cast(list[av.VideoStream], streams):
                frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), "rgb24")
                out.mux([*stream.encode(frame), *stream.encode(None)])
        return held.getvalue()

    return made


def body(content: bytes, kind: str) -> Any:
    return lambda good: {"content": content, "headers": {"Content-Type": kind}}


def _edit(what: str, code: str, values: Any, status: int = 400) -> Request:
    return Request(what, status, code, "POST", "/v1/videos/edits", values)


def _upload(what: str, code: str, data: dict[str, str], more: str = "", video: bytes | None = None) -> Request:
    def values(good: bytes) -> dict[str, Any]:
        files = {"video": ("a.mp4", video or good)} | ({more: ("b", good)} if more else {})
        return {"data": data, "files": files}

    return Request(what, 400, code, "POST", "/v1/videos/uploads", values)


def _get(what: str, status: int, code: str, address: str, owner: str = "alice", **values: Any) -> Request:
    return Request(what, status, code, "GET", address, lambda good: values, owner)


REQUESTS = [
    _edit("no video", "invalid_value", form(None)),
    _edit("no prompt", "invalid_value", form(prompt=" ")),
    _edit("a setting that there is none of", "invalid_value", form(stepz="3")),
    _edit("a word for a number", "invalid_value", form(steps="many")),
    _edit("a number out of range", "invalid_value", form(steps="0")),
    _edit("more steps than may be", "invalid_value", form(steps="5000")),
    _edit("more variants than may be", "invalid_value", form(n="9")),
    _edit("a model that is not served", "model_not_found", form(model="../../etc")),
    _edit("a model that is no name", "model_not_found", said(video="data:;base64,AAAA", model={"id": 3})),
    _edit("a box outside the picture", "invalid_media", form(box="0,0,500,9")),
    _edit("a webhook that nobody has allowed", "invalid_value", form(webhook="https://example.org/x")),
    _edit("frames backwards", "invalid_media", form(span="4:2")),
    _edit("a codec of another kind of file", "invalid_media", form(codec="prores")),
    _edit("transparency of a video without", "invalid_media", form(alpha="keep")),
    _edit("extras that are no JSON", "invalid_value", form(extra_body="{broken")),
    _edit("a file that is of no use", "invalid_value", form(more="weights")),
    _edit("an empty file", "invalid_media", form(lambda good: b"")),
    _edit("an archive", "invalid_media", form(lambda good: b"PK\x03\x04" + bytes(99))),
    _edit("a list of addresses", "invalid_media", form(lambda good: b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hosts\n")),
    _edit("a video that is cut off", "invalid_media", form(lambda good: good[:700])),
    _edit("a video with damaged frames", "invalid_media", form(lambda good: good[:1500] + bytes(len(good) - 1500))),
    _edit("a mask that is no picture", "invalid_media", form(mask="data:;base64,AAAA")),
    _edit("a server that is to split the prompt", "invalid_value", form(split="http://127.0.0.1:1/v1")),
    _edit("a region of a single edit as a path", "invalid_value", form(split="rules", regions="1:/etc/passwd")),
    _edit("a region for an edit that is not there", "invalid_value", form(split="rules", regions="2:0,0,8,8")),
    _edit("a mask for an edit that is not there", "invalid_value", form(**{"split": "rules", "mask-2": PIXEL})),
    _edit("a frame of a mask that is no picture", "invalid_media", said(mask={"url": "data:;base64,AAAA", "frame": 1})),
    _edit("too long", "too_long", form(film(8, 8, 17))),
    _edit("too many frames", "too_long", form(film(8, 8, 21))),
    _edit("too large frames", "too_many_pixels", form(film(256, 128, 1))),
    _edit("too many streams", "too_many_streams", form(of_streams(5))),
    _edit("too many bytes", "too_large", form(lambda good: bytes(3 << 20)), 413),
    _edit("a body that is no JSON", "invalid_value", body(b"{", "application/json")),
    _edit("JSON that is no object", "invalid_value", body(b"[]", "application/json")),
    _edit("a body of another kind", "invalid_value", body(b"x", "text/plain")),
    _edit("a form that is damaged", "invalid_value", body(b"--c\r\n", "multipart/form-data; boundary=b")),
    _edit("a form that is cut off", "invalid_value", body(
        b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nx', "multipart/form-data; boundary=b")),
    _edit("an address in place of a file", "invalid_value", said(video="https://example.org/a.mp4")),
    _edit("a data address that is no base64", "invalid_value", said(video="data:video/mp4;base64,%")),
    _edit("a video that there is none of", "not_found", said(video={"id": "video_0"}), 404),
    _edit("an output that is no number", "invalid_value", said(video={"id": "video_0", "index": "last"})),
    _edit("a frame that is no number", "invalid_value", said(video={"id": "video_0", "frame": -1})),
    _upload("an upload with settings", "invalid_value", {"prompt": PROMPT}),
    _upload("an upload with a mask", "invalid_value", {}, "mask"),
    _upload("an upload of an archive", "invalid_media", {}, video=b"PK\x03\x04" + bytes(99)),
    _get("a job that there is none of", 404, "not_found", "/v1/videos/video_0"),
    _get("a path in place of an id", 404, "not_found", "/v1/videos/..%2f..%2fjobs.sqlite3"),
    _get("a page of no length", 400, "invalid_value", "/v1/videos?limit=0"),
    _get("a page behind nothing", 404, "not_found", "/v1/videos?after=video_0"),
    Request("a method that is not taken", 405, "method_not_allowed", "PUT", "/v1/videos", lambda good: {}),
    _get("no key", 401, "invalid_api_key", "/v1/videos", ""),
    _get("an unknown key", 401, "invalid_api_key", "/v1/videos", "mallory"),
    _get("a page of another site", 403, "foreign_origin", "/v1/videos", headers={"Origin": "http://evil.example"}),
]  # fmt: skip


def page(told: list[tuple[Request, str]]) -> str:
    """The rows with what was said, as the page for people."""
    return PAGE + "".join(
        f"| {row.what} | {row.status} | `{row.code}` | {sentence.replace('|', '/')} |\n" for row, sentence in told
    )


def sentence_of(text: str) -> str:
    return json.loads(text)["error"]["message"]


def answers(service: Service, video: bytes) -> Iterator[tuple[Request, httpx.Response]]:
    """What a service answers that has the limits above."""
    for row in REQUESTS:
        yield row, service.of(row.owner).request(row.method, row.address, **row.values(video))


def main() -> None:
    from tests.apps.bad_input import save_model

    with TemporaryDirectory() as name:
        model, clip = Path(name) / "model", Path(name) / "clip.mp4"
        save_model(model)
        write_video(Video.from_frames(moving_picture(), 8), clip)
        with serving(settings_for(Path(name) / "service", model, **LIMITS), "alice") as service:
            told = [(row, sentence_of(answer.text)) for row, answer in answers(service, clip.read_bytes())]
    Path(sys.argv[1]).write_text(page(told))


# --- the command


def serve(*options: str) -> Callable[[Place], list[str]]:
    """Arguments of `opensama serve`, `{files}` being the rows' folder."""
    return lambda at: ["serve", "--folder", f"{at.files}/served", *(one.format(files=at.files) for one in options)]


COMMANDS: list[tuple[str, Callable[[Place], list[str]], int, str, str]] = [
    ("an address that others reach, without keys", serve("--host", "0.0.0.0"), 2, "", ""),
    ("a file of keys that is not there", serve("--keys", "{files}/none.txt"), 2, "", ""),
    ("a line that is no key", serve("--key", "alice:secret"), 2, "", ""),
    ("a key that no file is to hold", serve("--new-key", "alice"), 2, "", ""),
    ("the page for others, without keys", lambda at: ["web", "--host", "0.0.0.0"], 2, "", ""),
    ("a model that cannot be served", serve("--model", "tinny"), 2, "", ""),
    ("a port beyond all", serve("--port", "70000"), 2, "", ""),
    ("an address that is not this machine's", serve("--host", "192.0.2.1", "--key", "a:" + "0" * 64), 2, "", ""),
    ("a limit of nothing", serve("--queue", "0"), 2, "", ""),
    ("a webhook without TLS", serve("--webhook", "http://example.org/x"), 2, "", ""),
    ("a webhook to this machine", serve("--webhook", "https://127.0.0.1/x"), 2, "", ""),
    ("no time for a job", serve("--job-seconds", "0"), 2, "", ""),
    ("a queue in a file's place", lambda at: ["serve", "--port", "0", "--folder", f"{at.files}/clip.mp4"], 2, "", ""),
]


if __name__ == "__main__":
    main()
