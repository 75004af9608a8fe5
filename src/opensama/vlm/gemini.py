"""A model behind a Gemini-style server: `models/NAME:generateContent`, pictures inline, the key in a header.

The address ends in the version, as https://generativelanguage.googleapis.com/v1beta does; the same host's `/openai`
address speaks chat completions and is asked as any other server. The key is in GEMINI_API_KEY.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from http import HTTPStatus
from typing import TypedDict

from opensama.values import UserError
from opensama.vlm.answer import check_answer, replace_surrogates
from opensama.vlm.client import RemoteVlm, TransientError, jpeg_base64, retry_after
from opensama.vlm.question import Question, VlmFailed, VlmRefused

ADDRESS = re.compile(r"/v\d+(?:alpha|beta)\d*/?$")
STOPPED = ("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY", "LANGUAGE")
"""Reasons to end that are verdicts on what was asked."""
RETRY_DELAY = re.compile(r'"retryDelay":\s*"(\d+(?:\.\d+)?)s"')


def speaks_gemini(url: str) -> bool:
    """Whether an address is one of this kind: its last part is a version such as v1beta."""
    return ADDRESS.search(url) is not None


@dataclass(frozen=True)
class Response:
    """What came back: a status of HTTP, and the body as text."""

    status: int
    text: str
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def reason(self) -> str:
        return HTTPStatus(self.status).phrase if self.status in set(HTTPStatus) else str(self.status)


class _Part(TypedDict, total=False):
    text: str
    thought: bool


class _Content(TypedDict, total=False):
    parts: list[_Part]


class _Candidate(TypedDict, total=False):
    content: _Content | None
    finishReason: str


class _Feedback(TypedDict, total=False):
    blockReason: str


class GeminiReply(TypedDict, total=False):
    """The fields of a reply that are read."""

    promptFeedback: _Feedback | None
    candidates: list[_Candidate] | None
    usageMetadata: dict[str, object]


class GeminiVlm(RemoteVlm):
    """`generateContent` with frames as images."""

    protocol = "Gemini's generateContent"
    key_variable = "GEMINI_API_KEY"

    def _model_name(self, model: str | None) -> str:
        if not model:
            raise UserError(f"Say which model of {self.url} is to be asked, such as gemini-2.5-pro.")
        return model.removeprefix("models/")

    def _attempt(self, question: Question) -> str:
        from http.client import HTTPException

        try:
            response = self._post(json.dumps(body_of(question)).encode())
        except (OSError, HTTPException) as error:  # time-outs, too
            raise TransientError(str(error) or type(error).__name__) from error
        if response.status != HTTPStatus.OK:
            raise self._status_error(response)
        return self._answer(response, question.max_tokens)

    def _post(self, body: bytes) -> Response:
        from urllib.error import HTTPError
        from urllib.request import Request, urlopen

        headers = {"Content-Type": "application/json", "x-goog-api-key": self._key}
        request = Request(f"{self.url}/models/{self.name}:generateContent", body, headers)
        try:
            with urlopen(request, timeout=self.timeout) as answer:
                return Response(answer.status, answer.read().decode("utf-8", "replace"), _lowered(answer.headers))
        except HTTPError as error:
            with error:
                return Response(error.code, error.read().decode("utf-8", "replace"), _lowered(error.headers))

    def _answer(self, response: Response, limit: int) -> str:
        try:
            reply: GeminiReply = json.loads(response.text)
            blocked = (reply.get("promptFeedback") or {}).get("blockReason")
            candidates = reply.get("candidates") or []
            if not candidates and not blocked and "usageMetadata" not in reply:
                raise self._no_such_server()
            ended = candidates[0].get("finishReason", "") if candidates else ""
            parts = (candidates[0].get("content") or {}).get("parts") or [] if candidates else []
            text = "".join(part.get("text", "") for part in parts if not part.get("thought"))
        except (ValueError, AttributeError, TypeError) as error:
            if isinstance(error, UserError):
                raise
            raise self._no_such_server() from error
        if blocked or ended in STOPPED:
            raise VlmRefused(f"the server stopped the answer ({blocked or ended})")
        if ended not in ("STOP", "MAX_TOKENS", ""):
            raise VlmFailed(f"the server stopped the answer ({ended})", replace_surrogates(text))
        return check_answer(text, cut=ended == "MAX_TOKENS", limit=limit, ended=ended or "no candidate")

    def _status_error(self, response: Response) -> Exception:
        status = response.status
        try:
            error: dict[str, object] = json.loads(response.text).get("error") or {}
            said = replace_surrogates(" ".join(str(error.get("message") or response.reason).split())[:300])
        except (ValueError, AttributeError):
            said = response.reason
        wait = RETRY_DELAY.search(response.text)
        return self._error_of(
            status,
            said,
            bad_key="API key" in said,
            quota=re.search(r"billing|per day|PerDay", response.text) is not None,
            retry_after=float(wait[1]) if wait else retry_after(response.headers),
        )

    def _no_such_model(self, said: str) -> UserError:
        return UserError(f"{self.url} has no model {self.name!r} ({said}): check the address and the name.")


def _lowered(headers: Message) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def body_of(question: Question) -> dict[str, object]:
    """The question as Gemini's contents, images inline where the text shows them."""
    parts: list[dict[str, object]] = []
    for part in question.parts():
        if isinstance(part, str):
            parts.append({"text": part})
        else:
            parts.append({"inlineData": {"mimeType": "image/jpeg", "data": jpeg_base64(part)}})
    settings = {"temperature": question.temperature, "maxOutputTokens": question.max_tokens}
    system = {"systemInstruction": {"parts": [{"text": question.system}]}} if question.system else {}
    return {"contents": [{"role": "user", "parts": parts}], "generationConfig": settings, **system}
