"""A server that speaks `generateContent`, in front of the same answers as `ChatServer`'s."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections import deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import numpy as np
from PIL import Image

from tests.curation.server import Asked

Reply = tuple[int, dict[str, Any]]


class GeminiServer:
    """Listens on a free port while its block runs; `replies` are sent first, whatever is asked."""

    def __init__(self, answer: Callable[[Asked], str], key: str = "k", model: str = "gemini-test") -> None:
        self.answer, self.key, self.model = answer, key, model
        self.asked: list[Asked] = []
        self.replies: deque[Reply] = deque()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, content = outer.reply(self.path, self.headers.get("x-goog-api-key"), body)
                data = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1beta"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def reply(self, path: str, key: str | None, body: dict[str, Any]) -> Reply:
        if key != self.key:
            return 400, {"error": {"code": 400, "message": "API key not valid", "status": "INVALID_ARGUMENT"}}
        if path != f"/v1beta/models/{self.model}:generateContent":
            return 404, {"error": {"code": 404, "message": "model is not found", "status": "NOT_FOUND"}}
        parts: list[str | np.ndarray] = []
        for part in body["contents"][0]["parts"]:
            if "text" in part:
                parts.append(part["text"])
            else:
                data = base64.b64decode(part["inlineData"]["data"])
                parts.append(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
        system = body.get("systemInstruction", {"parts": [{"text": ""}]})["parts"][0]["text"]
        asked = Asked(body, parts, system)
        self.asked.append(asked)
        if self.replies:
            return self.replies.popleft()
        said = [{"text": "let me see", "thought": True}, {"text": self.answer(asked)}]
        return 200, {"candidates": [{"content": {"parts": said}, "finishReason": "STOP"}], "usageMetadata": {}}
