"""A server that speaks chat completions over HTTP and judges by the pixels that it receives.

    with ChatServer() as server:                     # answers as `pixel_judge`
        open_vlm(server.url, "pixels")
    with ChatServer(lambda asked: '{"caption": "..."}') as server: ...

`server.asked` holds what was asked, images decoded. `server.faults` are answered first, one a request: a `Fault`.
"""

from __future__ import annotations

import base64
import io
import json
import re
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Asked:
    """One question as it came over the wire."""

    body: dict[str, Any]
    parts: list[str | np.ndarray] = field(default_factory=list)
    system: str = ""

    @property
    def text(self) -> str:
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def images(self) -> list[np.ndarray]:
        return [part for part in self.parts if not isinstance(part, str)]

    @property
    def groups(self) -> list[list[np.ndarray]]:
        """Images that follow each other without text between them."""
        out: list[list[np.ndarray]] = []
        before: str | np.ndarray = ""
        for part in self.parts:
            if not isinstance(part, str):
                if isinstance(before, str):
                    out.append([])
                out[-1].append(part)
            before = part
        return out


@dataclass(frozen=True)
class Fault:
    """An answer that is none: an HTTP status, or with status 0 a connection that is cut."""

    status: int = 500
    message: str = "out of order"
    code: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    param: str | None = None


@dataclass(frozen=True)
class Ended:
    """An answer with another reason to end than `stop`, or with a refusal."""

    text: str | list[dict[str, Any]] | None
    finish: str = "stop"
    refusal: str | None = None
    more: dict[str, Any] = field(default_factory=dict)  # fields of the message


@dataclass(frozen=True)
class Body:
    """A whole body, sent as it stands."""

    content: Any
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()


def pixel_judge(asked: Asked) -> str:
    """The marks that the question wants, by what its two groups of pictures look like; order matters."""
    wanted = re.findall(r'"(\w+)": <mark>', asked.text)
    if not wanted:
        return "yes"
    first, second = (np.stack([_tiny(image) for image in group]) for group in asked.groups)
    count = min(len(first), len(second))
    first, second = first[:count], second[:count]
    change = float(np.abs(first - second).mean())
    marks = {
        "instruction": change / 0.01,
        "quality": _detail(second) / max(_detail(first), 1e-6),
        "preservation": 1 - change / max(float(first.std()), 1e-6) / 2,
        "motion": _together(first, second),
    }
    scores = {name: round(1 + 9 * float(np.clip(marks[name], 0, 1)), 2) for name in wanted}
    return json.dumps(scores | {"reason": f"mean change {change:.4f} over {count} frames"})


def _tiny(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((64, 36), Image.Resampling.BOX), np.float64) / 255


def _detail(frames: np.ndarray) -> float:
    return float(np.abs(np.diff(frames, axis=1)).mean() + np.abs(np.diff(frames, axis=2)).mean())


def _together(edited: np.ndarray, source: np.ndarray) -> float:
    """How alike the changes in time are; more of them in the edited clip count against it, fewer do not."""
    if len(edited) < 2:
        return 1.0
    a, b = (np.abs(np.diff(clip, axis=0)).max(axis=3) for clip in (edited, source))
    if a.std() < 1e-9 or b.std() < 1e-9:
        return float(a.std() < 1e-9 and b.std() < 1e-9)
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1] * min(1.0, b.mean() / a.mean()))


class ChatServer:
    """Listens on a free port while its block runs."""

    def __init__(
        self,
        answer: Callable[[Asked], str | Ended | Fault | Body] = pixel_judge,
        *,
        key: str | None = None,
        models: tuple[str, ...] = ("pixels",),
    ) -> None:
        self.answer, self.key, self.models = answer, key, models
        self.asked: list[Asked] = []
        self.faults: deque[Fault | Body] = deque()
        self._lock = threading.Lock()
        self._http = _Http(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def note(self, asked: Asked) -> Fault | Body | None:
        with self._lock:
            self.asked.append(asked)
            return self.faults.popleft() if self.faults else None

    @property
    def questions(self) -> list[Asked]:
        """Those with pictures."""
        return [asked for asked in self.asked if asked.images]


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no matter."""


def _handler(server: ChatServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/v1/models":
                self.send({"object": "list", "data": [_model(name) for name in server.models]})
            else:
                self.fail(Fault(404, "not found"))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != "/v1/chat/completions":
                return self.fail(Fault(404, "not found"))
            if server.key is not None and self.headers.get("Authorization") != f"Bearer {server.key}":
                return self.fail(Fault(401, "incorrect API key provided", "invalid_api_key"))
            if body["model"] not in server.models:
                return self.fail(Fault(404, f"the model {body['model']} does not exist", "model_not_found"))
            asked = read(body)
            answer = server.note(asked) or server.answer(asked)
            if isinstance(answer, Fault):
                return self.fail(answer)
            if isinstance(answer, Body):
                return self.send(answer.content, answer.status, answer.headers)
            ended = answer if isinstance(answer, Ended) else Ended(answer)
            message = {"role": "assistant", "content": ended.text, "refusal": ended.refusal} | ended.more
            choice = {"index": 0, "message": message, "finish_reason": ended.finish}
            self.send(
                {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]}
            )
            return None

        def fail(self, fault: Fault) -> None:
            if not fault.status:
                self.close_connection = True
                self.connection.close()
                return
            error = {"message": fault.message, "type": None, "code": fault.code, "param": fault.param}
            self.send({"error": error}, fault.status, fault.headers)

        def send(self, content: Any, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    return Handler


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "tests"}


def read(body: dict[str, Any]) -> Asked:
    """A request's messages, images decoded."""
    parts: list[str | np.ndarray] = []
    system = ""
    for message in body["messages"]:
        content = message["content"]
        if message["role"] == "system":
            system = content
            continue
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part["type"] == "text":
                parts.append(part["text"])
            else:
                head, _, data = part["image_url"]["url"].partition(",")
                assert head == "data:image/jpeg;base64"
                parts.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")))
    return Asked(body, parts, system)
